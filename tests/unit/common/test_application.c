/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "common/application.h"

#define SUB "/subscriptions/0A1b2c3d-0000-4000-8000-00000000000F"
#define KIND "/providers/Microsoft.Solutions/applications/"
#define ONE                                                                                                  \
    "/subscriptions/0a1b2c3d-0000-4000-8000-00000000000f/resourcegroups/rg-1/providers/microsoft.solutions/" \
    "applications/llama"

static void test_spellings_of_an_id_are_one(void **state)
{
    static const char *const same[] = {
        SUB "/resourceGroups/rg-1" KIND "llama",
        SUB "/resourcegroups/RG-1" KIND "LLAMA",
        SUB "/resourceGroups/rg-1/providers/microsoft.solutions/Applications/Llama",
        ONE,
        &ONE[1],
    };
    char id[TB_APPLICATION_MAX + 1], contract[TB_APPLICATION_CONTRACT_MAX + 1];

    for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
        assert_int_equal(tb_application_read(same[i], id), 0);
        assert_string_equal(id, ONE);
        assert_int_equal(tb_application_contract(same[i], contract), 0);
        /* printf %s ONE | sha256sum | cut -c -32 */
        assert_string_equal(contract, "app-547c6d496eb26c33fe5699a33e8e6994");
        assert_true(tb_id_valid(contract));
    }
    assert_int_equal(tb_application_read(SUB "/resourceGroups/gr\xc3\xbc\xc3\x9f.e(1)_2" KIND "m", id), 0);
}

static void test_what_is_no_id_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "/",
        "//subscriptions/0a1b2c3d-0000-4000-8000-00000000000f/resourcegroups/rg-1" KIND "llama",
        "/subscriptions/0a1b2c3d-0000-4000-8000-00000000000/resourcegroups/rg-1" KIND "llama",
        "/subscriptions/0a1b2c3d-0000-4000-8000-00000000000g/resourcegroups/rg-1" KIND "llama",
        SUB "/resourceGroups/" KIND "llama",
        SUB "/resourceGroups/.." KIND "llama",
        SUB "/resourceGroups/rg." KIND "llama",
        SUB "/resourceGroups/a b" KIND "llama",
        SUB "/resourceGroups/a?b" KIND "llama",
        SUB "/resourceGroups/a%2fb" KIND "llama",
        SUB "/resourceGroups/a\nb" KIND "llama",
        SUB "/resourceGroups/\xff" KIND "llama",
        SUB "/resourceGroups/rg" KIND,
        SUB "/resourceGroups/rg" KIND "llama/",
        SUB "/resourceGroups/rg" KIND "llama/x",
        SUB "/resourceGroups/rg" KIND "llama?api-version=1",
        SUB "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/llama",
    };
    char id[TB_APPLICATION_MAX + 1], contract[TB_APPLICATION_CONTRACT_MAX + 1], longest[400];

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(tb_application_read(bad[i], id), -EINVAL);
        assert_string_equal(id, "");
        assert_int_equal(tb_application_contract(bad[i], contract), -EINVAL);
        assert_string_equal(contract, "");
    }
    memset(longest, 'a', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    memcpy(longest, SUB "/resourceGroups/rg" KIND, strlen(SUB "/resourceGroups/rg" KIND));
    assert_int_equal(tb_application_read(longest, id), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings_of_an_id_are_one),
        cmocka_unit_test(test_what_is_no_id_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
