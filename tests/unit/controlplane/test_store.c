/* SPDX-License-Identifier: Apache-2.0 */
/* store, wrap, datadir and pki: what the control plane keeps. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <openssl/x509v3.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "controlplane/identity/pki.h"

struct fixture {
    char dir[32];
    struct cp_store *store;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char err[CP_ERR_MAX];

    strcpy(f->dir, "/tmp/cp-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(cp_data_open_store(f->dir, &f->store, err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", f->dir);

    f->store = cp_store_close(f->store);
    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
}

static void test_new_database_is_seeded_and_private(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, CP_DB_FILE);
    struct cp_contract c;
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", &c), 0);
    assert_true(c.active);
    assert_string_equal(c.asset_id, "*");
    assert_int_equal(cp_store_get_contract(f->store, "contract-deny", &c), 0);
    assert_false(c.active);
    assert_string_equal(c.reason, "contract_invalid");
    assert_int_equal(cp_store_get_contract(f->store, "contract-none", &c), -ENOENT);
}

static void test_assets_are_replaced_whole(void **state)
{
    struct fixture *f = *state;
    struct cp_asset a = {.asset_id = "a",
                         .ciphertext_url = "https://s/c/1",
                         .manifest_url = "https://s/m/1",
                         .chunk_bytes = 1024,
                         .plaintext_bytes = 9007199254740991ULL,
                         .wrapped_key = {1, 2, 3},
                         .registered_us = 10,
                         .updated_us = 10},
                    b;
    bool replaced;

    assert_int_equal(cp_store_get_asset(f->store, "a", &b), -ENOENT);
    assert_int_equal(cp_store_put_asset(f->store, &a, false, &replaced), 0);
    assert_false(replaced);
    strcpy(a.ciphertext_url, "https://s/c/2");
    a.registered_us = a.updated_us = 20;
    assert_int_equal(cp_store_put_asset(f->store, &a, false, &replaced), 0);
    assert_true(replaced);
    assert_int_equal(cp_store_get_asset(f->store, "a", &b), 0);
    assert_string_equal(b.ciphertext_url, "https://s/c/2");
    assert_int_equal(b.plaintext_bytes, 9007199254740991ULL);
    assert_memory_equal(b.wrapped_key, a.wrapped_key, sizeof(a.wrapped_key));
    assert_int_equal(b.registered_us, 10);
    assert_int_equal(b.updated_us, 20);
}

/* The only copy of a key may be that of a registration which another one replaced. */
static void test_superseded_registrations_come_back(void **state)
{
    struct fixture *f = *state;
    static const char keys[] = "ABC", back[] = "BACBAC";
    struct cp_asset a = {.asset_id = "s", .chunk_bytes = 1024}, b;
    bool replaced;

    assert_int_equal(cp_store_restore_asset(f->store, "s"), -ENOENT);
    for (size_t i = 0; keys[i]; i++) {
        memset(a.wrapped_key, keys[i], sizeof(a.wrapped_key));
        a.updated_us = i;
        assert_int_equal(cp_store_put_asset(f->store, &a, true, &replaced), 0);
    }
    for (size_t i = 0; back[i]; i++) {
        assert_int_equal(cp_store_restore_asset(f->store, "s"), 0);
        assert_int_equal(cp_store_get_asset(f->store, "s", &b), 0);
        assert_int_equal(b.wrapped_key[0], back[i]);
    }
    assert_int_equal(cp_store_restore_asset(f->store, "other"), -ENOENT);
}

static void test_contracts_are_not_replaced_by_accident(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c = {
        .contract_id = "contract-allow", .asset_id = "x", .active = true, .lease_seconds = 5};

    assert_int_equal(cp_store_put_contract(f->store, &c, false), -EEXIST);
    assert_int_equal(cp_store_put_contract(f->store, &c, true), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", &c), 0);
    assert_string_equal(c.asset_id, "x");
}

static void test_rollback_undoes(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c = {.contract_id = "new", .asset_id = "x", .active = true, .lease_seconds = 5};

    assert_int_equal(cp_store_begin(f->store), 0);
    assert_int_equal(cp_store_put_contract(f->store, &c, false), 0);
    cp_store_rollback(f->store);
    assert_int_equal(cp_store_get_contract(f->store, "new", &c), -ENOENT);
}

static void test_machines_are_counted(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c;

    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h1", 2, 1), 0);
    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h2", 2, 1), 0);
    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h1", 2, 2), 0);
    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h3", 2, 2), -EDQUOT);
    assert_int_equal(cp_store_bind_hw(f->store, "other", "h3", 2, 2), 0);
    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h3", 0, 2), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", &c), 0);
    assert_int_equal(c.hw_used, 3);
    assert_int_equal(cp_store_unbind_hw(f->store, "contract-allow"), 0);
    assert_int_equal(cp_store_bind_hw(f->store, "contract-allow", "h9", 1, 2), 0);
}

static int count_log(const struct cp_log_entry *e, void *ctx)
{
    uint64_t *seen = ctx;

    assert_int_equal(e->at_us, seen[1] + 1); /* oldest first, no gap */
    seen[0]++;
    seen[1]++;
    return 0;
}

static void test_log_gives_the_newest(void **state)
{
    struct fixture *f = *state;
    uint64_t seen[2] = {0, 7};

    for (uint64_t i = 1; i <= 10; i++) {
        struct cp_log_entry e = {.at_us = i, .contract_id = "c", .asset_id = "a", .hw_id = "h", .peer = "p"};

        assert_int_equal(cp_store_add_log(f->store, &e), 0);
    }
    assert_int_equal(cp_store_each_log(f->store, 3, count_log, seen), 0);
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], 10);
}

