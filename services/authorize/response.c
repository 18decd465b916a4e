/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/response.h"

#include <malloc.h>
#include <string.h>
#include <strings.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/http.h"
#include "common/id.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"

#define REDACTED "[redacted]"
/* A UUID has 36 characters; a key has 64 in hex and 44 in base64, a SAS signature 44. */
#define TOKEN_MIN 40

void authorize_verdict_clear(struct authorize_verdict *v)
{
    tb_grant_freep(&v->grant);
    tb_grant_freep(&v->held);
}

static void wiping_free(void *p)
{
    if (p)
        tb_erase(p, malloc_usable_size(p));
    free(p);
}

void authorize_response_setup(void)
{
    cJSON_Hooks hooks = {.malloc_fn = malloc, .free_fn = wiping_free};

    cJSON_InitHooks(&hooks);
    (void)mallopt(M_PERTURB, 0xff);
}

static bool response_is_token_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("+/=_%-", c));
}

static size_t token_length(const char *s, size_t len)
{
    size_t n = 0;

    while (n < len && response_is_token_char(s[n]))
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

int authorize_verdict_set(struct authorize_verdict *v, int code, const char *reason)
{
    char safe[TB_REASON_MAX];

    tb_reason_sanitise(reason, strlen(reason), safe);
    return tb_outcome_set(&v->outcome, code, "%s", safe);
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

static int grant_bytes(const cJSON *o, const char *name, uint8_t *out, size_t n, char *err)
{
    uint8_t raw[TB_BASE64_CHARS(TB_P256_POINT_BYTES)];
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0)
        return r;
    if (strlen(s) != TB_BASE64_CHARS(n) || tb_base64_decode(s, strlen(s), raw) != (ssize_t)n) {
        snprintf(err, TB_JSON_ERR_MAX, "\"wrapped_key\": \"%s\" is not %zu bytes in base64", name, n);
        return -EINVAL;
    }
    memcpy(out, raw, n);
    return 0;
}

/* The key as nobody but this boot's TPM reads it. */
static int grant_wrapped_key(const cJSON *w, struct tb_grant *g, char *err)
{
    struct tb_wrapped_key k;
    const char *alg;
    int r = tb_json_get_string(w, "alg", &alg, err);

    if (r == 0 && strcmp(alg, TB_ATTEST_ALG) != 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"wrapped_key\" is of an algorithm that this program does not know");
        return -EINVAL;
    }
    if (r == 0 && tb_attest_pcrs_read(tb_json_member(w, "pcrs"), &k.pcrs) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"wrapped_key\": \"pcrs\" is not a list of PCRs from 0 to 15");
        return -EINVAL;
    }
    if (r == 0)
        r = grant_bytes(w, "enc", k.enc, sizeof(k.enc), err);
    if (r == 0)
        r = grant_bytes(w, "ct", k.ct, sizeof(k.ct), err);
    if (r < 0)
        return r;
    g->is_wrapped = true;
    tb_wrapped_key_write(&k, g->wrapped);
    return 0;
}

static int grant_usage_key(const cJSON *o, struct tb_grant *g, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, "usage_key_hex", &s, err);

    if (r < 0)
        return r;
    if (tb_hex_decode(s, strlen(s), g->usage_key.b, TB_KEY_BYTES) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"usage_key_hex\" is not %d hex digits", TB_KEY_HEX_CHARS);
        return -EINVAL;
    }
    return 0;
}

