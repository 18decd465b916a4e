/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/usage.h"

#include <string.h>

#include "common/json.h"
#include "controlplane/store/store_room.h"
#include "metering/event.h"

#define CP_AUDIT_HEAD_MAX 65 /* 64 hex digits */
#define OF_LEDGER " WHERE contract_id=$1 AND hw_id=$2 AND ledger=$3"

/* -- taking a report --------------------------------------------------------------------------- */
static int usage_find_ledger(struct cp_store *s, const struct cp_usage_report *u, bool *ret_known,
                             uint64_t *ret_at_us)
{
    int64_t at = -1;
    int r = cp_sql_int(s->c, &at, -1, "SELECT at_us FROM usage_ledgers" OF_LEDGER, "ttt", u->contract_id,
                       u->hw_id, u->ledger);

    *ret_known = at >= 0;
    *ret_at_us = at >= 0 ? (uint64_t)at : 0;
    return r;
}

/* Where the machine's audit chain stood, by the text of a report; 0 and "" when it does not say. */
static void usage_read_audit(const char *text, uint64_t *ret_seq, char head[static CP_AUDIT_HEAD_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *said = "";
    const cJSON *audit;

    *ret_seq = 0;
    head[0] = '\0';
    if (tb_json_parse(text, strlen(text), TB_REPORT_MAX, &o, err) < 0)
        return;
    audit = tb_json_member(o, "audit");
    if (!audit || tb_json_get_uint(audit, "seq", TB_JSON_INT_MAX, ret_seq, err) < 0)
        return;
    (void)tb_json_get_string(audit, "head", &said, err);
    snprintf(head, CP_AUDIT_HEAD_MAX, "%s", said);
}

/* A chain that was longer, or has another record in a place that is taken: an older copy of the disk, also
 * where its totals are the same. */
static int usage_find_older_chain(struct cp_store *s, const struct cp_usage_report *u, unsigned *flags)
{
    char before[CP_AUDIT_HEAD_MAX], now[CP_AUDIT_HEAD_MAX];
    _cleanup_rows_ struct cp_rows *rows = NULL;
    uint64_t seq_before, seq_now;
    struct cp_usage last;
    int r = cp_sql_query(s->c, &rows, "SELECT report FROM usage_ledgers" OF_LEDGER, "ttt", u->contract_id,
                         u->hw_id, u->ledger);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r;
    CP_ROWS_TEXT(rows, 0, last.report);
    usage_read_audit(last.report, &seq_before, before);
    usage_read_audit(u->text, &seq_now, now);
    if (seq_now > 0 && (seq_now < seq_before || (seq_now == seq_before && strcmp(now, before) != 0)))
        *flags |= CP_USAGE_BACK;
    return 0;
}

static int usage_find_clone(struct cp_store *s, const struct cp_usage_report *u, unsigned *flags)
{
    int64_t other = 0;
    int r = *u->ledger ? cp_sql_int(s->c, &other, 0,
                                    "SELECT 1 FROM usage_ledgers WHERE ledger=$1 AND hw_id<>$2 LIMIT 1", "tt",
                                    u->ledger, u->hw_id)
                       : 0;

    if (other)
        *flags |= CP_USAGE_CLONE;
    return r;
}

/* What was counted for this ledger elsewhere before it was first heard of here. */
static int usage_base(struct cp_store *s, const struct cp_usage_report *u, const char *counter,
                      uint64_t total, uint64_t *ret)
{
    int64_t elsewhere = 0;
    int r = *u->ledger ? cp_sql_int(s->c, &elsewhere, 0,
                                    "SELECT max(total) FROM usage_totals WHERE ledger=$1 AND counter=$2"
                                    " AND NOT (contract_id=$3 AND hw_id=$4)",
                                    "tttt", u->ledger, counter, u->contract_id, u->hw_id)
                       : 0;

    *ret = MIN((uint64_t)elsewhere, total);
    return r;
}

static int usage_raise_total(struct cp_store *s, const struct cp_usage_report *u, const char *counter,
                             uint64_t total, unsigned *flags)
{
    int64_t before = -1;
    uint64_t base = 0;
    int r = cp_sql_int(s->c, &before, -1, "SELECT total FROM usage_totals" OF_LEDGER " AND counter=$4",
                       "tttt", u->contract_id, u->hw_id, u->ledger, counter);

    if (r == 0 && before < 0)
        r = usage_base(s, u, counter, total, &base);
    if (r < 0)
        return r;
    if (before >= 0 && total < (uint64_t)before && !(*flags & CP_USAGE_LATE))
        *flags |= CP_USAGE_BACK;
    return store_run(s,
                     "INSERT INTO usage_totals VALUES($1,$2,$3,$4,$5,$6)"
                     " ON CONFLICT(contract_id, hw_id, ledger, counter) DO UPDATE SET"
                     " total=CASE WHEN $5>usage_totals.total THEN $5 ELSE usage_totals.total END",
                     "ttttuu", u->contract_id, u->hw_id, u->ledger, counter, total, base);
}

/* Of an hour that began after the ledger was first heard of here nothing was counted elsewhere that this
 * machine counts again; what a clone counts in it, or says, is the clone's. */
static int usage_raise_hour(struct cp_store *s, const struct cp_usage_report *u, int64_t hour,
                            const char *counter, uint64_t total)
{
    int64_t elsewhere = 0;
    int r = *u->ledger ? cp_sql_int(s->c, &elsewhere, 0,
                                    "SELECT max(total) FROM usage_hours WHERE ledger=$1 AND hour=$2"
                                    " AND counter=$3 AND NOT (contract_id=$4 AND hw_id=$5) AND NOT EXISTS"
                                    " (SELECT 1 FROM usage_ledgers l WHERE l.contract_id=$4 AND l.hw_id=$5"
                                    " AND l.ledger=$1 AND l.first_us<$6)",
                                    "titttu", u->ledger, hour, counter, u->contract_id, u->hw_id,
                                    (uint64_t)hour * TB_USEC_PER_HOUR)
                       : 0;

    if (r < 0)
        return r;
    return store_run(s,
                     "INSERT INTO usage_hours VALUES($1,$2,$3,$4,$5,$6,$7)"
                     " ON CONFLICT(contract_id, hw_id, ledger, hour, counter) DO UPDATE SET"
                     " total=CASE WHEN $6>usage_hours.total THEN $6 ELSE usage_hours.total END",
                     "tttituu", u->contract_id, u->hw_id, u->ledger, hour, counter, total,
                     MIN((uint64_t)elsewhere, total));
}

static int usage_raise(struct cp_store *s, const struct cp_usage_report *u, unsigned *flags)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < u->used.n; i++)
        r = usage_raise_total(s, u, u->used.v[i].name, u->used.v[i].total, flags);
    for (size_t h = 0; r == 0 && h < u->n_hours; h++)
        for (size_t i = 0; r == 0 && i < u->hours[h].used.n; i++)
            r = usage_raise_hour(s, u, u->hours[h].hour, u->hours[h].used.v[i].name,
                                 u->hours[h].used.v[i].total);
    return r;
}

