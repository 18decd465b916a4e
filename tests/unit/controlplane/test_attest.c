/* SPDX-License-Identifier: Apache-2.0 */
/* Challenges, policies and roots. What evidence is believed: tests/integration/test_controlplane_attest.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "controlplane/attest/challenge.h"
#include "controlplane/attest/policy.h"

static const uint8_t secret[CP_CHALLENGE_SECRET_BYTES] = {1}, other[CP_CHALLENGE_SECRET_BYTES] = {2};
static const struct tb_attest_subject who = {"contract", "asset", "machine"};

static void test_a_challenge_is_for_one_and_for_a_while(void **state)
{
    const struct tb_attest_subject others[] = {
        {"contracT", "asset", "machine"}, {"contract", "asseT", "machine"}, {"contract", "asset", "machinE"}};
    uint8_t c[TB_CHALLENGE_BYTES], again[TB_CHALLENGE_BYTES];
    uint64_t end;

    assert_int_equal(cp_challenge_make(secret, &who, 1000, 60, c), 0);
    assert_int_equal(cp_challenge_make(secret, &who, 1000, 60, again), 0);
    assert_memory_not_equal(c, again, sizeof(c));
    assert_int_equal(cp_challenge_check(secret, &who, 1059, c, &end), 0);
    assert_int_equal(end, 1060);
    assert_int_equal(cp_challenge_check(secret, &who, 1060, c, &end), -ETIME);
    assert_int_equal(cp_challenge_check(other, &who, 1000, c, &end), -EBADMSG);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        assert_int_equal(cp_challenge_check(secret, &others[i], 1000, c, &end), -EBADMSG);
    for (size_t i = 0; i < sizeof(c); i++) {
        c[i] ^= 1;
        assert_int_equal(cp_challenge_check(secret, &who, 1000, c, &end), -EBADMSG);
        c[i] ^= 1;
    }
    /* of a clock that was far ahead: it may not be good for ever */
    assert_int_equal(cp_challenge_make(secret, &who, 1000 + 10 * CP_CHALLENGE_LONGEST_S, 60, c), 0);
    assert_int_equal(cp_challenge_check(secret, &who, 1000, c, &end), -ETIME);
    assert_int_equal(cp_challenge_make(secret, &who, 1000, UINT64_MAX, c), 0);
    assert_int_equal(cp_challenge_check(secret, &who, 1000, c, &end), 0);
    assert_int_equal(end, 1000 + CP_CHALLENGE_LONGEST_S);
}

static void test_a_policy_that_is_not_understood_is_none(void **state)
{
    static const char *const bad[] = {"{}",
                                      "[]",
                                      "tpm",
                                      "{\"level\":\"tpm\",\"image\":\"x\"}",
                                      "{\"level\":\"cvm\",\"min_tcb\":3}",
                                      "{\"level\":\"cvm\",\"min_tcb\":\"3.0.20\"}",
                                      "{\"level\":\"cvm\",\"min_tcb\":\"3.0.20.256\"}",
                                      "{\"level\":\"cvm\",\"min_tcb\":\"3.0.20.200.\"}",
                                      "{\"level\":\"cvm\",\"id_keys\":[]}",
                                      "{\"level\":\"cvm\",\"maa\":\"\"}",
                                      "{\"level\":\"cvm\",\"maa\":[\"https://a\"]}",
                                      "{\"level\":\"cvm\",\"maa\":\"https://a/\"}",
                                      "{\"level\":\"cvm\",\"maa\":\"http://a\"}",
                                      "{\"level\":\"image\",\"images\":[\"a\"],\"maa\":\"https://a\"}",
                                      "{\"level\":\"cvm\",\"id_keys\":[\"00\"]}",
                                      "{\"level\":\"tpm\",\"min_tcb\":\"3.0.20.200\"}",
                                      "{\"level\":\"tpm\",\"id_keys\":[\"00\"]}",
                                      "{\"level\":\"tpm\",\"ak\":[]}",
                                      "{\"level\":\"tpm\",\"ak\":\"azure\"}",
                                      "{\"level\":\"tpm\",\"ak\":[\"Azure\"]}",
                                      "{\"level\":\"tpm\",\"ak\":[1]}",
                                      "{\"level\":\"tpm\",\"pcrs\":[]}",
                                      "{\"level\":\"tpm\",\"pcrs\":[23]}",
                                      "{\"level\":\"tpm\",\"pcrs\":[4,4]}",
                                      "{\"level\":\"tpm\",\"pcrs\":[-1]}",
                                      "{\"level\":\"tpm\",\"ak\":[\"pin:00\"]}",
                                      "{\"level\":\"tpm\"} x",
                                      "{\"level\":\"image\"}",
                                      "{\"level\":\"image\",\"images\":[]}",
                                      "{\"level\":\"image\",\"images\":\"a\"}",
                                      "{\"level\":\"image\",\"images\":[\"*\"]}",
                                      "{\"level\":\"image\",\"images\":[\"a@\"]}",
                                      "{\"level\":\"image\",\"images\":[\"a@1@2\"]}",
                                      "{\"level\":\"image\",\"images\":[\"a\"],\"pcrs\":[4,11]}",
                                      "{\"level\":\"image\",\"images\":[\"a\"],\"secure_boot\":1}",
                                      "{\"level\":\"image\",\"images\":[\"a\"],\"secure-boot\":true}",
                                      "{\"level\":\"tpm\",\"secure_boot\":true}",
                                      "{\"level\":\"tpm\",\"images\":[\"a\"]}"};
    struct cp_attest_policy p;
    char err[TB_JSON_ERR_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        err[0] = '\0';
        assert_int_equal(cp_policy_parse(bad[i], &p, err), -EINVAL);
        assert_true(*err);
    }
    assert_int_equal(cp_policy_parse("", &p, err), 0);
    assert_int_equal(p.level, CP_LEVEL_NONE);
}

