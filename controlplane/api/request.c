/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/request.h"
#include "common/hex.h"

#include <ctype.h>
#include <string.h>

#define CHUNK_BYTES_MIN 1024
#define CHUNK_BYTES_MAX (64 * 1024 * 1024)

/* As deep as the parser lets it be. */
static void json_wipe_strings(cJSON *j)
{
    cJSON *m;

    cJSON_ArrayForEach (m, j) {
        if (cJSON_IsString(m) && m->valuestring)
            tb_erase(m->valuestring, strlen(m->valuestring));
        json_wipe_strings(m);
    }
}

void cp_json_wipe(cJSON *j)
{
    json_wipe_strings(j);
    cJSON_Delete(j);
}

static int request_fault(char *err, const char *name, const char *reason)
{
    snprintf(err, TB_JSON_ERR_MAX, "%s %s", name, reason);
    return -EINVAL;
}

static int request_get_object(const cJSON *o, const char *name, const cJSON **ret, char *err)
{
    *ret = tb_json_member(o, name);
    if (!*ret) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is missing", name);
        return -ENOENT;
    }
    return cJSON_IsObject(*ret) ? 0 : request_fault(err, name, "is not an object");
}

static int request_parse_object(const char *body, size_t len, cJSON **ret, char *err)
{
    _cleanup_secret_json_ cJSON *j = NULL;
    int r;

    if (len == 0) {
        snprintf(err, TB_JSON_ERR_MAX, "the body is empty; a JSON object is expected");
        return -EBADMSG;
    }
    r = tb_json_parse(body, len, CP_BODY_MAX, &j, err);
    if (r < 0) {
        /* it may quote a member's name, and goes to the log */
        for (char *s = err; *s; s++)
            if (*s < ' ' || *s >= 0x7f)
                *s = '?';
        return r;
    }
    if (!cJSON_IsObject(j)) {
        snprintf(err, TB_JSON_ERR_MAX, "the body is not a JSON object");
        return -EBADMSG;
    }
    *ret = TAKE_PTR(j);
    return 0;
}

static int request_get_id(const cJSON *o, const char *name, bool (*valid)(const char *), const char *fault,
                          char out[static TB_ID_MAX + 1], char *err)
{
    const char *s;
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return r;
    if (!valid(s))
        return request_fault(err, name, fault);
    strcpy(out, s);
    return 0;
}

static int request_get_contract(const cJSON *o, char out[static TB_ID_MAX + 1], char *err)
{
    return request_get_id(o, "contract_id", tb_id_valid, "does not match ^[A-Za-z0-9_-]{1,100}$", out, err);
}

static int request_get_asset(const cJSON *o, char out[static TB_ID_MAX + 1], char *err)
{
    return request_get_id(o, "asset_id", tb_asset_id_valid, "is not " TB_ASSET_ID_WORDS, out, err);
}

static int request_get_url(const cJSON *o, const char *name, char out[static CP_URL_MAX + 1], char *err)
{
    const char *s, *why;
    char full[64];
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return r;
    why = cp_blob_url_fault(s);
    if (why) {
        snprintf(full, sizeof(full), "blob_urls.%s", name);
        return request_fault(err, full, why);
    }
    strcpy(out, s);
    return 0;
}

/* 64 hex digits, kept in lower case. */
static int request_copy_sha256(const char *name, const char *s, char out[static CP_SHA256_HEX + 1], char *err)
{
    if (strlen(s) != CP_SHA256_HEX || strspn(s, "0123456789abcdefABCDEF") != CP_SHA256_HEX)
        return request_fault(err, name, "is not 64 hex digits");
    for (int i = 0; i <= CP_SHA256_HEX; i++)
        out[i] = (char)tolower((unsigned char)s[i]);
    return 0;
}

static int request_expect_string(const cJSON *o, const char *name, const char *value, char *err)
{
    const char *s;
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return r;
    if (strcmp(s, value) == 0)
        return 0;
    snprintf(err, TB_JSON_ERR_MAX, "metadata.%s is not \"%s\"", name, value);
    return -EINVAL;
}

