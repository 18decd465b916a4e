/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "common/secret.h"
#include "controlplane/blob/sas.h"
#include "controlplane/blob/sas_key.h"

#define NOW_US 1767873600000000ULL /* 2026-01-08T12:00:00Z */
#define HOUR_US 3600000000ULL

static uint8_t key[64];

static int setup(void **state)
{
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    return 0;
}

static struct cp_sas signer(const char *ip)
{
    static const struct cp_sas_account accounts[] = {
        {.name = "another", .key = key, .key_len = 1},
        {.name = "tbaccount", .key = key, .key_len = sizeof(key)},
    };

    return (struct cp_sas){.accounts = accounts, .n_accounts = 2, .lifetime_us = HOUR_US, .ip = ip};
}

/* The signatures were computed by an independent script from the documented string-to-sign. */
static void test_signs_host_style(void **state)
{
    struct cp_sas s = signer(NULL);
    char out[CP_SAS_URL_MAX];

    assert_int_equal(cp_sas_url(&s, "https://tbaccount.blob.core.windows.net/models/a%20b/model.tbenc",
                                NOW_US, UINT64_MAX, out),
                     0);
    assert_string_equal(
        out, "https://tbaccount.blob.core.windows.net/models/a%20b/model.tbenc?sv=2020-12-06&sr=b&sp=r"
             "&st=2026-01-08T11:55:00Z&se=2026-01-08T13:00:00Z&spr=https"
             "&sig=xPcGRuMUWBLDkc%2ByVNsyLTrlBbbH0Ta2VFLVlnrXIRg%3D");
}

static void test_signs_path_style_http_and_ip(void **state)
{
    struct cp_sas s = signer("10.0.0.1-10.0.0.9");
    char out[CP_SAS_URL_MAX];

    assert_int_equal(
        cp_sas_url(&s, "http://127.0.0.1:10000/tbaccount/models/a%20b/model.tbenc", NOW_US, UINT64_MAX, out),
        0);
    assert_string_equal(out,
                        "http://127.0.0.1:10000/tbaccount/models/a%20b/model.tbenc?sv=2020-12-06&sr=b&sp=r"
                        "&st=2026-01-08T11:55:00Z&se=2026-01-08T13:00:00Z&spr=https%2Chttp"
                        "&sip=10.0.0.1-10.0.0.9&sig=m%2Bqg5O5ydwwUJc0ZpHE1xXXVCJxo3dqVKMYBr7z1rn8%3D");
}

static void test_sas_ends_with_the_contract(void **state)
{
    struct cp_sas s = signer(NULL);
    char out[CP_SAS_URL_MAX];

    assert_int_equal(
        cp_sas_url(&s, "https://tbaccount.blob.core.windows.net/c/b", NOW_US, NOW_US + 60000000, out), 0);
    assert_non_null(strstr(out, "&se=2026-01-08T12:01:00Z&"));
}

static void test_foreign_urls_are_copied(void **state)
{
    static const char *const urls[] = {
        "https://other.blob.core.windows.net/c/b",      "https://tbaccount.evil.example/c/b",
        "https://tbaccountx.blob.core.windows.net/c/b", "http://127.0.0.1:9000/artifacts/model.tbenc",
        "http://127.0.0.1:10000/tbaccountx/c/b",
    };
    struct cp_sas s = signer(NULL), none = {0};
    char out[CP_SAS_URL_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(urls); i++) {
        assert_int_equal(cp_sas_url(&s, urls[i], NOW_US, UINT64_MAX, out), 1);
        assert_string_equal(out, urls[i]);
    }
    assert_int_equal(
        cp_sas_url(&none, "https://tbaccount.blob.core.windows.net/c/b", NOW_US, UINT64_MAX, out), 1);
    assert_null(strchr(out, '?'));
}

