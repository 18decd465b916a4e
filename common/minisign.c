/* SPDX-License-Identifier: Apache-2.0 */
#include "common/minisign.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "common/base64.h"

#define SIG_BYTES (2 + TB_MINISIGN_ID_BYTES + TB_MINISIGN_SIG_BYTES) /* in the base64 of the second line */
#define UNTRUSTED "untrusted comment:"
#define TRUSTED "trusted comment: "

static void pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static void md_ctx_freep(EVP_MD_CTX **c)
{
    EVP_MD_CTX_free(*c);
}

static _printf_(3, 4) int minisign_fail(char *err, int rc, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(err, TB_MINISIGN_ERR_MAX, fmt, ap);
    va_end(ap);
    return rc;
}

void tb_minisign_id_format(const uint8_t id[static TB_MINISIGN_ID_BYTES],
                           char out[static TB_MINISIGN_ID_HEX + 1])
{
    for (size_t i = 0; i < TB_MINISIGN_ID_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02X", id[TB_MINISIGN_ID_BYTES - 1 - i]);
}

/* --- public keys ---------------------------------------------------------------------------------------- */

/* y of the points of order 1, 2, 4 and 8. "Signatures" of such a key hold for any message, or for many. */
static const uint8_t small_order[][TB_MINISIGN_PUBLIC_BYTES] = {
    {0x00},
    {0x01},
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
     0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
     0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
};

/* The last byte's high bit is the sign of x. */
static bool public_is_canonical(const uint8_t k[static TB_MINISIGN_PUBLIC_BYTES])
{
    if ((k[31] & 0x7f) != 0x7f || k[0] < 0xed)
        return true;
    for (size_t i = 1; i < 31; i++)
        if (k[i] != 0xff)
            return true;
    return false; /* y >= 2^255 - 19 */
}

static bool public_has_small_order(const uint8_t k[static TB_MINISIGN_PUBLIC_BYTES])
{
    for (size_t i = 0; i < ARRAY_SIZE(small_order); i++)
        if (memcmp(k, small_order[i], 31) == 0 && (k[31] & 0x7f) == small_order[i][31])
            return true;
    return false;
}

static int key_parse(const char *s, size_t len, struct tb_minisign_key *ret, char *err)
{
    uint8_t raw[TB_MINISIGN_KEY_CHARS];

    if (len != TB_MINISIGN_KEY_CHARS || tb_base64_decode(s, len, raw) != TB_MINISIGN_KEY_BYTES)
        return minisign_fail(
            err, -EBADMSG,
            "\"%.*s%s\" is no public key of minisign: %d characters of base64, beginning with RW",
            (int)MIN(len, 20U), s, len > 20 ? "..." : "", TB_MINISIGN_KEY_CHARS);
    if (memcmp(raw, "Ed", 2) != 0)
        return minisign_fail(err, -EBADMSG, "\"%.20s...\" is a key of another kind than Ed25519", s);
    memcpy(ret->id, raw + 2, sizeof(ret->id));
    memcpy(ret->public, raw + 2 + sizeof(ret->id), sizeof(ret->public));
    if (!public_is_canonical(ret->public) || public_has_small_order(ret->public))
        return minisign_fail(err, -EBADMSG,
                             "\"%.20s...\" is a weak key, for which anybody can make signatures", s);
    return 0;
}

static int keys_add(struct tb_minisign_keys *k, const char *s, size_t len, char *err)
{
    struct tb_minisign_key key;
    int r = key_parse(s, len, &key, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < k->n; i++)
        if (memcmp(&k->v[i], &key, sizeof(key)) == 0)
            return 0;
    if (k->n == TB_MINISIGN_KEYS_MAX)
        return minisign_fail(err, -EBADMSG,
                             "there are more than %d keys; remove what no manifest is signed with",
                             TB_MINISIGN_KEYS_MAX);
    k->v[k->n++] = key;
    return 0;
}

static bool line_begins(const char *line, size_t len, const char *with)
{
    return len >= strlen(with) && memcmp(line, with, strlen(with)) == 0;
}

int tb_minisign_keys_parse(const char *buf, size_t len, struct tb_minisign_keys *ret,
                           char err[static TB_MINISIGN_ERR_MAX])
{
    static const char between[] = ", \t\r";
    struct tb_minisign_keys k = {.n = 0};

    if (memchr(buf, '\0', len))
        return minisign_fail(err, -EBADMSG, "there is a NUL byte in it");
    for (size_t at = 0; at < len;) {
        const char *line = buf + at, *end = memchr(line, '\n', len - at);
        size_t n = end ? (size_t)(end - line) : len - at;

        at += n + 1;
        if (line_begins(line, n, UNTRUSTED) || line_begins(line, n, "#"))
            continue;
        for (size_t i = 0, w; i < n; i += w) {
            int r;

            for (w = 0; i + w < n && !strchr(between, line[i + w]);)
                w++;
            r = w > 0 ? keys_add(&k, line + i, w, err) : 0;
            if (r < 0)
                return r;
            w += w == 0;
        }
    }
    if (k.n == 0)
        return minisign_fail(err, -EBADMSG, "there is no key in it");
    *ret = k;
    return 0;
}

/* --- signatures ----------------------------------------------------------------------------------------- */

/* The next line, without its end; false at the end of the text. */
static bool sig_line(const char **p, const char *end, const char **ret, size_t *ret_len)
{
    const char *nl;

    if (*p == end)
        return false;
    nl = memchr(*p, '\n', (size_t)(end - *p));
    *ret = *p;
    *ret_len = (size_t)((nl ? nl : end) - *p);
    *p = nl ? nl + 1 : end;
    if (*ret_len > 0 && (*ret)[*ret_len - 1] == '\r')
        --*ret_len;
    return true;
}

/* It is shown to people. */
static bool sig_comment_is_plain(const char *s, size_t len)
{
    if (len > TB_MINISIGN_COMMENT_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
            return false;
    return true;
}

int tb_minisign_sig_parse(const char *buf, size_t len, struct tb_minisign_sig *ret,
                          char err[static TB_MINISIGN_ERR_MAX])
{
    const char *p = buf, *line[4], *rest;
    uint8_t raw[TB_BASE64_CHARS(SIG_BYTES)];
    size_t n[4], rest_len;

    if (len > TB_MINISIGN_TEXT_MAX)
        return minisign_fail(err, -EBADMSG, "the signature is longer than %d bytes", TB_MINISIGN_TEXT_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(line); i++)
        if (!sig_line(&p, buf + len, &line[i], &n[i]))
            return minisign_fail(err, -EBADMSG, "the signature has less than four lines: it was cut");
    if (sig_line(&p, buf + len, &rest, &rest_len))
        return minisign_fail(err, -EBADMSG, "the signature has more than four lines");
    if (!line_begins(line[0], n[0], UNTRUSTED) || !line_begins(line[2], n[2], TRUSTED))
        return minisign_fail(err, -EBADMSG,
                             "the signature is not in minisign's format: lines 1 and 3 are no comments");
    ret->comment = line[2] + strlen(TRUSTED);
    ret->comment_len = n[2] - strlen(TRUSTED);
    if (!sig_comment_is_plain(ret->comment, ret->comment_len))
        return minisign_fail(err, -EBADMSG,
                             "the signature's trusted comment is too long or holds control bytes");
    if (n[1] != TB_BASE64_CHARS(SIG_BYTES) || tb_base64_decode(line[1], n[1], raw) != SIG_BYTES)
        return minisign_fail(err, -EBADMSG, "line 2 of the signature is not %d characters of base64",
                             TB_BASE64_CHARS(SIG_BYTES));
    if (memcmp(raw, "Ed", 2) == 0)
        return minisign_fail(
            err, -EBADMSG,
            "the signature is of minisign's legacy form, which is not accepted; sign without -l, "
            "by minisign 0.10 or later or by tbpkg");
    if (memcmp(raw, "ED", 2) != 0)
        return minisign_fail(err, -EBADMSG, "the signature is of an algorithm that is not known");
    memcpy(ret->key_id, raw + 2, sizeof(ret->key_id));
    memcpy(ret->sig, raw + 2 + sizeof(ret->key_id), sizeof(ret->sig));
    if (n[3] != TB_BASE64_CHARS(TB_MINISIGN_SIG_BYTES) ||
        tb_base64_decode(line[3], n[3], raw) != TB_MINISIGN_SIG_BYTES)
        return minisign_fail(err, -EBADMSG, "line 4 of the signature is not %d characters of base64",
                             TB_BASE64_CHARS(TB_MINISIGN_SIG_BYTES));
    memcpy(ret->global, raw, sizeof(ret->global));
    return 0;
}

/* --- verification --------------------------------------------------------------------------------------- */

int tb_minisign_hash(const void *msg, size_t len, uint8_t out[static TB_BLAKE2B_BYTES])
{
    unsigned n = TB_BLAKE2B_BYTES;

    return EVP_Digest(msg, len, out, &n, EVP_blake2b512(), NULL) == 1 && n == TB_BLAKE2B_BYTES ? 0 : -EIO;
}

/* OpenSSL refuses an S that is not below the group's order. */
static int key_verify(const struct tb_minisign_key *k, const uint8_t sig[static TB_MINISIGN_SIG_BYTES],
                      const void *msg, size_t len)
{
    _cleanup_(pkey_freep) EVP_PKEY *pkey =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, k->public, sizeof(k->public));
    _cleanup_(md_ctx_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    if (!pkey || !ctx || EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) != 1)
        return -EIO;
    return EVP_DigestVerify(ctx, sig, TB_MINISIGN_SIG_BYTES, msg, len) == 1 ? 0 : -EBADMSG;
}

static int key_verify_both(const struct tb_minisign_key *k, const struct tb_minisign_sig *sig,
                           const uint8_t hash[static TB_BLAKE2B_BYTES], char *err)
{
    uint8_t all[TB_MINISIGN_SIG_BYTES + TB_MINISIGN_COMMENT_MAX];
    int r = key_verify(k, sig->sig, hash, TB_BLAKE2B_BYTES);

    if (r == -EBADMSG)
        return minisign_fail(err, r,
                             "the signature does not belong to it: one of the two was changed, or the "
                             "signature is of another file");
    if (r == 0) {
        memcpy(all, sig->sig, TB_MINISIGN_SIG_BYTES);
        memcpy(all + TB_MINISIGN_SIG_BYTES, sig->comment, sig->comment_len);
        r = key_verify(k, sig->global, all, TB_MINISIGN_SIG_BYTES + sig->comment_len);
    }
    if (r == -EBADMSG)
        return minisign_fail(err, r, "the signature's trusted comment was changed");
    return r < 0 ? minisign_fail(err, r, "the crypto library refused to check the signature") : 0;
}

int tb_minisign_verify(const struct tb_minisign_keys *keys, const struct tb_minisign_sig *sig,
                       const void *msg, size_t len, const struct tb_minisign_key **ret,
                       char err[static TB_MINISIGN_ERR_MAX])
{
    uint8_t hash[TB_BLAKE2B_BYTES];
    char id[TB_MINISIGN_ID_HEX + 1];
    int r = -ENOKEY;

    if (tb_minisign_hash(msg, len, hash) < 0)
        return minisign_fail(err, -EIO, "the crypto library has no BLAKE2b-512");
    /* Ids are no secret and may collide: each key of this id is tried. */
    for (size_t i = 0; i < keys->n && r != 0; i++) {
        if (memcmp(keys->v[i].id, sig->key_id, sizeof(sig->key_id)) != 0)
            continue;
        r = key_verify_both(&keys->v[i], sig, hash, err);
        if (r == 0 && ret)
            *ret = &keys->v[i];
    }
    if (r != -ENOKEY)
        return r;
    tb_minisign_id_format(sig->key_id, id);
    return minisign_fail(err, r, "it is signed with key %s, which is not trusted here", id);
}
