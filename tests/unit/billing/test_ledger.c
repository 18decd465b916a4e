/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "common/io.h"
#include "billing/metering.h"
#include "common/units.h"

#define HOUR_US (3600 * TB_USEC_PER_SEC)

static char dir[] = "/tmp/tb-ledger-XXXXXX";
static char err[TB_LEDGER_ERR_MAX];

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

static struct tb_usage_snapshot snapshot(const char *epoch, uint64_t requests, uint64_t bytes)
{
    struct tb_usage_snapshot s = {.value = {[TB_USAGE_REQUESTS] = requests, [TB_USAGE_BYTES_OUT] = bytes}};

    snprintf(s.epoch, sizeof(s.epoch), "%s", epoch);
    return s;
}

static void book(struct tb_ledger *l, const char *epoch, uint64_t requests, uint64_t at, uint64_t expect)
{
    struct tb_usage_snapshot s = snapshot(epoch, requests, 0);
    uint64_t booked;

    assert_int_equal(tb_ledger_book(l, &s, at, &booked, err), 0);
    assert_int_equal(booked, expect);
}

static void test_increments_are_booked_once(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "once.db");
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    uint64_t total;

    assert_int_equal(tb_ledger_open(path, false, 0, &l, err), 0);
    book(l, "a", 5, HOUR_US, 5);
    book(l, "a", 5, HOUR_US, 0);
    book(l, "a", 9, 2 * HOUR_US, 4);
    book(l, "b", 3, 2 * HOUR_US, 3); /* the counter file was made anew */
    book(l, "a", 9, 2 * HOUR_US, 0);
    tb_ledger_closep(&l);
    assert_int_equal(tb_ledger_open(path, false, 0, &l, err), 0);
    book(l, "b", 3, 2 * HOUR_US, 0);
    assert_int_equal(tb_ledger_total(l, TB_USAGE_REQUESTS, &total), 0);
    assert_int_equal(total, 12);
}

static void test_a_counter_that_goes_back_books_nothing(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "back.db");
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    struct tb_usage_snapshot s = snapshot("a", 10, 100);
    uint64_t booked, total;

    assert_int_equal(tb_ledger_open(path, false, 0, &l, err), 0);
    assert_int_equal(tb_ledger_book(l, &s, HOUR_US, &booked, err), 0);
    s = snapshot("a", 11, 99);
    assert_int_equal(tb_ledger_book(l, &s, HOUR_US, &booked, err), -EBADMSG);
    assert_non_null(strstr(err, "bytes_out"));
    assert_int_equal(tb_ledger_total(l, TB_USAGE_REQUESTS, &total), 0);
    assert_int_equal(total, 10); /* the good half was rolled back too */
}

/* Killed at any instant, the ledger has either the whole booking with its mark or neither. */
static void test_sigkill_never_splits_a_booking(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "kill.db");
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    struct tb_usage_snapshot s;
    uint64_t booked, requests, bytes;

    for (int round = 0; round < 20; round++) {
        pid_t pid = fork();
        int status;

        if (pid == 0) {
            if (tb_ledger_open(path, false, 0, &l, err) < 0)
                _exit(1);
            for (uint64_t i = 1;; i++) {
                s = snapshot("a", (uint64_t)round * 100000 + i, ((uint64_t)round * 100000 + i) * 7);
                if (tb_ledger_book(l, &s, HOUR_US, &booked, err) < 0)
                    _exit(2);
            }
        }
        usleep(10000 + (unsigned)round * 1500);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
    }
    assert_int_equal(tb_ledger_open(path, false, 0, &l, err), 0);
    s = snapshot("a", 10000000, 70000000);
    assert_int_equal(tb_ledger_book(l, &s, HOUR_US, &booked, err), 0);
    assert_int_equal(tb_ledger_total(l, TB_USAGE_REQUESTS, &requests), 0);
    assert_int_equal(tb_ledger_total(l, TB_USAGE_BYTES_OUT, &bytes), 0);
    assert_int_equal(requests, 10000000);
    assert_int_equal(bytes, 70000000);
}

static void test_a_damaged_ledger_is_refused(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "bad.db");
    struct tb_ledger *l = NULL;
    char page[8192];

    memset(page, 0x5a, sizeof(page));
    assert_int_equal(tb_write_file_atomic(path, page, sizeof(page), 0640), 0);
    assert_int_equal(tb_ledger_open(path, false, 0, &l, err), -EBADMSG);
    assert_null(l);
}

