/* SPDX-License-Identifier: Apache-2.0 */
/* Where records lie. A manifest fixes the length of every record: a file of n bytes takes ceil(n /
 * chunk_bytes) of them, all full but its last; without a table the asset is one file. tbenc(5), section
 * LAYOUT. */
#include <string.h>

#include "tbenc/internal.h"

/* The table entry whose path is p[0..n), or NULL. */
static const struct tbenc_file *layout_find_path(const struct tbenc_manifest *m, const char *p, size_t n)
{
    size_t lo = 0, hi = m->n_files;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strncmp(m->files[mid].path, p, n);

        if (c == 0 && m->files[mid].path[n] == '\0')
            return &m->files[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* A path that is a file cannot be a directory of another. Its neighbours need not be adjacent ("a", "a-b",
 * "a/b"). */
static int layout_check_directories(const struct tbenc_manifest *m, size_t i, struct tbenc_error *e)
{
    const char *p = m->files[i].path;

    for (const char *s = strchr(p, '/'); s; s = strchr(s + 1, '/'))
        if (layout_find_path(m, p, (size_t)(s - p)))
            return tbenc_fail(e, -EBADMSG, "manifest: files[%zu]: its directory \"%.*s\" is itself a file", i,
                              (int)MIN(s - p, 200), p);
    return 0;
}

static int layout_check_file(const struct tbenc_manifest *m, size_t i, uint64_t chunk, uint64_t sum,
                             struct tbenc_error *e)
{
    const struct tbenc_file *f = &m->files[i];

    if (!tbenc_path_valid(f->path))
        return tbenc_fail(
            e, -EBADMSG,
            "manifest: files[%zu]: path is not a plain relative path (no \"..\", no leading \"/\", no "
            "control characters, at most %d bytes of UTF-8)",
            i, TBENC_PATH_MAX);
    if (i > 0 && strcmp(m->files[i - 1].path, f->path) >= 0)
        return tbenc_fail(e, -EBADMSG, "manifest: files[%zu]: paths are not sorted and unique at \"%.200s\"",
                          i, f->path);
    if (f->mode > 0777)
        return tbenc_fail(e, -EBADMSG, "manifest: files[%zu]: mode %o is not in 0..0777", i, f->mode);
    if (f->chunk != chunk)
        return tbenc_fail(e, -EBADMSG,
                          "manifest: files[%zu]: chunk is %llu, the files before it make it %llu", i,
                          (unsigned long long)f->chunk, (unsigned long long)chunk);
    if (f->bytes > TBENC_PLAINTEXT_MAX - sum)
        return tbenc_fail(e, -EBADMSG, "manifest: files[%zu]: sizes add up to more than %llu", i,
                          (unsigned long long)TBENC_PLAINTEXT_MAX);
    return layout_check_directories(m, i, e);
}

int tbenc_layout_check(const struct tbenc_manifest *m, struct tbenc_error *e)
{
    uint64_t chunk = 0, sum = 0;

    if (m->plaintext_bytes > TBENC_PLAINTEXT_MAX)
        return tbenc_fail(e, -EBADMSG, "manifest: plaintext_bytes is more than %llu",
                          (unsigned long long)TBENC_PLAINTEXT_MAX);
    if (!m->files)
        return 0;
    if ((m->n_files < 1 && !m->base) || m->n_files > TBENC_FILES_MAX)
        return tbenc_fail(e, -EBADMSG, "manifest: files has %zu entries, not 1..%d", m->n_files,
                          TBENC_FILES_MAX);
    for (size_t i = 0; i < m->n_files; i++) {
        int r = layout_check_file(m, i, chunk, sum, e);

        if (r < 0)
            return r;
        sum += m->files[i].bytes;
        chunk += tbenc_chunks_of(m->files[i].bytes, m->chunk_bytes);
    }
    if (sum != m->plaintext_bytes)
        return tbenc_fail(e, -EBADMSG, "manifest: plaintext_bytes is %llu, the files add up to %llu",
                          (unsigned long long)m->plaintext_bytes, (unsigned long long)sum);
    return 0;
}

uint64_t tbenc_manifest_records(const struct tbenc_manifest *m)
{
    const struct tbenc_file *last;

    if (!m->files)
        return tbenc_chunks_of(m->plaintext_bytes, m->chunk_bytes);
    if (m->n_files == 0) /* an overlay that brings nothing of its own */
        return 0;
    last = &m->files[m->n_files - 1];
    return last->chunk + tbenc_chunks_of(last->bytes, m->chunk_bytes);
}

uint64_t tbenc_manifest_ciphertext_bytes(const struct tbenc_manifest *m)
{
    /* At most 2^53 plaintext bytes in at most 2^53 records: below 2^58. */
    return TBENC_HEADER_BYTES + m->plaintext_bytes + TBENC_RECORD_OVERHEAD * tbenc_manifest_records(m);
}

/* Sets what follows from index, file and file_off. */
static void layout_finish(const struct tbenc_manifest *m, uint64_t file_bytes, struct tbenc_record *r)
{
    r->pt_len = (uint32_t)MIN(file_bytes - r->file_off, m->chunk_bytes);
    r->ct_off = TBENC_HEADER_BYTES + r->pt_off + TBENC_RECORD_OVERHEAD * r->index;
}

/* The table entry that holds the record: the last one that starts at or before it. An empty one never is,
 * because the next entry starts at the same record. */
static size_t layout_find_file(const struct tbenc_manifest *m, uint64_t index)
{
    size_t lo = 0, hi = m->n_files;

    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;

        if (m->files[mid].chunk <= index)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

int tbenc_manifest_record(const struct tbenc_manifest *m, uint64_t index, struct tbenc_record *ret)
{
    struct tbenc_record r = {.index = index};
    uint64_t before = 0, bytes = m->plaintext_bytes;

    if (index >= tbenc_manifest_records(m))
        return -ERANGE;
    r.file_off = index * m->chunk_bytes;
    if (m->files) {
        r.file = layout_find_file(m, index);
        r.file_off = (index - m->files[r.file].chunk) * m->chunk_bytes;
        for (size_t i = 0; i < r.file; i++)
            before += m->files[i].bytes;
        bytes = m->files[r.file].bytes;
    }
    r.pt_off = before + r.file_off;
    layout_finish(m, bytes, &r);
    *ret = r;
    return 0;
}

void tbenc_layout_next(const struct tbenc_manifest *m, struct tbenc_record *r)
{
    uint64_t bytes = m->files ? m->files[r->file].bytes : m->plaintext_bytes;

    r->index++;
    r->pt_off += r->pt_len;
    r->file_off += r->pt_len;
    if (r->file_off == bytes && m->files) {
        do
            r->file++;
        while (m->files[r->file].bytes == 0);
        r->file_off = 0;
        bytes = m->files[r->file].bytes;
    }
    layout_finish(m, bytes, r);
}
