/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/config.h"
#include "common/log.h"

#define BASE "TB_CONTRACT_ID=contract-allow", "TB_ASSET_ID=asset_1", "TB_EDC_ENDPOINT=https://cp.example.com"

static void test_defaults_are_those_of_the_design(void **state)
{
    const char *env[] = {BASE, "PATH=/bin", "TB_DELIVERY=", NULL};
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_free_ char *errors = NULL, *warnings = NULL;

    assert_int_equal(tb_config_load((char *const *)env, &c, &errors, &warnings), 0);
    assert_null(errors);
    assert_null(warnings);
    assert_string_equal(c.target_dir, "/mnt/resource/trustbridge");
    assert_string_equal(c.pipe_path, "/dev/shm/model-pipe");
    assert_string_equal(c.ready_signal, "/dev/shm/weights/ready.signal");
    assert_string_equal(c.runtime_url, "http://127.0.0.1:8081");
    assert_string_equal(c.public_addr, "0.0.0.0:8000");
    assert_string_equal(c.health_addr, "0.0.0.0:8001");
    assert_string_equal(c.routes, "/v1/*");
    assert_int_equal(c.billing_dimensions, 1);
    assert_string_equal(c.imds_endpoint, "http://169.254.169.254");
    assert_string_equal(c.metering_endpoint, "https://marketplaceapi.microsoft.com");
    assert_int_equal(c.download_concurrency, 0);
    assert_int_equal(c.download_threads, 0);
    assert_int_equal(c.download_chunk_bytes, 8388608);
    assert_int_equal(c.billing_interval_us, 60000000);
    assert_true(c.lease_grace_us == 86400ULL * 1000000);
    assert_int_equal(c.delivery, TB_DELIVERY_AUTO);
    assert_int_equal(c.log_level, TB_LOG_INFO);
    assert_false(c.billing_enabled);
}

/* Loads BASE plus one setting; the expected error must name the setting, or be absent when good. */
static void one(const char *setting, int good)
{
    const char *env[] = {BASE, setting, NULL};
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_free_ char *errors = NULL, *warnings = NULL;
    _cleanup_free_ char *name = strndup(setting, strcspn(setting, "="));
    int r = tb_config_load((char *const *)env, &c, &errors, &warnings);

    if (good != (r == 0))
        print_error("%s: r=%d errors=%s\n", setting, r, errors ? errors : "");
    assert_int_equal(r, good ? 0 : -EINVAL);
    if (!good)
        assert_non_null(strstr(errors, name));
}

