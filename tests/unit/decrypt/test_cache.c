/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/decrypt/cache_testing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/units.h"
#include "decrypt/keymem.h"

static void flip(const struct asset *a, uint64_t record)
{
    struct tbenc_record r;
    uint8_t byte;

    assert_int_equal(tbenc_manifest_record(a->m, record, &r), 0);
    assert_int_equal(tb_pread_full(a->fd, &byte, 1, r.ct_off + 100), 1);
    byte ^= 4;
    assert_int_equal(tb_pwrite_full(a->fd, &byte, 1, r.ct_off + 100), 0);
}

static void test_every_byte_of_every_shape(void **state)
{
    static const uint32_t chunks[] = {1024, 70000, 700000, MIB, 4 * MIB};
    static const size_t sizes[] = {1, 1023, MIB, 5 * MIB + 3};

    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++)
        for (size_t j = 0; j < 2 * ARRAY_SIZE(sizes); j++) {
            size_t n = sizes[j / 2] + (j % 2 ? 2 * MIB : 0);
            _cleanup_asset_ struct asset a = asset_seal(n, chunks[i], j % 2, 3, 1);
            struct tb_ciphertext s = {.fd = a.fd};
            _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);

            assert_false(state_of(c).complete);
            assert_all(&a, c);
            assert_true(state_of(c).complete);
            assert_int_equal(state_of(c).verified_bytes, n);
            assert_int_equal(tb_cache_frontier(c), tb_cache_blocks(c)->n);
        }
}

static void test_blocks_verified_in_any_order_are_complete(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(9 * MIB + 5, MIB, true, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    uint64_t n = tb_cache_blocks(c)->n;

    for (uint64_t i = n; i-- > 0;) {
        const struct tb_slot *x;

        assert_false(state_of(c).complete);
        assert_int_equal(tb_cache_frontier(c), 0);
        assert_int_equal(tb_cache_pin(c, 0, i, &x, NULL), 0);
        tb_cache_unpin(c, x);
        assert_true(tb_cache_verified(c, i));
    }
    assert_true(state_of(c).complete);
    assert_int_equal(state_of(c).blocks_decrypted, n);
}

static void test_damage_is_one_block_and_ends_when_the_bytes_are_mended(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(6 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    struct tbenc_error e = {0};
    const struct tb_slot *x;

    flip(&a, 4);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(tb_cache_pin(c, 0, 4, &x, &e), -EBADMSG);
        assert_int_equal(e.chunk, 4);
        assert_string_equal(e.message, "chunk 4: not authentic: the wrong key, or damaged or moved data");
    }
    assert_int_equal(tb_cache_pin(c, 0, 3, &x, &e), 0);
    assert_slot(&a, x);
    tb_cache_unpin(c, x);
    flip(&a, 4);
    assert_all(&a, c);
    assert_true(state_of(c).complete);
}

static void test_what_is_cut_short_or_has_another_length_is_told(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(2 * MIB, MIB, false, 3, 1),
                                 small = asset_seal(5000, 1024, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd}, t = {.fd = small.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3), *d = cache_of(&small, &t, 1, 3);
    struct tbenc_error e = {0};
    const struct tb_slot *x;

    assert_int_equal(ftruncate(a.fd, TBENC_HEADER_BYTES + MIB + 100), 0);
    assert_int_equal(tb_cache_pin(c, 0, 1, &x, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "chunk 1: the file ends here"));
    assert_int_equal(tb_pwrite_full(a.fd, "\1\2", 2, TBENC_HEADER_BYTES), 0);
    assert_int_equal(tb_cache_pin(c, 0, 0, &x, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "chunk 0: its length field says"));
    assert_int_equal(ftruncate(small.fd, TBENC_HEADER_BYTES + 3000), 0);
    assert_int_equal(tb_cache_pin(d, 0, 0, &x, &e), -EBADMSG);
    assert_int_equal(e.chunk, 2);
}

/* -- a ciphertext that is still coming ----------------------------------------------------------------------- */
struct coming {
    uint64_t here; /* bytes */
    unsigned damaged;
    int error; /* of it */
    bool mends;
};

static bool coming_has(void *ctx, uint64_t from, uint64_t to)
{
    return to <= ((struct coming *)ctx)->here;
}

static bool coming_damaged(void *ctx, const struct tbenc_record *rec, int error)
{
    struct coming *c = ctx;

    c->damaged = (unsigned)rec->index;
    c->error = error;
    return c->mends;
}

static void test_what_has_not_come_is_not_waited_for(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1);
    struct coming from = {.here = TBENC_HEADER_BYTES + 2 * (MIB + TBENC_RECORD_OVERHEAD) + 5};
    struct tb_ciphertext s = {.fd = a.fd, .ctx = &from, .has = coming_has};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *x;

    assert_int_equal(tb_cache_pin(c, 0, 2, &x, NULL), -EAGAIN);
    assert_int_equal(tb_cache_pin(c, 0, 1, &x, NULL), 0);
    tb_cache_unpin(c, x);
    from.here += MIB + TBENC_RECORD_OVERHEAD - 5;
    assert_int_equal(tb_cache_pin(c, 0, 2, &x, NULL), 0);
    assert_slot(&a, x);
    tb_cache_unpin(c, x);
}

