/* SPDX-License-Identifier: Apache-2.0 */
/* tb-controlplane: contracts, keys and usage. docs/controlplane-design.md. */
#include <signal.h>
#include <string.h>

#include "controlplane/cmd/cmd.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/version.h"

static const struct cp_command commands[] = {
    {"serve", NULL, NULL, cp_serve_options, "serve the HTTP API until SIGTERM", cp_run_serve,
     "The first start makes DIR with provider.token (what `tbpkg register` must present), master.key, the "
     "database with\n"
     "contract-allow and contract-deny (unless --database names one), and a CA. Prints one line when ready."},
    {"issue-client", NULL, "NAME", cp_no_options,
     "make a client certificate of the own CA: DIR/client-NAME.crt and .key", cp_run_issue_client, NULL},
    {"contract", "add", "CONTRACT", cp_contract_add_options, "add an active contract", cp_run_contract_add,
     NULL},
    {"contract", "deny", "CONTRACT", cp_contract_deny_options, "refuse a contract from now on",
     cp_run_contract_deny, NULL},
    {"contract", "allow", "CONTRACT", cp_no_options, "make a denied or revoked contract active again",
     cp_run_contract_allow, NULL},
    {"contract", "revoke", "CONTRACT", cp_no_options, "refuse a contract with the reason contract_revoked",
     cp_run_contract_revoke, NULL},
    {"contract", "shorten", "CONTRACT", cp_contract_shorten_options,
     "bring its end nearer or its leases down", cp_run_contract_shorten, NULL},
    {"contract", "unbind", "CONTRACT", cp_no_options, "forget its machines, so that --max-hw counts anew",
     cp_run_contract_unbind, NULL},
    {"contract", "code", "CONTRACT", cp_code_options, "print a new enrolment code for its machines",
     cp_run_contract_code, NULL},
    {"contract", "await", "CONTRACT", cp_contract_await_options,
     "let the purchase of a customer who names it bind it", cp_run_contract_await,
     "For a private offer: the customer writes the contract's id into the portal's form. The "
     "application that is\n"
     "deployed in the subscription gets the contract, and its end ends it."},
    {"contract", "list", NULL, cp_json_options, "print all contracts", cp_run_contract_list, NULL},
    {"machine", "list", NULL, cp_json_options, "print the machines of all contracts", cp_run_machine_list,
     NULL},
    {"machine", "report", "CONTRACT", cp_machine_options,
     "print what a machine reported of itself the last time, with its TPM's signature", cp_run_machine_report,
     NULL},
    {"machine", "remove", "CONTRACT", cp_machine_options,
     "forget one machine of a contract: its slot is free", cp_run_machine_remove, NULL},
    {"machine", "expel", "CONTRACT", cp_machine_options, "refuse one machine of a contract for good",
     cp_run_machine_expel, NULL},
    {"asset", "list", NULL, cp_json_options, "print all registered assets, without their keys",
     cp_run_asset_list, NULL},
    {"asset", "promote", "ASSET", cp_asset_promote_options,
     "make a version current, for the contracts that follow it; an earlier one is a rollback",
     cp_run_asset_promote, NULL},
    {"asset", "restore", "ASSET", cp_no_options,
     "bring back the registration, with its key, that a later one replaced", cp_run_asset_restore, NULL},
    {"token", "add", "TOKEN", cp_token_add_options, "make a token for remote administration, and print it",
     cp_run_token_add, NULL},
    {"token", "list", NULL, cp_json_options, "print all tokens, without the tokens themselves",
     cp_run_token_list, NULL},
    {"token", "revoke", "TOKEN", cp_no_options, "refuse a token from now on", cp_run_token_revoke, NULL},
    {"token", "scopes", NULL, cp_json_options, "print which scopes each call of the API asks for",
     cp_run_token_scopes, NULL},
    {"kek", "create", NULL, cp_kek_options, "make a key-encryption key in the token that --kek names",
     cp_run_kek_create, NULL},
    {"kek", "check", NULL, cp_kek_options, "wrap and unwrap a key that nobody uses", cp_run_kek_check, NULL},
    {"kek", "list", NULL, cp_json_options, "print how many keys are under which key-encryption key",
     cp_run_kek_list, NULL},
    {"kek", "rewrap", NULL, cp_kek_options, "wrap every key anew under the key-encryption key of --kek",
     cp_run_kek_rewrap,
     "Servers go on meanwhile; start them with the new --kek, and the old one as --kek-old, before. A run "
     "that\n"
     "was interrupted is run again."},
    {"contract", "bill", "CONTRACT", cp_contract_bill_options,
     "report its usage to the marketplace from here (serve --submit), not by its machines",
     cp_run_contract_bill,
     "Machines are told with their next lease, and finish what they have begun. Usage that they had reported "
     "before\n"
     "is not billed here. Without --resource usage is held until that is known. Without options: print how "
     "it is billed."},
    {"submitter", "status", NULL, cp_json_options,
     "print who reports usage to the marketplace, and how it goes", cp_run_submitter_status, NULL},
    {"submitter", "events", NULL, cp_submitter_events_options,
     "print the metering events that the marketplace has not accepted", cp_run_submitter_events, NULL},
    {"submitter", "resolve", NULL, cp_submitter_resolve_options, "say what became of a parked event in doubt",
     cp_run_submitter_resolve,
     "For an event that is too old to be sent again and whose last request had no answer: look in Partner "
     "Center what\n"
     "the marketplace has."},
    {"restored", NULL, NULL, cp_no_options, "make a database that was restored from a backup safe to serve",
     cp_run_restored, NULL},
    {"offer", "add", "OFFER", cp_offer_add_options, "say which contract a purchase of a plan makes",
     cp_run_offer_add,
     "One of the same name is replaced. Purchases that waited for it get their contracts; those that have "
     "one keep\n"
     "its terms."},
    {"offer", "list", NULL, cp_json_options, "print what is sold", cp_run_offer_list, NULL},
    {"offer", "remove", "OFFER", cp_no_options, "make no more contracts of it", cp_run_offer_remove, NULL},
    {"purchase", "list", NULL, cp_json_options, "print the managed applications and their contracts",
     cp_run_purchase_list, NULL},
    {"usage", NULL, NULL, cp_json_options, "print what each machine has reported of its use", cp_run_usage,
     NULL},
    {"log", NULL, NULL, cp_log_options, "print who asked for what, and the verdicts", cp_run_log, NULL},
    {"changes", NULL, NULL, cp_changes_options, "print every change, a hash chain for `tb-audit verify`",
     cp_run_changes, NULL},
    {0},
};

