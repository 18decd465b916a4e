/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/lease_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "common/facts.h"
#include "common/io.h"
#include "common/json.h"
#include "common/domain_file.h"
#include "common/units.h"

#define S TB_USEC_PER_SEC
#define REAL0 (1767868800ULL * S)

static char base[64];
static struct tb_lease_files f;
static struct tb_lease l;
static struct tb_clock now;

static char *at(const char *which, const char *name)
{
    return tb_strf("%s/%s/tb-authorize/%s", base, which, name);
}

static bool exists(const char *which, const char *name)
{
    _cleanup_free_ char *path = at(which, name);

    return access(path, F_OK) == 0;
}

static void put(const char *which, const char *name, const char *text)
{
    _cleanup_free_ char *path = at(which, name);
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void open_files(const char *contract)
{
    _cleanup_free_ char *run = tb_path_join(base, "run"), *state = tb_path_join(base, "state");

    assert_int_equal(tb_lease_files_init(&f, run, state, contract, "asset"), 0);
}

/* As a new process would. */
static void restart_as(const char *contract)
{
    tb_lease_files_clear(&f);
    open_files(contract);
    tb_lease_init(&l, 100 * S, &now);
    assert_int_equal(tb_lease_files_restore(&f, &l, &now), 0);
}

static int setup(void **state)
{
    snprintf(base, sizeof(base), "/tmp/test-files-XXXXXX");
    unsetenv("RUNTIME_DIRECTORY");
    unsetenv("STATE_DIRECTORY");
    if (!mkdtemp(base))
        return -1;
    now = (struct tb_clock){.boot_us = 1000 * S, .real_us = REAL0};
    open_files("contract");
    tb_lease_init(&l, 100 * S, &now);
    return tb_lease_files_restore(&f, &l, &now);
}

static int teardown(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", base);

    tb_lease_files_clear(&f);
    return system(cmd);
}

static void apply(int code, const char *reason)
{
    struct authorize_verdict v = {.outcome.code = code, .retry_after_ms = -1};

    if (code == AUTHORIZE_GRANTED)
        v.expires_at_us = now.real_us + 50 * S;
    snprintf(v.outcome.reason, sizeof(v.outcome.reason), "%s", reason);
    tb_lease_apply(&l, &v, &now);
    assert_int_equal(tb_lease_files_write(&f, &l, &now), 0);
}

static void assert_member(const char *which, const char *name, const char *member, const char *want)
{
    _cleanup_free_ char *path = tb_strf("%s/%s/tb-authorize", base, which);
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *s;

    assert_int_equal(tb_state_read_at(path, name, &o), 0);
    assert_int_equal(tb_json_get_string(o, member, &s, err), 0);
    assert_string_equal(s, want);
}

static void test_lease_file_follows_the_contract(void **state)
{
    _cleanup_free_ char *run = tb_path_join(base, "run");
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    uint64_t deadline;

    assert_member("run", "lease.json", "state", "pending");
    apply(AUTHORIZE_GRANTED, "");
    assert_member("run", "lease.json", "state", "authorized");
    assert_member("run", "lease.json", "contract_id", "contract");
    assert_member("run", "lease.json", "asset_id", "asset");
    assert_member("run", "lease.json", "expires_at", "2026-01-08T10:40:50Z");
    assert_member("run", "lease.json", "renewed_at", "2026-01-08T10:40:00Z");
    assert_int_equal(tb_state_read_at(run, "tb-authorize/lease.json", &o), 0);
    assert_int_equal(tb_json_get_uint(o, "deadline_boottime_us", UINT64_MAX, &deadline, err), 0);
    assert_int_equal(deadline, 1150 * S);
    apply(AUTHORIZE_DENIED, "no");
    assert_member("run", "lease.json", "state", "denied");
    tb_json_freep(&o);
    assert_int_equal(tb_state_read_at(run, "tb-authorize/lease.json", &o), 0);
    assert_null(tb_json_member(o, "deadline_boottime_us"));
    assert_null(tb_json_member(o, "expires_at"));
}

/* "9999-12-31T23:59:59Z", with the longest grace there is: readers must be able to read the deadline. */
static void test_an_expiry_far_away_is_not_over(void **state)
{
    struct authorize_verdict v = {.retry_after_ms = -1};
    _cleanup_free_ char *run = tb_path_join(base, "run");
    struct tb_facts facts = {0};

    assert_int_equal(tb_rfc3339_parse("9999-12-31T23:59:59Z", &v.expires_at_us), 0);
    tb_lease_init(&l, UINT64_C(100) * 366 * 86400 * S, &now);
    tb_lease_apply(&l, &v, &now);
    assert_int_equal(tb_lease_files_write(&f, &l, &now), 0);
    tb_facts_read(run, &facts);
    assert_true(facts.has_deadline);
    assert_true(facts.deadline_boottime_us > now.boot_us + UINT64_C(199) * 365 * 86400 * S);
    assert_false(tb_lease_over(&facts, now.boot_us));
    assert_non_null(strstr(facts.expires_at, "Z"));
}

static void test_flag_and_twin_come_and_go(void **state)
{
    assert_false(exists("run", "suspended"));
    assert_true(exists("run", "allowed"));
    apply(AUTHORIZE_DENIED, "contract_invalid");
    assert_member("run", "suspended", "reason", "contract_invalid");
    assert_member("state", "suspended", "reason", "contract_invalid");
    assert_false(exists("run", "allowed"));
    assert_member("run", "suspended", "since", "2026-01-08T10:40:00Z");
    apply(AUTHORIZE_DENIED, "subscription_inactive");
    assert_member("run", "suspended", "reason", "subscription_inactive");
    apply(AUTHORIZE_RETRY, "refused");
    assert_true(exists("run", "suspended"));
    apply(AUTHORIZE_GRANTED, "");
    assert_false(exists("run", "suspended"));
    assert_true(exists("run", "allowed"));
    assert_false(exists("state", "suspended"));
}

static void test_either_twin_restores_the_suspension(void **state)
{
    static const char *const which[] = {"run", "state"};

    for (size_t i = 0; i < 2; i++) {
        _cleanup_free_ char *path = at(which[i], "suspended");

        apply(AUTHORIZE_DENIED, "contract_invalid");
        assert_int_equal(unlink(path), 0);
        restart_as("contract");
        assert_true(l.suspended);
        assert_string_equal(l.reason, "contract_invalid");
        assert_member("run", "suspended", "reason", "contract_invalid");
        assert_member("state", "suspended", "reason", "contract_invalid");
        apply(AUTHORIZE_GRANTED, "");
    }
}

static void test_a_damaged_flag_still_suspends(void **state)
{
    static const char *const text[] = {"", "{", "[]", "{\"reason\":7}", "{\"reason\":\"\\u001b[31m\"}"};

    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        put("state", "suspended", text[i]);
        restart_as("contract");
        assert_true(l.suspended);
        assert_null(strchr(l.reason, '\033'));
        assert_true(exists("run", "suspended"));
    }
}

