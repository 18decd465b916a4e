/* SPDX-License-Identifier: Apache-2.0 */
/* usage, log, changes */
#include <inttypes.h>
#include <string.h>

#include "common/units.h"
#include "controlplane/admin/call.h"

#define HOUR_US (3600ULL * TB_USEC_PER_SEC)
#define EXPORT_LINES_MAX 10000
#define EXPORT_BYTES (4 * 1024 * 1024) /* no line begins behind these */

/* -- usage ------------------------------------------------------------------------------------- */
struct usage_sheet {
    struct cp_call *c;
    bool csv;
    cJSON *array, *used; /* of the group that was the last one */
    struct cp_usage_sum last;
};

static bool usage_same_group(const struct cp_usage_sum *a, const struct cp_usage_sum *b)
{
    return strcmp(a->contract_id, b->contract_id) == 0 && strcmp(a->hw_id, b->hw_id) == 0 &&
           strcmp(a->asset_id, b->asset_id) == 0;
}

/* A field of CSV (RFC 4180). A name may hold whatever is printable: a spreadsheet would run one that begins
 * as a formula does. */
static void usage_put_field(struct tb_buf *b, const char *s)
{
    bool quoted = strpbrk(s, "\",") || (*s && strchr("=+-@", *s));

    if (!quoted) {
        tb_buf_puts(b, s);
        return;
    }
    tb_buf_puts(b, *s && strchr("=+-@", *s) ? "\"'" : "\"");
    for (; *s; s++) {
        if (*s == '"')
            tb_buf_puts(b, "\"");
        tb_buf_append(b, s, 1);
    }
    tb_buf_puts(b, "\"");
}

static int usage_put_line(const struct cp_usage_sum *u, struct tb_buf *b)
{
    const char *const fields[] = {u->contract_id, u->hw_id, u->asset_id, u->counter};

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        usage_put_field(b, fields[i]);
        tb_buf_puts(b, ",");
    }
    tb_buf_uint(b, u->used);
    return tb_buf_puts(b, "\r\n");
}

static int usage_put_sum(const struct cp_usage_sum *u, void *ctx)
{
    struct usage_sheet *h = ctx;

    if (h->csv)
        return usage_put_line(u, &h->c->text);
    if (!h->used || !usage_same_group(u, &h->last)) {
        cJSON *o = cJSON_CreateObject();

        if (!o || !cJSON_AddItemToArray(h->array, o))
            return -ENOMEM;
        cJSON_AddStringToObject(o, "contract_id", u->contract_id);
        if (*u->hw_id)
            cJSON_AddStringToObject(o, "hw_id", u->hw_id);
        if (*u->asset_id)
            cJSON_AddStringToObject(o, "asset_id", u->asset_id);
        h->used = cJSON_AddObjectToObject(o, "used");
        h->last = *u;
    }
    return h->used && tb_json_add_uint(h->used, u->counter, u->used) == 0 ? 0 : -ENOMEM;
}

/* Hours that begin at or behind the time. */
static int usage_read_hour(struct cp_call *c, const char *name, int64_t fallback, int64_t *ret)
{
    const char *text = cp_query_text(c, name);
    uint64_t us;

    *ret = fallback;
    if (!*text)
        return 0;
    if (tb_rfc3339_parse(text, &us) < 0)
        return cp_refuse_body(c, "the parameter %s is not a time like 2026-12-31T00:00:00Z", name);
    *ret = (int64_t)((us + HOUR_US - 1) / HOUR_US);
    return 0;
}

static int usage_read_query(struct cp_call *c, struct cp_usage_query *q, const char **ret_format)
{
    static const char *const bys[] = {"contract", "machine", "key", "asset", NULL}, *const formats[] = {
                                                                                        "json", "csv", NULL};
    const char *by = "";
    int r = cp_query_only(c, "from", "to", "by", "contract_id", "format");

    if (r == 0)
        r = cp_query_word(c, "by", bys, &by);
    if (r == 0)
        r = cp_query_word(c, "format", formats, ret_format);
    if (r == 0)
        r = cp_query_contract(c, &q->contract_id);
    if (r == 0)
        r = usage_read_hour(c, "from", 0, &q->from_hour);
    if (r == 0)
        r = usage_read_hour(c, "to", INT64_MAX, &q->to_hour);
    if (r == 0 && q->from_hour > q->to_hour)
        r = cp_refuse_body(c, "the parameter to is before from");
    if (r < 0)
        return r;
    q->all_time = !*cp_query_text(c, "from") && !*cp_query_text(c, "to");
    for (unsigned i = 0; bys[i]; i++)
        if (strcmp(bys[i], by) == 0)
            q->by = (enum cp_usage_by)MIN(i, CP_USAGE_BY_KEY); /* an asset's key is the asset's */
    return 0;
}

