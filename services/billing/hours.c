/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/hours.h"

#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/secret.h"

int billing_ledger_id(struct tb_ledger *l, char out[static BILLING_LEDGER_ID_MAX])
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    uint8_t id[(BILLING_LEDGER_ID_MAX - 1) / 2];
    int r = tb_db_prepare(l->db, &s, "SELECT value FROM meta WHERE key = 'id'", NULL);

    if (r == 0)
        r = tb_db_step(s);
    if (r > 0)
        tb_db_column_text(s, 0, out, BILLING_LEDGER_ID_MAX);
    if (r != 0)
        return MIN(r, 0);
    r = tb_random(id, sizeof(id));
    if (r < 0)
        return r;
    tb_hex_encode(id, sizeof(id), out);
    r = tb_db_run(l->db, "INSERT INTO meta VALUES ('id', ?1)", "t", out);
    return MIN(r, 0);
}

static size_t hours_length(const cJSON *report)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(report);

    return text ? strlen(text) : SIZE_MAX;
}

/* One row of the query: goes into the last hour of the array, or begins the next. */
static void hours_add_row(cJSON *hours, sqlite3_stmt *s, int64_t *hour)
{
    cJSON *o = cJSON_GetArrayItem(hours, cJSON_GetArraySize(hours) - 1);
    char text[TB_RFC3339_MAX], counter[32];

    if (!o || sqlite3_column_int64(s, 0) != *hour) {
        *hour = sqlite3_column_int64(s, 0);
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "hour", tb_metering_hour_text(*hour, text));
        cJSON_AddObjectToObject(o, "used");
        cJSON_AddItemToArray(hours, o);
    }
    tb_db_column_text(s, 1, counter, sizeof(counter));
    tb_json_add_uint(cJSON_GetObjectItemCaseSensitive(o, "used"), counter,
                     (uint64_t)sqlite3_column_int64(s, 2));
}

int billing_hours_add(struct tb_ledger *l, uint64_t realtime_us, size_t max, cJSON *report)
{
    int64_t now = (int64_t)(realtime_us / TB_USEC_PER_HOUR), hour = -1;
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    cJSON *hours = cJSON_AddArrayToObject(report, "hours");
    int r = tb_db_prepare(l->db, &s,
                          "SELECT hour, counter, quantity FROM used WHERE hour > ?1 AND quantity > 0"
                          " ORDER BY hour DESC, counter",
                          "i", now - BILLING_HOURS_MAX);

    if (r < 0)
        return r;
    while ((r = tb_db_step(s)) > 0)
        hours_add_row(hours, s, &hour);
    while (cJSON_GetArraySize(hours) > 0 && hours_length(report) > max)
        cJSON_DeleteItemFromArray(hours, cJSON_GetArraySize(hours) - 1);
    return r;
}
