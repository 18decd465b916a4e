/* SPDX-License-Identifier: Apache-2.0 */
/* The property that matters: whatever the network, the clock and whoever kills us do, what the marketplace accepted and what the
 * ledger still holds is what was counted, to the unit. The engine runs against a model of the metering API through seeded random
 * schedules; the ledger is a real file and is reopened wherever the process could have died. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/io.h"
#include "common/json.h"
#include "billing/metering.h"

#define SEEDS 200
#define STEPS 50
#define MINUTE_US (60 * TB_USEC_PER_SEC)
#define ENTRIES_MAX 4000
#define PLAN "plan-1"
#define RESOURCE "/subscriptions/s/resourceGroups/g/providers/Microsoft.Solutions/applications/a"

enum fate {
    FINE,
    BUSY,         /* 429 */
    BROKEN,       /* 500 before anything was looked at */
    BROKEN_AFTER, /* 500 although everything was entered */
    UNREACHABLE,
    LOST_REQUEST, /* a time-out on the way there */
    LOST_ANSWER,  /* a time-out on the way back */
    GARBLED,      /* 200, entered, and a body that is not JSON */
    PARTIAL,      /* verdicts on some of the events only */
    NOT_ALLOWED,  /* 403 */
    UNKNOWN_DIMENSION,
    ENDED,       /* ResourceNotActive */
    BAD_REQUEST, /* 400 for the whole request when one dimension is in it */
    _FATE_MAX,
};

struct entry {
    int64_t hour, quantity;
    int dimension;
};

struct world {
    uint64_t seed, random;
    uint64_t real_us, true_us, boot_us; /* the machine's clock, the API's, and time since boot */
    struct tb_usage_snapshot usage;
    uint64_t counted[_TB_USAGE_MAX];
    enum fate fate;
    bool expiry_first; /* nobody knows in which order the API looks at age and duplicates */
    struct entry entry[ENTRIES_MAX];
    unsigned n;
    char path[64];
    struct tb_ledger *l;
    struct billing_sender sender;
    struct tb_metering_schedule m;
    unsigned requests, kills;
};

static char dir[] = "/dev/shm/tb-money-XXXXXX";
static char err[TB_LEDGER_ERR_MAX];

static uint64_t rnd(struct world *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

static void start(struct world *w)
{
    if (tb_ledger_open(w->path, false, (1U << TB_USAGE_DIMENSIONS) - 1, &w->l, err) < 0)
        fail_msg("seed %" PRIu64 ": %s", w->seed, err);
    w->sender = (struct billing_sender){.l = w->l, .resource = RESOURCE, .plan = PLAN};
    tb_metering_schedule_init(&w->m, billing_sender_ledger(&w->sender));
}

static void killed(struct world *w)
{
    tb_ledger_closep(&w->l);
    w->kills++;
    start(w);
}

/* -- the API -------------------------------------------------------------------------------------------------------- */

static struct entry *find_entry(struct world *w, int64_t hour, int dimension)
{
    for (unsigned i = 0; i < w->n; i++)
        if (w->entry[i].hour == hour && w->entry[i].dimension == dimension)
            return &w->entry[i];
    return NULL;
}

static int dimension_of(const char *name)
{
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++)
        if (strcmp(tb_usage_dimension[d].name, name) == 0)
            return d;
    fail_msg("dimension %s", name);
    return -1;
}

static void add_duplicate(cJSON *item, const struct entry *e)
{
    cJSON *error = cJSON_AddObjectToObject(item, "error");
    cJSON *info = cJSON_AddObjectToObject(error, "additionalInfo");
    cJSON *was = cJSON_AddObjectToObject(info, "acceptedMessage");

    cJSON_AddStringToObject(error, "code", "Conflict");
    cJSON_AddStringToObject(was, "status", "Duplicate");
    cJSON_AddNumberToObject(was, "quantity",
                            (double)e->quantity / (double)tb_usage_dimension[e->dimension].unit);
}

