/* SPDX-License-Identifier: Apache-2.0 */
/* The property that matters: whatever the network, the clock and whoever kills us do, what the marketplace
 * accepted and what the ledger still holds is what was counted, to the unit. The engine runs against a model
 * of the metering API through seeded random schedules; the ledger is a real file and is reopened wherever the
 * process could have died. */
#include "tests/unit/metering/market_testing.h"
#include "billing/metering.h"

#define SEEDS 200
#define STEPS 50
#define ENTRIES_MAX 4000
#define PLAN "plan-1"
#define RESOURCE "/subscriptions/s/resourceGroups/g/providers/Microsoft.Solutions/applications/a"

struct world {
    uint64_t seed;
    struct market m;
    struct tb_usage_snapshot usage;
    uint64_t counted[_TB_USAGE_MAX];
    char path[64];
    struct tb_ledger *l;
    struct billing_sender sender;
    struct tb_metering_schedule schedule;
    unsigned kills;
};

static struct entry entries[ENTRIES_MAX];
static char err[TB_LEDGER_ERR_MAX];

static void start(struct world *w)
{
    if (tb_ledger_open(w->path, false, (1U << TB_USAGE_DIMENSIONS) - 1, &w->l, err) < 0)
        fail_msg("seed %" PRIu64 ": %s", w->seed, err);
    w->sender = (struct billing_sender){.l = w->l, .resource = RESOURCE, .plan = PLAN};
    tb_metering_schedule_init(&w->schedule, billing_sender_ledger(&w->sender));
}

static void killed(struct world *w)
{
    tb_ledger_closep(&w->l);
    w->kills++;
    start(w);
}

/* -- what events are of ---------------------------------------------------------------------------------- */

static int dimension_of(const char *name)
{
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++)
        if (strcmp(tb_usage_dimension[d].name, name) == 0)
            return d;
    fail_msg("dimension %s", name);
    return -1;
}

static int resource_of(const cJSON *event)
{
    assert_string_equal(tb_json_member(event, "planId")->valuestring, PLAN);
    assert_string_equal(tb_json_member(event, "resourceUri")->valuestring, RESOURCE);
    assert_null(tb_json_member(event, "resourceId"));
    return 0;
}

static uint64_t unit_of(int dimension)
{
    return tb_usage_dimension[dimension].unit;
}

/* -- what must always hold ------------------------------------------------------------------------------- */

static uint64_t counted(const struct world *w, int d)
{
    uint64_t sum = 0;

    for (int c = 0; c < _TB_USAGE_MAX; c++)
        if (tb_usage_dimension[d].counters & 1U << c)
            sum += w->counted[c];
    return sum;
}

/* After a booking: everything counted is in exactly one row; the API has only what a row says it has or may
 * have, all of that and no more. Together: the accepted sum and the sum of the rows that the API has not is
 * what was counted. */
static void check(struct world *w)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    uint64_t held[TB_USAGE_DIMENSIONS] = {0};
    unsigned found = 0;

    assert_int_equal(
        tb_db_prepare(w->l->db, &s, "SELECT hour, dimension, quantity, state, doubt FROM event", NULL), 0);
    while (sqlite3_step(s) == SQLITE_ROW) {
        int64_t hour = sqlite3_column_int64(s, 0), quantity = sqlite3_column_int64(s, 2);
        int d = dimension_of((const char *)sqlite3_column_text(s, 1));
        bool accepted = strcmp((const char *)sqlite3_column_text(s, 3), "ACCEPTED") == 0;
        const struct entry *e = find_entry(&w->m, 0, d, hour);

        held[d] += (uint64_t)quantity;
        if (e && (accepted || sqlite3_column_int(s, 4)) && e->quantity == quantity)
            found++;
        else if (e || accepted)
            fail_msg("seed %" PRIu64 ": %s, hour %" PRId64 ": the API has %" PRId64 ", the ledger %" PRId64
                     " %s",
                     w->seed, tb_usage_dimension[d].name, hour, e ? e->quantity : 0, quantity,
                     sqlite3_column_text(s, 3));
    }
    if (found != w->m.n)
        fail_msg("seed %" PRIu64 ": the API has %u events, the ledger knows %u of them", w->seed, w->m.n,
                 found);
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++)
        if (held[d] != counted(w, d))
            fail_msg("seed %" PRIu64 ": %s: ledger %" PRIu64 ", counted %" PRIu64, w->seed,
                     tb_usage_dimension[d].name, held[d], counted(w, d));
}

/* -- the schedule ---------------------------------------------------------------------------------------- */

/* What main() does each interval. mortal: it may be killed between any two steps, and then returns. */
static void daemon_step(struct world *w, bool mortal)
{
    uint64_t booked;
    unsigned moved;

    assert_int_equal(tb_ledger_book(w->l, &w->usage, w->m.real_us, &booked, err), 0);
    if (mortal && rnd(&w->m, 20) == 0)
        return killed(w);
    assert_int_equal(tb_metering_advance(w->l, w->m.real_us, &moved, err), 0);
    if (mortal && rnd(&w->m, 20) == 0)
        return killed(w);
    for (;;) {
        struct tb_metering_result x;
        struct tb_metering_answer answer;
        _cleanup_free_ char *body = NULL, *text = NULL;

        assert_int_equal(tb_metering_schedule_next(&w->schedule, w->m.real_us, w->m.boot_us, &body, err), 0);
        if (!body)
            return;
        if (mortal && rnd(&w->m, 20) == 0)
            return killed(w); /* taken, not sent */
        text = api(&w->m, body, &x);
        if (mortal && rnd(&w->m, 20) == 0)
            return killed(w); /* sent, the answer not entered */
        assert_int_equal(
            tb_metering_schedule_answer(&w->schedule, &x, w->m.real_us, w->m.boot_us, &answer, err), 0);
    }
}