int cp_admin_usage(struct cp_store *s, struct cp_call *c)
{
    struct usage_sheet h = {.c = c};
    struct cp_usage_query q = {.by = CP_USAGE_BY_CONTRACT};
    const char *format = "";
    int r = usage_read_query(c, &q, &format);

    if (r < 0)
        return r;
    h.csv = strcmp(format, "csv") == 0;
    if (h.csv) {
        c->status = 200;
        c->content_type = "text/csv; charset=utf-8";
        tb_buf_puts(&c->text, "contract_id,hw_id,asset_id,counter,used\r\n");
    } else {
        h.array = cJSON_AddArrayToObject(cp_say(c, 200), "usage");
        if (!h.array)
            return -ENOMEM;
    }
    r = cp_store_each_usage_sum(s, &q, usage_put_sum, &h);
    return r < 0 ? r : tb_buf_error(&c->text);
}

/* -- verdicts ---------------------------------------------------------------------------------- */
static int verdict_row(const struct cp_log_entry *e, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_verdict(o, e);
        snprintf(l->last, sizeof(l->last), "%" PRIu64, e->id);
    }
    return r;
}

int cp_admin_log_list(struct cp_store *s, struct cp_call *c)
{
    const char *contract = "";
    struct cp_listing l;
    uint64_t before = 0;
    int r = cp_query_only(c, "limit", "after", "contract_id");

    if (r == 0)
        r = cp_query_contract(c, &contract);
    if (r == 0)
        r = cp_query_uint(c, "after", 1, INT64_MAX, 0, &before);
    if (r == 0)
        r = cp_listing_begin(c, "log", &l);
    return r < 0 ? r
                 : cp_listing_end(&l, cp_store_page_log(s, contract, before, l.limit + 1, verdict_row, &l));
}

/* -- changes ----------------------------------------------------------------------------------- */
static int change_row(const char *line, void *ctx)
{
    struct cp_listing *l = ctx;
    cJSON *o, *change;
    int r;

    l->more = l->n == l->limit;
    if (l->more)
        return 1;
    change = cJSON_Parse(line);
    o = tb_json_member(change, "seq") ? change : NULL;
    r = o && cJSON_AddItemToArray(l->array, change) ? 0 : -ENOMEM;
    if (r < 0) {
        cJSON_Delete(change);
        return r;
    }
    l->n++;
    snprintf(l->last, sizeof(l->last), "%.0f", tb_json_member(o, "seq")->valuedouble);
    return 0;
}

int cp_admin_change_list(struct cp_store *s, struct cp_call *c)
{
    struct cp_listing l;
    uint64_t after = 0;
    int r = cp_query_only(c, "limit", "after");

    if (r == 0)
        r = cp_query_uint(c, "after", 1, TB_JSON_INT_MAX, 0, &after);
    if (r == 0)
        r = cp_listing_begin(c, "changes", &l);
    return r < 0 ? r : cp_listing_end(&l, cp_store_page_changes(s, after + 1, l.limit + 1, change_row, &l));
}

static int change_put_line(const char *line, void *ctx)
{
    struct tb_buf *b = ctx;

    tb_buf_puts(b, line);
    tb_buf_puts(b, "\n");
    return tb_buf_error(b) < 0 ? tb_buf_error(b) : b->len > EXPORT_BYTES;
}

int cp_admin_change_export(struct cp_store *s, struct cp_call *c)
{
    uint64_t from = 1;
    int r = cp_query_only(c, "from");

    if (r == 0)
        r = cp_query_uint(c, "from", 1, TB_JSON_INT_MAX, 1, &from);
    if (r < 0)
        return r;
    c->status = 200;
    c->content_type = "application/x-ndjson";
    r = cp_store_page_changes(s, from, EXPORT_LINES_MAX, change_put_line, &c->text);
    return r < 0 ? r : tb_buf_error(&c->text);
}
