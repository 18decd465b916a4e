/* SPDX-License-Identifier: Apache-2.0 */
/* What is decrypted before somebody asks for it. */
#include "tests/unit/decrypt/cache_testing.h"

#include <sys/eventfd.h>

#include "common/units.h"
#include "decrypt/keymem.h"
#include "decrypt/weights.h"

#define MS_ENOUGH 5000
#define MS_OF_SOME 400 /* longer than a filler waits for work */

/* Who reads all of it comes to every block: one that is verified before that is decrypted twice. */
static void test_nothing_is_verified_before_who_reads_all_comes_to_it(void **state)
{
    for (unsigned reads_all = 0; reads_all < 2; reads_all++) {
        _cleanup_asset_ struct asset a = asset_seal(4 * MIB, MIB, false, 3, 1);
        struct tb_weights w = {
            .files = a.m, .n_layers = 1, .event_fd = eventfd(0, EFD_CLOEXEC), .reads_all = reads_all};
        struct tb_cache_state s = {0};

        w.layers[0].manifest = a.m;
        w.layers[0].ciphertext.fd = a.fd;
        assert_int_equal(tb_weights_init(&w, test_key, 1, 1, NULL), 0);
        assert_int_equal(tb_weights_start(&w), 0);
        (void)pthread_mutex_lock(&w.lock);
        w.start_us = 0; /* nobody has come for long */
        (void)pthread_mutex_unlock(&w.lock);
        for (unsigned ms = 0; ms < (reads_all ? MS_OF_SOME : MS_ENOUGH) && !s.complete; ms += 20) {
            tb_sleep_ms(20);
            tb_weights_state(&w, &s);
        }
        assert_int_equal(s.complete, !reads_all);
        tb_weights_stop(&w);
        tb_weights_join(&w);
        assert_int_equal(s.blocks_decrypted, reads_all ? 0 : 4);
        w.layers[0].cache = tb_cache_free(w.layers[0].cache);
        free(w.places);
        (void)close(w.event_fd);
    }
}

static bool has_half(void *ctx, uint64_t from, uint64_t to)
{
    return to <= *(const uint64_t *)ctx;
}

/* Who waits for bytes reads: nothing is verified meanwhile that nobody asked for. */
static void test_who_waits_reads(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(4 * MIB, MIB, false, 3, 1);
    struct tb_weights w = {.files = a.m, .n_layers = 1, .event_fd = -1};
    uint64_t there = 2 * MIB;

    w.layers[0].manifest = a.m;
    w.layers[0].ciphertext = (struct tb_ciphertext){.fd = a.fd};
    assert_int_equal(tb_weights_init(&w, test_key, 1, 1, NULL), 0);
    w.layers[0].ciphertext.has = has_half;
    w.layers[0].ciphertext.ctx = &there;
    for (int came = 0; came < 2; came++) {
        uint64_t begin = tb_now_monotonic_us();

        atomic_store(&w.read_us, 0);
        assert_int_equal(tb_weights_came(&w, 0, came ? 0 : 3 * MIB, came ? MIB : 4 * MIB), came);
        assert_true(atomic_load(&w.read_us) >= begin);
    }
    w.layers[0].cache = tb_cache_free(w.layers[0].cache);
    free(w.places);
}

/* What follows is decrypted ahead while a processor is free for it, and not beside a read for each of them. */
static void test_nothing_is_decrypted_ahead_while_all_answer(void **state)
{
    enum { PROCESSORS = 3 };

    for (unsigned readers = PROCESSORS - 1; readers <= PROCESSORS; readers++) {
        _cleanup_asset_ struct asset a = asset_seal(8 * MIB, MIB, false, 3, 1);
        struct tb_weights w = {.files = a.m, .n_layers = 1, .event_fd = -1};
        struct weights_piece p[PROCESSORS][2];

        w.layers[0].manifest = a.m;
        w.layers[0].ciphertext.fd = a.fd;
        assert_int_equal(tb_weights_init(&w, test_key, PROCESSORS, 0, NULL), 0);
        w.n_processors = PROCESSORS;
        for (unsigned i = 0; i < readers; i++)
            assert_int_equal(tb_weights_pin(&w, i, 0, i * MIB, (i + 1) * MIB, p[i]), 1);
        tb_weights_unpin(&w, 0, readers * MIB, 2, p[readers - 1], 1, (struct weights_served){MIB, true});
        assert_int_equal(w.ahead_end, readers == PROCESSORS ? 0 : 2);
        for (unsigned i = readers - 1; i-- > 0;)
            tb_weights_unpin(&w, 0, (i + 1) * MIB, 0, p[i], 1, (struct weights_served){MIB, true});
        assert_int_equal(atomic_load(&w.n_reading), 0);
        w.layers[0].cache = tb_cache_free(w.layers[0].cache);
        free(w.places);
    }
}

/* A read that waits for its bytes, and one that is refused, take no processor. */
static void test_a_pin_that_fails_is_no_read_that_is_answered(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(4 * MIB, MIB, false, 3, 1);
    struct tb_weights w = {.files = a.m, .n_layers = 1, .event_fd = -1};
    struct weights_piece p[2];
    uint64_t there = 2 * MIB;

    w.layers[0].manifest = a.m;
    w.layers[0].ciphertext = (struct tb_ciphertext){.fd = a.fd, .has = has_half, .ctx = &there};
    assert_int_equal(tb_weights_init(&w, test_key, 1, 0, NULL), 0);
    assert_int_equal(tb_weights_pin(&w, 0, 0, 3 * MIB, 4 * MIB, p), -EAGAIN);
    assert_int_equal(tb_weights_pin(&w, 0, 0, MIB / 2, MIB + MIB / 2, p), -EAGAIN); /* half of it is there */
    assert_int_equal(atomic_load(&w.n_reading), 0);
    tb_weights_revoke(&w);
    assert_int_equal(tb_weights_pin(&w, 0, 0, 0, MIB, p), -ESHUTDOWN);
    assert_int_equal(atomic_load(&w.n_reading), 0);
    w.layers[0].cache = tb_cache_free(w.layers[0].cache);
    free(w.places);
}

static int setup(void **state)
{
    return tb_keymem_open() ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_verified_before_who_reads_all_comes_to_it),
        cmocka_unit_test(test_who_waits_reads),
        cmocka_unit_test(test_nothing_is_decrypted_ahead_while_all_answer),
        cmocka_unit_test(test_a_pin_that_fails_is_no_read_that_is_answered),
    };

    tb_keymem_install();
    return cmocka_run_group_tests(tests, setup, NULL);
}
