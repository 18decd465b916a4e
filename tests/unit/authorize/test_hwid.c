/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/hwid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "common/io.h"

static char dir[] = "/tmp/test-hwid-XXXXXX";

static void put(const char *name, const char *text)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void put_device(const char *name, const char *index, const char *type, const char *mac)
{
    _cleanup_free_ char *path = tb_strf("%s/net/%s", dir, name), *file = NULL;

    assert_int_equal(tb_mkdir_p(path, 0755), 0);
    file = tb_strf("net/%s/ifindex", name);
    put(file, index);
    free(file);
    file = tb_strf("net/%s/type", name);
    put(file, type);
    free(file);
    file = tb_strf("net/%s/address", name);
    put(file, mac);
}

static void test_uuid_is_trimmed_and_lowered(void **state)
{
    char out[TB_HWID_MAX], big[TB_HWID_MAX];

    assert_int_equal(tb_hwid_from_uuid(" \tABCD-12\n", 10, out), 0);
    assert_string_equal(out, "abcd-12");
    assert_int_equal(tb_hwid_from_uuid("", 0, out), -EINVAL);
    assert_int_equal(tb_hwid_from_uuid(" \n", 2, out), -EINVAL);
    assert_int_equal(tb_hwid_from_uuid("a\0b", 3, out), -EINVAL);
    assert_int_equal(tb_hwid_from_uuid("a b", 3, out), -EINVAL);
    memset(big, 'a', sizeof(big));
    assert_int_equal(tb_hwid_from_uuid(big, sizeof(big), out), -EINVAL);
}

static int imds(const char *json, const char *hostname, char *out)
{
    return tb_hwid_from_imds(json, strlen(json), hostname, out);
}

static void test_imds_is_vmid_and_hostname(void **state)
{
    char out[TB_HWID_MAX];

    assert_int_equal(imds("{\"compute\":{\"vmId\":\"AB-1\",\"x\":1}}", "Host", out), 0);
    assert_string_equal(out, "ab-1-host");
    assert_int_equal(imds("{\"compute\":{\"vmId\":\"AB-1\"}}", "", out), 0);
    assert_string_equal(out, "ab-1");
    assert_int_equal(imds("{\"compute\":{\"vmId\":\"\"}}", "h", out), -EINVAL);
    assert_int_equal(imds("{\"compute\":{\"vmId\":\"a b\"}}", "h", out), -EINVAL);
    assert_int_equal(imds("{\"compute\":{\"vmId\":7}}", "h", out), -EINVAL);
    assert_int_equal(imds("{\"compute\":[]}", "h", out), -EINVAL);
    assert_int_equal(imds("{}", "h", out), -EINVAL);
    assert_int_equal(imds("<html>", "h", out), -EINVAL);
}

static void test_macs_are_hashed(void **state)
{
    static const char *const macs[] = {"02:00:00:00:00:01", "02:00:00:00:00:02"};
    char out[TB_HWID_MAX];

    /* printf '%s' 'host|02:00:00:00:00:01|02:00:00:00:00:02' | sha256sum */
    assert_int_equal(tb_hwid_from_macs("host", macs, 2, out), 0);
    assert_string_equal(out, "e1ddaadcd27661356fb8c8b664441554");
    /* printf '%s' 'host' | sha256sum */
    assert_int_equal(tb_hwid_from_macs("host", NULL, 0, out), 0);
    assert_string_equal(out, "4740ae6347b0172c01254ff55bae5aff");
    assert_int_equal(tb_hwid_from_macs("", NULL, 0, out), -EINVAL);
}

static void test_sources_in_order(void **state)
{
    _cleanup_free_ char *dmi = tb_path_join(dir, "product_uuid"), *net = tb_path_join(dir, "net");
    _cleanup_free_ char *creds = tb_path_join(dir, "creds");
    struct tb_hwid_sources s = {
        .credential = "product-uuid",
        .dmi_path = dmi,
        .imds_url = "http://127.0.0.1:1/metadata", /* nobody listens */
        .net_path = net,
        .hostname = "host",
    };
    char out[TB_HWID_MAX];

    put_device("lo", "1\n", "772\n", "00:00:00:00:00:00\n");
    put_device("zeth", "2\n", "1\n", "02:00:00:00:00:01\n");
    put_device("eth0", "10\n", "1\n", "02:00:00:00:00:02\n");
    put_device("tun0", "3\n", "65534\n", "\n");
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_string_equal(tb_hwid_find(&s, out), "hostname");
    assert_string_equal(out, "e1ddaadcd27661356fb8c8b664441554"); /* kernel index order, not name order */
    s.hostname = "";
    s.net_path = NULL;
    assert_null(tb_hwid_find(&s, out));
    s.hostname = "host";

    put("product_uuid", "DMI-1\n");
    assert_string_equal(tb_hwid_find(&s, out), "dmi");
    assert_string_equal(out, "dmi-1");

    assert_int_equal(tb_mkdir_p(creds, 0700), 0);
    setenv("CREDENTIALS_DIRECTORY", creds, 1);
    put("creds/product-uuid", ""); /* refused: the next source */
    assert_string_equal(tb_hwid_find(&s, out), "dmi");
    assert_string_equal(out, "dmi-1");
    put("creds/product-uuid", "CRED-1\n");
    assert_string_equal(tb_hwid_find(&s, out), "dmi");
    assert_string_equal(out, "cred-1");
    unsetenv("CREDENTIALS_DIRECTORY");
}

static int setup(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid_is_trimmed_and_lowered),
        cmocka_unit_test(test_imds_is_vmid_and_hostname),
        cmocka_unit_test(test_macs_are_hashed),
        cmocka_unit_test(test_sources_in_order),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
