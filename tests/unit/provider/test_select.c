/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "provider/asset/complete.h"
#include "provider/asset/select.h"

static void test_litter_is_left_out_by_default(void **state)
{
    static const struct {
        const char *path;
        bool dir, out;
    } cases[] = {
        {".git", true, true},
        {".git", false, true}, /* of a worktree or a submodule */
        {"sub/.git", true, true},
        {".gitattributes", false, true},
        {".cache", true, true},
        {"a/b/__pycache__", true, true},
        {"x.lock", false, true},
        {".env", false, true},
        {".env.production", false, true},
        {".DS_Store", false, true},
        {".git-credentials", false, true},
        {"sub/.bash_history", false, true},
        {"id_ed25519.pub", false, true},
        {"m-0123456789abcdef.key", false, true},
        {"m.key.age", false, true},
        {"server.pem", false, true},
        {"key.safetensors", false, false},
        {"tokens.json", false, false},
        {"notes.txt~", false, true},
        {".model.swp", false, true},
        {"config.json", false, false},
        {"environment", false, false},
        {"git", true, false},
        {"model.safetensors.index.json", false, false},
        {".hidden", false, false},
        {"locks", true, false},
    };
    _cleanup_select_ struct select s = {0};

    assert_int_equal(select_defaults(&s), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        if (select_leaves_out(&s, cases[i].path, cases[i].dir) != cases[i].out)
            fail_msg("%s", cases[i].path);
}

static void test_the_last_rule_decides(void **state)
{
    _cleanup_select_ struct select s = {0};

    assert_int_equal(select_add_lines(&s, "# a comment\n\n*.bin  \r\n!keep.bin\nsub/*.txt\n/top\nonly/\n!\n"),
                     0);
    assert_int_equal(s.n, 5);
    assert_true(select_leaves_out(&s, "a.bin", false));
    assert_true(select_leaves_out(&s, "x/y/a.bin", false));
    assert_false(select_leaves_out(&s, "x/keep.bin", false));
    assert_true(select_leaves_out(&s, "sub/a.txt", false));
    assert_false(select_leaves_out(&s, "other/sub/a.txt", false));
    assert_false(select_leaves_out(&s, "sub/deep/a.txt", false)); /* '*' does not match '/' */
    assert_true(select_leaves_out(&s, "only", true));
    assert_false(select_leaves_out(&s, "only", false));
    assert_int_equal(select_add(&s, "keep.bin", false), 0);
    assert_true(select_leaves_out(&s, "x/keep.bin", false));
    assert_int_equal(select_add(&s, "/", false), -EINVAL);
    assert_int_equal(select_add(&s, "", true), -EINVAL);
}

static void test_numbered_parts(void **state)
{
    static const struct {
        const char *name;
        unsigned part, of;
    } good[] = {{"model-00002-of-00003.safetensors", 2, 3},
                {"x-00001-of-00001", 1, 1},
                {"a-b-00010-of-99999.gguf", 10, 99999}};
    static const char *const bad[] = {"model.safetensors",
                                      "model-2-of-3.bin",
                                      "model-00004-of-00003.bin",
                                      "model-00000-of-00003.b",
                                      "-of-",
                                      "model00002-of-00003.b",
                                      "model-0000x-of-00003.b",
                                      "model-00002-of-0003"};
    struct complete_part p;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_true(complete_part_parse(good[i].name, &p));
        assert_int_equal(p.part, good[i].part);
        assert_int_equal(p.of, good[i].of);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(complete_part_parse(bad[i], &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_litter_is_left_out_by_default),
        cmocka_unit_test(test_the_last_rule_decides),
        cmocka_unit_test(test_numbered_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
