/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hold.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/units.h"

#define NOW (1000 * TB_USEC_PER_SEC)

/* Version 1 serves, 2 is to come. */
static struct tb_facts facts(enum tb_update_phase phase, uint64_t loaded)
{
    return (struct tb_facts){
        .update = {.phase = phase, .serving = 1, .next = 2, .hold_until_boot_us = NOW + 1},
        .delivery = {.work = TB_WORK_COMPLETE, .version = loaded}};
}

static bool waits(struct tb_facts f, enum tb_state state)
{
    return tb_hold_wanted(&f, &(struct tb_verdict){.state = state}, NOW);
}

static void test_who_comes_in_a_switch_waits(void **state)
{
    assert_true(waits(facts(TB_UPDATE_DRAINING, 1), TB_STATE_READY));
    assert_true(waits(facts(TB_UPDATE_SWITCHING, 1), TB_STATE_READY)); /* the old one still looks well */
    assert_true(waits(facts(TB_UPDATE_SWITCHING, 0), TB_STATE_DECRYPT));
    assert_true(waits(facts(TB_UPDATE_SWITCHING, 2), TB_STATE_DECRYPT));
    assert_false(waits(facts(TB_UPDATE_SWITCHING, 2), TB_STATE_READY));
    assert_true(waits(facts(TB_UPDATE_FAILED, 0), TB_STATE_DECRYPT)); /* on the way back */
    assert_false(waits(facts(TB_UPDATE_FAILED, 1), TB_STATE_READY));
}

static void test_nobody_waits_otherwise(void **state)
{
    struct tb_facts f = facts(TB_UPDATE_DRAINING, 1);

    assert_false(waits(facts(TB_UPDATE_NONE, 1), TB_STATE_READY));
    assert_false(waits(facts(TB_UPDATE_DOWNLOADING, 0), TB_STATE_DECRYPT));
    assert_false(waits(facts(TB_UPDATE_READY, 0), TB_STATE_DECRYPT));
    assert_false(waits(f, TB_STATE_SUSPENDED)); /* is told at once */
    f.update.hold_until_boot_us = NOW;
    assert_false(waits(f, TB_STATE_READY));
    f = facts(TB_UPDATE_DRAINING, 1);
    f.has_deadline = true;
    f.deadline_boottime_us = NOW;
    assert_false(waits(f, TB_STATE_READY));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_comes_in_a_switch_waits),
        cmocka_unit_test(test_nobody_waits_otherwise),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
