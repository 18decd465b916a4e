/* SPDX-License-Identifier: Apache-2.0 */
/* Which slots a cache takes, and how long a block stays in one. */
#include "tests/unit/decrypt/cache_testing.h"

#include <sys/mman.h>

#include "decrypt/keymem.h"

/* Which slots serve a reader of all blocks in turn, twice; a bit for each. */
static uint64_t slots_of(struct tb_cache *c, bool kept)
{
    const struct tb_slot *first = NULL;
    uint64_t used = 0;

    for (unsigned pass = 0; pass < 2; pass++)
        for (uint64_t i = 0; i < tb_cache_blocks(c)->n; i++) {
            const struct tb_slot *s;

            assert_int_equal(tb_cache_pin(c, 0, i, &s, NULL), 0);
            first = first ? first : s;
            used |= 1ULL << (s->pt - first->pt) / MIB;
            tb_cache_served(c, s, s->block.len / 2, kept);
            tb_cache_served(c, s, s->block.len - s->block.len / 2, kept);
            tb_cache_unpin(c, s);
        }
    return used;
}

/* What the page cache answers for makes room before memory is taken that was not needed so far. */
static void test_what_a_reader_keeps_makes_room_first(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(40 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *kept = cache_of(&a, &s, 1, 50), *asked_again = cache_of(&a, &s, 1, 50);

    assert_int_equal(__builtin_popcountll(slots_of(kept, true)), 1);
    assert_int_equal(state_of(kept).blocks_decrypted, 80);
    assert_int_equal(__builtin_popcountll(slots_of(asked_again, false)), 40);
    assert_int_equal(state_of(asked_again).blocks_decrypted, 40);
}

/* Who decrypts ahead may be behind: what was read meanwhile, or just before it was noted, is not decrypted again. */
static void test_nothing_is_decrypted_ahead_of_who_has_read_it(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(4 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *slot;
    uint64_t then, now;

    assert_false(tb_cache_holds(c, 0, &then));
    assert_false(tb_cache_holds(c, 1, &now));
    for (uint64_t i = 0; i < 3; i += 2) {
        assert_int_equal(tb_cache_pin(c, 0, i, &slot, NULL), 0);
        tb_cache_served(c, slot, slot->block.len, true);
        tb_cache_unpin(c, slot);
    }
    assert_true(tb_cache_holds(c, 0, &now)); /* whose slot block 2 has */
    assert_int_equal(tb_cache_fill(c, 0, 0, then, NULL), 0);
    assert_int_equal(state_of(c).blocks_decrypted, 2);
    assert_int_equal(tb_cache_fill(c, 0, 1, then, NULL), 0);
    assert_int_equal(state_of(c).blocks_decrypted, 3);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(tb_cache_pin(c, 0, 2, &slot, NULL), 0);
        tb_cache_unpin(c, slot);
    }
    assert_false(tb_cache_holds(c, 0, &now)); /* it is wanted once more */
    assert_int_equal(tb_cache_fill(c, 0, 0, now, NULL), 0);
    assert_int_equal(state_of(c).blocks_decrypted, 5);
}

/* Nobody is asking for what is only verified; and at the end nothing is written to memory that was never used. */
static void test_what_is_only_verified_takes_few_slots(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(40 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 50);
    const struct tb_slot *first = NULL;
    unsigned char there[50 * MIB / 4096];
    uint64_t used = 0;
    size_t pages = 0;

    for (uint64_t i = 0; i < tb_cache_blocks(c)->n; i++) {
        const struct tb_slot *slot;

        assert_int_equal(tb_cache_pin(c, 0, i, &slot, NULL), 0);
        first = first ? first : slot;
        used |= 1ULL << (slot->pt - first->pt) / MIB;
        tb_cache_unpin_verified(c, slot);
    }
    assert_int_equal(__builtin_popcountll(used), 1);
    assert_true(tb_cache_revoke(c, 1000));
    assert_int_equal(mincore((void *)first->pt, 50 * MIB, there), 0);
    for (size_t i = 0; i < sizeof(there); i++)
        pages += there[i] & 1;
    assert_in_range(pages, 1, 2 * MIB / 4096);
}

/* Somebody reads what was verified before: then it is not in the way any more. */
static void test_what_was_verified_stays_for_who_reads_some_of_it(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(4 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};

    for (unsigned kept = 0; kept < 2; kept++) {
        _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
        const struct tb_slot *slot;

        assert_int_equal(tb_cache_pin(c, 0, 0, &slot, NULL), 0);
        tb_cache_unpin_verified(c, slot);
        assert_int_equal(tb_cache_pin(c, 0, 0, &slot, NULL), 0);
        tb_cache_served(c, slot, MIB / 2, kept);
        tb_cache_unpin(c, slot);
        for (uint64_t i = 0; i < 4; i++) {
            assert_int_equal(tb_cache_pin(c, 0, i % 3, &slot, NULL), 0);
            tb_cache_unpin(c, slot);
        }
        assert_int_equal(state_of(c).blocks_decrypted, 3);
    }
}

/* Else the kernel looks up 256 pages for each MiB that is written to /dev/fuse, which took longer than decrypting it. */
static void test_slots_are_in_huge_pages_where_there_are_some(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(2 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 16);
    _cleanup_fclose_ FILE *f = fopen("/proc/self/smaps", "re");
    unsigned long from, to;
    const struct tb_slot *slot;
    char line[512];
    bool inside = false, found = false;

    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) < 0)
        skip();
    assert_non_null(f);
    assert_int_equal(tb_cache_pin(c, 0, 0, &slot, NULL), 0);
    assert_int_equal((uintptr_t)slot->pt % (2 * MIB), 0);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from <= (uintptr_t)slot->pt && (uintptr_t)slot->pt < to;
        if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, " hg") != NULL;
    }
    assert_true(found);
    tb_cache_unpin(c, slot);
}

static int setup(void **state)
{
    return tb_keymem_open() ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_reader_keeps_makes_room_first),
        cmocka_unit_test(test_nothing_is_decrypted_ahead_of_who_has_read_it),
        cmocka_unit_test(test_what_is_only_verified_takes_few_slots),
        cmocka_unit_test(test_what_was_verified_stays_for_who_reads_some_of_it),
        cmocka_unit_test(test_slots_are_in_huge_pages_where_there_are_some),
    };

    tb_keymem_install();
    return cmocka_run_group_tests(tests, setup, NULL);
}