static void test_each_setting_has_its_rule(void **state)
{
    static const char *const good[] = {"TB_RUNTIME_URL=http://127.0.0.1",
                                       "TB_RUNTIME_URL=http://localhost:9",
                                       "TB_RUNTIME_URL=http://[::1]:8081",
                                       "TB_RUNTIME_URL=http://127.9.9.9:1",
                                       "TB_RUNTIME_URL=unix:/run/x.sock",
                                       "TB_RUNTIME_HEALTH=/v2/health/ready?x=1",
                                       "TB_DOWNLOAD_CONCURRENCY=32",
                                       "TB_DOWNLOAD_THREADS=16",
                                       "TB_LOG_LEVEL=DEBUG",
                                       "TB_BILLING_ENABLED=off",
                                       "TB_LEASE_GRACE=0",
                                       "TB_LEASE_GRACE=1h30m",
                                       "TB_DELIVERY=fifo",
                                       "TB_PUBLIC_ADDR=[::]:80",
                                       "TB_PUBLIC_ADDR=:8000",
                                       "TB_DOWNLOAD_CHUNK_BYTES=1024"};
    static const char *const bad[] = {"TB_RUNTIME_URL=http://10.0.0.1:8081",
                                      "TB_RUNTIME_URL=https://127.0.0.1",
                                      "TB_RUNTIME_URL=http://127.0.0.1.evil.example",
                                      "TB_RUNTIME_URL=http://127.0.0.1@evil.example",
                                      "TB_RUNTIME_URL=http://127.0.0.1:0",
                                      "TB_RUNTIME_URL=unix:x",
                                      "TB_RUNTIME_URL=http://127.0.0.1/path",
                                      "TB_RUNTIME_HEALTH=health",
                                      "TB_RUNTIME_HEALTH=/a b",
                                      "TB_RUNTIME_HEALTH=/a#b",
                                      "TB_DOWNLOAD_CONCURRENCY=0",
                                      "TB_DOWNLOAD_CONCURRENCY=33",
                                      "TB_DOWNLOAD_CONCURRENCY=4x",
                                      "TB_DOWNLOAD_THREADS=0",
                                      "TB_DOWNLOAD_THREADS=17",
                                      "TB_DOWNLOAD_CHUNK_BYTES=1023",
                                      "TB_DOWNLOAD_CHUNK_BYTES=67108865",
                                      "TB_LOG_LEVEL=loud",
                                      "TB_BILLING_ENABLED=maybe",
                                      "TB_LEASE_GRACE=1 day",
                                      "TB_LEASE_GRACE=-1s",
                                      "TB_DELIVERY=fuse",
                                      "TB_PUBLIC_ADDR=8000",
                                      "TB_PUBLIC_ADDR=::1:8000",
                                      "TB_PUBLIC_ADDR=h:65536",
                                      "TB_TARGET_DIR=relative",
                                      "TB_BILLING_INTERVAL=10ms",
                                      "TB_CA_FILE=ca.pem",
                                      "TB_METERING_ENDPOINT=http://x",
                                      "TB_MAX_BODY_BYTES=0",
                                      "TB_TARGET_DIR=/a\nb"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        one(good[i], 1);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        one(bad[i], 0);
}

static void endpoint(const char *url, const char *insecure, int good)
{
    _cleanup_free_ char *e = NULL, *errors = NULL, *warnings = NULL;
    _cleanup_config_ struct tb_config c = {0};
    const char *env[] = {"TB_CONTRACT_ID=c", "TB_ASSET_ID=a", NULL, insecure, NULL};

    assert_true(asprintf(&e, "TB_EDC_ENDPOINT=%s", url) > 0);
    env[2] = e;
    assert_int_equal(tb_config_load((char *const *)env, &c, &errors, &warnings), good ? 0 : -EINVAL);
}

static void test_plain_http_needs_saying_so(void **state)
{
    endpoint("https://cp", "TB_INSECURE_HTTP=false", 1);
    endpoint("http://cp", "TB_INSECURE_HTTP=false", 0);
    endpoint("http://cp", "TB_INSECURE_HTTP=true", 1);
    endpoint("https://user:pw@cp", "TB_INSECURE_HTTP=true", 0);
    endpoint("https://cp?x", "TB_INSECURE_HTTP=true", 0);
    endpoint("https:///x", "TB_INSECURE_HTTP=true", 0);
    endpoint("ftp://cp", "TB_INSECURE_HTTP=true", 0);
}

static void contract_of_application(const char *resource, const char *contract)
{
    const char *env[] = {"TB_CONTRACT_ID=application", "TB_ASSET_ID=a", "TB_EDC_ENDPOINT=https://cp",
                         resource, NULL};
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_free_ char *errors = NULL, *warnings = NULL;
    int r = tb_config_load((char *const *)env, &c, &errors, &warnings);

    if (contract) {
        assert_int_equal(r, 0);
        assert_string_equal(c.contract_id, contract);
    } else {
        assert_int_equal(r, -EINVAL);
        assert_non_null(strstr(errors, "TB_CONTRACT_ID: \"application\" is the contract of a purchase"));
    }
}

static void test_the_contract_of_a_purchase_is_named_by_its_application(void **state)
{
    contract_of_application("TB_BILLING_RESOURCE_ID=/subscriptions/0A1b2c3d-0000-4000-8000-00000000000F/"
                            "resourceGroups/rg-1/providers/Microsoft.Solutions/applications/llama",
                            "app-547c6d496eb26c33fe5699a33e8e6994");
    contract_of_application("TB_BILLING_RESOURCE_ID=4d3ab7e5-4da9-4f0b-a25d-9f7f9a1a1111", NULL);
    contract_of_application("TB_BILLING_RESOURCE_ID=", NULL);
}

static void test_all_errors_are_reported_together(void **state)
{
    const char *env[] = {"TB_ASSET_ID=a b",
                         "TB_TARGET_DIR=x",
                         "TB_BILLING_ENABLED=yes",
                         "TB_BILLING_RESOURCE_ID=app",
                         "TB_TLS_CERT=/c",
                         "TB_FOO=1",
                         NULL};
    static const char *const named[] = {
        "TB_CONTRACT_ID",         "TB_ASSET_ID",        "TB_EDC_ENDPOINT", "TB_TARGET_DIR",
        "TB_BILLING_RESOURCE_ID", "TB_BILLING_PLAN_ID", "TB_TLS_KEY"};
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_free_ char *errors = NULL, *warnings = NULL;

    assert_int_equal(tb_config_load((char *const *)env, &c, &errors, &warnings), -EINVAL);
    assert_non_null(strstr(errors, "7 configuration errors:"));
    for (size_t i = 0; i < ARRAY_SIZE(named); i++)
        assert_non_null(strstr(errors, named[i]));
    assert_non_null(strstr(warnings, "TB_FOO"));
}

static void test_ids(void **state)
{
    char hundred[102];

    memset(hundred, 'a', sizeof(hundred));
    hundred[100] = '\0';
    assert_true(tb_id_valid(hundred));
    hundred[100] = 'a';
    hundred[101] = '\0';
    assert_false(tb_id_valid(hundred));
    assert_false(tb_id_valid(""));
    assert_false(tb_id_valid("a\n"));
    assert_false(tb_id_valid("a.b"));
}

static void test_asset_ids(void **state)
{
    static const char *const good[] = {"a", "my-model_1", "Llama-3.1-8B", "a.b.c", "-.-"};
    static const char *const bad[] = {"",    ".",   "..",  ".a",  "a.",    "a..b",
                                      "a b", "a/b", "a@2", "a\n", "a.b\n", "\303\244"};
    char long_one[102];

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(tb_asset_id_valid(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(tb_asset_id_valid(bad[i]));
    memset(long_one, 'a', sizeof(long_one));
    long_one[50] = '.';
    long_one[101] = '\0';
    assert_false(tb_asset_id_valid(long_one));
    long_one[100] = '\0';
    assert_true(tb_asset_id_valid(long_one));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_those_of_the_design),
        cmocka_unit_test(test_each_setting_has_its_rule),
        cmocka_unit_test(test_plain_http_needs_saying_so),
        cmocka_unit_test(test_the_contract_of_a_purchase_is_named_by_its_application),
        cmocka_unit_test(test_all_errors_are_reported_together),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_asset_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