static void test_a_policy_is_made_of_words(void **state)
{
    static const char pin[] = "pin:00000000000000000000000000000000000000000000000000000000000000AB";
    const char *aks[] = {"own", pin}, *images[] = {"acme", "acme-llm@1.2.0"};
    struct cp_policy_words w = {.level = "tpm"};
    char text[CP_POLICY_MAX], err[TB_JSON_ERR_MAX];
    struct cp_attest_policy p;

    assert_int_equal(cp_policy_make(&w, text, err), 0);
    assert_int_equal(cp_policy_parse(text, &p, err), 0);
    assert_int_equal(p.trust.roots, CP_ATTEST_AZURE);
    assert_int_equal(p.pcrs, 1U << 4 | 1U << 7 | 1U << 11 | 1U << 12 | 1U << 13 | 1U << 14);
    w.aks = (struct tb_option_list){.v = aks, .n = ARRAY_SIZE(aks)};
    assert_int_equal(cp_policy_make(&w, text, err), 0);
    assert_int_equal(cp_policy_parse(text, &p, err), 0);
    assert_int_equal(p.trust.roots, CP_ATTEST_OWN);
    assert_int_equal(p.trust.n_pins, 1);
    assert_string_equal(p.trust.pins[0], "00000000000000000000000000000000000000000000000000000000000000ab");
    w = (struct cp_policy_words){.level = "none"};
    assert_int_equal(cp_policy_make(&w, text, err), 0);
    assert_string_equal(text, "");
    w.level = "memory";
    assert_int_equal(cp_policy_make(&w, text, err), -EINVAL);
    w.level = "image";
    assert_int_equal(cp_policy_make(&w, text, err), -EINVAL);
    w.images = (struct tb_option_list){.v = images, .n = ARRAY_SIZE(images)};
    w.secure_boot = true;
    assert_int_equal(cp_policy_make(&w, text, err), 0);
    assert_int_equal(cp_policy_parse(text, &p, err), 0);
    assert_int_equal(p.n_images, 2);
    assert_string_equal(p.images[0], "acme@*");
    assert_string_equal(p.images[1], "acme-llm@1.2.0");
    assert_true(p.secure_boot && !p.allow_debug && p.trust.roots == CP_ATTEST_AZURE);
    w.level = "cvm";
    assert_int_equal(cp_policy_make(&w, text, err), 0);
    w.level = "tpm";
    assert_int_equal(cp_policy_make(&w, text, err), -EINVAL);
}

/* Whoever maintains this has 90 days to read "A new intermediate" in docs/attestation.md. */
static void test_microsofts_certificates_last(void **state)
{
    int64_t left = cp_attest_roots_end() - (int64_t)time(NULL);

    assert_true(left > 90LL * 86400);
}

static void test_roots_of_ones_own_must_be_some(void **state)
{
    struct cp_attest_roots *r = NULL;
    char err[CP_ERR_MAX];

    assert_int_equal(cp_attest_roots_new(&r, err), 0);
    assert_int_equal(cp_attest_roots_add_own(r, "", err), -EINVAL);
    assert_int_equal(cp_attest_roots_add_amd(r, "", err), -EINVAL);
    assert_int_equal(
        cp_attest_roots_add_own(r, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", err),
        -EINVAL);
    cp_attest_roots_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_challenge_is_for_one_and_for_a_while),
        cmocka_unit_test(test_a_policy_that_is_not_understood_is_none),
        cmocka_unit_test(test_a_policy_is_made_of_words),
        cmocka_unit_test(test_microsofts_certificates_last),
        cmocka_unit_test(test_roots_of_ones_own_must_be_some),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
