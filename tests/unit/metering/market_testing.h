/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests share that submit usage through seeded random schedules (test_money.c of billing,
 * test_submitter.c of the control plane): chance, clocks that step, a strict model of the metering API that
 * loses requests and answers, the loop over the seeds. */
#ifndef MARKET_TESTING_H
#define MARKET_TESTING_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/io.h"
#include "common/json.h"
#include "metering/schedule.h"

#define MINUTE_US (60 * TB_USEC_PER_SEC)

/* What becomes of a request. */
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
    NAMELESS,     /* verdicts that do not say of which resource */
    NOT_ALLOWED,  /* 403 */
    UNKNOWN_DIMENSION,
    ENDED,       /* ResourceNotActive */
    BAD_REQUEST, /* 400 for the whole request when one dimension is in it */
    _FATE_MAX,
};

/* Resources and dimensions by their number in the test. */
struct entry {
    int resource, dimension;
    int64_t hour, quantity;
};

struct market {
    /* Of an event's resource and plan; they fail the test when these are none of the test's. */
    int (*resource)(const cJSON *event);
    int (*dimension)(const char *name);
    uint64_t (*unit)(int dimension);
    int unknown, ended; /* the dimension and the resource that these fates are of */
    const char *bad;    /* the dimension that BAD_REQUEST is of */
    enum fate never;    /* befalls no request of this test */
    bool nameless;      /* no verdict says of which resource */
    uint64_t random;
    uint64_t real_us, true_us, boot_us; /* the clock of who submits, the API's, and time since boot */
    enum fate fate;
    bool expiry_first; /* nobody knows in which order the API looks at age and duplicates */
    struct entry *entry;
    unsigned n, room, requests;
};

/* -- chance and time ------------------------------------------------------------------------------------- */

static uint64_t rnd(struct market *m, uint64_t below)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % below;
}

static enum fate any_fate(struct market *m)
{
    enum fate fate = (enum fate)rnd(m, _FATE_MAX - 1);

    return fate < m->never ? fate : fate + 1;
}

/* Right clocks, a minute after boot; by its seed. */
static void market_begin(struct market *m, uint64_t seed)
{
    m->random = seed * 0x9e3779b97f4a7c15ULL + 1;
    m->real_us = m->true_us = 490000 * TB_USEC_PER_HOUR + rnd(m, TB_USEC_PER_HOUR);
    m->boot_us = MINUTE_US;
    m->expiry_first = seed & 1;
}

static void pass_time(struct market *m, uint64_t us)
{
    m->real_us += us;
    m->true_us += us;
    m->boot_us += us;
}

/* By less than one of these. */
static void step_clock(struct market *m, const uint64_t *far, size_t n)
{
    uint64_t by = rnd(m, far[rnd(m, n)]);

    if (rnd(m, 3) == 0)
        m->real_us = m->true_us; /* set right */
    else if (rnd(m, 2))
        m->real_us += by;
    else
        m->real_us -= MIN(by, m->real_us / 2);
}

/* -- the API --------------------------------------------------------------------------------------------- */

static struct entry *find_entry(struct market *m, int resource, int dimension, int64_t hour)
{
    for (unsigned i = 0; i < m->n; i++)
        if (m->entry[i].hour == hour && m->entry[i].dimension == dimension &&
            m->entry[i].resource == resource)
            return &m->entry[i];
    return NULL;
}

static uint64_t sum_entries(const struct market *m, int resource, int dimension)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < m->n; i++)
        if (m->entry[i].dimension == dimension && m->entry[i].resource == resource)
            sum += (uint64_t)m->entry[i].quantity;
    return sum;
}

static void add_duplicate(struct market *m, cJSON *item, const struct entry *e)
{
    cJSON *error = cJSON_AddObjectToObject(item, "error");
    cJSON *info = cJSON_AddObjectToObject(error, "additionalInfo");
    cJSON *was = cJSON_AddObjectToObject(info, "acceptedMessage");

    cJSON_AddStringToObject(error, "code", "Conflict");
    cJSON_AddStringToObject(was, "status", "Duplicate");
    cJSON_AddNumberToObject(was, "quantity", (double)e->quantity / (double)m->unit(e->dimension));
}

static const char *judge_event(const struct market *m, const struct entry *e, const struct entry *had,
                               uint64_t at)
{
    bool expired = at + 24 * TB_USEC_PER_HOUR < m->true_us;

    if (m->fate == ENDED && e->resource == m->ended)
        return "ResourceNotActive";
    if (m->fate == UNKNOWN_DIMENSION && e->dimension == m->unknown)
        return "InvalidDimension";
    if (expired && (m->expiry_first || !had))
        return "Expired";
    if (had)
        return "Duplicate";
    return at > m->true_us ? "BadArgument" : "Accepted";
}

