/* SPDX-License-Identifier: Apache-2.0 */
/* The map of ranges: one writer, readers that map it read-only, some of them in another process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/range_map.h"
#include "common/units.h"

#define CHUNK 1000
#define RANGES 11
#define MANY 4096
#define SIZE_OF_MANY ((uint64_t)MANY * CHUNK)

static char dir[64], path[96];

static int setup(void **state)
{
    strcpy(dir, "/tmp/tb-range-map-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/map", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)unlink(path);
    return rmdir(dir);
}

static struct tb_range_map_id identity(char instance)
{
    struct tb_range_map_id id = {.size = (RANGES - 1) * CHUNK + 1, .chunk = CHUNK};

    memset(id.instance, instance, TB_RANGE_MAP_INSTANCE);
    memset(id.sha256, instance, sizeof(id.sha256));
    return id;
}

static struct tb_range_map *must_create(char instance, const uint8_t *present)
{
    struct tb_range_map_id id = identity(instance);
    struct tb_range_map *m;

    assert_int_equal(tb_range_map_create(path, &id, present, &m), 0);
    return m;
}

static struct tb_range_map *must_read(void)
{
    struct tb_range_map *m;

    assert_int_equal(tb_range_map_open(path, &m), 0);
    return m;
}

static const uint8_t nothing[2], some[2] = {0x0d, 0x04}; /* 0, 2, 3 and 10 */

static void test_reader_sees_what_came(void **state)
{
    _cleanup_range_map_ struct tb_range_map *w = must_create('a', some), *r = must_read();
    uint64_t missing = 0;

    assert_int_equal(tb_range_map_count(r), RANGES);
    assert_true(tb_range_map_id(r)->size == 10 * CHUNK + 1 && tb_range_map_id(r)->chunk == CHUNK);
    assert_string_equal(tb_range_map_id(r)->instance, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_true(tb_range_map_has(r, 2 * CHUNK, 2 * CHUNK, NULL));
    assert_true(tb_range_map_has(r, 10 * CHUNK, 1, NULL));
    assert_false(tb_range_map_has(r, 2 * CHUNK, 2 * CHUNK + 1, &missing));
    assert_int_equal(missing, 4 * CHUNK);
    assert_false(tb_range_map_has(r, CHUNK - 1, 2, &missing));
    assert_int_equal(missing, CHUNK);
    tb_range_map_mark(w, 1);
    assert_true(tb_range_map_has(r, 0, 4 * CHUNK, NULL));
    assert_int_equal(tb_range_map_state(r), TB_RANGE_MAP_COMING);
    tb_range_map_set_state(w, TB_RANGE_MAP_COMPLETE);
    assert_int_equal(tb_range_map_state(r), TB_RANGE_MAP_COMPLETE);
}

static void test_questions_past_the_end_lead_nowhere(void **state)
{
    _cleanup_range_map_ struct tb_range_map *w = must_create('a', some);

    assert_true(tb_range_map_has(w, 10 * CHUNK, UINT64_MAX, NULL));
    assert_true(tb_range_map_has(w, UINT64_MAX, UINT64_MAX, NULL));
    assert_true(tb_range_map_has(w, 10 * CHUNK + 1, 5, NULL));
    assert_true(tb_range_map_has(w, CHUNK, 0, NULL));
    assert_false(tb_range_map_has(w, 0, UINT64_MAX, NULL));
    assert_int_equal(tb_range_map_seen(w, UINT64_MAX, UINT64_MAX), 0);
    tb_range_map_renew(w, UINT64_MAX, UINT64_MAX);
}

static void test_what_came_once_more_is_told(void **state)
{
    _cleanup_range_map_ struct tb_range_map *w = must_create('a', some), *r = must_read();
    uint32_t seen = tb_range_map_seen(r, 0, 3 * CHUNK), other = tb_range_map_seen(r, 3 * CHUNK, CHUNK);

    assert_false(tb_range_map_came_again(r, 2 * CHUNK, 2 * CHUNK, 0));
    tb_range_map_renew(w, 3 * CHUNK, 1);
    assert_true(tb_range_map_came_again(r, 2 * CHUNK, 2 * CHUNK, 0));
    other = tb_range_map_seen(r, 3 * CHUNK, CHUNK);
    assert_false(tb_range_map_came_again(r, 3 * CHUNK, CHUNK, other));
    for (int i = 0; i < 600; i++) { /* the byte wraps, and never says that it is missing */
        tb_range_map_renew(w, 2 * CHUNK + 5, 10);
        assert_int_not_equal(tb_range_map_seen(r, 0, 3 * CHUNK), seen);
        assert_true(tb_range_map_has(r, 2 * CHUNK, CHUNK, NULL));
        seen = tb_range_map_seen(r, 0, 3 * CHUNK);
    }
    assert_int_equal(tb_range_map_seen(r, 3 * CHUNK, CHUNK), other);
    tb_range_map_renew(w, CHUNK, CHUNK); /* what never came did not come once more */
    assert_false(tb_range_map_has(r, CHUNK, CHUNK, NULL));
}

static void *mark_later(void *arg)
{
    usleep(20000);
    tb_range_map_mark(arg, 5);
    return NULL;
}

static void test_reader_is_woken(void **state)
{
    _cleanup_range_map_ struct tb_range_map *w = must_create('a', nothing), *r = must_read();
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, mark_later, w), 0);
    for (;;) {
        uint32_t changes = tb_range_map_changes(r);

        if (tb_range_map_has(r, 5 * CHUNK, CHUNK, NULL))
            break;
        tb_range_map_wait(r, changes, 60000); /* the test runs out of time when nothing wakes it */
    }
    pthread_join(t, NULL);
    tb_range_map_wait(r, tb_range_map_changes(r) - 1, 60000); /* what changed before is not waited for */
}