static void test_another_contract_does_not_lift_it(void **state)
{
    apply(AUTHORIZE_DENIED, "contract_invalid");
    restart_as("other");
    assert_true(l.suspended);
}

static void test_the_right_to_serve_survives_a_restart(void **state)
{
    apply(AUTHORIZE_GRANTED, "");
    now.boot_us += 20 * S;
    now.real_us += 20 * S;
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    assert_true(tb_lease_serving(&l));
    assert_int_equal(l.deadline_boot_us, 1150 * S);
    assert_int_equal(l.expires_boot_us, 1050 * S);
    assert_member("run", "lease.json", "state", "authorized");
    assert_member("run", "lease.json", "reason", "");
    now.boot_us += 10 * S;
    now.real_us += 10 * S;
    restart_as("contract"); /* and a second one */
    assert_int_equal(l.deadline_boot_us, 1150 * S);
    restart_as("other");
    assert_int_equal(l.state, TB_LEASE_PENDING);
}

static void test_not_that_of_another_boot(void **state)
{
    apply(AUTHORIZE_GRANTED, "");
    now.boot_us = 10 * S; /* booted again */
    now.real_us += 60 * S;
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_PENDING);
    now.boot_us = 1000 * S;
    apply(AUTHORIZE_GRANTED, "");
    now.boot_us = 1001 * S; /* booted again and up for longer than before */
    now.real_us += 5000 * S;
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_PENDING);
}

static void test_a_clock_that_was_set_takes_no_lease_away(void **state)
{
    strcpy(now.boot_id, "the-boot");
    apply(AUTHORIZE_GRANTED, "");
    now.boot_us += 10 * S;
    now.real_us -= UINT64_C(86400) * S; /* set back by a day while the program was down */
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    now.boot_us += 10 * S;
    now.real_us += UINT64_C(2) * 86400 * S;
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    strcpy(now.boot_id, "another");
    restart_as("contract");
    assert_int_equal(l.state, TB_LEASE_PENDING);
}

static void test_a_damaged_lease_is_no_lease(void **state)
{
    static const char *const text[] = {
        "",
        "{}",
        "{\"state\":\"authorized\"}",
        "{\"state\":\"authorized\",\"contract_id\":\"contract\",\"asset_id\":\"asset\",\"expires_at\":\"x\","
        "\"renewed_at\":\"2026-01-08T10:40:00Z\",\"written_at\":\"2026-01-08T10:40:00Z\","
        "\"written_boottime_us\":1000000000}",
    };

    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        put("run", "lease.json", text[i]);
        restart_as("contract");
        assert_int_equal(l.state, TB_LEASE_PENDING);
    }
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_lease_file_follows_the_contract),
        T(test_an_expiry_far_away_is_not_over),
        T(test_flag_and_twin_come_and_go),
        T(test_either_twin_restores_the_suspension),
        T(test_a_damaged_flag_still_suspends),
        T(test_another_contract_does_not_lift_it),
        T(test_the_right_to_serve_survives_a_restart),
        T(test_not_that_of_another_boot),
        T(test_a_clock_that_was_set_takes_no_lease_away),
        T(test_a_damaged_lease_is_no_lease),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
