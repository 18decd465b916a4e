/* SPDX-License-Identifier: Apache-2.0 */
/* Signing manifests, and checking who signed one: tbenc(5), section SIGNATURE. Functions that fail have said
 * so on stderr and return CLI_FAILED (or CLI_INTERRUPTED); CLI_OK otherwise. */
#ifndef TBPKG_ASSET_SIGNER_H
#define TBPKG_ASSET_SIGNER_H

#include "provider/asset/sign_key.h"
#include "provider/cli/output.h"
#include "tbenc/signature.h"

#define SIGNER_SUFFIX ".minisig" /* behind the manifest's name */

/* --sign-key, without which nothing is signed, and --sign-passphrase-file. */
struct signer_options {
    const char *key_file, *passphrase_file;
};

struct signer {
    struct sign_key *key;           /* secret memory; NULL: nothing is signed */
    struct tb_minisign_keys public; /* one */
    char text[TB_MINISIGN_KEY_CHARS + 1];
};
/* Reads the key, and asks for its passphrase where it is locked. The key stays open for the commands that
 * follow in this process, so that the passphrase is asked for once. */
int signer_open(struct signer *s, const struct signer_options *o);
void signer_clear(struct signer *s);
#define _cleanup_signer_ _cleanup_(signer_clear)
/* Wipes the key that stayed open. */
void signer_forget(void);

static inline bool signer_signs(const struct signer *s)
{
    return s->key;
}

/* Puts the signature into the manifest's text; path: of the file it is for. */
int signer_sign(const struct signer *s, const char *asset_id, const char *path, char **text, size_t *len);
/* Did this key sign that text? */
bool signer_signed(const struct signer *s, const char *text, size_t len);
/* Writes the signature of the whole file, which stands beside it. Without a key removes one of what the file
 * was before. */
int signer_put_detached(const struct signer *s, const char *asset_id, const char *path, const char *text,
                        size_t len);

/* --provider-key: a key, several with commas, or a file. */
int provider_keys_read(const char *value, struct tb_minisign_keys *ret);
/* The same as the setting of a machine: base64 with commas between. Heap, or NULL: the error is reported. */
char *provider_keys_setting(const char *value);

#endif
