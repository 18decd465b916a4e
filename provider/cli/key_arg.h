/* SPDX-License-Identifier: Apache-2.0 */
/* Where a command gets a key from: --key-file PATH|-, --key-hex HEX, or $TBPKG_KEY_FILE. */
#ifndef TBPKG_CLI_KEY_ARG_H
#define TBPKG_CLI_KEY_ARG_H

#include "common/option.h"
#include "common/secret.h"
#include "provider/cli/command.h"

/* Zero-initialise. */
struct cli_key_arg {
    const char *file;
    char *hex; /* tb_secret_alloc memory */
};
static inline void cli_key_arg_clear(struct cli_key_arg *k)
{
    tb_secret_free(k->hex);
    k->hex = NULL;
}
#define _cleanup_key_arg_ _cleanup_(cli_key_arg_clear)

/* The rows --key-file and --key-hex. */
#define CLI_KEY_ROWS(member)                                                                                 \
    TB_OPTION('k', "key-file", "FILE", TB_OPTION_STRING, member.file,                                        \
              "the key: 64 hex digits or 32 bytes; '-' is standard input [$TBPKG_KEY_FILE]"),                \
        TB_OPTION(0, "key-hex", "HEX", TB_OPTION_CALL, member,                                               \
                  "the key itself; it stays in the shell's history: prefer --key-file",                      \
                  .set = cli_key_arg_hex)

/* --key-hex: moves the digits into secret memory, overwrites argv (so that /proc/PID/cmdline loses them) and
 * warns. */
int cli_key_arg_hex(const struct tb_option *o, void *key_arg, char *argv_value,
                    char err[static TB_OPTION_ERR_MAX]);
/* true when any source was given, the environment included. */
bool cli_key_arg_given(const struct cli_key_arg *k);
/* Reads the key. CLI_OK; else the error is reported and CLI_FAILED or CLI_USAGE returned. */
int cli_key_arg_read(const struct cli *c, const struct cli_key_arg *k, struct tb_key *ret);

/* Where the key comes from, for messages. */
const char *cli_key_arg_name(const struct cli_key_arg *k);
/* Keeps a key in secret memory for the commands that run later in this process, which then need no other
 * source; NULL forgets it. CLI_OK, or CLI_FAILED when reported. */
int cli_key_hold(const struct tb_key *key);

bool cli_key_is_held(void);

/* CLI_OK unless two of them want standard input, or a ciphertext from there comes without a manifest. NULLs
 * are fine. */
int cli_check_inputs(const struct cli *c, const char *in, const char *manifest, const struct cli_key_arg *k);

#endif
