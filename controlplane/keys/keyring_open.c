/* SPDX-License-Identifier: Apache-2.0 */
/* Which provider the name of a key-encryption key means. */
#include <stdio.h>
#include <string.h>

#include "controlplane/keys/keyring.h"

static int keyring_open_file_at(const char *path, struct cp_keyring **ret, char *err)
{
    _cleanup_key_ struct tb_key master;
    int r = tb_key_read_file(path, &master);

    if (r == 0)
        r = cp_keyring_open_file(&master, ret);
    if (r < 0)
        snprintf(err, CP_KEYRING_ERR_MAX, "%s: %s; it must hold 32 bytes in hexadecimal", path,
                 r == -EINVAL ? "no key is in it" : strerror(-r));
    return r;
}

int cp_keyring_open(const char *text, const struct cp_keyring_access *a, struct cp_keyring **ret,
                    char err[static CP_KEYRING_ERR_MAX])
{
    if (strncmp(text, "file:", 5) == 0)
        return keyring_open_file_at(text + 5, ret, err);
    if (strncmp(text, "pkcs11:", 7) == 0)
        return cp_keyring_open_pkcs11(text, ret, err);
    if (strncmp(text, "keyvault:", 9) == 0)
        return cp_keyring_open_keyvault(text + 9, a, ret, err);
    if (strncmp(text, "transit:", 8) == 0)
        return cp_keyring_open_transit(text + 8, a, ret, err);
    snprintf(
        err, CP_KEYRING_ERR_MAX,
        "'%.60s' does not name a key-encryption key; it begins with file:, pkcs11:, keyvault: or transit:",
        text);
    return -EINVAL;
}
