/* SPDX-License-Identifier: Apache-2.0 */
/* tb-update: the daemon that replaces the version that is served, and the command that tells it to.
 * tb-update(8). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/exit.h"
#include "common/log.h"
#include "common/secret.h"
#include "update/update.h"

static const char help[] =
    "Usage: tb-update [status | switch [--no-wait] | retry | run] [--help | --version]\n"
    "Replaces the version of the asset that is served by the one that the provider promoted.\n"
    "\n"
    "status  which version is served, which comes next, and when (default)\n"
    "switch  switch to the next version as soon as it is complete, whatever TB_UPDATE says, and wait for it\n"
    "retry   try a version again that failed\n"
    "run     what tb-update.service does: watch, download, switch, and go back when that fails\n"
    "\n"
    "Settings come from the environment: TB_UPDATE, TB_SWITCH_DRAIN, TB_SWITCH_HOLD, TB_SWITCH_TIMEOUT,\n"
    "TB_TARGET_DIR, TB_RUN_DIR, TB_STATE_DIR. The others than run need TB_RUN_DIR (/run) alone.\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 66 tb-update.service has not run, 74 I/O, 75 the version did not serve,\n"
    "77 not root, 78 configuration. See tb-update(8).\n";

static const char *main_verb(int argc, char **argv, bool *ret_no_wait)
{
    static const char *const verbs[] = {"run", "status", "switch", "retry"};

    *ret_no_wait = argc == 3 && strcmp(argv[1], "switch") == 0 && strcmp(argv[2], "--no-wait") == 0;
    for (size_t i = 0; (argc == 2 || *ret_no_wait) && i < ARRAY_SIZE(verbs); i++)
        if (strcmp(argv[1], verbs[i]) == 0)
            return verbs[i];
    return argc == 1 ? "status" : NULL;
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config cfg = {0};
    bool no_wait;
    const char *verb = main_verb(argc, argv, &no_wait), *run_dir = getenv("TB_RUN_DIR");

    tb_secret_init();
    if (verb && strcmp(verb, "run") != 0) { /* needs no settings: it runs for whoever is logged in */
        tb_log_init("tb-update");
        return update_command(run_dir && *run_dir ? run_dir : "/run", verb, no_wait);
    }
    tb_config_main(verb ? 1 : argc, argv, &(struct tb_program){"tb-update", help, NULL}, &cfg);
    return verb ? update_run(&cfg) : TB_EXIT_USAGE;
}
