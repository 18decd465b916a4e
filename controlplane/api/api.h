/* SPDX-License-Identifier: Apache-2.0 */
/* The control plane's HTTP API without HTTP: a request in, a status and a JSON body out. Design section 4.
 * Uses the store and logs; the caller's job is the transport. Several threads may answer at a time, each with
 * a store of its own. */
#ifndef CP_API_H
#define CP_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/secret.h"
#include "controlplane/access/caller.h"
#include "controlplane/attest/maa_keys.h"
#include "controlplane/attest/roots.h"
#include "controlplane/api/limits.h"
#include "controlplane/api/request.h"
#include "controlplane/blob/proof.h"
#include "controlplane/blob/sas.h"
#include "controlplane/identity/authority.h"
#include "controlplane/identity/peers.h"
#include "controlplane/keys/report_keys.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/purchase/purchases.h"
#include "controlplane/store/store.h"

/* How the client showed who it is on the TLS layer, before the CAs of --client-ca. */
enum cp_client_auth {
    CP_CLIENT_NOT_ASKED, /* the server runs without --client-ca: contracts say what they want */
    CP_CLIENT_NO_CERT,
    CP_CLIENT_UNTRUSTED,
    CP_CLIENT_VERIFIED,
};

/* What all requests share. */
struct cp_api {
    struct cp_keyring *keyring;
    struct cp_access access;
    struct cp_sas sas;
    const struct cp_authority *machines; /* gives machines their certificates; NULL: nobody does */
    uint64_t certificate_s;              /* for so long; 0: CP_CERTIFICATE_S */
    const char *client_ca;               /* of --client-ca and --client-auth, PEM; NULL: none */
    struct tb_http_tls storage_tls;      /* to read blobs */
    const struct cp_attest_roots *attest_roots;
    struct cp_maa_keys *maa_keys;           /* NULL: none is known */
    uint8_t challenge_secret[TB_KEY_BYTES]; /* of challenges for evidence: cp_store_secret() */
    struct cp_limits *limits;               /* NULL: none */
    struct cp_peers *peers;                 /* that are known; NULL: none is */
    struct cp_report_keys *report_keys;     /* the same */
    struct cp_purchases *purchases;         /* NULL: no notifications of managed applications */
    /* cp_proof_check(), or what a test puts in its place */
    enum cp_proof (*prove)(const struct cp_claim *c, const struct tb_http_tls *tls,
                           char err[static CP_PROOF_ERR_MAX]);
};

#define CP_CERTIFICATE_S (7 * 86400)
/* A machine that was off for so long behind the end of its certificate comes back by itself. */
#define CP_CERTIFICATE_LATE_S (90 * 86400)

#define CP_QUERY_MAX 16
struct cp_query {
    size_t n; /* more than CP_QUERY_MAX: those that are here, and others */
    struct {
        const char *name, *value;
    } v[CP_QUERY_MAX];
};

struct cp_request {
    const char *method, *path;
    const char *authorization;              /* header value, NULL: none */
    const char *idempotency_key, *if_match; /* headers, NULL: none */
    const struct cp_query *query;           /* NULL: none */
    const char *sig;                        /* parameter `sig` of the query, NULL: none */
    const char *peer;                       /* address, for the log */
    enum cp_client_auth client_auth;
    const char *client_name;      /* common name of the verified certificate, NULL: none */
    const struct cp_peer *client; /* what it showed, NULL: nothing */
    const char *body;
    size_t body_len;
    uint64_t now_us;
};

struct cp_reply {
    unsigned status;
    char *body;               /* heap, NUL-terminated; may hold a key. NULL: out of memory */
    char allow[48];           /* Allow header of a 405, else "" */
    bool challenge;           /* 401 for want of the bearer token: add WWW-Authenticate */
    unsigned retry_s;         /* 429, 503: Retry-After; 0: none */
    const char *content_type; /* NULL: JSON */
    char etag[32];            /* "": none */
    bool replayed;            /* Idempotent-Replay: it is the answer of an earlier request */
};
void cp_reply_clear(struct cp_reply *r); /* wipes the body */
#define _cleanup_reply_ _cleanup_(cp_reply_clear)

/* Whether this client asks too often: true when *ret is the answer. Once for each request, before the
 * others. */
bool cp_api_limit(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret);

/* Decides on everything but the body, so that no client uploads one in vain: true when *ret is already the
 * answer. Needs no store. */
bool cp_api_refuse(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret);

/* Answers a whole request, cp_api_refuse() included. */
void cp_api_answer(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                   struct cp_reply *ret);

/* The answer to a body over CP_BODY_MAX. */
void cp_api_too_large(struct cp_reply *ret);
/* 503, for a server that cannot take the request now. */
void cp_api_unavailable(struct cp_reply *ret, const char *message);

#endif
