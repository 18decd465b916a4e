/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdarg.h>
#include <string.h>

#include "common/azure_token.h"
#include "common/backoff.h"
#include "common/http.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define PRINCIPAL_TRIES 4

static int principal_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int principal_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TB_AZURE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

/* Appends name=value, form-encoded, at p; returns the new end. Room: 3 bytes for each of value. */
static char *principal_put_form(char *p, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";

    p = stpcpy(p, name);
    *p++ = '=';
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;

        if (isalnum(c) || strchr("-._~", c)) {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p++ = '&';
    *p = '\0';
    return p;
}

bool tb_azure_tenant_valid(const char *s)
{
    return *s && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == strlen(s);
}

/* Posts the form, again when the service is busy or away. 0 with an answer of any status. */
static int principal_post_form(const char *url, const char *form, const struct tb_http_tls *tls,
                               struct tb_http_response *ret, char err[static TB_HTTP_ERR_MAX])
{
    static const char *const headers[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
    const struct tb_http_request rq = {
        .method = "POST", .url = url, .headers = headers, .body = form, .body_len = strlen(form), .tls = tls};
    struct tb_backoff backoff = {.base_ms = 1000, .cap_ms = 10000};

    for (;;) {
        int r = tb_http_do(&rq, ret, err);
        bool again = r < 0 ? r == -ETIMEDOUT || r == -ECONNREFUSED : tb_http_status_retryable(ret->status);

        if (!again || backoff.attempt + 1 >= PRINCIPAL_TRIES)
            return r;
        tb_sleep_ms(tb_backoff_next_ms(&backoff, r < 0 ? -1 : ret->retry_after_ms));
        if (r == 0)
            tb_http_response_clear(ret);
    }
}

int tb_azure_principal_token(const struct tb_azure_principal *a, const char *scope,
                             const struct tb_http_tls *tls, struct tb_azure_token *ret,
                             char err[static TB_AZURE_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_secret_ char *form = tb_secret_alloc(3 * (strlen(a->client_id) + strlen(a->secret)) + 256);
    _cleanup_free_ char *url = tb_strf("%s%s%s/oauth2/v2.0/token", a->host,
                                       a->host[strlen(a->host) - 1] == '/' ? "" : "/", a->tenant);
    char why[TB_HTTP_ERR_MAX], *p;
    int r;

    if (!url || !form)
        return principal_fail(err, -ENOMEM, "out of memory");
    p = principal_put_form(form, "grant_type", "client_credentials");
    p = principal_put_form(p, "client_id", a->client_id);
    p = principal_put_form(p, "client_secret", a->secret);
    p = principal_put_form(p, "scope", scope);
    p[-1] = '\0';
    r = principal_post_form(url, form, tls, &rs, why);
    if (r < 0)
        return principal_fail(err, r, "%s", why);
    if (rs.status != 200) {
        tb_azure_refusal(&rs, why, sizeof(why));
        return principal_fail(err, -EACCES, "%s refused the service principal: %s", a->host, why);
    }
    return tb_azure_token_parse(rs.body, rs.len, tb_now_realtime_us() / TB_USEC_PER_SEC, ret, err);
}
