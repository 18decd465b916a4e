/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: a table of commands, each with a table of options (common/option.h); one file per group
 * of commands. */
#ifndef CP_CMD_H
#define CP_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/exit.h"
#include "common/option.h"
#include "controlplane/store/datadir.h"
#include "controlplane/store/store.h"

#define CP_PROGRAM "tb-controlplane"
/* Hours, not years: the storage service honours a SAS as long as it lives, whatever becomes of the
 * contract. */
#define CP_SAS_SECONDS_MAX (7 * 86400)

struct cp_command;

/* Every option of every command. Unset: NULL, 0, false. Strings are argv's. */
struct cp_options {
    const struct cp_command *command;
    const char *operand;
    const char *data, *database;
    /* contracts */
    const char *asset, *reason;
    uint64_t expires_us, lease_seconds, max_hw, slot_ttl_s, version, from;
    const char *mode, *machine, *contract_ca, *attest, *min_tcb, *maa;
    struct tb_option_list aks, id_keys, images;
    bool secure_boot, allow_debug;
    const char *plan, *definition, *subscription;
    uint64_t codes, code_expires_us;
    bool replace;
    /* tokens */
    struct tb_option_list scopes;
    /* listings */
    bool json;
    uint64_t limit;
    /* serve */
    const char *listen, *metrics_listen, *tls_cert, *tls_key, *client_ca, *storage_ca, *sas_ip;
    struct tb_option_list storage_accounts, storage_key_files, storage_endpoints;
    bool storage_identity;
    const char *machine_ca, *machine_ca_key;
    const char *purchase_sig_file, *purchase_verify, *arm, *identity_client_id;
    uint64_t certificate_s;
    struct tb_option_list names, oidc_scopes;
    const char *oidc_issuer, *oidc_audience, *oidc_claim, *oidc_ca;
    const char *attest_ca, *snp_roots, *maa_jwks, *maa_ca;
    uint64_t sas_seconds, workers, client_rate, contract_rate;
    bool tls_auto, http, client_auth, seed;
    /* the keyring */
    const char *kek, *kek_token_file, *kek_ca_file, *kek_client_id;
    struct tb_option_list keks_old;
    /* the submitter */
    bool submit, by_machines;
    const char *metering, *metering_tenant, *metering_client_id, *metering_secret_file;
    uint64_t submit_interval_s, submit_after_s, hour_us;
    const char *resource, *dimension, *dimensions, *verdict;
    /* every command */
    bool help;
};
void cp_options_clear(struct cp_options *o);
#define _cleanup_cp_options_ _cleanup_(cp_options_clear)

struct cp_command {
    const char *noun, *verb;                /* verb NULL: one word */
    const char *operand;                    /* what stands after the words, NULL: nothing */
    const struct tb_option *options;        /* the last rows are CP_COMMON_ROWS */
    const char *summary;                    /* one line, lower case */
    int (*run)(const struct cp_options *o); /* an enum tb_exit */
    const char *details;                    /* the rest of --help, or NULL */
};

/* Rows that several commands have, of a table whose TB_OPTION_TARGET is struct cp_options. */
#define CP_END_ROWS                                                                                          \
    TB_OPTION(0, "expires", "TIME", TB_OPTION_CALL, expires_us, "end of the contract, RFC 3339",             \
              .set = cp_option_time, .want = "a time like 2026-12-31T00:00:00Z"),                            \
        TB_OPTION(0, "expires-in", "DURATION", TB_OPTION_CALL, expires_us, "end of the contract from now",   \
                  .set = cp_option_from_now, .want = "a duration like 90s or 1h30m")
#define CP_LEASE_ROW                                                                                         \
    TB_OPTION(0, "lease-seconds", "N", TB_OPTION_UINT, lease_seconds,                                        \
              "how long one authorisation lasts (default 3600)", .min = 1, .max = CP_LEASE_SECONDS_MAX)
