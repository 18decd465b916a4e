/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of tbpkg: one file of cmd/ each, one table in main.c.
 *
 * A subcommand is called with argv[0] its own name, parses its options with cli_parse(), and returns the exit
 * code of the process: CLI_OK, CLI_FAILED, CLI_USAGE. Data goes to stdout and nothing else does; progress,
 * summaries, warnings and errors go to stderr. */
#ifndef TBPKG_TBPKG_H
#define TBPKG_TBPKG_H

#include "provider/cli/command.h"

extern const struct tbpkg_command tbpkg_encrypt, tbpkg_decrypt, tbpkg_verify, tbpkg_inspect, tbpkg_upload,
    tbpkg_register, tbpkg_build, tbpkg_package, tbpkg_publish, tbpkg_key, tbpkg_keygen, tbpkg_sign,
    tbpkg_config, tbpkg_login, tbpkg_logout, tbpkg_whoami, tbpkg_contract, tbpkg_enrol, tbpkg_machine,
    tbpkg_asset, tbpkg_usage, tbpkg_token, tbpkg_log, tbpkg_changes, tbpkg_offer, tbpkg_purchase,
    tbpkg_submitter, tbpkg_kek, tbpkg_doctor, tbpkg_ls, tbpkg_status, tbpkg_rm, tbpkg_abort, tbpkg_rotate,
    tbpkg_image;

#endif
