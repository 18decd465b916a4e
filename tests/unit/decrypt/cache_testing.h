/* SPDX-License-Identifier: Apache-2.0 */
/* A sealed asset in memory and a cache of its blocks, for the tests of both. */
#ifndef TB_TESTS_CACHE_TESTING_H
#define TB_TESTS_CACHE_TESTING_H

#include "tests/unit/tbenc/tbenc_testing.h"

#include <unistd.h>

#include "decrypt/cache.h"

#define MIB (1024 * 1024)

/* An asset of three files, one of them empty, or of one file; sealed, in memory. */
struct asset {
    struct tbenc_manifest *m;
    struct blob pt;
    int fd;
    uint64_t start[3]; /* of each file in pt */
};

static _unused_ void asset_free(struct asset *a)
{
    a->m = tbenc_manifest_free(a->m);
    blob_free(&a->pt);
    a->fd = tb_close(a->fd);
}
#define _cleanup_asset_ _cleanup_(asset_free)

static _unused_ struct asset asset_seal(size_t n, uint32_t chunk_bytes, bool table, uint32_t seed,
                                        uint8_t prefix)
{
    struct asset a = {.pt = blob_pattern(n, seed), .fd = memfd_empty()};
    size_t cut = table ? n / 3 + 17 : n;
    _cleanup_close_ int x = memfd_of(a.pt.p, cut), y = memfd_empty(), z = memfd_of(a.pt.p + cut, n - cut);
    struct tbenc_input in[] = {{.fd = x, .path = "a/first", .bytes = cut, .mode = 0644},
                               {.fd = y, .path = "b-empty", .bytes = 0, .mode = 0644},
                               {.fd = z, .path = "c", .bytes = n - cut, .mode = 0644}};
    const uint8_t nonce[] = {9, 9, 9, prefix};
    struct tbenc_seal_params p = {.key = test_key,
                                  .chunk_bytes = chunk_bytes,
                                  .nonce_prefix = nonce,
                                  .asset_id = "x",
                                  .weights_filename = "w.tbenc"};

    if (!table)
        in[0].path = NULL;
    assert_int_equal(tbenc_seal(&p, in, table ? 3 : 1, table, a.fd, &a.m, NULL), 0);
    a.start[1] = a.start[2] = cut;
    return a;
}

static _unused_ struct tb_cache *cache_of(const struct asset *a, const struct tb_ciphertext *s,
                                          unsigned threads, unsigned slots)
{
    struct tb_cache *c = NULL;
    struct tb_cache_params p = {
        .manifest = a->m, .key = test_key, .ciphertext = s, .threads = threads, .slots = slots};

    assert_int_equal(tb_cache_new(&p, &c, NULL), 0);
    return c;
}

static _unused_ void cache_freep(struct tb_cache **c)
{
    *c = tb_cache_free(*c);
}
#define _cleanup_cache_ _cleanup_(cache_freep)

static _unused_ void assert_slot(const struct asset *a, const struct tb_slot *s)
{
    assert_memory_equal(s->pt, a->pt.p + a->start[s->block.first.file] + s->block.first.file_off,
                        s->block.len);
}

static _unused_ void assert_all(const struct asset *a, struct tb_cache *c)
{
    const struct tb_blocks *b = tb_cache_blocks(c);
    uint64_t seen = 0;

    for (uint64_t i = 0; i < b->n; i++) {
        const struct tb_slot *s;

        assert_int_equal(tb_cache_pin(c, 0, i, &s, NULL), 0);
        assert_int_equal(s->block.index, i);
        assert_int_equal(tb_blocks_at(b, s->block.first.file, s->block.first.file_off + s->block.len - 1), i);
        assert_slot(a, s);
        seen += s->block.len;
        tb_cache_unpin(c, s);
    }
    assert_int_equal(seen, a->pt.n);
}

static _unused_ struct tb_cache_state state_of(struct tb_cache *c)
{
    struct tb_cache_state s;

    tb_cache_state(c, &s);
    return s;
}

#endif