static int grant_some_key(const cJSON *o, struct tb_grant *g, char *err)
{
    const cJSON *w = tb_json_member(o, "wrapped_key");
    int r = w ? grant_wrapped_key(w, g, err) : grant_key(o, g, err);

    return r == 0 && w ? grant_usage_key(o, g, err) : r;
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

/* A line behind the others, if there is room. */
static bool grant_add_line(char *lines, const char *url)
{
    size_t n = strlen(lines);

    if (n + 1 + strlen(url) > TB_GRANT_LINES_MAX)
        return false;
    lines[n] = '\n';
    strcpy(lines + n + 1, url);
    return true;
}

/* Other places of the same ciphertext. One that is no good is left out: there is the first. */
static void grant_fallbacks(const cJSON *o, bool allow_http, struct tb_grant *g)
{
    _cleanup_secret_ char *sas = tb_secret_alloc(TB_GRANT_URL_MAX + 1);
    _cleanup_secret_ char *manifest = tb_secret_alloc(TB_GRANT_URL_MAX + 1);
    char err[TB_JSON_ERR_MAX];
    const cJSON *m;
    int n = 0;

    strcpy(g->sas_lines, g->sas_url);
    strcpy(g->manifest_lines, g->manifest_url);
    if (!sas || !manifest)
        return;
    cJSON_ArrayForEach (m, tb_json_member(o, "fallbacks")) {
        size_t end = strlen(g->sas_lines);

        if (!cJSON_IsObject(m) || grant_url(m, "sas_url", allow_http, sas, err) < 0 ||
            grant_url(m, "manifest_url", allow_http, manifest, err) < 0 || n++ == TB_GRANT_FALLBACKS_MAX)
            continue;
        if (grant_add_line(g->sas_lines, sas) && !grant_add_line(g->manifest_lines, manifest))
            g->sas_lines[end] = '\0';
    }
}

/* Both URLs of a place, as two lines; none when there is no room for both. */
static void grant_add_base(const cJSON *m, bool allow_http, struct tb_grant *g, char *sas, char *manifest)
{
    char err[TB_JSON_ERR_MAX];
    size_t end = strlen(g->base_lines);

    if (!cJSON_IsObject(m) || grant_url(m, "sas_url", allow_http, sas, err) < 0 ||
        grant_url(m, "manifest_url", allow_http, manifest, err) < 0)
        return;
    if (!grant_add_line(g->base_lines, sas) || !grant_add_line(g->base_lines, manifest))
        g->base_lines[end] = '\0';
}

/* Of the version that this one stands on. Without them tb-hydrate makes do with what lies on the disk. */
static void grant_base(const cJSON *o, bool allow_http, struct tb_grant *g)
{
    _cleanup_secret_ char *sas = tb_secret_alloc(TB_GRANT_URL_MAX + 1);
    _cleanup_secret_ char *manifest = tb_secret_alloc(TB_GRANT_URL_MAX + 1);
    const cJSON *base = tb_json_member(o, "base"), *m;

    g->base_lines[0] = '\0';
    if (sas && manifest && cJSON_IsObject(base)) {
        grant_add_base(base, allow_http, g, sas, manifest);
        cJSON_ArrayForEach (m, tb_json_member(base, "fallbacks")) {
            grant_add_base(m, allow_http, g, sas, manifest);
        }
    }
    if (!*g->base_lines)
        strcpy(g->base_lines, TB_GRANT_BASE_NONE);
    else
        memmove(g->base_lines, g->base_lines + 1, strlen(g->base_lines)); /* the first line's break */
}

/* What the key of one version comes with. */
static int grant_read(const cJSON *o, bool allow_http, struct tb_grant *g, char *err)
{
    int r = grant_some_key(o, g, err);

    if (r == 0)
        r = grant_url(o, "sas_url", allow_http, g->sas_url, err);
    if (r == 0)
        r = grant_url(o, "manifest_url", allow_http, g->manifest_url, err);
    if (r == 0)
        r = grant_manifest_sha256(o, g, err);
    if (r == 0 && tb_json_get_uint(o, "asset_version", TB_JSON_INT_MAX, &g->version, err) < 0)
        g->version = 0; /* somebody else's control plane may mean something else by it */
    if (r == 0)
        grant_fallbacks(o, allow_http, g);
    if (r == 0)
        grant_base(o, allow_http, g);
    return r;
}

/* What is wrong with an old version must not keep the machine from the one that is current. */
static struct tb_grant *grant_held(const cJSON *o, bool allow_http)
{
    _cleanup_grant_ struct tb_grant *g = NULL;
    const cJSON *held = tb_json_member(o, "held");
    char err[TB_JSON_ERR_MAX];

    if (!cJSON_IsObject(held))
        return NULL;
    g = tb_grant_new();
    return g && grant_read(held, allow_http, g, err) == 0 && g->version ? TAKE_PTR(g) : NULL;
}

static bool response_says(const cJSON *o, const char *name, const char *word)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    return tb_json_get_string(o, name, &s, err) == 0 && strcmp(s, word) == 0;
}

