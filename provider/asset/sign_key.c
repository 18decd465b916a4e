/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/sign_key.h"

#include <endian.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <string.h>

#include "common/base64.h"
#include "common/io.h"
#include "common/secret.h"
#include "provider/asset/blake2b.h"

/* algorithm, way of locking, checksum; salt, two numbers, body */
#define SECRET_RAW_BYTES (6 + SIGN_SALT_BYTES + 16 + SIGN_LOCKED_BYTES)
#define SECRET_CHARS TB_BASE64_CHARS(SECRET_RAW_BYTES)
#define ID_AND_SECRET (TB_MINISIGN_ID_BYTES + SIGN_SECRET_BYTES)
#define SEED_BYTES 32
#define SCRYPT_R 8
#define SCRYPT_MEMORY_MAX (UINT64_C(4) << 30)
#define SCRYPT_P_MAX 64

static void sign_pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static void sign_ctx_freep(EVP_MD_CTX **c)
{
    EVP_MD_CTX_free(*c);
}

static _printf_(3, 4) int sign_fail(char *err, int rc, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(err, TB_MINISIGN_ERR_MAX, fmt, ap);
    va_end(ap);
    return rc;
}

/* --- the file ------------------------------------------------------------------------------------------- */

/* The one line that is no comment. */
static bool sign_file_line(const char *buf, size_t len, const char **ret, size_t *ret_len)
{
    *ret = NULL;
    for (size_t at = 0; at < len;) {
        const char *line = buf + at, *end = memchr(line, '\n', len - at);
        size_t n = end ? (size_t)(end - line) : len - at;

        at += n + 1;
        n -= n > 0 && line[n - 1] == '\r';
        if (n == 0 || (n >= 18 && memcmp(line, "untrusted comment:", 18) == 0))
            continue;
        if (*ret)
            return false;
        *ret = line;
        *ret_len = n;
    }
    return *ret;
}

static uint64_t sign_get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

static void sign_put64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

int sign_file_parse(const char *buf, size_t len, struct sign_file *ret, char err[static TB_MINISIGN_ERR_MAX])
{
    uint8_t raw[SECRET_CHARS];
    const char *line;
    size_t n = 0;
    int r = 0;

    if (!sign_file_line(buf, len, &line, &n) || n != SECRET_CHARS ||
        tb_base64_decode(line, n, raw) != SECRET_RAW_BYTES)
        r = sign_fail(
            err, -EBADMSG,
            "is no secret key of minisign; a public key and the key of an asset are something else");
    else if (memcmp(raw, "Ed", 2) != 0 || memcmp(raw + 4, "B2", 2) != 0)
        r = sign_fail(err, -EBADMSG, "is a secret key of another kind than Ed25519 with BLAKE2b");
    else if (memcmp(raw + 2, "Sc", 2) != 0 && memcmp(raw + 2, "\0\0", 2) != 0)
        r = sign_fail(err, -EBADMSG, "is locked in a way that is not known");
    if (r == 0) {
        ret->locked = raw[2] == 'S';
        memcpy(ret->salt, raw + 6, sizeof(ret->salt));
        ret->opslimit = sign_get64(raw + 6 + SIGN_SALT_BYTES);
        ret->memlimit = sign_get64(raw + 6 + SIGN_SALT_BYTES + 8);
        memcpy(ret->body, raw + 6 + SIGN_SALT_BYTES + 16, sizeof(ret->body));
    }
    tb_erase(raw, sizeof(raw));
    return r;
}

static unsigned scrypt_log2(uint64_t max)
{
    unsigned n = 1;

    while (n < 63 && UINT64_C(1) << n <= max / 2)
        n++;
    return n;
}

/* N and p as libsodium derives them from its two limits. */
static int scrypt_params(uint64_t opslimit, uint64_t memlimit, uint64_t *ret_n, uint64_t *ret_p, char *err)
{
    unsigned log2;

    opslimit = MAX(opslimit, UINT64_C(32768));
    *ret_p = 1;
    if (opslimit < memlimit / 32) {
        log2 = scrypt_log2(opslimit / (SCRYPT_R * 4));
    } else {
        log2 = scrypt_log2(memlimit / (SCRYPT_R * 128));
        *ret_p = MIN(opslimit / 4 >> log2, UINT64_C(0x3fffffff)) / SCRYPT_R;
    }
    *ret_n = UINT64_C(1) << log2;
    if (*ret_p < 1 || *ret_p > SCRYPT_P_MAX || *ret_n > SCRYPT_MEMORY_MAX / (128 * SCRYPT_R))
        return sign_fail(err, -EBADMSG, "asks for more work than %d GiB and %d rounds to be unlocked",
                         (int)(SCRYPT_MEMORY_MAX >> 30), SCRYPT_P_MAX);
    return 0;
}

