/* SPDX-License-Identifier: Apache-2.0 */
#include "common/http.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/buf.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "common/version.h"

#define RETRY_AFTER_MAX_MS (3600 * 1000)

static void http_global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int tb_http_easy_init(CURL *c, const struct tb_http_tls *tls)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const char *protocols = tls && tls->allow_http ? "http,https" : "https";
    CURLcode e = CURLE_OK;

    pthread_once(&once, http_global_init);
#define SET(option, value) (e = e != CURLE_OK ? e : curl_easy_setopt(c, option, value))
    SET(CURLOPT_PROTOCOLS_STR, protocols);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_CONNECTTIMEOUT_MS, 10000L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, 512L * 1024);
    SET(CURLOPT_USERAGENT, TB_USER_AGENT);
    if (tls && tls->ca_file)
        SET(CURLOPT_CAINFO, tls->ca_file);
    if (tls && tls->unverified) {
        SET(CURLOPT_SSL_VERIFYPEER, 0L);
        SET(CURLOPT_SSL_VERIFYHOST, 0L);
    }
#undef SET
    return e == CURLE_OK ? tb_http_easy_identity(c, tls, true) : -ENOMEM;
}

int tb_http_easy_identity(CURL *c, const struct tb_http_tls *tls, bool shown)
{
    bool has = shown && tls && tls->client_cert;

    /* an encrypted key is an error, not a question on the terminal */
    if (curl_easy_setopt(c, CURLOPT_SSLCERT, has ? tls->client_cert : NULL) != CURLE_OK ||
        curl_easy_setopt(c, CURLOPT_SSLKEY, has ? tls->client_key : NULL) != CURLE_OK ||
        curl_easy_setopt(c, CURLOPT_KEYPASSWD, has ? "" : NULL) != CURLE_OK)
        return -ENOMEM;
    return 0;
}

static int http_on_passphrase(char *buf, int size, int writing, void *ctx)
{
    *(bool *)ctx = true;
    return -1;
}

int tb_http_key_check(const char *path, char err[static TB_HTTP_ERR_MAX])
{
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    bool encrypted = false;
    EVP_PKEY *key;

    if (!f) {
        snprintf(err, TB_HTTP_ERR_MAX, "%s", strerror(errno));
        return -errno;
    }
    key = PEM_read_PrivateKey(f, NULL, http_on_passphrase, &encrypted);
    ERR_clear_error();
    if (key) {
        EVP_PKEY_free(key);
        return 0;
    }
    snprintf(err, TB_HTTP_ERR_MAX, "%s",
             encrypted
                 ? "the private key is encrypted; write one without a passphrase: openssl pkey -in FILE "
                   "-out NEW"
                 : "is not a private key in PEM format");
    return encrypted ? -ENOKEY : -EINVAL;
}

static int http_errno(CURLcode code)
{
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_COULDNT_CONNECT:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
        return -ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return -EHOSTUNREACH;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return -EKEYREJECTED;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
        return -EINVAL;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    default:
        return -EPROTO;
    }
}

int tb_http_error(CURLcode code, const char *url, const char *curl_errbuf, char err[static TB_HTTP_ERR_MAX])
{
    const char *why = curl_errbuf && *curl_errbuf ? curl_errbuf : curl_easy_strerror(code);
    char where[160];

    tb_url_redact(url, where, sizeof(where));
    /* libcurl quotes a URL it cannot parse, SAS included. */
    if (code == CURLE_URL_MALFORMAT || strchr(why, '?'))
        why = curl_easy_strerror(code);
    snprintf(err, TB_HTTP_ERR_MAX, "%s: %s%s", where, why,
             code == CURLE_UNSUPPORTED_PROTOCOL
                 ? " (https:// is required; http:// needs TB_INSECURE_HTTP=true)"
                 : "");
    return http_errno(code);
}

const char *tb_http_proxy_variable(void)
{
    static const char *const names[] = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *value = getenv(names[i]);

        if (value && *value)
            return names[i];
    }
    return NULL;
}