/* One that cannot be asked is none: the control plane then says what it lacks. */
static void response_maa(const cJSON *o, bool allow_http, char ret[static AUTHORIZE_MAA_URL_MAX])
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    if (tb_json_get_string(o, "maa", &s, err) == 0 && strlen(s) < AUTHORIZE_MAA_URL_MAX &&
        url_valid(s, allow_http))
        strcpy(ret, s);
}

/* One that cannot be read is none: the machine then asks without evidence, and is given another. */
static void response_challenge(const cJSON *o, bool allow_http, struct authorize_challenge *ret)
{
    uint8_t bytes[TB_CHALLENGE_BYTES];
    char err[TB_JSON_ERR_MAX];
    const char *s;

    ret->hex[0] = ret->maa[0] = '\0';
    if (tb_json_get_string(o, "challenge", &s, err) < 0 ||
        tb_hex_decode(s, strlen(s), bytes, sizeof(bytes)) < 0 ||
        tb_attest_pcrs_read(tb_json_member(o, "challenge_pcrs"), &ret->pcrs) < 0)
        return;
    tb_hex_encode(bytes, sizeof(bytes), ret->hex);
    response_maa(o, allow_http, ret->maa);
}

static void attested_copy(const cJSON *o, const char *name, char *out, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    if (tb_json_get_string(o, name, &s, err) == 0 && strlen(s) < size)
        snprintf(out, size, "%s", s);
    tb_text_plain(out);
}

static void response_attested(const cJSON *doc, struct tb_attested *ret)
{
    const cJSON *o = tb_json_member(doc, "attested");

    if (!cJSON_IsObject(o))
        return;
    attested_copy(o, "level", ret->level, sizeof(ret->level));
    attested_copy(o, "image", ret->image, sizeof(ret->image));
    attested_copy(o, "version", ret->version, sizeof(ret->version));
}

#define UNUSABLE "the control plane's answer is unusable: "

static int response_judge_grant(const cJSON *o, bool allow_http, uint64_t now_us, struct authorize_verdict *v)
{
    _cleanup_grant_ struct tb_grant *g = tb_grant_new();
    char err[TB_JSON_ERR_MAX];
    const char *said;
    uint64_t expires_at;

    if (!g)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "out of memory");
    if (grant_read(o, allow_http, g, err) < 0 || lease_expiry(o, now_us, &expires_at, err) < 0)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, UNUSABLE "%s", err);
    v->expires_at_us = expires_at;
    v->billed_by_control_plane = response_says(o, "billed_by", "control_plane");
    v->held = grant_held(o, allow_http);
    response_challenge(o, allow_http, &v->challenge);
    response_attested(o, &v->attested);
    if (tb_json_get_string(o, "machine_report", &said, err) == 0)
        tb_reason_sanitise(said, strlen(said), v->machine_report);
    v->grant = TAKE_PTR(g);
    return tb_outcome_set(&v->outcome, AUTHORIZE_GRANTED, "%s", "");
}

/* The text of the first of these members that has one; NULL when none has. */
static const char *response_text(const cJSON *o, const char *const *names)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    for (; *names; names++)
        if (tb_json_get_string(o, *names, &s, err) == 0 && *s)
            return s;
    return NULL;
}

