/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/version.h"

static void test_url_has_one_slash(void **state)
{
    static const char *const endpoints[] = {"https://h:8443", "https://h:8443/", "https://h:8443//"};

    for (size_t i = 0; i < ARRAY_SIZE(endpoints); i++) {
        _cleanup_free_ char *url = authorize_request_url(endpoints[i]);

        assert_string_equal(url, "https://h:8443/api/v1/license/authorize");
    }
}

static void test_body_has_its_members(void **state)
{
    _cleanup_free_ char *body = authorize_request_body(&(struct authorize_question){
        .contract_id = "c", .asset_id = "a", .hw_id = "h\"w", .attestation = "{}"});

    assert_string_equal(
        body,
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"h\\\"w\",\"client_version\":\"" TB_USER_AGENT
        "\",\"attestation\":\"{}\"}");
}

static void test_body_names_the_version_that_is_held(void **state)
{
    _cleanup_free_ char *body = authorize_request_body(&(struct authorize_question){
        .contract_id = "c", .asset_id = "a", .hw_id = "h", .attestation = "", .held_version = 7});

    assert_non_null(strstr(body, "\"held_version\":7"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_url_has_one_slash),
        cmocka_unit_test(test_body_has_its_members),
        cmocka_unit_test(test_body_names_the_version_that_is_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
