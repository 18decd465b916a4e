/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/response.h"

#include <malloc.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/http.h"
#include "common/json.h"
#include "common/units.h"

#define REDACTED "[redacted]"
/* A UUID has 36 characters; a key has 64 in hex and 44 in base64, a SAS signature 44. */
#define TOKEN_MIN 40

void authorize_verdict_clear(struct authorize_verdict *v)
{
    tb_grant_freep(&v->grant);
}

static void wiping_free(void *p)
{
    if (p)
        tb_erase(p, malloc_usable_size(p));
    free(p);
}

void tb_response_setup(void)
{
    cJSON_Hooks hooks = {.malloc_fn = malloc, .free_fn = wiping_free};

    cJSON_InitHooks(&hooks);
    (void)mallopt(M_PERTURB, 0xff);
}

static bool is_token_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("+/=_%-", c));
}

static size_t token_length(const char *s, size_t len)
{
    size_t n = 0;

    while (n < len && is_token_char(s[n]))
        n++;
    return n;
}

void tb_reason_sanitise(const char *text, size_t len, char out[static TB_REASON_MAX])
{
    const size_t max = TB_AUTHORIZE_REASON_MAX;
    size_t n = 0;

    for (size_t i = 0; i < len && n < max;) {
        size_t token = token_length(text + i, len - i);

        if (token >= TOKEN_MIN) {
            size_t room = MIN(strlen(REDACTED), max - n);

            memcpy(out + n, REDACTED, room);
            n += room;
            i += token;
        } else if (token > 0) {
            token = MIN(token, max - n);
            memcpy(out + n, text + i, token);
            n += token;
            i += token;
        } else if (text[i] > ' ' && text[i] <= '~') {
            out[n++] = text[i++];
        } else {
            if (n > 0 && out[n - 1] != ' ')
                out[n++] = ' ';
            i++;
        }
    }
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}

_printf_(3, 4) static int verdict_set(struct authorize_verdict *v, enum authorize_verdict_kind kind,
                                      const char *fmt, ...)
{
    char text[2 * TB_REASON_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    v->kind = kind;
    tb_reason_sanitise(text, strlen(text), v->reason);
    return 0;
}

/* The URL goes into a file that another program reads, so no byte may be anything but a URL's. */
static bool url_valid(const char *url, bool allow_http)
{
    const char *host;

    if (strncasecmp(url, "https://", 8) == 0)
        host = url + 8;
    else if (allow_http && strncasecmp(url, "http://", 7) == 0)
        host = url + 7;
    else
        return false;
    if (*host == '\0' || strchr("/?#:@", *host))
        return false;
    for (const char *p = url; *p; p++)
        if (*p <= ' ' || *p > '~')
            return false;
    return true;
}

static int grant_url(const cJSON *o, const char *name, bool allow_http, char *out, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0)
        return r;
    if (*s == '\0' || strlen(s) > TB_GRANT_URL_MAX || !url_valid(s, allow_http)) {
        snprintf(err, TB_JSON_ERR_MAX, "\"%s\" is not an %s URL of at most %d characters", name,
                 allow_http ? "http(s)" : "https", TB_GRANT_URL_MAX);
        return -EINVAL;
    }
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int grant_key(const cJSON *o, struct tb_grant *g, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, "decryption_key_hex", &s, err);

    if (r < 0)
        return r;
    if (tb_hex_decode(s, strlen(s), g->key.b, TB_KEY_BYTES) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"decryption_key_hex\" is not %d hex digits", TB_KEY_HEX_CHARS);
        return -EINVAL;
    }
    return 0;
}

static int grant_manifest_sha256(const cJSON *o, struct tb_grant *g, char *err)
{
    uint8_t digest[TB_KEY_BYTES];
    const char *s;
    int r = tb_json_get_string(o, "manifest_sha256", &s, err);

    if (r == -ENOENT) {
        snprintf(g->manifest_sha256, sizeof(g->manifest_sha256), TB_GRANT_SHA256_NONE);
        return 0;
    }
    if (r < 0)
        return r;
    if (tb_hex_decode(s, strlen(s), digest, sizeof(digest)) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"manifest_sha256\" is not %d hex digits", TB_KEY_HEX_CHARS);
        return -EINVAL;
    }
    tb_hex_encode(digest, sizeof(digest), g->manifest_sha256);
    return 0;
}

