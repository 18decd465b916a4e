/* SPDX-License-Identifier: Apache-2.0 */
/* The store itself: what is opened and what is refused, transactions, and the two logs. */
#include "store_testing.h"
#include <sys/stat.h>

#include "common/chain.h"

/* -- what is opened ------------------------------------------------------------------------------ */
static void test_new_database_is_seeded_and_private(void **state)
{
    struct store_fixture *f = *state;
    struct cp_contract c;
    struct stat st;

    if (!cp_sql_is_url(f->place.where)) {
        assert_int_equal(stat(f->place.where, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), 0);
    assert_true(c.active);
    assert_int_equal(c.mode, CP_MODE_OPEN);
    assert_string_equal(c.asset_id, "*");
    assert_int_equal(cp_store_get_contract(f->store, "contract-deny", NOW, &c), 0);
    assert_false(c.active);
    assert_string_equal(c.reason, "contract_invalid");
    assert_int_equal(cp_store_get_contract(f->store, "contract-none", NOW, &c), -ENOENT);
    assert_int_equal(cp_store_check(f->store), 0);
}

/* Who names a database of their own wants no contract that lets everybody have everything. */
static void test_a_database_of_business_has_no_contracts(void **state)
{
    struct store_fixture *f = *state;
    const char *url = getenv("TBCP_DATABASE");
    _cleanup_free_ char *path = tb_strf("sqlite:%s/mine.db", f->dir);
    struct cp_contract c;
    char err[CP_ERR_MAX];

    f->store = cp_store_close(f->store);
    if (url)
        drop_tables(url);
    assert_int_equal(cp_data_place(f->dir, url ? url : path, &f->place, err), 0);
    assert_int_equal(cp_data_open_store(&f->place, &f->store, err), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), -ENOENT);
}

static void set_schema_version(struct store_fixture *f)
{
    struct cp_sql *c;
    char err[TB_DB_ERR_MAX];

    f->store = cp_store_close(f->store);
    assert_int_equal(cp_sql_open(f->place.where, &c, err), 0);
    assert_int_equal(cp_sql_run(c, "UPDATE schema_version SET version=99", ""), 1);
    cp_sql_close(c);
}

static void test_database_of_another_version_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    set_schema_version(f);
    assert_true(cp_data_open_store(&f->place, &s, err) < 0);
    assert_non_null(strstr(err, "later version"));
}

static void test_damaged_database_is_named(void **state)
{
    struct store_fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, CP_DB_FILE);
    struct cp_place place;
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    f->store = cp_store_close(f->store);
    assert_int_equal(tb_write_file_atomic(
                         path, "this is no database at all, but long enough to be looked at....", 64, 0600),
                     0);
    assert_int_equal(cp_data_place(f->dir, NULL, &place, err), 0);
    assert_true(cp_data_open_store(&place, &s, err) < 0);
    assert_non_null(strstr(err, path));
}

/* A password stands in the URL. */
static void test_a_bad_url_is_not_quoted(void **state)
{
    struct cp_place place = {.where = "postgresql://me:s3cret@[oops/db"};
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    assert_int_equal(cp_data_open_store(&place, &s, err), -EINVAL);
    assert_null(strstr(err, "s3cret"));
    strcpy(place.where, "postgresql://me:s3cret@127.0.0.1:1/db");
    assert_int_equal(cp_data_open_store(&place, &s, err), -ENOTCONN);
    assert_null(strstr(err, "s3cret"));
}

/* -- transactions -------------------------------------------------------------------------------- */
static int put_and_fail(struct cp_store *s, void *ctx)
{
    struct cp_contract c = {.contract_id = "new", .asset_id = "x", .active = true, .lease_seconds = 5};

    assert_int_equal(cp_store_put_contract(s, &c, false), 0);
    return -ECANCELED;
}

static void test_rollback_undoes(void **state)
{
    struct store_fixture *f = *state;
    struct cp_contract c;

    assert_int_equal(cp_store_transact(f->store, put_and_fail, NULL), -ECANCELED);
    assert_int_equal(cp_store_get_contract(f->store, "new", NOW, &c), -ENOENT);
}

/* -- logs ---------------------------------------------------------------------------------------- */
static int count_log(const struct cp_log_entry *e, void *ctx)
{
    uint64_t *seen = ctx;

    assert_int_equal(e->at_us, seen[1] + 1); /* oldest first, no gap */
    seen[0]++;
    seen[1]++;
    return 0;
}

static int do_log(struct cp_store *s, void *ctx)
{
    return cp_store_add_log(s, ctx);
}

static void test_log_gives_the_newest(void **state)
{
    struct store_fixture *f = *state;
    uint64_t seen[2] = {0, 7};

    for (uint64_t i = 1; i <= 10; i++) {
        struct cp_log_entry e = {.at_us = i, .contract_id = "c", .asset_id = "a", .hw_id = "h", .peer = "p"};

        assert_int_equal(cp_store_transact(f->store, do_log, &e), 0);
    }
    assert_int_equal(cp_store_each_log(f->store, 3, count_log, seen), 0);
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], 10);
}

static int do_change(struct cp_store *s, void *ctx)
{
    return cp_change(s, NOW, "cli:me", "contract.add", "c", "state", "a \"b\"", "absent", NULL);
}

