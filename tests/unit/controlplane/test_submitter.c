/* SPDX-License-Identifier: Apache-2.0 */
/* The property that matters: 40 machines report, some are imaged anew, clocks step, reports come late, twice
 * or not at all, three submitters fight for the lock and die between any two steps or act on after they were
 * declared dead, and the marketplace loses requests and answers; what it accepted and what the ledger holds
 * is what was reported, to the unit, and it has no event twice. Runs on SQLite, or on the database that
 * TBCP_DATABASE names (test_controlplane_store.py); TB_SEEDS says how many seeds. */
#include "tests/unit/metering/market_testing.h"
#include <ctype.h>
#include <strings.h>

#include "controlplane/store/usage.h"
#include "controlplane/submitter/ledger.h"

#define SEEDS 200
#define STEPS 14
#define MACHINES 40
#define CONTRACTS 6
#define RESOURCES 4
#define SUBMITTERS 3
#define ENTRIES_MAX 8000
#define HOURS_KEPT 5 /* fewer than a machine keeps, so that some are missing in reports */

static const char *const resources[RESOURCES] = {
    "abcdef11-0000-4000-8000-000000000001", "abcdef11-0000-4000-8000-000000000002",
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.Solutions/applications/a",
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.Solutions/applications/b"};
/* of each contract: two share a resource, each in a spelling of its own; the last has none at first */
static const int resource_of[CONTRACTS] = {0, 1, 2, 3, 0, 1};
static const char mapping[] = "requests, tokens=ktok, gb_transferred=gb";
static const char *const dimension_names[] = {"requests", "ktok", "gb"};
static const int dimension_rows[] = {0, 4, 6}; /* of tb_usage_dimension */
#define DIMENSIONS 3

struct machine {
    int contract;
    uint64_t image; /* which ledger */
    int64_t clock_off_us;
    uint64_t total[_TB_USAGE_MAX], reported[_TB_USAGE_MAX];
    struct {
        int64_t hour;
        uint64_t used[_TB_USAGE_MAX];
    } hours[HOURS_KEPT];
};

struct submitter {
    struct cp_store *s;
    struct cp_submitter_ledger ledger;
    struct tb_metering_schedule schedule;
    bool leads;
};

struct world {
    uint64_t seed;
    struct market m; /* real_us is the servers' clock */
    struct machine machine[MACHINES];
    struct submitter submitter[SUBMITTERS];
    uint64_t reported[CONTRACTS][_TB_USAGE_MAX];
    bool late_terms; /* the last contract has its resource */
    unsigned kills, takeovers, ghosts;
};

static char where[200];
static char err[TB_METERING_ERR_MAX];
static struct cp_store *store; /* of the control plane itself */
static struct entry entries[ENTRIES_MAX];
static unsigned all_kills, all_ghosts, all_requests;

/* -- what events are of ---------------------------------------------------------------------------------- */

static int place_in(const char *const *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcasecmp(list[i], name) == 0) /* as the API does */
            return i;
    fail_msg("%s is unknown", name);
    return -1;
}

static uint64_t unit_of(int dimension)
{
    return tb_usage_dimension[dimension_rows[dimension]].unit;
}

static int event_resource(const cJSON *event)
{
    const cJSON *uri = tb_json_member(event, "resourceUri"), *id = tb_json_member(event, "resourceId");
    int r = place_in(resources, RESOURCES, (uri ? uri : id)->valuestring);

    assert_string_equal(tb_json_member(event, "planId")->valuestring, r & 1 ? "gold" : "silver");
    return r;
}

static int event_dimension(const char *name)
{
    return place_in(dimension_names, DIMENSIONS, name);
}

/* -- machines -------------------------------------------------------------------------------------------- */

static void machine_use(struct world *w, struct machine *m)
{
    int64_t hour = (int64_t)((w->m.true_us + (uint64_t)m->clock_off_us) / TB_USEC_PER_HOUR);
    int at = -1;

    for (int i = 0; i < HOURS_KEPT && at < 0; i++)
        if (m->hours[i].hour == hour)
            at = i;
    if (at < 0) {
        at = (int)rnd(&w->m, HOURS_KEPT); /* one that will be missing in reports from now on */
        memset(&m->hours[at], 0, sizeof(m->hours[at]));
        m->hours[at].hour = hour;
    }
    for (uint64_t n = 1 + rnd(&w->m, 3); n > 0; n--) {
        int c = (int)rnd(&w->m, _TB_USAGE_MAX);
        uint64_t more = rnd(&w->m, 10) ? rnd(&w->m, 5000) : rnd(&w->m, 1ULL << 40);

        m->total[c] += more;
        m->hours[at].used[c] += more;
    }
}

