/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "billing/clock_rows.h"
#include "common/json.h"
#include "billing/metering.h"

int tb_metering_summarise(struct tb_ledger *l, struct tb_metering_summary *ret)
{
    static const char sql[] = "SELECT total(state = 'OPEN'), total(state = 'FROZEN'), total(state = 'SENT'), "
                              "total(state = 'ACCEPTED'),"
                              " total(state = 'PARKED'), total(state = 'PARKED' AND doubt),"
                              " coalesce(min(CASE WHEN state != 'ACCEPTED' THEN since END), -1),"
                              " coalesce(max(CASE WHEN state = 'ACCEPTED' THEN hour END), -1) FROM event";
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(l->db, &s, sql, NULL);

    if (r == 0)
        r = tb_db_step(s);
    if (r <= 0)
        return r < 0 ? r : -EIO;
    *ret = (struct tb_metering_summary){.open = (unsigned)sqlite3_column_int(s, 0),
                                        .frozen = (unsigned)sqlite3_column_int(s, 1),
                                        .sent = (unsigned)sqlite3_column_int(s, 2),
                                        .accepted = (unsigned)sqlite3_column_int(s, 3),
                                        .parked = (unsigned)sqlite3_column_int(s, 4),
                                        .doubt = (unsigned)sqlite3_column_int(s, 5),
                                        .oldest = sqlite3_column_int64(s, 6),
                                        .last_accepted = sqlite3_column_int64(s, 7)};
    return 0;
}

uint64_t tb_metering_late_us(const struct tb_metering_summary *s, uint64_t realtime_us)
{
    return tb_metering_age_us(s->oldest, realtime_us);
}

static cJSON *used_json(sqlite3_stmt *s)
{
    cJSON *o = cJSON_CreateObject();
    char hour[TB_RFC3339_MAX];

    cJSON_AddStringToObject(o, "hour", tb_metering_hour_text(sqlite3_column_int64(s, 0), hour));
    cJSON_AddStringToObject(o, "counter", (const char *)sqlite3_column_text(s, 1));
    tb_json_add_uint(o, "quantity", (uint64_t)sqlite3_column_int64(s, 2));
    return o;
}

static cJSON *event_json(sqlite3_stmt *s, uint64_t realtime_us)
{
    const char *state = (const char *)sqlite3_column_text(s, 3),
               *reason = (const char *)sqlite3_column_text(s, 8);
    cJSON *o = cJSON_CreateObject();
    char hour[TB_RFC3339_MAX];

    cJSON_AddStringToObject(o, "hour", tb_metering_hour_text(sqlite3_column_int64(s, 0), hour));
    cJSON_AddStringToObject(o, "dimension", (const char *)sqlite3_column_text(s, 1));
    tb_json_add_uint(o, "quantity", (uint64_t)sqlite3_column_int64(s, 2));
    cJSON_AddStringToObject(o, "state", state);
    cJSON_AddBoolToObject(o, "doubt", sqlite3_column_int(s, 4));
    cJSON_AddStringToObject(o, "since", tb_metering_hour_text(sqlite3_column_int64(s, 5), hour));
    tb_json_add_uint(o, "late_seconds",
                     strcmp(state, "ACCEPTED") == 0
                         ? 0
                         : tb_metering_age_us(sqlite3_column_int64(s, 5), realtime_us) / TB_USEC_PER_SEC);
    tb_json_add_uint(o, "tries", (uint64_t)sqlite3_column_int64(s, 6));
    if (sqlite3_column_type(s, 7) != SQLITE_NULL)
        tb_json_add_uint(o, "accepted", (uint64_t)sqlite3_column_int64(s, 7));
    if (reason)
        cJSON_AddStringToObject(o, "reason", reason);
    return o;
}

static void used_line(FILE *out, sqlite3_stmt *s)
{
    char hour[TB_RFC3339_MAX];

    fprintf(out, "%-20s  %-18s %20lld\n", tb_metering_hour_text(sqlite3_column_int64(s, 0), hour),
            sqlite3_column_text(s, 1), sqlite3_column_int64(s, 2));
}

static void event_line(FILE *out, sqlite3_stmt *s, uint64_t realtime_us)
{
    const char *state = (const char *)sqlite3_column_text(s, 3),
               *reason = (const char *)sqlite3_column_text(s, 8);
    uint64_t late =
        strcmp(state, "ACCEPTED") == 0 ? 0 : tb_metering_age_us(sqlite3_column_int64(s, 5), realtime_us);
    bool doubt = sqlite3_column_int(s, 4) && strcmp(state, "PARKED") == 0;
    char hour[TB_RFC3339_MAX], lateness[24] = "";

    if (late > 0)
        snprintf(lateness, sizeof(lateness), "%lluh%02llum", (unsigned long long)late / TB_USEC_PER_HOUR,
                 (unsigned long long)late / (60 * TB_USEC_PER_SEC) % 60);
    fprintf(out, "%-20s  %-18s %20lld  %-8s %8s%s%s%s\n",
            tb_metering_hour_text(sqlite3_column_int64(s, 0), hour), sqlite3_column_text(s, 1),
            sqlite3_column_int64(s, 2), state, lateness, reason || doubt ? "  " : "",
            doubt ? "IN DOUBT: " : "", reason ? reason : "");
}