/* Locks and unlocks. */
static int sign_body_crypt(struct sign_file *f, const char *passphrase, char *err)
{
    uint8_t stream[SIGN_LOCKED_BYTES];
    uint64_t n, p;
    int r = scrypt_params(f->opslimit, f->memlimit, &n, &p, err);

    if (r < 0)
        return r;
    if (EVP_PBE_scrypt(passphrase, strlen(passphrase), f->salt, sizeof(f->salt), n, SCRYPT_R, p,
                       128 * SCRYPT_R * (n + p + 4) + (1U << 20), stream, sizeof(stream)) != 1)
        return sign_fail(err, -ENOMEM, "cannot be unlocked: scrypt needs %llu MiB of memory",
                         (unsigned long long)(128 * SCRYPT_R * n >> 20));
    for (size_t i = 0; i < sizeof(stream); i++)
        f->body[i] ^= stream[i];
    tb_erase(stream, sizeof(stream));
    return 0;
}

static void sign_checksum(const uint8_t body[static SIGN_LOCKED_BYTES],
                          uint8_t out[static SIGN_CHECKSUM_BYTES])
{
    uint8_t all[2 + ID_AND_SECRET] = "Ed";

    memcpy(all + 2, body, ID_AND_SECRET);
    blake2b(all, sizeof(all), out, SIGN_CHECKSUM_BYTES);
    tb_erase(all, sizeof(all));
}

/* The public half that stands behind the seed is of it. */
static int sign_key_check(const struct sign_key *k, char *err)
{
    _cleanup_(sign_pkey_freep) EVP_PKEY *pkey =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, k->secret, SEED_BYTES);
    uint8_t public[TB_MINISIGN_PUBLIC_BYTES];
    size_t n = sizeof(public);

    if (!pkey || EVP_PKEY_get_raw_public_key(pkey, public, &n) != 1)
        return sign_fail(err, -EIO, "cannot be used: the crypto library has no Ed25519");
    if (memcmp(public, k->secret + SEED_BYTES, sizeof(public)) != 0)
        return sign_fail(err, -EBADMSG, "is damaged: its two halves do not belong together");
    return 0;
}

int sign_file_open(const struct sign_file *f, const char *passphrase, struct sign_key *ret,
                   char err[static TB_MINISIGN_ERR_MAX])
{
    struct sign_file open = *f;
    uint8_t sum[SIGN_CHECKSUM_BYTES];
    int r = f->locked ? sign_body_crypt(&open, passphrase, err) : 0;

    sign_checksum(open.body, sum);
    if (r == 0 && f->locked && !tb_mem_equal(sum, open.body + ID_AND_SECRET, sizeof(sum)))
        r = sign_fail(err, -EACCES, "is not unlocked by this passphrase");
    if (r == 0) {
        memcpy(ret->id, open.body, sizeof(ret->id));
        memcpy(ret->secret, open.body + sizeof(ret->id), sizeof(ret->secret));
        r = sign_key_check(ret, err);
    }
    tb_erase(&open, sizeof(open));
    return r;
}

static int sign_key_lock(const struct sign_key *k, const char *passphrase, struct sign_file *f, char *err)
{
    memcpy(f->body, k->id, sizeof(k->id));
    memcpy(f->body + sizeof(k->id), k->secret, sizeof(k->secret));
    sign_checksum(f->body, f->body + ID_AND_SECRET);
    f->locked = passphrase;
    if (!passphrase)
        return 0;
    if (tb_random(f->salt, sizeof(f->salt)) < 0)
        return sign_fail(err, -EIO, "cannot be locked: there is no random salt");
    return sign_body_crypt(f, passphrase, err);
}

int sign_key_format(const struct sign_key *k, const char *passphrase, uint64_t opslimit, uint64_t memlimit,
                    char **ret, char err[static TB_MINISIGN_ERR_MAX])
{
    static const char comment[] = "untrusted comment: minisign encrypted secret key\n";
    struct sign_file f = {.opslimit = passphrase ? opslimit : 0, .memlimit = passphrase ? memlimit : 0};
    uint8_t raw[SECRET_RAW_BYTES] = "Ed\0\0B2";
    char *text = NULL;
    int r = sign_key_lock(k, passphrase, &f, err);

    if (r == 0 && !(text = tb_secret_alloc(sizeof(comment) + SECRET_CHARS + 2)))
        r = sign_fail(err, -ENOMEM, "cannot be written: out of memory");
    if (r == 0) {
        memcpy(raw + 2, f.locked ? "Sc" : "\0\0", 2);
        memcpy(raw + 6, f.salt, sizeof(f.salt));
        sign_put64(raw + 6 + SIGN_SALT_BYTES, f.opslimit);
        sign_put64(raw + 6 + SIGN_SALT_BYTES + 8, f.memlimit);
        memcpy(raw + 6 + SIGN_SALT_BYTES + 16, f.body, sizeof(f.body));
        memcpy(text, comment, sizeof(comment));
        tb_base64_encode(raw, sizeof(raw), text + strlen(comment));
        strcat(text, "\n");
        *ret = text;
    }
    tb_erase(&f, sizeof(f));
    tb_erase(raw, sizeof(raw));
    return r;
}