static int response_deny(const cJSON *o, bool allow_http, struct authorize_verdict *v)
{
    static const char *const names[] = {"reason", "message", "error", NULL};
    const char *reason = response_text(o, names);

    response_challenge(o, allow_http, &v->challenge);
    return tb_outcome_set(&v->outcome, AUTHORIZE_DENIED, "%s", reason ? reason : "access denied");
}

static int response_judge_ok(const struct tb_http_response *rs, bool allow_http, uint64_t now_us,
                             struct authorize_verdict *v)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *status;

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, err) < 0)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, UNUSABLE "%s", err);
    if (!cJSON_IsObject(o))
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, UNUSABLE "not a JSON object");
    if (tb_json_get_string(o, "status", &status, err) < 0)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, UNUSABLE "%s", err);
    if (strcmp(status, "denied") == 0)
        return response_deny(o, allow_http, v);
    if (strcmp(status, "authorized") == 0)
        return response_judge_grant(o, allow_http, now_us, v);
    return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, UNUSABLE "unknown status \"%.40s\"", status);
}

/* A refusal in the words of the protocol: the status "denied"; or a 401 or 403 that has no status, but a
 * reason. */
static bool response_is_denial(long status, const cJSON *o)
{
    static const char *const reason[] = {"reason", NULL};
    char err[TB_JSON_ERR_MAX];
    const char *word;

    if (!cJSON_IsObject(o))
        return false;
    if (tb_json_member(o, "status"))
        return tb_json_get_string(o, "status", &word, err) == 0 && strcmp(word, "denied") == 0;
    return (status == 401 || status == 403) && response_text(o, reason);
}

/* Where a redirect leads, as far as a log may tell: scheme and host. */
static int response_redirected(const struct tb_http_response *rs, struct authorize_verdict *v)
{
    char to[80];

    tb_http_origin(rs->location ? rs->location : "", to, sizeof(to));
    return tb_outcome_set(
        &v->outcome, AUTHORIZE_RETRY,
        "HTTP %ld: redirected%s%s instead of answered; a gateway or proxy stands in front of "
        "the control plane: let TB_EDC_ENDPOINT pass",
        rs->status, *to ? " to " : "", to);
}

/* A 3xx or 4xx. What is not in the words of the protocol comes from somebody in front of the control
 * plane. */
static int response_judge_refusal(const struct tb_http_response *rs, bool allow_http,
                                  struct authorize_verdict *v)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], text[TB_REASON_MAX];

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, err) == 0 &&
        response_is_denial(rs->status, o))
        return response_deny(o, allow_http, v);
    if (rs->status < 400)
        return response_redirected(rs, v);
    if (rs->status == 407)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY,
                              "HTTP 407: a proxy on the way wants a login; let it pass this machine");
    tb_reason_sanitise(rs->body, rs->len, text);
    return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "HTTP %ld: not an answer of the control plane%s%s",
                          rs->status, *text ? ": " : "; check TB_EDC_ENDPOINT", text);
}

void authorize_response_judge(const struct tb_http_response *rs, bool allow_http, uint64_t now_realtime_us,
                              struct authorize_verdict *ret)
{
    struct authorize_verdict v = {.retry_after_ms = rs->retry_after_ms};
    int code;

    if (rs->status == 200)
        code = response_judge_ok(rs, allow_http, now_realtime_us, &v);
    else if (rs->status >= 300 && rs->status < 500 && !tb_http_status_retryable(rs->status))
        code = response_judge_refusal(rs, allow_http, &v);
    else
        code = tb_outcome_set(&v.outcome, AUTHORIZE_RETRY, "the control plane answered HTTP %ld", rs->status);
    /* What it quotes is another's: made safe at this one place. */
    authorize_verdict_set(&v, code, v.outcome.reason);
    *ret = v;
}
