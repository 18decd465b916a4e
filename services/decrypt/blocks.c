/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/blocks.h"

#include <assert.h>
#include <stdlib.h>

#include "tbenc/internal.h"

size_t tb_blocks_files(const struct tb_blocks *b)
{
    return b->m->files ? b->m->n_files : 1;
}

uint64_t tb_blocks_file_bytes(const struct tb_blocks *b, size_t file)
{
    return b->m->files ? b->m->files[file].bytes : b->m->plaintext_bytes;
}

int tb_blocks_init(struct tb_blocks *b, const struct tbenc_manifest *m)
{
    *b = (struct tb_blocks){.m = m,
                            .per_block = (uint32_t)tbenc_chunks_of(TB_BLOCK_BYTES_MIN, m->chunk_bytes)};
    b->bytes = b->per_block * m->chunk_bytes;
    b->first = calloc(tb_blocks_files(b), sizeof(*b->first));
    if (!b->first)
        return -ENOMEM;
    for (size_t i = 0; i < tb_blocks_files(b); i++) {
        b->first[i] = b->n;
        b->n += tbenc_chunks_of(tb_blocks_file_bytes(b, i), b->bytes);
    }
    return 0;
}

void tb_blocks_clear(struct tb_blocks *b)
{
    free(b->first);
    b->first = NULL;
}

uint64_t tb_blocks_at(const struct tb_blocks *b, size_t file, uint64_t off)
{
    assert(file < tb_blocks_files(b) && off < tb_blocks_file_bytes(b, file));
    return b->first[file] + off / b->bytes;
}

/* The last file that starts at or before it: an empty one starts where the next one does. */
static size_t blocks_file(const struct tb_blocks *b, uint64_t index)
{
    size_t lo = 0, hi = tb_blocks_files(b);

    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;

        if (b->first[mid] <= index)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

void tb_blocks_get(const struct tb_blocks *b, uint64_t index, struct tb_cache_block *ret)
{
    size_t file = blocks_file(b, index);
    uint64_t in_file = index - b->first[file], off = in_file * b->bytes;
    uint64_t record = (b->m->files ? b->m->files[file].chunk : 0) + in_file * b->per_block;

    assert(index < b->n);
    *ret = (struct tb_cache_block){.index = index};
    if (tbenc_manifest_record(b->m, record, &ret->first) < 0)
        abort(); /* blocks and records are counted from the same manifest */
    ret->len = (uint32_t)MIN(tb_blocks_file_bytes(b, file) - off, (uint64_t)b->bytes);
    ret->records = (uint32_t)tbenc_chunks_of(ret->len, b->m->chunk_bytes);
    ret->ct_from = ret->first.ct_off;
    ret->ct_to = ret->ct_from + ret->len + (uint64_t)ret->records * TBENC_RECORD_OVERHEAD;
}
