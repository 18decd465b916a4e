/* SPDX-License-Identifier: Apache-2.0 */
/* What strangers send to be read as a certificate request, a certificate or a CA. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "controlplane/identity/authority.h"

#define ENCRYPTED "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n"
#define WAIT_S 20

static char *make_request(EVP_PKEY *k)
{
    X509_REQ *q = X509_REQ_new();
    BIO *b = BIO_new(BIO_s_mem());
    char *text, *copy;
    long n;

    assert_true(X509_REQ_set_pubkey(q, k) == 1 && X509_REQ_sign(q, k, EVP_sha256()) > 0);
    assert_int_equal(PEM_write_bio_X509_REQ(b, q), 1);
    n = BIO_get_mem_data(b, &text);
    copy = strndup(text, (size_t)n);
    BIO_free(b);
    X509_REQ_free(q);
    return copy;
}

/* The block as one that claims to be encrypted. */
static char *encrypt(const char *pem)
{
    const char *rest = strchr(pem, '\n') + 1;

    return tb_strf("%.*s" ENCRYPTED "%s", (int)(rest - pem), pem, rest);
}

/* Nobody is asked for a passphrase: standard input never says anything, and SIGALRM ends the test. */
static void test_no_passphrase_is_asked_for(void **state)
{
    char sum[CP_IDENTITY_KEY_HEX + 1], err[CP_AUTHORITY_ERR_MAX] = "";
    EVP_PKEY *k = EVP_EC_gen("P-256");
    _cleanup_free_ char *good = make_request(k), *bad = encrypt(good), *ca = NULL;
    int keep = dup(0), ends[2];

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(dup2(ends[0], 0), 0);
    (void)setsid(); /* nor has it a terminal */
    alarm(WAIT_S);
    assert_int_equal(cp_request_key(good, strlen(good), sum, err), 0);
    assert_int_equal(cp_request_key(bad, strlen(bad), sum, err), -EINVAL);
    assert_non_null(strstr(err, "is not a certificate request"));
    ca = tb_strf("-----BEGIN CERTIFICATE-----\n" ENCRYPTED "AAAA\n-----END CERTIFICATE-----\n");
    assert_int_equal(cp_ca_count(ca), 0);
    alarm(0);
    dup2(keep, 0);
    close(keep);
    close(ends[0]);
    close(ends[1]);
    EVP_PKEY_free(k);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_passphrase_is_asked_for),
    };

    return cmocka_run_group_tests_name("authority", tests, NULL, NULL);
}
