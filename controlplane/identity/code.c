/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/identity/code.h"

#include <ctype.h>
#include <openssl/sha.h>
#include <string.h>

#include "common/hex.h"
#include "common/secret.h"

#define CODE_PREFIX "tbe-"
#define CODE_DIGITS "0123456789abcdefghjkmnpqrstvwxyz"
#define CODE_SPACE " \t\r\n"

int cp_code_make(char out[static CP_CODE_CHARS + 1])
{
    uint8_t b[CP_CODE_CHARS - 4];
    char *p = stpcpy(out, CODE_PREFIX);
    int r = tb_random(b, sizeof(b));

    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(b); i++)
        *p++ = CODE_DIGITS[b[i] & 31];
    *p = '\0';
    tb_erase(b, sizeof(b));
    return 0;
}

int cp_code_hash(const char *code, char out[static CP_CODE_HASH_HEX + 1])
{
    uint8_t sum[SHA256_DIGEST_LENGTH];
    char text[CP_CODE_CHARS + 1];
    size_t n;

    code += strspn(code, CODE_SPACE);
    n = strcspn(code, CODE_SPACE);
    if (n != CP_CODE_CHARS || code[n + strspn(code + n, CODE_SPACE)])
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        text[i] = (char)tolower((unsigned char)code[i]);
    text[n] = '\0';
    if (strncmp(text, CODE_PREFIX, 4) != 0 || strspn(text + 4, CODE_DIGITS) != n - 4)
        return -EINVAL;
    SHA256((const uint8_t *)text, n, sum);
    tb_hex_encode(sum, sizeof(sum), out);
    tb_erase(text, sizeof(text));
    return 0;
}