/* One event: the verdict, and the entry when it is a good one. */
static cJSON *api_event(struct world *w, const cJSON *in)
{
    const char *name = tb_json_member(in, "dimension")->valuestring;
    const char *text = tb_json_member(in, "effectiveStartTime")->valuestring, *status;
    double quantity = tb_json_member(in, "quantity")->valuedouble;
    int d = dimension_of(name);
    struct entry *had;
    cJSON *out = cJSON_CreateObject();
    uint64_t at;
    bool expired;

    assert_string_equal(tb_json_member(in, "planId")->valuestring, PLAN);
    assert_string_equal(tb_json_member(in, "resourceUri")->valuestring, RESOURCE);
    assert_null(tb_json_member(in, "resourceId"));
    assert_true(quantity > 0);
    assert_int_equal(tb_rfc3339_parse(text, &at), 0);
    had = find_entry(w, (int64_t)(at / TB_USEC_PER_HOUR), d);
    expired = at + 24 * TB_USEC_PER_HOUR < w->true_us;
    if (w->fate == ENDED)
        status = "ResourceNotActive";
    else if (w->fate == UNKNOWN_DIMENSION && d == 2)
        status = "InvalidDimension";
    else if (expired && (w->expiry_first || !had))
        status = "Expired";
    else if (had)
        status = "Duplicate";
    else if (at > w->true_us)
        status = "BadArgument";
    else
        status = "Accepted";
    cJSON_AddStringToObject(out, "status", status);
    cJSON_AddStringToObject(out, "dimension", name);
    cJSON_AddStringToObject(out, "effectiveStartTime", text);
    if (strcmp(status, "Duplicate") == 0)
        add_duplicate(out, had);
    if (strcmp(status, "Accepted") == 0) {
        assert_true(w->n < ENTRIES_MAX);
        w->entry[w->n++] =
            (struct entry){.hour = (int64_t)(at / TB_USEC_PER_HOUR),
                           .dimension = d,
                           .quantity = (int64_t)(quantity * (double)tb_usage_dimension[d].unit)};
    }
    return out;
}

static bool names_dimension(const cJSON *list, const char *name)
{
    const cJSON *e;

    cJSON_ArrayForEach (e, list)
        if (strcmp(tb_json_member(e, "dimension")->valuestring, name) == 0)
            return true;
    return false;
}

/* A whole request; the text of the answer. */
static char *api_batch(struct world *w, const char *body)
{
    _cleanup_json_ cJSON *in = cJSON_Parse(body), *out = cJSON_CreateObject();
    const cJSON *list = tb_json_member(in, "request"), *e;
    cJSON *result = cJSON_AddArrayToObject(out, "result");

    assert_non_null(list);
    assert_in_range(cJSON_GetArraySize(list), 1, 25);
    cJSON_ArrayForEach (e, list) {
        cJSON *verdict = api_event(w, e);

        if (w->fate == PARTIAL && rnd(w, 2))
            cJSON_Delete(verdict);
        else
            cJSON_AddItemToArray(result, verdict);
    }
    return cJSON_PrintUnformatted(out);
}

static char *api(struct world *w, const char *body, struct tb_metering_result *x)
{
    _cleanup_json_ cJSON *in = cJSON_Parse(body);
    char *text;

    w->requests++;
    *x = (struct tb_metering_result){
        .answered = true, .reached = true, .status = 200, .body = "{}", .len = 2, .retry_after_ms = -1};
    switch (w->fate) {
    case BUSY:
        x->status = 429;
        return NULL;
    case BROKEN:
        x->status = 500;
        return NULL;
    case NOT_ALLOWED:
        x->status = 403;
        return NULL;
    case UNREACHABLE:
    case LOST_REQUEST:
        x->answered = false;
        x->reached = w->fate == LOST_REQUEST;
        x->reason = "no answer";
        return NULL;
    case BAD_REQUEST:
        if (!names_dimension(tb_json_member(in, "request"), "tokens"))
            break;
        x->status = 400;
        return NULL;
    default:
        break;
    }
    text = api_batch(w, body);
    x->body = text;
    x->len = strlen(text);
    if (w->fate == BROKEN_AFTER)
        x->status = 500;
    if (w->fate == GARBLED)
        x->len /= 2;
    if (w->fate == LOST_ANSWER) {
        x->answered = false;
        x->reason = "time-out";
    }
    return text;
}

