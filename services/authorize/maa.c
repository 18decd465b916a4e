/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/maa.h"

#include <string.h>

#include "common/base64.h"
#include "common/hcl.h"
#include "common/hex.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"

#define MAA_PATH "/attest/SevSnpVm?api-version=2022-08-01"
#define MAA_NAME "Azure Attestation" /* attestation.c knows it by that */
#define MAA_TIMEOUT_MS 10000
#define MAA_TOKEN_MAX 8192

/* Base64 for URLs, without padding. */
static char *maa_base64url(const void *buf, size_t n)
{
    char *s = malloc(TB_BASE64_CHARS(n) + 1);

    if (!s)
        return NULL;
    tb_base64_encode(buf, n, s);
    s[strcspn(s, "=")] = '\0';
    for (char *p = s; *p; p++)
        *p = (char)(*p == '+' ? '-' : *p == '/' ? '_' : *p);
    return s;
}

static bool maa_add(cJSON *o, const char *name, const void *buf, size_t n)
{
    _cleanup_free_ char *text = maa_base64url(buf, n);

    return text && cJSON_AddStringToObject(o, name, text);
}

char *authorize_maa_question(const uint8_t *snp, size_t snp_len, const char *chain,
                             const uint8_t nonce[static TB_TPM_DIGEST_BYTES])
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject(), *inner = cJSON_CreateObject();
    _cleanup_free_ char *report = NULL;
    char hex[2 * TB_TPM_DIGEST_BYTES + 1];
    struct tb_hcl h;
    cJSON *runtime;

    if (tb_hcl_parse(snp, snp_len, &h) < 0)
        return NULL;
    if (inner && maa_add(inner, "SnpReport", h.snp.p, h.snp.n) &&
        maa_add(inner, "VcekCertChain", chain, strlen(chain)))
        report = cJSON_PrintUnformatted(inner);
    tb_hex_encode(nonce, TB_TPM_DIGEST_BYTES, hex);
    if (!report || !maa_add(o, "report", report, strlen(report)) || !cJSON_AddStringToObject(o, "nonce", hex))
        return NULL;
    runtime = cJSON_AddObjectToObject(o, "runtimeData");
    if (!runtime || !maa_add(runtime, "data", h.claims.p, h.claims.n) ||
        !cJSON_AddStringToObject(runtime, "dataType", "JSON"))
        return NULL;
    return cJSON_PrintUnformatted(o);
}

static bool maa_is_token(const char *s)
{
    size_t n = strlen(s);

    return n > 0 && n <= MAA_TOKEN_MAX &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == n;
}

int authorize_maa_answer(const char *buf, size_t len, char **ret)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *token;

    if (tb_json_parse(buf, len, TB_HTTP_RESPONSE_MAX, &o, why) < 0 ||
        tb_json_get_string(o, "token", &token, why) < 0 || !maa_is_token(token))
        return -EBADMSG;
    *ret = strdup(token);
    return *ret ? 0 : -ENOMEM;
}

static int maa_fail(char *err, int r, const char *url, const char *why)
{
    snprintf(err, AUTHORIZE_ATTEST_ERR_MAX, "no token of " MAA_NAME " (%.120s): %.200s", url, why);
    tb_text_plain(err);
    return r;
}

/* What it says itself, where it is JSON: {"error":{"code","message"}}. */
static int maa_refused(char *err, const char *url, const struct tb_http_response *rs)
{
    _cleanup_json_ cJSON *o = NULL;
    char text[TB_JSON_ERR_MAX + 200], why[TB_JSON_ERR_MAX];
    const char *message = "";

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, why) < 0 ||
        tb_json_get_string(tb_json_member(o, "error"), "message", &message, why) < 0)
        message = "";
    snprintf(text, sizeof(text), "HTTP %ld%s%.180s", rs->status, *message ? ": " : "", message);
    return maa_fail(err, -EPROTO, url, text);
}

static int maa_ask(const struct tb_config *cfg, const char *url, const char *question, char **ret, char *err)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    const struct tb_http_tls tls = {.ca_file = cfg->ca_file, .allow_http = cfg->insecure_http};
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_free_ char *where = tb_strf("%s" MAA_PATH, url);
    struct tb_http_request rq = {.method = "POST",
                                 .url = where,
                                 .headers = headers,
                                 .body = question,
                                 .body_len = strlen(question),
                                 .timeout_ms = MAA_TIMEOUT_MS,
                                 .tls = &tls};
    char why[TB_HTTP_ERR_MAX] = "out of memory";
    int r = where ? tb_http_do(&rq, &rs, why) : -ENOMEM;

    if (r < 0)
        return maa_fail(err, r, url, why);
    if (rs.status != 200)
        return maa_refused(err, url, &rs);
    r = authorize_maa_answer(rs.body, rs.len, ret);
    return r < 0 ? maa_fail(err, r, url, "its answer has no token") : 0;
}

/* heap; NULL: *err says why. */
static char *maa_read_chain(const struct tb_config *cfg, const char *url, char *err)
{
    _cleanup_free_ char *dir = tb_path_join(cfg->run_dir, TB_VCEK_DIR),
                        *path = dir ? tb_path_join(dir, TB_VCEK_CHAIN) : NULL;
    char *chain = NULL;
    int r = path ? tb_read_file(path, TB_VCEK_CHAIN_MAX, &chain, NULL) : -ENOMEM;

    if (r == -ENOENT)
        (void)maa_fail(err, r, url,
                       "the processor's certificates are not there yet (tb-vcek.service fetches them)");
    else if (r < 0)
        (void)maa_fail(err, r, url, strerror(-r));
    return chain;
}

/* The token takes the report's place where both are too much. */
static int maa_put(cJSON *o, const char *token, char **evidence)
{
    char *text;

    if (!cJSON_AddStringToObject(o, "maa", token))
        return -ENOMEM;
    text = cJSON_PrintUnformatted(o);
    if (text && strlen(text) > TB_EVIDENCE_MAX) {
        cJSON_DeleteItemFromObjectCaseSensitive(o, "snp");
        cJSON_DeleteItemFromObjectCaseSensitive(o, "vcek");
        free(text);
        text = cJSON_PrintUnformatted(o);
    }
    if (!text)
        return -ENOMEM;
    free(*evidence);
    *evidence = text;
    return 0;
}

int authorize_maa_add(const struct tb_config *cfg, const char *url,
                      const uint8_t nonce[static TB_TPM_DIGEST_BYTES], char **evidence,
                      char err[static AUTHORIZE_ATTEST_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    _cleanup_free_ char *chain = NULL, *question = NULL, *token = NULL;
    uint8_t snp[TB_BASE64_CHARS(TB_SNP_REPORT_MAX)];
    char why[TB_JSON_ERR_MAX];
    const char *text;
    ssize_t n;
    int r = tb_json_parse(*evidence, strlen(*evidence), TB_EVIDENCE_MAX, &o, why);

    if (r < 0 || tb_json_get_string(o, "snp", &text, why) < 0)
        return 0;
    n = strlen(text) <= sizeof(snp) ? tb_base64_decode(text, strlen(text), snp) : -EBADMSG;
    chain = maa_read_chain(cfg, url, err);
    if (!chain)
        return -EAGAIN;
    question = n > 0 ? authorize_maa_question(snp, (size_t)n, chain, nonce) : NULL;
    if (!question)
        return maa_fail(err, -EBADMSG, url, "the report in this machine's TPM cannot be read");
    r = maa_ask(cfg, url, question, &token, err);
    if (r == 0 && maa_put(o, token, evidence) < 0)
        r = maa_fail(err, -ENOMEM, url, "out of memory");
    return r;
}
