/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg submitter: usage on its way from the control plane to the marketplace. */
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option submitter_status_rows[] = {ROWS_REMOTE};
static const struct tb_option submitter_events_rows[] = {
    TB_OPTION(0, "all", NULL, TB_OPTION_FLAG, all, "those that the marketplace has accepted, too"),
    ROWS_REMOTE,
};
static const struct tb_option submitter_resolve_rows[] = {
    TB_OPTION(0, "resource", "ID", TB_OPTION_STRING, resource,
              "of the event, as tbpkg submitter events prints it"),
    TB_OPTION(0, "dimension", "NAME", TB_OPTION_STRING, dimension, "of the event"),
    TB_OPTION(0, "hour", "TIME", TB_OPTION_CALL, hour_us, "of the event", .set = admin_option_time,
              .want = ADMIN_TIME_WORDS),
    TB_OPTION(0, "verdict", "WORD", TB_OPTION_CALL, verdict,
              "accepted: the marketplace has it; missing: it has not, and is told again",
              .set = admin_option_word, .want = "accepted or missing"),
    ROWS_REMOTE_CHANGE,
};

static const struct table_column submitter_columns[] = {
    {"SERVER", "server", TABLE_TEXT, NULL},
    {"SINCE", "since", TABLE_TEXT, NULL},
    {"LAST SEEN", "seen_at", TABLE_TEXT, NULL},
    {"OPEN", "open", TABLE_COUNT, NULL},
    {"TO SEND", "frozen", TABLE_COUNT, NULL},
    {"NOT ANSWERED", "sent", TABLE_COUNT, NULL},
    {"ACCEPTED", "accepted", TABLE_COUNT, NULL},
    {"PARKED", "parked", TABLE_COUNT, NULL},
    {"IN DOUBT", "in_doubt", TABLE_COUNT, NULL},
    {"OLDEST NOT ACCEPTED", "oldest_unaccepted", TABLE_TEXT, NULL},
    {"HELD WITHOUT RESOURCE", "held_without_resource", TABLE_COUNT, NULL},
    {"BILL THEMSELVES TOO", "self_billing", TABLE_COUNT, NULL},
    {"ENDED SUBSCRIPTIONS", "ended_resources", TABLE_COUNT, NULL},
};
static const struct table_column submitter_event_columns[] = {
    {"HOUR", "hour", TABLE_TEXT, NULL},          {"DIMENSION", "dimension", TABLE_TEXT, NULL},
    {"QUANTITY", "quantity", TABLE_COUNT, NULL}, {"STATE", "state", TABLE_TEXT, NULL},
    {"DOUBT", "doubt", TABLE_TEXT, NULL},        {"RESOURCE", "resource", TABLE_TEXT, NULL},
    {"REASON", "reason", TABLE_TEXT, ""},
};

static int submitter_status(struct admin_job *j)
{
    _cleanup_json_ cJSON *doc = NULL;
    int rc = remote_get(&j->remote, "submitter", &(struct remote_object){0}, &doc);

    if (rc == CLI_OK && !j->cli.json && admin_number(doc, "term") == 0)
        tbpkg_note(j->cli.quiet, "No server has reported usage yet: its operator starts one with --submit.");
    return rc == CLI_OK ? admin_print_object(j, doc, submitter_columns, ARRAY_SIZE(submitter_columns)) : rc;
}

static int submitter_events(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("submitter/events"), "state", j->all ? "all" : NULL);

    return admin_list(j, path, "events", submitter_event_columns, ARRAY_SIZE(submitter_event_columns));
}

static int submitter_check_resolve(struct admin_job *j)
{
    if (j->resource && j->dimension && j->hour_us && j->verdict)
        return CLI_OK;
    return cli_usage(&j->cli, "--resource, --dimension, --hour and --verdict are needed");
}

static int submitter_resolve(struct admin_job *j)
{
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *answer = NULL;
    int rc;

    cJSON_AddStringToObject(body, "resource", j->resource);
    cJSON_AddStringToObject(body, "dimension", j->dimension);
    admin_add_time(body, "hour", j->hour_us);
    cJSON_AddStringToObject(body, "verdict", j->verdict);
    rc = remote_change(&j->remote, "POST", "submitter/resolve", body, &(struct remote_object){0}, &answer);
    if (rc != CLI_OK)
        return rc;
    return admin_print_done(j, answer,
                            strcmp(j->verdict, "accepted") == 0 ? "The event of %s counts as accepted."
                                                                : "The event of %s is sent again.",
                            j->dimension);
}

static const struct admin_command submitter_commands[] = {
    {
        .c = {.name = "submitter status",
              .summary = "how it goes",
              .synopsis = "[OPTION]...",
              .about = "Show which server reports usage to the marketplace, and what waits.\n",
              .options = submitter_status_rows},
        .work = submitter_status,
    },
    {
        .c = {.name = "submitter events",
              .summary = "list metering events",
              .synopsis = "[OPTION]...",
              .about = "List the metering events that the marketplace has not accepted.\n",
              .options = submitter_events_rows},
        .work = submitter_events,
    },
    {
        .c = {.name = "submitter resolve",
              .summary = "decide on an event of which nobody knows whether it arrived",
              .synopsis = "--resource ID --dimension NAME --hour TIME --verdict WORD [OPTION]...",
              .about = "Decide on a parked event in doubt, after a look at what the marketplace has.\n",
              .options = submitter_resolve_rows},
        .check = submitter_check_resolve,
        .work = submitter_resolve,
    },
};

static int submitter_main(int argc, char **argv)
{
    static const struct admin_group group = {"submitter",
                                             "Usage that the control plane reports to the marketplace.\n",
                                             submitter_commands, ARRAY_SIZE(submitter_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_submitter = {
    .name = "submitter",
    .summary = "usage on its way to the marketplace: status, events, resolve",
    .run = submitter_main};
