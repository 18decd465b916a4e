/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/command.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <string.h>

#include "common/config.h"
#include "common/io.h"
#include "common/version.h"
#include "provider/cli/settings.h"

static bool check_only;

void cli_check_only(bool on)
{
    check_only = on;
}

static const char *usage_of;

const char *cli_usage_of(void)
{
    return usage_of;
}

int cli_usage(const struct cli *c, const char *fmt, ...)
{
    char line[2048], prefix[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (cli_faults_are_captured())
        return tbpkg_fail_as(CLI_USAGE, "", line, NULL);
    snprintf(prefix, sizeof(prefix), "tbpkg %s: ", c->command->name);
    cli_print_line(prefix, line);
    usage_of = c->command->name;
    return CLI_USAGE;
}

int cli_need(const struct cli *c, bool there, const char *what)
{
    return there ? CLI_OK : cli_usage(c, "%s is missing", what);
}

int cli_check_asset_id(const struct cli *c, const char *asset_id)
{
    if (!asset_id)
        return cli_need(c, false, "--asset-id");
    if (!tb_asset_id_valid(asset_id))
        return cli_usage(c, "--asset-id: 1 to 100 letters, digits, '_', '-' and single '.' inside, not '%s'",
                         asset_id);
    return CLI_OK;
}

int cli_option_gone(const struct tb_option *o, void *var, char *value, char err[static TB_OPTION_ERR_MAX])
{
    tbpkg_warn("--%s is obsolete: %s", o->name, o->want);
    return 0;
}

/* The environment variable that may hold the value. */
static char *command_note_env(const struct tb_option *o)
{
    const char *env = o->setting ? setting_env(o->setting) : NULL;

    return env ? tb_strf("[$%.*s]", (int)strcspn(env, " "), env) : NULL;
}

void cli_help(const struct tbpkg_command *command, FILE *f)
{
    fprintf(f, "Usage: tbpkg %s %s\n%s\n", command->name, command->synopsis, command->about);
    tb_options_help(command->options, f, command_note_env);
    if (command->tail)
        fprintf(f, "\n%s", command->tail);
}

static int command_take_settings(struct cli *c, void *job)
{
    const struct tb_option *rows = c->command->options;
    int rc = settings_load(c->config);

    for (size_t i = 0; rc == CLI_OK && !tb_option_is_end(&rows[i]); i++) {
        struct setting_value v;

        if (!rows[i].setting || c->options.given[i] || !setting_get(rows[i].setting, &v))
            continue;
        if (tb_options_set(&c->options, job, i, v.source, v.value) < 0)
            rc = cli_usage(c, "%s", c->options.error);
    }
    return rc;
}

static int command_take_words(const struct cli *c, int argc, char **argv, enum cli_words words,
                              const char **ret_in)
{
    if (words == CLI_ANY_WORDS)
        return CLI_OK;
    if (words == CLI_ONE_INPUT && optind < argc) {
        if (*ret_in)
            return cli_usage(c, "the input is given twice: '%s' and '%s'", *ret_in, argv[optind]);
        *ret_in = argv[optind++];
    }
    return optind < argc ? cli_usage(c, "unexpected argument '%s'", argv[optind]) : CLI_OK;
}

int cli_parse(struct cli *c, void *job, int argc, char **argv, enum cli_words words, const char **ret_in,
              int (*check)(void *job))
{
    assert(words != CLI_ONE_INPUT || ret_in);
    c->options.rows = c->command->options;
    c->rc = CLI_OK;
    if (tb_options_parse(&c->options, job, argc, argv) < 0) {
        c->rc = cli_usage(c, "%s", c->options.error);
        return CLI_STOP;
    }
    if (c->want_help)
        cli_help(c->command, stdout);
    else if (c->want_version)
        puts("tbpkg " TB_VERSION);
    if (c->want_help || c->want_version)
        return CLI_STOP;
    if (!cli_json_is_captured() && !check_only)
        cli_progress_as_json(c->json);
    c->rc = c->log ? cli_log_open(c->log, argc, argv) : CLI_OK;
    if (c->rc == CLI_OK)
        c->rc = command_take_settings(c, job);
    if (c->rc == CLI_OK)
        c->rc = command_take_words(c, argc, argv, words, ret_in);
    if (c->rc == CLI_OK && check)
        c->rc = check(job);
    return c->rc == CLI_OK && !check_only ? CLI_OK : CLI_STOP;
}

bool cli_given(const struct cli *c, const char *name)
{
    return tb_options_given(&c->options, name);
}
