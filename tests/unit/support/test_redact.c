/* SPDX-License-Identifier: Apache-2.0 */
/* What of a text is taken out, and what stays. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "support/redact.h"

static void redact_into(struct redactor *r, const char *text, struct tb_buf *out)
{
    tb_buf_clear(out);
    assert_int_equal(redact_text(r, text, strlen(text), out), 0);
    assert_int_equal(tb_buf_append(out, "", 1), 0);
}

static void know(struct redactor *r, const char *text, enum redact_class class)
{
    assert_int_equal(redactor_know(r, text, strlen(text), class), 0);
}

static void test_by_looks(void **state)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"nothing of note here, 12 requests in 3.5 s", NULL},
        {"tb-proxy.service: Main process exited, code=exited, status=78/CONFIG", NULL},
        {"listening on 0.0.0.0:8000 and [::]:8001, 127.0.0.1:8081", NULL},
        {"2026-11-25T22:13:33Z at 12:34:56, 1.2.3 of 4", NULL},
        {"/var/lib/tb-billing/ledger.db: opening: file is not a database", NULL},
        {"prompt_tokens: 12345678 max_tokens=4096 tokens 17", NULL},
        {"TB_TLS_KEY=/run/credentials/tb-proxy.service/tls-key", NULL},
        {"tb_requests_total{status=\"200\"} 42", NULL},
        {"authorized: lease until 2026-11-26", NULL},
        {"connect to 10.1.2.3:443 refused", "connect to <address-1>:443 refused"},
        {"from fe80::1%eth0, 2001:db8::17", "from <address-1>, <address-2>"},
        {"link 52:54:00:12:34:56 up", "link <address-1> up"},
        {"Could not resolve host: cp.example.com", "Could not resolve host: <address-1>"},
        {"mail joe@corp.example now", "mail <address-1> now"},
        {"GET https://acct.blob.core.windows.net/models/model.tbenc?sv=2022&sig=abc%3D failed",
         "GET https://<address-1>/models/model.tbenc?<secret> failed"},
        {"proxy http://joe:geheim@proxy.corp:3128/ used", "proxy http://<secret>@<address-1>:3128/ used"},
        {"Authorization: Bearer abc.def", "Authorization: <secret>"},
        {"said Bearer xyz12345 to it", "said Bearer <secret> to it"},
        {"{\"api_key\": \"k1\", \"n\": 2}", "{\"api_key\": \"<secret>\", \"n\": 2}"},
        {"llama-server --api-key geheim --port 8081", "llama-server --api-key <secret> --port 8081"},
        {"password=geheim user=joe", "password=<secret> user=joe"},
        {"x-api-key: k1", "x-api-key: <secret>"},
        {"key sk-abcdefghijkl used", "key <secret> used"},
        {"jwt eyJhbGciOi.eyJzdWIi.c2ln ok", "jwt <secret> ok"},
        {"sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef end",
         "sha256 <secret> end"},
        {"id 123e4567-e89b-12d3-a456-426614174000 end", "id <id-1> end"},
        {"blob dGhpcyBpcyBhIHNlY3JldCAxMjM0NTY3ODkw end", "blob <secret> end"},
        {"a\n-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\nb", "a\n<secret: PEM>\nb"},
        {"one line -----BEGIN X----- abc -----END X-----\nb", "one line <secret: PEM>\nb"},
        {"cut -----BEGIN X-----\nMII", "cut <secret: PEM>\n"},
        {"HF_TOKEN=hf_abc", "HF_TOKEN=<secret>"},
        {"{\"m\": \"{\\\"password\\\": \\\"ge heim\\\", \\\"n\\\": 1}\"}",
         "{\"m\": \"{\\\"password\\\": \\\"<secret>\\\", \\\"n\\\": 1}\"}"},
        {"\"token\":\"a\\\"b\",\"n\":1", "\"token\":\"<secret>\",\"n\":1"},
        {"\"token\":\"cut off", "\"token\":\"<secret>"},
        {"a=1,secret=geheim,b=2", "a=1,secret=<secret>,b=2"},
        /* As one program writes it for another. */
        {"q https%3A%2F%2Facct.corp.example%2Fm%3Fsig%3Dab%252Bcd end",
         "q https://<address-1>/m?<secret> end"},
        {"{\"u\": \"sv=1\\u0026sig\\u003dgeheim\\u0026x=1\"}", "{\"u\": \"sv=1&sig=<secret>&x=1\"}"},
        {"https:\\/\\/acct.corp.example\\/m?sig=geheim", "https://<address-1>/m?<secret>"},
        {"https:\\\\u002f\\\\u002facct.corp.example\\\\u002fm\\\\u003fsig=x",
         "https://<address-1>/m?<secret>"},
        {"100% of 3%, 50%zz", NULL},
        {"GET https://cp.example/a?sig=ge'heim{x} end", "GET https://<address-1>/a?<secret> end"},
        {"[\"vllm\", \"--api-key\", \"geheim\", \"--port\", \"1\"]",
         "[\"vllm\", \"--api-key\", \"<secret>\", \"--port\", \"1\"]"},
        {"'--api-key' 'geheim'", "'--api-key' '<secret>'"},
        {"password => geheim, password\t=\tgeheim", "password => <secret>, password\t=\t<secret>"},
        {"authorization = Bearer geheim end", "authorization = <secret> end"},
        {"\"api_key\": [\"geheim\"]", "\"api_key\": [\"<secret>\"]"},
        {"<Key>geheim</Key>", "<Key><secret></Key>"},
        {"pwd=geheim pass=geheim enrolment_code=geheim",
         "pwd=<secret> pass=<secret> enrolment_code=<secret>"},
        {"code tbe-abcd-efgh-ijkl used", "code <secret> used"},
        {"password=/geheim --password /geheim", "password=<secret> --password <secret>"},
        {"cut -----BEGIN X-----\nMII\n2026-11-25 tb-x[7] <4> more",
         "cut <secret: PEM>\n2026-11-25 tb-x[7] <4> more"},
    };
    _cleanup_buf_ struct tb_buf out = {0};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_redactor_ struct redactor r = {0};

        redactor_ready(&r);
        redact_into(&r, cases[i].text, &out);
        assert_string_equal(out.data, cases[i].want ? cases[i].want : cases[i].text);
    }
}

