/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "common/usage_report.h"
#include "controlplane/keys/report_keys.h"

static unsigned unwraps;
static int verdict;

/* The key is that of the wrapping's first byte and the asset's first letter. */
static int fake_unwrap(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret)
{
    (void)me;
    unwraps++;
    memset(ret->b, w->b[0] ^ asset_id[0], sizeof(ret->b));
    return verdict;
}

static const struct cp_keyring_ops fake_ops = {.unwrap = fake_unwrap};

static void expect(struct cp_report_keys *k, struct cp_keyring *ring, const char *asset_id,
                   const struct cp_wrapped *w)
{
    struct tb_key asset_key, want, got = {0};

    memset(asset_key.b, w->b[0] ^ asset_id[0], sizeof(asset_key.b));
    assert_int_equal(tb_report_key(&asset_key, &want), 0);
    assert_int_equal(cp_report_keys_get(k, ring, asset_id, w, &got), 0);
    assert_memory_equal(&got, &want, sizeof(got));
}

static void test_each_is_unwrapped_once(void **state)
{
    _cleanup_keyring_ struct cp_keyring *ring = NULL;
    struct cp_report_keys *k = cp_report_keys_new();
    struct cp_wrapped w = {.kek_id = "one", .len = 3};

    (void)state;
    assert_non_null(k);
    assert_int_equal(cp_keyring_new(&fake_ops, NULL, &ring), 0);
    unwraps = 0;
    for (int i = 0; i < 5; i++)
        expect(k, ring, "a", &w);
    assert_int_equal(unwraps, 1);
    /* whatever differs is another: asset, key-encryption key, length, bytes */
    expect(k, ring, "b", &w);
    strcpy(w.kek_id, "two");
    expect(k, ring, "a", &w);
    w.len = 4;
    expect(k, ring, "a", &w);
    w.b[0] = 7;
    expect(k, ring, "a", &w);
    assert_int_equal(unwraps, 5);
    /* more than there is room for: right all the same */
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < 4 * CP_REPORT_KEYS_MAX; i++) {
            w.b[0] = (uint8_t)i;
            w.b[1] = (uint8_t)(i >> 8);
            expect(k, ring, "a", &w);
        }
    cp_report_keys_free(k);
}

/* As many as there is room for, each once, whichever they are; then the one that was not used goes. */
static void test_none_takes_another_s_place(void **state)
{
    _cleanup_keyring_ struct cp_keyring *ring = NULL;
    struct cp_report_keys *k = cp_report_keys_new();
    struct cp_wrapped w = {.len = 3};

    (void)state;
    assert_int_equal(cp_keyring_new(&fake_ops, NULL, &ring), 0);
    unwraps = 0;
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < CP_REPORT_KEYS_MAX; i++) {
            w.b[0] = (uint8_t)i;
            expect(k, ring, "a", &w);
        }
    assert_int_equal(unwraps, CP_REPORT_KEYS_MAX);
    w.b[0] = 0;
    expect(k, ring, "a", &w); /* so the next oldest is 1 */
    expect(k, ring, "b", &w);
    assert_int_equal(unwraps, CP_REPORT_KEYS_MAX + 1);
    expect(k, ring, "a", &w);
    w.b[0] = 2;
    expect(k, ring, "a", &w);
    assert_int_equal(unwraps, CP_REPORT_KEYS_MAX + 1);
    w.b[0] = 1;
    expect(k, ring, "a", &w);
    assert_int_equal(unwraps, CP_REPORT_KEYS_MAX + 2);
    cp_report_keys_free(k);
}

static void test_a_failure_is_not_kept(void **state)
{
    _cleanup_keyring_ struct cp_keyring *ring = NULL;
    struct cp_report_keys *k = cp_report_keys_new();
    struct cp_wrapped w = {.len = 3};
    struct tb_key got;

    (void)state;
    assert_int_equal(cp_keyring_new(&fake_ops, NULL, &ring), 0);
    verdict = -EAGAIN;
    assert_int_equal(cp_report_keys_get(k, ring, "a", &w, &got), -EAGAIN);
    verdict = 0;
    expect(k, ring, "a", &w);
    unwraps = 0;
    expect(NULL, ring, "a", &w); /* nowhere to keep it */
    expect(NULL, ring, "a", &w);
    assert_int_equal(unwraps, 2);
    cp_report_keys_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_is_unwrapped_once),
        cmocka_unit_test(test_none_takes_another_s_place),
        cmocka_unit_test(test_a_failure_is_not_kept),
    };

    return cmocka_run_group_tests_name("report_keys", tests, NULL, NULL);
}
