/* SPDX-License-Identifier: Apache-2.0 */
/* What an answer means, one by one; and what each meaning does to the ledger where test_money.c, whose API never has another
 * quantity than was sent, cannot come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/buf.h"
#include "common/io.h"
#include "billing/metering.h"

#define HOUR 490000 /* 2025-11-24T16:00:00Z */
#define NOW ((HOUR + 2) * TB_USEC_PER_HOUR)
#define OF "\"dimension\":\"requests\",\"effectiveStartTime\":\"2025-11-24T16:00:00Z\""

static char dir[] = "/tmp/tb-answer-XXXXXX";
static char err[TB_LEDGER_ERR_MAX];

static struct tb_metering_batch batch(unsigned n, int64_t quantity)
{
    struct tb_metering_batch b = {.n = n};

    for (unsigned i = 0; i < n; i++) {
        b.event[i] = (struct tb_metering_event){.resource = "/subscriptions/s",
                                                .plan = "gold",
                                                .hour = HOUR,
                                                .quantity = quantity,
                                                .unit = tb_usage_dimension[i].unit,
                                                .since = HOUR - 1};
        strcpy(b.event[i].dimension, tb_usage_dimension[i].name);
    }
    return b;
}

static struct tb_metering_answer judge(long status, const char *body, unsigned n)
{
    struct tb_metering_batch b = batch(n, 10);
    struct tb_metering_answer a;

    tb_metering_answer_judge(status, body, strlen(body), &b, &a);
    return a;
}

static void verdict(long status, const char *body, enum tb_metering_outcome outcome, int64_t accepted)
{
    struct tb_metering_answer a = judge(status, body, 1);

    if (a.verdict[0].outcome != outcome ||
        (outcome == TB_METERING_ACCEPTED && a.verdict[0].accepted != accepted))
        fail_msg("%ld %s: outcome %d, accepted %lld (%s)", status, body, a.verdict[0].outcome,
                 (long long)a.verdict[0].accepted, a.verdict[0].reason);
}

static void test_verdicts(void **state)
{
    static const struct {
        const char *status, *more;
        enum tb_metering_outcome outcome;
        int64_t accepted;
    } item[] = {
        {"Accepted", "\"quantity\":10.0", TB_METERING_ACCEPTED, 10},
        {"Duplicate", "\"error\":{\"additionalInfo\":{\"acceptedMessage\":{\"quantity\":10.0}}}",
         TB_METERING_ACCEPTED, 10},
        {"Duplicate", "\"error\":{\"additionalInfo\":{\"acceptedMessage\":{\"quantity\":4}}}",
         TB_METERING_ACCEPTED, 4},
        {"Duplicate", "\"error\":{\"additionalInfo\":{\"quantity\":11}}", TB_METERING_ACCEPTED, 11},
        {"Duplicate", "\"error\":{\"additionalInfo\":{\"acceptedMessage\":{\"status\":\"Expired\"}}}",
         TB_METERING_EXPIRED, 0},
        {"Duplicate", "\"error\":{}", TB_METERING_REFUSED, 0},
        {"Duplicate", "\"error\":{\"additionalInfo\":{\"acceptedMessage\":{\"quantity\":-1}}}",
         TB_METERING_REFUSED, 0},
        {"Expired", "\"x\":1", TB_METERING_EXPIRED, 0},
        {"Error", "\"x\":1", TB_METERING_UNKNOWN, 0},
        {"ResourceNotFound", "\"x\":1", TB_METERING_REFUSED, 0},
        {"ResourceNotAuthorized", "\"x\":1", TB_METERING_REFUSED, 0},
        {"ResourceNotActive", "\"x\":1", TB_METERING_ENDED, 0},
        {"InvalidDimension", "\"x\":1", TB_METERING_REFUSED, 0},
        {"InvalidQuantity", "\"x\":1", TB_METERING_REFUSED, 0},
        {"BadArgument", "\"error\":{\"message\":\"no\"}", TB_METERING_REFUSED, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(item); i++) {
        _cleanup_free_ char *body =
            tb_strf("{\"count\":1,\"result\":[{\"status\":\"%s\"," OF ",%s}]}", item[i].status, item[i].more);

        verdict(200, body, item[i].outcome, item[i].accepted);
    }
    verdict(200, "{\"result\":[{\"status\":\"Accepted\",\"dimension\":\"tokens\"}]}", TB_METERING_UNKNOWN, 0);
    verdict(200, "[]", TB_METERING_UNKNOWN, 0);
    verdict(200, "<html>", TB_METERING_UNKNOWN, 0);
    verdict(409, "{\"code\":\"Conflict\",\"additionalInfo\":{\"acceptedMessage\":{\"quantity\":10}}}",
            TB_METERING_ACCEPTED, 10);
    verdict(400, "{\"code\":\"BadArgument\",\"details\":[{\"code\":\"Expired\"}]}", TB_METERING_EXPIRED, 0);
    verdict(400, "{\"code\":\"BadArgument\",\"message\":\"m\"}", TB_METERING_REFUSED, 0);
    verdict(404, "", TB_METERING_REFUSED, 0);
    verdict(403, "{\"code\":\"Forbidden\"}", TB_METERING_REFUSED, 0);
    verdict(403, "{\"code\":\"SubscriptionSuspended\"}", TB_METERING_ENDED, 0);
    verdict(401, "", TB_METERING_UNSENT, 0);
    verdict(429, "{\"code\":\"SubscriptionSuspended\"}", TB_METERING_UNSENT, 0);
    verdict(500, "{\"code\":\"ResourceNotActive\"}", TB_METERING_UNKNOWN, 0);
    verdict(302, "", TB_METERING_UNKNOWN, 0);
}

static void test_a_refused_batch_is_split(void **state)
{
    struct tb_metering_answer a = judge(400, "{\"code\":\"BadArgument\"}", 3);

    assert_true(a.split);
    assert_false(a.transient);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a.verdict[i].outcome, TB_METERING_UNSENT);
    assert_true(judge(401, "", 2).token);
    assert_true(judge(503, "", 2).transient);
}