static void cp_print_usage(FILE *f)
{
    fputs("Usage: " CP_PROGRAM " COMMAND --data DIR ...\n\n"
          "TrustBridge control plane: contracts, keys and usage. See tb-controlplane(8).\n\nCommands:\n",
          f);
    for (const struct cp_command *c = commands; c->noun; c++) {
        char words[40];

        snprintf(words, sizeof(words), "%s%s%s%s%s", c->noun, c->verb ? " " : "", c->verb ? c->verb : "",
                 c->operand ? " " : "", c->operand ? c->operand : "");
        fprintf(f, "  %-26s %s\n", words, c->summary);
    }
    fputs("\n" CP_PROGRAM
          " COMMAND --help says more. Exit codes: 0 done, 64 usage, 66 no such object, 74 I/O, 75 busy, "
          "78 configuration.\n",
          f);
}

static const struct cp_command *cp_find_command(int argc, char **argv, int *ret_words)
{
    for (const struct cp_command *c = commands; c->noun; c++) {
        if (strcmp(argv[1], c->noun) != 0)
            continue;
        *ret_words = c->verb ? 2 : 1;
        if (!c->verb || (argc > 2 && strcmp(argv[2], c->verb) == 0))
            return c;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const struct cp_command *c;
    _cleanup_cp_options_ struct cp_options o = {0};
    int words = 0, r;

    tb_log_init(CP_PROGRAM);
    tb_secret_init();
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        cp_print_usage(stderr);
        return TB_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts(CP_PROGRAM " " TB_VERSION);
        return TB_EXIT_OK;
    }
    c = cp_find_command(argc, argv, &words);
    if (!c) {
        bool help = strcmp(argv[argc - 1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                    strcmp(argv[1], "help") == 0;

        if (!help)
            fprintf(stderr, CP_PROGRAM ": unknown command \"%s%s%s\"\n\n", argv[1],
                    words == 2 && argc > 2 ? " " : "", words == 2 && argc > 2 ? argv[2] : "");
        cp_print_usage(help ? stdout : stderr);
        return help ? TB_EXIT_OK : TB_EXIT_USAGE;
    }
    r = cp_options_parse(c, argc - words, argv + words, &o);
    return r >= 0 ? r : c->run(&o);
}
