/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/response.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/units.h"

#define KEY "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define URLS "\"sas_url\":\"https://h/c/m?sig=s\",\"manifest_url\":\"https://h/c/j?sig=s\""
#define NOW_US (1767868800ULL * TB_USEC_PER_SEC) /* 2026-01-08T10:40:00Z */

static struct authorize_verdict judged;

static int judge_as(long status, const char *body, bool allow_http)
{
    struct tb_http_response rs = {
        .status = status, .body = (char *)body, .len = strlen(body), .retry_after_ms = -1};

    authorize_verdict_clear(&judged);
    if (status >= 300 && status < 400)
        rs.location = (char *)"https://login.example:8443/portal?x=1";
    authorize_response_judge(&rs, allow_http, NOW_US, &judged);
    assert_int_equal(judged.outcome.code == AUTHORIZE_GRANTED, judged.grant != NULL);
    return judged.outcome.code;
}

static int judge(long status, const char *body)
{
    return judge_as(status, body, false);
}

static void test_authorized_is_taken(void **state)
{
    assert_int_equal(judge(200, "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY
                                "\",\"expires_at\":\"2026-01-08T12:40:00+01:00\",\"future\":[1,{}]}"),
                     AUTHORIZE_GRANTED);
    assert_string_equal(judged.grant->sas_url, "https://h/c/m?sig=s");
    assert_string_equal(judged.grant->manifest_url, "https://h/c/j?sig=s");
    assert_string_equal(judged.grant->manifest_sha256, "none");
    assert_int_equal(judged.grant->key.b[1], 0x11);
    assert_int_equal(judged.grant->key.b[31], 0xff);
    assert_int_equal(judged.expires_at_us, NOW_US + 3600 * TB_USEC_PER_SEC);
    assert_string_equal(judged.outcome.reason, "");
}

static void test_fallbacks_that_are_good_are_lines(void **state)
{
    static const char *const rest[] = {
        "null",
        "7",
        "{}",
        "[7,null,{\"sas_url\":\"https://x/\"}]",
        "[{\"sas_url\":\"https://x/1\",\"manifest_url\":\"http://x/m\"}]",
        "[{\"sas_url\":\"https://x/1\\nhttps://y\",\"manifest_url\":\"https://x/m\"}]"};
    char body[1024];

    for (size_t i = 0; i < sizeof(rest) / sizeof(*rest); i++) {
        snprintf(body, sizeof(body),
                 "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "\",\"fallbacks\":%s}",
                 rest[i]);
        assert_int_equal(judge(200, body), AUTHORIZE_GRANTED);
        assert_string_equal(judged.grant->sas_lines, "https://h/c/m?sig=s");
        assert_string_equal(judged.grant->manifest_lines, "https://h/c/j?sig=s");
    }
    assert_int_equal(judge(200,
                           "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY
                           "\",\"fallbacks\":[{\"sas_url\":\"https://x/1\",\"manifest_url\":\"https://x/a\"},"
                           "{\"sas_url\":\"ftp://x\",\"manifest_url\":\"https://x/b\"},"
                           "{\"sas_url\":\"https://x/3\",\"manifest_url\":\"https://x/c\"}]}"),
                     AUTHORIZE_GRANTED);
    assert_string_equal(judged.grant->sas_url, "https://h/c/m?sig=s");
    assert_string_equal(judged.grant->sas_lines, "https://h/c/m?sig=s\nhttps://x/1\nhttps://x/3");
    assert_string_equal(judged.grant->manifest_lines, "https://h/c/j?sig=s\nhttps://x/a\nhttps://x/c");
}

static void test_urls_of_the_base_are_lines(void **state)
{
    static const struct {
        const char *base, *lines;
    } cases[] = {
        {"null", "none"},
        {"[]", "none"},
        {"{\"sas_url\":\"https://x/1\"}", "none"},
        {"{\"sas_url\":\"http://x/1\",\"manifest_url\":\"https://x/m\"}", "none"},
        {"{\"asset_version\":1,\"sas_url\":\"https://x/1\",\"manifest_url\":\"https://x/m\"}",
         "https://x/1\nhttps://x/m"},
        {"{\"sas_url\":\"https://x/1\",\"manifest_url\":\"https://x/m\",\"fallbacks\":[7,"
         "{\"sas_url\":\"https://y/1\",\"manifest_url\":\"https://y/m\"}]}",
         "https://x/1\nhttps://x/m\nhttps://y/1\nhttps://y/m"},
    };
    char body[1024];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        snprintf(body, sizeof(body),
                 "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "\",\"base\":%s}",
                 cases[i].base);
        assert_int_equal(judge(200, body), AUTHORIZE_GRANTED);
        assert_string_equal(judged.grant->base_lines, cases[i].lines);
    }
}

