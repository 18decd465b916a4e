/* SPDX-License-Identifier: Apache-2.0 */
#include "common/application.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/hex.h"
#include "common/text.h"

#define GROUP_MAX 360 /* 90 characters of UTF-8 */
#define NAME_MAX_BYTES 256

static bool application_expect(const char **s, const char *word)
{
    size_t n = strlen(word);

    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)(*s)[i]) != word[i])
            return false;
    *s += n;
    return true;
}

static bool application_skip_guid(const char **s)
{
    for (int i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? (*s)[i] != '-' : !isxdigit((unsigned char)(*s)[i]))
            return false;
    }
    *s += 36;
    return true;
}

/* A name of a resource group or of a resource: letters and digits of whatever script, "-", "_", ".", "(",
 * ")"; no "." at its end, so that it is never "..". */
static bool application_skip_name(const char **s, size_t max)
{
    const char *start = *s;

    while (**s && **s != '/') {
        size_t n = tb_utf8_char(*s, NULL);

        if (n == 0 || (n == 1 && !isalnum((unsigned char)**s) && !strchr("-_.()", **s)))
            return false;
        *s += n;
    }
    return *s > start && (size_t)(*s - start) <= max && (*s)[-1] != '.';
}

int tb_application_read(const char *text, char ret[static TB_APPLICATION_MAX + 1])
{
    const char *s = text[0] == '/' ? text + 1 : text;
    size_t n = strlen(s);

    ret[0] = '\0';
    if (n + 1 > TB_APPLICATION_MAX)
        return -EINVAL;
    ret[0] = '/';
    for (size_t i = 0; i <= n; i++)
        ret[i + 1] = (char)((unsigned char)s[i] < 0x80 ? tolower((unsigned char)s[i]) : s[i]);
    s = ret;
    if (application_expect(&s, "/subscriptions/") && application_skip_guid(&s) &&
        application_expect(&s, "/resourcegroups/") && application_skip_name(&s, GROUP_MAX) &&
        application_expect(&s, "/providers/microsoft.solutions/applications/") &&
        application_skip_name(&s, NAME_MAX_BYTES) && !*s)
        return 0;
    ret[0] = '\0';
    return -EINVAL;
}

int tb_application_contract(const char *text, char ret[static TB_APPLICATION_CONTRACT_MAX + 1])
{
    char id[TB_APPLICATION_MAX + 1];
    unsigned char sum[32];
    int r = tb_application_read(text, id);

    ret[0] = '\0';
    if (r < 0)
        return r;
    if (EVP_Digest(id, strlen(id), sum, NULL, EVP_sha256(), NULL) != 1)
        return -EIO;
    memcpy(ret, "app-", 4);
    tb_hex_encode(sum, 16, ret + 4);
    return 0;
}