static int request_parse_metadata(const cJSON *m, struct cp_asset *a, char *err)
{
    const char *s;
    int r;

    r = request_expect_string(m, "format", "tbenc/v1", err);
    if (r < 0)
        return r;
    r = request_expect_string(m, "algo", "aes-256-gcm-chunked", err);
    if (r < 0)
        return r;
    r = tb_json_get_uint(m, "chunk_bytes", CHUNK_BYTES_MAX, &a->chunk_bytes, err);
    if (r < 0)
        return r;
    if (a->chunk_bytes < CHUNK_BYTES_MIN)
        return request_fault(err, "metadata.chunk_bytes", "is less than 1024");
    r = tb_json_get_uint(m, "plaintext_bytes", TB_JSON_INT_MAX, &a->plaintext_bytes, err);
    if (r < 0)
        return r;
    r = tb_json_get_string(m, "sha256_ciphertext", &s, err);
    if (r < 0)
        return r;
    return request_copy_sha256("metadata.sha256_ciphertext", s, a->sha256_ciphertext, err);
}

/* Optional, beside the metadata or in it. */
static int request_parse_manifest_sha256(const cJSON *root, const cJSON *metadata, struct cp_asset *a,
                                         char *err)
{
    const cJSON *holder = tb_json_member(root, "manifest_sha256") ? root : metadata;
    const char *s;
    int r;

    if (!tb_json_member(holder, "manifest_sha256"))
        return 0;
    r = tb_json_get_string(holder, "manifest_sha256", &s, err);
    return r < 0 ? r : request_copy_sha256("manifest_sha256", s, a->manifest_sha256, err);
}

static int request_parse_key(const cJSON *root, struct tb_key *ret, char *err)
{
    const char *s;
    int r;

    r = tb_json_get_string(root, "decryption_key_hex", &s, err);
    if (r < 0)
        return r;
    r = tb_hex_decode(s, strlen(s), ret->b, sizeof(ret->b));
    return r < 0 ? request_fault(err, "decryption_key_hex", "is not 64 hex digits") : 0;
}

/* An option that is there must be one. */
static int request_get_flag(const cJSON *root, const char *name, bool fallback, bool *ret, char *err)
{
    *ret = fallback;
    return tb_json_member(root, name) ? tb_json_get_bool(root, name, ret, err) : 0;
}

int cp_register_parse(const char *body, size_t len, struct cp_asset *ret, struct cp_put_how *ret_how,
                      struct tb_key *ret_key, char err[static TB_JSON_ERR_MAX])
{
    _cleanup_secret_json_ cJSON *j = NULL;
    _cleanup_key_ struct tb_key key = {0};
    const cJSON *urls, *metadata;
    struct cp_asset a = {0};
    bool promote;
    int r;

    r = request_parse_object(body, len, &j, err);
    if (r < 0)
        return r;
    r = request_get_asset(j, a.asset_id, err);
    if (r < 0)
        return r;
    r = request_get_object(j, "blob_urls", &urls, err);
    if (r < 0)
        return r;
    r = request_get_url(urls, "ciphertext", a.ciphertext_url, err);
    if (r < 0)
        return r;
    r = request_get_url(urls, "manifest", a.manifest_url, err);
    if (r < 0)
        return r;
    r = request_get_object(j, "metadata", &metadata, err);
    if (r < 0)
        return r;
    r = request_parse_metadata(metadata, &a, err);
    if (r < 0)
        return r;
    r = request_parse_manifest_sha256(j, metadata, &a, err);
    if (r < 0)
        return r;
    r = request_get_flag(j, "replace", false, &ret_how->replace, err);
    if (r == 0)
        r = request_get_flag(j, "promote", true, &promote, err);
    if (r < 0)
        return r;
    ret_how->beside = !promote;
    r = request_parse_key(j, &key, err);
    if (r < 0)
        return r;
    *ret = a;
    *ret_key = key;
    return 0;
}

static int request_parse_place(const cJSON *m, struct cp_places *p, char *err)
{
    struct cp_blob_place *l = &p->v[p->n];
    int r;

    if (!cJSON_IsObject(m))
        return request_fault(err, "blob_urls.further", "has a member that is not an object");
    if (p->n == CP_PLACES_MAX)
        return request_fault(err, "blob_urls.further", "has more than 15 places");
    r = request_get_url(m, "ciphertext", l->ciphertext_url, err);
    if (r == 0)
        r = request_get_url(m, "manifest", l->manifest_url, err);
    for (size_t i = 0; r == 0 && i < p->n; i++)
        if (strcmp(p->v[i].ciphertext_url, l->ciphertext_url) == 0)
            r = request_fault(err, "blob_urls", "has one URL twice");
    p->n += r == 0;
    return r;
}

