/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/io.h"
#include "common/near.h"
#include "provider/remote/login.h"
#include "provider/remote/remote.h"

static void test_near_names(void **state)
{
    static const char *const near[][2] = {
        {"acme-1", "acme-q"}, {"acme-1", "acme1"},     {"encyrpt", "encrypt"},   {"lits", "list"},
        {"ACME-1", "acme-1"}, {"acme", "acme-berlin"}, {"my-modle", "my-model"}, {"show", "shwo"}};
    static const char *const far[][2] = {{"acme-1", "globex-1"}, {"", "a"},       {"ad", "rm"},
                                         {"list", "edit"},       {"a", "b-long"}, {"remove", "revoke-it"}};

    for (size_t i = 0; i < ARRAY_SIZE(near); i++) {
        assert_true(tb_near(near[i][0], near[i][1]));
        assert_true(tb_near(near[i][1], near[i][0]));
    }
    for (size_t i = 0; i < ARRAY_SIZE(far); i++)
        assert_false(tb_near(far[i][0], far[i][1]));
}

static void test_near_names_have_a_limit(void **state)
{
    char a[200], b[200];

    memset(a, 'a', sizeof(a));
    memset(b, 'a', sizeof(b));
    a[150] = b[151] = '\0';
    assert_false(tb_near(a, b));
    a[100] = b[100] = '\0';
    b[50] = 'b';
    assert_true(tb_near(a, b));
}

static void test_endpoints_that_are_the_same(void **state)
{
    static const char *const same[][2] = {
        {"HTTPS://CP.Example:443/", "https://cp.example"},
        {"https://cp.example:8443//", "https://cp.example:8443"},
        {"https://cp.example/Path/", "https://cp.example/Path"},
        {"https://cp.example:443/Path", "https://cp.example/Path"},
        {"http://127.0.0.1:443", "http://127.0.0.1:443"},
        {"https://[::1]:443", "https://[::1]"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        _cleanup_free_ char *got = login_endpoint(same[i][0]);

        assert_string_equal(got, same[i][1]);
    }
}

/* No endpoint leads out of the directory, and two never to one file. */
static void test_token_files(void **state)
{
    static const char *const endpoints[] = {"https://cp.example",   "http://cp.example",
                                            "https://cp.example/a", "https://cp.example%2Fa",
                                            "https://..",           "https://../../x"};
    char *paths[ARRAY_SIZE(endpoints)];

    setenv("XDG_CONFIG_HOME", "/config", 1);
    for (size_t i = 0; i < ARRAY_SIZE(endpoints); i++) {
        assert_int_equal(login_path(endpoints[i], &paths[i]), 0);
        assert_memory_equal(paths[i], "/config/trustbridge/tokens/", 27);
        assert_null(strchr(paths[i] + 27, '/'));
        assert_string_not_equal(paths[i] + 27, "..");
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(paths[i], paths[k]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(endpoints); i++)
        free(paths[i]);
    unsetenv("XDG_CONFIG_HOME");
}

static void test_paths_and_queries(void **state)
{
    _cleanup_free_ char *path = remote_path("contracts", "a/b c", "revoke");

    assert_string_equal(path, "contracts/a%2Fb%20c/revoke");
    path = remote_query(path, "after", NULL);
    path = remote_query(path, "after", "x&y=1");
    path = remote_query(path, "limit", "5");
    assert_string_equal(path, "contracts/a%2Fb%20c/revoke?after=x%26y%3D1&limit=5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_names),
        cmocka_unit_test(test_near_names_have_a_limit),
        cmocka_unit_test(test_endpoints_that_are_the_same),
        cmocka_unit_test(test_token_files),
        cmocka_unit_test(test_paths_and_queries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
