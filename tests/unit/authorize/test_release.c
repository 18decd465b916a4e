/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/release.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/units.h"

#define S TB_USEC_PER_SEC
#define REAL0 (1767868800ULL * S) /* 2026-01-08T10:40:00Z */

#define PARSE(literal, peer) tb_peer_parse(literal, sizeof(literal) - 1, peer)

static void test_systemd_names_are_parsed(void **state)
{
    struct tb_peer p;

    assert_int_equal(PARSE("\0"
                           "4f1c09ab/unit/tb-decrypt.service/model-key",
                           &p),
                     0);
    assert_string_equal(p.unit, "tb-decrypt.service");
    assert_string_equal(p.credential, "model-key");
    assert_int_equal(PARSE("\0"
                           "0/unit/a@b\\x2d:_.service/c",
                           &p),
                     0);
    assert_string_equal(p.unit, "a@b\\x2d:_.service");
}

static void test_garbage_names_are_not(void **state)
{
    static const struct {
        const char *s;
        size_t n;
    } bad[] = {
#define N(x) {x, sizeof(x) - 1}
        N(""),
        N("\0"),
        N("/run/x/unit/tb-decrypt.service/model-key"),
        N("4f1c/unit/tb-decrypt.service/model-key"),
        N("\0"
          "/unit/tb-decrypt.service/model-key"),
        N("\0"
          "4F1C/unit/tb-decrypt.service/model-key"),
        N("\0"
          "xyz/unit/tb-decrypt.service/model-key"),
        N("\0"
          "000000000000000000000000000000000/unit/tb-decrypt.service/model-key"),
        N("\0"
          "4f1c/units/tb-decrypt.service/model-key"),
        N("\0"
          "4f1c/unit/"),
        N("\0"
          "4f1c/unit/tb-decrypt.service"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/"),
        N("\0"
          "4f1c/unit//model-key"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/model-key/"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/model-key\0"),
        N("\0"
          "4f1c/unit/tb-decrypt.service\0/model-key"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/model key"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/x/model-key"),
        N("\0"
          "4f1c/unit/tb-decrypt.service/model-key\n"),
        N("\0"
          "4f1c/UNIT/tb-decrypt.service/model-key"),
    };
    struct tb_peer p;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tb_peer_parse(bad[i].s, bad[i].n, &p) != -EINVAL)
            fail_msg("accepted name %zu", i);
}

static enum tb_credential may(const char *unit, const char *credential)
{
    struct tb_peer p;

    snprintf(p.unit, sizeof(p.unit), "%s", unit);
    snprintf(p.credential, sizeof(p.credential), "%s", credential);
    return tb_peer_credential(&p);
}

