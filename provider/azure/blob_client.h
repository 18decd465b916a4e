/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the Blob service on the wire: one prepared exchange for a multi loop, one blocking call with
 * retries, and what to tell people when the service says no. */
#ifndef TBPKG_AZURE_BLOB_CLIENT_H
#define TBPKG_AZURE_BLOB_CLIENT_H

#include <curl/curl.h>

#include "common/buf.h"
#include "provider/azure/auth.h"
#include "provider/azure/blob.h"
#include "provider/azure/xml.h"
#include "provider/cli/output.h"
#include "common/backoff.h"
#include "common/http.h"

#define BLOB_SHA256_HEX 64

struct blob_client {
    const struct blob_service *service;
    struct azure_auth *auth; /* NULL: anonymous */
    const struct tb_http_tls *tls;
    const char *container; /* for messages */
    unsigned retries;      /* further attempts of one request */
    unsigned stall_s;      /* a transfer that moves nothing for so long has failed */
};

/* An answer. Strings are empty when their header is absent. */
struct blob_reply {
    long status;
    char code[BLOB_CODE_MAX];       /* "ContainerNotFound" */
    char message[BLOB_MESSAGE_MAX]; /* the service's words */
    char request_id[48];
    char etag[128];
    char content_md5[BLOB_MD5_BASE64 + 1];
    char sha256[BLOB_SHA256_HEX + 1]; /* x-ms-meta-sha256 */
    int64_t content_length;           /* -1: unknown */
    int64_t retry_after_ms;           /* -1: none */
    char *body;                       /* blob_call() only; NUL-terminated */
    size_t len;
};
void blob_reply_clear(struct blob_reply *r);
#define _cleanup_blob_reply_ _cleanup_(blob_reply_clear)

/* One request on its way. Zero-initialise; the handle is kept from one request to the next. */
struct blob_exchange {
    CURL *curl;
    struct curl_slist *headers;
    char *url;
    char errbuf[CURL_ERROR_SIZE];
    struct tb_buf body;
};
/* Makes x->curl ready for curl_easy_perform() or a multi handle. rq's strings and body must stay until it is
 * done. */
int blob_exchange_prepare(const struct blob_client *c, const struct blob_request *rq, size_t max_body,
                          struct blob_exchange *x);
/* After the transfer: 0 and *ret (without body), whatever the status; or the errno of tb_http_error() and a
 * reason. */
int blob_exchange_finish(struct blob_exchange *x, CURLcode code, struct blob_reply *ret,
                         char err[static TB_HTTP_ERR_MAX]);
void blob_exchange_clear(struct blob_exchange *x);

/* true when the same request may succeed later: r is of blob_exchange_finish(). */
bool blob_retryable(int r, const struct blob_reply *reply);
/* Delay before attempt number b->attempt + 1. */
#define BLOB_BACKOFF_INIT                                                                                    \
    {                                                                                                        \
        .base_ms = 500, .cap_ms = 30000                                                                      \
    }

/* Performs the request, with c->retries further attempts, and renews a bearer token that is due or refused
 * (401). 0 with an answer of any status, or -errno and a reason. */
int blob_call(const struct blob_client *c, const struct blob_request *rq, size_t max_body,
              struct blob_reply *ret, char err[static TB_HTTP_ERR_MAX]);
/* The same on a connection that is kept in x. */
int blob_call_on(struct blob_exchange *x, const struct blob_client *c, const struct blob_request *rq,
                 size_t max_body, struct blob_reply *ret, char err[static TB_HTTP_ERR_MAX]);

/* Explains a failed exchange (r < 0: err is the reason, else the reply's status): one line each, remedy
 * possibly empty. */
struct blob_fault {
    char reason[TB_HTTP_ERR_MAX + BLOB_MESSAGE_MAX];
    char remedy[TB_HTTP_ERR_MAX];
    int rc; /* the exit code that says so */
};
void blob_explain(const struct blob_client *c, int r, const struct blob_reply *reply, const char *err,
                  struct blob_fault *ret);

#endif
