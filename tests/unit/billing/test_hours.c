/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "billing/hours.h"
#include "common/io.h"
#include "common/json.h"
#include "common/usage_report.h"

#define HOUR TB_USEC_PER_HOUR
#define START (500000 * HOUR)

static char dir[] = "/tmp/tb-hours.XXXXXX";
static char path[64];

static struct tb_ledger *open_ledger(void)
{
    char err[TB_LEDGER_ERR_MAX];
    struct tb_ledger *l;

    assert_int_equal(tb_ledger_open(path, false, 1, &l, err), 0);
    return l;
}

static void book(struct tb_ledger *l, uint64_t at_us, uint64_t requests, uint64_t tokens)
{
    struct tb_usage_snapshot s = {.epoch = "e"};
    char err[TB_LEDGER_ERR_MAX];
    uint64_t booked;

    s.value[TB_USAGE_REQUESTS] = requests;
    s.value[TB_USAGE_PROMPT_TOKENS] = tokens;
    assert_int_equal(tb_ledger_book(l, &s, at_us, &booked, err), 0);
}

static void test_a_ledger_has_one_id(void **state)
{
    char one[BILLING_LEDGER_ID_MAX], again[BILLING_LEDGER_ID_MAX];

    for (int i = 0; i < 2; i++) {
        _cleanup_ledger_ struct tb_ledger *l = open_ledger();

        assert_int_equal(billing_ledger_id(l, i ? again : one), 0);
    }
    assert_int_equal(strlen(one), 32);
    assert_string_equal(one, again);
}

static void test_the_last_hours_newest_first(void **state)
{
    _cleanup_ledger_ struct tb_ledger *l = open_ledger();
    _cleanup_json_ cJSON *o = cJSON_CreateObject(), *small = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;

    book(l, START, 5, 0);
    book(l, START + 30 * HOUR, 7, 100);
    book(l, START + 31 * HOUR, 10, 100);
    assert_int_equal(billing_hours_add(l, START + 31 * HOUR, TB_REPORT_MAX, o), 0);
    text = cJSON_PrintUnformatted(o);
    assert_string_equal(text, "{\"hours\":[{\"hour\":\"2027-01-16T15:00:00Z\",\"used\":{\"requests\":3}},"
                              "{\"hour\":\"2027-01-16T14:00:00Z\",\"used\":{\"prompt_tokens\":100,"
                              "\"requests\":2}}]}");
    assert_int_equal(billing_hours_add(l, START + 31 * HOUR, 100, small), 0);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(small, "hours")), 1);
}

static int setup(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/ledger.db", dir);
    return 0;
}

static int teardown(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_ledger_has_one_id),
        cmocka_unit_test(test_the_last_hours_newest_first),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
