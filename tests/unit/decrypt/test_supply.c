/* SPDX-License-Identifier: Apache-2.0 */
/* The wishes of a delivery: what is asked for, how often, and what gives way when there are too many. */
#include "tests/unit/tbenc/tbenc_testing.h"

#include <sys/stat.h>

#include "decrypt/supply.h"

#define RECORDS (TB_WANT_MAX + 8)
#define RECORD_BYTES 1024

struct place {
    char dir[32], run[48];
    struct tbenc_manifest *m;
    uint64_t bytes; /* of the ciphertext */
    struct tb_supply s;
};

/* The bytes of a record came once more, as a tb-hydrate says it. */
static void come_again(struct tb_range_map *map, struct tbenc_manifest *m, uint64_t record)
{
    struct tbenc_record r;

    assert_int_equal(tbenc_manifest_record(m, record, &r), 0);
    tb_range_map_renew(map, r.ct_off, r.pt_len + TBENC_RECORD_OVERHEAD);
}

static void place_write(const char *dir, const char *name, const void *buf, size_t n)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    _cleanup_close_ int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(tb_write_full(fd, buf, n), 0);
}

/* The map of its download, as who writes it has it: nothing came. */
static int place_map(const struct place *p, struct tb_range_map **ret)
{
    struct tb_range_map_id id = {.size = p->bytes, .chunk = RECORD_BYTES};
    _cleanup_free_ char *live = tb_path_join(p->dir, "w.part.live");
    uint8_t none[RECORDS] = {0};

    memset(id.instance, 'a', TB_RANGE_MAP_INSTANCE);
    memcpy(id.sha256, p->m->sha256_ciphertext, sizeof(id.sha256));
    return tb_range_map_create(live, &id, none, ret);
}

/* A complete file that a tb-hydrate has brought; coming: nothing of it is there yet. */
static void place_make(struct place *p, bool coming)
{
    _cleanup_(blob_free) struct blob pt = blob_pattern((size_t)RECORDS * RECORD_BYTES, 1);
    _cleanup_close_ int in = memfd_of(pt.p, pt.n), out = memfd_empty();
    const uint8_t nonce[] = {1, 2, 3, 4};
    struct tbenc_input input = {.fd = in, .bytes = pt.n, .mode = 0644};
    struct tbenc_seal_params q = {.key = test_key,
                                  .chunk_bytes = RECORD_BYTES,
                                  .nonce_prefix = nonce,
                                  .asset_id = "x",
                                  .weights_filename = "w"};
    _cleanup_(blob_free) struct blob ct = {0};
    struct tb_outcome o = {0};

    *p = (struct place){.dir = "/tmp/tb-supply-XXXXXX"};
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->run, sizeof(p->run), "%s/tb-decrypt", p->dir); /* below p->dir, as below /run */
    assert_int_equal(mkdir(p->run, 0700), 0);
    assert_int_equal(tbenc_seal(&q, &input, 1, false, out, &p->m, NULL), 0);
    ct = memfd_bytes(out);
    p->bytes = ct.n;
    place_write(p->dir, coming ? "w.part" : "w", ct.p, ct.n);
    place_write(p->dir, "w.verified.json", "{}", 2);
    if (coming) {
        _cleanup_range_map_ struct tb_range_map *map = NULL;

        assert_int_equal(place_map(p, &map), 0);
    }
    assert_int_equal(tb_supply_open(&p->s, p->dir, p->m, &o), 0);
    p->s.run_dir = p->run;
}

static void place_clear(struct place *p)
{
    _cleanup_free_ char *command = tb_strf("rm -r %s", p->dir);

    tb_supply_close(&p->s);
    p->m = tbenc_manifest_free(p->m);
    assert_int_equal(system(command), 0);
}
#define _cleanup_place_ _cleanup_(place_clear)

static bool damaged(struct place *p, uint64_t record)
{
    struct tbenc_record r;

    assert_int_equal(tbenc_manifest_record(p->m, record, &r), 0);
    return tb_supply_damaged(&p->s, &r, -EBADMSG);
}

static bool has(struct place *p, uint64_t record)
{
    struct tbenc_record r;

    assert_int_equal(tbenc_manifest_record(p->m, record, &r), 0);
    return tb_supply_has(&p->s, r.ct_off, r.pt_len + TBENC_RECORD_OVERHEAD);
}

