/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/sas_key.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>

#include "common/macros.h"
#include "common/secret.h"

int cp_sas_key_decode(const char *text, size_t len, uint8_t **ret, size_t *ret_len)
{
    _cleanup_secret_ uint8_t *key = NULL;
    size_t pad = 0;
    int n;

    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    if (len == 0 || len % 4 != 0 || len / 4 * 3 > CP_SAS_KEY_MAX)
        return -EINVAL;
    while (pad < 2 && text[len - 1 - pad] == '=')
        pad++;
    /* EVP_DecodeBlock() itself takes '=' anywhere, and white space */
    for (size_t i = 0; i < len - pad; i++)
        if (!isalnum((unsigned char)text[i]) && text[i] != '+' && text[i] != '/')
            return -EINVAL;
    key = tb_secret_alloc(CP_SAS_KEY_MAX);
    if (!key)
        return -ENOMEM;
    n = EVP_DecodeBlock(key, (const unsigned char *)text, (int)len);
    if (n <= (int)pad)
        return -EINVAL;
    *ret_len = (size_t)n - pad;
    *ret = TAKE_PTR(key);
    return 0;
}
