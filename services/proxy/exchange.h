/* SPDX-License-Identifier: Apache-2.0 */
/* What one request on the public listener is while it lasts. exchange.c says how it flows; its parts are
 * in request_forward.c (the head for the runtime), request_usage.c (tokens), request_limits.c (what its
 * key may use) and request_record.c (audit record, metrics). */
#ifndef TB_PROXY_EXCHANGE_H
#define TB_PROXY_EXCHANGE_H

#include <openssl/evp.h>

#include "proxy/usage/rewrite.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/credentials.h"
#include "proxy/gate/key_accounts.h"
#include "proxy/http/connection.h"
#include "proxy/http/error.h"
#include "proxy/http/headers.h"
#include "proxy/http/target.h"
#include "proxy/usage/inflate.h"
#include "proxy/usage/usage_parser.h"
#include "proxy/server.h"

struct tb_exchange {
    struct tb_server *server;
    struct tb_connection *connection;
    char *target;                /* normalised path and query; of a bad one what came; "-" of none */
    size_t path_len;             /* of target */
    char method[16];             /* "-" when the head could not be read */
    bool head_request;           /* the answer has no body, even when the rest of the head is malformed */
    bool health;                 /* one of our own endpoints: no audit */
    bool upload_ended;           /* the request's body is complete */
    bool upload_left;            /* ... but some of it has not gone to the runtime yet */
    bool replied;                /* the answer has begun */
    bool reply_ended;            /* all of it was handed to the connection */
    bool cut;                    /* the runtime broke off in mid-answer */
    bool preflight;              /* answered by us, 204 */
    bool forwarded;              /* the runtime has been asked, or was about to be */
    struct tb_http_error error;  /* status 0: none */
    struct tb_cors_request cors; /* points into cors_text */
    char *cors_text;
    struct tb_call *call; /* NULL when refused, failed or over */
    EVP_MD_CTX *sha;
    char sha256[65];
    /* tokens: the body on its way to the runtime, and the answer on its way back (request_usage.c) */
    bool edits; /* the body passes through the rewrite */
    bool grows; /* its announced length grows by TB_REWRITE_GROWTH */
    bool rewrite_ended;
    bool metered;     /* the answer passes through the parser */
    bool answer_read; /* ... and was read to its end */
    struct tb_rewrite rewrite;
    struct tb_usage_parser parser;
    struct tb_inflate *inflate; /* of an answer that is compressed; or NULL */
    /* what it cost so far, for the next process should this one be killed; or NULL */
    struct tb_in_flight_slot *slot;
    struct tb_buf to_runtime, to_client;
    size_t to_runtime_pos, to_client_pos; /* what has left of them */
    /* the key's account and what of it is held for this request (request_limits.c) */
    struct tb_key_account *account; /* NULL without keys */
    bool entered, reserved;
    bool no_retry; /* asking again will not help */
    struct tb_reservation reservation;
    bool claims;                  /* it fetches a response that was written in the background */
    struct tb_key_account *payer; /* whose tokens those are; NULL: nobody's, or the account's own */
    uint64_t cap;                 /* limit of tokens to write into the request; 0: none */
    bool answered;                /* by the runtime */
    uint64_t start_us, start_realtime_us, bytes_in, bytes_out;
    int status; /* of the answer */
    char request_id[TB_REQUEST_ID_MAX + 1], key_name[TB_API_KEY_NAME_MAX + 1];
};

/* What the public listener gives requests to; its arg is the struct tb_server. */
extern const struct tb_handler tb_exchange_handler;
/* When no request comes any more. */
void tb_exchange_free_spare(struct tb_server *s);

#endif
