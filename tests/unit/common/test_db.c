/* SPDX-License-Identifier: Apache-2.0 */
#include "common/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/io.h"

static char dir[] = "/tmp/tb-db.XXXXXX";
static char path[64];

static sqlite3 *open_db(void)
{
    char err[TB_DB_ERR_MAX];
    sqlite3 *db = NULL;

    assert_int_equal(tb_db_open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, err), 0);
    return db;
}

static int64_t count(sqlite3 *db)
{
    int64_t n = -1;

    assert_int_equal(tb_db_int(db, &n, -1, "SELECT count(*) FROM t", NULL), 0);
    return n;
}

static void test_values_of_every_type_come_back(void **state)
{
    static const uint8_t blob[] = {0, 1, 2};
    _cleanup_db_ sqlite3 *db = open_db();
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    char text[4];

    assert_int_equal(tb_db_exec(db, "CREATE TABLE v (i, u, t, n, b)"), 0);
    assert_int_equal(tb_db_run(db, "INSERT INTO v VALUES (?, ?, ?, ?, ?)", "iuttb", INT64_C(-7),
                               UINT64_C(1) << 62, "words", NULL, blob, sizeof(blob)),
                     1);
    assert_int_equal(tb_db_prepare(db, &s, "SELECT * FROM v", NULL), 0);
    assert_int_equal(tb_db_step(s), 1);
    assert_int_equal(sqlite3_column_int64(s, 0), -7);
    assert_int_equal(sqlite3_column_int64(s, 1), INT64_C(1) << 62);
    tb_db_column_text(s, 2, text, sizeof(text));
    assert_string_equal(text, "wor");
    tb_db_column_text(s, 3, text, sizeof(text));
    assert_string_equal(text, "");
    assert_int_equal(sqlite3_column_type(s, 3), SQLITE_NULL);
    assert_int_equal(sqlite3_column_bytes(s, 4), sizeof(blob));
    assert_memory_equal(sqlite3_column_blob(s, 4), blob, sizeof(blob));
    assert_int_equal(tb_db_step(s), 0);
}

/* Adds a row and leaves, with or without the end that makes it stay. */
static int add_row(sqlite3 *db, const char *key, bool end, char err[static TB_DB_ERR_MAX])
{
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, db, err);

    if (r == 0)
        r = tb_db_run(db, "INSERT INTO t VALUES (?)", "t", key);
    return end ? tb_db_end(&tx, r, "adding", err) : r;
}

static void test_a_scope_that_is_left_rolls_back(void **state)
{
    _cleanup_db_ sqlite3 *db = open_db();
    char err[TB_DB_ERR_MAX];

    assert_int_equal(tb_db_exec(db, "CREATE TABLE t (k TEXT PRIMARY KEY)"), 0);
    assert_int_equal(add_row(db, "a", false, err), 1);
    assert_int_equal(count(db), 0);
    assert_int_equal(add_row(db, "a", true, err), 0);
    assert_int_equal(count(db), 1);
    assert_int_equal(add_row(db, "a", true, err), -EEXIST);
    assert_non_null(strstr(err, "adding: UNIQUE constraint failed"));
    assert_true(sqlite3_get_autocommit(db));
    assert_int_equal(add_row(db, "b", true, err), 0);
    assert_string_equal(err, "");
}

static void test_words_of_ones_own_are_kept(void **state)
{
    _cleanup_db_ sqlite3 *db = open_db();
    char err[TB_DB_ERR_MAX] = "the counter went back";

    assert_int_equal(tb_db_error(db, -EBADMSG, "booking", err), -EBADMSG);
    assert_string_equal(err, "the counter went back");
    err[0] = '\0';
    assert_int_equal(tb_db_error(db, -ENOMEM, "booking", err), -ENOMEM);
    assert_string_equal(err, "booking: Cannot allocate memory");
}

static void test_a_lock_held_by_another_is_busy(void **state)
{
    _cleanup_db_ sqlite3 *one = open_db(), *two = open_db();
    _cleanup_tx_ struct tb_db_tx tx = {0};
    char err[TB_DB_ERR_MAX];

    sqlite3_busy_timeout(two, 1);
    assert_int_equal(tb_db_begin(&tx, one, err), 0);
    assert_int_equal(tb_db_exec(two, "BEGIN IMMEDIATE"), -EBUSY);
}

static void test_a_file_is_private_and_a_damaged_one_is_told(void **state)
{
    _cleanup_db_ sqlite3 *db = open_db();
    char err[TB_DB_ERR_MAX];
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    tb_db_closep(&db);
    assert_int_equal(tb_write_file_atomic(path, "this is no database at all", 26, 0600), 0);
    assert_int_equal(tb_db_open(path, SQLITE_OPEN_READWRITE, &db, err), -EBADMSG);
    assert_non_null(strstr(err, "opening: file is not a database"));
    assert_int_equal(tb_db_open("/nonexistent/db", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, err),
                     -ENOENT);
    assert_string_equal(err, "opening: No such file or directory");
}

static int forget(void **state)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};

    for (size_t i = 0; i < ARRAY_SIZE(suffix); i++) {
        _cleanup_free_ char *file = tb_strf("%s%s", path, suffix[i]);

        (void)unlink(file);
    }
    return 0;
}

static int setup(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/db", dir);
    return 0;
}

/* Of another process that comes and goes: the last to close a database removes its write-ahead log, and it
 * is not the last while we have it open. */
static void test_a_second_connection_keeps_the_lock_of_the_first(void **state)
{
    _cleanup_db_ sqlite3 *first = open_db(), *second = NULL;
    char wal[80], cmd[160];

    assert_int_equal(tb_db_exec(first, "CREATE TABLE t (k)"), 0);
    second = open_db();
    snprintf(wal, sizeof(wal), "%s-wal", path);
    snprintf(cmd, sizeof(cmd), "echo 'SELECT count(*) FROM t' | sqlite3 %s >/dev/null", path);
    assert_int_equal(access(wal, F_OK), 0);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(access(wal, F_OK), 0);
    assert_int_equal(count(second), 0);
}

static int teardown(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_values_of_every_type_come_back, forget),
        cmocka_unit_test_teardown(test_a_scope_that_is_left_rolls_back, forget),
        cmocka_unit_test_teardown(test_words_of_ones_own_are_kept, forget),
        cmocka_unit_test_teardown(test_a_lock_held_by_another_is_busy, forget),
        cmocka_unit_test_teardown(test_a_file_is_private_and_a_damaged_one_is_told, forget),
        cmocka_unit_test_teardown(test_a_second_connection_keeps_the_lock_of_the_first, forget),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
