/* SPDX-License-Identifier: Apache-2.0 */
/* What is left about the control plane, the clock that follows from it, and how long certificates are good for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "common/contact.h"
#include "common/units.h"

#define S TB_USEC_PER_SEC
#define NOW (1767866400ULL * S) /* 2026-01-08T10:00:00Z */

static void test_it_reads_back_what_was_written(void **unused)
{
    char dir[] = "/tmp/tb-contact-XXXXXX", path[64];
    struct tb_contact c = {.reachable = false,
                           .reason = "connection refused",
                           .failures = 3,
                           .asked_real_us = NOW,
                           .asked_boot_us = 70 * S,
                           .date_real_us = NOW - 60 * S,
                           .date_boot_us = 10 * S,
                           .client = {.path = "/c", .from_us = NOW - S, .until_us = NOW + S},
                           .ca = {.path = "/ca", .error = "holds nothing"}},
                      r;

    assert_non_null(mkdtemp(dir));
    assert_int_equal(tb_contact_read(dir, TB_CONTACT_NAME, &r), -ENOENT);
    assert_false(r.known);
    assert_int_equal(tb_contact_write(dir, &c), 0);
    assert_int_equal(tb_contact_read(dir, TB_CONTACT_NAME, &r), 0);
    c.known = true;
    assert_memory_equal(&r, &c, sizeof(c));
    snprintf(path, sizeof(path), "%s/" TB_CONTACT_NAME, dir);
    unlink(path);
    rmdir(dir);
}

/* The clock is known from one answer for the rest of the boot, whatever is done to it afterwards. */
static void test_the_clock_that_this_machine_should_have(void **unused)
{
    struct tb_contact c = {.date_real_us = NOW, .date_boot_us = 100 * S};
    double off;

    assert_true(tb_contact_clock_offset(&c, NOW + 50 * S, 150 * S, &off));
    assert_true(off > -1 && off < 1);
    assert_true(tb_contact_clock_offset(&c, NOW + 50 * S + 86400 * S, 150 * S, &off));
    assert_true(off > 86399 && off < 86401);
    assert_true(tb_contact_clock_offset(&c, NOW + 50 * S - 86400 * S, 150 * S, &off));
    assert_true(off < -86399 && off > -86401);
    assert_false(tb_contact_clock_offset(&c, NOW, 99 * S, &off)); /* of another boot */
    c.date_real_us = 0;
    assert_false(tb_contact_clock_offset(&c, NOW, 150 * S, &off));
}

static EVP_PKEY *key;

static void put_certificate(FILE *f, long from_s, long until_s)
{
    X509 *x = X509_new();

    assert_non_null(x);
    assert_int_equal(X509_set_pubkey(x, key), 1);
    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(NOW / S) + from_s);
    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(NOW / S) + until_s);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    assert_int_equal(PEM_write_X509(f, x), 1);
    X509_free(x);
}

struct ends {
    long end[20];
    size_t n;
    long chain, authorities;
};

static void test_how_long_a_file_is_good_for(void **unused)
{
    static const struct ends cases[] = {
        {{500}, 1, 500, 500},
        {{-5}, 1, -5, -5},
        {{500, 100, 900}, 3, 100, 100},
        {{500, -5, 900}, 3, -5, 500}, /* an issuer that has ended breaks a chain, another authority does */
        {{-9, -5}, 2, -9, -5},
        {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 16, 1, 16},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[] = "/tmp/tb-cert-XXXXXX";
        FILE *f = fdopen(mkstemp(path), "w");
        struct tb_certificate c;

        assert_non_null(f);
        for (size_t k = 0; k < cases[i].n; k++)
            put_certificate(f, -1000, cases[i].end[k]);
        fclose(f);
        assert_int_equal(tb_certificate_read(path, false, NOW, &c), 0);
        assert_int_equal((long)(c.until_us / S) - (long)(NOW / S), cases[i].chain);
        assert_int_equal((long)(NOW / S) - (long)(c.from_us / S), 1000);
        assert_string_equal(c.path, path);
        assert_int_equal(tb_certificate_read(path, true, NOW, &c), 0);
        assert_int_equal((long)(c.until_us / S) - (long)(NOW / S), cases[i].authorities);
        unlink(path);
    }
}

static void test_files_that_are_none(void **unused)
{
    static const char *const text[] = {"", "nothing\n",
                                       "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                                       "-----BEGIN CERTIFICATE-----\n"};
    struct tb_certificate c;

    for (size_t i = 0; i < sizeof(text) / sizeof(text[0]); i++) {
        char path[] = "/tmp/tb-cert-XXXXXX";
        int fd = mkstemp(path);

        assert_int_equal(write(fd, text[i], strlen(text[i])), strlen(text[i]));
        close(fd);
        assert_int_equal(tb_certificate_read(path, false, NOW, &c), -EINVAL);
        assert_string_equal(c.error, "holds no certificate in PEM format that can be read");
        unlink(path);
    }
    assert_int_equal(tb_certificate_read("/nonexistent", false, NOW, &c), -ENOENT);
    assert_string_equal(c.path, "/nonexistent");
    assert_string_equal(c.error, "No such file or directory");
}

static void test_a_key_of_another_certificate(void **unused)
{
    char cert[] = "/tmp/tb-cert-XXXXXX", mine[] = "/tmp/tb-key-XXXXXX", other[] = "/tmp/tb-key-XXXXXX";
    char err[TB_CERTIFICATE_ERR_MAX];
    EVP_PKEY *another = EVP_EC_gen("P-256");
    FILE *f = fdopen(mkstemp(cert), "w");

    put_certificate(f, -1, 1);
    fclose(f);
    f = fdopen(mkstemp(mine), "w");
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    f = fdopen(mkstemp(other), "w");
    PEM_write_PrivateKey(f, another, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    assert_int_equal(tb_certificate_match(cert, mine, err), 0);
    assert_int_equal(tb_certificate_match(cert, other, err), -EINVAL);
    assert_non_null(strstr(err, cert));
    assert_int_equal(tb_certificate_key(mine, err), 0);
    assert_int_equal(tb_certificate_key(cert, err), -EINVAL);
    assert_string_equal(err, "holds no private key in PEM format without a password");
    assert_int_equal(tb_certificate_key("/nonexistent/key", err), -EINVAL);
    assert_string_equal(err, "cannot be read: No such file or directory");
    EVP_PKEY_free(another);
    unlink(cert);
    unlink(mine);
    unlink(other);
}

static void test_a_credential_is_named_by_its_source(void **unused)
{
    char out[TB_CERTIFICATE_PATH_MAX];

    assert_string_equal(tb_certificate_source("/run/credentials/tb-proxy.service/tls-key", out),
                        "/etc/credstore/trustbridge.tls-key");
    assert_string_equal(tb_certificate_source("/etc/ssl/private/key.pem", out), "/etc/ssl/private/key.pem");
    assert_string_equal(tb_certificate_source("", out), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_reads_back_what_was_written),
        cmocka_unit_test(test_the_clock_that_this_machine_should_have),
        cmocka_unit_test(test_how_long_a_file_is_good_for),
        cmocka_unit_test(test_files_that_are_none),
        cmocka_unit_test(test_a_key_of_another_certificate),
        cmocka_unit_test(test_a_credential_is_named_by_its_source),
    };
    int r;

    key = EVP_EC_gen("P-256");
    r = cmocka_run_group_tests(tests, NULL, NULL);
    EVP_PKEY_free(key);
    return r;
}
