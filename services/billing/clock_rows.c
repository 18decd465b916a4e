/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/clock_rows.h"

#include <inttypes.h>
#include <string.h>

#include "common/json.h"

int billing_anchor_read(struct tb_ledger *l, struct billing_anchor *ret)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    struct billing_anchor a = {0};
    char text[160] = "", source[16];
    int r = tb_db_prepare(l->db, &s, "SELECT value FROM meta WHERE key = 'clock'", NULL);

    *ret = a;
    if (r == 0)
        r = tb_db_step(s);
    if (r <= 0)
        return r;
    tb_db_column_text(s, 0, text, sizeof(text));
    if (sscanf(text, "%36s %" SCNu64 " %" SCNu64 " %15s", a.boot_id, &a.boot_us, &a.real_us, source) == 4 &&
        billing_clock_source_from_name(source, &a.source))
        *ret = a;
    if (strcmp(ret->boot_id, "-") == 0) /* not known: it is of no boot that there will be */
        *ret = (struct billing_anchor){0};
    return 0;
}

int billing_anchor_write(struct tb_ledger *l, const struct billing_anchor *a)
{
    char text[160];
    int r;

    snprintf(text, sizeof(text), "%s %" PRIu64 " %" PRIu64 " %s", *a->boot_id ? a->boot_id : "-", a->boot_us,
             a->real_us, billing_clock_source_name(a->source));
    r = tb_db_run(
        l->db, "INSERT INTO meta VALUES ('clock', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        "t", text);
    return r < 0 ? r : 0;
}

int billing_step_add(struct tb_ledger *l, const char *event, uint64_t at_us, int64_t off_us)
{
    int r = tb_db_run(l->db, "INSERT INTO step (at, event, off) VALUES (?1, ?2, ?3)", "iti",
                      (int64_t)(at_us / TB_USEC_PER_SEC), event, off_us / (int64_t)TB_USEC_PER_SEC);

    return r < 0 ? r : 0;
}

/* A ledger of an older version that no daemon has opened since has no such table: then *ret is NULL. */
static int steps_select(struct tb_ledger *l, sqlite3_stmt **ret)
{
    int64_t there;
    int r =
        tb_db_int(l->db, &there, 0,
                  "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'step')", NULL);

    *ret = NULL;
    return r < 0 || !there
               ? r
               : tb_db_prepare(l->db, ret, "SELECT at, event, off FROM step ORDER BY rowid", NULL);
}

static const char *step_time(sqlite3_stmt *s, char out[static TB_RFC3339_MAX])
{
    return tb_rfc3339_format((uint64_t)sqlite3_column_int64(s, 0) * TB_USEC_PER_SEC, 0, out);
}

int billing_steps_print(struct tb_ledger *l, FILE *out)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    char at[TB_RFC3339_MAX];
    bool any = false;
    int r = steps_select(l, &s);

    while (s && r >= 0 && (r = tb_db_step(s)) > 0) {
        if (!any)
            fprintf(out, "\n%-20s  %-18s %20s\n", "TIME (UTC)", "CLOCK", "WRONG BY (s)");
        any = true;
        fprintf(out, "%-20s  %-18s %20lld\n", step_time(s, at), sqlite3_column_text(s, 1),
                sqlite3_column_int64(s, 2));
    }
    return MIN(r, 0);
}

int billing_steps_add(struct tb_ledger *l, cJSON *o)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    char at[TB_RFC3339_MAX];
    cJSON *list = NULL;
    int r = steps_select(l, &s);

    while (s && r >= 0 && (r = tb_db_step(s)) > 0) {
        cJSON *row = cJSON_CreateObject();

        list = list ? list : cJSON_AddArrayToObject(o, "clock_steps");
        cJSON_AddStringToObject(row, "at", step_time(s, at));
        cJSON_AddStringToObject(row, "event", (const char *)sqlite3_column_text(s, 1));
        cJSON_AddNumberToObject(row, "off_seconds", (double)sqlite3_column_int64(s, 2));
        cJSON_AddItemToArray(list, row);
    }
    return MIN(r, 0);
}
