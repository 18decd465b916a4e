/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/config.h"
#include "common/events.h"
#include "common/exit.h"
#include "common/log.h"
#include "common/version.h"

extern char **environ;

static void config_log_lines(enum tb_log_level level, char *text)
{
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        tb_log_full(level, TB_EVENT_ENDED_CONFIG, NULL, "%s", line + strspn(line, " "));
}

/* Somebody who starts a program by hand may think that it reads the file. */
static void config_say_where(const char *program)
{
    if (getenv("INVOCATION_ID") || getenv("TB_CONTRACT_ID") || access(TB_CONFIG_FILE, F_OK) < 0)
        return;
    tb_error("%s does not read " TB_CONFIG_FILE
             " itself: systemd does, and passes it on. To run it by hand with "
             "these settings: tb-configure --run %s",
             program, program);
}

_Noreturn static void config_main_check(const struct tb_program *p)
{
    _cleanup_findings_ struct tb_findings f = {0};
    _cleanup_config_ struct tb_config c = {0};
    unsigned errors;

    tb_config_read(environ, &c, &f);
    if (p->check)
        p->check(&c, &f);
    tb_findings_write(&f, stdout);
    errors = f.errors;
    tb_findings_clear(&f);
    tb_config_clear(&c);
    exit(fflush(stdout) != 0 ? TB_EXIT_IOERR : errors > 0 ? TB_EXIT_CONFIG : TB_EXIT_OK);
}

static void config_main_option(const struct tb_program *p, const char *word)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        fputs(p->help, stdout);
        exit(fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR);
    }
    if (strcmp(word, "--version") == 0) {
        printf("%s %s\n", p->name, TB_VERSION);
        exit(TB_EXIT_OK);
    }
    if (strcmp(word, "--check") == 0)
        config_main_check(p);
    fprintf(stderr, "%s: unknown argument \"%s\"; settings come from the environment, see %s --help\n",
            p->name, word, p->name);
    exit(TB_EXIT_USAGE);
}

void tb_config_main(int argc, char **argv, const struct tb_program *p, struct tb_config *ret)
{
    _cleanup_free_ char *errors = NULL, *warnings = NULL;
    int r;

    tb_log_init(p->name);
    for (int i = 1; i < argc; i++)
        config_main_option(p, argv[i]);
    r = tb_config_load(environ, ret, &errors, &warnings);
    if (warnings)
        config_log_lines(TB_LOG_WARN, warnings);
    if (r < 0) {
        config_log_lines(TB_LOG_ERR, errors);
        config_say_where(p->name);
        exit(TB_EXIT_CONFIG);
    }
    tb_log_set_level(ret->log_level);
}
