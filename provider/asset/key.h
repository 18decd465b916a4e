/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of assets: their ids, and where a new key is put. A key that was put somewhere is never replaced
 * there. Functions that fail have said so on stderr and return CLI_FAILED, or CLI_USAGE where the command
 * line is at fault; CLI_OK otherwise. */
#ifndef TBPKG_ASSET_KEY_H
#define TBPKG_ASSET_KEY_H

#include "common/io.h"
#include "common/secret.h"
#include "provider/cli/command.h"
#include "provider/azure/key_vault.h"
#include "tbenc/tbenc.h"

#define ASSET_KEY_ID_HEX (2 * TBENC_KEY_ID_BYTES)

/* What --key-out of several commands says about TARGET. */
#define ASSET_KEY_OUT_HELP                                                                                   \
    "where the key goes: a FILE (0600, never replaced), a DIR/ (ID of asset and key make the name), '-' "    \
    "for "                                                                                                   \
    "standard output, age:RECIPIENT or gpg:RECIPIENT for a file that only the recipient opens, "             \
    "akv:VAULT or akv:VAULT/SECRET for Azure Key Vault"

/* Lower-case hex and a NUL. */
int asset_key_id(const struct tb_key *key, char out[static ASSET_KEY_ID_HEX + 1]);
/* CLI_OK when the manifest names no key, or this one; else reported: where is the key's file. */
int asset_key_check(const struct tbenc_manifest *m, const struct tb_key *key, const char *where);
/* The manifest's key id as text; "" when it names none. */
const char *asset_key_id_wanted(const struct tbenc_manifest *m, char out[static ASSET_KEY_ID_HEX + 1]);
/* The same of the manifest in that file; "" also when there is none or it is none. */
void asset_key_id_in(const char *path, char out[static ASSET_KEY_ID_HEX + 1]);
/* DIR/ASSET-KEYID.key. Heap; NULL on ENOMEM. */
char *asset_key_name(const char *dir, const char *asset_id, const char *key_id);

/* A regular file that seems to hold a key, clear or encrypted: nothing may replace it. */
bool asset_key_is_file(const char *path);

enum key_target { KEY_TO_STDOUT, KEY_TO_FILE, KEY_TO_AGE, KEY_TO_GPG, KEY_TO_VAULT };

struct key_out {
    enum key_target target;
    const char *recipient; /* of age or gpg */
    const char *asset_id;
    char *path; /* what is written, in Key Vault the URL of the secret; NULL: standard output */
    struct key_vault vault;
    char id[ASSET_KEY_ID_HEX + 1];
    struct tb_newfile file;
};
#define KEY_OUT_INIT                                                                                         \
    {                                                                                                        \
        .file = TB_NEWFILE_INIT                                                                              \
    }
/* Whether text is a target, without looking at any file. */
int key_out_check(const struct cli *c, const char *text);
/* Finds out where the key goes. text: of --key-out, NULL is standard output; beside: a file in whose
 * directory encrypted keys go, or NULL: here. */
int key_out_prepare(struct key_out *o, const char *text, const char *beside, const char *asset_id,
                    const struct tb_key *key);
/* The key goes into a file. */
static inline bool key_out_is_file(const struct key_out *o)
{
    return o->path && o->target != KEY_TO_VAULT;
}
/* A key from where it was put, a file or Key Vault. 0. -ENOENT with nothing said: there is nothing, or no
 * key. Other errnos, and the error is reported: it may be there, and cannot be read now. */
int asset_key_read(const char *place, struct tb_key *ret);
/* Makes the temporary file. */
int key_out_create(struct key_out *o);
/* Writes the key there, on disk when it returns; or prints it. */
int key_out_write(struct key_out *o, const struct tb_key *key);
/* The file takes its name; fails when the name is taken. */
int key_out_commit(struct key_out *o);
void key_out_clear(struct key_out *o);
#define _cleanup_key_out_ _cleanup_(key_out_clear)

#endif