static void test_a_record_that_is_fetched_again_is_no_error(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, 512 * 1024, false, 3, 1);
    struct coming from = {.here = UINT64_MAX, .mends = true};
    struct tb_ciphertext s = {.fd = a.fd, .ctx = &from, .has = coming_has, .damaged = coming_damaged};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *x;

    flip(&a, 3);
    assert_int_equal(tb_cache_pin(c, 0, 1, &x, NULL), -EAGAIN);
    assert_int_equal(from.damaged, 3);
    assert_int_equal(from.error, -EBADMSG);
    from.mends = false;
    assert_int_equal(tb_cache_pin(c, 0, 1, &x, NULL), -EBADMSG);
    flip(&a, 3);
    assert_all(&a, c);
}

/* -- another version, authentic too ----------------------------------------------------------------------- */
static void copy_record(const struct asset *to, const struct asset *from, uint64_t record)
{
    struct tbenc_record r;
    struct blob b = memfd_bytes(from->fd);

    assert_int_equal(tbenc_manifest_record(to->m, record, &r), 0);
    assert_int_equal(tb_pwrite_full(to->fd, b.p + r.ct_off, r.pt_len + TBENC_RECORD_OVERHEAD, r.ct_off), 0);
    blob_free(&b);
}

static void test_a_record_of_another_version_is_told_at_the_end(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1),
                                 old = asset_seal(3 * MIB, MIB, false, 4, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *x;

    copy_record(&a, &old, 1);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(tb_cache_pin(c, 0, i, &x, NULL), 0);
        tb_cache_unpin(c, x);
    }
    assert_false(state_of(c).complete);
    assert_true(state_of(c).foreign);
}

static void test_a_record_that_was_verified_cannot_become_one_of_another_version(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(6 * MIB, MIB, false, 3, 1),
                                 old = asset_seal(6 * MIB, MIB, false, 4, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    struct tbenc_error e = {0};
    const struct tb_slot *x;

    assert_all(&a, c);
    copy_record(&a, &old, 0);
    assert_int_equal(tb_cache_pin(c, 0, 0, &x, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "the file was replaced"));
}

static void test_the_wrong_file_is_refused_at_once(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1),
                                 b = asset_seal(3 * MIB, 4096, false, 3, 1);
    struct tb_ciphertext s = {.fd = b.fd};
    struct tb_cache_params p = {.manifest = a.m, .key = test_key, .ciphertext = &s, .threads = 1, .slots = 3};
    struct tb_cache *c = NULL;
    struct tbenc_error e = {0};

    assert_int_equal(tb_cache_new(&p, &c, &e), -EBADMSG);
    assert_null(c);
    assert_non_null(strstr(e.message, "they do not belong together"));
}

/* -- revoked --------------------------------------------------------------------------------------------- */
static void test_nothing_is_wiped_under_a_reader(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *x, *y;

    assert_int_equal(tb_cache_pin(c, 0, 1, &x, NULL), 0);
    assert_false(tb_cache_revoke(c, 20));
    assert_slot(&a, x);
    assert_int_equal(tb_cache_pin(c, 0, 1, &y, NULL), -ESHUTDOWN);
    tb_cache_unpin(c, x);
    assert_true(tb_cache_revoke(c, 20));
    for (size_t i = 0; i < x->block.len; i++)
        assert_int_equal(x->pt[i], 0);
    assert_int_equal(tb_cache_pin(c, 0, 0, &y, NULL), -ESHUTDOWN);
}

/* Where the clock of day stands seconds before it is set back by hours: a moment is none of it. */
static atomic_long day_ahead_s;

int clock_gettime(clockid_t id, struct timespec *t)
{
    long r = syscall(SYS_clock_gettime, id, t);

    if (r == 0 && id == CLOCK_REALTIME)
        t->tv_sec += atomic_load(&day_ahead_s);
    return (int)r;
}

