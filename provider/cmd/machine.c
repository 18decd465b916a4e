/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg machine: the machines of customers. */
#include <string.h>

#include "common/json.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option machines_list_rows[] = {
    ROW_OF_CONTRACT,
    TB_OPTION(0, "state", "STATE", TB_OPTION_STRING, state,
              "in this state alone: active, gone (its slot is free) or expelled"),
    ROWS_REMOTE,
};
static const struct tb_option machines_rows[] = {
    TB_OPTION(0, "machine", "HW_ID", TB_OPTION_STRING, machine,
              "the machine, as tbpkg machine list names it"),
    ROWS_REMOTE_CHANGE,
};

static const struct table_column machines_columns[] = {
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL}, {"MACHINE", "hw_id", TABLE_TEXT, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},          {"LAST SEEN", "last_seen", TABLE_TEXT, NULL},
    {"LEVEL", "attested.level", TABLE_TEXT, NULL}, {"ATTESTED", "attested.at", TABLE_TEXT, NULL},
    {"IMAGE", "attested.image", TABLE_TEXT, NULL}, {"VERSION", "attested.version", TABLE_TEXT, NULL},
    {"PROVED", "proved.at", TABLE_TEXT, NULL},     {"HOLD", "proved.holds", TABLE_TEXT, NULL},
    {"BROKEN", "proved.broken", TABLE_TEXT, NULL},
};

static int machines_check(struct admin_job *j)
{
    return j->machine && *j->machine ? CLI_OK : cli_usage(&j->cli, "--machine is missing");
}

static int machines_list(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("machines"), "contract_id", j->contract);

    path = remote_query(path, "state", j->state);
    return admin_list(j, path, "machines", machines_columns, ARRAY_SIZE(machines_columns));
}

static int machines_change(struct admin_job *j, const char *path, const char *done)
{
    const struct remote_object object = {"machine", j->machine, j->operand};
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *machine = NULL;
    int rc;

    cJSON_AddStringToObject(body, "contract_id", j->operand);
    cJSON_AddStringToObject(body, "hw_id", j->machine);
    rc = remote_change(&j->remote, "POST", path, body, &object, &machine);
    return rc == CLI_OK ? admin_print_done(j, machine, done, j->machine, j->operand) : rc;
}

static int machines_remove(struct admin_job *j)
{
    return machines_change(j, "machines/remove", "Machine %s of %s is forgotten: its slot is free.");
}

static int machines_expel(struct admin_job *j)
{
    return machines_change(
        j, "machines/expel",
        "Machine %s is expelled, and the enrolment codes of %s are over: tbpkg enrol makes "
        "another.");
}

static const struct admin_command machines_commands[] = {
    {
        .c = {.name = "machine list",
              .summary = "list machines",
              .synopsis = "[OPTION]...",
              .about = "List machines. A machine that is gone was not seen for its lease and the contract's "
                       "slot TTL.\n",
              .options = machines_list_rows},
        .work = machines_list,
    },
    {
        .c = {.name = "machine remove",
              .summary = "forget a machine: its slot is free",
              .synopsis = "CONTRACT --machine HW_ID [OPTION]...",
              .about = "Forget a machine of a contract. One that enrolled needs a new code to come back.\n",
              .options = machines_rows},
        .operand = "CONTRACT",
        .check = machines_check,
        .work = machines_remove,
    },
    {
        .c = {.name = "machine expel",
              .summary = "refuse a machine for good",
              .synopsis = "CONTRACT --machine HW_ID [OPTION]...",
              .about = "Refuse a machine of a contract for good, because it is lost or stolen. The enrolment "
                       "codes of the\n"
                       "contract end, as whoever has the machine may have one.\n",
              .options = machines_rows},
        .operand = "CONTRACT",
        .check = machines_check,
        .work = machines_expel,
    },
};

static int machines_main(int argc, char **argv)
{
    static const struct admin_group group = {"machine", "Machines that customers serve on.\n",
                                             machines_commands, ARRAY_SIZE(machines_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_machine = {
    .name = "machine", .summary = "machines of customers: list, remove, expel", .run = machines_main};