static void use(struct world *w)
{
    for (uint64_t n = rnd(&w->m, 4); n > 0; n--) {
        int c = (int)rnd(&w->m, _TB_USAGE_MAX);
        uint64_t more = rnd(&w->m, 10) ? rnd(&w->m, 5000) : rnd(&w->m, 1ULL << 40);

        w->usage.value[c] += more;
        w->counted[c] += more;
    }
}

static void new_counter_file(struct world *w)
{
    daemon_step(w, false);
    memset(&w->usage, 0, sizeof(w->usage));
    snprintf(w->usage.epoch, sizeof(w->usage.epoch), "%08" PRIx64, rnd(&w->m, 1ULL << 32));
}

static const uint64_t clock_steps[] = {2 * MINUTE_US, 20 * MINUTE_US, 3 * TB_USEC_PER_HOUR,
                                       80 * TB_USEC_PER_HOUR, 87600 * TB_USEC_PER_HOUR};

static void one_step(struct world *w)
{
    use(w);
    switch (rnd(&w->m, 12)) {
    case 0:
        pass_time(&w->m, rnd(&w->m, 40 * TB_USEC_PER_HOUR)); /* the machine was off */
        killed(w);
        break;
    case 1:
        step_clock(&w->m, clock_steps, ARRAY_SIZE(clock_steps));
        break;
    case 2:
        w->m.fate = any_fate(&w->m);
        break;
    case 3:
        w->m.fate = FINE;
        break;
    case 4:
        new_counter_file(w);
        break;
    case 5:
        killed(w);
        break;
    default:
        pass_time(&w->m, rnd(&w->m, 50 * MINUTE_US));
    }
    daemon_step(w, true);
    daemon_step(w, false); /* all that was counted is booked */
    check(w);
}

/* What an operator does about events in doubt: looks at what the marketplace has. */
static void resolve_doubts(struct world *w)
{
    for (;;) {
        _cleanup_stmt_ sqlite3_stmt *s = NULL;
        char name[32];
        int64_t hour;

        assert_int_equal(
            tb_db_prepare(w->l->db, &s,
                          "SELECT hour, dimension FROM event WHERE state = 'PARKED' AND doubt = 1 LIMIT 1",
                          NULL),
            0);
        if (sqlite3_step(s) != SQLITE_ROW)
            return;
        hour = sqlite3_column_int64(s, 0);
        snprintf(name, sizeof(name), "%s", sqlite3_column_text(s, 1));
        tb_stmt_finalizep(&s);
        assert_int_equal(
            tb_metering_resolve(w->l, hour, name, find_entry(&w->m, 0, dimension_of(name), hour), err), 0);
    }
}

/* No transient error and a right clock: in the end all of it is accepted. */
static void drain(struct world *w)
{
    struct tb_metering_summary left;

    w->m.fate = FINE;
    w->m.real_us = w->m.true_us;
    for (int hours = 0; hours < 30; hours++) {
        pass_time(&w->m, TB_USEC_PER_HOUR);
        daemon_step(w, false);
        check(w);
    }
    resolve_doubts(w);
    for (int hours = 0; hours < 3; hours++) {
        pass_time(&w->m, TB_USEC_PER_HOUR);
        daemon_step(w, false);
        check(w);
    }
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++) {
        uint64_t sum = sum_entries(&w->m, 0, d);

        if (sum != counted(w, d))
            fail_msg("seed %" PRIu64 ": %s: accepted %" PRIu64 ", counted %" PRIu64, w->seed,
                     tb_usage_dimension[d].name, sum, counted(w, d));
    }
    assert_int_equal(tb_metering_summarise(w->l, &left), 0);
    assert_int_equal(left.open + left.frozen + left.sent + left.parked, 0);
}

static const struct market market = {.resource = resource_of,
                                     .dimension = dimension_of,
                                     .unit = unit_of,
                                     .unknown = 2,
                                     .bad = "tokens",
                                     .never = NAMELESS,
                                     .nameless = true,
                                     .entry = entries,
                                     .room = ENTRIES_MAX};

static void run_seed(uint64_t seed)
{
    static struct world w;

    w = (struct world){.seed = seed, .m = market};
    market_begin(&w.m, seed);
    snprintf(w.usage.epoch, sizeof(w.usage.epoch), "%016" PRIx64, seed);
    snprintf(w.path, sizeof(w.path), "%s/%" PRIu64 ".db", seeds_dir, seed);
    start(&w);
    for (int i = 0; i < STEPS; i++)
        one_step(&w);
    drain(&w);
    assert_true(w.m.requests > 10 && w.kills > 5);
    tb_ledger_closep(&w.l);
    unlink(w.path);
}

static void test_accepted_and_held_is_what_was_counted(void **state)
{
    run_seeds(SEEDS, run_seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted_and_held_is_what_was_counted),
    };

    return cmocka_run_group_tests(tests, make_seeds_dir, remove_seeds_dir);
}