static void test_database_of_another_version_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("echo 'PRAGMA user_version=99' | sqlite3 %s/" CP_DB_FILE, f->dir);
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    f->store = cp_store_close(f->store);
    assert_int_equal(system(cmd), 0);
    assert_true(cp_data_open_store(f->dir, &s, err) < 0);
    assert_non_null(strstr(err, "another version"));
}

static void test_damaged_database_is_named(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, CP_DB_FILE);
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    f->store = cp_store_close(f->store);
    assert_int_equal(tb_write_file_atomic(
                         path, "this is no database at all, but long enough to be looked at....", 64, 0600),
                     0);
    assert_true(cp_data_open_store(f->dir, &s, err) < 0);
    assert_non_null(strstr(err, path));
}

/* -- keys ---------------------------------------------------------------------------------------------------------- */
static void test_wrapping(void **state)
{
    struct tb_key master = {{1}}, wrong = {{2}}, key = {{3, 4, 5}}, out = {{9}};
    uint8_t w[CP_WRAPPED_KEY_BYTES], again[CP_WRAPPED_KEY_BYTES];

    assert_int_equal(cp_key_wrap(&master, "a", &key, w), 0);
    assert_int_equal(cp_key_wrap(&master, "a", &key, again), 0);
    assert_memory_not_equal(w, again, sizeof(w)); /* a fresh nonce each time */
    assert_int_equal(cp_key_unwrap(&master, "b", w, &out), -EBADMSG);
    assert_int_equal(cp_key_unwrap(&wrong, "a", w, &out), -EBADMSG);
    for (size_t i = 0; i < sizeof(w); i++) {
        w[i] ^= 1;
        assert_int_equal(cp_key_unwrap(&master, "a", w, &out), -EBADMSG);
        w[i] ^= 1;
    }
    assert_int_equal(out.b[0], 9);
    assert_int_equal(cp_key_unwrap(&master, "a", w, &out), 0);
    assert_memory_equal(&out, &key, sizeof(key));
}

static void test_secrets_are_made_once_and_private(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, CP_TOKEN_FILE);
    char err[CP_ERR_MAX] = "";
    struct tb_key a, b;
    struct stat st;

    assert_int_equal(cp_data_secret(f->dir, CP_TOKEN_FILE, &a, err), 0);
    assert_int_equal(cp_data_secret(f->dir, CP_TOKEN_FILE, &b, err), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 65);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(cp_data_secret(f->dir, CP_TOKEN_FILE, &b, err), -EPERM);
    assert_non_null(strstr(err, "chmod 600"));
    assert_int_equal(tb_write_file_atomic(path, "short\n", 6, 0600), 0);
    assert_int_equal(cp_data_secret(f->dir, CP_TOKEN_FILE, &b, err), -EINVAL);
    assert_non_null(strstr(err, path));
}

/* -- certificates -------------------------------------------------------------------------------------------------- */
static X509 *load(const char *dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    _cleanup_fclose_ FILE *fp = fopen(path, "re");
    X509 *x;

    assert_non_null(fp);
    x = PEM_read_X509(fp, NULL, NULL, NULL);
    assert_non_null(x);
    return x;
}

static void test_certificates_are_reused_until_they_do_not_fit(void **state)
{
    struct fixture *f = *state;
    const char *const names[] = {"cp.example", "192.0.2.7"}, *const bad[] = {"x,DNS:evil"};
    X509 *ca, *first, *second, *third;
    char err[CP_ERR_MAX] = "";

    assert_int_equal(cp_pki_server(f->dir, NULL, 0, err), 0);
    ca = load(f->dir, CP_CA_CERT);
    first = load(f->dir, CP_SERVER_CERT);
    assert_int_equal(X509_verify(first, X509_get0_pubkey(ca)), 1);
    assert_int_equal(X509_check_host(first, "localhost", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(first, "::1", 0), 1);
    assert_int_equal(X509_check_host(first, "cp.example", 0, 0, NULL), 0);
    assert_int_equal(cp_pki_server(f->dir, NULL, 0, err), 0);
    second = load(f->dir, CP_SERVER_CERT);
    assert_int_equal(X509_cmp(first, second), 0);
    assert_int_equal(cp_pki_server(f->dir, names, 2, err), 0);
    third = load(f->dir, CP_SERVER_CERT);
    assert_int_equal(X509_check_host(third, "cp.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(third, "192.0.2.7", 0), 1);
    assert_int_equal(X509_verify(third, X509_get0_pubkey(ca)), 1);
    assert_int_equal(cp_pki_server(f->dir, bad, 1, err), -EINVAL);
    X509_free(ca);
    X509_free(first);
    X509_free(second);
    X509_free(third);
}

static void test_a_ca_without_its_key_is_not_replaced(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *key = tb_path_join(f->dir, CP_CA_KEY);
    char err[CP_ERR_MAX] = "";

    assert_int_equal(cp_pki_client(f->dir, "n1", err), 0);
    assert_int_equal(unlink(key), 0);
    assert_int_equal(cp_pki_client(f->dir, "n2", err), -EBADMSG);
    assert_non_null(strstr(err, "remove both"));
    assert_int_equal(cp_pki_client(f->dir, "../n", err), -EINVAL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_new_database_is_seeded_and_private),
        T(test_assets_are_replaced_whole),
        T(test_superseded_registrations_come_back),
        T(test_contracts_are_not_replaced_by_accident),
        T(test_rollback_undoes),
        T(test_machines_are_counted),
        T(test_log_gives_the_newest),
        T(test_database_of_another_version_is_refused),
        T(test_damaged_database_is_named),
        cmocka_unit_test(test_wrapping),
        T(test_secrets_are_made_once_and_private),
        T(test_certificates_are_reused_until_they_do_not_fit),
        T(test_a_ca_without_its_key_is_not_replaced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
