/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "provider/publish/template.h"

static const char text[] = "{\"parameters\": {"
                           "\"s\": {\"type\": \"string\", \"minLength\": 2, \"maxLength\": 4},"
                           "\"i\": {\"type\": \"int\", \"defaultValue\": 1, \"allowedValues\": [1, 2, 4]},"
                           "\"b\": {\"type\": \"Bool\"},"
                           "\"a\": {\"type\": \"array\"},"
                           "\"x\": {\"type\": \"secureString\"}}}";

static void test_values_become_defaults_of_their_type(void **state)
{
    static const struct {
        const char *name, *value;
        int r;
        const char *json; /* of the default then */
    } t[] = {
        {"s", "abc", 0, "\"abc\""},
        {"s", "a", -EINVAL, NULL},
        {"s", "abcde", -EINVAL, NULL},
        {"s", "[x]", -EINVAL, NULL},
        {"i", "4", 0, "4"},
        {"i", "3", -EINVAL, NULL},
        {"i", "4x", -EINVAL, NULL},
        {"i", "", -EINVAL, NULL},
        {"i", "99999999999", -EINVAL, NULL},
        {"b", "true", 0, "true"},
        {"b", "True", -EINVAL, NULL},
        {"a", "[1]", 0, "[1]"},
        {"a", "{}", -EINVAL, NULL},
        {"a", "[1] x", -EINVAL, NULL},
        {"x", "abc", -EINVAL, NULL},
        {"S", "abc", -ENOENT, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        _cleanup_json_ cJSON *d = NULL;
        _cleanup_free_ char *json = NULL;
        char err[TEMPLATE_ERR_MAX] = "";

        assert_int_equal(template_parse(text, sizeof(text) - 1, &d, err), 0);
        assert_int_equal(template_set(d, t[i].name, t[i].value, err), t[i].r);
        if (t[i].r < 0) {
            assert_memory_equal(err, t[i].name, strlen(t[i].name));
            continue;
        }
        json = cJSON_PrintUnformatted(
            cJSON_GetObjectItemCaseSensitive(template_parameter(d, t[i].name), "defaultValue"));
        assert_string_equal(json, t[i].json);
    }
}

static void test_secrets_are_known(void **state)
{
    static const char *const bad[] = {
        "https://h/c?sv=2024-11-04&SIG=abc",
        "BlobEndpoint=x;SharedAccessSignature=sv",
        "AccountName=a;AccountKey=b",
        "-----BEGIN EC PRIVATE KEY-----",
        "eyJhbGciOi.x",
        "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF",
    };
    static const char *const good[] = {
        "",    "design=1&sv=2", "https://h/c",
        "eyJ", "sign: a1",      "me:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_non_null(template_secret_kind(bad[i]));
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_null(template_secret_kind(good[i]));
}

static void test_only_an_object_is_a_template(void **state)
{
    static const char *const bad[] = {
        "", "[]", "{} x", "{", "{\"a\": }", "1", "{\"parameters\":[1]}", "{\"parameters\":\"x\"}"};
    char err[TEMPLATE_ERR_MAX];
    cJSON *d = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(template_parse(bad[i], strlen(bad[i]), &d, err), -EBADMSG);
    assert_int_equal(template_parse("{}\0", 3, &d, err), -EBADMSG);
    assert_null(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_become_defaults_of_their_type),
        cmocka_unit_test(test_secrets_are_known),
        cmocka_unit_test(test_only_an_object_is_a_template),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