int64_t tb_http_retry_after_ms(const char *value)
{
    uint64_t seconds;
    char digits[16];
    time_t when;

    value += strspn(value, " \t");
    snprintf(digits, sizeof(digits), "%.*s", (int)strcspn(value, " \t\r\n"), value);
    if (tb_uint_parse(digits, 0, UINT64_MAX, &seconds) == 0)
        return (int64_t)MIN(seconds, RETRY_AFTER_MAX_MS / 1000) * 1000;
    when = curl_getdate(value, NULL);
    if (when < 0)
        return -1;
    if ((uint64_t)when * TB_USEC_PER_SEC <= tb_now_realtime_us())
        return 0;
    return (int64_t)MIN(((uint64_t)when * TB_USEC_PER_SEC - tb_now_realtime_us()) / 1000,
                        (uint64_t)RETRY_AFTER_MAX_MS);
}

bool tb_http_status_retryable(long status)
{
    return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

struct http_exchange {
    struct tb_buf body; /* a secret; on the heap, as secret memory has a fixed size */
    int64_t retry_after_ms;
    char *etag, *location;
    uint64_t date_real_us, date_boot_us;
};

static void http_exchange_clear(struct http_exchange *x)
{
    tb_buf_free(&x->body);
    tb_freep(&x->etag);
    tb_freep(&x->location);
}

static size_t http_on_body(char *data, size_t one, size_t n, void *ctx)
{
    struct http_exchange *x = ctx;

    return tb_buf_append(&x->body, data, n) < 0 ? 0 : n;
}

bool tb_http_line(const char *data, size_t n, char out[static TB_HTTP_LINE_MAX])
{
    if (n >= TB_HTTP_LINE_MAX || memchr(data, '\0', n))
        return false;
    memcpy(out, data, n);
    out[n] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    return true;
}

const char *tb_http_field(const char *line, const char *name)
{
    size_t n = strlen(name);

    if (strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    return line + n + 1 + strspn(line + n + 1, " \t");
}

const char *tb_http_origin(const char *url, char *out, size_t size)
{
    const char *host = strstr(url, "://");

    tb_url_redact(host ? url : "", out, size);
    host = strstr(out, "://");
    if (host)
        out[(size_t)(host + 3 - out) + strcspn(host + 3, "/")] = '\0';
    return out;
}

static char *http_redacted(const char *url)
{
    char text[TB_HTTP_LINE_MAX];

    return strdup(tb_url_redact(url, text, sizeof(text)));
}

static size_t http_on_header(char *data, size_t one, size_t n, void *ctx)
{
    struct http_exchange *x = ctx;
    char line[TB_HTTP_LINE_MAX];
    const char *v;

    if (!tb_http_line(data, n, line))
        return n;
    if ((v = tb_http_field(line, "Retry-After"))) {
        x->retry_after_ms = tb_http_retry_after_ms(v);
    } else if ((v = tb_http_field(line, "ETag"))) {
        free(x->etag);
        x->etag = strdup(v);
    } else if ((v = tb_http_field(line, "Location"))) {
        free(x->location);
        x->location = http_redacted(v);
    } else if ((v = tb_http_field(line, "Date"))) {
        time_t date = curl_getdate(v, NULL);

        x->date_real_us = date > 0 ? (uint64_t)date * TB_USEC_PER_SEC : 0;
        x->date_boot_us = tb_now_boottime_us();
    }
    return n;
}

static void http_slist_freep(struct curl_slist **l)
{
    curl_slist_free_all(*l);
}

static void http_easy_freep(CURL **c)
{
    curl_easy_cleanup(*c);
}

static int http_request_setup(CURL *c, const struct tb_http_request *rq, struct curl_slist **headers)
{
    CURLcode e = CURLE_OK;

    for (const char *const *h = rq->headers; h && *h; h++) {
        struct curl_slist *more = curl_slist_append(*headers, *h);

        if (!more)
            return -ENOMEM;
        *headers = more;
    }
#define SET(option, value) (e = e != CURLE_OK ? e : curl_easy_setopt(c, option, value))
    SET(CURLOPT_URL, rq->url);
    SET(CURLOPT_TIMEOUT_MS, (long)(rq->timeout_ms ? rq->timeout_ms : 30000));
    if (rq->connect_timeout_ms)
        SET(CURLOPT_CONNECTTIMEOUT_MS, (long)rq->connect_timeout_ms);
    if (rq->body) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_len);
        SET(CURLOPT_POSTFIELDS, rq->body);
    }
    if (rq->method && strcmp(rq->method, "HEAD") == 0)
        SET(CURLOPT_NOBODY, 1L);
    else if (rq->method)
        SET(CURLOPT_CUSTOMREQUEST, rq->method);
    if (rq->direct)
        SET(CURLOPT_NOPROXY, "*");
    if (rq->unix_socket)
        SET(CURLOPT_UNIX_SOCKET_PATH, rq->unix_socket);
    SET(CURLOPT_HTTPHEADER, *headers);
#undef SET
    return e == CURLE_OK ? 0 : -ENOMEM;
}

