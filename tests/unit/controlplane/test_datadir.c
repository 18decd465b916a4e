/* SPDX-License-Identifier: Apache-2.0 */
/* keyring, datadir and pki: what the control plane keeps beside its database. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "controlplane/identity/pki.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/keys/wrap.h"

struct fixture {
    char dir[32];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->dir, "/tmp/cp-data-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", f->dir);

    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
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

static void test_the_keyring_of_a_file(void **state)
{
    struct tb_key master = {{1}}, other = {{2}}, key = {{3, 4, 5}}, out = {{9}};
    struct cp_keyring *a, *b;
    struct cp_wrapped w;

    assert_int_equal(cp_keyring_open_file(&master, &a), 0);
    assert_int_equal(cp_keyring_open_file(&other, &b), 0);
    assert_int_equal(cp_keyring_check(a, NULL), 0);
    assert_int_equal(cp_keyring_wrap(a, "x", &key, &w), 0);
    assert_memory_equal(w.kek_id, "file:", 5);
    assert_int_equal(cp_keyring_unwrap(b, "x", &w, &out), -ENOKEY);
    assert_int_equal(cp_keyring_unwrap(a, "y", &w, &out), -EBADMSG);
    assert_int_equal(out.b[0], 9);
    assert_int_equal(cp_keyring_unwrap(a, "x", &w, &out), 0);
    assert_memory_equal(&out, &key, sizeof(key));
    w.kek_id[0] = '\0'; /* wrapped before keys had ids */
    assert_int_equal(cp_keyring_unwrap(a, "x", &w, &out), 0);
    assert_int_equal(cp_keyring_unwrap(b, "x", &w, &out), -EBADMSG);
    w.len--;
    assert_int_equal(cp_keyring_unwrap(a, "x", &w, &out), -EBADMSG);
    cp_keyring_close(a);
    cp_keyring_close(b);
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
        cmocka_unit_test(test_wrapping),
        cmocka_unit_test(test_the_keyring_of_a_file),
        T(test_secrets_are_made_once_and_private),
        T(test_certificates_are_reused_until_they_do_not_fit),
        T(test_a_ca_without_its_key_is_not_replaced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