/* -- what must always hold ------------------------------------------------------------------------------------------ */

static uint64_t counted(const struct world *w, int d)
{
    uint64_t sum = 0;

    for (int c = 0; c < _TB_USAGE_MAX; c++)
        if (tb_usage_dimension[d].counters & 1U << c)
            sum += w->counted[c];
    return sum;
}

/* After a booking: everything counted is in exactly one row; the API has only what a row says it has or may have, all of that and
 * no more. Together: the accepted sum and the sum of the rows that the API has not is what was counted. */
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
        const struct entry *e = find_entry(w, hour, d);

        held[d] += (uint64_t)quantity;
        if (e && (accepted || sqlite3_column_int(s, 4)) && e->quantity == quantity)
            found++;
        else if (e || accepted)
            fail_msg("seed %" PRIu64 ": %s, hour %" PRId64 ": the API has %" PRId64 ", the ledger %" PRId64
                     " %s",
                     w->seed, tb_usage_dimension[d].name, hour, e ? e->quantity : 0, quantity,
                     sqlite3_column_text(s, 3));
    }
    if (found != w->n)
        fail_msg("seed %" PRIu64 ": the API has %u events, the ledger knows %u of them", w->seed, w->n,
                 found);
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++)
        if (held[d] != counted(w, d))
            fail_msg("seed %" PRIu64 ": %s: ledger %" PRIu64 ", counted %" PRIu64, w->seed,
                     tb_usage_dimension[d].name, held[d], counted(w, d));
}

/* -- the schedule --------------------------------------------------------------------------------------------------- */

/* What main() does each interval. mortal: it may be killed between any two steps, and then returns. */
static void daemon_step(struct world *w, bool mortal)
{
    uint64_t booked;
    unsigned moved;

    assert_int_equal(tb_ledger_book(w->l, &w->usage, w->real_us, &booked, err), 0);
    if (mortal && rnd(w, 20) == 0)
        return killed(w);
    assert_int_equal(tb_metering_advance(w->l, w->real_us, &moved, err), 0);
    if (mortal && rnd(w, 20) == 0)
        return killed(w);
    for (;;) {
        struct tb_metering_result x;
        struct tb_metering_answer answer;
        _cleanup_free_ char *body = NULL, *text = NULL;

        assert_int_equal(tb_metering_schedule_next(&w->m, w->real_us, w->boot_us, &body, err), 0);
        if (!body)
            return;
        if (mortal && rnd(w, 20) == 0)
            return killed(w); /* taken, not sent */
        text = api(w, body, &x);
        if (mortal && rnd(w, 20) == 0)
            return killed(w); /* sent, the answer not entered */
        assert_int_equal(tb_metering_schedule_answer(&w->m, &x, w->real_us, w->boot_us, &answer, err), 0);
    }
}

static void pass_time(struct world *w, uint64_t us)
{
    w->real_us += us;
    w->true_us += us;
    w->boot_us += us;
}

static void use(struct world *w)
{
    for (uint64_t n = rnd(w, 4); n > 0; n--) {
        int c = (int)rnd(w, _TB_USAGE_MAX);
        uint64_t more = rnd(w, 10) ? rnd(w, 5000) : rnd(w, 1ULL << 40);

        w->usage.value[c] += more;
        w->counted[c] += more;
    }
}

