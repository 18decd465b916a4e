/* SPDX-License-Identifier: Apache-2.0 */
/* What machines report to have used, in the store: it only grows, and counts once. */
#include "metering/event.h"
#include "store_testing.h"

struct step {
    const struct cp_usage_report *report;
    unsigned flags;
};

static int do_take_usage(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_take_usage(s, t->report, &t->flags);
}

static unsigned report_hour(struct store_fixture *f, const char *contract, const char *hw, const char *ledger,
                            uint64_t at_us, uint64_t requests, int64_t hour)
{
    static struct cp_usage_report u;
    struct step t = {.report = &u};

    u = (struct cp_usage_report){.asset_id = "a", .at_us = at_us, .received_us = NOW, .text = "{}"};
    strcpy(u.contract_id, contract);
    strcpy(u.hw_id, hw);
    strcpy(u.ledger, ledger);
    u.used.n = 1;
    strcpy(u.used.v[0].name, "requests");
    u.used.v[0].total = requests;
    u.n_hours = 1;
    u.hours[0].hour = hour;
    u.hours[0].used = u.used;
    assert_int_equal(cp_store_transact(f->store, do_take_usage, &t), 0);
    return t.flags;
}

static unsigned report(struct store_fixture *f, const char *contract, const char *hw, const char *ledger,
                       uint64_t at_us, uint64_t requests)
{
    return report_hour(f, contract, hw, ledger, at_us, requests, 5);
}

static int add_sum(const struct cp_usage_sum *s, void *ctx)
{
    *(uint64_t *)ctx += s->used;
    return 0;
}

static uint64_t used_in(struct store_fixture *f, const char *contract, int64_t hour)
{
    struct cp_usage_query q = {.contract_id = contract, .from_hour = hour, .to_hour = hour + 1};
    uint64_t used = 0;

    assert_int_equal(cp_store_each_usage_sum(f->store, &q, add_sum, &used), 0);
    return used;
}

static void test_usage_only_grows(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(report(f, "c", "h", "l1", 10, 1000), 0);
    assert_int_equal(report(f, "c", "h", "l1", 10, 1000), 0); /* the same once more: an answer was lost */
    assert_int_equal(report(f, "c", "h", "l2", 20, 5), 0);    /* reimaged: a new ledger */
    assert_int_equal(billed(f, "c").requests, 1005);
    assert_int_equal(report(f, "c", "h", "l1", 30, 400), CP_USAGE_BACK); /* a disk that was set back */
    assert_int_equal(billed(f, "c").requests, 1005);
    assert_int_equal(report(f, "c", "h", "l1", 40, 1001), 0);
    assert_int_equal(report(f, "c", "h", "l1", 35, 500), CP_USAGE_LATE);
    assert_int_equal(billed(f, "c").requests, 1006);
    assert_int_equal(billed(f, "c").flagged, 2);
    assert_int_equal(billed(f, "c").ledgers, 2);
}

static unsigned report_audit(struct store_fixture *f, uint64_t at_us, uint64_t requests, const char *audit)
{
    static struct cp_usage_report u;
    struct step t = {.report = &u};

    u = (struct cp_usage_report){.contract_id = "c",
                                 .asset_id = "a",
                                 .hw_id = "h",
                                 .ledger = "l1",
                                 .at_us = at_us,
                                 .received_us = NOW,
                                 .used = {.n = 1, .v = {{.name = "requests", .total = requests}}}};
    snprintf(u.text, sizeof(u.text), "{\"at\":\"x\"%s}", audit);
    assert_int_equal(cp_store_transact(f->store, do_take_usage, &t), 0);
    return t.flags;
}

/* A disk that was set back between two requests: the totals may be the same, the audit chain is not. */
static void test_an_audit_chain_that_goes_back(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(report_audit(f, 10, 5, ""), 0);
    assert_int_equal(report_audit(f, 20, 5, ",\"audit\":{\"seq\":9,\"head\":\"aa\"}"), 0);
    assert_int_equal(report_audit(f, 30, 5, ",\"audit\":{\"seq\":9,\"head\":\"aa\"}"), 0);
    assert_int_equal(report_audit(f, 40, 5, ",\"audit\":{\"seq\":8,\"head\":\"bb\"}"), CP_USAGE_BACK);
    assert_int_equal(report_audit(f, 50, 5, ",\"audit\":{\"seq\":8,\"head\":\"cc\"}"), CP_USAGE_BACK);
    assert_int_equal(report_audit(f, 60, 6, ",\"audit\":{\"seq\":10,\"head\":\"dd\"}"), 0);
    assert_int_equal(report_audit(f, 55, 6, ",\"audit\":{\"seq\":9,\"head\":\"ee\"}"), CP_USAGE_LATE);
    assert_int_equal(report_audit(f, 70, 6, ",\"audit\":{\"seq\":\"x\"}"), 0);
    assert_int_equal(report_audit(f, 80, 6, ",\"audit\":[]"), 0);
    assert_int_equal(billed(f, "c").flagged, 3);
}

static void test_usage_is_counted_once_wherever_a_ledger_goes(void **state)
{
    struct store_fixture *f = *state;

    report(f, "c", "h", "l1", 10, 1000);
    assert_int_equal(report(f, "d", "h", "l1", 20, 1010), 0); /* the machine serves another contract now */
    assert_int_equal(billed(f, "c").requests, 1000);
    assert_int_equal(billed(f, "d").requests, 10);
    assert_int_equal(report(f, "c", "h9", "l1", 30, 1100), CP_USAGE_CLONE);
    assert_int_equal(report(f, "c", "h9", "l1", 40, 1150), 0); /* said once */
    assert_int_equal(billed(f, "c").requests, 1000 + 140);
    assert_int_equal(report(f, "c", "h", "", 10, 7), 0); /* from before ledgers had ids */
    assert_int_equal(report(f, "c", "h9", "", 10, 7), 0);
    assert_int_equal(billed(f, "c").requests, 1154);
}

/* Two disks of one kind count by themselves from then on; neither can take an hour from the other. */
static void test_a_clone_takes_no_hour_away(void **state)
{
    struct store_fixture *f = *state;
    int64_t next = (int64_t)(NOW / TB_USEC_PER_HOUR) + 1;

    report_hour(f, "c", "h", "l1", 10, 1000, next - 1);
    assert_int_equal(report_hour(f, "d", "h9", "l1", 20, 1400, next - 1), CP_USAGE_CLONE);
    assert_int_equal(used_in(f, "c", next - 1), 1000);
    assert_int_equal(used_in(f, "d", next - 1), 400); /* its disk had the thousand of that hour */
    report_hour(f, "d", "h9", "l1", 30, 90000, next);
    report_hour(f, "c", "h", "l1", 40, 1300, next);
    assert_int_equal(used_in(f, "c", next), 1300);
    assert_int_equal(used_in(f, "d", next), 90000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
    const struct CMUnitTest tests[] = {
        T(test_usage_only_grows),
        T(test_an_audit_chain_that_goes_back),
        T(test_usage_is_counted_once_wherever_a_ledger_goes),
        T(test_a_clone_takes_no_hour_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
