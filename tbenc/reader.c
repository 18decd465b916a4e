/* SPDX-License-Identifier: Apache-2.0 */
/* Reading at any offset: the record that holds it is decrypted, verified and kept until another one is
 * needed. */
#include <string.h>

#include "common/secret.h"
#include "tbenc/opener.h"

struct tbenc_reader {
    const struct tbenc_manifest *m;
    struct tbenc_opener opener;
    uint8_t *pt;             /* one record; secret memory */
    struct tbenc_record rec; /* held in pt when have is set */
    bool have;
};

static void reader_freep(struct tbenc_reader **r)
{
    *r = tbenc_reader_free(*r);
}

int tbenc_reader_new(const struct tbenc_open_params *p, int in_fd, struct tbenc_reader **ret,
                     struct tbenc_error *e)
{
    _cleanup_(reader_freep) struct tbenc_reader *rd = NULL;
    struct tbenc_header header;
    int r;

    if (!p->key)
        return tbenc_fail(e, -EINVAL, "no key");
    rd = calloc(1, sizeof(*rd));
    if (!rd)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    rd->m = p->manifest;
    if (lseek(in_fd, 0, SEEK_CUR) < 0)
        return tbenc_fail(e, -errno, "cannot read the ciphertext at offsets: %s", strerror(errno));
    r = tbenc_opener_header(in_fd, rd->m, p->flags, &header, e);
    if (r < 0)
        return r;
    rd->pt = tb_secret_alloc(rd->m->chunk_bytes);
    r = rd->pt ? tbenc_opener_init(&rd->opener, &header, p->key, in_fd, rd->m) : -ENOMEM;
    if (r < 0)
        return tbenc_fail(e, r, "cannot start: %s", strerror(-r));
    *ret = TAKE_PTR(rd);
    return 0;
}

static int reader_load(struct tbenc_reader *rd, const struct tbenc_record *rec, struct tbenc_error *e)
{
    uint8_t tagrec[TBENC_TAGREC_BYTES];
    int r;

    rd->have = false;
    r = tbenc_opener_open(&rd->opener, rec, rd->pt, tagrec, e);
    if (r < 0)
        return r;
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
    tbenc_opener_done(&rd->opener);
    tb_secret_free(rd->pt);
    free(rd);
    return NULL;
}
