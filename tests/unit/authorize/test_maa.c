/* SPDX-License-Identifier: Apache-2.0 */
/* What an instance of Azure Attestation is asked and what it answers. The exchange: test_attest_maa.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "authorize/maa.h"
#include "common/hcl.h"

static void test_what_is_a_token(void **state)
{
    static const char *const bad[] = {"",
                                      "{}",
                                      "[]",
                                      "{\"token\":1}",
                                      "{\"token\":\"\"}",
                                      "{\"token\":\"a b\"}",
                                      "{\"token\":\"a\\nb\"}",
                                      "{\"token\":\"a.b.c=\"}",
                                      "{\"token\":\"a\",\"token\":\"b\"}"};
    static const char good[] = "{\"token\":\"eyJ.a-_b.c9\"}";
    char *token = NULL, text[9000];

    assert_int_equal(authorize_maa_answer(good, strlen(good), &token), 0);
    assert_string_equal(token, "eyJ.a-_b.c9");
    free(token);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(authorize_maa_answer(bad[i], strlen(bad[i]), &token), -EBADMSG);
    for (int n = 8192; n < 8194; n++) {
        snprintf(text, sizeof(text), "{\"token\":\"%0*d\"}", n, 0);
        assert_int_equal(authorize_maa_answer(text, strlen(text), &token), n == 8192 ? 0 : -EBADMSG);
    }
    free(token);
}

static void put_number(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void test_what_is_asked(void **state)
{
    static const uint8_t nonce[TB_TPM_DIGEST_BYTES] = {0xab, 0xcd};
    uint8_t report[32 + TB_HCL_SNP_BYTES + 20 + 3] = "HCLA";
    char *text;

    put_number(report + 12, 2);
    put_number(report + 32 + TB_HCL_SNP_BYTES + 8, 2);
    put_number(report + 32 + TB_HCL_SNP_BYTES + 12, 1);
    put_number(report + 32 + TB_HCL_SNP_BYTES + 16, 3);
    memcpy(report + 32 + TB_HCL_SNP_BYTES + 20, "\xff\xfe\xfd", 3);
    text = authorize_maa_question(report, sizeof(report), "chain", nonce);
    assert_non_null(text);
    assert_non_null(strstr(text, "\"nonce\":\"abcd0000"));
    assert_non_null(strstr(text, "\"runtimeData\":{\"data\":\"__79\",\"dataType\":\"JSON\"}"));
    free(text);
    assert_null(authorize_maa_question(report, sizeof(report) - 1, "chain", nonce));
    put_number(report + 12, 4); /* TDX */
    assert_null(authorize_maa_question(report, sizeof(report), "chain", nonce));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_a_token),
        cmocka_unit_test(test_what_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
