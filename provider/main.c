/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg: the provider's tool. main() only finds the subcommand. */
#include <string.h>

#include "common/log.h"
#include "common/secret.h"
#include "common/version.h"
#include "provider/cli/interrupt.h"
#include "common/near.h"
#include "provider/tbpkg.h"

static const struct tbpkg_command *const commands[] = {
    &tbpkg_encrypt, &tbpkg_decrypt, &tbpkg_verify,  &tbpkg_inspect,  &tbpkg_upload,    &tbpkg_register,
    &tbpkg_build,   &tbpkg_package, &tbpkg_publish, &tbpkg_keygen,   &tbpkg_sign,      &tbpkg_key,
    &tbpkg_config,  &tbpkg_login,   &tbpkg_logout,  &tbpkg_whoami,   &tbpkg_contract,  &tbpkg_enrol,
    &tbpkg_machine, &tbpkg_asset,   &tbpkg_offer,   &tbpkg_purchase, &tbpkg_submitter, &tbpkg_kek,
    &tbpkg_usage,   &tbpkg_token,   &tbpkg_log,     &tbpkg_changes,  &tbpkg_doctor,    &tbpkg_ls,
    &tbpkg_status,  &tbpkg_rm,      &tbpkg_abort,   &tbpkg_rotate,   &tbpkg_image};

static const struct tbpkg_command *tbpkg_find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static void tbpkg_print_help(FILE *f)
{
    fputs("Usage: tbpkg COMMAND [OPTION]...\n"
          "Encrypt model weights and publish them for licensed use.\n"
          "\n"
          "Commands:\n",
          f);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(f, "  %-10s%s\n", commands[i]->name, commands[i]->summary);
    fputs("  help      show the help of a command\n"
          "\n"
          "Options:\n"
          "  -h, --help     show this help\n"
          "      --version  show the version\n"
          "\n"
          "Each command has options of its own: see tbpkg COMMAND --help, or tbpkg(1).\n",
          f);
}

static int tbpkg_unknown_command(const char *name)
{
    const char *near = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(commands) && !near; i++)
        if (tb_near(name, commands[i]->name))
            near = commands[i]->name;
    fprintf(stderr, "tbpkg: no such command '%s'", name);
    if (near)
        fprintf(stderr, "; did you mean '%s'?", near);
    fputs("\nTry 'tbpkg --help'.\n", stderr);
    return CLI_USAGE;
}

static int tbpkg_unknown(const char *what, const char *name)
{
    fprintf(stderr, "tbpkg: %s '%s'\nTry 'tbpkg --help'.\n", what, name);
    return CLI_USAGE;
}

static int tbpkg_run_help(int argc, char **argv)
{
    char help[] = "--help";
    const struct tbpkg_command *cmd;

    if (argc < 3) {
        tbpkg_print_help(stdout);
        return CLI_OK;
    }
    cmd = tbpkg_find_command(argv[2]);
    if (!cmd)
        return tbpkg_unknown_command(argv[2]);
    if (argc > 3) /* help contract add */
        return cmd->run(3, (char *[]){argv[2], argv[3], help, NULL});
    return cmd->run(2, (char *[]){argv[2], help, NULL});
}

static int tbpkg_run(int argc, char **argv)
{
    const struct tbpkg_command *cmd;
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name) {
        tbpkg_print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0) {
        tbpkg_print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "-v") == 0 || strcmp(name, "--version") == 0) {
        puts("tbpkg " TB_VERSION);
        return CLI_OK;
    }
    if (strcmp(name, "help") == 0)
        return tbpkg_run_help(argc, argv);
    if (name[0] == '-')
        return tbpkg_unknown("no such option", name);
    cmd = tbpkg_find_command(name);
    if (!cmd)
        return tbpkg_unknown_command(name);
    return cmd->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    int rc;

    tb_secret_init();
    tb_log_init("tbpkg");
    cli_signals_init();
    rc = tbpkg_run(argc, argv);
    if (rc == CLI_USAGE && cli_usage_of())
        fprintf(stderr, "Try 'tbpkg %s --help'.\n", cli_usage_of());
    if (cli_flush_stdout() != CLI_OK && rc == CLI_OK)
        rc = CLI_FAILED;
    cli_log_end(rc);
    return rc;
}
