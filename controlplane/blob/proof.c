/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/proof.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/mman.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/log.h"
#include "controlplane/blob/fetch.h"

struct proof {
    const struct cp_claim *claim;
    const struct tb_http_tls *tls;
    struct tbenc_manifest *manifest;
    int fd;
    char *err;
};

static void proof_clear(struct proof *p)
{
    p->manifest = tbenc_manifest_free(p->manifest);
    p->fd = tb_close(p->fd);
}

static enum cp_proof proof_fail(struct proof *p, enum cp_proof what, const char *fmt, ...) _printf_(3, 4);
static enum cp_proof proof_fail(struct proof *p, enum cp_proof what, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->err, CP_PROOF_ERR_MAX, fmt, ap);
    va_end(ap);
    return what;
}

/* -- the manifest ------------------------------------------------------------------------------ */
static enum cp_proof proof_fetch_manifest(struct proof *p, struct tb_http_response *ret)
{
    const struct tb_http_request rq = {.url = p->claim->manifest_url,
                                       .max_response = TBENC_MANIFEST_MAX,
                                       .timeout_ms = 8000,
                                       .connect_timeout_ms = 5000,
                                       .tls = p->tls};
    char why[TB_HTTP_ERR_MAX];
    int r = tb_http_do(&rq, ret, why);

    if (r == -EFBIG)
        return proof_fail(p, CP_PROOF_WRONG_MANIFEST, "the manifest is larger than 1 MiB");
    if (r < 0)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "the manifest: %s", why);
    if (ret->status == 200)
        return CP_PROOF_GOOD;
    if (tb_http_status_retryable(ret->status) || ret->status >= 500)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "the manifest: the storage answers %ld", ret->status);
    return proof_fail(p, CP_PROOF_MISSING, "the manifest cannot be read: the storage answers %ld",
                      ret->status);
}

static bool proof_hash_is(const void *data, size_t len, const char *hex)
{
    uint8_t sum[32];
    char is[65];

    if (EVP_Digest(data, len, sum, NULL, EVP_sha256(), NULL) != 1)
        return false;
    tb_hex_encode(sum, sizeof(sum), is);
    return strcmp(is, hex) == 0;
}

static enum cp_proof proof_read_manifest(struct proof *p)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    const struct cp_claim *c = p->claim;
    struct tbenc_error e = {.message = ""};
    char sha256[65];
    enum cp_proof r = proof_fetch_manifest(p, &rs);

    if (r != CP_PROOF_GOOD)
        return r;
    if (*c->manifest_sha256 && !proof_hash_is(rs.body, rs.len, c->manifest_sha256))
        return proof_fail(
            p, CP_PROOF_WRONG_MANIFEST,
            "the manifest that lies there has another SHA-256 than the registered one: upload it");
    if (tbenc_manifest_parse(rs.body, rs.len, TBENC_OVERLAY, &p->manifest, &e) < 0)
        return proof_fail(p, CP_PROOF_WRONG_MANIFEST, "what lies there is no manifest: %s", e.message);
    tb_hex_encode(p->manifest->sha256_ciphertext, 32, sha256);
    if (strcmp(sha256, c->sha256_ciphertext) != 0 || p->manifest->chunk_bytes != c->chunk_bytes ||
        p->manifest->plaintext_bytes != c->plaintext_bytes)
        return proof_fail(
            p, CP_PROOF_WRONG_MANIFEST,
            "the manifest that lies there is of other contents than the registered ones: upload it");
    if (c->ret_base && p->manifest->base) {
        c->ret_base->version = p->manifest->base->version;
        tb_hex_encode(p->manifest->base->manifest_sha256, 32, c->ret_base->manifest_sha256);
        tb_hex_encode(p->manifest->base->sha256_ciphertext, 32, c->ret_base->sha256_ciphertext);
    }
    return CP_PROOF_GOOD;
}

/* -- the ciphertext ---------------------------------------------------------------------------- */
/* Header and first record. */
static enum cp_proof proof_fetch_blob(struct proof *p)
{
    uint64_t whole = tbenc_manifest_ciphertext_bytes(p->manifest), size, n = TBENC_HEADER_BYTES;
    struct tbenc_record first;
    char why[TB_HTTP_ERR_MAX];
    int r;

