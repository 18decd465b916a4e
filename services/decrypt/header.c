/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/header.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/secret.h"

#define HEADER_POLL_US 50000U
#define HEADER_PROBES 3 /* records that are tried before the header is doubted */

void tb_header_init(struct tb_file_header *h, const struct tbenc_manifest *m, const struct tb_ciphertext *c)
{
    h->m = m;
    h->c = c;
    atomic_init(&h->proved, false);
    atomic_init(&h->doubted, false);
    (void)pthread_mutex_init(&h->lock, NULL);
}

void tb_header_done(struct tb_file_header *h)
{
    if (h->m)
        (void)pthread_mutex_destroy(&h->lock);
    h->m = NULL;
}

void tb_header_prove(struct tb_file_header *h, const struct tbenc_header *with)
{
    if (atomic_load(&h->proved))
        return;
    (void)pthread_mutex_lock(&h->lock);
    if (!atomic_load(&h->proved))
        h->good = *with;
    atomic_store(&h->proved, true);
    (void)pthread_mutex_unlock(&h->lock);
}

struct tbenc_record tb_header_record(const struct tbenc_manifest *m)
{
    return (struct tbenc_record){.pt_len = TBENC_HEADER_BYTES - TBENC_RECORD_OVERHEAD, .file = m->n_files};
}

/* Another header than it has. */
static bool header_adopt(struct tbenc_opener *o, const struct tbenc_header *h)
{
    if (o->header.chunk_bytes == h->chunk_bytes &&
        memcmp(o->header.nonce_prefix, h->nonce_prefix, sizeof(h->nonce_prefix)) == 0)
        return false;
    tbenc_opener_set_header(o, h);
    return true;
}

/* 1: another record is authentic; 0: none of a few is; -EAGAIN: there is none to try yet. */
static int header_try_others(const struct tb_file_header *h, struct tbenc_opener *o, uint64_t bad,
                             uint8_t *scratch)
{
    const uint64_t n = tbenc_manifest_records(h->m), at[] = {0, n / 2, n - 1, 1};
    uint8_t tags[TBENC_TAGREC_BYTES];
    unsigned tried = 0;
    bool good = false;

    for (unsigned i = 0; !good && tried < HEADER_PROBES && i < ARRAY_SIZE(at); i++) {
        struct tbenc_record rec;
        struct tbenc_error e;

        if (at[i] >= n || at[i] == bad || tbenc_manifest_record(h->m, at[i], &rec) < 0 ||
            !tb_ciphertext_has(h->c, rec.ct_off, rec.ct_off + rec.pt_len + TBENC_RECORD_OVERHEAD))
            continue;
        tried++;
        good = tbenc_opener_open(o, &rec, scratch, tags, &e) == 0;
        tb_erase(scratch, rec.pt_len);
    }
    return tried == 0 && n > 1 ? -EAGAIN : good;
}

/* As the file has it by now. */
static int header_read(const struct tb_file_header *h, struct tbenc_header *ret)
{
    struct tbenc_error e;

    return tbenc_opener_header(h->c->fd, h->m, 0, ret, &e);
}

bool tb_header_suspect(struct tb_file_header *h, struct tbenc_opener *o, const struct tbenc_record *bad,
                       uint8_t *scratch)
{
    const struct tbenc_record rec = tb_header_record(h->m);
    struct tbenc_header now;
    bool proved;
    int r;

    (void)pthread_mutex_lock(&h->lock);
    proved = atomic_load(&h->proved);
    now = h->good;
    (void)pthread_mutex_unlock(&h->lock);
    if (proved)
        return header_adopt(o, &now);
    if (!tb_ciphertext_has(h->c, 0, TBENC_HEADER_BYTES)) { /* on its way, and the record can wait as long */
        usleep(HEADER_POLL_US);
        return true;
    }
    if (header_read(h, &now) == 0 && header_adopt(o, &now))
        return true;
    r = header_try_others(h, o, bad->index, scratch);
    if (r == 0 || (r == -EAGAIN && atomic_exchange(&h->doubted, true)))
        return h->c->damaged && h->c->damaged(h->c->ctx, &rec, -EBADMSG);
    if (r > 0)
        tb_header_prove(h, &o->header);
    return false;
}
