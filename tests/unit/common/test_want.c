/* SPDX-License-Identifier: Apache-2.0 */
/* What is wanted of a ciphertext: written and read back, and what is none is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/want.h"

#define SHA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_comes_back_as_it_was_written(void **state)
{
    char base[] = "/tmp/tb-want-XXXXXX";
    _cleanup_free_ char *dir = NULL, *file = NULL;
    struct tb_want w = {.sha256 = SHA, .n = TB_WANT_MAX}, back;

    assert_non_null(mkdtemp(base));
    dir = tb_strf("%s/tb-decrypt", base);
    file = tb_strf("%s/want.json", dir);
    assert_int_equal(tb_want_read(base, &back), -ENOENT);
    assert_int_equal(mkdir(dir, 0755), 0);
    for (size_t i = 0; i < w.n; i++)
        w.r[i] = (struct tb_want_range){.offset = i << 40, .bytes = i + 1};
    w.r[3].repair = true;
    w.r[3].record = 77;
    w.r[3].seen = UINT32_MAX;
    w.r[3].try = 2;
    assert_int_equal(tb_want_write(dir, &w), 0);
    assert_int_equal(tb_want_read(base, &back), 0);
    assert_string_equal(back.sha256, SHA);
    assert_int_equal(back.n, TB_WANT_MAX);
    for (size_t i = 0; i < w.n; i++)
        assert_true(back.r[i].offset == i << 40 && back.r[i].bytes == i + 1 && back.r[i].repair == (i == 3));
    assert_true(back.r[3].record == 77 && back.r[3].seen == UINT32_MAX && back.r[3].try == 2);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(rmdir(base), 0);
}

static int parse(const char *text)
{
    struct tb_want w;

    return tb_want_parse(text, strlen(text), &w);
}

static void test_what_is_none_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"sha256\": \"" SHA "\"}",
        "{\"sha256\": \"" SHA "0\", \"ranges\": []}",
        "{\"sha256\": \"" SHA "\", \"ranges\": {}}",
        "{\"sha256\": \"" SHA "\", \"ranges\": [1]}",
        "{\"sha256\": \"" SHA "\", \"ranges\": [{\"offset\": 1}]}",
        "{\"sha256\": \"" SHA "\", \"ranges\": [{\"offset\": 1, \"bytes\": 0}]}",
        "{\"sha256\": \"" SHA "\", \"ranges\": [{\"offset\": -1, \"bytes\": 1}]}",
        "{\"sha256\": \"" SHA "\", \"ranges\": [{\"offset\": 1, \"bytes\": 1, \"record\": 1}]}",
        "{\"sha256\": \"" SHA
        "\", \"ranges\": [{\"offset\": 1, \"bytes\": 1, \"record\": 1, \"seen\": 4294967296}]}",
    };
    _cleanup_free_ char *many = NULL;

    assert_int_equal(parse("{\"sha256\": \"" SHA "\", \"ranges\": []}"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(parse(bad[i]), -EBADMSG);
    many = strdup("{\"sha256\": \"" SHA "\", \"ranges\": [");
    for (int i = 0; i <= TB_WANT_MAX; i++) {
        char *longer =
            tb_strf("%s%s{\"offset\": 1, \"bytes\": 1}%s", many, i ? "," : "", i == TB_WANT_MAX ? "]}" : "");

        free(many);
        many = longer;
    }
    assert_int_equal(parse(many), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back_as_it_was_written),
        cmocka_unit_test(test_what_is_none_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
