/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg usage, log, changes: what was used, who asked, who changed what. */
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option usage_rows[] = {
    TB_OPTION(0, "from", "TIME", TB_OPTION_CALL, from_us, "whole hours from here on [all that was counted]",
              .set = admin_option_time, .want = ADMIN_TIME_WORDS),
    TB_OPTION(0, "to", "TIME", TB_OPTION_CALL, to_us, "up to here; the hour that begins then is not of it",
              .set = admin_option_time, .want = ADMIN_TIME_WORDS),
    TB_OPTION(0, "by", "WHAT", TB_OPTION_CALL, by,
              "a row for each contract, each machine, or each asset (key: the same, as its key opens it) "
              "[contract]",
              .set = admin_option_word, .want = "contract, machine, asset or key"),
    ROW_OF_CONTRACT,
    TB_OPTION(0, "csv", NULL, TB_OPTION_FLAG, csv, "a line for each counter, for a spreadsheet"),
    ROWS_REMOTE,
};
static const struct tb_option log_rows[] = {
    ROW_OF_CONTRACT,
    TB_OPTION(0, "limit", "N", TB_OPTION_UINT, limit, "the last N [50]", .min = 1, .max = 1000),
    ROWS_REMOTE,
};
static const struct tb_option changes_rows[] = {
    TB_OPTION(0, "from", "N", TB_OPTION_UINT, from, "from change number N on [1]", .min = 1,
              .max = TB_JSON_INT_MAX),
    ROWS_REMOTE,
};

static const struct table_column usage_columns[] = {
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"MACHINE", "hw_id", TABLE_TEXT, NULL},
    {"ASSET", "asset_id", TABLE_TEXT, NULL},
    {"REQUESTS", "used.requests", TABLE_COUNT, NULL},
    {"PROMPT TOKENS", "used.prompt_tokens", TABLE_COUNT, NULL},
    {"COMPLETION TOKENS", "used.completion_tokens", TABLE_COUNT, NULL},
};
static const struct table_column log_columns[] = {
    {"AT", "at", TABLE_TEXT, NULL},          {"VERDICT", "status", TABLE_TEXT, NULL},
    {"REASON", "reason", TABLE_TEXT, NULL},  {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"ASSET", "asset_id", TABLE_TEXT, NULL}, {"VERSION", "version", TABLE_TEXT, NULL},
    {"MACHINE", "hw_id", TABLE_TEXT, NULL},  {"FROM", "peer", TABLE_TEXT, NULL},
};

static int usage_check(struct admin_job *j)
{
    if (j->from_us && j->to_us && j->from_us >= j->to_us)
        return cli_usage(&j->cli, "--from must be before --to");
    if (j->csv && j->cli.json)
        return cli_usage(&j->cli, "--csv and --json exclude each other");
    return CLI_OK;
}

static char *usage_query_time(char *path, const char *name, uint64_t us)
{
    char text[TB_RFC3339_MAX];

    return remote_query(path, name, us ? tb_rfc3339_format(us, 0, text) : NULL);
}

static int usage_print_text(const struct admin_job *j, const char *path)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    int rc = remote_get_text(&j->remote, path, &rs);

    if (rc != CLI_OK)
        return rc;
    return cli_print_text(rs.body, rs.len);
}

static int usage_work(struct admin_job *j)
{
    _cleanup_free_ char *path = usage_query_time(strdup("usage"), "from", j->from_us);
    _cleanup_json_ cJSON *doc = NULL;
    int rc;

    path = usage_query_time(path, "to", j->to_us);
    path = remote_query(path, "by", j->by);
    path = remote_query(path, "contract_id", j->contract);
    if (j->csv) {
        path = remote_query(path, "format", "csv");
        return usage_print_text(j, path);
    }
    rc = remote_get(&j->remote, path, &(struct remote_object){0}, &doc);
    return rc == CLI_OK ? admin_print_list(j, doc, "usage", usage_columns, ARRAY_SIZE(usage_columns)) : rc;
}

/* The newest are the last line of a terminal, as in any log. */
static void log_turn_round(cJSON *rows)
{
    for (int i = 1, n = cJSON_GetArraySize(rows); i < n; i++)
        cJSON_InsertItemInArray(rows, 0, cJSON_DetachItemFromArray(rows, i));
}