    if (tbenc_manifest_record(p->manifest, 0, &first) == 0)
        n += TBENC_RECORD_OVERHEAD + first.pt_len;
    p->fd = memfd_create("tb-proof", MFD_CLOEXEC);
    if (p->fd < 0)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "no memory for the first record: %s", strerror(errno));
    r = cp_fetch_beginning(p->claim->ciphertext_url, p->tls, n, p->fd, &size, why);
    if (r == -EAGAIN || r == -EIO)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "the ciphertext: %s", why);
    if (r == -ENOENT)
        return proof_fail(p, CP_PROOF_MISSING, "the ciphertext cannot be read: %s", why);
    if (r < 0)
        return proof_fail(p, CP_PROOF_WRONG_BLOB, "the ciphertext is not the manifest's: %s", why);
    if (size != UINT64_MAX && size != whole)
        return proof_fail(p, CP_PROOF_WRONG_BLOB,
                          "the ciphertext that lies there has %" PRIu64 " bytes, the manifest's has %" PRIu64,
                          size, whole);
    /* sparse: the reader wants a file of the right size */
    if (ftruncate(p->fd, (off_t)whole) < 0)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "no memory for the first record: %s", strerror(errno));
    return CP_PROOF_GOOD;
}

static enum cp_proof proof_check_header(struct proof *p)
{
    uint8_t b[TBENC_HEADER_BYTES + 4];
    struct tbenc_error e = {.message = ""};
    struct tbenc_record first;
    struct tbenc_header h;
    size_t n = tbenc_manifest_record(p->manifest, 0, &first) == 0 ? sizeof(b) : TBENC_HEADER_BYTES;
    uint32_t pt_len;

    if (pread(p->fd, b, n, 0) != (ssize_t)n)
        return proof_fail(p, CP_PROOF_UNAVAILABLE, "the ciphertext cannot be read back: %s", strerror(errno));
    if (tbenc_header_parse(b, TBENC_HEADER_BYTES, 0, &h, &e) < 0)
        return proof_fail(p, CP_PROOF_WRONG_BLOB, "what lies there is no encrypted asset: %s", e.message);
    pt_len = (uint32_t)b[32] << 24 | (uint32_t)b[33] << 16 | (uint32_t)b[34] << 8 | b[35];
    if (h.chunk_bytes != p->manifest->chunk_bytes || (n == sizeof(b) && pt_len != first.pt_len))
        return proof_fail(p, CP_PROOF_WRONG_BLOB,
                          "the ciphertext that lies there is not the manifest's: its "
                          "chunks are of another size");
    return CP_PROOF_GOOD;
}

/* A tag that does not fit is the key's fault or the blob's; the manifest may know the key's id. */
static enum cp_proof proof_blame(struct proof *p, const char *words)
{
    uint8_t id[TBENC_KEY_ID_BYTES];

    if (!p->manifest->has_key_id)
        return proof_fail(
            p, CP_PROOF_WRONG_KEY,
            "the key does not open the first record (%s): it is the key of another encryption, or "
            "the ciphertext is",
            words);
    if (tbenc_key_id(p->claim->key->b, id) == 0 && memcmp(id, p->manifest->key_id, sizeof(id)) != 0)
        return proof_fail(p, CP_PROOF_WRONG_KEY, "the key is not the one that the manifest names");
    return proof_fail(
        p, CP_PROOF_WRONG_BLOB,
        "the key is the one that the manifest names, but the ciphertext that lies there does not "
        "open (%s): upload it again",
        words);
}

static enum cp_proof proof_open(struct proof *p)
{
    const struct tbenc_open_params params = {.manifest = p->manifest, .key = p->claim->key->b, .threads = 1};
    struct tbenc_error e = {.message = ""};
    struct tbenc_reader *reader;
    uint8_t byte;
    ssize_t n;

    if (p->manifest->plaintext_bytes == 0)
        return CP_PROOF_GOOD;
    if (tbenc_reader_new(&params, p->fd, &reader, &e) < 0)
        return proof_fail(p, CP_PROOF_WRONG_BLOB, "the ciphertext is not the manifest's: %s", e.message);
    n = tbenc_reader_pread(reader, &byte, 1, 0, &e);
    tbenc_reader_free(reader);
    tb_erase(&byte, 1);
    return n == 1 ? CP_PROOF_GOOD : proof_blame(p, e.message);
}

enum cp_proof cp_proof_check(const struct cp_claim *c, const struct tb_http_tls *tls,
                             char err[static CP_PROOF_ERR_MAX])
{
    _cleanup_(proof_clear) struct proof p = {.claim = c, .tls = tls, .fd = -1, .err = err};
    enum cp_proof r = proof_read_manifest(&p);

    err[CP_PROOF_ERR_MAX - 1] = '\0';
    if (r == CP_PROOF_GOOD)
        r = proof_fetch_blob(&p);
    if (r == CP_PROOF_GOOD)
        r = proof_check_header(&p);
    return r == CP_PROOF_GOOD ? proof_open(&p) : r;
}