/* --- keys ----------------------------------------------------------------------------------------------- */

int sign_key_make(struct sign_key *ret)
{
    _cleanup_(sign_pkey_freep) EVP_PKEY *pkey = NULL;
    size_t n = TB_MINISIGN_PUBLIC_BYTES;
    int r = tb_random(ret->id, sizeof(ret->id));

    if (r == 0)
        r = tb_random(ret->secret, SEED_BYTES);
    if (r < 0)
        return r;
    pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, ret->secret, SEED_BYTES);
    return pkey && EVP_PKEY_get_raw_public_key(pkey, ret->secret + SEED_BYTES, &n) == 1 ? 0 : -EIO;
}

void sign_key_public(const struct sign_key *k, struct tb_minisign_key *ret)
{
    memcpy(ret->id, k->id, sizeof(ret->id));
    memcpy(ret->public, k->secret + SEED_BYTES, sizeof(ret->public));
}

void sign_public_format(const struct tb_minisign_key *k, char out[static TB_MINISIGN_KEY_CHARS + 1])
{
    uint8_t raw[TB_MINISIGN_KEY_BYTES] = "Ed";

    memcpy(raw + 2, k->id, sizeof(k->id));
    memcpy(raw + 2 + sizeof(k->id), k->public, sizeof(k->public));
    tb_base64_encode(raw, sizeof(raw), out);
}

/* --- signatures ----------------------------------------------------------------------------------------- */

static int sign_bytes(EVP_PKEY *pkey, const void *msg, size_t len, uint8_t out[static TB_MINISIGN_SIG_BYTES])
{
    _cleanup_(sign_ctx_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t n = TB_MINISIGN_SIG_BYTES;

    if (!ctx || EVP_DigestSignInit(ctx, NULL, NULL, NULL, pkey) != 1)
        return -EIO;
    return EVP_DigestSign(ctx, out, &n, msg, len) == 1 && n == TB_MINISIGN_SIG_BYTES ? 0 : -EIO;
}

/* The signature itself, and the one over it and the comment. */
static int sign_both(const struct sign_key *k, const void *msg, size_t len, const char *comment,
                     uint8_t sig[static TB_MINISIGN_SIG_BYTES], uint8_t global[static TB_MINISIGN_SIG_BYTES])
{
    _cleanup_(sign_pkey_freep) EVP_PKEY *pkey =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, k->secret, SEED_BYTES);
    uint8_t hash[TB_BLAKE2B_BYTES], all[TB_MINISIGN_SIG_BYTES + TB_MINISIGN_COMMENT_MAX];
    int r = pkey ? tb_minisign_hash(msg, len, hash) : -EIO;

    if (r == 0)
        r = sign_bytes(pkey, hash, sizeof(hash), sig);
    if (r < 0)
        return r;
    memcpy(all, sig, TB_MINISIGN_SIG_BYTES);
    memcpy(all + TB_MINISIGN_SIG_BYTES, comment, strlen(comment));
    return sign_bytes(pkey, all, TB_MINISIGN_SIG_BYTES + strlen(comment), global);
}

int sign_message(const struct sign_key *k, const void *msg, size_t len, const char *comment, char **ret)
{
    uint8_t sig[2 + TB_MINISIGN_ID_BYTES + TB_MINISIGN_SIG_BYTES] = "ED", global[TB_MINISIGN_SIG_BYTES];
    char line2[TB_BASE64_CHARS(sizeof(sig)) + 1], line4[TB_BASE64_CHARS(sizeof(global)) + 1];
    int r = strlen(comment) <= TB_MINISIGN_COMMENT_MAX ? 0 : -EINVAL;

    memcpy(sig + 2, k->id, sizeof(k->id));
    if (r == 0)
        r = sign_both(k, msg, len, comment, sig + 2 + sizeof(k->id), global);
    if (r < 0)
        return r;
    tb_base64_encode(sig, sizeof(sig), line2);
    tb_base64_encode(global, sizeof(global), line4);
    *ret = tb_strf("untrusted comment: signature of a TrustBridge provider\n%s\ntrusted comment: %s\n%s\n",
                   line2, comment, line4);
    return *ret ? 0 : -ENOMEM;
}