static int lease_expiry(const cJSON *o, uint64_t now_us, uint64_t *ret, char *err)
{
    uint64_t at;
    const char *s;
    int r = tb_json_get_string(o, "expires_at", &s, err);

    if (r == -ENOENT || (r == 0 && *s == '\0')) {
        *ret = 0;
        return 0;
    }
    if (r < 0)
        return r;
    if (tb_rfc3339_parse(s, &at) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"expires_at\" is not an RFC 3339 time");
        return -EINVAL;
    }
    if (at <= now_us) {
        snprintf(err, TB_JSON_ERR_MAX,
                 "\"expires_at\" is in the past; compare the clocks of this machine and the control plane");
        return -EINVAL;
    }
    *ret = at;
    return 0;
}

static int response_judge_authorized(const cJSON *o, bool allow_http, uint64_t now_us,
                                     struct authorize_verdict *v)
{
    _cleanup_grant_ struct tb_grant *g = tb_grant_new();
    char err[TB_JSON_ERR_MAX];
    uint64_t expires_at;

    if (!g)
        return -ENOMEM;
    if (grant_key(o, g, err) < 0 || grant_url(o, "sas_url", allow_http, g->sas_url, err) < 0 ||
        grant_url(o, "manifest_url", allow_http, g->manifest_url, err) < 0 ||
        grant_manifest_sha256(o, g, err) < 0 || lease_expiry(o, now_us, &expires_at, err) < 0)
        return verdict_set(v, AUTHORIZE_RETRY, "the control plane's answer is unusable: %s", err);
    v->kind = AUTHORIZE_GRANTED;
    v->expires_at_us = expires_at;
    v->grant = TAKE_PTR(g);
    return 0;
}

static const char *reason_of(const cJSON *o, const char *otherwise)
{
    static const char *const names[] = {"reason", "message", "error"};
    char err[TB_JSON_ERR_MAX];
    const char *s;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (tb_json_get_string(o, names[i], &s, err) == 0 && *s)
            return s;
    return otherwise;
}

static int response_judge_ok(const char *body, size_t len, bool allow_http, uint64_t now_us,
                             struct authorize_verdict *v)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *status;
    int r;

    r = tb_json_parse(body, len, TB_HTTP_RESPONSE_MAX, &o, err);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return verdict_set(v, AUTHORIZE_RETRY, "the control plane's answer is unusable: %s", err);
    if (!cJSON_IsObject(o))
        return verdict_set(v, AUTHORIZE_RETRY, "the control plane's answer is unusable: not a JSON object");
    if (tb_json_get_string(o, "status", &status, err) < 0)
        return verdict_set(v, AUTHORIZE_RETRY, "the control plane's answer is unusable: %s", err);
    if (strcmp(status, "denied") == 0)
        return verdict_set(v, AUTHORIZE_DENIED, "%s", reason_of(o, "access denied"));
    if (strcmp(status, "authorized") == 0)
        return response_judge_authorized(o, allow_http, now_us, v);
    return verdict_set(v, AUTHORIZE_RETRY, "the control plane's answer is unusable: unknown status \"%.40s\"",
                       status);
}

/* The reason of a refusal: the body's, when it is JSON with one, else the body itself, else the status alone. */
static int response_judge_refusal(long status, const char *body, size_t len, struct authorize_verdict *v)
{
    bool access = status == 401 || status == 403;
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], text[TB_REASON_MAX];
    const char *reason = NULL;

    if (tb_json_parse(body, len, TB_HTTP_RESPONSE_MAX, &o, err) == 0)
        reason = reason_of(o, NULL);
    if (reason)
        return access ? verdict_set(v, AUTHORIZE_DENIED, "%s", reason)
                      : verdict_set(v, AUTHORIZE_DENIED, "HTTP %ld: %s", status, reason);
    if (access)
        return verdict_set(v, AUTHORIZE_DENIED, "access denied (HTTP %ld)", status);
    tb_reason_sanitise(body, len, text);
    return verdict_set(v, AUTHORIZE_DENIED, *text ? "HTTP %ld: %s" : "HTTP %ld%s", status, text);
}

int tb_response_judge(long status, const char *body, size_t len, bool allow_http, uint64_t now_realtime_us,
                      struct authorize_verdict *ret)
{
    struct authorize_verdict v = {.retry_after_ms = -1};
    int r;

    if (status == 200)
        r = response_judge_ok(body, len, allow_http, now_realtime_us, &v);
    else if (status >= 300 && status < 500 && !tb_http_status_retryable(status))
        r = response_judge_refusal(status, body, len, &v);
    else
        r = verdict_set(&v, AUTHORIZE_RETRY, "the control plane answered HTTP %ld", status);
    if (r < 0)
        return r;
    *ret = v;
    return 0;
}