static void test_printing(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "print.db"), *text = NULL;
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    assert_int_equal(tb_ledger_open(path, false, 1, &l, err), 0);
    book(l, "a", 5, 490000 * HOUR_US, 5);
    assert_int_equal(tb_metering_print(l, f, true, 490003 * HOUR_US, err), 0);
    fclose(f);
    assert_string_equal(
        text, "{\"used\":[{\"hour\":\"2025-11-24T16:00:00Z\",\"counter\":\"requests\",\"quantity\":5}],"
              "\"events\":[{\"hour\":\"2025-11-24T16:00:00Z\",\"dimension\":\"requests\",\"quantity\":5,"
              "\"state\":\"OPEN\",\"doubt\":false,\"since\":\"2025-11-24T16:00:00Z\",\"late_seconds\":7200,"
              "\"tries\":0}]}\n");
}

static int64_t event_sum(struct tb_ledger *l, const char *dimension)
{
    int64_t v;

    assert_int_equal(
        tb_db_int(l->db, &v, 0, "SELECT sum(quantity) FROM event WHERE dimension = ?1", "t", dimension), 0);
    return v;
}

/* As the first version left it, some of it long ago. */
static void test_version_1_is_brought_up_to_date_without_losing_a_unit(void **state)
{
    static const char old[] =
        "PRAGMA journal_mode=WAL;"
        "CREATE TABLE booked (epoch TEXT NOT NULL, counter TEXT NOT NULL, value INTEGER NOT NULL,"
        " PRIMARY KEY (epoch, counter)) WITHOUT ROWID;"
        "CREATE TABLE bucket (hour INTEGER NOT NULL, counter TEXT NOT NULL, quantity INTEGER NOT NULL,"
        " state TEXT NOT NULL DEFAULT 'OPEN', PRIMARY KEY (hour, counter)) WITHOUT ROWID;"
        "PRAGMA user_version = 1;"
        "INSERT INTO booked VALUES ('a', 'requests', 12), ('a', 'bytes_in', 100), ('a', 'bytes_out', 7);"
        "INSERT INTO bucket VALUES (480000, 'requests', 5, 'OPEN'), (490000, 'requests', 7, 'OPEN'),"
        " (490000, 'bytes_in', 100, 'OPEN'), (490000, 'bytes_out', 7, 'OPEN');";
    _cleanup_free_ char *path = tb_path_join(dir, "v1.db");
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    struct tb_metering_summary sum;
    uint64_t total;
    unsigned moved;
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, old, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(tb_ledger_open(path, true, 0, &l, err), -EBADMSG);
    assert_non_null(strstr(err, "start tb-billing"));
    assert_int_equal(tb_ledger_open(path, false, 1U | 1U << 5, &l, err), 0); /* requests, bytes */
    {
        struct tb_usage_snapshot s = {
            .epoch = "a",
            .value = {[TB_USAGE_REQUESTS] = 12, [TB_USAGE_BYTES_IN] = 100, [TB_USAGE_BYTES_OUT] = 7}};
        uint64_t booked;

        assert_int_equal(tb_ledger_book(l, &s, 490000 * HOUR_US, &booked, err), 0);
        assert_int_equal(booked, 0);
    }
    assert_int_equal(tb_ledger_total(l, TB_USAGE_REQUESTS, &total), 0);
    assert_int_equal(total, 12);
    assert_int_equal(event_sum(l, "requests"), 12);
    assert_int_equal(event_sum(l, "bytes"), 107);
    assert_int_equal(event_sum(l, "tokens"), 0);
    tb_ledger_closep(&l);
    assert_int_equal(tb_ledger_open(path, false, 1, &l, err), 0); /* once */
    assert_int_equal(event_sum(l, "requests"), 12);
    assert_int_equal(tb_metering_advance(l, 490000 * HOUR_US, &moved, err), 0);
    assert_int_equal(moved, 1); /* the old one, into the open hour */
    assert_int_equal(event_sum(l, "requests"), 12);
    assert_int_equal(tb_metering_summarise(l, &sum), 0);
    assert_int_equal(sum.open, 2);
    assert_int_equal(sum.oldest, 480000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_increments_are_booked_once),
        cmocka_unit_test(test_a_counter_that_goes_back_books_nothing),
        cmocka_unit_test(test_sigkill_never_splits_a_booking),
        cmocka_unit_test(test_a_damaged_ledger_is_refused),
        cmocka_unit_test(test_printing),
        cmocka_unit_test(test_version_1_is_brought_up_to_date_without_losing_a_unit),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
