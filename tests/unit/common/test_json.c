/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/json.h"

static int parse(const char *s, size_t n)
{
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX] = "";
    int r = tb_json_parse(s, n, 4096, &j, err);

    if (r < 0)
        assert_true(*err != '\0');
    return r;
}
#define PARSE(s) parse(s, strlen(s))

static void test_accepts_plain_documents(void **state)
{
    assert_int_equal(PARSE("{\"a\":1,\"b\":[true,null,\"x\"]}"), 0);
    assert_int_equal(PARSE(" {} \n"), 0);
    assert_int_equal(PARSE("{\"a\":{\"a\":1}}"), 0); /* same name in another object */
}

static void test_refuses_what_readers_disagree_on(void **state)
{
    char deep[64], big[5000];

    assert_int_equal(PARSE("{\"a\":1,\"a\":2}"), -EBADMSG);
    assert_int_equal(PARSE("{\"x\":[{\"a\":1,\"b\":2,\"a\":3}]}"), -EBADMSG);
    assert_int_equal(PARSE("{} {}"), -EBADMSG);
    assert_int_equal(PARSE("{}x"), -EBADMSG);
    assert_int_equal(PARSE(""), -EBADMSG);
    assert_int_equal(PARSE("{\"a\":1e999}"), -EBADMSG);
    assert_int_equal(parse("{}\0", 3), -EBADMSG);
    memset(deep, '[', sizeof(deep));
    assert_int_equal(parse(deep, 17), -EBADMSG);
    assert_int_equal(PARSE("[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"), 0);
    memset(big, ' ', sizeof(big));
    assert_int_equal(parse(big, sizeof(big)), -EFBIG);
    assert_int_equal(PARSE("{\"a\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[\"}"), 0); /* brackets in a string */
}

/* At a NUL a C string ends: "x\0evil" would pass for "x", and one member name for another. */
static void test_refuses_escaped_nul(void **state)
{
    assert_int_equal(PARSE("{\"a\":\"x\\u0000y\"}"), -EBADMSG);
    assert_int_equal(PARSE("{\"a\\u0000\":1}"), -EBADMSG);
    assert_int_equal(PARSE("[\"\\\\\\u0000\"]"), -EBADMSG); /* after an escaped backslash */
    assert_int_equal(PARSE("[\"\\\\u0000\"]"), 0);          /* a backslash, then plain text */
    assert_int_equal(PARSE("[\"\\u0001\", \"\\u00000\"]"), -EBADMSG);
    assert_int_equal(PARSE("[\"\\u0010\"]"), 0);
}

/* The text ends where memory ends: cJSON is not built with a sanitizer, a look behind the text shows as a fault. */
static void test_reads_nothing_behind_the_text(void **state)
{
    static const char *const texts[] = {"{\"1\":1,", "{\"1\":1, ",   "{\"a\"", "\"abc",
                                        "\"a\\",     "\"\\u00",      "tru",    "-",
                                        "[1,",       "\"\\ud800\\u", "{",      "1"};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + page, page, PROT_NONE), 0);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t n = strlen(texts[i]);

        memcpy(map + page - n, texts[i], n);
        assert_int_equal(parse(map + page - n, n), strcmp(texts[i], "1") == 0 ? 0 : -EBADMSG);
    }
    munmap(map, 2 * page);
}

static void test_getters_name_the_member(void **state)
{
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *s;
    uint64_t n;
    bool b;

    static const char text[] =
        "{\"n\":9007199254740991,\"big\":9007199254740993,\"neg\":-1,\"f\":1.5,\"s\":\"x\",\"b\":true}";

    assert_int_equal(tb_json_parse(text, strlen(text), 4096, &j, err), 0);
    assert_int_equal(tb_json_get_uint(j, "n", UINT64_MAX, &n, err), 0);
    assert_int_equal(n, 9007199254740991ULL);
    assert_int_equal(tb_json_get_uint(j, "n", 10, &n, err), -EINVAL);
    assert_int_equal(tb_json_get_uint(j, "big", UINT64_MAX, &n, err), -EINVAL);
    assert_int_equal(tb_json_get_uint(j, "neg", UINT64_MAX, &n, err), -EINVAL);
    assert_int_equal(tb_json_get_uint(j, "f", UINT64_MAX, &n, err), -EINVAL);
    assert_int_equal(tb_json_get_uint(j, "s", UINT64_MAX, &n, err), -EINVAL);
    assert_non_null(strstr(err, "\"s\""));
    assert_int_equal(tb_json_get_string(j, "s", &s, err), 0);
    assert_int_equal(tb_json_get_string(j, "S", &s, err), -ENOENT); /* names are exact */
    assert_int_equal(tb_json_get_string(j, "n", &s, err), -EINVAL);
    assert_int_equal(tb_json_get_bool(j, "b", &b, err), 0);
    assert_true(b);
    assert_int_equal(tb_json_get_bool(j, "n", &b, err), -EINVAL);
}

static void test_integers_are_written_exactly(void **state)
{
    _cleanup_json_ cJSON *j = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;

    assert_int_equal(tb_json_add_uint(j, "n", 9007199254740991ULL), 0);
    text = cJSON_PrintUnformatted(j);
    assert_string_equal(text, "{\"n\":9007199254740991}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts_plain_documents),
        cmocka_unit_test(test_refuses_what_readers_disagree_on),
        cmocka_unit_test(test_refuses_escaped_nul),
        cmocka_unit_test(test_reads_nothing_behind_the_text),
        cmocka_unit_test(test_getters_name_the_member),
        cmocka_unit_test(test_integers_are_written_exactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