static void test_a_clock_that_is_set_back_does_not_hold_up_the_end(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, 1, 3);
    const struct tb_slot *x;
    uint64_t begin_us = tb_now_monotonic_us();

    assert_int_equal(tb_cache_pin(c, 0, 1, &x, NULL), 0);
    atomic_store(&day_ahead_s, 7200);
    alarm(60);
    assert_false(tb_cache_revoke(c, 20));
    alarm(0);
    atomic_store(&day_ahead_s, 0);
    assert_true(tb_now_monotonic_us() - begin_us >= 20000);
    tb_cache_unpin(c, x);
}

/* -- many threads ----------------------------------------------------------------------------------------- */
#define THREADS 16

struct crowd {
    const struct asset *a;
    struct tb_cache *c;
    pthread_barrier_t start;
    atomic_uint next, wrong;
    unsigned rounds;
    uint64_t same; /* UINT64_MAX: any block */
};

static void *crowd_thread(void *arg)
{
    struct crowd *w = arg;
    unsigned me = atomic_fetch_add(&w->next, 1);
    uint64_t x = 0x9e3779b97f4a7c15ULL * (me + 1), n = tb_cache_blocks(w->c)->n;

    (void)pthread_barrier_wait(&w->start);
    for (unsigned i = 0; i < w->rounds; i++) {
        const struct tb_slot *s[2];
        uint64_t at;

        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        at = w->same != UINT64_MAX ? w->same : x % n;
        for (uint64_t k = 0; k < 2; k++)
            if (tb_cache_pin(w->c, me, MIN(at + k, n - 1), &s[k], NULL) < 0 ||
                memcmp(s[k]->pt,
                       w->a->pt.p + w->a->start[s[k]->block.first.file] + s[k]->block.first.file_off,
                       s[k]->block.len) != 0)
                atomic_fetch_add(&w->wrong, 1);
        for (uint64_t k = 0; k < 2; k++)
            tb_cache_unpin(w->c, s[k]);
    }
    return NULL;
}

static void crowd_run(struct crowd *w)
{
    pthread_t t[THREADS];

    assert_int_equal(pthread_barrier_init(&w->start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, crowd_thread, w), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    (void)pthread_barrier_destroy(&w->start);
    assert_int_equal(w->wrong, 0);
}

static void test_a_block_that_many_want_is_decrypted_once(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(3 * MIB, MIB, false, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, THREADS, 2 * THREADS + 1);
    struct crowd w = {.a = &a, .c = c, .rounds = 20, .same = 1};

    crowd_run(&w);
    assert_int_equal(state_of(c).blocks_decrypted, 2);
    assert_int_equal(state_of(c).blocks_found, THREADS * 20 * 2 - 2);
}

/* As few slots as may be: each thread holds two and they must go round. */
static void test_sixteen_threads_at_random_see_the_plaintext(void **state)
{
    _cleanup_asset_ struct asset a = asset_seal(50 * MIB + 11, 256 * 1024, true, 3, 1);
    struct tb_ciphertext s = {.fd = a.fd};
    _cleanup_cache_ struct tb_cache *c = cache_of(&a, &s, THREADS, 2 * THREADS + 1);
    struct crowd w = {.a = &a, .c = c, .rounds = 60, .same = UINT64_MAX};

    crowd_run(&w);
    assert_true(state_of(c).blocks_decrypted >= 40);
    assert_all(&a, c);
    assert_true(state_of(c).complete);
}

static int setup(void **state)
{
    return tb_keymem_open() ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_of_every_shape),
        cmocka_unit_test(test_blocks_verified_in_any_order_are_complete),
        cmocka_unit_test(test_damage_is_one_block_and_ends_when_the_bytes_are_mended),
        cmocka_unit_test(test_what_is_cut_short_or_has_another_length_is_told),
        cmocka_unit_test(test_what_has_not_come_is_not_waited_for),
        cmocka_unit_test(test_a_record_that_is_fetched_again_is_no_error),
        cmocka_unit_test(test_a_record_of_another_version_is_told_at_the_end),
        cmocka_unit_test(test_a_record_that_was_verified_cannot_become_one_of_another_version),
        cmocka_unit_test(test_the_wrong_file_is_refused_at_once),
        cmocka_unit_test(test_nothing_is_wiped_under_a_reader),
        cmocka_unit_test(test_a_clock_that_is_set_back_does_not_hold_up_the_end),
        cmocka_unit_test(test_a_block_that_many_want_is_decrypted_once),
        cmocka_unit_test(test_sixteen_threads_at_random_see_the_plaintext),
    };

    tb_keymem_install();
    return cmocka_run_group_tests(tests, setup, NULL);
}
