/* SPDX-License-Identifier: Apache-2.0 */
/* Reading at any offset: the record that holds it is decrypted, verified and kept until another one is
 * needed. */
#include <string.h>

#include "common/secret.h"
#include "tbenc/stream.h"

struct tbenc_reader {
    const struct tbenc_manifest *m;
    struct tbenc_source source;
    struct tbenc_gcm gcm;
    uint8_t *ct, *pt;        /* one record each; pt is secret memory */
    struct tbenc_record rec; /* held in pt when have is set */
    bool have;
};

static void reader_freep(struct tbenc_reader **r)
{
    *r = tbenc_reader_free(*r);
}

static int reader_read_header(struct tbenc_reader *rd, unsigned flags, struct tbenc_header *ret,
                              struct tbenc_error *e)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    ssize_t k;
    int r;

    k = tbenc_source_pread(&rd->source, buf, sizeof(buf), 0);
    if (k < 0)
        return tbenc_fail(e, (int)k, "cannot read the ciphertext: %s", strerror((int)-k));
    r = tbenc_header_parse(buf, (size_t)k, flags, ret, e);
    if (r < 0)
        return r;
    if (ret->chunk_bytes != rd->m->chunk_bytes)
        return tbenc_fail(e, -EBADMSG,
                          "header: chunk_bytes is %u, the manifest says %u: they do not belong together",
                          ret->chunk_bytes, rd->m->chunk_bytes);
    return 0;
}

int tbenc_reader_new(const struct tbenc_open_params *p, int in_fd, struct tbenc_reader **ret,
                     struct tbenc_error *e)
{
    _cleanup_(reader_freep) struct tbenc_reader *rd = NULL;
    uint8_t key[TBENC_KEY_BYTES];
    struct tbenc_header header;
    int r;

    if (!p->key)
        return tbenc_fail(e, -EINVAL, "no key");
    rd = calloc(1, sizeof(*rd));
    if (!rd)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    rd->m = p->manifest;
    r = tbenc_source_init(&rd->source, in_fd, -1);
    if (r >= 0 && !rd->source.seekable)
        r = -ESPIPE;
    if (r < 0)
        return tbenc_fail(e, r, "cannot read the ciphertext at offsets: %s", strerror(-r));
    rd->source.base = 0;
    r = reader_read_header(rd, p->flags, &header, e);
    if (r < 0)
        return r;
    rd->ct = malloc((size_t)rd->m->chunk_bytes + TBENC_RECORD_OVERHEAD);
    rd->pt = tb_secret_alloc(rd->m->chunk_bytes);
    if (!rd->ct || !rd->pt)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    r = tbenc_record_key(rd->m->base, p->key, key);
    if (r >= 0)
        r = tbenc_gcm_init(&rd->gcm, &header, key, false);
    tb_erase(key, sizeof(key));
    if (r < 0)
        return tbenc_fail(e, r, "cannot start: %s", strerror(-r));
    *ret = TAKE_PTR(rd);
    return 0;
}

static int reader_check_record(const struct tbenc_reader *rd, const struct tbenc_record *rec, size_t got,
                               struct tbenc_error *e)
{
    if (got >= TBENC_LEN_BYTES && tbenc_get32(rd->ct) != rec->pt_len)
        return tbenc_fail_chunk(e, -EBADMSG, rec->index,
                                "its length field says %u, the manifest implies %u: damaged, or another file",
                                tbenc_get32(rd->ct), rec->pt_len);
    if (got < (size_t)rec->pt_len + TBENC_RECORD_OVERHEAD)
        return tbenc_fail_chunk(e, -EBADMSG, rec->index, "the file ends here after %llu bytes: cut short",
                                (unsigned long long)(rec->ct_off + got));
    return 0;
}

static int reader_load(struct tbenc_reader *rd, const struct tbenc_record *rec, struct tbenc_error *e)
{
    ssize_t k;
    int r;

    rd->have = false;
    k = tbenc_source_pread(&rd->source, rd->ct, (size_t)rec->pt_len + TBENC_RECORD_OVERHEAD, rec->ct_off);
    if (k < 0)
        return tbenc_fail_chunk(e, (int)k, rec->index, "cannot read the ciphertext: %s", strerror((int)-k));
    r = reader_check_record(rd, rec, (size_t)k, e);
    if (r < 0)
        return r;
    r = tbenc_gcm_open(&rd->gcm, rec->index, rd->ct, rec->pt_len, rd->pt);
    if (r == -EBADMSG)
        return tbenc_fail_chunk(e, r, rec->index, "not authentic: the wrong key, or damaged or moved data");
    if (r < 0)
        return tbenc_fail_chunk(e, r, rec->index, "cannot decrypt: the crypto library refused");
    rd->rec = *rec;
    rd->have = true;
    return 0;
}

/* The record that holds plaintext offset off, which is below plaintext_bytes. */
static void reader_find_record(const struct tbenc_manifest *m, uint64_t off, struct tbenc_record *ret)
{
    uint64_t lo = 0, hi = tbenc_manifest_records(m);

    if (!m->files) {
        (void)tbenc_manifest_record(m, off / m->chunk_bytes, ret);
        return;
    }
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;

        (void)tbenc_manifest_record(m, mid, ret);
        if (ret->pt_off <= off)
            lo = mid;
        else
            hi = mid;
    }
    (void)tbenc_manifest_record(m, lo, ret);
}

ssize_t tbenc_reader_pread(struct tbenc_reader *rd, void *buf, size_t n, uint64_t off, struct tbenc_error *e)
{
    size_t done = 0;

    if (off >= rd->m->plaintext_bytes)
        return 0;
    n = (size_t)MIN(MIN(n, rd->m->plaintext_bytes - off), (uint64_t)SSIZE_MAX);
    while (done < n) {
        uint64_t at = off + done;
        size_t skip, k;

        if (!rd->have || at < rd->rec.pt_off || at - rd->rec.pt_off >= rd->rec.pt_len) {
            struct tbenc_record rec;
            int r;

            reader_find_record(rd->m, at, &rec);
            r = reader_load(rd, &rec, e);
            if (r < 0)
                return r;
        }
        skip = (size_t)(at - rd->rec.pt_off);
        k = MIN(n - done, rd->rec.pt_len - skip);
        memcpy((uint8_t *)buf + done, rd->pt + skip, k);
        done += k;
    }
    return (ssize_t)done;
}

struct tbenc_reader *tbenc_reader_free(struct tbenc_reader *rd)
{
    if (!rd)
        return NULL;
    tbenc_gcm_done(&rd->gcm);
    tb_secret_free(rd->pt);
    free(rd->ct);
    free(rd);
    return NULL;
}
