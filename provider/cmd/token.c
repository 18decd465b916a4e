/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg token: who may administer the control plane. */
#include <string.h>

#include "common/json.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
#define TOKEN_SCOPES "owner, publisher, support, auditor, replace, billing or keys"

static const struct tb_option tokens_add_rows[] = {
    TB_OPTION(0, "scope", "SCOPE", TB_OPTION_LIST, scopes,
              "owner (everything), publisher (assets), support (contracts and machines), billing (offers and "
              "billing), keys (key-encryption keys), auditor (reads); "
              "replace, for a publisher who may change what live contracts use; may be repeated"),
    ROWS_EXPIRES("end of the token [in 90 days]"),
    ROWS_REMOTE_CHANGE,
};
static const struct tb_option tokens_list_rows[] = {ROWS_REMOTE};
static const struct tb_option tokens_revoke_rows[] = {ROWS_REMOTE_CHANGE};

static const struct table_column tokens_columns[] = {
    {"NAME", "name", TABLE_TEXT, NULL},
    {"SCOPES", "scopes", TABLE_WORDS, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},
    {"EXPIRES", "expires_at", TABLE_TEXT, NULL},
    {"LAST USED", "last_used_at", TABLE_TEXT, "never"},
};

static int tokens_check_add(struct admin_job *j)
{
    if (j->scopes.n == 0)
        return cli_usage(&j->cli, "--scope is missing: what the token may do");
    for (size_t i = 0; i < j->scopes.n; i++)
        if (!admin_word_is_of(TOKEN_SCOPES, j->scopes.v[i]))
            return cli_usage(&j->cli, "--scope: " TOKEN_SCOPES ", not '%s'", j->scopes.v[i]);
    return CLI_OK;
}

static int tokens_add(struct admin_job *j)
{
    const struct remote_object object = {"token", j->operand, NULL};
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *answer = NULL;
    cJSON *scopes = cJSON_AddArrayToObject(body, "scopes");
    int rc;

    cJSON_AddStringToObject(body, "name", j->operand);
    for (size_t i = 0; i < j->scopes.n; i++)
        cJSON_AddItemToArray(scopes, cJSON_CreateString(j->scopes.v[i]));
    admin_add_time(body, "expires_at", j->expires_us);
    rc = remote_change(&j->remote, "POST", "tokens", body, &object, &answer);
    if (rc != CLI_OK)
        return rc;
    return admin_print_secret(j, answer, admin_text(answer, "token"),
                              "Token %s ends at %s; it is shown this once. tbpkg login keeps it:", j->operand,
                              admin_text(answer, "expires_at"));
}

static int tokens_list(struct admin_job *j)
{
    return admin_list(j, "tokens", "tokens", tokens_columns, ARRAY_SIZE(tokens_columns));
}

static int tokens_revoke(struct admin_job *j)
{
    const struct remote_object object = {"token", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("tokens", j->operand);
    _cleanup_json_ cJSON *token = NULL;
    int rc = remote_change(&j->remote, "DELETE", path, NULL, &object, &token);

    return rc == CLI_OK ? admin_print_done(j, token, "Token %s is revoked.", j->operand) : rc;
}

static const struct admin_command tokens_commands[] = {
    {
        .c = {.name = "token add",
              .summary = "make a token",
              .synopsis = "NAME --scope SCOPE [OPTION]...",
              .about = "Make a token for a person or a script. It is printed this once; the control plane "
                       "keeps its "
                       "hash.\n",
              .options = tokens_add_rows},
        .operand = "NAME",
        .check = tokens_check_add,
        .work = tokens_add,
    },
    {
        .c = {.name = "token list",
              .summary = "list tokens",
              .synopsis = "[OPTION]...",
              .about = "List tokens, the tokens themselves left out.\n",
              .options = tokens_list_rows},
        .work = tokens_list,
    },
    {
        .c = {.name = "token revoke",
              .summary = "end a token",
              .synopsis = "NAME [OPTION]...",
              .about = "End a token, from the next call on.\n",
              .options = tokens_revoke_rows},
        .operand = "NAME",
        .work = tokens_revoke,
    },
};

static int tokens_main(int argc, char **argv)
{
    static const struct admin_group group = {"token", "Tokens for those who administer the control plane.\n",
                                             tokens_commands, ARRAY_SIZE(tokens_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_token = {
    .name = "token", .summary = "tokens of those who administer: add, list, revoke", .run = tokens_main};