static void test_each_unit_gets_its_own_only(void **state)
{
    assert_int_equal(may("tb-hydrate.service", "sas-url"), TB_CRED_SAS_URL);
    assert_int_equal(may("tb-hydrate.service", "manifest-url"), TB_CRED_MANIFEST_URL);
    assert_int_equal(may("tb-hydrate.service", "manifest-sha256"), TB_CRED_MANIFEST_SHA256);
    assert_int_equal(may("tb-decrypt.service", "manifest-sha256"), TB_CRED_MANIFEST_SHA256);
    assert_int_equal(may("tb-decrypt.service", "model-key"), TB_CRED_MODEL_KEY);
    assert_int_equal(may("tb-next.service", "sas-url"), TB_CRED_SAS_URL);
    assert_int_equal(may("tb-next.service", "asset-version"), TB_CRED_ASSET_VERSION);
    assert_int_equal(may("tb-next.service", "base-urls"), TB_CRED_BASE_URLS);
    assert_int_equal(may("tb-hydrate.service", "base-urls"), TB_CRED_BASE_URLS);
    assert_int_equal(may("tb-decrypt.service", "base-urls"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-hydrate.service", "asset-version"), TB_CRED_ASSET_VERSION);
    assert_int_equal(may("tb-next.service", "model-key"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-hydrate.service", "model-key"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-decrypt.service", "sas-url"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-decrypt.service", "manifest-url"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-proxy.service", "model-key"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-decrypt.service.", "model-key"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-decrypt", "model-key"), _TB_CRED_INVALID);
    assert_int_equal(may("tb-decrypt.service", "model-key2"), _TB_CRED_INVALID);
}

static void test_decisions(void **state)
{
    struct tb_clock now = {.boot_us = 1000 * S, .real_us = REAL0};
    struct tb_handouts h = {.granted_us = 900 * S};
    struct tb_grant *g = tb_grant_new();
    struct tb_lease l;

#define DECIDE(cred) tb_release_decide(&l, g, &h, cred, &now)
    snprintf(g->sas_url, sizeof(g->sas_url), "https://h/m?se=2026-01-08T11%%3A40%%3A00Z&sig=x");
    snprintf(g->manifest_url, sizeof(g->manifest_url), "https://h/j?sig=x");
    tb_lease_init(&l, 0, &now);
    assert_int_equal(tb_release_decide(&l, NULL, &h, TB_CRED_MODEL_KEY, &now), TB_RELEASE_WAIT);
    l.state = TB_LEASE_AUTHORIZED;
    for (int c = 0; c < _TB_CRED_MAX; c++)
        assert_int_equal(DECIDE((enum tb_credential)c), TB_RELEASE_GIVE);
    l.state = TB_LEASE_UNREACHABLE;
    assert_int_equal(DECIDE(TB_CRED_MODEL_KEY), TB_RELEASE_GIVE);
    /* right after a restart: the right to serve is back, the key is not */
    assert_int_equal(tb_release_decide(&l, NULL, &h, TB_CRED_MODEL_KEY, &now), TB_RELEASE_WAIT);

    h.first_us[TB_CRED_SAS_URL] = now.boot_us - 5 * S; /* asked twice for one start: idempotent */
    assert_int_equal(DECIDE(TB_CRED_SAS_URL), TB_RELEASE_GIVE);
    h.first_us[TB_CRED_SAS_URL]--;
    assert_int_equal(DECIDE(TB_CRED_SAS_URL), TB_RELEASE_RENEW);
    assert_int_equal(DECIDE(TB_CRED_MANIFEST_URL), TB_RELEASE_GIVE);
    h.first_us[TB_CRED_MANIFEST_URL] = h.first_us[TB_CRED_MODEL_KEY] = 1;
    assert_int_equal(DECIDE(TB_CRED_MANIFEST_URL), TB_RELEASE_RENEW);
    assert_int_equal(DECIDE(TB_CRED_MODEL_KEY), TB_RELEASE_GIVE);

    h = (struct tb_handouts){.granted_us = 900 * S};
    now.real_us = REAL0 + (3600 - 60) * S;
    assert_int_equal(DECIDE(TB_CRED_SAS_URL), TB_RELEASE_GIVE);
    now.real_us++;
    assert_int_equal(DECIDE(TB_CRED_SAS_URL), TB_RELEASE_RENEW);
    h.granted_us = now.boot_us - S; /* just renewed, and the control plane gives no longer ones */
    assert_int_equal(DECIDE(TB_CRED_SAS_URL), TB_RELEASE_GIVE);

    l.suspended = true;
    for (int c = 0; c < _TB_CRED_MAX; c++)
        assert_int_equal(DECIDE((enum tb_credential)c), TB_RELEASE_REFUSE);
    l.state = TB_LEASE_PENDING;
    assert_int_equal(tb_release_decide(&l, NULL, &h, TB_CRED_MODEL_KEY, &now), TB_RELEASE_REFUSE);
    tb_grant_free(g);
}

static void test_the_version_that_is_served_gets_its_own_grant(void **state)
{
    struct tb_grant two = {.version = 2}, one = {.version = 1}, unversioned = {0};
    struct tb_grants both = {&two, &one}, current = {&two, NULL}, none = {0}, old = {&unversioned, NULL};
    bool missing;

#define GRANT(g, whom, serving) tb_release_grant(&(g), TB_RELEASE_FOR_##whom, serving, &missing)
    assert_ptr_equal(GRANT(both, SERVING, 1), &one);
    assert_false(missing);
    assert_ptr_equal(GRANT(both, NEXT, 1), &two);
    assert_ptr_equal(GRANT(both, SERVING, 2), &two);
    assert_ptr_equal(GRANT(both, SERVING, 0), &two);
    assert_false(missing);
    assert_ptr_equal(GRANT(current, SERVING, 1), &two); /* but only after the control plane was asked */
    assert_true(missing);
    assert_ptr_equal(GRANT(both, SERVING, 3), &two);
    assert_true(missing);
    assert_ptr_equal(GRANT(old, SERVING, 1), &unversioned); /* a control plane without versions */
    assert_false(missing);
    assert_null(GRANT(none, SERVING, 1));
    assert_false(missing);
}

static void test_what_a_download_starts_with_is_judged_as_one(void **state)
{
    struct tb_peer p = {.unit = "tb-next.service", .credential = "manifest-sha256"};

    assert_int_equal(tb_peer_for(&p), TB_RELEASE_FOR_NEXT);
    assert_int_equal(tb_release_judged_as(&p), TB_CRED_SAS_URL);
    snprintf(p.unit, sizeof(p.unit), "tb-decrypt.service");
    assert_int_equal(tb_peer_for(&p), TB_RELEASE_FOR_SERVING);
    assert_int_equal(tb_release_judged_as(&p), TB_CRED_MANIFEST_SHA256);
    snprintf(p.unit, sizeof(p.unit), "tb-hydrate.service");
    snprintf(p.credential, sizeof(p.credential), "asset-version");
    assert_int_equal(tb_release_judged_as(&p), TB_CRED_SAS_URL);
}

static void test_sas_expiry(void **state)
{
    static const struct {
        const char *url;
        uint64_t want;
    } cases[] = {
        {"https://h/p", 0},
        {"https://h/p?", 0},
        {"https://h/se=2026-01-08T10:40:00Z", 0},
        {"https://h/p?se=2026-01-08T10:40:00Z", REAL0},
        {"https://h/p?sv=1&se=2026-01-08T10%3a40%3A00Z&sig=a%2Bb", REAL0},
        {"https://h/p?sse=2026-01-08T10:40:00Z&se=2026-01-08T10:40Z", REAL0},
        {"https://h/p?se=2026-01-08#se=2027", REAL0 - (10 * 3600 + 40 * 60) * S},
        {"https://h/p#?se=2026-01-08", 0},
        {"https://h/p?se=", 0},
        {"https://h/p?se=%", 0},
        {"https://h/p?se=%3", 0},
        {"https://h/p?se=%zz", 0},
        {"https://h/p?se=2026-01-08T10:40:00Z0000000000000000000000000000000", 0},
        {"https://h/p?x=1&&&se=2026-01-08T10:40:00Z", REAL0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        if (tb_sas_expiry_us(cases[i].url) != cases[i].want)
            fail_msg("%s: %llu", cases[i].url, (unsigned long long)tb_sas_expiry_us(cases[i].url));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_systemd_names_are_parsed),
        cmocka_unit_test(test_garbage_names_are_not),
        cmocka_unit_test(test_each_unit_gets_its_own_only),
        cmocka_unit_test(test_decisions),
        cmocka_unit_test(test_the_version_that_is_served_gets_its_own_grant),
        cmocka_unit_test(test_what_a_download_starts_with_is_judged_as_one),
        cmocka_unit_test(test_sas_expiry),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
