/* SPDX-License-Identifier: Apache-2.0 */
/* An overlay's files, in the order of the tree, lie anywhere in two ciphertexts. Each range is put where it
 * belongs in a file of memory without the rest, from which libtbenc reads as from any ciphertext, and is then
 * taken out. What is authentic but of another version shows by the hashes of the files (pull_check()). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "provider/publish/pull.h"

#define WINDOW_PIECE_BYTES (1U << 20)

/* One of the two ciphertexts, as far as it is here. */
struct window {
    const struct pull_part *part;
    int fd; /* of memory */
    struct tbenc_reader *reader;
};

static void window_clear(struct window *w)
{
    w->reader = tbenc_reader_free(w->reader);
    w->fd = tb_close(w->fd);
}
#define _cleanup_window_ _cleanup_(window_clear)

static int window_open(struct pull *p, struct window *w)
{
    const struct tbenc_open_params q = {.manifest = w->part->manifest, .key = p->key.b};
    _cleanup_blob_reply_ struct blob_reply head = {0};
    int r;

    p->opened_part = w->part;
    w->fd = memfd_create("tbpkg-ciphertext", MFD_CLOEXEC);
    if (w->fd < 0)
        return -errno;
    p->fetch_rc = pull_range(p, w->part, 0, TBENC_HEADER_BYTES, &head);
    if (p->fetch_rc != CLI_OK)
        return -ECANCELED;
    r = tb_pwrite_full(w->fd, head.body, head.len, 0);
    return r < 0 ? r : tbenc_reader_new(&q, w->fd, &w->reader, &p->open_error);
}

/* The records from that one on, ct_bytes of them, into the pipe. */
static int window_pass(struct pull *p, struct window *w, const struct tbenc_record *from, uint64_t ct_bytes,
                       uint64_t pt_bytes, uint8_t *buf, int out)
{
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    int r;

    p->fetch_rc = pull_range(p, w->part, from->ct_off, ct_bytes, &reply);
    if (p->fetch_rc != CLI_OK)
        return -ECANCELED;
    r = tb_pwrite_full(w->fd, reply.body, reply.len, from->ct_off);
    for (uint64_t done = 0; r == 0 && done < pt_bytes;) {
        ssize_t n =
            tbenc_reader_pread(w->reader, buf, (size_t)MIN(pt_bytes - done, (uint64_t)WINDOW_PIECE_BYTES),
                               from->pt_off + done, &p->open_error);

        r = n > 0 ? tb_write_full(out, buf, (size_t)n) : n < 0 ? (int)n : -EBADMSG;
        done += n > 0 ? (uint64_t)n : 0;
    }
    if (r == 0 && fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from->ct_off,
                            (off_t)ct_bytes) < 0)
        r = -errno;
    return r;
}

static int window_pass_file(struct pull *p, struct window *w, const struct tbenc_file *f, uint8_t *buf,
                            int out)
{
    uint32_t chunk = w->part->manifest->chunk_bytes;
    uint64_t step = MAX(PULL_RANGE_BYTES / (chunk + TBENC_RECORD_OVERHEAD), 1U), index = f->chunk;

    for (uint64_t done = 0; done < f->bytes;) {
        uint64_t pt = MIN(f->bytes - done, step * chunk), records = (pt + chunk - 1) / chunk;
        struct tbenc_record from;
        int r = tbenc_manifest_record(w->part->manifest, index, &from);

        if (r == 0)
            r = window_pass(p, w, &from, pt + records * TBENC_RECORD_OVERHEAD, pt, buf, out);
        if (r < 0)
            return r;
        done += pt;
        index += records;
    }
    return 0;
}

/* from[k]: the part of file k of the tree, and its entry there. */
struct taken {
    struct window *window;
    const struct tbenc_file *file;
};

static int overlay_find(const struct pull *p, struct window *own, struct window *base, struct taken *from)
{
    const struct tbenc_manifest *m = p->own.manifest, *under = p->base.manifest;
    _cleanup_free_ int *of = calloc(p->tree->n_files + m->n_files + under->n_files, sizeof(*of));
    int *of_own = of ? of + p->tree->n_files : NULL, *of_base = of ? of_own + m->n_files : NULL, r;

    if (!of)
        return -ENOMEM;
    for (size_t k = 0; k < p->tree->n_files; k++)
        of[k] = (int)k;
    r = tbenc_tree_deal(m, under, p->tree, of, of_own, of_base);
    for (size_t i = 0; r == 0 && i < m->n_files; i++)
        from[of_own[i]] = (struct taken){own, &m->files[i]};
    for (size_t i = 0; r == 0 && i < under->n_files; i++)
        if (of_base[i] >= 0)
            from[of_base[i]] = (struct taken){base, &under->files[i]};
    return r;
}

static int overlay_pass(struct pull *p)
{
    _cleanup_window_ struct window own = {.part = &p->own, .fd = -1}, base = {.part = &p->base, .fd = -1};
    _cleanup_free_ struct taken *from = calloc(p->tree->n_files, sizeof(*from));
    uint8_t *buf = tb_secret_alloc(WINDOW_PIECE_BYTES);
    int r = from && buf ? overlay_find(p, &own, &base, from) : -ENOMEM;

    if (r == 0)
        r = window_open(p, &own);
    if (r == 0)
        r = window_open(p, &base);
    for (size_t k = 0; r == 0 && k < p->tree->n_files; k++) {
        p->opened_part = from[k].window->part;
        r = window_pass_file(p, from[k].window, from[k].file, buf, p->write_fds[k]);
        p->write_fds[k] = tb_close(p->write_fds[k]);
    }
    tb_secret_free(buf);
    return r;
}

void *pull_overlay_thread(void *pull)
{
    struct pull *p = pull;
    int r = overlay_pass(p);

    if (r < 0 && r != -ECANCELED)
        p->open_r = r;
    for (size_t k = 0; k < p->tree->n_files; k++)
        p->write_fds[k] = tb_close(p->write_fds[k]);
    return NULL;
}