static void report_values(const uint64_t *from, struct cp_usage_values *ret)
{
    ret->n = 0;
    for (int c = 0; c < _TB_USAGE_MAX; c++) {
        if (from[c] == 0)
            continue;
        strcpy(ret->v[ret->n].name, tb_usage_name((enum tb_usage_counter)c));
        ret->v[ret->n++].total = from[c];
    }
}

static int report_take(struct cp_store *s, void *ctx)
{
    unsigned flags;

    return cp_store_take_usage(s, ctx, &flags);
}

static void machine_report(struct world *w, int i)
{
    static struct cp_usage_report u;
    struct machine *m = &w->machine[i];

    u = (struct cp_usage_report){.asset_id = "asset", .text = "{}", .received_us = w->m.real_us};
    u.at_us = w->m.true_us + (uint64_t)m->clock_off_us;
    snprintf(u.contract_id, sizeof(u.contract_id), "contract-%d", m->contract);
    snprintf(u.hw_id, sizeof(u.hw_id), "machine-%d", i);
    snprintf(u.ledger, sizeof(u.ledger), "%d-%" PRIu64, i, m->image);
    report_values(m->total, &u.used);
    for (int h = 0; rnd(&w->m, 8) && h < HOURS_KEPT; h++) {
        if (m->hours[h].hour == 0)
            continue;
        u.hours[u.n_hours].hour = m->hours[h].hour;
        report_values(m->hours[h].used, &u.hours[u.n_hours++].used);
    }
    for (int times = rnd(&w->m, 5) == 0 ? 2 : 1; times > 0; times--)
        if (cp_store_transact(store, report_take, &u) < 0)
            fail_msg("seed %" PRIu64 ": %s", w->seed, cp_store_error(store));
    for (int c = 0; c < _TB_USAGE_MAX; c++) {
        w->reported[m->contract][c] += m->total[c] - m->reported[c];
        m->reported[c] = m->total[c];
    }
}

static void machines_step(struct world *w)
{
    for (int i = 0; i < MACHINES; i++) {
        struct machine *m = &w->machine[i];

        if (rnd(&w->m, 3) == 0)
            machine_use(w, m);
        if (rnd(&w->m, 3) == 0)
            machine_report(w, i);
        if (rnd(&w->m, 40) == 0) { /* imaged anew: what was not reported is gone */
            memset(m->total, 0, sizeof(m->total));
            memset(m->reported, 0, sizeof(m->reported));
            memset(m->hours, 0, sizeof(m->hours));
            m->image++;
        }
        if (rnd(&w->m, 60) == 0)
            m->clock_off_us = ((int64_t)rnd(&w->m, 200) - 100) * (int64_t)TB_USEC_PER_HOUR;
        if (rnd(&w->m, 60) == 0)
            m->clock_off_us = 0;
    }
}

/* -- submitters ------------------------------------------------------------------------------------------ */

static void submitter_start(struct submitter *b)
{
    if (cp_store_open(where, false, &b->s, err) < 0)
        fail_msg("%s: %s", where, err);
    b->leads = false;
}

static void submitter_killed(struct world *w, struct submitter *b)
{
    b->s = cp_store_close(b->s);
    w->kills++;
    submitter_start(b);
}

static int term_begin(struct cp_store *s, void *ctx)
{
    struct submitter *b = ctx;

    return cp_store_begin_term(s, "test", 1, &b->ledger.term);
}

static void submitter_lead(struct world *w, struct submitter *b)
{
    b->ledger.s = b->s;
    if (cp_store_transact(b->s, term_begin, b) < 0)
        fail_msg("%s", cp_store_error(b->s));
    tb_metering_schedule_init(&b->schedule, cp_submitter_ledger(&b->ledger));
    b->leads = true;
    w->takeovers++;
}

static bool submitter_step(struct world *w, struct submitter *b, bool mortal);