int cp_register_places(const char *body, size_t len, const struct cp_asset *a, struct cp_places *ret,
                       char err[static TB_JSON_ERR_MAX])
{
    _cleanup_secret_json_ cJSON *j = NULL;
    const cJSON *further, *m;
    int r = request_parse_object(body, len, &j, err);

    if (r < 0)
        return r;
    ret->n = 1;
    strcpy(ret->v[0].ciphertext_url, a->ciphertext_url);
    strcpy(ret->v[0].manifest_url, a->manifest_url);
    further = tb_json_member(tb_json_member(j, "blob_urls"), "further");
    if (further && !cJSON_IsArray(further))
        return request_fault(err, "blob_urls.further", "is not an array");
    cJSON_ArrayForEach (m, further) {
        r = request_parse_place(m, ret, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Beside the point of the request: whatever is wrong with it, the request stands without. */
static void request_take_usage(const cJSON *o, struct cp_authorize *q)
{
    const char *report, *hmac;
    char err[TB_JSON_ERR_MAX];

    if (tb_json_get_string(o, "usage_report", &report, err) < 0 || strlen(report) > TB_REPORT_MAX ||
        tb_json_get_string(o, "usage_hmac", &hmac, err) < 0 || strlen(hmac) != TB_REPORT_MAC_HEX)
        return;
    strcpy(q->usage_report, report);
    strcpy(q->usage_hmac, hmac);
}

int cp_authorize_parse(const char *body, size_t len, struct cp_authorize *ret,
                       char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *j = NULL;
    struct cp_authorize q = {0};
    const char *hw;
    int r;

    r = request_parse_object(body, len, &j, err);
    if (r < 0)
        return r;
    r = request_get_contract(j, q.contract_id, err);
    if (r < 0)
        return r;
    r = request_get_asset(j, q.asset_id, err);
    if (r < 0)
        return r;
    r = tb_json_get_string(j, "hw_id", &hw, err);
    if (r < 0)
        return r;
    for (const char *s = hw; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return request_fault(err, "hw_id", "has a character that is not printable ASCII");
    if (*hw == '\0' || strlen(hw) > CP_HW_ID_MAX)
        return request_fault(err, "hw_id", "is empty or longer than 200 characters");
    strcpy(q.hw_id, hw);
    /* One that says nothing is served as one that does not say. */
    (void)tb_json_get_uint(j, "held_version", INT64_MAX, &q.held_version, err);
    request_take_usage(j, &q);
    *ret = q;
    return 0;
}

static int enrol_get(const cJSON *j, const char *name, char *out, size_t room,
                     char err[static TB_JSON_ERR_MAX])
{
    const char *text;
    int r = tb_json_get_string(j, name, &text, err);

    if (r < 0)
        return r;
    if (!*text || strlen(text) > room)
        return request_fault(err, name, "is empty or too long");
    strcpy(out, text);
    return 0;
}

int cp_enrol_parse(const char *body, size_t len, bool renew, struct cp_enrol *ret,
                   char err[static TB_JSON_ERR_MAX])
{
    _cleanup_secret_json_ cJSON *j = NULL;
    struct cp_enrol q = {0};
    int r = request_parse_object(body, len, &j, err);

    if (r == 0 && !renew)
        r = request_get_contract(j, q.contract_id, err);
    if (r == 0 && !renew && !tb_json_member(j, "code") && tb_json_member(j, "identity_token"))
        r = enrol_get(j, "identity_token", q.identity_token, CP_IDENTITY_TOKEN_MAX, err);
    else if (r == 0 && !renew)
        r = enrol_get(j, "code", q.code, CP_CODE_MAX, err);
    if (r == 0)
        r = enrol_get(j, "csr", q.csr, CP_CSR_MAX, err);
    if (r == 0)
        *ret = q;
    tb_erase(q.code, sizeof(q.code));
    tb_erase(q.identity_token, sizeof(q.identity_token));
    return r;
}
