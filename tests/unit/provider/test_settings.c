/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/macros.h"
#include "provider/cli/settings.h"

struct got {
    char text[512];
};

static int collect(void *ctx, size_t index, const char *value)
{
    struct got *g = ctx;
    size_t n = strlen(g->text);

    if (strcmp(value, "fail") == 0)
        return -ENOMEM;
    snprintf(g->text + n, sizeof(g->text) - n, "%s=%s;", settings[index].name, value);
    return 0;
}

static void test_what_a_file_may_say(void **state)
{
    static const struct {
        const char *file, *want; /* want NULL: refused */
        const char *err;
    } t[] = {
        {"", "", NULL},
        {"# comment\n; another\n\n[azure]\nstorage_account = acct\ncontainer: c1\n",
         "azure.storage_account=acct;azure.container=c1;", NULL},
        {"[azure]\r\nstorage_account=acct\r\n", "azure.storage_account=acct;", NULL},
        {"[azure]\n  storage_account = a b ; why\n  container = c\n",
         "azure.storage_account=a b;azure.container=c;", NULL},
        {"\xef\xbb\xbf[azure]\ncontainer = c", "azure.container=c;", NULL},
        {"storage_account = x\n", NULL, "line 1: unknown setting 'storage_account' in []"},
        {"[azure]\naccount_key = S3CRET\n", NULL, "line 2: unknown setting 'account_key' in [azure]"},
        {"[azure]\ncontainer = a\ncontainer = b\n", NULL, "line 3: 'azure.container' is set twice"},
        {"[azure]\ncontainer =\n", NULL, "line 2: 'azure.container' has no value"},
        {"[azure]\nnonsense S3CRET\n", NULL, "line 2: is neither"},
        {"[azure\n", NULL, "line 1: is neither"},
        {"[azure]\ncontainer = fail\n", NULL, "line 2: Cannot allocate memory"},
        {"[azure]\ncontainer = a\x01\n", NULL, "line 2: holds a control character"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct got g = {""};
        char err[SETTINGS_ERR_MAX] = "";
        int r = settings_parse(t[i].file, strlen(t[i].file), collect, &g, err);

        if (t[i].want) {
            assert_int_equal(r, 0);
            assert_string_equal(g.text, t[i].want);
            continue;
        }
        assert_true(r < 0);
        assert_memory_equal(err, t[i].err, strlen(t[i].err));
        assert_null(strstr(err, "S3CRET"));
    }
}

static void test_lines_have_an_end(void **state)
{
    char file[512] = "[azure]\ncontainer = ", err[SETTINGS_ERR_MAX];
    size_t n = strlen(file), start = n - strlen("container = ");
    struct got g = {""};

    memset(file + n, 'a', start + SETTINGS_LINE_MAX - n);
    assert_int_equal(settings_parse(file, start + SETTINGS_LINE_MAX, collect, &g, err), 0);
    assert_int_equal(strlen(g.text),
                     strlen("azure.container=;") + SETTINGS_LINE_MAX - strlen("container = "));
    file[start + SETTINGS_LINE_MAX] = 'a';
    assert_int_equal(settings_parse(file, start + SETTINGS_LINE_MAX + 1, collect, &g, err), -EINVAL);
    assert_string_equal(err, "line 2: is longer than 190 bytes");
    assert_int_equal(settings_parse("[azure]\0", 8, collect, &g, err), -EINVAL);
}

static void test_every_setting_is_section_and_key(void **state)
{
    for (size_t i = 0; i < n_settings; i++) {
        struct setting_value v;

        assert_non_null(strchr(settings[i].name, '.'));
        assert_int_equal(strspn(settings[i].name, "abcdefghijklmnopqrstuvwxyz_."), strlen(settings[i].name));
        assert_ptr_equal(setting_env(settings[i].name), settings[i].env);
        assert_false(setting_get(settings[i].name, &v));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_file_may_say),
        cmocka_unit_test(test_lines_have_an_end),
        cmocka_unit_test(test_every_setting_is_section_and_key),
    };

    clearenv();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
