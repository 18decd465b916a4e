/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of remote administration share: contract, machine, asset, offer, purchase, submitter,
 * usage, token, enrol, log, changes, login. Their names and options are those of tb-controlplane, where that
 * has them. */
#ifndef TBPKG_CMD_ADMIN_H
#define TBPKG_CMD_ADMIN_H

#include "provider/cli/table.h"
#include "provider/cmd/rows.h"
#include "provider/remote/remote.h"

#define ADMIN_REFERENCE_MAX 128 /* "my-model@2" */

/* Every option of each of these commands. Unset: NULL, 0, false. */
struct admin_job {
    struct cli cli;
    struct remote remote;
    const char *operand;             /* CONTRACT, ASSET, ... */
    char asset[ADMIN_REFERENCE_MAX]; /* of ASSET or --asset: the id, or "*"; "" without */
    uint64_t version;                /* of it; 0: none was named */
    const char *asset_option, *mode, *client_ca, *attest, *min_tcb, *maa, *contract, *machine, *state,
        *reason, *by;
    uint64_t expires_us, code_expires_us, from_us, to_us;
    const char *plan, *definition, *dimensions, *resource, *subscription, *dimension, *verdict;
    uint64_t lease_seconds, max_hw, slot_ttl_s, uses, limit, from, hour_us;
    struct tb_option_list scopes, aks, id_keys, images;
    const char *new_token_file; /* of login */
    const char *image, *image_version, *output, *approve_key;
    bool csv, yes, by_machines, all, secure_boot, allow_debug, no_drivers;
};

/* -- rows -------------------------------------------------------------------------------------- */
#define ROWS_REMOTE                                                                                          \
    TB_OPTION_HEADING_ROW("Control plane:"), ROW_EDC_ENDPOINT(remote.endpoint), ROWS_ACCESS(remote),         \
        TB_OPTION_HEADING_ROW("Every command:"), CLI_COMMON_ROWS
/* Of a command that changes something. */
#define ROWS_REMOTE_CHANGE                                                                                   \
    TB_OPTION(0, "idempotency-key", "KEY", TB_OPTION_STRING, remote.idempotency_key,                         \
              "what was said with this key already is not done again [a random one]"),                       \
        ROWS_REMOTE
#define ROW_OF_CONTRACT                                                                                      \
    TB_OPTION(0, "contract", "CONTRACT", TB_OPTION_STRING, contract, "of this contract alone")
#define ROWS_EXPIRES(what)                                                                                   \
    TB_OPTION(0, "expires", "TIME", TB_OPTION_CALL, expires_us, what, .set = admin_option_time,              \
              .want = ADMIN_TIME_WORDS),                                                                     \
        TB_OPTION(0, "expires-in", "DURATION", TB_OPTION_CALL, expires_us,                                   \
                  "the same from now: 90m, 720h, "                                                           \
                  "30d",                                                                                     \
                  .set = admin_option_from_now, .want = ADMIN_DURATION_WORDS)
#define ROWS_CODE                                                                                            \
    TB_OPTION(0, "code-uses", "N", TB_OPTION_UINT, uses, "machines that may enrol by the code [1]",          \
              .min = 1, .max = 1000000),                                                                     \
        TB_OPTION(0, "code-expires-in", "DURATION", TB_OPTION_CALL, code_expires_us,                         \
                  "end of the code from now [7d]", .set = admin_option_from_now,                             \
                  .want = ADMIN_DURATION_WORDS)
#define ROW_MODE(what)                                                                                       \
    TB_OPTION(0, "mode", "MODE", TB_OPTION_CALL, mode, what, .set = admin_option_word,                       \
              .want = "enrolled, certificate or open")
