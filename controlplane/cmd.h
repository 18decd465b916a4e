/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: a table of commands, one table of options that they share, one file per group of commands. */
#ifndef CP_CMD_H
#define CP_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/exit.h"
#include "controlplane/datadir.h"
#include "controlplane/store.h"

#define CP_PROGRAM "tb-controlplane"
#define CP_NAMES_MAX 16

struct cp_command;

/* Every option of every command. Unset: NULL, 0, false. Strings are argv's. */
struct cp_options {
    const struct cp_command *command;
    const char *operand;
    const char *data;
    /* contracts */
    const char *asset, *reason;
    uint64_t expires_us, lease_seconds, max_hw;
    bool replace;
    /* listings */
    bool json;
    uint64_t limit;
    /* serve */
    const char *listen, *tls_cert, *tls_key, *client_ca, *storage_account, *storage_key_file, *sas_ip;
    char *names[CP_NAMES_MAX];
    size_t n_names;
    uint64_t sas_seconds;
    bool tls_auto, http, client_auth, seed;
};

struct cp_command {
    const char *noun, *verb; /* verb NULL: one word */
    const char *operand;     /* what stands after the words, NULL: nothing */
    const char *options;     /* accepted ones, letters of the table in cmd.c, beside --data and --help */
    const char *summary;     /* one line, lower case */
    int (*run)(const struct cp_options *o); /* an enum tb_exit */
    const char *details;                    /* the rest of --help, or NULL */
};

/* Parses argv after the command's words. Returns -1 to go on, else the exit code (help was printed, or an error). */
int cp_options_parse(const struct cp_command *c, int argc, char **argv, struct cp_options *ret);

/* "tb-controlplane contract add: message" on stderr. Returns code. */
int cp_fail(const struct cp_options *o, int code, const char *fmt, ...) _printf_(3, 4);
/* The same for a failure of the store. */
int cp_fail_store(const struct cp_options *o, const struct cp_store *s, int r);
/* Opens o->data's database. 0, or an exit code after saying why. */
int cp_open(const struct cp_options *o, struct cp_store **ret);

int cp_run_serve(const struct cp_options *o);
int cp_run_issue_client(const struct cp_options *o);
int cp_run_contract_add(const struct cp_options *o);
int cp_run_contract_allow(const struct cp_options *o);
int cp_run_contract_deny(const struct cp_options *o);
int cp_run_contract_revoke(const struct cp_options *o);
int cp_run_contract_shorten(const struct cp_options *o);
int cp_run_contract_unbind(const struct cp_options *o);
int cp_run_contract_list(const struct cp_options *o);
int cp_run_asset_list(const struct cp_options *o);
int cp_run_usage(const struct cp_options *o);
int cp_run_log(const struct cp_options *o);

#endif
