/* SPDX-License-Identifier: Apache-2.0 */
/* What one request on the public listener is while it lasts; shared by forward.c (libmicrohttpd's side) and exchange.c
 * (the runtime's side and the books). */
#ifndef TB_PROXY_EXCHANGE_H
#define TB_PROXY_EXCHANGE_H

#include <openssl/evp.h>

#include "proxy/usage/rewrite.h"
#include "proxy/clients.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/credentials.h"
#include "proxy/gate/key_accounts.h"
#include "proxy/http/headers.h"
#include "proxy/http/error.h"
#include "proxy/usage/inflate.h"
#include "proxy/usage/usage_parser.h"
#include "proxy/server.h"

struct tb_exchange {
    struct tb_server *server;
    struct tb_client *client;
    struct MHD_Connection *mhd;
    char *target, method[16];
    size_t path_len, head_bytes;     /* of the request, as it fills the connection's pool */
    bool begun;                      /* the handler has seen the head */
    bool health;                     /* one of our own endpoints: no audit */
    bool dropped;                    /* not even a slot for a refusal's record */
    bool suspended;                  /* in libmicrohttpd's sense */
    bool upload_ended, replied, cut; /* cut: the runtime broke off in mid-answer */
    bool preflight;                  /* answered by us, 204 */
    bool forwarded;                  /* the runtime has been asked, or was about to be */
    struct tb_http_error error;      /* status 0: none */
    struct tb_credentials credentials;
    struct tb_cors_request cors; /* borrowed from the head */
    struct tb_call *call;        /* NULL when refused, failed or cancelled */
    EVP_MD_CTX *sha;
    char sha256[65];
    /* tokens: the body on its way to the runtime, and the answer on its way back (metering.c) */
    /* The body passes through the rewrite; its announced length grows by TB_REWRITE_GROWTH; it has come to its end. */
    bool edits, grows, rewrite_ended;
    bool metered, answer_read; /* the answer passes through the parser; it was read to its end */
    struct tb_rewrite rewrite;
    struct tb_usage_parser parser;
    struct tb_inflate *inflate; /* of an answer that is compressed; or NULL */
    struct tb_in_flight_slot
        *slot; /* what it cost so far, for the next process should this one be killed; or NULL */
    struct tb_buf to_runtime, to_client;
    size_t to_runtime_pos, to_client_pos; /* what has left of them */
    /* the key's account and what of it is held for this request (quota.c) */
    struct tb_key_account *account;   /* NULL without keys */
    bool entered, reserved, no_retry; /* no_retry: asking again will not help */
    struct tb_reservation reservation;
    bool claims;                  /* it fetches a response that was written in the background */
    struct tb_key_account *payer; /* whose tokens those are; NULL: nobody's, or the account's own */
    uint64_t cap;                 /* limit of tokens to write into the request; 0: none */
    bool answered;                /* by the runtime */
    uint64_t start_us, start_realtime_us, bytes_in, bytes_out;
    int status; /* of the answer queued */
    char request_id[TB_REQUEST_ID_MAX + 1], key_name[TB_API_KEY_NAME_MAX + 1];
};

/* NULL on ENOMEM. */
struct tb_exchange *tb_exchange_new(struct tb_server *s, const char *target, struct MHD_Connection *c);
/* Takes an audit slot, reads the head, decides, and sends the head upstream or sets ex->error. *ret_close: nothing after the
 * head may be read. -ECONNABORTED: close without an answer; -ENOMEM. */
int tb_exchange_begin(struct tb_exchange *ex, const char *method, bool *ret_close);
/* Takes body bytes: hashes, counts, forwards. Returns how many; fewer than n: wait. -EFBIG: not worth reading on. */
ssize_t tb_exchange_upload(struct tb_exchange *ex, const char *p, size_t n);
/* False: wait, then call again. */
bool tb_exchange_upload_end(struct tb_exchange *ex);
/* Turns a failed call into ex->error. */
void tb_exchange_check_call(struct tb_exchange *ex);
/* Stops the runtime's work. */
void tb_exchange_cancel(struct tb_exchange *ex);
/* Lets libmicrohttpd go on with it. */
void tb_exchange_resume(struct tb_exchange *ex);
/* Writes the audit record and the metrics and frees it. */
void tb_exchange_end(struct tb_exchange *ex, enum MHD_RequestTerminationCode code);
/* The same for a request that libmicrohttpd refused before it had read its first line. */
void tb_exchange_unnamed(struct tb_server *s, const char *client, unsigned status);

#endif
