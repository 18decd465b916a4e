/* SPDX-License-Identifier: Apache-2.0 */
/* One bounded HTTP exchange over libcurl, and the settings every transfer of the product shares. */
#ifndef TB_HTTP_H
#define TB_HTTP_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_HTTP_RESPONSE_MAX (64 * 1024) /* design section 4: control plane bodies are capped */
#define TB_HTTP_ERR_MAX 320
#define TB_HTTP_LINE_MAX 2048

struct tb_http_tls {
    const char *ca_file;     /* NULL: the system's store */
    const char *client_cert; /* PEM, NULL: none */
    const char *client_key;
    bool allow_http; /* plain http:// permitted (TB_INSECURE_HTTP) */
    bool unverified; /* whoever answers: for a look at this machine's own port, which no secret goes to */
};

struct tb_http_request {
    const char *method; /* NULL: GET */
    const char *url;
    const char *const *headers; /* NULL-terminated "Name: value", or NULL */
    const void *body;           /* NULL: none */
    size_t body_len;
    size_t max_response;           /* 0: TB_HTTP_RESPONSE_MAX */
    uint64_t timeout_ms;           /* whole exchange; 0: 30000 */
    uint64_t connect_timeout_ms;   /* 0: 10000 */
    const struct tb_http_tls *tls; /* NULL: https only, system store */
    const char *unix_socket;       /* connect here instead of to the URL's host, or NULL */
    bool direct;                   /* whatever proxy the environment names */
    /* NULL, or set: false when it is certain that no byte of the request left this machine */
    bool *ret_reached;
};

struct tb_http_response {
    long status;
    char *body; /* NUL-terminated, never NULL on success */
    size_t len;
    int64_t retry_after_ms; /* -1: no header; both seconds and HTTP-date are understood */
    char *etag;             /* NULL: no header */
    char *location;         /* without its query; NULL: no header */
    uint64_t date_real_us;  /* of the Date header, and CLOCK_BOOTTIME when it came; 0: none */
    uint64_t date_boot_us;
};

/* Does one exchange, no retries. 0 when a complete response of any status came. Else a negative errno and a
 * reason in err that names the host and never the query: -ETIMEDOUT, -ECONNREFUSED (also unreachable, reset),
 * -EHOSTUNREACH (name does not resolve), -EKEYREJECTED (TLS: certificate not trusted, wrong name, handshake
 * failed), -EFBIG (body over the cap), -EPROTO (not HTTP, body cut), -EINVAL (bad URL, or http:// without
 * allow_http), -ENOMEM. Redirects are not followed: a 3xx is a status like any other. */
int tb_http_do(const struct tb_http_request *rq, struct tb_http_response *ret,
               char err[static TB_HTTP_ERR_MAX]);
void tb_http_response_clear(struct tb_http_response *r); /* wipes the body: it may hold a key */
#define _cleanup_http_response_ _cleanup_(tb_http_response_clear)

/* A private key that needs no passphrase: nobody is there to type one, and libcurl would ask the terminal. 0;
 * or -ENOKEY (encrypted), -EINVAL (not a PEM private key), or the errno of reading, with a reason that
 * follows the file's name. */
int tb_http_key_check(const char *path, char err[static TB_HTTP_ERR_MAX]);

/* For own transfer loops: protocols limited to http/https as tls allows, TLS >= 1.2, CA and client
 * certificate, no redirects, no signals, no proxy credentials, connect timeout, TCP keep-alive, 512 KiB
 * buffer, user agent. */
int tb_http_easy_init(CURL *c, const struct tb_http_tls *tls);
/* Whether the next transfer of c shows the client certificate of tls, if that has one. */
int tb_http_easy_identity(CURL *c, const struct tb_http_tls *tls, bool shown);
/* One header line as a string, for a callback of libcurl: without its line end; false when it has more than
 * TB_HTTP_LINE_MAX - 1 bytes or a NUL, and is passed over. */
bool tb_http_line(const char *data, size_t n, char out[static TB_HTTP_LINE_MAX]);
/* The value when the line is the header field of that name, without white space before it; NULL otherwise. */
const char *tb_http_field(const char *line, const char *name);
/* Scheme and host of a URL, without user, as far as they fit: where a redirect leads, for a message. "" for a
 * relative one. */
const char *tb_http_origin(const char *url, char *out, size_t size);
/* Maps a CURLcode to the errnos of tb_http_do() and a reason without the query. */
int tb_http_error(CURLcode code, const char *url, const char *curl_errbuf, char err[static TB_HTTP_ERR_MAX]);
/* The variable of the environment that names a proxy for https, or NULL: what a failure to connect may be
 * about. */
const char *tb_http_proxy_variable(void);
/* Retry-After header value -> ms; -1 when it is neither seconds nor a date. Capped at one hour. */
int64_t tb_http_retry_after_ms(const char *value);
/* 408, 429, 500, 502, 503, 504. */
bool tb_http_status_retryable(long status);

#endif