static int usage_note_ledger(struct cp_store *s, const struct cp_usage_report *u)
{
    return store_run(s,
                     "INSERT INTO usage_ledgers VALUES($1,$2,$3,$4,$5,$5,$6,$7,$8)"
                     " ON CONFLICT(contract_id, hw_id, ledger) DO UPDATE SET last_us=$5, asset_id=$4,"
                     " self_billing=$8,"
                     " report=CASE WHEN $6>=usage_ledgers.at_us THEN $7 ELSE usage_ledgers.report END,"
                     " at_us=CASE WHEN $6>usage_ledgers.at_us THEN $6 ELSE usage_ledgers.at_us END",
                     "ttttuutu", u->contract_id, u->hw_id, u->ledger, u->asset_id, u->received_us, u->at_us,
                     u->text, (uint64_t)u->self_billing);
}

/* What the machine billed by itself is not for the submitter to bill (billing.h). */
static int usage_mark_self_billed(struct cp_store *s, const struct cp_usage_report *u)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < u->self_billed.n; i++)
        r = store_run(s,
                      "INSERT INTO billing_marks SELECT u.contract_id, u.hw_id, u.ledger, -1, u.counter,"
                      " $5-u.base FROM usage_totals u WHERE u.contract_id=$1 AND u.hw_id=$2 AND u.ledger=$3"
                      " AND u.counter=$4 AND $5>u.base"
                      " AND EXISTS (SELECT 1 FROM billing_terms t WHERE t.contract_id=$1)"
                      " ON CONFLICT(contract_id, hw_id, ledger, hour, counter) DO UPDATE SET"
                      " booked=CASE WHEN excluded.booked>billing_marks.booked THEN excluded.booked"
                      " ELSE billing_marks.booked END",
                      "ttttu", u->contract_id, u->hw_id, u->ledger, u->self_billed.v[i].name,
                      u->self_billed.v[i].total);
    return r;
}

static int usage_keep_flagged(struct cp_store *s, const struct cp_usage_report *u, unsigned flags)
{
    char words[64];
    int r;

    snprintf(words, sizeof(words), "%s%s%s%s", flags & CP_USAGE_BACK ? " back" : "",
             flags & CP_USAGE_LATE ? " late" : "", flags & CP_USAGE_CLONE ? " clone" : "",
             flags & CP_USAGE_STRANGER ? " stranger" : "");
    r = store_run(s,
                  "INSERT INTO usage_flags(received_us, contract_id, hw_id, ledger, flags, at_us, report)"
                  " VALUES($1,$2,$3,$4,$5,$6,$7)",
                  "uttttut", u->received_us, u->contract_id, u->hw_id, u->ledger, words + 1, u->at_us,
                  u->text);
    return r < 0 ? r
                 : store_run(s,
                             "DELETE FROM usage_flags" OF_LEDGER
                             " AND id<=(SELECT id FROM usage_flags" OF_LEDGER
                             " ORDER BY id DESC LIMIT 1 OFFSET $4)",
                             "tttu", u->contract_id, u->hw_id, u->ledger, (uint64_t)CP_FLAGGED_MAX);
}