static void test_own_urls_that_name_no_blob_are_refused(void **state)
{
    static const char *const urls[] = {
        "https://tbaccount.blob.core.windows.net/onlycontainer",
        "https://tbaccount.blob.core.windows.net/c/",
        "https://tbaccount.blob.core.windows.net//b",
        "http://127.0.0.1/tbaccount/c",
        "https://tbaccount.blob.core.windows.net/c%2Fd/b",
        "https://tbaccount.blob.core.windows.net/c/b%0Ax",
        "https://tbaccount.blob.core.windows.net/c/b%00",
    };
    struct cp_sas s = signer(NULL);
    char out[CP_SAS_URL_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(urls); i++)
        assert_int_equal(cp_sas_url(&s, urls[i], NOW_US, UINT64_MAX, out), -EINVAL);
}

static void test_blob_is_split_and_decoded(void **state)
{
    struct cp_blob b;

    assert_int_equal(cp_blob_parse("HTTPS://TBAccount.blob.core.windows.net/c/x/y%2Bz", "tbaccount", &b), 0);
    assert_true(b.https);
    assert_string_equal(b.container, "c");
    assert_string_equal(b.blob, "x/y+z");
    assert_int_equal(cp_blob_parse("http://azurite:10000/tbaccount/c/b", "tbaccount", &b), 0);
    assert_false(b.https);
    assert_string_equal(b.container, "c");
    assert_string_equal(b.blob, "b");
}

static void test_url_faults(void **state)
{
    static const char *const bad[] = {
        "",
        "ftp://h/c/b",
        "h/c/b",
        "https://",
        "https:///c/b",
        "https://h",
        "https://h/",
        "https://h/c?q",
        "https://h/c#f",
        "https://u@h/c/b",
        "https://h/c b",
        "https://h/c\nb",
        "https://h/%",
        "https://h/%4",
        "https://h/%4g",
        "https://h/\"",
        "https://h/\xc3\xa4",
        "https://h?x/c/b",
    };
    char longest[CP_URL_MAX + 2];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (!cp_blob_url_fault(bad[i]))
            fail_msg("accepted: %s", bad[i]);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    memcpy(longest, "https://h/", 10);
    assert_non_null(cp_blob_url_fault(longest));
    longest[CP_URL_MAX] = '\0';
    assert_null(cp_blob_url_fault(longest));
    assert_null(cp_blob_url_fault("http://127.0.0.1:9000/artifacts/model.tbenc"));
    assert_null(cp_blob_url_fault("https://[::1]:9000/a/c/b"));
}

static void test_keys(void **state)
{
    static const char *const bad[] = {"", "AAA", "A===", "!!!!", "====", "AAAAA"};
    uint8_t *k;
    size_t n;

    assert_int_equal(cp_sas_key_decode("AAEC\n", 5, &k, &n), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(k, "\0\1\2", 3);
    tb_secret_free(k);
    assert_int_equal(cp_sas_key_decode("/w==", 4, &k, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(k[0], 0xff);
    tb_secret_free(k);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(cp_sas_key_decode(bad[i], strlen(bad[i]), &k, &n), -EINVAL);
}

static void test_accounts(void **state)
{
    assert_true(cp_sas_account_valid("abc"));
    assert_true(cp_sas_account_valid("devstoreaccount1"));
    assert_false(cp_sas_account_valid("ab"));
    assert_false(cp_sas_account_valid("Abc"));
    assert_false(cp_sas_account_valid("a-b"));
    assert_false(cp_sas_account_valid("aaaaaaaaaaaaaaaaaaaaaaaaa"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signs_host_style),
        cmocka_unit_test(test_signs_path_style_http_and_ip),
        cmocka_unit_test(test_sas_ends_with_the_contract),
        cmocka_unit_test(test_foreign_urls_are_copied),
        cmocka_unit_test(test_own_urls_that_name_no_blob_are_refused),
        cmocka_unit_test(test_blob_is_split_and_decoded),
        cmocka_unit_test(test_url_faults),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_accounts),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