#define CP_KEK_ROWS                                                                                          \
    TB_OPTION(0, "kek", "KEK", TB_OPTION_STRING, kek,                                                        \
              "key-encryption key: file:, pkcs11:, keyvault: or transit: (default file:DIR/master.key)",     \
              .setting = "TBCP_KEK"),                                                                        \
        TB_OPTION(0, "kek-old", "KEK", TB_OPTION_LIST, keks_old,                                             \
                  "one that still opens what it wrapped; may be repeated", .setting = "TBCP_KEK_OLD"),       \
        TB_OPTION(0, "kek-token-file", "FILE", TB_OPTION_STRING, kek_token_file,                             \
                  "token of the transit engine", .setting = "TBCP_KEK_TOKEN_FILE"),                          \
        TB_OPTION(0, "kek-ca-file", "FILE", TB_OPTION_STRING, kek_ca_file,                                   \
                  "CAs of the key service (default: the system's)", .setting = "TBCP_KEK_CA_FILE"),          \
        TB_OPTION(0, "kek-client-id", "ID", TB_OPTION_STRING, kek_client_id,                                 \
                  "user-assigned managed identity for Key Vault", .setting = "TBCP_KEK_CLIENT_ID")
#define CP_SUBMIT_ROWS                                                                                       \
    TB_OPTION(0, "submit", NULL, TB_OPTION_FLAG, submit,                                                     \
              "report usage of contracts that are billed here to the marketplace; one of all servers does",  \
              .setting = "TBCP_SUBMIT"),                                                                     \
        TB_OPTION(0, "metering", "URL", TB_OPTION_STRING, metering,                                          \
                  "metering API (default https://marketplaceapi.microsoft.com)",                             \
                  .setting = "TBCP_METERING_ENDPOINT"),                                                      \
        TB_OPTION(0, "metering-tenant", "TENANT", TB_OPTION_STRING, metering_tenant,                         \
                  "by a service principal of this tenant (default: the managed identity)",                   \
                  .setting = "TBCP_METERING_TENANT"),                                                        \
        TB_OPTION(0, "metering-client-id", "ID", TB_OPTION_STRING, metering_client_id,                       \
                  "its application id, or a user-assigned managed identity",                                 \
                  .setting = "TBCP_METERING_CLIENT_ID"),                                                     \
        TB_OPTION(0, "metering-secret-file", "FILE", TB_OPTION_STRING, metering_secret_file,                 \
                  "secret of the service principal", .setting = "TBCP_METERING_SECRET_FILE"),                \
        TB_OPTION(0, "submit-interval", "SECONDS", TB_OPTION_UINT, submit_interval_s,                        \
                  "between looks (default 60)", .min = 1, .max = 3600, .setting = "TBCP_SUBMIT_INTERVAL"),   \
        TB_OPTION(0, "submit-after", "SECONDS", TB_OPTION_UINT, submit_after_s,                              \
                  "an hour is reported so long after its end, when its machines have told (default 7200)",   \
                  .min = 300, .max = 20 * 3600, .setting = "TBCP_SUBMIT_AFTER")
#define CP_CODE_ROWS                                                                                         \
    TB_OPTION(0, "code-uses", "N", TB_OPTION_UINT, codes, "machines that may enrol by the code (default 1)", \
              .min = 1, .max = 1000000),                                                                     \
        TB_OPTION(0, "code-expires-in", "DURATION", TB_OPTION_CALL, code_expires_us,                         \
                  "end of the code from now (default 7d)", .set = cp_option_from_now,                        \
                  .want = "a duration like 90s, 1h30m or 7d")
#define CP_JSON_ROW TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "print a JSON array")
#define CP_COMMON_ROWS                                                                                       \
    TB_OPTION(0, "data", "DIR", TB_OPTION_STRING, data,                                                      \
              "where database, keys and certificates are (required)", .setting = "TBCP_DATA"),               \
        TB_OPTION(0, "database", "URL", TB_OPTION_STRING, database,                                          \
                  "postgresql://... or sqlite:PATH (default: controlplane.db in DIR)",                       \
                  .setting = "TBCP_DATABASE"),                                                               \
        TB_OPTION(0, "help", NULL, TB_OPTION_STOP, help, "this text"), TB_OPTION_END

int cp_option_time(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX]);
int cp_option_from_now(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX]);

