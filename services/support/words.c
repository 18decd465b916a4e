/* SPDX-License-Identifier: Apache-2.0 */
#include "support/words.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#define HEX_MIN 32      /* digits: hashes, keys, ids of systemd */
#define RANDOM_MIN 20   /* of all three kinds of characters */
#define BASE64_MIN 40   /* with '/' and '+' it may be a path: longer */
#define PREFIXED_MIN 12 /* behind sk- and the like */

static bool word_starts(const char *s, size_t len, const char *with)
{
    size_t n = strlen(with);

    return len >= n && strncasecmp(s, with, n) == 0;
}

static bool word_is(const char *s, size_t len, const char *what)
{
    return len == strlen(what) && strncasecmp(s, what, len) == 0;
}

bool word_is_local(const char *s, size_t len)
{
    static const char *const hosts[] = {
        "localhost",   "0.0.0.0",        "::", "::1", "[::]", "[::1]", "169.254.169.254",
        "localdomain", "255.255.255.255"};

    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++)
        if (word_is(s, len, hosts[i]))
            return true;
    return word_starts(s, len, "127.");
}

bool word_names_secret(const char *s, size_t len)
{
    static const char *const parts[] = {"secret", "passw", "passphrase", "token",   "credential",  "apikey",
                                        "cookie", "auth",  "signature",  "private", "sharedaccess"};
    char low[64];
    size_t n = 0;

    if (len == 0 || len > 63)
        return false;
    for (size_t i = 0; i < len; i++)
        if (s[i] != '-' && s[i] != '_')
            low[n++] = (char)tolower((unsigned char)s[i]);
    low[n] = '\0';
    /* Not counts of tokens, and not what is named after tb-authorize. */
    if ((n >= 6 && strcmp(low + n - 6, "tokens") == 0) || strstr(low, "authoriz") == low + 2 ||
        strstr(low, "author") == low)
        return strcmp(low, "authorization") == 0;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (strstr(low, parts[i]))
            return true;
    return strcmp(low, "sig") == 0 || strcmp(low, "key") == 0 || strcmp(low, "keyhex") == 0 ||
           strcmp(low, "se") == 0 || strcmp(low, "skoid") == 0 ||
           (n >= 3 && (strcmp(low + n - 3, "key") == 0 || strcmp(low + n - 3, "pwd") == 0)) ||
           (n >= 4 && strcmp(low + n - 4, "pass") == 0) || strstr(low, "enrolmentcode") ||
           strcmp(low, "nonce") == 0 || strstr(low, "keyhex") != NULL;
}

static bool word_is_uuid(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
            return false;
    return len == 36;
}

static bool word_is_ipv4(const char *s, size_t len)
{
    char text[16];
    struct in_addr a;

    if (len > 15)
        return false;
    memcpy(text, s, len);
    text[len] = '\0';
    return inet_pton(AF_INET, text, &a) == 1;
}

/* Also a MAC address, and either with a prefix length or a zone. */
static bool word_is_colon_address(const char *s, size_t len)
{
    char text[64];
    struct in6_addr a;
    size_t n = 0, colons = 0;

    while (n < len && (isxdigit((unsigned char)s[n]) || s[n] == ':' || s[n] == '.'))
        colons += s[n++] == ':';
    if (n >= sizeof(text) || colons < 2 || (n < len && s[n] != '%' && s[n] != '/'))
        return false;
    memcpy(text, s, n);
    text[n] = '\0';
    return inet_pton(AF_INET6, text, &a) == 1 || (colons == 5 && n == 17);
}

/* What the last part of a name with dots is when it is no host. */
static bool word_is_file_suffix(const char *s, size_t len)
{
    static const char *const suffixes[] = {
        "service", "socket",      "target", "path",     "mount",   "slice", "scope",    "timer",  "device",
        "swap",    "automount",   "json",   "jsonl",    "env",     "conf",  "db",       "sock",   "tbenc",
        "part",    "verified",    "live",   "c",        "h",       "so",    "log",      "txt",    "md",
        "gguf",    "safetensors", "bin",    "pem",      "crt",     "py",    "sh",       "tar",    "gz",
        "deb",     "html",        "backup", "d",        "bash",    "lock",  "pid",      "rules",  "catalog",
        "journal", "trustbridge", "max",    "high",     "current", "stat",  "pressure", "events", "list",
        "key",     "cert",        "e",      "g",        "i",       "total", "used",     "free",   "avg",
        "systemd", "config",      "signal", "encrypted"};

    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
        if (word_is(s, len, suffixes[i]))
            return true;
    return false;
}

static bool word_is_host(const char *s, size_t len)
{
    size_t dots = 0, last = 0;

    while (len > 0 && s[len - 1] == '.')
        len--;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '.') {
            if (i == last)
                return false;
            dots++;
            last = i + 1;
        } else if (!isalnum((unsigned char)s[i]) && s[i] != '-' && s[i] != '_') {
            return false;
        }
    }
    if (dots == 0 || len - last < 2 || word_is_file_suffix(s + last, len - last))
        return false;
    for (size_t i = last; i < len; i++)
        if (!isalpha((unsigned char)s[i]))
            return false;
    return true;
}

static bool word_is_email(const char *s, size_t len)
{
    const char *at = memchr(s, '@', len);

    return at && at > s && word_is_host(at + 1, len - (size_t)(at + 1 - s));
}

static bool word_is_prefixed(const char *s, size_t len)
{
    static const char *const prefixes[] = {"sk-",   "pk-",  "hf_",         "ghp_",   "gho_",
                                           "ghs_",  "ghu_", "github_pat_", "glpat-", "xoxb-",
                                           "xoxp-", "AKIA", "eyJ",         "ya29.",  "AGE-SECRET-KEY-",
                                           "npm_",  "tbe-"};

    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (len >= PREFIXED_MIN && len > strlen(prefixes[i]) &&
            memcmp(s, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static bool word_is_random(const char *s, size_t len)
{
    size_t upper = 0, lower = 0, digit = 0, other = 0, hex = 0;

    for (size_t i = 0; i < len; i++) {
        upper += isupper((unsigned char)s[i]) != 0;
        lower += islower((unsigned char)s[i]) != 0;
        digit += isdigit((unsigned char)s[i]) != 0;
        hex += isxdigit((unsigned char)s[i]) != 0;
        other += strchr("/+.:", s[i]) != NULL;
    }
    if (len >= HEX_MIN && hex == len)
        return true;
    if (upper < 2 || lower < 2 || digit < 2)
        return false;
    return len >= (other > 0 ? BASE64_MIN : RANDOM_MIN);
}

enum redact_class word_class(const char *s, size_t len)
{
    if (len < 2 || word_is_local(s, len))
        return REDACT_NOTHING;
    if (word_is_uuid(s, len))
        return REDACT_ID;
    if (word_is_prefixed(s, len) || word_is_random(s, len))
        return REDACT_SECRET;
    if (word_is_ipv4(s, len) || word_is_colon_address(s, len) || word_is_email(s, len) ||
        word_is_host(s, len))
        return REDACT_ADDRESS;
    return REDACT_NOTHING;
}