/* Someone else takes over in the middle, and does its work: as when the lock was lost with the connection,
 * and nobody noticed. */
static void usurped(struct world *w, const struct submitter *b)
{
    struct submitter *other = &w->submitter[(b - w->submitter + 1) % SUBMITTERS];
    enum fate fate = w->m.fate;

    if (rnd(&w->m, 8) != 0)
        return;
    submitter_lead(w, other);
    w->m.fate = any_fate(&w->m);
    submitter_step(w, other, false);
    w->m.fate = fate;
    w->ghosts++;
}

/* false: the term is over. */
static bool still(struct world *w, struct submitter *b, int r)
{
    if (r < 0 && r != -ESTALE)
        fail_msg("seed %" PRIu64 ": %d %s", w->seed, r, err);
    b->leads = r == 0;
    return r == 0;
}

/* false: killed, or not in office any more. */
static bool submitter_send(struct world *w, struct submitter *b, bool mortal)
{
    for (;;) {
        struct tb_metering_result x;
        struct tb_metering_answer answer;
        _cleanup_free_ char *body = NULL, *text = NULL;

        if (!still(w, b, tb_metering_schedule_next(&b->schedule, w->m.real_us, w->m.boot_us, &body, err)))
            return false;
        if (!body)
            return true;
        if (mortal && rnd(&w->m, 15) == 0) {
            submitter_killed(w, b); /* taken, not sent */
            return false;
        }
        if (mortal)
            usurped(w, b);
        text = api(&w->m, body, &x);
        if (mortal && rnd(&w->m, 15) == 0) {
            submitter_killed(w, b); /* sent, the answer not entered */
            return false;
        }
        if (mortal)
            usurped(w, b);
        if (!still(w, b,
                   tb_metering_schedule_answer(&b->schedule, &x, w->m.real_us, w->m.boot_us, &answer, err)))
            return false;
    }
}

/* What a replica does each interval. */
static bool submitter_step(struct world *w, struct submitter *b, bool mortal)
{
    uint64_t booked;
    unsigned moved;
    int r = cp_store_lock_submitter(b->s);

    assert_true(r >= 0);
    if (!b->leads && r == 0)
        return false;
    if (!b->leads)
        submitter_lead(w, b);
    if (!still(w, b, cp_submitter_book(&b->ledger, w->m.real_us, &booked, err)))
        return false;
    if (mortal)
        usurped(w, b);
    if (!still(w, b, cp_submitter_advance(&b->ledger, w->m.real_us, CP_SUBMITTER_GRACE_US, &moved, err)))
        return false;
    return submitter_send(w, b, mortal);
}

/* Until one of them got through alone. */
static void submitters_settle(struct world *w)
{
    for (int tries = 0; tries < 10; tries++)
        for (int i = 0; i < SUBMITTERS; i++)
            if (submitter_step(w, &w->submitter[i], false))
                return;
    fail_msg("seed %" PRIu64 ": no submitter gets to work", w->seed);
}

/* -- what must always hold ------------------------------------------------------------------------------- */

static uint64_t owed(const struct world *w, int resource, int dimension)
{
    uint32_t counters = tb_usage_dimension[dimension_rows[dimension]].counters;
    uint64_t sum = 0;

    for (int k = 0; k < CONTRACTS; k++)
        for (int c = 0; c < _TB_USAGE_MAX; c++)
            if (resource_of[k] == resource && counters & 1U << c && (k < CONTRACTS - 1 || w->late_terms))
                sum += w->reported[k][c];
    return sum;
}

struct checking {
    struct world *w;
    uint64_t held[RESOURCES][DIMENSIONS];
    unsigned found;
};

static int check_row(const struct cp_event_row *row, void *ctx)
{
    struct checking *k = ctx;
    int r = place_in(resources, RESOURCES, row->e.resource);
    int d = place_in(dimension_names, DIMENSIONS, row->e.dimension);
    bool accepted = strcmp(row->state, "ACCEPTED") == 0;
    const struct entry *e = find_entry(&k->w->m, r, d, row->e.hour);

    k->held[r][d] += (uint64_t)row->e.quantity;
    if (e && (accepted || row->e.doubt) && e->quantity == row->e.quantity)
        k->found++;
    else if (e || accepted)
        fail_msg("seed %" PRIu64 ": %s of %s, hour %" PRId64 ": the API has %" PRId64 ", the ledger %" PRId64
                 " %s",
                 k->w->seed, row->e.dimension, row->e.resource, row->e.hour, e ? e->quantity : 0,
                 row->e.quantity, row->state);
    return 0;
}