static int follow_chain(const char *line, void *ctx)
{
    struct tb_chain_point *p = ctx;
    struct tb_chain_entry e;
    char err[TB_CHAIN_ERR_MAX];

    assert_int_equal(tb_chain_parse(line, strlen(line), &e, err), 0);
    assert_int_equal(e.seq, p->seq + 1);
    assert_true(tb_chain_hash_equal(e.prev, p->hash));
    assert_null(strstr(line, "absent"));
    p->seq = e.seq;
    return tb_chain_hash(line, strlen(line), p->hash);
}

static void test_changes_are_a_chain(void **state)
{
    struct store_fixture *f = *state;
    struct tb_chain_point p = {0};

    for (int i = 0; i < 3; i++)
        assert_int_equal(cp_store_transact(f->store, do_change, NULL), 0);
    assert_int_equal(cp_store_each_change(f->store, 1, follow_chain, &p), 0);
    assert_int_equal(p.seq, 4); /* the first tells of the two contracts of a new database */
}

/* -- what is taken over -------------------------------------------------------------------------- */
static const char before_numbers[] =
    "CREATE TABLE assets(asset_id TEXT PRIMARY KEY, ciphertext_url TEXT NOT NULL, manifest_url TEXT NOT NULL,"
    " chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL, sha256_ciphertext TEXT NOT NULL,"
    " manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL, registered_us INTEGER NOT NULL,"
    " updated_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE contracts(contract_id TEXT PRIMARY KEY, asset_id TEXT NOT NULL, active INTEGER NOT NULL,"
    " reason TEXT NOT NULL, expires_us INTEGER NOT NULL, lease_seconds INTEGER NOT NULL,"
    " max_hw INTEGER NOT NULL, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT, WITHOUT "
    "ROWID;"
    "CREATE TABLE machines(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, contract_id TEXT NOT "
    "NULL,"
    " asset_id TEXT NOT NULL, hw_id TEXT NOT NULL, peer TEXT NOT NULL, client_name TEXT NOT NULL,"
    " authorized INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;"
    "CREATE TABLE usage(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, asset_id TEXT NOT NULL,"
    " at_us INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE superseded(id INTEGER PRIMARY KEY, asset_id TEXT NOT NULL, ciphertext_url TEXT NOT NULL,"
    " manifest_url TEXT NOT NULL, chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL,"
    " sha256_ciphertext TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL,"
    " registered_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT;"
    "INSERT INTO assets VALUES('a','https://s/c/3','https://s/m/3',1024,5,'h3','',x'03',1,3);"
    "INSERT INTO superseded VALUES(7,'a','https://s/c/1','https://s/m/1',1024,5,'h1','',x'01',1,1);"
    "INSERT INTO superseded VALUES(9,'a','https://s/c/2','https://s/m/2',1024,5,'h2','',x'02',1,2);"
    "INSERT INTO contracts VALUES('mine','a',1,'',0,60,3,1,1);"
    "INSERT INTO machines VALUES('mine','h',1767873600000000,1767873600000000);"
    "INSERT INTO log(at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason)"
    " VALUES(1,'mine','a','h','p','',1,'');"
    "INSERT INTO usage VALUES('mine','h','a',5,'{\"used\":{\"requests\":12}}');"
    "INSERT INTO usage VALUES('mine','more','a',5,"
    "'{\"used\":{\"requests\":99999999999999999999,\"errors\":-3,\"x\":\"y\"}}');"
    "INSERT INTO usage VALUES('mine','none','a',5,'not JSON'),('mine','odd','a',5,'{\"used\":7}');"
    "PRAGMA user_version=1";

static void test_a_database_from_before_numbers_is_taken_over(void **state)
{
    struct store_fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, "old.db");
    struct cp_place place = {0};
    struct cp_contract c;
    struct cp_asset a;
    uint64_t seen[2] = {0, 0};
    char err[TB_DB_ERR_MAX];
    struct cp_sql *old;

    f->store = cp_store_close(f->store);
    assert_int_equal(cp_sql_open(path, &old, err), 0);
    assert_int_equal(cp_sql_script(old, before_numbers), 0);
    cp_sql_close(old);
    snprintf(place.where, sizeof(place.where), "%s", path);
    if (cp_store_open(path, true, &f->store, err) < 0)
        fail_msg("%s", err);
    for (uint8_t v = 1; v <= 3; v++) {
        assert_int_equal(cp_store_get_asset(f->store, "a", v, &a), 0);
        assert_int_equal(a.wrapped.b[0], v);
        assert_int_equal(a.current, v == 3);
    }
    assert_int_equal(cp_store_get_contract(f->store, "mine", NOW, &c), 0);
    assert_int_equal(c.max_hw, 3);
    assert_int_equal(c.hw_used, 1);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), -ENOENT); /* not added */
    assert_int_equal(cp_store_each_log(f->store, 9, count_log, seen), 0);
    assert_int_equal(seen[0], 1);
    assert_int_equal(billed(f, "mine").requests, 12);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
    const struct CMUnitTest tests[] = {
        T(test_new_database_is_seeded_and_private),
        T(test_a_database_of_business_has_no_contracts),
        T(test_rollback_undoes),
        T(test_log_gives_the_newest),
        T(test_changes_are_a_chain),
        T(test_database_of_another_version_is_refused),
        T(test_damaged_database_is_named),
        cmocka_unit_test(test_a_bad_url_is_not_quoted),
        T(test_a_database_from_before_numbers_is_taken_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
