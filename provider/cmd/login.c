/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg login, logout, whoami: the token that the other commands use. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "provider/cli/settings.h"
#include "provider/cmd/admin.h"
#include "provider/remote/login.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option login_rows[] = {
    ROW_EDC_ENDPOINT(remote.endpoint),
    TB_OPTION(0, "token-file", "FILE", TB_OPTION_STRING, new_token_file,
              "the token is in FILE [standard input]"),
    ROWS_CLIENT_CERT(remote.cert, remote.cert_key),
    ROW_CA_FILE(remote.ca_file),
    ROW_INSECURE_HTTP(remote.insecure),
    CLI_COMMON_ROWS,
};
static const struct tb_option logout_rows[] = {
    ROW_EDC_ENDPOINT(remote.endpoint),
    ROW_INSECURE_HTTP(remote.insecure),
    CLI_COMMON_ROWS,
};
static const struct tb_option whoami_rows[] = {ROWS_REMOTE};

static const struct table_column whoami_columns[] = {
    {"CONTROL PLANE", "endpoint", TABLE_TEXT, NULL},
    {"NAME", "name", TABLE_TEXT, NULL},
    {"KIND", "kind", TABLE_TEXT, NULL},
    {"SCOPES", "scopes", TABLE_WORDS, NULL},
    {"EXPIRES", "expires_at", TABLE_TEXT, NULL},
    {"TOKEN", "token_file", TABLE_TEXT, NULL},
};

static int whoami_ask(const struct admin_job *j, cJSON **ret)
{
    int rc = remote_get(&j->remote, "whoami", &(struct remote_object){0}, ret);

    if (rc != CLI_OK)
        return rc;
    cJSON_AddStringToObject(*ret, "endpoint", j->remote.base);
    if (j->remote.token_from)
        cJSON_AddStringToObject(*ret, "token_file", j->remote.token_from);
    return CLI_OK;
}

static int whoami_work(struct admin_job *j)
{
    _cleanup_json_ cJSON *who = NULL;
    int rc = whoami_ask(j, &who);

    return rc == CLI_OK ? admin_print_object(j, who, whoami_columns, ARRAY_SIZE(whoami_columns)) : rc;
}

/* A token_file that is set would go before the token that was just kept. */
static void login_warn_hidden(void)
{
    struct setting_value v;

    if (setting_get("controlplane.token_file", &v))
        tbpkg_warn("%s names a token, which is used instead of the one that is kept now", v.source);
}

/* Nothing is kept that the control plane does not take. */
static int login_work(struct admin_job *j)
{
    _cleanup_secret_ char *token = NULL;
    _cleanup_json_ cJSON *who = NULL;
    _cleanup_free_ char *path = NULL;
    int rc = login_path(j->remote.endpoint, &path);

    if (rc == CLI_OK)
        rc = login_read(j->new_token_file ? j->new_token_file : "-", false, &token);
    if (rc == -ENOENT)
        return tbpkg_fail_errno(j->new_token_file, rc);
    if (rc == CLI_OK)
        rc = remote_use_token(&j->remote, token, j->new_token_file ? j->new_token_file : "standard input");
    if (rc == CLI_OK)
        rc = whoami_ask(j, &who);
    if (rc == CLI_OK)
        rc = login_write(path, token);
    if (rc != CLI_OK)
        return rc;
    cJSON_ReplaceItemInObjectCaseSensitive(who, "token_file", cJSON_CreateString(path));
    login_warn_hidden();
    return admin_print_object(j, who, whoami_columns, ARRAY_SIZE(whoami_columns));
}

static int logout_work(struct admin_job *j)
{
    _cleanup_free_ char *path = NULL;
    int rc = login_path(j->remote.endpoint, &path);

    if (rc != CLI_OK)
        return rc;
    if (unlink(path) < 0 && errno == ENOENT)
        tbpkg_note(j->cli.quiet, "No token for %s is kept.", j->remote.base);
    else if (access(path, F_OK) == 0)
        return tbpkg_fail_errno(path, -EPERM);
    else
        tbpkg_note(j->cli.quiet, "%s is removed. The token is valid still: tbpkg token revoke ends it.",
                   path);
    return CLI_OK;
}

static const struct admin_command login_command = {
    .c = {.name = "login",
          .summary = "keep a token for a control plane",
          .synopsis = "--edc-endpoint URL [--token-file FILE] [OPTION]...",
          .about = "Read a token, ask the control plane whose it is, and keep it for the commands that "
                   "follow, in a file\n"
                   "of its own for each control plane that only you can read. The token comes from standard "
                   "input; on a\n"
                   "terminal it is asked for and not shown.\n",
          .options = login_rows},
    .work = login_work,
    .no_token = true,
};
static const struct admin_command logout_command = {
    .c = {.name = "logout",
          .summary = "forget the token for a control plane",
          .synopsis = "--edc-endpoint URL [OPTION]...",
          .about = "Remove the token that tbpkg login kept. The control plane is not asked.\n",
          .options = logout_rows},
    .work = logout_work,
    .no_token = true,
};
static const struct admin_command whoami_command = {
    .c = {.name = "whoami",
          .summary = "whose token it is, and what it may do",
          .synopsis = "[OPTION]...",
          .about = "Ask the control plane whose token is used, what it may do, and until when.\n",
          .options = whoami_rows},
    .work = whoami_work,
};

static int login_main(int argc, char **argv)
{
    return admin_run(&login_command, argc, argv);
}

static int logout_main(int argc, char **argv)
{
    return admin_run(&logout_command, argc, argv);
}

static int whoami_main(int argc, char **argv)
{
    return admin_run(&whoami_command, argc, argv);
}

const struct tbpkg_command tbpkg_login = {
    .name = "login", .summary = "keep a token for a control plane", .run = login_main};
const struct tbpkg_command tbpkg_logout = {
    .name = "logout", .summary = "forget the token for a control plane", .run = logout_main};
const struct tbpkg_command tbpkg_whoami = {
    .name = "whoami", .summary = "whose token it is, and what it may do", .run = whoami_main};
