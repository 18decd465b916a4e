/* SPDX-License-Identifier: Apache-2.0 */
/* The partial file and its two records, in a directory of its own. A SIGKILL is played by a child that
 * leaves with _exit(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "common/io.h"
#include "hydrate/partial.h"
#include "hydrate/verified.h"

#define CHUNK 4096

static char dir[64], path[96];

static int setup(void **state)
{
    strcpy(dir, "/tmp/tb-partial-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/model.tbenc", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)partial_remove(path);
    strcat(path, VERIFIED_SUFFIX);
    (void)unlink(path);
    return rmdir(dir);
}

static struct partial_identity identity(uint8_t sha)
{
    struct partial_identity id = {.size = 10 * CHUNK + 1, .chunk = CHUNK};

    memset(id.sha256, sha, sizeof(id.sha256));
    return id;
}

static struct partial *must_open(uint8_t sha)
{
    struct partial_identity id = identity(sha);
    struct partial *p;

    assert_int_equal(partial_open(path, &id, &p), 0);
    return p;
}

static bool exists(const char *suffix)
{
    _cleanup_free_ char *name = tb_strf("%s%s", path, suffix);

    return access(name, F_OK) == 0;
}

/* Marks ranges in a child that dies at once after. */
static void mark_and_die(uint64_t first, uint64_t last)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        struct partial_identity id = identity(1);
        struct partial *p;

        if (partial_open(path, &id, &p) < 0)
            _exit(1);
        for (uint64_t i = first; i <= last; i++)
            if (partial_mark(p, i) < 0)
                _exit(2);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_sigkill_forgets_nothing(void **state)
{
    struct partial *p;

    mark_and_die(0, 3);
    mark_and_die(7, 7);
    p = must_open(1);
    assert_true(partial_ranges(p)->bytes == 5 * CHUNK && partial_ranges(p)->prefix == 4 &&
                ranges_has(partial_ranges(p), 7));
    assert_int_equal(lseek(partial_fd(p), 0, SEEK_END), 10 * CHUNK + 1);
    partial_close(p);
}

static void test_close_and_sync_are_durable(void **state)
{
    _cleanup_free_ char *live = tb_strf("%s" PARTIAL_LIVE_SUFFIX, path);
    struct partial *p = must_open(1);

    partial_set_etag(p, "\"e\"");
    assert_int_equal(partial_mark(p, 2), 0);
    assert_int_equal(partial_sync(p), 0);
    assert_int_equal(partial_mark(p, 3), 0);
    partial_close(p);
    assert_int_equal(unlink(live), 0); /* as after a reboot */
    p = must_open(1);
    assert_true(partial_ranges(p)->bytes == 2 * CHUNK);
    assert_string_equal(partial_identity(p)->etag, "\"e\"");
    partial_close(p);
}

static void test_other_identity_begins_anew(void **state)
{
    struct partial *p;

    mark_and_die(0, 9);
    p = must_open(2);
    assert_true(partial_ranges(p)->bytes == 0);
    partial_close(p);
    p = must_open(2);
    assert_true(partial_ranges(p)->bytes ==
                0); /* and the live bitmap of the first is not taken for the second's */
    partial_close(p);
}

static void test_cut_data_file_begins_anew(void **state)
{
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, path);
    struct partial *p;

    mark_and_die(0, 9);
    assert_int_equal(truncate(part, CHUNK), 0);
    p = must_open(1);
    assert_true(partial_ranges(p)->bytes == 0);
    partial_close(p);
}

static void test_link_is_not_followed(void **state)
{
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, path), *other = tb_strf("%s/other", dir);
    struct partial *p;
    struct stat st;

    assert_int_equal(close(open(other, O_CREAT | O_WRONLY, 0600)), 0);
    assert_int_equal(symlink(other, part), 0);
    p = must_open(1);
    partial_close(p);
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(unlink(other), 0);
}

static void test_remove(void **state)
{
    mark_and_die(0, 1);
    assert_true(exists(PARTIAL_SUFFIX) && exists(PARTIAL_RECORD_SUFFIX) && exists(PARTIAL_LIVE_SUFFIX));
    assert_int_equal(partial_remove(path), 0);
    assert_false(exists(PARTIAL_SUFFIX) || exists(PARTIAL_RECORD_SUFFIX) || exists(PARTIAL_LIVE_SUFFIX));
    assert_int_equal(partial_remove(path), 0);
}

static void test_record_text(void **state)
{
    _cleanup_ranges_ struct ranges ranges = {0}, back = {0};
    _cleanup_free_ char *text = NULL;
    struct partial_identity id = identity(9), got;
    char instance[INSTANCE_MAX];

    strcpy(id.etag, "\"0x1\"");
    assert_int_equal(ranges_init(&ranges, id.size, id.chunk), 0);
    ranges_add(&ranges, 4);
    text = record_format(&id, "0123456789abcdef0123456789abcdef", &ranges);
    assert_non_null(text);
    assert_int_equal(record_parse(text, strlen(text), &got, instance, &back), 0);
    assert_true(got.size == id.size && got.chunk == id.chunk && ranges_has(&back, 4) && back.bytes == CHUNK);
    assert_string_equal(got.etag, id.etag);
    assert_memory_equal(got.sha256, id.sha256, sizeof(id.sha256));
    assert_string_equal(instance, "0123456789abcdef0123456789abcdef");
    for (size_t n = 0; n < strlen(text); n++) {
        _cleanup_ranges_ struct ranges none = {0};

        assert_int_equal(record_parse(text, n, &got, instance, &none), -EBADMSG);
    }
}

static void test_verified(void **state)
{
    uint8_t sha[SHA256_BYTES] = {1}, other[SHA256_BYTES] = {2};
    struct stat st = {.st_size = 5, .st_ino = 77, .st_mtim = {.tv_sec = 1700000000, .tv_nsec = 5}}, changed;

    assert_false(verified_matches(path, &st, sha));
    assert_int_equal(verified_write(path, &st, sha, NULL), 0);
    assert_true(verified_matches(path, &st, sha));
    assert_false(verified_matches(path, &st, other));
    changed = st;
    changed.st_size++;
    assert_false(verified_matches(path, &changed, sha));
    changed = st;
    changed.st_ino++;
    assert_false(verified_matches(path, &changed, sha));
    changed = st;
    changed.st_mtim.tv_nsec++;
    assert_false(verified_matches(path, &changed, sha));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_sigkill_forgets_nothing),
        T(test_close_and_sync_are_durable),
        T(test_other_identity_begins_anew),
        T(test_cut_data_file_begins_anew),
        T(test_link_is_not_followed),
        T(test_remove),
        T(test_record_text),
        T(test_verified),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
