/* SPDX-License-Identifier: Apache-2.0 */
#include "audit/report.h"

#include <inttypes.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/secret.h"

static void report_print_problem(const struct tb_audit_problem *p)
{
    if (p->source)
        printf("%s:%" PRIu64 ": ", p->source, p->line);
    printf("%s: %s\n", tb_audit_problem_name(p->kind), p->text);
}

void tb_report_text(const struct tb_verify *v)
{
    for (size_t i = 0; i < MIN(v->n_problems, TB_VERIFY_PROBLEMS_MAX); i++)
        report_print_problem(&v->problem[i]);
    if (v->n_problems > TB_VERIFY_PROBLEMS_MAX)
        printf("... and %" PRIu64 " more\n", v->n_problems - TB_VERIFY_PROBLEMS_MAX);
    if (v->foreign > 0)
        printf("note: %" PRIu64 " audit entries were not written by tb-proxy.service; they do not count\n",
               v->foreign);
    if (v->stops > 0)
        printf("note: killed or stopped while records waited: %" PRIu64 " times; at most %" PRIu64
               " requests have no record\n",
               v->stops, v->lost_max);
    if (v->excused > 0)
        printf("note: %" PRIu64 " records that were being written then are missing\n", v->excused);
    if (v->requests > v->records)
        printf("note: the records stand for %" PRIu64
               " requests: many that were refused without a key share one\n",
               v->requests);
    printf("%s: %" PRIu64 " records", v->n_problems > 0 ? "NOT INTACT" : "intact", v->records);
    if (v->records > 0)
        printf(", %" PRIu64 " to %" PRIu64 ", %s to %s", v->first_seq, v->last.seq, v->first_ts, v->last_ts);
    printf("%s\n", v->n_anchors == 0 ? "; whether the end was cut off is not known" : "");
}

static int report_add_record(cJSON *doc, const char *name, uint64_t seq, const char *ts)
{
    cJSON *o = cJSON_AddObjectToObject(doc, name);

    return o && tb_json_add_uint(o, "seq", seq) >= 0 && cJSON_AddStringToObject(o, "ts", ts) ? 0 : -ENOMEM;
}

static int report_add_problem(cJSON *list, const struct tb_audit_problem *p)
{
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddItemToArray(list, o))
        return -ENOMEM;
    if (p->source &&
        (!cJSON_AddStringToObject(o, "file", p->source) || tb_json_add_uint(o, "line", p->line) < 0))
        return -ENOMEM;
    return cJSON_AddStringToObject(o, "kind", tb_audit_problem_name(p->kind)) &&
                   tb_json_add_uint(o, "seq", p->seq) >= 0 && cJSON_AddStringToObject(o, "text", p->text)
               ? 0
               : -ENOMEM;
}

static int report_fill(cJSON *doc, const struct tb_verify *v)
{
    char hash[2 * TB_CHAIN_HASH_BYTES + 1];
    cJSON *list;
    int r = 0;

    tb_hex_encode(v->last.hash, sizeof(v->last.hash), hash);
    if (!cJSON_AddBoolToObject(doc, "intact", v->n_problems == 0) ||
        !cJSON_AddBoolToObject(doc, "end_checked", v->n_anchors > 0) ||
        tb_json_add_uint(doc, "records", v->records) < 0 ||
        tb_json_add_uint(doc, "requests", v->requests) < 0)
        return -ENOMEM;
    if (v->records > 0 && (report_add_record(doc, "first", v->first_seq, v->first_ts) < 0 ||
                           report_add_record(doc, "last", v->last.seq, v->last_ts) < 0 ||
                           !cJSON_AddStringToObject(doc, "head", hash)))
        return -ENOMEM;
    if (tb_json_add_uint(doc, "stops", v->stops) < 0 || tb_json_add_uint(doc, "lost_max", v->lost_max) < 0 ||
        tb_json_add_uint(doc, "excused", v->excused) < 0 ||
        tb_json_add_uint(doc, "foreign", v->foreign) < 0 ||
        tb_json_add_uint(doc, "problems_total", v->n_problems) < 0)
        return -ENOMEM;
    list = cJSON_AddArrayToObject(doc, "problems");
    for (size_t i = 0; list && r >= 0 && i < MIN(v->n_problems, TB_VERIFY_PROBLEMS_MAX); i++)
        r = report_add_problem(list, &v->problem[i]);
    return list ? r : -ENOMEM;
}

int tb_report_json(const struct tb_verify *v)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;

    if (!doc || report_fill(doc, v) < 0)
        return -ENOMEM;
    text = cJSON_PrintUnformatted(doc);
    if (!text)
        return -ENOMEM;
    puts(text);
    return 0;
}
