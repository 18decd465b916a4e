/* SPDX-License-Identifier: Apache-2.0 */
#include "tbenc/opener.h"

#include <string.h>

#include "common/io.h"
#include "common/secret.h"

/* Fits the second-level cache beside what is decrypted from it. */
#define OPENER_PIECE_BYTES (256 * 1024)

int tbenc_opener_header(int fd, const struct tbenc_manifest *m, unsigned flags, struct tbenc_header *ret,
                        struct tbenc_error *e)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    ssize_t k = tb_pread_full(fd, buf, sizeof(buf), 0);
    int r;

    if (k < 0)
        return tbenc_fail(e, (int)k, "cannot read the ciphertext: %s", strerror((int)-k));
    r = tbenc_header_parse(buf, (size_t)k, flags, ret, e);
    if (r < 0)
        return r;
    if (ret->chunk_bytes != m->chunk_bytes)
        return tbenc_fail(e, -EBADMSG,
                          "header: chunk_bytes is %u, the manifest says %u: they do not belong together",
                          ret->chunk_bytes, m->chunk_bytes);
    return 0;
}

int tbenc_opener_init(struct tbenc_opener *o, const struct tbenc_header *h, const uint8_t *key, int fd,
                      const struct tbenc_manifest *m)
{
    uint8_t record_key[TBENC_KEY_BYTES];
    int r;

    *o = (struct tbenc_opener){.m = m, .fd = fd, .header = *h};
    o->piece = malloc(OPENER_PIECE_BYTES);
    if (!o->piece)
        return -ENOMEM;
    r = tbenc_record_key(m->base, key, record_key);
    if (r >= 0)
        r = tbenc_gcm_init(&o->gcm, h, record_key, false);
    tb_erase(record_key, sizeof(record_key));
    return r;
}

void tbenc_opener_set_header(struct tbenc_opener *o, const struct tbenc_header *h)
{
    o->header = *h;
    tbenc_gcm_set_header(&o->gcm, h);
}

void tbenc_opener_done(struct tbenc_opener *o)
{
    tbenc_gcm_done(&o->gcm);
    free(o->piece);
    o->piece = NULL;
}

static int opener_read(struct tbenc_opener *o, const struct tbenc_record *rec, void *buf, size_t n,
                       uint64_t at, struct tbenc_error *e)
{
    ssize_t k = tb_pread_full(o->fd, buf, n, rec->ct_off + at);

    if (k < 0)
        return tbenc_fail_chunk(e, (int)k, rec->index, "cannot read the ciphertext: %s", strerror((int)-k));
    if ((size_t)k < n)
        return tbenc_fail_chunk(e, -EBADMSG, rec->index, "the file ends here after %llu bytes: cut short",
                                (unsigned long long)(rec->ct_off + at + (uint64_t)k));
    return 0;
}

static int opener_refused(const struct tbenc_record *rec, struct tbenc_error *e)
{
    return tbenc_fail_chunk(e, -EIO, rec->index, "cannot decrypt: the crypto library refused");
}

static int opener_check_length(const struct tbenc_record *rec, const uint8_t *field, struct tbenc_error *e)
{
    if (tbenc_get32(field) == rec->pt_len)
        return 0;
    return tbenc_fail_chunk(e, -EBADMSG, rec->index,
                            "its length field says %u, the manifest implies %u: damaged, or another file",
                            tbenc_get32(field), rec->pt_len);
}

static int opener_finish(struct tbenc_opener *o, const struct tbenc_record *rec, const uint8_t *tag,
                         struct tbenc_error *e)
{
    int r = tbenc_gcm_open_finish(&o->gcm, tag);

    if (r == -EBADMSG)
        return tbenc_fail_chunk(e, r, rec->index, "not authentic: the wrong key, or damaged or moved data");
    return r < 0 ? opener_refused(rec, e) : 0;
}

/* A record that fits the piece, in one read. */
static int opener_small(struct tbenc_opener *o, const struct tbenc_record *rec, uint8_t *pt,
                        uint8_t tagrec[TBENC_TAGREC_BYTES], struct tbenc_error *e)
{
    const uint8_t *tag = o->piece + TBENC_LEN_BYTES + rec->pt_len;
    int r = opener_read(o, rec, o->piece, (size_t)rec->pt_len + TBENC_RECORD_OVERHEAD, 0, e);

    if (r == 0)
        r = opener_check_length(rec, o->piece, e);
    if (r < 0)
        return r;
    memcpy(tagrec, o->piece, TBENC_LEN_BYTES);
    memcpy(tagrec + TBENC_LEN_BYTES, tag, TBENC_TAG_BYTES);
    if (tbenc_gcm_open_start(&o->gcm, rec->index, rec->pt_len) < 0 ||
        tbenc_gcm_open_update(&o->gcm, o->piece + TBENC_LEN_BYTES, rec->pt_len, pt) < 0)
        return opener_refused(rec, e);
    return opener_finish(o, rec, tag, e);
}

/* In pieces that stay in the CPU's cache between being read and being decrypted. */
static int opener_large(struct tbenc_opener *o, const struct tbenc_record *rec, uint8_t *pt,
                        uint8_t tagrec[TBENC_TAGREC_BYTES], struct tbenc_error *e)
{
    int r = opener_read(o, rec, tagrec, TBENC_LEN_BYTES, 0, e);

    if (r < 0)
        return r;
    r = opener_check_length(rec, tagrec, e);
    if (r < 0)
        return r;
    if (tbenc_gcm_open_start(&o->gcm, rec->index, rec->pt_len) < 0)
        return opener_refused(rec, e);
    for (uint32_t done = 0, n; done < rec->pt_len; done += n) {
        n = MIN(rec->pt_len - done, (uint32_t)OPENER_PIECE_BYTES);
        r = opener_read(o, rec, o->piece, n, TBENC_LEN_BYTES + (uint64_t)done, e);
        if (r < 0)
            return r;
        if (tbenc_gcm_open_update(&o->gcm, o->piece, n, pt + done) < 0)
            return opener_refused(rec, e);
    }
    r = opener_read(o, rec, tagrec + TBENC_LEN_BYTES, TBENC_TAG_BYTES,
                    TBENC_LEN_BYTES + (uint64_t)rec->pt_len, e);
    return r < 0 ? r : opener_finish(o, rec, tagrec + TBENC_LEN_BYTES, e);
}

int tbenc_opener_open(struct tbenc_opener *o, const struct tbenc_record *rec, uint8_t *pt,
                      uint8_t tagrec[TBENC_TAGREC_BYTES], struct tbenc_error *e)
{
    bool small = rec->pt_len <= OPENER_PIECE_BYTES - TBENC_RECORD_OVERHEAD;
    int r = small ? opener_small(o, rec, pt, tagrec, e) : opener_large(o, rec, pt, tagrec, e);

    if (r < 0)
        memset(pt, 0, rec->pt_len);
    return r;
}