static void test_next_writer_goes_on(void **state)
{
    _cleanup_range_map_ struct tb_range_map *r = NULL;
    struct tb_range_map *w = must_create('a', some);
    struct stat before, after;

    assert_int_equal(stat(path, &before), 0);
    r = must_read();
    tb_range_map_mark(w, 7);
    tb_range_map_free(w);
    w = must_create('a', some); /* as after SIGKILL: the same file, so that readers see what comes now */
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_true(tb_range_map_has_range(w, 7) && tb_range_map_has_range(w, 0));
    tb_range_map_mark(w, 8);
    assert_true(tb_range_map_has_range(r, 8));
    tb_range_map_free(w);
}

static void test_another_download_abandons_the_first(void **state)
{
    _cleanup_range_map_ struct tb_range_map *old = NULL, *w = NULL;

    tb_range_map_free(must_create('a', some));
    old = must_read();
    w = must_create('b', nothing);
    assert_int_equal(tb_range_map_state(old), TB_RANGE_MAP_ABANDONED);
    assert_int_equal(tb_range_map_state(w), TB_RANGE_MAP_COMING);
    assert_false(tb_range_map_has_range(w, 0));
    tb_range_map_end(path, TB_RANGE_MAP_ABANDONED);
    assert_int_equal(tb_range_map_state(w), TB_RANGE_MAP_ABANDONED);
    tb_range_map_end(path, TB_RANGE_MAP_COMPLETE); /* it ended before */
    assert_int_equal(tb_range_map_state(w), TB_RANGE_MAP_ABANDONED);
}

static void write_at(off_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void test_another_boot_is_refused(void **state)
{
    struct tb_range_map *r;

    tb_range_map_free(must_create('a', some));
    write_at(8, "0", 1);
    assert_int_equal(tb_range_map_open(path, &r), -ESTALE);
    r = must_create('a', nothing);
    assert_false(tb_range_map_has_range(r, 0));
    tb_range_map_free(r);
}

static void test_foreign_bytes_are_refused(void **state)
{
    const uint64_t bad[] = {0, 1, 999, 1001, UINT64_MAX};
    struct tb_range_map *r;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) { /* a geometry that is not the file's */
        tb_range_map_free(must_create('a', some));
        write_at(120, &bad[i], sizeof(bad[i]));
        assert_int_equal(tb_range_map_open(path, &r), i == 2 ? 0 : -EBADMSG);
        if (i == 2) /* as many ranges, and their ends lie inside too */
            tb_range_map_free(r);
        assert_int_equal(unlink(path), 0);
    }
    tb_range_map_free(must_create('a', some));
    assert_int_equal(truncate(path, TB_RANGE_MAP_HEADER_BYTES + RANGES - 1), 0);
    assert_int_equal(tb_range_map_open(path, &r), -EBADMSG);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(tb_range_map_open(path, &r), -EBADMSG);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tb_range_map_open(path, &r), -ENOENT);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(tb_range_map_open(path, &r), -ELOOP);
    r = must_create('a', some); /* and the writer puts its own there */
    tb_range_map_free(r);
}

static void test_limits(void **state)
{
    struct tb_range_map_id id = identity('a');
    struct tb_range_map *r;

    id.size = (uint64_t)TB_RANGE_MAP_MAX * CHUNK + 1;
    assert_int_equal(tb_range_map_create(path, &id, nothing, &r), -EFBIG);
    id.chunk = 0;
    assert_int_equal(tb_range_map_create(path, &id, nothing, &r), -EINVAL);
    id = identity('a');
    id.instance[5] = '\0';
    assert_int_equal(tb_range_map_create(path, &id, nothing, &r), -EINVAL);
}

/* Under its name a map has all that is there: who looks while it is made takes no range for one that came. */
static void *look_for_less(void *arg)
{
    atomic_bool *ends = arg;
    uintptr_t less = 0;

    while (!atomic_load(ends)) {
        _cleanup_range_map_ struct tb_range_map *r = NULL;

        less += tb_range_map_open(path, &r) == 0 && tb_range_map_came_again(r, 0, SIZE_OF_MANY, 0);
    }
    return (void *)less;
}

static void test_a_map_is_whole_when_it_has_its_name(void **state)
{
    static uint8_t all[MANY / 8];
    struct tb_range_map_id id = {.size = SIZE_OF_MANY, .chunk = CHUNK};
    atomic_bool ends = false;
    pthread_t looks;
    void *less;

    memset(all, 0xff, sizeof(all));
    assert_int_equal(pthread_create(&looks, NULL, look_for_less, &ends), 0);
    for (int i = 0; i < 300; i++) {
        _cleanup_range_map_ struct tb_range_map *w = NULL;

        snprintf(id.instance, sizeof(id.instance), "%032d", i);
        assert_int_equal(tb_range_map_create(path, &id, all, &w), 0);
    }
    atomic_store(&ends, true);
    assert_int_equal(pthread_join(looks, &less), 0);
    assert_int_equal((uintptr_t)less, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_reader_sees_what_came),
        T(test_questions_past_the_end_lead_nowhere),
        T(test_what_came_once_more_is_told),
        T(test_reader_is_woken),
        T(test_next_writer_goes_on),
        T(test_another_download_abandons_the_first),
        T(test_another_boot_is_refused),
        T(test_foreign_bytes_are_refused),
        T(test_limits),
        T(test_a_map_is_whole_when_it_has_its_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
