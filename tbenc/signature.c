/* SPDX-License-Identifier: Apache-2.0 */
#include "tbenc/signature.h"

#include <string.h>

#include "common/buf.h"
#include "common/json.h"
#include "tbenc/internal.h"

#define SIGNATURE_BEGIN ",\n  \"signature\": "
#define MANIFEST_END "\n}"

static bool signature_ends_with(const char *buf, size_t len, const char *end)
{
    size_t n = strlen(end);

    return len >= n && memcmp(buf + len - n, end, n) == 0;
}

/* Where the member begins, or NULL. The last one: a string before it may hold these bytes. */
static const char *signature_find(const char *buf, size_t len)
{
    const char *found = NULL, *p = buf;

    while ((p = memmem(p, len - (size_t)(p - buf), SIGNATURE_BEGIN, strlen(SIGNATURE_BEGIN))))
        found = p++;
    return found;
}

static int signature_bad_form(struct tbenc_error *e)
{
    return tbenc_fail(e, -EBADMSG,
                      "manifest: its signature is not the last member, as it was written: somebody wrote the "
                      "manifest anew; publish the file as tbpkg made it");
}

/* A JSON string and MANIFEST_END. */
static int signature_parse_value(const char *value, size_t len, char **ret, struct tbenc_error *e)
{
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX];

    if (!signature_ends_with(value, len, MANIFEST_END) ||
        tb_json_parse(value, len - strlen(MANIFEST_END), 2 * TB_MINISIGN_TEXT_MAX, &j, err) < 0 ||
        !cJSON_IsString(j))
        return signature_bad_form(e);
    *ret = strdup(j->valuestring);
    return *ret ? 0 : tbenc_fail(e, -ENOMEM, "out of memory");
}

int tbenc_signature_split(const char *buf, size_t len, char **ret_text, size_t *ret_len, char **ret_sig,
                          struct tbenc_error *e)
{
    const char *at = signature_find(buf, len);
    size_t n = at ? (size_t)(at - buf) : len, value = n + strlen(SIGNATURE_BEGIN);
    _cleanup_free_ char *text = malloc(n + strlen(MANIFEST_END) + 1), *sig = NULL;
    int r = 0;

    if (!text)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    if (at)
        r = signature_parse_value(buf + value, len - value, &sig, e);
    if (r < 0)
        return r;
    memcpy(text, buf, n);
    memcpy(text + n, at ? MANIFEST_END : "", at ? strlen(MANIFEST_END) + 1 : 1);
    *ret_len = n + (at ? strlen(MANIFEST_END) : 0);
    *ret_text = TAKE_PTR(text);
    *ret_sig = TAKE_PTR(sig);
    return 0;
}

int tbenc_signature_join(const char *text, size_t len, const char *sig, char **ret, size_t *ret_len)
{
    _cleanup_buf_ struct tb_buf b = {.max = TBENC_MANIFEST_MAX};

    if (!signature_ends_with(text, len, MANIFEST_END) || signature_find(text, len))
        return -EINVAL;
    (void)tb_buf_append(&b, text, len - strlen(MANIFEST_END));
    (void)tb_buf_puts(&b, SIGNATURE_BEGIN);
    (void)tb_buf_json_string(&b, sig, strlen(sig));
    (void)tb_buf_puts(&b, MANIFEST_END);
    *ret_len = b.len;
    b.max++; /* a NUL, as all texts of ours have */
    if (tb_buf_append(&b, "", 1) < 0)
        return tb_buf_error(&b);
    *ret = TAKE_PTR(b.data);
    return 0;
}

static int signature_fail(struct tbenc_error *e, int r, const char *err)
{
    return tbenc_fail(e, r, "manifest: %s", err);
}

static void signature_describe(const struct tb_minisign_sig *sig, struct tbenc_signature *ret)
{
    *ret = (struct tbenc_signature){.present = true};
    tb_minisign_id_format(sig->key_id, ret->key_id);
    memcpy(ret->comment, sig->comment, sig->comment_len);
}

int tbenc_signature_look(const char *buf, size_t len, struct tbenc_signature *ret, struct tbenc_error *e)
{
    _cleanup_free_ char *text = NULL, *sig = NULL;
    struct tb_minisign_sig s;
    char err[TB_MINISIGN_ERR_MAX];
    int r = tbenc_signature_split(buf, len, &text, &len, &sig, e);

    *ret = (struct tbenc_signature){0};
    if (r < 0 || !sig)
        return r;
    r = tb_minisign_sig_parse(sig, strlen(sig), &s, err);
    if (r < 0)
        return signature_fail(e, r, err);
    signature_describe(&s, ret);
    return 0;
}

int tbenc_manifest_parse_signed(const char *buf, size_t len, unsigned flags,
                                const struct tb_minisign_keys *keys, struct tbenc_manifest **ret,
                                struct tbenc_error *e)
{
    _cleanup_free_ char *text = NULL, *sig = NULL;
    struct tb_minisign_sig s;
    char err[TB_MINISIGN_ERR_MAX];
    int r;

    if (!keys || keys->n == 0)
        return tbenc_manifest_parse(buf, len, flags, ret, e);
    if (len > TBENC_MANIFEST_MAX)
        return tbenc_fail(e, -EFBIG, "manifest: larger than %d bytes", TBENC_MANIFEST_MAX);
    r = tbenc_signature_split(buf, len, &text, &len, &sig, e);
    if (r < 0)
        return r;
    if (!sig)
        return signature_fail(e, -ENOKEY,
                              "it is not signed, or its signature was lost when it was written anew");
    r = tb_minisign_sig_parse(sig, strlen(sig), &s, err);
    if (r == 0)
        r = tb_minisign_verify(keys, &s, text, len, NULL, err);
    return r < 0 ? signature_fail(e, r, err) : tbenc_manifest_parse(text, len, flags, ret, e);
}