/* Of a contract, or of those that a plan is sold with. */
#define ROWS_TERMS                                                                                           \
    TB_OPTION(0, "lease-seconds", "N", TB_OPTION_UINT, lease_seconds,                                        \
              "how long one authorisation lasts [3600]", .min = 1, .max = ADMIN_SECONDS_MAX),                \
        TB_OPTION(0, "slot-ttl", "SECONDS", TB_OPTION_UINT, slot_ttl_s,                                      \
                  "a machine that is not seen for its lease and this long makes room for another [86400]",   \
                  .min = 1, .max = ADMIN_SECONDS_MAX)
#define ADMIN_MAX_WORDS "a number from 1 to 1000000, or any"
#define ADMIN_TIME_WORDS "a time like 2026-12-31T00:00:00Z, or a day like 2026-12-31 (UTC)"
#define ADMIN_DURATION_WORDS "a duration like 90m, 720h or 30d"
#define ADMIN_SECONDS_MAX 31622400 /* of a lease: 366 days */

int admin_option_time(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX]);
int admin_option_from_now(const struct tb_option *o, void *us, char *value,
                          char err[static TB_OPTION_ERR_MAX]);
/* "any" takes a limit away: 0, and the option is given. */
int admin_option_max(const struct tb_option *o, void *n, char *value, char err[static TB_OPTION_ERR_MAX]);
/* One word of .want: "enrolled, certificate or open". */
int admin_option_word(const struct tb_option *o, void *word, char *value, char err[static TB_OPTION_ERR_MAX]);
bool admin_word_is_of(const char *words, const char *word);

/* -- running ----------------------------------------------------------------------------------- */

/* One command: what it is called and takes, and what it does. */
struct admin_command {
    struct tbpkg_command c;            /* its run is not used */
    const char *operand;               /* the word that must follow: "CONTRACT"; NULL: none */
    int (*check)(struct admin_job *j); /* judges the command line: CLI_OK or CLI_USAGE; or NULL */
    int (*work)(struct admin_job *j);
    bool no_token;    /* work() does not use the token that is kept or named */
    bool any_operand; /* the command judges it itself: no id */
    bool local;       /* asks no control plane */
};
/* Parses argv, judges it, finds the token, and works. Returns the exit code of the process. */
int admin_run(const struct admin_command *command, int argc, char **argv);

/* A command that has commands: `tbpkg contract add`. The name of each is both words. */
struct admin_group {
    const char *name;  /* "contract" */
    const char *about; /* lines of --help before the commands */
    const struct admin_command *commands;
    size_t n;
    const struct admin_command *otherwise; /* for a word that is none of theirs; or NULL */
};
/* argv[0] is the group's name, argv[1] the verb. */
int admin_run_group(const struct admin_group *g, int argc, char **argv);

/* CLI_OK when it is an id (of a contract, a token); else a usage error. */
int admin_check_id(const struct admin_job *j, const char *what, const char *id);

/* {"expires_at": "..."} unless us is 0. */
void admin_add_time(cJSON *o, const char *name, uint64_t us);
/* Of a row, as text: "" when it is absent. */
const char *admin_text(const cJSON *row, const char *member);
uint64_t admin_number(const cJSON *row, const char *member);

/* Reads a listing, and prints it. */
int admin_list(const struct admin_job *j, const char *path, const char *member,
               const struct table_column *columns, size_t n);
/* With --json the document, else its rows in a table. */
int admin_print_list(const struct admin_job *j, const cJSON *doc, const char *member,
                     const struct table_column *columns, size_t n);
/* With --json the document, else the object in lines. */
int admin_print_object(const struct admin_job *j, const cJSON *doc, const struct table_column *columns,
                       size_t n);
/* Of a change: with --json the document, else what was done, on standard error. */
int admin_print_done(const struct admin_job *j, const cJSON *doc, const char *fmt, ...) _printf_(3, 4);
/* "one machine", "3 machines" */
const char *admin_machines(uint64_t n, char out[static 40]);
/* An enrolment code or a token: alone on standard output, what it is for on standard error. */
int admin_print_secret(const struct admin_job *j, const cJSON *doc, const char *secret, const char *fmt, ...)
    _printf_(4, 5);

#endif
