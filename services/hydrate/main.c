/* SPDX-License-Identifier: Apache-2.0 */
/* tb-hydrate: brings the ciphertext of the licensed asset to TB_TARGET_DIR, then exits. tb-hydrate(8). */
#include <string.h>

#include "common/config.h"
#include "hydrate/hydrate.h"
#include "hydrate/repair.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/pem_check.h"
#include "common/secret.h"
#include "common/signals.h"

static const char help[] =
    "Usage: tb-hydrate [settle] [--help] [--version]\n"
    "Download the encrypted weights of TB_ASSET_ID to TB_TARGET_DIR, resumable, and verify them.\n"
    "\n"
    "settle: ends the count of repairs if the model was delivered since; nothing else.\n"
    "\n"
    "Configuration comes from the TB_* environment (see trustbridge.env). URLs come as the credentials "
    "sas-url,\n"
    "manifest-url and manifest-sha256 in $CREDENTIALS_DIRECTORY.\n"
    "\n"
    "Exit codes: 0 complete and verified, 66 not found, 74 I/O, disk or memory, 75 try again (a restart "
    "fetches fresh\n"
    "URLs and resumes), 76 integrity, 77 denied, 78 configuration. See tb-hydrate(8).\n";

/* The client certificate of the settings is shown to the storage too. */
static void hydrate_check(const struct tb_config *c, struct tb_findings *f)
{
    const struct tb_pem_pair client = {"TB_CLIENT_CERT_PATH", c->client_cert_path, "TB_CLIENT_KEY_PATH",
                                       c->client_key_path, "tb-hydrate"};

    if (c->ca_file)
        tb_pem_check_authorities("TB_CA_FILE", c->ca_file, "tb-hydrate", f);
    tb_pem_check_pair(&client, f);
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config cfg = {0};
    _cleanup_close_ int signal_fd = -1;
    struct tb_outcome o = {0};
    bool settle;
    int r;

    tb_secret_init();
    settle = argc == 2 && strcmp(argv[1], "settle") == 0;
    tb_config_main(settle ? 1 : argc, argv, &(struct tb_program){"tb-hydrate", help, hydrate_check}, &cfg);
    if (settle) {
        repair_settle(&cfg);
        return TB_EXIT_OK;
    }
    signal_fd = tb_signals_open(NULL);
    if (signal_fd < 0) {
        tb_error_errno(signal_fd, "cannot wait for signals");
        return TB_EXIT_IOERR;
    }
    r = hydrate_run(&cfg, signal_fd, &o);
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
