/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg enrol: the one-time codes by which machines get a certificate. */
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option enrol_code_rows[] = {ROWS_CODE, ROWS_REMOTE_CHANGE};
static const struct tb_option enrol_list_rows[] = {ROW_OF_CONTRACT, ROWS_REMOTE};
static const struct tb_option enrol_revoke_rows[] = {ROWS_REMOTE_CHANGE};

static const struct table_column enrol_columns[] = {
    {"CODE", "code_id", TABLE_TEXT, NULL},         {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"USES LEFT", "uses_left", TABLE_COUNT, NULL}, {"EXPIRES", "expires_at", TABLE_TEXT, "never"},
    {"CREATED", "created_at", TABLE_TEXT, NULL},
};

static int enrol_code(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand, "codes");
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *answer = NULL;
    char machines[40];
    int rc;

    if (j->uses)
        tb_json_add_uint(body, "uses", j->uses);
    admin_add_time(body, "expires_at", j->code_expires_us);
    rc = remote_change(&j->remote, "POST", path, body, &object, &answer);
    if (rc != CLI_OK)
        return rc;
    return admin_print_secret(j, answer, admin_text(answer, "code"),
                              "Enrolment code of %s, for %s until %s; it is shown this once:", j->operand,
                              admin_machines(admin_number(answer, "uses_left"), machines),
                              admin_text(answer, "expires_at"));
}

static int enrol_list(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("codes"), "contract_id", j->contract);

    return admin_list(j, path, "codes", enrol_columns, ARRAY_SIZE(enrol_columns));
}

static int enrol_check_revoke(struct admin_job *j)
{
    if (strlen(j->operand) == 16 && strspn(j->operand, "0123456789abcdef") == 16)
        return CLI_OK;
    return cli_usage(&j->cli, "CODE is the 16 hex digits that tbpkg enrol list shows, not the code itself");
}

static int enrol_revoke(struct admin_job *j)
{
    const struct remote_object object = {"code", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("codes", j->operand);
    _cleanup_json_ cJSON *code = NULL;
    int rc = remote_change(&j->remote, "DELETE", path, NULL, &object, &code);

    if (rc != CLI_OK)
        return rc;
    return admin_print_done(j, code, "Code %s of %s is over.", j->operand, admin_text(code, "contract_id"));
}

static const struct admin_command enrol_commands[] = {
    {
        .c = {.name = "enrol code",
              .summary = "print a new code for machines of a contract",
              .synopsis = "CONTRACT [OPTION]...",
              .about = "Print a new enrolment code for machines of a contract. It is shown this once; the "
                       "operator of the\n"
                       "machine puts it into the credential enrolment-code.\n",
              .options = enrol_code_rows},
        .operand = "CONTRACT",
        .work = enrol_code,
    },
    {
        .c = {.name = "enrol list",
              .summary = "list codes that are not used up",
              .synopsis = "[OPTION]...",
              .about = "List the enrolment codes that are not used up, the codes themselves left out.\n",
              .options = enrol_list_rows},
        .work = enrol_list,
    },
    {
        .c = {.name = "enrol revoke",
              .summary = "end a code",
              .synopsis = "CODE [OPTION]...",
              .about = "End an enrolment code. CODE is the id that tbpkg enrol list shows.\n",
              .options = enrol_revoke_rows},
        .operand = "CODE",
        .check = enrol_check_revoke,
        .work = enrol_revoke,
    },
};

static int enrol_main(int argc, char **argv)
{
    static const struct admin_group group = {
        "enrol",
        "Enrolment codes, by which a customer's machine gets its certificate.\n"
        "`tbpkg enrol CONTRACT` is `tbpkg enrol code CONTRACT`.\n",
        enrol_commands, ARRAY_SIZE(enrol_commands), &enrol_commands[0]};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_enrol = {
    .name = "enrol", .summary = "enrolment codes of machines: code, list, revoke", .run = enrol_main};
