/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/secret.h"
#include "common/units.h"
#include "provider/azure/auth.h"

#define KEY64 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" /* 0..31 */

static char err[TB_AZURE_ERR_MAX];

static void test_account_key(void **state)
{
    _cleanup_azure_auth_ struct azure_auth a = {0};

    assert_int_equal(azure_account_key(KEY64, &a, err), 0);
    assert_int_equal(a.kind, AZURE_AUTH_KEY);
    assert_int_equal(a.key_len, 32);
    assert_int_equal(a.key[31], 31);
    assert_int_equal(azure_account_key("SECRET not base64", &a, err), -EINVAL);
    assert_null(strstr(err, "SECRET"));
    assert_int_equal(azure_account_key("", &a, err), -EINVAL);
    assert_int_equal(azure_account_key("AAAA", &a, err), -EINVAL);
}

static void test_sas(void **state)
{
    static const char *const good[] = {"sv=1&sig=a%2B", "?sv=1&sig=a%2B",
                                       "https://a.blob.core.windows.net/c?sv=1&sig=a%2B"};
    static const char *const bad[] = {
        "", "sv=1&se=2", "sig=x", "https://h/c", "sv=1&sig=a b", "sv=1&sig=a\r\nX: y", "sv=1&sig=a#b"};
    _cleanup_azure_auth_ struct azure_auth a = {0};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(azure_sas(good[i], &a, err), 0);
        assert_int_equal(a.kind, AZURE_AUTH_SAS);
        assert_string_equal(a.sas, "sv=1&sig=a%2B");
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(azure_sas(bad[i], &a, err), -EINVAL);
}

static void test_connection_string(void **state)
{
    _cleanup_azure_auth_ struct azure_auth a = {0};

    assert_int_equal(
        azure_connection_string("DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=" KEY64
                                ";EndpointSuffix=core.windows.net",
                                &a, err),
        0);
    assert_int_equal(a.kind, AZURE_AUTH_KEY);
    assert_string_equal(a.account, "acct");
    assert_string_equal(a.endpoint, "https://acct.blob.core.windows.net");
    assert_int_equal(a.key_len, 32);

    assert_int_equal(
        azure_connection_string(
            "BlobEndpoint=http://127.0.0.1:1/acct;\naccountname=acct2;AccountKey=" KEY64 ";", &a, err),
        0);
    assert_string_equal(a.account, "acct2");
    assert_string_equal(a.endpoint, "http://127.0.0.1:1/acct");

    assert_int_equal(azure_connection_string(
                         "BlobEndpoint=https://x.example/;SharedAccessSignature=sv=1&sig=a%3D", &a, err),
                     0);
    assert_int_equal(a.kind, AZURE_AUTH_SAS);
    assert_string_equal(a.sas, "sv=1&sig=a%3D");
    assert_null(a.account);
}

static void test_connection_string_refused(void **state)
{
    static const char *const bad[] = {
        "",
        ";;;",
        "AccountName=acct",
        "AccountKey=" KEY64,
        "AccountName=acct;AccountKey=SECRET",
        "AccountName=acct;AccountKey=",
        "UseDevelopmentStorage=true",
        "XAccountKey=" KEY64 ";AccountName=acct",
    };
    _cleanup_azure_auth_ struct azure_auth a = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(azure_connection_string(bad[i], &a, err), -EINVAL);
        assert_null(strstr(err, "SECRET"));
    }
}

static int parse(const char *text, struct tb_azure_token *t)
{
    char buf[512];
    size_t n = strlen(text);
    int r;

    memcpy(buf, text, n + 1);
    r = tb_azure_token_parse(buf, n, 1000, t, err);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(buf[i], 0); /* wiped */
    return r;
}

static void test_token(void **state)
{
    static const struct {
        const char *text;
        uint64_t lifetime;
    } good[] = {
        {"{\"access_token\":\"T.1-_~\",\"expires_in\":3599}", 3599},
        {"{\"access_token\":\"T.1-_~\",\"expires_in\":\"3599\",\"expires_on\":\"9\"}", 3599},
        {"{\"access_token\":\"T.1-_~\",\"expires_on\":\"1500\"}", 500},
        {"{\"accessToken\":\"T.1-_~\",\"expires_on\":1500,\"expiresOn\":\"2026-01-01 00:00:00\"}", 500},
        {"{\"access_token\":\"T.1-_~\",\"expires_on\":900}", 0},
        {"{\"access_token\":\"T.1-_~\"}", 0},
    };
    static const char *const bad[] = {"",
                                      "{}",
                                      "[]",
                                      "{\"access_token\":\"\"}",
                                      "{\"access_token\":5}",
                                      "{\"access_token\":\"a b\"}",
                                      "{\"access_token\":\"a\\r\\nX: y\"}",
                                      "<html>"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct tb_azure_token t = {0};

        assert_int_equal(parse(good[i].text, &t), 0);
        assert_string_equal(t.text, "T.1-_~");
        assert_int_equal(t.lifetime_s, good[i].lifetime);
        tb_secret_free(t.text);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct tb_azure_token t = {0};

        assert_int_equal(parse(bad[i], &t), -EBADMSG);
        assert_null(t.text);
    }
}

static void test_environment(void **state)
{
    const struct azure_auth_options o = {0};
    _cleanup_azure_auth_ struct azure_auth a = {0};
    char *value;

    setenv("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=later", 1);
    setenv("AZURE_STORAGE_KEY", KEY64, 1);
    value = getenv("AZURE_STORAGE_KEY");
    assert_int_equal(azure_auth_find(&o, &a, err), 0);
    assert_int_equal(a.kind, AZURE_AUTH_KEY);
    assert_non_null(strstr(a.source, "AZURE_STORAGE_KEY"));
    assert_null(getenv("AZURE_STORAGE_KEY"));
    assert_int_equal(value[0], 0); /* the memory itself is wiped */
    assert_int_equal(azure_auth_renew(&a, err), -ENOTSUP);
    assert_false(azure_auth_renew_due(&a));
    azure_auth_clear(&a);

    assert_int_equal(azure_auth_find(&o, &a, err), 0); /* the next step of this process has it still */
    assert_int_equal(a.kind, AZURE_AUTH_KEY);
    azure_auth_clear(&a);
    setenv("AZURE_STORAGE_KEY", "", 1);
    assert_int_equal(azure_auth_find(&o, &a, err), 0);
    assert_int_equal(a.kind, AZURE_AUTH_SAS);
    azure_auth_clear(&a);

    setenv("AZURE_STORAGE_SAS_TOKEN", "", 1);
    setenv("AZURE_ACCESS_TOKEN", "a\nb", 1);
    assert_int_equal(azure_auth_find(&o, &a, err), -EINVAL);
    setenv("AZURE_ACCESS_TOKEN", "", 1);
    setenv("AZURE_CLIENT_SECRET", "x", 1);
    assert_int_equal(azure_auth_find(&o, &a, err), -EINVAL);
    assert_non_null(strstr(err, "AZURE_TENANT_ID"));
    assert_int_equal(a.kind, AZURE_AUTH_NONE);
}

static void test_renewal_is_due_before_the_end(void **state)
{
    struct azure_auth a = {.renew_at_us = tb_now_boottime_us() + 1000000};

    assert_false(azure_auth_renew_due(&a));
    a.renew_at_us = 1;
    assert_true(azure_auth_renew_due(&a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_account_key),
        cmocka_unit_test(test_sas),
        cmocka_unit_test(test_connection_string),
        cmocka_unit_test(test_connection_string_refused),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_renewal_is_due_before_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
