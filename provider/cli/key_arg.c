/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/key_arg.h"

#include <errno.h>
#include <string.h>

#include "common/hex.h"
#include "provider/cli/output.h"

int cli_key_arg_hex(const struct tb_option *o, void *key_arg, char *argv_value,
                    char err[static TB_OPTION_ERR_MAX])
{
    struct cli_key_arg *k = key_arg;
    size_t n = strlen(argv_value);

    cli_key_arg_clear(k);
    k->hex = tb_secret_alloc(n + 1);
    if (k->hex)
        memcpy(k->hex, argv_value, n);
    tb_erase(argv_value, n);
    if (!k->hex)
        return -ENOMEM;
    tbpkg_warn("--key-hex puts the key into the shell history and, for a moment, where every user of this "
               "machine can read it; use --key-file");
    return 0;
}

static const char *key_arg_path(const struct cli_key_arg *k)
{
    const char *env = getenv("TBPKG_KEY_FILE");

    if (k->file)
        return k->file;
    return env && *env ? env : NULL;
}

static struct tb_key *held;

int cli_key_hold(const struct tb_key *key)
{
    tb_secret_freep(&held);
    if (!key)
        return CLI_OK;
    held = tb_secret_alloc(sizeof(*held));
    if (!held)
        return tbpkg_fail_errno("key", -ENOMEM);
    *held = *key;
    return CLI_OK;
}

bool cli_key_is_held(void)
{
    return held;
}

bool cli_key_arg_given(const struct cli_key_arg *k)
{
    return held || k->hex || key_arg_path(k);
}

const char *cli_key_arg_name(const struct cli_key_arg *k)
{
    const char *path = k->hex || (held && !k->file) ? NULL : key_arg_path(k);

    if (path && strcmp(path, "-") == 0)
        return "key on standard input";
    return path ? path : k->hex ? "--key-hex" : "the key";
}

int cli_key_arg_read(const struct cli *c, const struct cli_key_arg *k, struct tb_key *ret)
{
    const char *path = key_arg_path(k);
    int r;

    if (k->hex && k->file)
        return cli_usage(c, "--key-file and --key-hex exclude each other");
    if (k->hex) {
        if (tb_hex_decode(k->hex, strlen(k->hex), ret->b, TB_KEY_BYTES) < 0)
            return cli_usage(c, "--key-hex: a key is 64 hex digits");
        return CLI_OK;
    }
    if (held && !k->file) {
        *ret = *held;
        return CLI_OK;
    }
    if (!path)
        return cli_usage(c, "a key is needed: give --key-file, or name the file in TBPKG_KEY_FILE");
    r = tb_key_read_file(path, ret);
    if (r == -EINVAL)
        return tbpkg_fail(strcmp(path, "-") == 0 ? "key on standard input" : path,
                          "is neither 64 hex digits nor 32 bytes", "give the file that --key-out wrote");
    if (r < 0)
        return tbpkg_fail_errno(path, r);
    return CLI_OK;
}

int cli_check_inputs(const struct cli *c, const char *in, const char *manifest, const struct cli_key_arg *k)
{
    const char *key = k && !k->hex ? key_arg_path(k) : NULL;
    int from_stdin = 0;

    from_stdin += in && strcmp(in, "-") == 0;
    from_stdin += manifest && strcmp(manifest, "-") == 0;
    from_stdin += key && strcmp(key, "-") == 0;
    if (from_stdin > 1)
        return cli_usage(c, "only one of ciphertext, manifest and key can come from standard input");
    if (in && strcmp(in, "-") == 0 && !manifest)
        return cli_usage(c, "ciphertext from standard input needs --manifest");
    if (manifest && strcmp(manifest, "-") == 0 && !in)
        return cli_usage(c, "a manifest from standard input needs --in");
    return CLI_OK;
}
