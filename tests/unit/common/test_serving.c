/* SPDX-License-Identifier: Apache-2.0 */
#include "common/serving.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/io.h"

static char dir[] = "/tmp/tb-serving.XXXXXX";

static void put(const char *text)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_SERVING_NAME);

    assert_int_equal(tb_write_file_atomic(path, text, strlen(text), 0644), 0);
}

static void test_what_is_written_reads_back(void **state)
{
    struct tb_serving w = {.asset_id = "Llama-3.1", .version = 2, .beside = true, .previous = 1}, r;
    _cleanup_free_ char *before = tb_serving_dir(dir, "Llama-3.1"), *after = NULL;

    assert_string_equal(before, dir);
    assert_int_equal(tb_serving_read(dir, "Llama-3.1", &r), -ENOENT);
    assert_int_equal(tb_serving_write(dir, &w), 0);
    assert_int_equal(tb_serving_read(dir, "Llama-3.1", &r), 0);
    assert_memory_equal(&r, &w, sizeof(r));
    assert_int_equal(tb_serving_version(dir, "Llama-3.1"), 2);
    assert_int_equal(tb_serving_version(dir, "Llama-3.2"), 0);
    assert_int_equal(tb_serving_held(dir, "Llama-3.1", 2), 1);
    assert_int_equal(tb_serving_held(dir, "Llama-3.1", 0), 1);
    assert_int_equal(tb_serving_held(dir, "Llama-3.1", 3), 2);
    assert_int_equal(tb_serving_held(dir, "Llama-3.2", 1), 0);
    after = tb_serving_dir(dir, "Llama-3.1");
    assert_string_equal(after + strlen(dir), "/Llama-3.1@2");
}

static void test_what_makes_no_sense_is_the_directory_itself(void **state)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{}",
                                      "{\"asset_id\":\"a\"}",
                                      "{\"asset_id\":\"a\",\"version\":0,\"beside\":true}",
                                      "{\"asset_id\":\"a\",\"version\":-1,\"beside\":true}",
                                      "{\"asset_id\":\"../a\",\"version\":1,\"beside\":true}",
                                      "{\"asset_id\":7,\"version\":1,\"beside\":true}"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_free_ char *place = NULL;

        put(bad[i]);
        place = tb_serving_dir(dir, "a");
        assert_string_equal(place, dir);
        assert_int_equal(tb_serving_version(dir, "a"), 0);
    }
}

static void test_names_of_places(void **state)
{
    static const char *const good[] = {"a@1", "Llama-3.1-8B@12", "a@9007199254740991"};
    static const char *const bad[] = {"a",    "@1",     "a@",    "a@0",   "a@01", "a@x",
                                      "a@1x", "../a@1", "a/b@1", "a b@1", ".a@1", "a@12345678901234567"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(tb_serving_is_place(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tb_serving_is_place(bad[i]))
            fail_msg("%s", bad[i]);
}

static int setup(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_SERVING_NAME);

    (void)unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_what_makes_no_sense_is_the_directory_itself),
        cmocka_unit_test(test_names_of_places),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
