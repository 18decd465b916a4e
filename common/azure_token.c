/* SPDX-License-Identifier: Apache-2.0 */
#include "common/azure_token.h"

#include <stdarg.h>
#include <string.h>

#include "common/backoff.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/units.h"

#define IDENTITY_HOST "169.254.169.254"
#define IDENTITY_TRIES 8 /* 410 means "being updated", for up to 70 s */
#define IDENTITY_PROBE_MS 1000
#define IDENTITY_ID_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

static int azure_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int azure_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TB_AZURE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

/* -- the answer -------------------------------------------------------------------------------- */

/* A number, or a string of digits as the managed identity endpoints write them. 0 when it is neither. */
static uint64_t azure_number_member(const cJSON *o, const char *name)
{
    const cJSON *m = tb_json_member(o, name);
    uint64_t v = 0;

    if (cJSON_IsNumber(m) && m->valuedouble >= 0 && m->valuedouble < 1e15)
        return (uint64_t)m->valuedouble;
    if (cJSON_IsString(m) && tb_uint_parse(m->valuestring, 0, TB_JSON_INT_MAX, &v) == 0)
        return v;
    return 0;
}

static bool azure_text_valid(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f)
            return false;
    return n > 0 && n <= TB_AZURE_TOKEN_MAX;
}

static void azure_from_json(const cJSON *o, uint64_t now_s, struct tb_azure_token *ret)
{
    const cJSON *m = tb_json_member(o, "access_token");
    uint64_t on = azure_number_member(o, "expires_on"), in = azure_number_member(o, "expires_in");
    char *text;

    if (!m)
        m = tb_json_member(o, "accessToken");
    if (!cJSON_IsString(m) || !azure_text_valid(m->valuestring))
        return;
    text = tb_secret_alloc(strlen(m->valuestring) + 1);
    if (text)
        memcpy(text, m->valuestring, strlen(m->valuestring));
    tb_erase(m->valuestring, strlen(m->valuestring));
    ret->text = text;
    ret->lifetime_s = in ? in : on > now_s ? on - now_s : 0;
}

int tb_azure_token_parse(char *buf, size_t len, uint64_t now_s, struct tb_azure_token *ret,
                         char err[static TB_AZURE_ERR_MAX])
{
    struct tb_azure_token t = {0};
    char why[TB_JSON_ERR_MAX];
    cJSON *o;
    int r;

    r = tb_json_parse(buf, len, 64 * 1024, &o, why);
    tb_erase(buf, len);
    if (r < 0)
        return azure_fail(err, -EBADMSG, "the answer is not JSON");
    azure_from_json(o, now_s, &t);
    cJSON_Delete(o);
    if (!t.text)
        return azure_fail(err, -EBADMSG, "the answer has no usable access_token");
    *ret = t;
    return 0;
}

void tb_azure_refusal(const struct tb_http_response *rs, char *out, size_t out_len)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *text = NULL;

    snprintf(out, out_len, "status %ld", rs->status);
    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, why) < 0)
        return;
    if (tb_json_get_string(o, "error_description", &text, why) < 0 &&
        tb_json_get_string(o, "error", &text, why) < 0)
        return;
    snprintf(out, out_len, "status %ld: %.*s", rs->status, (int)MIN(strcspn(text, "\r\n"), 200U), text);
}

/* -- managed identity -------------------------------------------------------------------------- */

bool tb_azure_identity_configured(void)
{
    const char *a = getenv("IDENTITY_ENDPOINT"), *b = getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");

    return (a && *a) || (b && *b);
}

/* A link-local address is never to be asked through a proxy. */
static void azure_bypass_proxy(void)
{
    const char *old = getenv("no_proxy");
    _cleanup_free_ char *list = NULL;

    if (!old)
        old = getenv("NO_PROXY");
    if (old && strstr(old, IDENTITY_HOST))
        return;
    list = tb_strf("%s%s" IDENTITY_HOST, old ? old : "", old && *old ? "," : "");
    if (list)
        setenv("no_proxy", list, 1);
}

static int azure_identity_request(const char *service, const char *client_id, char **ret_url,
                                  char **ret_header)
{
    const char *endpoint = getenv("IDENTITY_ENDPOINT"), *secret = getenv("IDENTITY_HEADER");
    const char *host = getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    const char *scheme = strchr(service, '.') ? "https%3A%2F%2F" : "", *slash = *scheme ? "%2F" : "";
    const char *amp = client_id ? "&client_id=" : "", *id = client_id ? client_id : "";

    if (endpoint && *endpoint) {
        *ret_url = tb_strf("%s?api-version=2019-08-01&resource=%s%s%s%s%s", endpoint, scheme, service, slash,
                           amp, id);
        *ret_header = tb_strf("X-IDENTITY-HEADER: %s", secret ? secret : "");
    } else {
        host = host && *host ? host : "http://" IDENTITY_HOST;
        *ret_url = tb_strf("%s/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%s%s%s%s%s",
                           host, scheme, service, slash, amp, id);
        *ret_header = strdup("Metadata: true");
    }
    return *ret_url && *ret_header ? 0 : -ENOMEM;
}

static bool azure_identity_retry(long status, int64_t retry_after_ms, struct tb_backoff *b)
{
    if (status != 404 && status != 410 && !tb_http_status_retryable(status))
        return false;
    if (b->attempt + 1 >= IDENTITY_TRIES)
        return false;
    tb_sleep_ms(tb_backoff_next_ms(b, retry_after_ms));
    return true;
}

int tb_azure_identity_token(const char *service, const char *client_id, struct tb_azure_token *ret,
                            char err[static TB_AZURE_ERR_MAX])
{
    bool configured = tb_azure_identity_configured();
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_erase_string_ char *header = NULL;
    _cleanup_free_ char *url = NULL;
    struct tb_backoff backoff = {.base_ms = 800, .cap_ms = 20000};
    struct tb_http_tls tls = {.allow_http = true};
    char why[TB_HTTP_ERR_MAX];
    int r;

    if (client_id && (!*client_id || client_id[strspn(client_id, IDENTITY_ID_CHARS)]))
        return azure_fail(err, -EINVAL, "AZURE_CLIENT_ID is not a client id");
    r = azure_identity_request(service, client_id, &url, &header);
    if (r < 0)
        return azure_fail(err, r, "out of memory");
    azure_bypass_proxy();
    do {
        tb_http_response_clear(&rs);
        r = tb_http_do(&(struct tb_http_request){.url = url,
                                                 .headers = (const char *const[]){header, NULL},
                                                 .timeout_ms = configured ? 10000 : 2 * IDENTITY_PROBE_MS,
                                                 .connect_timeout_ms = configured ? 2000 : IDENTITY_PROBE_MS,
                                                 .tls = &tls},
                       &rs, why);
        if (r < 0)
            return azure_fail(err, r, "%s", why);
    } while (configured && azure_identity_retry(rs.status, rs.retry_after_ms, &backoff));
    if (rs.status != 200) {
        tb_azure_refusal(&rs, why, sizeof(why));
        return azure_fail(err, -EACCES, "the managed identity endpoint answered %s", why);
    }
    return tb_azure_token_parse(rs.body, rs.len, tb_now_realtime_us() / TB_USEC_PER_SEC, ret, err);
}
