/* SPDX-License-Identifier: Apache-2.0 */
#include "common/lease_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/io.h"

static char dir[] = "/tmp/tb-lease-state.XXXXXX";

static void put(const char *text)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_LEASE_NAME);

    assert_int_equal(tb_write_file_atomic(path, text, strlen(text), 0644), 0);
}

static void test_every_state_has_a_word_that_reads_back(void **state)
{
    for (int s = TB_LEASE_ABSENT + 1; s < _TB_LEASE_STATE_MAX; s++)
        assert_int_equal(tb_lease_state_from_name(tb_lease_state_name(s)), s);
    assert_int_equal(tb_lease_state_from_name("AUTHORIZED"), TB_LEASE_ABSENT);
    assert_int_equal(tb_lease_state_from_name(""), TB_LEASE_ABSENT);
}

static void test_what_is_written_reads_back(void **state)
{
    struct tb_lease_record w = {.state = TB_LEASE_UNREACHABLE,
                                .reason = "no answer",
                                .contract_id = "contract",
                                .asset_id = "asset",
                                .asset_version = 7,
                                .has_expiry = true,
                                .has_deadline = true,
                                .expires_real_us = UINT64_C(1767873600000000),
                                .deadline_boot_us = 5000001,
                                .renewed_real_us = UINT64_C(1767870000000000),
                                .attested = {"image", "acme-llm", "1.3.0", UINT64_C(1767869000000000)},
                                .written_real_us = UINT64_C(1767870001000000),
                                .written_boot_us = 4000001},
                           r;

    assert_int_equal(tb_lease_record_write(dir, &w), 0);
    assert_int_equal(tb_lease_record_read(dir, TB_LEASE_NAME, &r), 0);
    assert_int_equal(r.state, w.state);
    assert_string_equal(r.reason, w.reason);
    assert_string_equal(r.contract_id, w.contract_id);
    assert_string_equal(r.asset_id, w.asset_id);
    assert_int_equal(r.asset_version, w.asset_version);
    assert_true(r.has_expiry && r.has_deadline);
    assert_int_equal(r.expires_real_us, w.expires_real_us);
    assert_int_equal(r.deadline_boot_us, w.deadline_boot_us);
    assert_int_equal(r.renewed_real_us, w.renewed_real_us);
    assert_int_equal(r.written_real_us, w.written_real_us);
    assert_int_equal(r.written_boot_us, w.written_boot_us);
    assert_string_equal(r.attested.level, "image");
    assert_string_equal(r.attested.image, "acme-llm");
    assert_string_equal(r.attested.version, "1.3.0");
    assert_int_equal(r.attested.at_real_us, w.attested.at_real_us);
    w.has_expiry = w.has_deadline = false;
    assert_int_equal(tb_lease_record_write(dir, &w), 0);
    assert_int_equal(tb_lease_record_read(dir, TB_LEASE_NAME, &r), 0);
    assert_false(r.has_expiry || r.has_deadline);
}

static void test_what_is_not_understood_reads_as_nothing(void **state)
{
    struct tb_lease_record r;

    assert_int_equal(tb_lease_record_read("/nonexistent", TB_LEASE_FILE, &r), -ENOENT);
    put("[]");
    assert_int_equal(tb_lease_record_read(dir, TB_LEASE_NAME, &r), -EBADMSG);
    put("{\"state\":\"other\",\"reason\":7,\"expires_at\":\"soon\",\"deadline_boottime_us\":\"x\"}");
    assert_int_equal(tb_lease_record_read(dir, TB_LEASE_NAME, &r), 0);
    assert_int_equal(r.state, TB_LEASE_ABSENT);
    assert_string_equal(r.reason, "");
    assert_true(r.has_expiry && r.has_deadline); /* a deadline that is not a number has passed */
    assert_int_equal(r.expires_real_us, 0);
    assert_int_equal(r.deadline_boot_us, 0);
}

static void test_a_deadline_far_away_is_not_over(void **state)
{
    struct tb_lease_record r;

    put("{\"state\":\"authorized\",\"deadline_boottime_us\":251646566399000000}");
    assert_int_equal(tb_lease_record_read(dir, TB_LEASE_NAME, &r), 0);
    assert_true(r.deadline_boot_us > UINT64_C(100) * 366 * 86400 * 1000000);
}

static int setup(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_LEASE_NAME);

    (void)unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_has_a_word_that_reads_back),
        cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_what_is_not_understood_reads_as_nothing),
        cmocka_unit_test(test_a_deadline_far_away_is_not_over),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
