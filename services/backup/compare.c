/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/compare.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "backup/ledger.h"
#include "common/chain_head.h"
#include "common/hex.h"

#define USAGE_EPOCH_AT 8
#define USAGE_EPOCH_BYTES 16
#define USAGE_VALUES_AT 24

void backup_counters_of(const struct backup_set *s, struct backup_counters *ret)
{
    const struct backup_member *m = backup_set_find(s, BACKUP_USAGE);

    *ret = (struct backup_counters){0};
    if (!m || m->len < USAGE_VALUES_AT + sizeof(ret->usage.value) || memcmp(m->data, "TBUSAGE1", 8) != 0)
        return;
    ret->present = true;
    tb_hex_encode((const uint8_t *)m->data + USAGE_EPOCH_AT, USAGE_EPOCH_BYTES, ret->usage.epoch);
    memcpy(ret->usage.value, m->data + USAGE_VALUES_AT, sizeof(ret->usage.value));
}

static void newer_add(struct backup_newer *n, const char *fmt, ...) _printf_(2, 3);
static void newer_add(struct backup_newer *n, const char *fmt, ...)
{
    size_t at = strlen(n->text);
    va_list ap;

    if (at > 0 && at + 2 < sizeof(n->text)) {
        strcat(n->text, ", ");
        at += 2;
    }
    va_start(ap, fmt);
    vsnprintf(n->text + at, sizeof(n->text) - at, fmt, ap);
    va_end(ap);
}

/* -- the ledger ------------------------------------------------------------------------------------------ */

static int newer_rows(sqlite3 *db, struct backup_newer *n)
{
    static const char sql[] =
        "SELECT h.counter, sum(h.value - coalesce(t.value, 0)) FROM main.booked h"
        " LEFT JOIN there.booked t USING (epoch, counter) WHERE h.value > coalesce(t.value, 0)"
        " GROUP BY h.counter ORDER BY h.counter";
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(db, &s, sql, NULL);

    while (r >= 0 && (r = tb_db_step(s)) > 0) {
        char counter[64];

        tb_db_column_text(s, 0, counter, sizeof(counter));
        n->ledger = true;
        newer_add(n, "%lld %s booked", (long long)sqlite3_column_int64(s, 1), counter);
    }
    return r;
}

/* What the marketplace was told, or what a person has settled. */
static int newer_events(sqlite3 *db, struct backup_newer *n)
{
    static const char sql[] =
        "SELECT count(*) FROM main.event h LEFT JOIN there.event t USING (hour, dimension)"
        " WHERE h.state NOT IN ('OPEN', 'FROZEN') AND (t.hour IS NULL OR t.state IS NOT h.state"
        " OR t.quantity IS NOT h.quantity OR t.accepted IS NOT h.accepted)";
    int64_t count, ended;
    int r = tb_db_int(db, &count, 0, sql, NULL);

    if (r == 0)
        r = tb_db_int(db, &ended, 0,
                      "SELECT count(*) FROM main.meta WHERE key = 'ended'"
                      " AND NOT EXISTS (SELECT 1 FROM there.meta WHERE key = 'ended')",
                      NULL);
    if (r < 0)
        return r;
    if (count > 0)
        newer_add(n, "%" PRId64 " events that the marketplace was told of", count);
    if (ended > 0)
        newer_add(n, "the end of the subscription");
    n->ledger = n->ledger || count > 0 || ended > 0;
    return 0;
}

static int newer_ledger(const struct backup_member *here, const struct backup_member *there,
                        struct backup_newer *n, char err[static 256])
{
    _cleanup_db_ sqlite3 *db = NULL;
    int r = tb_db_open(":memory:", SQLITE_OPEN_READWRITE, &db, err);

    if (r == 0)
        r = backup_ledger_attach(db, "main", here, err);
    if (r == 0 && there)
        r = backup_ledger_attach(db, "there", there, err);
    else if (r == 0)
        r = tb_db_exec(db, "ATTACH ':memory:' AS there; CREATE TABLE there.booked (epoch, counter, value);"
                           "CREATE TABLE there.event (hour, dimension, state, quantity, accepted);"
                           "CREATE TABLE there.meta (key, value)");
    if (r == 0)
        r = newer_rows(db, n);
    if (r == 0)
        r = newer_events(db, n);
    return r < 0 ? tb_db_error(db, r, "comparing the ledgers", err) : 0;
}

/* -- counters, audit ------------------------------------------------------------------------------------- */

static void newer_counters(const struct backup_set *here, const struct backup_set *there,
                           struct backup_newer *n)
{
    struct backup_counters h, t;

    backup_counters_of(here, &h);
    backup_counters_of(there, &t);
    for (int c = 0; h.present && c < _TB_USAGE_MAX; c++) {
        uint64_t known = t.present && strcmp(t.usage.epoch, h.usage.epoch) == 0 ? t.usage.value[c] : 0;

        if (h.usage.value[c] <= known)
            continue;
        n->counters = true;
        newer_add(n, "%" PRIu64 " %s counted", h.usage.value[c] - known,
                  tb_usage_name((enum tb_usage_counter)c));
    }
}

uint64_t backup_audit_seq(const struct backup_set *s)
{
    const struct backup_member *m = backup_set_find(s, BACKUP_HEAD);

    return m && m->len == TB_CHAIN_HEAD_BYTES ? tb_chain_head_seq(m->data) : 0;
}

int backup_compare(const struct backup_set *here, const struct backup_set *there, struct backup_newer *ret,
                   char err[static 256])
{
    const struct backup_member *ledger = backup_set_find(here, BACKUP_LEDGER);
    uint64_t seq = backup_audit_seq(here), known = backup_audit_seq(there);
    int r = 0;

    *ret = (struct backup_newer){0};
    err[0] = '\0';
    if (ledger)
        r = newer_ledger(ledger, backup_set_find(there, BACKUP_LEDGER), ret, err);
    if (r < 0)
        return r;
    newer_counters(here, there, ret);
    ret->audit = seq > known;
    if (ret->audit)
        newer_add(ret, "%" PRIu64 " audit records", seq - known);
    return 0;
}

int backup_counters_fit(const struct backup_set *here, const struct backup_set *there, char err[static 256])
{
    const struct backup_member *ledger = backup_set_find(there, BACKUP_LEDGER);
    _cleanup_db_ sqlite3 *db = NULL;
    struct backup_counters h;
    int r;

    backup_counters_of(here, &h);
    if (!h.present || !ledger) {
        snprintf(err, 256, "%s has no %s", h.present ? "the backup" : "this machine",
                 h.present ? "ledger" : "counters");
        return -ESTALE;
    }
    r = tb_db_open(":memory:", SQLITE_OPEN_READWRITE, &db, err);
    if (r == 0)
        r = backup_ledger_attach(db, "main", ledger, err);
    for (int c = 0; r == 0 && c < _TB_USAGE_MAX; c++) {
        int64_t booked;

        r = tb_db_int(db, &booked, 0, "SELECT value FROM booked WHERE epoch = ?1 AND counter = ?2", "tt",
                      h.usage.epoch, tb_usage_name((enum tb_usage_counter)c));
        if (r == 0 && (uint64_t)booked > h.usage.value[c]) {
            snprintf(err, 256, "the backup has booked more %s than this machine has counted",
                     tb_usage_name((enum tb_usage_counter)c));
            return -ESTALE;
        }
    }
    return r < 0 ? tb_db_error(db, r, "comparing", err) : 0;
}