int cp_store_take_usage(struct cp_store *s, const struct cp_usage_report *u, unsigned *ret_flags)
{
    uint64_t at_us;
    bool known;
    int r = usage_find_ledger(s, u, &known, &at_us);

    *ret_flags = known && u->at_us < at_us ? CP_USAGE_LATE : 0;
    if (r == 0 && !known)
        r = usage_find_clone(s, u, ret_flags);
    if (r == 0 && known && !*ret_flags)
        r = usage_find_older_chain(s, u, ret_flags);
    if (r == 0)
        r = usage_raise(s, u, ret_flags);
    if (r == 0)
        r = usage_note_ledger(s, u);
    if (r == 0)
        r = usage_mark_self_billed(s, u);
    return r == 0 && *ret_flags ? usage_keep_flagged(s, u, *ret_flags) : r;
}

int cp_store_keep_stranger(struct cp_store *s, const struct cp_usage_report *u)
{
    _cleanup_free_ struct cp_usage_report *kept = malloc(sizeof(*kept));

    if (!kept)
        return -ENOMEM;
    *kept = *u;
    kept->hw_id[0] = kept->ledger[0] = '\0'; /* whatever it says */
    return usage_keep_flagged(s, kept, CP_USAGE_STRANGER);
}

int cp_store_ledger_machine(struct cp_store *s, const char *contract_id, const char *ledger,
                            char ret[static CP_HW_ID_MAX + 1])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r =
        cp_sql_query(s->c, &rows,
                     "SELECT MIN(hw_id) FROM usage_ledgers WHERE contract_id=$1 AND ledger=$2 AND ledger<>''"
                     " HAVING COUNT(DISTINCT hw_id)=1",
                     "tt", contract_id, ledger);

    ret[0] = '\0';
    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r;
    cp_rows_text(rows, 0, ret, CP_HW_ID_MAX + 1);
    return 0;
}

int cp_store_has_usage(struct cp_store *s, const char *contract_id, const char *hw_id, bool *ret)
{
    int64_t has = 0;
    int r = cp_sql_int(s->c, &has, 0, "SELECT 1 FROM usage_ledgers WHERE contract_id=$1 AND hw_id=$2 LIMIT 1",
                       "tt", contract_id, hw_id);

    *ret = has;
    return r;
}

/* -- reading ----------------------------------------------------------------------------------- */
static int usage_read_totals(struct cp_store *s, struct cp_usage *u)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT counter, total-base FROM usage_totals" OF_LEDGER " ORDER BY counter", "ttt",
                         u->contract_id, u->hw_id, u->ledger);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0 && u->used.n < CP_COUNTERS_MAX) {
        CP_ROWS_TEXT(rows, 0, u->used.v[u->used.n].name);
        u->used.v[u->used.n++].total = (uint64_t)cp_rows_int(rows, 1);
    }
    return MIN(r, 0);
}

static void usage_read(struct cp_rows *r, struct cp_usage *u)
{
    *u = (struct cp_usage){.first_us = (uint64_t)cp_rows_int(r, 4),
                           .last_us = (uint64_t)cp_rows_int(r, 5),
                           .at_us = (uint64_t)cp_rows_int(r, 6),
                           .flagged = (uint64_t)cp_rows_int(r, 8)};
    CP_ROWS_TEXT(r, 0, u->contract_id);
    CP_ROWS_TEXT(r, 1, u->hw_id);
    CP_ROWS_TEXT(r, 2, u->ledger);
    CP_ROWS_TEXT(r, 3, u->asset_id);
    CP_ROWS_TEXT(r, 7, u->report);
    CP_ROWS_TEXT(r, 9, u->last_flags);
}

static int usage_each_stranger(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_usage u;
    int r = cp_sql_query(
        s->c, &rows,
        "SELECT f.contract_id, '', '', '', n.first, f.received_us, f.at_us, f.report, n.kept, f.flags"
        " FROM usage_flags f JOIN (SELECT contract_id, max(id) AS last, min(received_us) AS first,"
        " count(*) AS kept FROM usage_flags WHERE hw_id='' AND ledger='' GROUP BY contract_id) n"
        " ON f.id=n.last ORDER BY 1",
        "");

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        usage_read(rows, &u);
        r = fn(&u, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_each_usage(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_usage u;
    int r = cp_sql_query(
        s->c, &rows,
        "SELECT contract_id, hw_id, ledger, asset_id, first_us, last_us, at_us, report,"
        " (SELECT count(*) FROM usage_flags f WHERE f.contract_id=l.contract_id AND f.hw_id=l.hw_id"
        " AND f.ledger=l.ledger),"
        " (SELECT flags FROM usage_flags f WHERE f.contract_id=l.contract_id AND f.hw_id=l.hw_id"
        " AND f.ledger=l.ledger ORDER BY id DESC LIMIT 1)"
        " FROM usage_ledgers l ORDER BY 1, 2, 3",
        "");

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        usage_read(rows, &u);
        r = usage_read_totals(s, &u);
        if (r == 0)
            r = fn(&u, ctx);
        if (r != 0)
            return r;
    }
    return r < 0 ? r : usage_each_stranger(s, fn, ctx);
}
