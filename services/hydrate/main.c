/* SPDX-License-Identifier: Apache-2.0 */
/* tb-hydrate: brings the ciphertext of the licensed asset to TB_TARGET_DIR, then exits. tb-hydrate(8). */
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "hydrate/hydrate.h"
#include "hydrate/repair.h"
#include "hydrate/versions.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/pem_check.h"
#include "common/provider_key.h"
#include "common/secret.h"
#include "common/signals.h"

static const char help[] =
    "Usage: tb-hydrate [next | switch | settle] [--help] [--version]\n"
    "Download the encrypted weights of TB_ASSET_ID to TB_TARGET_DIR, resumable.\n"
    "\n"
    "next: the version that the provider promoted, beside the one that is served.\n"
    "switch: decides which of them the runtime's next start takes, as tb-update wishes; nothing else.\n"
    "settle: ends the count of repairs if the model was delivered since; nothing else.\n"
    "\n"
    "Configuration comes from the TB_* environment (see trustbridge.env). URLs come as the credentials "
    "sas-url,\n"
    "manifest-url, manifest-sha256, base-urls and asset-version in $CREDENTIALS_DIRECTORY.\n"
    "\n"
    "Exit codes: 0 complete, 66 not found, 74 I/O, disk or memory, 75 try again (a restart "
    "fetches fresh\n"
    "URLs and resumes), 76 integrity, 77 denied, 78 configuration. See tb-hydrate(8).\n";

/* The client certificate of the settings is shown to the storage too. */
static void hydrate_check(const struct tb_config *c, struct tb_findings *f)
{
    const struct tb_pem_pair client = {"TB_CLIENT_CERT_PATH", c->client_cert_path, "TB_CLIENT_KEY_PATH",
                                       c->client_key_path, "tb-hydrate"};

    tb_provider_key_check(c->provider_key, "tb-hydrate", f);
    if (c->ca_file)
        tb_pem_check_authorities("TB_CA_FILE", c->ca_file, "tb-hydrate", f);
    tb_pem_check_pair(&client, f);
}

enum hydrate_verb { VERB_NONE, VERB_NEXT, VERB_SWITCH, VERB_SETTLE };

static enum hydrate_verb hydrate_verb(int argc, char **argv)
{
    static const char *const names[] = {
        [VERB_NEXT] = "next", [VERB_SWITCH] = "switch", [VERB_SETTLE] = "settle"};

    for (size_t i = VERB_NEXT; argc == 2 && i < ARRAY_SIZE(names); i++)
        if (strcmp(argv[1], names[i]) == 0)
            return (enum hydrate_verb)i;
    return VERB_NONE;
}

static const char *hydrate_place(const char *name, const char *otherwise)
{
    const char *v = getenv(name);

    return v && *v ? v : otherwise;
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config cfg = {0};
    _cleanup_close_ int signal_fd = -1;
    struct tb_outcome o = {0};
    enum hydrate_verb verb = hydrate_verb(argc, argv);
    int r;

    tb_secret_init();
    if (verb == VERB_SETTLE) { /* as its unit stops, whatever has become of the settings */
        tb_log_init("tb-hydrate");
        repair_settle(hydrate_place("TB_STATE_DIR", "/var/lib"), hydrate_place("TB_RUN_DIR", "/run"));
        return TB_EXIT_OK;
    }
    tb_config_main(verb == VERB_NONE ? argc : 1, argv,
                   &(struct tb_program){"tb-hydrate", help, hydrate_check}, &cfg);
    if (verb == VERB_SWITCH) {
        r = versions_switch(&cfg, &o);
        if (r != 0)
            tb_outcome_log(&o);
        return r;
    }
    signal_fd = tb_signals_open(NULL);
    if (signal_fd < 0) {
        tb_error_errno(signal_fd, "cannot wait for signals");
        return TB_EXIT_IOERR;
    }
    r = hydrate_run(&cfg, verb == VERB_NEXT, signal_fd, &o);
    if (r == HYDRATE_STOPPED) {
        tb_info("%s", o.reason);
        tb_notify_stopping();
        tb_signals_die(tb_signals_next(signal_fd));
        return TB_EXIT_TEMPFAIL;
    }
    if (r != 0)
        tb_outcome_log(&o);
    return r;
}
