/* SPDX-License-Identifier: Apache-2.0 */
/* A key as a secret in Azure Key Vault (REST API 7.4): where an asset's key can be put so that it touches no
 * disk. Functions return 0 or a negative errno with a reason in err, which holds no secret. Blocking. */
#ifndef TBPKG_AZURE_KEY_VAULT_H
#define TBPKG_AZURE_KEY_VAULT_H

#include "common/azure_token.h"
#include "common/macros.h"
#include "common/secret.h"

struct key_vault {
    char *url;    /* "https://NAME.vault.azure.net" */
    char *secret; /* its name, or NULL */
};
void key_vault_clear(struct key_vault *v);

/* "VAULT", "VAULT/SECRET", "https://HOST" or "https://HOST/SECRET". */
int key_vault_parse(const char *text, struct key_vault *ret, char err[static TB_AZURE_ERR_MAX]);
/* The name for a key: Key Vault takes letters, digits and '-' only. Heap; NULL on ENOMEM. */
char *key_vault_secret_name(const char *asset_id, const char *key_id);
/* Stores the key as a new version of the secret, which earlier versions survive. *ret_id: the URL of that
 * version. */
int key_vault_put(const struct key_vault *v, const char *asset_id, const char *key_id,
                  const struct tb_key *key, char **ret_id, char err[static TB_AZURE_ERR_MAX]);
/* Reads it again. -EINVAL also: what is stored is no key. */
int key_vault_get(const char *id, struct tb_key *ret, char err[static TB_AZURE_ERR_MAX]);
/* Whether a place of a key is one in Key Vault. */
bool key_vault_is_id(const char *place);

#endif