/* One event: the verdict, and the entry when it is a good one. */
static cJSON *api_event(struct market *m, const cJSON *in)
{
    const char *name = tb_json_member(in, "dimension")->valuestring;
    const char *text = tb_json_member(in, "effectiveStartTime")->valuestring, *status;
    const cJSON *uri = tb_json_member(in, "resourceUri"), *id = tb_json_member(in, "resourceId");
    double quantity = tb_json_member(in, "quantity")->valuedouble;
    struct entry e = {.resource = m->resource(in), .dimension = m->dimension(name)};
    cJSON *out = cJSON_CreateObject();
    struct entry *had;
    uint64_t at;

    assert_true(!uri != !id && quantity > 0);
    assert_int_equal(tb_rfc3339_parse(text, &at), 0);
    e.hour = (int64_t)(at / TB_USEC_PER_HOUR);
    e.quantity = (int64_t)(quantity * (double)m->unit(e.dimension));
    had = find_entry(m, e.resource, e.dimension, e.hour);
    status = judge_event(m, &e, had, at);
    cJSON_AddStringToObject(out, "status", status);
    cJSON_AddStringToObject(out, "dimension", name);
    cJSON_AddStringToObject(out, "effectiveStartTime", text);
    if (m->fate != NAMELESS && !m->nameless)
        cJSON_AddStringToObject(out, uri ? "resourceUri" : "resourceId", (uri ? uri : id)->valuestring);
    if (strcmp(status, "Duplicate") == 0)
        add_duplicate(m, out, had);
    if (strcmp(status, "Accepted") == 0) {
        assert_true(m->n < m->room);
        m->entry[m->n++] = e;
    }
    return out;
}

static char *api_batch(struct market *m, const cJSON *list)
{
    _cleanup_json_ cJSON *out = cJSON_CreateObject();
    cJSON *result = cJSON_AddArrayToObject(out, "result");
    const cJSON *e;

    assert_non_null(list);
    assert_in_range(cJSON_GetArraySize(list), 1, 25);
    cJSON_ArrayForEach (e, list) {
        cJSON *verdict = api_event(m, e);

        if (m->fate == PARTIAL && rnd(m, 2))
            cJSON_Delete(verdict);
        else
            cJSON_AddItemToArray(result, verdict);
    }
    return cJSON_PrintUnformatted(out);
}

static bool names_dimension(const cJSON *list, const char *name)
{
    const cJSON *e;

    cJSON_ArrayForEach (e, list)
        if (strcmp(tb_json_member(e, "dimension")->valuestring, name) == 0)
            return true;
    return false;
}

/* What of the request's fate is decided before it is looked at. */
static bool api_turned_away(struct market *m, const cJSON *list, struct tb_metering_result *x)
{
    static const long statuses[_FATE_MAX] = {[BUSY] = 429, [BROKEN] = 500, [NOT_ALLOWED] = 403};

    if (m->fate == UNREACHABLE || m->fate == LOST_REQUEST) {
        x->answered = false;
        x->reached = m->fate == LOST_REQUEST;
        x->reason = "no answer";
        return true;
    }
    if (statuses[m->fate])
        x->status = statuses[m->fate];
    else if (m->fate == BAD_REQUEST && names_dimension(list, m->bad))
        x->status = 400;
    return x->status != 200;
}

/* The text of the answer, which the caller frees; what else it is goes to *x. */
static char *api(struct market *m, const char *body, struct tb_metering_result *x)
{
    _cleanup_json_ cJSON *in = cJSON_Parse(body);
    const cJSON *list = tb_json_member(in, "request");
    char *text;

    m->requests++;
    *x = (struct tb_metering_result){
        .answered = true, .reached = true, .status = 200, .body = "{}", .len = 2, .retry_after_ms = -1};
    if (api_turned_away(m, list, x))
        return NULL;
    text = api_batch(m, list);
    x->body = text;
    x->len = strlen(text);
    if (m->fate == BROKEN_AFTER)
        x->status = 500;
    if (m->fate == GARBLED)
        x->len /= 2;
    if (m->fate == LOST_ANSWER) {
        x->answered = false;
        x->reason = "time-out";
    }
    return text;
}

/* -- seeds, each with a folder for its database ---------------------------------------------------------- */

static char seeds_dir[] = "/dev/shm/tb-seeds-XXXXXX";

static int make_seeds_dir(void **state)
{
    return mkdtemp(seeds_dir) ? 0 : -1;
}

static int remove_seeds_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", seeds_dir);

    return system(cmd);
}

/* As many as the test says, or TB_SEEDS; of these TB_SEED alone, and then it returns false. */
static bool run_seeds(uint64_t n, void (*run)(uint64_t seed))
{
    const char *only = getenv("TB_SEED"), *seeds = getenv("TB_SEEDS");

    for (uint64_t seed = 1; seed <= (seeds ? strtoull(seeds, NULL, 10) : n); seed++)
        if (!only || strtoull(only, NULL, 10) == seed)
            run(seed);
    return !only;
}

#endif