static int log_work(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("log"), "contract_id", j->contract);
    _cleanup_json_ cJSON *doc = NULL;
    char limit[24];
    int rc;

    snprintf(limit, sizeof(limit), "%" PRIu64, j->limit ? j->limit : 50);
    path = remote_query(path, "limit", limit);
    rc = remote_get(&j->remote, path, &(struct remote_object){0}, &doc);
    if (rc == CLI_OK && !j->cli.json)
        log_turn_round(cJSON_GetObjectItemCaseSensitive(doc, "log"));
    return rc == CLI_OK ? admin_print_list(j, doc, "log", log_columns, ARRAY_SIZE(log_columns)) : rc;
}

/* The number of the last line, 0 when there is none. */
static uint64_t changes_last(const struct tb_http_response *rs)
{
    size_t end = rs->len, begin;
    _cleanup_json_ cJSON *d = NULL;
    char why[TB_JSON_ERR_MAX];

    while (end > 0 && rs->body[end - 1] == '\n')
        end--;
    for (begin = end; begin > 0 && rs->body[begin - 1] != '\n';)
        begin--;
    if (tb_json_parse(rs->body + begin, end - begin, REMOTE_ANSWER_MAX, &d, why) < 0)
        return 0;
    return admin_number(d, "seq");
}

/* To the byte, as the hash chain is made of them. */
static int changes_work(struct admin_job *j)
{
    uint64_t from = j->from ? j->from : 1, last;

    for (;;) {
        _cleanup_http_response_ struct tb_http_response rs = {0};
        _cleanup_free_ char *path = NULL;
        char number[24];
        int rc;

        snprintf(number, sizeof(number), "%" PRIu64, from);
        path = remote_query(strdup("changes/export"), "from", number);
        rc = remote_get_text(&j->remote, path, &rs);
        if (rc != CLI_OK || rs.len == 0)
            return rc == CLI_OK ? cli_flush_stdout() : rc;
        last = changes_last(&rs);
        if (last < from)
            return tbpkg_failf(j->remote.base, "answered with what is no change from number %" PRIu64 " on",
                               from);
        rc = cli_print_text(rs.body, rs.len);
        if (rc != CLI_OK)
            return rc;
        from = last + 1;
    }
}

static const struct admin_command usage_command = {
    .c = {.name = "usage",
          .summary = "what was used, for the bill",
          .synopsis = "[--from TIME] [--to TIME] [--by WHAT] [OPTION]...",
          .about = "Print what the machines of customers used, as their reports say. Times are UTC; a report "
                   "counts for\n"
                   "the hours that it names.\n",
          .options = usage_rows},
    .check = usage_check,
    .work = usage_work,
};
static const struct admin_command log_command = {
    .c = {.name = "log",
          .summary = "who asked for a key, and the verdicts",
          .synopsis = "[OPTION]...",
          .about = "Print who asked the control plane for what, and the verdicts; the newest is the last.\n",
          .options = log_rows},
    .work = log_work,
};
static const struct admin_command changes_command = {
    .c = {.name = "changes",
          .summary = "who changed what, for tb-audit verify",
          .synopsis = "[OPTION]...",
          .about = "Print every change of contracts, machines, assets and tokens, a line of JSON each. They "
                   "are a hash\n"
                   "chain, which `tb-audit verify` checks.\n",
          .options = changes_rows},
    .work = changes_work,
};

static int usage_main(int argc, char **argv)
{
    return admin_run(&usage_command, argc, argv);
}

static int log_main(int argc, char **argv)
{
    return admin_run(&log_command, argc, argv);
}

static int changes_main(int argc, char **argv)
{
    return admin_run(&changes_command, argc, argv);
}

const struct tbpkg_command tbpkg_usage = {
    .name = "usage", .summary = "what was used, for the bill", .run = usage_main};
const struct tbpkg_command tbpkg_log = {
    .name = "log", .summary = "who asked for a key, and the verdicts", .run = log_main};
const struct tbpkg_command tbpkg_changes = {
    .name = "changes", .summary = "who changed what, for tb-audit verify", .run = changes_main};