/* It came: by hand, as a tb-hydrate says it in the map, or nobody does in time. */
static void settle(struct place *p, uint64_t record, bool came)
{
    for (size_t i = 0; i < p->s.n_wishes; i++)
        if (p->s.wishes[i].r.repair && p->s.wishes[i].r.record == record) {
            p->s.wishes[i].done = true;
            p->s.wishes[i].came = came;
            atomic_fetch_sub(&p->s.mending, 1);
        }
}

static void test_a_record_is_asked_for_three_times(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    for (unsigned i = 0; i < TB_SUPPLY_TRIES; i++) {
        assert_true(damaged(&p, 5));
        assert_true(damaged(&p, 5)); /* two found it */
        assert_false(has(&p, 5));
        assert_true(has(&p, 6));
        settle(&p, 5, true);
        assert_true(has(&p, 5));
    }
    assert_false(damaged(&p, 5));
}

/* One connection fetches them one after the other, and each that comes makes all of its range seem to come. */
static void test_records_of_one_range_do_not_use_up_each_others_tries(void **state)
{
    const uint64_t n = 2 * TB_SUPPLY_TRIES;
    _cleanup_place_ struct place p;
    unsigned more = 0;

    place_make(&p, false);
    for (uint64_t good = 0; good < n; good++) {
        for (uint64_t i = good; i < n; i++)
            assert_true(damaged(&p, i));
        for (uint64_t i = good; i < n; i++)
            settle(&p, i, true);
    }
    for (; more < 100 && damaged(&p, n - 1); more++)
        settle(&p, n - 1, true);
    assert_in_range(more, 1, n); /* but there is an end */
}

/* Records 5 and 6 have a range in common. What was read of 5 is older than what came of it, and is read again
 * before it is fetched again: each is fetched once. */
static void test_what_came_while_it_was_read_is_read_again(void **state)
{
    _cleanup_place_ struct place p;
    _cleanup_range_map_ struct tb_range_map *map = NULL;

    place_make(&p, true);
    assert_int_equal(place_map(&p, &map), 0);
    for (uint64_t i = 0; i < tb_range_map_count(map); i++)
        tb_range_map_mark(map, i);
    assert_true(damaged(&p, 5) && damaged(&p, 6));
    assert_false(has(&p, 5));
    come_again(map, p.m, 6);
    assert_true(has(&p, 5)); /* it seems so, and is read */
    come_again(map, p.m, 5);
    assert_true(damaged(&p, 5)); /* as it was before */
    assert_true(has(&p, 5));
    assert_true(damaged(&p, 5)); /* and as it is */
    assert_false(has(&p, 5));
}

/* Days later the same sector may fail once more. */
static void test_a_record_that_was_mended_can_be_mended_again_later(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    for (unsigned i = 0; i < 2 * TB_SUPPLY_TRIES; i++) {
        assert_true(damaged(&p, 5));
        assert_false(has(&p, 5));
        settle(&p, 5, true);
        p.s.wishes[0].since_us -= TB_SUPPLY_MEND_US;
    }
    assert_int_equal(p.s.n_wishes, 1);
}

static void test_a_record_that_did_not_come_in_time_is_given_up(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    assert_true(damaged(&p, 5));
    settle(&p, 5, false);
    p.s.wishes[0].since_us -= TB_SUPPLY_MEND_US;
    assert_false(damaged(&p, 5));
}

/* Nobody took up the first in time: neither does anybody the one that was asked for since, and none is asked for any more. */
static void test_where_nobody_mends_it_is_told_at_once(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    assert_true(damaged(&p, 5) && damaged(&p, 6));
    assert_false(has(&p, 5));
    p.s.wishes[0].asked_us -= TB_SUPPLY_CALL_US;
    assert_true(has(&p, 5)); /* as it is */
    assert_false(has(&p, 6));
    assert_false(damaged(&p, 7));
}