static void test_no_expiry_and_a_bound_manifest(void **state)
{
    assert_int_equal(judge(200, "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY
                                "\",\"manifest_sha256\":\"" KEY "\"}"),
                     AUTHORIZE_GRANTED);
    assert_int_equal(judged.expires_at_us, 0);
    assert_string_equal(judged.grant->manifest_sha256,
                        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
}

/* Each is a 200 that makes no sense: asked again, never taken for a denial, and nothing of it is granted. */
static void test_unusable_answers_are_retried(void **state)
{
    static const char *const bodies[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"status\":1}",
        "{\"status\":\"AUTHORIZED\"}",
        "{\"status\":\"authorized\"}",
        "{\"status\":\"authorized\",\"status\":\"denied\"}",
        "{\"status\":\"authorized\"," URLS "}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "0\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"0x" KEY "\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":[\"" KEY "\"]}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "\"} x",
        "{\"status\":\"authorized\",\"sas_url\":\"https://h/\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\",\"sas_url\":\"\",\"manifest_url\":\"https://h/"
        "\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\",\"sas_url\":\"http://h/\",\"manifest_url\":\"https://h/"
        "\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\",\"sas_url\":\"file:///etc/passwd\",\"manifest_url\":\"https://h/"
        "\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\",\"sas_url\":\"https:///p\",\"manifest_url\":\"https://h/"
        "\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\",\"sas_url\":\"https://h/\\n\",\"manifest_url\":\"https://h/"
        "\",\"decryption_key_hex\":\"" KEY "\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "\",\"expires_at\":\"tomorrow\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY "\",\"expires_at\":7}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY
        "\",\"expires_at\":\"2026-01-08T10:40:00Z\"}",
        "{\"status\":\"authorized\"," URLS ",\"decryption_key_hex\":\"" KEY
        "\",\"manifest_sha256\":\"none\"}",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        if (judge(200, bodies[i]) != AUTHORIZE_RETRY)
            fail_msg("not retried: %s", bodies[i]);
        assert_non_null(strstr(judged.outcome.reason, "unusable"));
        assert_null(strstr(judged.outcome.reason, "aabbcc"));
    }
}

static void test_http_urls_need_permission(void **state)
{
    const char *body =
        "{\"status\":\"authorized\",\"sas_url\":\"http://h/a\",\"manifest_url\":\"HTTP://h/b\","
        "\"decryption_key_hex\":\"" KEY "\"}";

    assert_int_equal(judge_as(200, body, false), AUTHORIZE_RETRY);
    assert_int_equal(judge_as(200, body, true), AUTHORIZE_GRANTED);
}

static void test_url_length_is_limited(void **state)
{
    static char body[3 * TB_GRANT_URL_MAX];

    for (int extra = 0; extra < 2; extra++) {
        int pad = TB_GRANT_URL_MAX - (int)strlen("https://h/") + extra;

        snprintf(body, sizeof(body),
                 "{\"status\":\"authorized\",\"sas_url\":\"https://h/%0*d\",\"manifest_url\":\"https://h/\","
                 "\"decryption_key_hex\":\"" KEY "\"}",
                 pad, 7);
        assert_int_equal(judge(200, body), extra ? AUTHORIZE_RETRY : AUTHORIZE_GRANTED);
    }
}

static void test_denials(void **state)
{
    assert_int_equal(judge(200, "{\"status\":\"denied\",\"reason\":\"contract_invalid\"}"), AUTHORIZE_DENIED);
    assert_string_equal(judged.outcome.reason, "contract_invalid");
    assert_int_equal(judge(200, "{\"status\":\"denied\"}"), AUTHORIZE_DENIED);
    assert_string_equal(judged.outcome.reason, "access denied");
    assert_int_equal(judge(403, "{\"status\":\"denied\",\"reason\":\"subscription_inactive\"}"),
                     AUTHORIZE_DENIED);
    assert_string_equal(judged.outcome.reason, "subscription_inactive");
    assert_int_equal(judge(401, "{\"reason\":\"contract_inactive\"}"), AUTHORIZE_DENIED);
    assert_string_equal(judged.outcome.reason, "contract_inactive");
    assert_int_equal(judge(400, "{\"status\":\"denied\",\"reason\":\"invalid_request\"}"), AUTHORIZE_DENIED);
    assert_string_equal(judged.outcome.reason, "invalid_request");
    assert_int_equal(judge(404, "{\"status\":\"denied\"}"), AUTHORIZE_DENIED);
}

/* A gateway, a proxy, a portal: none of them may unload a model. */
static void test_what_is_not_the_control_planes_does_not_deny(void **state)
{
    static const struct {
        long status;
        const char *body, *reason;
    } cases[] = {
        {302, "<html>log in</html>",
         "HTTP 302: redirected to https://login.example:8443 instead of answered; a gateway or proxy stands "
         "in front "
         "of the control plane: let TB_EDC_ENDPOINT pass"},
        {307, "", "HTTP 307: redirected"},
        {401, "", "HTTP 401: not an answer of the control plane; check TB_EDC_ENDPOINT"},
        {401, "{\"statusCode\":401,\"message\":\"Access denied due to missing subscription key\"}",
         "HTTP 401: not an answer"},
        {403, "{\"message\":\"Forbidden\"}", "HTTP 403: not an answer of the control plane: {"},
        {403, "<html>Web Application Firewall</html>",
         "HTTP 403: not an answer of the control plane: <html>Web"},
        {403, "{\"status\":\"authorized\",\"reason\":\"no\"}", "HTTP 403: not"},
        {403, "[\"denied\"]", "HTTP 403: not"},
        {403, "{\"status\":403,\"reason\":\"no\"}", "HTTP 403: not"},
        {400, "{\"reason\":\"invalid_request\"}", "HTTP 400: not"},
        {404, "<html>\n\n Not\tfound</html>",
         "HTTP 404: not an answer of the control plane: <html> Not found</html>"},
        {407, "", "HTTP 407: a proxy on the way wants a login"},
        {418, "%s%n", "HTTP 418: not an answer of the control plane: %s%n"},
        {429, "", "the control plane answered HTTP 429"},
        {451, "blocked", "HTTP 451: not an answer of the control plane: blocked"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(judge(cases[i].status, cases[i].body), AUTHORIZE_RETRY);
        if (strncmp(judged.outcome.reason, cases[i].reason, strlen(cases[i].reason)) != 0)
            fail_msg("%ld: %s", cases[i].status, judged.outcome.reason);
    }
}

static void test_statuses_that_are_retried(void **state)
{
    static const long statuses[] = {0, 100, 201, 204, 206, 408, 429, 500, 501, 502, 503, 504, 505, 599, 600};

    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
        if (judge(statuses[i], "{\"status\":\"denied\",\"reason\":\"r\"}") != AUTHORIZE_RETRY)
            fail_msg("HTTP %ld is not retried", statuses[i]);
}

static void test_reasons_are_made_safe(void **state)
{
    static const char dirty[] = " a\r\nb\033[31m\xc3\xa9 c \0d";
    char out[TB_REASON_MAX], in[4096];

    tb_reason_sanitise(dirty, sizeof(dirty) - 1, out);
    assert_string_equal(out, "a b [31m c d");
    tb_reason_sanitise("key=" KEY "!", 4 + 64 + 1, out);
    assert_string_equal(out, "[redacted]!");
    snprintf(in, sizeof(in), "https://h/x?sv=1&sig=%s", "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG%3D");
    tb_reason_sanitise(in, strlen(in), out);
    assert_null(strstr(out, "abcdefgh"));
    snprintf(in, sizeof(in), "id 123e4567-e89b-12d3-a456-426614174000 unknown");
    tb_reason_sanitise(in, strlen(in), out);
    assert_string_equal(out, in);
    memset(in, 0, sizeof(in));
    for (size_t i = 0; i + 1 < sizeof(in); i++)
        in[i] = i % 7 ? 'x' : '!';
    tb_reason_sanitise(in, strlen(in), out);
    assert_int_equal(strlen(out), TB_AUTHORIZE_REASON_MAX);
    tb_reason_sanitise("", 0, out);
    assert_string_equal(out, "");
}

static int teardown(void **state)
{
    authorize_verdict_clear(&judged);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_authorized_is_taken),
        cmocka_unit_test(test_fallbacks_that_are_good_are_lines),
        cmocka_unit_test(test_urls_of_the_base_are_lines),
        cmocka_unit_test(test_no_expiry_and_a_bound_manifest),
        cmocka_unit_test(test_unusable_answers_are_retried),
        cmocka_unit_test(test_http_urls_need_permission),
        cmocka_unit_test(test_url_length_is_limited),
        cmocka_unit_test(test_denials),
        cmocka_unit_test(test_what_is_not_the_control_planes_does_not_deny),
        cmocka_unit_test(test_statuses_that_are_retried),
        cmocka_unit_test(test_reasons_are_made_safe),
    };

    authorize_response_setup();
    return cmocka_run_group_tests(tests, NULL, teardown);
}