/* Tables of options: none of its own, --json alone; the others are their commands' files'. */
extern const struct tb_option cp_no_options[], cp_json_options[], cp_serve_options[],
    cp_contract_add_options[], cp_contract_deny_options[], cp_contract_shorten_options[], cp_log_options[],
    cp_machine_options[], cp_code_options[], cp_changes_options[], cp_kek_options[],
    cp_contract_bill_options[], cp_submitter_events_options[], cp_submitter_resolve_options[],
    cp_asset_promote_options[], cp_offer_add_options[], cp_contract_await_options[], cp_token_add_options[];

/* Parses argv after the command's words. Returns -1 to go on, else the exit code (help was printed, or an
 * error). */
int cp_options_parse(const struct cp_command *c, int argc, char **argv, struct cp_options *ret);

/* "tb-controlplane contract add: message" on stderr. Returns code. */
int cp_fail(const struct cp_options *o, int code, const char *fmt, ...) _printf_(3, 4);
/* The same for a failure of the store. */
int cp_fail_store(const struct cp_options *o, const struct cp_store *s, int r);
/* Where the database is, and opening it. 0, or an exit code after saying why. */
int cp_place(const struct cp_options *o, struct cp_place *ret);
int cp_open(const struct cp_options *o, struct cp_store **ret);
/* The keyring of --kek and --kek-old. Without --kek it is DIR/master.key, which is made when it is missing;
 * with it that file, when it is there, still opens what it wrapped. 0, or an exit code after saying why. */
int cp_open_keyring(const struct cp_options *o, struct cp_keyring **ret);
/* Who changes something by the command line: "cli:NAME". */
const char *cp_actor(char out[static 64]);

/* --mode, or enrolled. 0, or an exit code after saying why. */
int cp_find_mode(const struct cp_options *o, enum cp_mode *ret);

/* The thread of serve --submit; without it *ret stays NULL. 0, or an exit code after saying why. */
struct cp_submitter;
int cp_start_submitter(const struct cp_options *o, const struct cp_place *place, char **ret_secret,
                       struct cp_submitter **ret);

int cp_run_serve(const struct cp_options *o);
int cp_run_issue_client(const struct cp_options *o);
int cp_run_contract_add(const struct cp_options *o);
int cp_run_contract_allow(const struct cp_options *o);
int cp_run_contract_deny(const struct cp_options *o);
int cp_run_contract_revoke(const struct cp_options *o);
int cp_run_contract_shorten(const struct cp_options *o);
int cp_run_contract_unbind(const struct cp_options *o);
int cp_run_machine_list(const struct cp_options *o);
int cp_run_machine_report(const struct cp_options *o);
int cp_run_contract_code(const struct cp_options *o);
int cp_run_machine_expel(const struct cp_options *o);
int cp_run_machine_remove(const struct cp_options *o);
int cp_run_changes(const struct cp_options *o);
int cp_run_contract_list(const struct cp_options *o);
int cp_run_asset_promote(const struct cp_options *o);
int cp_run_asset_restore(const struct cp_options *o);
int cp_run_asset_list(const struct cp_options *o);
int cp_run_usage(const struct cp_options *o);
int cp_run_kek_create(const struct cp_options *o);
int cp_run_kek_check(const struct cp_options *o);
int cp_run_kek_list(const struct cp_options *o);
int cp_run_kek_rewrap(const struct cp_options *o);
int cp_run_token_add(const struct cp_options *o);
int cp_run_token_list(const struct cp_options *o);
int cp_run_token_revoke(const struct cp_options *o);
int cp_run_token_scopes(const struct cp_options *o);
int cp_run_log(const struct cp_options *o);
int cp_run_restored(const struct cp_options *o);
int cp_run_offer_add(const struct cp_options *o);
int cp_run_offer_list(const struct cp_options *o);
int cp_run_offer_remove(const struct cp_options *o);
int cp_run_contract_bill(const struct cp_options *o);
int cp_run_submitter_status(const struct cp_options *o);
int cp_run_submitter_events(const struct cp_options *o);
int cp_run_submitter_resolve(const struct cp_options *o);
int cp_run_purchase_list(const struct cp_options *o);
int cp_run_contract_await(const struct cp_options *o);

#endif