/* After a booking: everything reported is in exactly one row; the API has only what a row says it has or may
 * have, all of that and no more. */
static void check(struct world *w)
{
    struct checking k = {.w = w};

    assert_int_equal(cp_store_each_event(store, &(struct cp_event_page){CP_EVENT_PAGE_FIRST, .limit = 100000},
                                         check_row, &k),
                     0);
    if (k.found != w->m.n)
        fail_msg("seed %" PRIu64 ": the API has %u events, the ledger knows %u of them", w->seed, w->m.n,
                 k.found);
    for (int r = 0; r < RESOURCES; r++)
        for (int d = 0; d < DIMENSIONS; d++)
            if (k.held[r][d] != owed(w, r, d))
                fail_msg("seed %" PRIu64 ": %s of %s: ledger %" PRIu64 ", reported %" PRIu64, w->seed,
                         dimension_names[d], resources[r], k.held[r][d], owed(w, r, d));
}

/* -- the world ------------------------------------------------------------------------------------------- */

static int terms_put(struct cp_store *s, void *ctx)
{
    return cp_store_put_billing(s, ctx, 1);
}

static void put_terms(int contract, const char *resource)
{
    struct cp_billing b = {0};

    snprintf(b.contract_id, sizeof(b.contract_id), "contract-%d", contract);
    for (size_t i = 0; resource[i]; i++)
        b.resource[i] = contract < RESOURCES ? resource[i] : (char)toupper((unsigned char)resource[i]);
    strcpy(b.plan, resource_of[contract] & 1 ? "gold" : "silver");
    strcpy(b.dimensions, mapping);
    assert_int_equal(cp_store_transact(store, terms_put, &b), 0);
}

static const uint64_t clock_steps[] = {2 * MINUTE_US, 20 * MINUTE_US, 3 * TB_USEC_PER_HOUR,
                                       80 * TB_USEC_PER_HOUR};

static void one_step(struct world *w)
{
    machines_step(w);
    switch (rnd(&w->m, 12)) {
    case 0:
        pass_time(&w->m, rnd(&w->m, 30 * TB_USEC_PER_HOUR)); /* nobody was there */
        break;
    case 1:
        step_clock(&w->m, clock_steps, ARRAY_SIZE(clock_steps));
        break;
    case 2:
    case 3:
        w->m.fate = any_fate(&w->m);
        break;
    case 4:
        w->m.fate = FINE;
        break;
    case 5:
        submitter_killed(w, &w->submitter[rnd(&w->m, SUBMITTERS)]);
        break;
    case 6:
        if (!w->late_terms)
            put_terms(CONTRACTS - 1, resources[resource_of[CONTRACTS - 1]]);
        w->late_terms = true;
        break;
    default:
        pass_time(&w->m, rnd(&w->m, 50 * MINUTE_US));
    }
    for (int i = 0; i < SUBMITTERS; i++)
        submitter_step(w, &w->submitter[rnd(&w->m, SUBMITTERS)], true);
    submitters_settle(w);
    check(w);
}

static int collect_doubt(const struct cp_event_row *row, void *ctx)
{
    struct cp_event_row *found = ctx;

    if (strcmp(row->state, "PARKED") != 0 || !row->e.doubt)
        return 0;
    *found = *row;
    return 1;
}

struct resolving {
    struct cp_event_row row;
    bool accepted;
};

static int resolve(struct cp_store *s, void *ctx)
{
    const struct resolving *v = ctx;

    return cp_store_resolve_event(s, v->row.e.resource, v->row.e.dimension, v->row.e.hour, v->accepted);
}

/* What a person does about events in doubt: looks at what the marketplace has. */
static void resolve_doubts(struct world *w)
{
    struct resolving v = {0};

    while (cp_store_each_event(
               store, &(struct cp_event_page){CP_EVENT_PAGE_FIRST, .unaccepted = true, .limit = 100000},
               collect_doubt, &v.row) == 1) {
        v.accepted = find_entry(&w->m, place_in(resources, RESOURCES, v.row.e.resource),
                                place_in(dimension_names, DIMENSIONS, v.row.e.dimension), v.row.e.hour);
        assert_int_equal(cp_store_transact(store, resolve, &v), 0);
    }
}