static void test_reasons_are_printable(void **state)
{
    struct tb_metering_answer a = judge(400, "{\"code\":\"Bad\\u001b[2J\",\"message\":\"\\u00e4\\nx\"}", 1);

    for (const char *p = a.verdict[0].reason; *p; p++)
        assert_true(*p >= ' ' && *p <= '~');
    assert_memory_equal(a.verdict[0].reason, "Bad.[2J", 7);
}

static void test_a_refusal_names_its_details(void **state)
{
    static const struct {
        const char *body, *reason;
    } cases[] = {
        {"{\"error\":{\"code\":\"BadArgument\",\"message\":\"One or more errors have "
         "occurred.\",\"details\":["
         "{\"message\":\"planId is not valid\",\"target\":\"planId\"}]}}",
         "BadArgument: One or more errors have occurred.; planId: planId is not valid"},
        {"{\"code\":\"BadArgument\",\"message\":\"m\",\"details\":[{\"code\":\"C\",\"message\":\"m\"},"
         "{\"message\":\"only this\"},7,{\"target\":\"t\"}]}",
         "BadArgument: m; C; only this; t"},
        {"{\"details\":[{\"target\":\"quantity\",\"message\":\"too large\"}]}",
         "status 400; quantity: too large"},
        {"{\"code\":\"X\",\"details\":{\"message\":\"no list\"}}", "X"},
        {"<html>", "status 400"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct tb_metering_answer a = judge(400, cases[i].body, 1);

        assert_int_equal(a.verdict[0].outcome, TB_METERING_REFUSED);
        assert_string_equal(a.verdict[0].reason, cases[i].reason);
    }
}

static void test_a_long_refusal_is_cut(void **state)
{
    struct tb_buf b = {0};
    struct tb_metering_answer a;

    tb_buf_puts(&b, "{\"code\":\"BadArgument\",\"details\":[");
    for (int i = 0; i < 100; i++)
        tb_buf_printf(&b, "%s{\"target\":\"t%d\",\"message\":\"%0200d\"}", i ? "," : "", i, i);
    tb_buf_append(&b, "]}", 3);
    assert_int_equal(tb_buf_error(&b), 0);
    a = judge(400, b.data, 1);
    tb_buf_free(&b);
    assert_in_range(strlen(a.verdict[0].reason), 100, TB_METERING_REASON_MAX - 1);
    assert_non_null(strstr(a.verdict[0].reason, "t1: "));
}

static void test_requests(void **state)
{
    struct tb_metering_batch b = batch(2, 12345678901);
    _cleanup_free_ char *by_uri = NULL, *by_id = NULL;

    b.event[1].quantity = 3;
    b.event[1].unit = tb_usage_dimension[6].unit;
    strcpy(b.event[1].dimension, tb_usage_dimension[6].name);
    by_uri = tb_metering_answer_request(&b);
    strcpy(b.event[0].resource, "guid");
    b.n = 1;
    by_id = tb_metering_answer_request(&b);
    assert_string_equal(
        by_uri,
        "{\"request\":[{\"resourceUri\":\"/subscriptions/s\",\"quantity\":12345678901,"
        "\"dimension\":\"requests\",\"effectiveStartTime\":\"2025-11-24T16:00:00Z\",\"planId\":\"gold\"},"
        "{\"resourceUri\":\"/subscriptions/s\",\"quantity\":2.7939677238464355e-09,"
        "\"dimension\":\"gb_transferred\",\"effectiveStartTime\":\"2025-11-24T16:00:00Z\",\"planId\":"
        "\"gold\"}]}");
    assert_non_null(strstr(by_id, "\"resourceId\":\"guid\""));
    assert_null(strstr(by_id, "resourceUri"));
}

/* Two resources with the same dimension and hour. */
static void test_an_item_is_of_the_resource_that_it_names(void **state)
{
    static const char named[] =
        "{\"result\":[{\"status\":\"Accepted\",\"resourceId\":\"guid\"," OF "},"
        "{\"status\":\"ResourceNotActive\",\"resourceUri\":\"/Subscriptions/S\"," OF "}]}";
    static const char unnamed[] =
        "{\"result\":[{\"status\":\"Accepted\"," OF "},{\"status\":\"Accepted\"," OF "}]}";
    struct tb_metering_batch b = batch(2, 10);
    struct tb_metering_answer a;

    b.event[1] = b.event[0];
    strcpy(b.event[1].resource, "guid");
    tb_metering_answer_judge(200, named, strlen(named), &b, &a);
    assert_int_equal(a.verdict[0].outcome, TB_METERING_ENDED);
    assert_int_equal(a.verdict[1].outcome, TB_METERING_ACCEPTED);
    tb_metering_answer_judge(200, unnamed, strlen(unnamed), &b, &a);
    assert_int_equal(a.verdict[0].outcome, TB_METERING_UNKNOWN);
    assert_int_equal(a.verdict[1].outcome, TB_METERING_UNKNOWN);
    assert_true(a.split); /* alone there is no doubt whose it is */
}

/* One event of 10, sent, and a verdict. */
static struct tb_ledger *sent(const char *name, struct tb_metering_batch *b)
{
    _cleanup_free_ char *path = tb_strf("%s/%s.db", dir, name);
    struct tb_ledger *l;
    unsigned moved;

    assert_int_equal(tb_ledger_open(path, false, 1, &l, err), 0);
    assert_int_equal(tb_ledger_event_add(l, HOUR, "requests", 10, HOUR - 1), 0);
    assert_int_equal(tb_metering_advance(l, NOW, &moved, err), 0);
    assert_int_equal(tb_metering_take(l, NOW, false, -1, "", 7, b, err), 0);
    assert_int_equal(b->n, 1);
    return l;
}

static int64_t number(struct tb_ledger *l, const char *sql)
{
    int64_t v;

    assert_int_equal(tb_db_int(l->db, &v, -1, sql, NULL), 0);
    return v;
}

static void test_the_marketplace_has_less(void **state)
{
    struct tb_metering_verdict v = {.outcome = TB_METERING_ACCEPTED, .accepted = 4, .duplicate = true};
    struct tb_metering_batch b;
    _cleanup_ledger_ struct tb_ledger *l = sent("less", &b);

    assert_int_equal(tb_metering_settle(l, &b, &v, NOW, err), 0);
    assert_int_equal(number(l, "SELECT quantity FROM event WHERE state = 'ACCEPTED'"), 4);
    assert_int_equal(number(l, "SELECT quantity FROM event WHERE state = 'OPEN'"), 6);
    assert_int_equal(number(l, "SELECT hour FROM event WHERE state = 'OPEN'"), HOUR + 2);
    assert_int_equal(number(l, "SELECT since FROM event WHERE state = 'OPEN'"), HOUR - 1);
}

static void test_the_marketplace_has_more(void **state)
{
    struct tb_metering_verdict v = {
        .outcome = TB_METERING_ACCEPTED, .accepted = 14, .duplicate = true, .reason = "more"};
    struct tb_metering_batch b;
    _cleanup_ledger_ struct tb_ledger *l = sent("more", &b);

    assert_int_equal(tb_metering_settle(l, &b, &v, NOW, err), 0);
    assert_int_equal(number(l, "SELECT count(*) FROM event WHERE reason = 'more'"), 1);
    assert_int_equal(number(l, "SELECT quantity FROM event WHERE state = 'ACCEPTED'"), 10);
    assert_int_equal(number(l, "SELECT accepted FROM event WHERE state = 'ACCEPTED'"), 14);
    assert_int_equal(number(l, "SELECT count(*) FROM event"), 1);
}

static void test_only_a_new_event_ends_the_end(void **state)
{
    struct tb_metering_verdict v = {.outcome = TB_METERING_ENDED, .reason = "ResourceNotActive"};
    char ended[TB_METERING_REASON_MAX];
    struct tb_metering_batch b;
    _cleanup_ledger_ struct tb_ledger *l = sent("ended", &b);

    assert_int_equal(tb_metering_settle(l, &b, &v, NOW, err), 0);
    assert_int_equal(tb_metering_take(l, NOW, false, -1, "", 7, &b, err), 0);
    assert_int_equal(b.n, 0); /* parked */
    assert_int_equal(tb_metering_take(l, NOW, true, -1, "", 7, &b, err), 0);
    assert_int_equal(b.n, 1);
    v = (struct tb_metering_verdict){.outcome = TB_METERING_ACCEPTED, .accepted = 10, .duplicate = true};
    assert_int_equal(tb_metering_settle(l, &b, &v, NOW, err), 0);
    assert_int_equal(tb_metering_ended(l, ended), 0);
    assert_string_equal(ended, "ResourceNotActive");
    assert_int_equal(tb_db_run(l->db, "UPDATE event SET state = 'SENT'", NULL), 1);
    v.duplicate = false;
    assert_int_equal(tb_metering_settle(l, &b, &v, NOW, err), 0);
    assert_int_equal(tb_metering_ended(l, ended), 0);
    assert_string_equal(ended, "");
}

static void test_a_transient_error_waits_and_parked_events_wait_an_hour(void **state)
{
    struct tb_metering_batch b;
    _cleanup_ledger_ struct tb_ledger *l = sent("transient", &b);
    const uint64_t boot = TB_USEC_PER_HOUR;
    struct billing_sender sender = {.l = l, .resource = "/subscriptions/s", .plan = "p"};
    struct tb_metering_schedule m;
    bool due;

    tb_metering_schedule_init(&m, billing_sender_ledger(&sender));
    tb_metering_schedule_postpone(&m, boot, 60000);
    assert_int_equal(tb_metering_schedule_due(&m, NOW, boot + 59 * TB_USEC_PER_SEC, &due, err), 0);
    assert_false(due);
    assert_int_equal(tb_metering_schedule_due(&m, NOW, boot + 61 * TB_USEC_PER_SEC, &due, err), 0);
    assert_true(due);
    for (int i = 0; i < 20; i++)
        tb_metering_schedule_postpone(&m, boot, -1);
    assert_in_range(m.not_before_us - boot, 500 * TB_USEC_PER_SEC, 700 * TB_USEC_PER_SEC);
    assert_int_equal(tb_db_run(l->db, "UPDATE event SET state = 'PARKED'", NULL), 1);
    m.not_before_us = 0;
    m.parked_next_us = boot + TB_METERING_PARKED_US;
    assert_int_equal(tb_metering_schedule_due(&m, NOW, boot, &due, err), 0);
    assert_false(due);
    assert_int_equal(tb_metering_schedule_due(&m, NOW, boot + TB_METERING_PARKED_US, &due, err), 0);
    assert_true(due);
}

/* The other services. */
static void test_identities(void **state)
{
    _cleanup_free_ char *token = NULL, *subscription = NULL, *group = NULL, *owner = NULL;
    static const char good[] = "{\"access_token\":\"abc.def\",\"expires_in\":\"3599\"}";
    static const char bad[] = "{\"access_token\":\"a\\r\\nX: y\"}";
    static const char machine[] = "{\"subscriptionId\":\"s-1\",\"resourceGroupName\":\"rg_(x).y\"}";
    static const char escape[] = "{\"subscriptionId\":\"s-1\",\"resourceGroupName\":\"../x\"}";
    static const char owned[] = "{\"managedBy\":\"/subscriptions/s/a\"}";
    uint64_t seconds;

    assert_int_equal(tb_metering_answer_token(good, strlen(good), &token, &seconds), 0);
    assert_string_equal(token, "abc.def");
    assert_int_equal(seconds, 3599);
    assert_int_equal(tb_metering_answer_token(bad, strlen(bad), &token, &seconds), -EBADMSG);
    assert_int_equal(tb_metering_answer_instance(machine, strlen(machine), &subscription, &group), 0);
    assert_string_equal(group, "rg_(x).y");
    assert_int_equal(tb_metering_answer_instance(escape, strlen(escape), &subscription, &group), -EBADMSG);
    assert_int_equal(tb_metering_answer_managed_by("{}", 2, &owner), -ENOENT);
    assert_int_equal(tb_metering_answer_managed_by(owned, strlen(owned), &owner), 0);
    assert_string_equal(owner, "/subscriptions/s/a");
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_a_refused_batch_is_split),
        cmocka_unit_test(test_reasons_are_printable),
        cmocka_unit_test(test_a_refusal_names_its_details),
        cmocka_unit_test(test_a_long_refusal_is_cut),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_an_item_is_of_the_resource_that_it_names),
        cmocka_unit_test(test_the_marketplace_has_less),
        cmocka_unit_test(test_the_marketplace_has_more),
        cmocka_unit_test(test_only_a_new_event_ends_the_end),
        cmocka_unit_test(test_a_transient_error_waits_and_parked_events_wait_an_hour),
        cmocka_unit_test(test_identities),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