static void test_known_values(void **state)
{
    _cleanup_redactor_ struct redactor r = {0};
    _cleanup_buf_ struct tb_buf out = {0};

    know(&r, "contract-2026", REDACT_ID);
    know(&r, "web", REDACT_ADDRESS);
    know(&r, "controlplane", REDACT_ADDRESS);
    know(&r, "geheim geheim", REDACT_SECRET);
    know(&r, "true", REDACT_ID);
    know(&r, "TrustBridge", REDACT_ADDRESS); /* as a machine may be called */
    know(&r, "c", REDACT_ID);
    redactor_ready(&r);
    redact_into(&r, "Contract-2026/x webserver on web: geheim geheim true c trustbridge", &out);
    assert_string_equal(out.data, "<id-1>/x webserver on <address-1>: <secret> true c trustbridge");
    redact_into(&r, "http://controlplane:8080/a?b for contract-2026", &out);
    assert_string_equal(out.data, "http://<address-2>:8080/a?<secret> for <id-1>");
    /* Stuck to something else it is still there. */
    redact_into(&r, "xcontract-2026y", &out);
    assert_string_equal(out.data, "x<id-1>y");
}

static void test_known_values_in_another_form(void **state)
{
    static const char *const texts[] = {
        "geheim%2Dgeheim",
        "geheim\\u002dgeheim",
        "\\x67eheim-geheim",
        "Z2VoZWltLWdlaGVpbQ==",     /* geheim-geheim */
        "eGdlaGVpbS1nZWhlaW0geQ==", /* x before it, " y" behind it */
        "eHhnZWhlaW0tZ2VoZWlteQ==", /* xx before it, y behind it */
        "a%2Bb%3Dc",
        "a+b=c",
    };
    _cleanup_redactor_ struct redactor r = {0};
    _cleanup_buf_ struct tb_buf out = {0};

    know(&r, "geheim-geheim", REDACT_SECRET);
    know(&r, "a%2Bb%3Dc", REDACT_SECRET);
    redactor_ready(&r);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        redact_into(&r, texts[i], &out);
        if (!strstr(out.data, "<secret>") || strstr(out.data, "hei") || strlen(out.data) > 16)
            fail_msg("%s -> %s", texts[i], out.data);
    }
}

static void test_what_is_asked_for_stays(void **state)
{
    _cleanup_redactor_ struct redactor r = {.keep_ids = true, .keep_addresses = true};
    _cleanup_buf_ struct tb_buf out = {0};
    static const char text[] =
        "contract-2026 123e4567-e89b-12d3-a456-426614174000 of 10.1.2.3 at https://cp.example/a";

    know(&r, "contract-2026", REDACT_ID);
    redactor_ready(&r);
    redact_into(&r, text, &out);
    assert_string_equal(out.data, text);
    redact_into(&r, "https://u:p@cp.example/a?sig=x api_key=k sk-abcdefghijkl", &out);
    assert_string_equal(out.data, "https://<secret>@cp.example/a?<secret> api_key=<secret> <secret>");
}

static void test_a_value_keeps_its_name(void **state)
{
    _cleanup_redactor_ struct redactor r = {0};
    _cleanup_buf_ struct tb_buf out = {0};

    redactor_ready(&r);
    redact_into(&r, "10.0.0.1 10.0.0.2 10.0.0.1", &out);
    assert_string_equal(out.data, "<address-1> <address-2> <address-1>");
    redact_into(&r, "10.0.0.2", &out);
    assert_string_equal(out.data, "<address-2>");
}

/* As many as the largest file of API keys makes. */
static void test_many_values(void **state)
{
    _cleanup_redactor_ struct redactor r = {0};
    _cleanup_buf_ struct tb_buf out = {0};
    char name[32], want[64];

    for (unsigned i = 0; i < 40000; i++) {
        snprintf(name, sizeof(name), "customer-%u", i);
        know(&r, name, REDACT_ID);
    }
    redactor_ready(&r);
    redact_into(&r, "customer-39999 customer-7 customer-40000", &out);
    snprintf(want, sizeof(want), "<id-40000> <id-8> <id-4001>0");
    assert_string_equal(out.data, want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_looks),
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_known_values_in_another_form),
        cmocka_unit_test(test_what_is_asked_for_stays),
        cmocka_unit_test(test_a_value_keeps_its_name),
        cmocka_unit_test(test_many_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