static void new_counter_file(struct world *w)
{
    daemon_step(w, false);
    memset(&w->usage, 0, sizeof(w->usage));
    snprintf(w->usage.epoch, sizeof(w->usage.epoch), "%08" PRIx64, rnd(w, 1ULL << 32));
}

static void step_clock(struct world *w)
{
    static const uint64_t far[] = {2 * MINUTE_US, 20 * MINUTE_US, 3 * TB_USEC_PER_HOUR, 80 * TB_USEC_PER_HOUR,
                                   87600 * TB_USEC_PER_HOUR};
    uint64_t by = rnd(w, far[rnd(w, ARRAY_SIZE(far))]);

    if (rnd(w, 3) == 0)
        w->real_us = w->true_us; /* set right */
    else if (rnd(w, 2))
        w->real_us += by;
    else
        w->real_us -= MIN(by, w->real_us / 2);
}

static void one_step(struct world *w)
{
    use(w);
    switch (rnd(w, 12)) {
    case 0:
        pass_time(w, rnd(w, 40 * TB_USEC_PER_HOUR)); /* the machine was off */
        killed(w);
        break;
    case 1:
        step_clock(w);
        break;
    case 2:
        w->fate = (enum fate)rnd(w, _FATE_MAX);
        break;
    case 3:
        w->fate = FINE;
        break;
    case 4:
        new_counter_file(w);
        break;
    case 5:
        killed(w);
        break;
    default:
        pass_time(w, rnd(w, 50 * MINUTE_US));
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
        assert_int_equal(tb_metering_resolve(w->l, hour, name, find_entry(w, hour, dimension_of(name)), err),
                         0);
    }
}

/* No transient error and a right clock: in the end all of it is accepted. */
static void drain(struct world *w)
{
    struct tb_metering_summary left;

    w->fate = FINE;
    w->real_us = w->true_us;
    for (int hours = 0; hours < 30; hours++) {
        pass_time(w, TB_USEC_PER_HOUR);
        daemon_step(w, false);
        check(w);
    }
    resolve_doubts(w);
    for (int hours = 0; hours < 3; hours++) {
        pass_time(w, TB_USEC_PER_HOUR);
        daemon_step(w, false);
        check(w);
    }
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < w->n; i++)
            if (w->entry[i].dimension == d)
                sum += (uint64_t)w->entry[i].quantity;
        if (sum != counted(w, d))
            fail_msg("seed %" PRIu64 ": %s: accepted %" PRIu64 ", counted %" PRIu64, w->seed,
                     tb_usage_dimension[d].name, sum, counted(w, d));
    }
    assert_int_equal(tb_metering_summarise(w->l, &left), 0);
    assert_int_equal(left.open + left.frozen + left.sent + left.parked, 0);
}

static void run_seed(uint64_t seed)
{
    static struct world w;

    w = (struct world){.seed = seed, .random = seed * 0x9e3779b97f4a7c15ULL + 1};
    w.real_us = w.true_us = 490000 * TB_USEC_PER_HOUR + rnd(&w, TB_USEC_PER_HOUR);
    w.boot_us = MINUTE_US;
    w.expiry_first = seed & 1;
    snprintf(w.usage.epoch, sizeof(w.usage.epoch), "%016" PRIx64, seed);
    snprintf(w.path, sizeof(w.path), "%s/%" PRIu64 ".db", dir, seed);
    start(&w);
    for (int i = 0; i < STEPS; i++)
        one_step(&w);
    drain(&w);
    assert_true(w.requests > 10 && w.kills > 5);
    tb_ledger_closep(&w.l);
    unlink(w.path);
}

static void test_accepted_and_held_is_what_was_counted(void **state)
{
    const char *only = getenv("TB_SEED");

    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        if (!only || strtoull(only, NULL, 10) == seed)
            run_seed(seed);
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
        cmocka_unit_test(test_accepted_and_held_is_what_was_counted),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