/* pretransfer is the moment before the first byte is sent: after name, connection and TLS. */
static bool http_was_reached(CURL *c)
{
    curl_off_t at = 0;

    return curl_easy_getinfo(c, CURLINFO_PRETRANSFER_TIME_T, &at) != CURLE_OK || at > 0;
}

/* Hands over what came. The body is a string, also when it is empty. */
static int http_response_take(CURL *c, struct http_exchange *x, struct tb_http_response *ret)
{
    x->body.max = 0;
    if (tb_buf_reserve(&x->body, 1) < 0)
        return -ENOMEM;
    x->body.data[x->body.len] = '\0';
    *ret = (struct tb_http_response){.len = x->body.len,
                                     .retry_after_ms = x->retry_after_ms,
                                     .date_real_us = x->date_real_us,
                                     .date_boot_us = x->date_boot_us};
    ret->body = TAKE_PTR(x->body.data);
    ret->etag = TAKE_PTR(x->etag);
    ret->location = TAKE_PTR(x->location);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &ret->status);
    return 0;
}

int tb_http_do(const struct tb_http_request *rq, struct tb_http_response *ret,
               char err[static TB_HTTP_ERR_MAX])
{
    size_t max = rq->max_response ? rq->max_response : TB_HTTP_RESPONSE_MAX;
    _cleanup_(http_exchange_clear) struct http_exchange x = {.retry_after_ms = -1,
                                                             .body = {.max = max, .secret = true}};
    _cleanup_(http_slist_freep) struct curl_slist *headers = NULL;
    _cleanup_(http_easy_freep) CURL *c = curl_easy_init();
    char errbuf[CURL_ERROR_SIZE] = "", where[160];
    CURLcode code = CURLE_OUT_OF_MEMORY;

    if (rq->ret_reached)
        *rq->ret_reached = false;
    if (c && tb_http_easy_init(c, rq->tls) == 0 && http_request_setup(c, rq, &headers) == 0) {
        curl_easy_setopt(c, CURLOPT_ERRORBUFFER, errbuf);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, http_on_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &x);
        curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, http_on_header);
        curl_easy_setopt(c, CURLOPT_HEADERDATA, &x);
        code = curl_easy_perform(c);
        if (rq->ret_reached)
            *rq->ret_reached = http_was_reached(c);
    }
    if (tb_buf_error(&x.body) == -EFBIG) {
        snprintf(err, TB_HTTP_ERR_MAX, "%s: the response is larger than %zu bytes",
                 tb_url_redact(rq->url, where, sizeof(where)), max);
        return -EFBIG;
    }
    if (code == CURLE_OK && http_response_take(c, &x, ret) == 0)
        return 0;
    if (code == CURLE_OK || code == CURLE_OUT_OF_MEMORY || tb_buf_error(&x.body) < 0) {
        snprintf(err, TB_HTTP_ERR_MAX, "out of memory");
        return -ENOMEM;
    }
    return tb_http_error(code, rq->url, errbuf, err);
}

void tb_http_response_clear(struct tb_http_response *r)
{
    assert(r);
    if (r->body)
        tb_erase(r->body, r->len);
    free(r->body);
    free(r->etag);
    free(r->location);
    *r = (struct tb_http_response){0};
}