/* A reader asks and leaves, a tb-hydrate comes, mends and ends, and much later another reads: it is asked again, and nobody is said to be away. */
static void test_time_in_which_nobody_waited_does_not_count(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    assert_true(damaged(&p, 5));
    p.s.wishes[0].asked_us -= TB_SUPPLY_MEND_US;
    p.s.wishes[0].since_us -= TB_SUPPLY_MEND_US;
    p.s.wishes[0].looked_us -= TB_SUPPLY_MEND_US;
    assert_false(has(&p, 5));
    assert_true(damaged(&p, 6));
}

/* The download ended with it: its map is complete, and has no name any more. */
static void test_what_came_as_the_last_of_a_download_came(void **state)
{
    _cleanup_range_map_ struct tb_range_map *map = NULL;
    _cleanup_free_ char *live = NULL;
    _cleanup_place_ struct place p;

    place_make(&p, true);
    assert_int_equal(place_map(&p, &map), 0);
    for (uint64_t i = 0; i < tb_range_map_count(map); i++)
        tb_range_map_mark(map, i);
    assert_true(damaged(&p, 5) && damaged(&p, 60));
    come_again(map, p.m, 5);
    live = tb_path_join(p.dir, "w.part.live");
    tb_range_map_end(live, TB_RANGE_MAP_COMPLETE);
    assert_int_equal(unlink(live), 0);
    assert_true(has(&p, 5));
    assert_false(has(&p, 60));
}

static void test_a_wish_says_which_try_it_is(void **state)
{
    _cleanup_place_ struct place p;
    struct tb_want want;

    place_make(&p, false);
    for (unsigned i = 1; i <= TB_SUPPLY_TRIES; i++) {
        assert_true(damaged(&p, 5));
        assert_int_equal(tb_want_read(p.dir, &want), 0);
        assert_int_equal(want.n, 1);
        assert_int_equal(want.r[0].try, i);
        settle(&p, 5, true);
    }
}

/* Hundreds of readers wait for what is on its way when a record proves bad. */
static void test_a_repair_takes_the_place_of_what_comes_anyway(void **state)
{
    _cleanup_place_ struct place p;
    struct tb_want want;
    size_t repairs = 0;

    place_make(&p, true);
    for (uint64_t i = 0; i < TB_WANT_MAX; i++) /* as of a file that is large enough */
        p.s.wishes[p.s.n_wishes++] =
            (struct tb_supply_wish){.r = {.offset = i * RECORD_BYTES, .bytes = RECORD_BYTES}};
    assert_true(damaged(&p, 3));
    assert_int_equal(p.s.n_wishes, TB_WANT_MAX);
    assert_int_equal(tb_want_read(p.dir, &want), 0);
    for (size_t i = 0; i < want.n; i++)
        repairs += want.r[i].repair && want.r[i].record == 3;
    assert_int_equal(repairs, 1);
}

/* More than can be asked for at once: each has its turn, and none is an error for that. */
static void test_too_many_bad_records_at_once_wait_for_their_turn(void **state)
{
    _cleanup_place_ struct place p;

    place_make(&p, false);
    for (uint64_t i = 0; i < TB_WANT_MAX; i++)
        assert_true(damaged(&p, i));
    assert_true(damaged(&p, TB_WANT_MAX));
    assert_true(has(&p, TB_WANT_MAX)); /* to be read again, and found bad again */
    settle(&p, 0, true);
    assert_true(damaged(&p, TB_WANT_MAX));
    assert_false(has(&p, TB_WANT_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_is_asked_for_three_times),
        cmocka_unit_test(test_what_came_while_it_was_read_is_read_again),
        cmocka_unit_test(test_records_of_one_range_do_not_use_up_each_others_tries),
        cmocka_unit_test(test_a_record_that_was_mended_can_be_mended_again_later),
        cmocka_unit_test(test_a_record_that_did_not_come_in_time_is_given_up),
        cmocka_unit_test(test_where_nobody_mends_it_is_told_at_once),
        cmocka_unit_test(test_time_in_which_nobody_waited_does_not_count),
        cmocka_unit_test(test_what_came_as_the_last_of_a_download_came),
        cmocka_unit_test(test_a_wish_says_which_try_it_is),
        cmocka_unit_test(test_a_repair_takes_the_place_of_what_comes_anyway),
        cmocka_unit_test(test_too_many_bad_records_at_once_wait_for_their_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