static void drain_hours(struct world *w, int hours)
{
    for (int h = 0; h < hours; h++) {
        pass_time(&w->m, TB_USEC_PER_HOUR);
        submitters_settle(w);
        check(w);
    }
}

/* No transient error and a right clock: in the end all of it is accepted. */
static void drain(struct world *w)
{
    struct cp_billing_summary left;

    w->m.fate = FINE;
    w->m.real_us = w->m.true_us;
    drain_hours(w, 30);
    resolve_doubts(w);
    drain_hours(w, 5);
    for (int r = 0; r < RESOURCES; r++)
        for (int d = 0; d < DIMENSIONS; d++) {
            uint64_t sum = sum_entries(&w->m, r, d);

            if (sum != owed(w, r, d))
                fail_msg("seed %" PRIu64 ": %s of %s: accepted %" PRIu64 ", reported %" PRIu64, w->seed,
                         dimension_names[d], resources[r], sum, owed(w, r, d));
        }
    assert_int_equal(cp_store_summarise_billing(store, &left), 0);
    assert_int_equal(left.open + left.frozen + left.sent + left.parked, 0);
}

/* An empty database: a file, or the tables of the one that was given. */
static void make_database(uint64_t seed)
{
    const char *given = getenv("TBCP_DATABASE");
    struct cp_sql *c;

    if (given)
        snprintf(where, sizeof(where), "%s", given);
    else
        snprintf(where, sizeof(where), "%s/%" PRIu64 ".db", seeds_dir, seed);
    if (cp_store_open(where, false, &store, err) < 0)
        fail_msg("%s: %s", where, err);
    assert_int_equal(cp_sql_open(where, &c, err), 0);
    assert_int_equal(cp_sql_script(c, "DELETE FROM usage_ledgers; DELETE FROM usage_totals; DELETE FROM"
                                      " usage_hours; DELETE FROM usage_flags; DELETE FROM billing_terms;"
                                      " DELETE FROM billing_marks; DELETE FROM billing_events;"
                                      " DELETE FROM billing_ended;"),
                     0);
    cp_sql_close(c);
}

static const struct market market = {.resource = event_resource,
                                     .dimension = event_dimension,
                                     .unit = unit_of,
                                     .ended = 1,
                                     .bad = "ktok",
                                     .never = UNKNOWN_DIMENSION,
                                     .entry = entries,
                                     .room = ENTRIES_MAX};

static void run_seed(uint64_t seed)
{
    static struct world w;

    w = (struct world){.seed = seed, .m = market};
    make_database(seed);
    market_begin(&w.m, seed);
    for (int i = 0; i < MACHINES; i++)
        w.machine[i].contract = (int)rnd(&w.m, CONTRACTS);
    for (int i = 0; i < CONTRACTS; i++)
        put_terms(i, i == CONTRACTS - 1 ? "" : resources[resource_of[i]]);
    for (int i = 0; i < SUBMITTERS; i++)
        submitter_start(&w.submitter[i]);
    for (int i = 0; i < STEPS; i++)
        one_step(&w);
    if (!w.late_terms)
        put_terms(CONTRACTS - 1, resources[resource_of[CONTRACTS - 1]]);
    w.late_terms = true;
    drain(&w);
    all_requests += w.m.requests;
    all_kills += w.kills;
    all_ghosts += w.ghosts;
    for (int i = 0; i < SUBMITTERS; i++)
        w.submitter[i].s = cp_store_close(w.submitter[i].s);
    store = cp_store_close(store);
    if (!getenv("TBCP_DATABASE"))
        unlink(where);
}

static void test_accepted_and_held_is_what_was_reported(void **state)
{
    bool all = run_seeds(SEEDS, run_seed);

    assert_true(!all || (all_kills > 5 && all_ghosts > 2 && all_requests > 50)); /* it happened */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted_and_held_is_what_was_reported),
    };

    return cmocka_run_group_tests(tests, make_seeds_dir, remove_seeds_dir);
}
