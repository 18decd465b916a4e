/* SPDX-License-Identifier: Apache-2.0 */
/* The asset in blocks, which is what is decrypted, kept and given away as one: whole records of one file,
 * about a MiB. No I/O. */
#ifndef TB_DECRYPT_BLOCKS_H
#define TB_DECRYPT_BLOCKS_H

#include <stdint.h>

#include "tbenc/tbenc.h"

#define TB_BLOCK_BYTES_MIN (1024 * 1024) /* of all but the last of a file */

struct tb_blocks {
    const struct tbenc_manifest *m; /* borrowed */
    uint32_t per_block;             /* records */
    uint32_t bytes;                 /* of a full one */
    uint64_t n;
    uint64_t *first; /* of each file; owned */
};

struct tb_cache_block {
    uint64_t index;
    struct tbenc_record first; /* its first record */
    uint32_t records;
    uint32_t len;            /* plaintext bytes */
    uint64_t ct_from, ct_to; /* ciphertext bytes */
};

/* 0 or -ENOMEM. */
int tb_blocks_init(struct tb_blocks *b, const struct tbenc_manifest *m);
void tb_blocks_clear(struct tb_blocks *b);

size_t tb_blocks_files(const struct tb_blocks *b);
uint64_t tb_blocks_file_bytes(const struct tb_blocks *b, size_t file);
/* The block that holds that byte, which exists. */
uint64_t tb_blocks_at(const struct tb_blocks *b, size_t file, uint64_t off);
/* index is below n. */
void tb_blocks_get(const struct tb_blocks *b, uint64_t index, struct tb_cache_block *ret);

#endif