static int each_row(struct tb_ledger *l, bool events, FILE *out, cJSON *list, uint64_t realtime_us)
{
    static const char used[] = "SELECT hour, counter, quantity FROM used ORDER BY hour, counter";
    static const char event[] =
        "SELECT hour, dimension, quantity, state, doubt, since, tries, accepted, reason"
        " FROM event ORDER BY hour, dimension";
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(l->db, &s, events ? event : used, NULL);

    if (r < 0)
        return r;
    while ((r = tb_db_step(s)) > 0) {
        if (list)
            cJSON_AddItemToArray(list, events ? event_json(s, realtime_us) : used_json(s));
        else if (events)
            event_line(out, s, realtime_us);
        else
            used_line(out, s);
    }
    return r;
}

static int print_json(struct tb_ledger *l, FILE *out, uint64_t realtime_us, const char *ended)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *used = cJSON_AddArrayToObject(o, "used"), *events = cJSON_AddArrayToObject(o, "events");
    _cleanup_free_ char *text = NULL;
    int r;

    if (*ended)
        cJSON_AddStringToObject(o, "ended", ended);
    r = each_row(l, false, out, used, realtime_us);
    if (r == 0)
        r = each_row(l, true, out, events, realtime_us);
    if (r == 0)
        r = billing_steps_add(l, o);
    if (r < 0)
        return r;
    text = cJSON_PrintUnformatted(o);
    if (!text)
        return -ENOMEM;
    fprintf(out, "%s\n", text);
    return 0;
}

static int print_tables(struct tb_ledger *l, FILE *out, uint64_t realtime_us, const char *ended)
{
    int r;

    if (*ended)
        fprintf(out, "The subscription has ended: %s\n\n", ended);
    fprintf(out, "%-20s  %-18s %20s\n", "HOUR (UTC)", "USED", "QUANTITY");
    r = each_row(l, false, out, NULL, realtime_us);
    fprintf(out, "\n%-20s  %-18s %20s  %-8s %8s\n", "HOUR (UTC)", "BILLED BY", "QUANTITY", "STATE", "LATE");
    if (r == 0)
        r = each_row(l, true, out, NULL, realtime_us);
    return r < 0 ? r : billing_steps_print(l, out);
}

int tb_metering_print(struct tb_ledger *l, FILE *out, bool json, uint64_t realtime_us,
                      char err[static TB_LEDGER_ERR_MAX])
{
    char ended[TB_METERING_REASON_MAX];
    int r = tb_metering_ended(l, ended);

    err[0] = '\0';
    if (r == 0)
        r = json ? print_json(l, out, realtime_us, ended) : print_tables(l, out, realtime_us, ended);
    return r < 0 ? tb_db_error(l->db, r, "reading", err) : 0;
}

/* -- what the marketplace does not have ------------------------------------------------------------------ */

static int unreported_events(struct tb_ledger *l, FILE *out, uint64_t realtime_us, bool *ret_any)
{
    static const char sql[] = "SELECT hour, dimension, quantity, state, doubt, since, tries, accepted, reason"
                              " FROM event WHERE state != 'ACCEPTED' ORDER BY hour, dimension";
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(l->db, &s, sql, NULL);

    *ret_any = false;
    if (r < 0)
        return r;
    while ((r = tb_db_step(s)) > 0) {
        if (!*ret_any)
            fprintf(out, "Not accepted by the marketplace:\n");
        *ret_any = true;
        event_line(out, s, realtime_us);
    }
    return r;
}

static int unreported_counter(struct tb_ledger *l, FILE *out, const struct tb_usage_snapshot *u,
                              enum tb_usage_counter c, bool *any)
{
    int64_t booked;
    int r = tb_db_int(l->db, &booked, 0, "SELECT value FROM booked WHERE epoch = ?1 AND counter = ?2", "tt",
                      u->epoch, tb_usage_name(c));

    if (r < 0 || u->value[c] <= (uint64_t)booked)
        return r;
    if (!*any)
        fprintf(out, "Counted by tb-proxy and not booked yet:\n");
    *any = true;
    fprintf(out, "  %-18s %20llu\n", tb_usage_name(c), (unsigned long long)(u->value[c] - (uint64_t)booked));
    return 0;
}

/* A ledger that bills nobody: the provider knows its totals from the usage reports. */
static int unreported_totals(struct tb_ledger *l, FILE *out, bool *ret_any)
{
    *ret_any = false;
    for (int c = 0; c < _TB_USAGE_MAX; c++) {
        uint64_t total;
        int r = tb_ledger_total(l, (enum tb_usage_counter)c, &total);

        if (r < 0)
            return r;
        if (total == 0)
            continue;
        if (!*ret_any)
            fprintf(out,
                    "This machine bills nothing by itself; its provider is told with each renewal of the "
                    "lease. Booked in all:\n");
        *ret_any = true;
        fprintf(out, "  %-18s %20llu\n", tb_usage_name((enum tb_usage_counter)c), (unsigned long long)total);
    }
    return 0;
}

int tb_metering_print_unreported(struct tb_ledger *l, FILE *out, const struct tb_usage_snapshot *u,
                                 uint64_t realtime_us, char err[static TB_LEDGER_ERR_MAX])
{
    bool events, totals = false, counted = false;
    int64_t billed = 0;
    int r = unreported_events(l, out, realtime_us, &events);

    err[0] = '\0';
    if (r >= 0)
        r = tb_db_int(l->db, &billed, 0, "SELECT count(*) FROM event", NULL);
    if (r >= 0 && billed == 0)
        r = unreported_totals(l, out, &totals);
    for (int c = 0; r >= 0 && u && c < _TB_USAGE_MAX; c++)
        r = unreported_counter(l, out, u, (enum tb_usage_counter)c, &counted);
    if (r < 0)
        return tb_db_error(l->db, r, "reading", err);
    if (!events && !totals && !counted)
        fprintf(out, "All usage is reported.\n");
    return 0;
}
