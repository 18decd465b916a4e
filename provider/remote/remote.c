/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/remote/remote.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "common/backoff.h"
#include "common/buf.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/percent.h"
#include "common/secret.h"
#include "common/units.h"
#include "provider/azure/blob.h"
#include "provider/remote/login.h"

#define REMOTE_TRIES 3
#define REMOTE_TIMEOUT_MS 60000

void remote_clear(struct remote *r)
{
    tb_freep(&r->base);
    tb_secret_free(r->authorization);
    r->authorization = NULL;
    tb_freep(&r->token_from);
}

/* -- who asks whom ----------------------------------------------------------------------------- */

int remote_check_url(const struct cli *c, bool insecure, const char *what, const char *url)
{
    char err[BLOB_ERR_MAX];

    if (blob_base_url_check(what, url, false, err) < 0)
        return cli_usage(c, "%s", err);
    if (strncasecmp(url, "http://", 7) == 0 && !insecure)
        return cli_usage(c, "%s must be https:// (--insecure-http allows http:// to a loopback address)",
                         what);
    return CLI_OK;
}

static bool remote_key_valid(const char *s)
{
    for (const char *p = s; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return false;
    return strlen(s) >= 16 && strlen(s) <= 100;
}

int remote_check(struct remote *r)
{
    int rc = CLI_OK;

    if (!r->endpoint)
        rc = cli_usage(r->cli, REMOTE_ENDPOINT_MISSING);
    else
        rc = remote_check_url(r->cli, r->insecure, "--edc-endpoint", r->endpoint);
    if (!r->cert != !r->cert_key)
        rc = cli_usage(r->cli, "--client-cert and --client-key belong together");
    if (r->idempotency_key && !remote_key_valid(r->idempotency_key))
        rc = cli_usage(r->cli, "--idempotency-key: 16 to 100 characters without white space, which nobody "
                               "can guess");
    return rc;
}

int remote_use_token(struct remote *r, const char *token, const char *from)
{
    static const char prefix[] = "Authorization: Bearer ";
    size_t n = strlen(token);

    tb_secret_free(r->authorization);
    tb_freep(&r->token_from);
    r->authorization = tb_secret_alloc(sizeof(prefix) + n);
    r->token_from = strdup(from);
    if (!r->authorization || !r->token_from)
        return tbpkg_fail_errno(from, -ENOMEM);
    memcpy(r->authorization, prefix, sizeof(prefix) - 1);
    memcpy(r->authorization + sizeof(prefix) - 1, token, n);
    return CLI_OK;
}

int remote_find_token(struct remote *r)
{
    _cleanup_free_ char *kept = NULL;
    _cleanup_secret_ char *token = NULL;
    const char *path = r->token_file;
    int rc;

    if (!path && (getenv("HOME") || getenv("XDG_CONFIG_HOME"))) {
        rc = login_path(r->endpoint, &kept);
        if (rc != CLI_OK)
            return rc;
        path = kept;
    }
    if (!path)
        return CLI_OK;
    rc = login_read(path, path == kept, &token);
    if (rc == -ENOENT)
        return path == kept ? CLI_OK : tbpkg_fail_errno(path, rc);
    return rc == CLI_OK ? remote_use_token(r, token, path) : rc;
}

int remote_open(struct remote *r, bool token)
{
    char err[TB_HTTP_ERR_MAX];

    r->base = login_endpoint(r->endpoint);
    if (!r->base)
        return tbpkg_fail_errno(r->endpoint, -ENOMEM);
    /* libcurl's own words would not name the file */
    if (r->cert_key && tb_http_key_check(r->cert_key, err) < 0)
        return tbpkg_fail(r->cert_key, err, NULL);
    return token ? remote_find_token(r) : CLI_OK;
}

/* -- the exchange ------------------------------------------------------------------------------ */

/* Whether there may be an answer next time. */
static bool remote_may_answer(int r, const struct tb_http_response *rs)
{
    if (r < 0)
        return r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EPROTO;
    return tb_http_status_retryable(rs->status);
}

static int remote_try(const struct remote *r, const struct remote_call *call,
                      const struct tb_http_request *rq, struct tb_http_response *ret,
                      char err[static TB_HTTP_ERR_MAX])
{
    struct tb_backoff backoff = {.base_ms = 2000, .cap_ms = 30000};

    for (;;) {
        char why[TB_HTTP_ERR_MAX];
        uint64_t ms;
        int e = tb_http_do(rq, ret, err);

        if (!remote_may_answer(e, ret) || backoff.attempt + 1 >= REMOTE_TRIES)
            return e;
        if (e == 0)
            snprintf(why, sizeof(why), "status %ld", ret->status);
        ms = tb_backoff_next_ms(&backoff, e == 0 ? ret->retry_after_ms : -1);
        tbpkg_note(r->cli->quiet, "Control plane: %s; trying again in %" PRIu64 " s.", e < 0 ? err : why,
                   (ms + 999) / 1000);
        if (e == 0)
            tb_http_response_clear(ret);
        tb_sleep_ms(ms);
    }
}

static int remote_no_answer(const struct remote *r, int e, const char *err, const char *key)
{
    const char *proxy = strncasecmp(r->base, "http://", 7) == 0 ? NULL : tb_http_proxy_variable();
    _cleanup_free_ char *remedy = NULL;

    if (e == -EKEYREJECTED)
        return tbpkg_fail_as(CLI_UNAVAILABLE, "control plane", err,
                             "name a private certificate authority with --ca-file or TB_CA_FILE; a client "
                             "certificate with --client-cert");
    if (key && (e == -ETIMEDOUT || e == -EPROTO || e == -ECONNREFUSED))
        remedy =
            tb_strf("check --edc-endpoint and the network; it may be done all the same: the same command "
                    "with --idempotency-key=%s does it once at most",
                    key);
    else
        remedy = tb_strf("check --edc-endpoint and the network%s%s", proxy ? ", and the proxy of " : "",
                         proxy ? proxy : "");
    return tbpkg_fail_as(e == -EINVAL || e == -EFBIG ? CLI_FAILED : CLI_UNAVAILABLE, "control plane", err,
                         remedy);
}

int remote_exchange(const struct remote *r, const struct remote_call *call, struct tb_http_response *ret)
{
    _cleanup_free_ char *url = tb_strf("%s%s", r->base, call->path), *once = NULL;
    char key[33] = "", err[TB_HTTP_ERR_MAX];
    const char *headers[6] = {"Accept: application/json"};
    const struct tb_http_tls tls = {
        .ca_file = r->ca_file, .client_cert = r->cert, .client_key = r->cert_key, .allow_http = r->insecure};
    struct tb_http_request rq = {.method = call->method,
                                 .url = url,
                                 .headers = headers,
                                 .body = call->body,
                                 .body_len = call->body_len,
                                 .max_response = call->answer_max,
                                 .timeout_ms = REMOTE_TIMEOUT_MS,
                                 .direct = strncasecmp(r->base, "http://", 7) == 0,
                                 .tls = &tls};
    /* direct: http:// is good for this machine alone, and a proxy would read the token */
    size_t n = 1;
    uint8_t random[16];
    int e;

    if (call->body) {
        headers[n++] = "Content-Type: application/json";
        headers[n++] = "Expect:";
    }
    if (call->change) {
        e = tb_random(random, sizeof(random));
        if (e < 0)
            return tbpkg_fail_errno("random numbers", e);
        tb_hex_encode(random, sizeof(random), key);
        once = tb_strf("Idempotency-Key: %s", r->idempotency_key ? r->idempotency_key : key);
        headers[n++] = once;
    }
    if (!url || (call->change && !once))
        return tbpkg_fail_errno(r->base, -ENOMEM);
    headers[n] = r->authorization;
    e = remote_try(r, call, &rq, ret, err);
    if (e == 0)
        return CLI_OK;
    return remote_no_answer(r, e, err, !call->change ? NULL : r->idempotency_key ? r->idempotency_key : key);
}
