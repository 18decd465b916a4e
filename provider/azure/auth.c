/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/auth.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "provider/azure/blob.h"
#include "common/base64.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define SECRET_FILE_MAX (16 * 1024)
#define RENEW_BEFORE_S 300
#define AUTH_VARIABLES_MAX 8

static int auth_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int auth_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TB_AZURE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

static void set_source(struct azure_auth *a, const char *fmt, ...) _printf_(2, 3);
static void set_source(struct azure_auth *a, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(a->source, sizeof(a->source), fmt, ap);
    va_end(ap);
}

void azure_auth_clear(struct azure_auth *a)
{
    tb_secret_free(a->key);
    tb_secret_free(a->sas);
    tb_secret_free(a->bearer);
    tb_secret_free(a->client_secret);
    free(a->account);
    free(a->endpoint);
    *a = (struct azure_auth){0};
}

/* Copy of [s, s + n) without white space around it, in secret memory. */
static char *auth_secret_trimmed(const char *s, size_t n)
{
    char *copy;

    while (n > 0 && strchr(" \t\r\n", s[n - 1]))
        n--;
    while (n > 0 && strchr(" \t\r\n", s[0]))
        s++, n--;
    copy = tb_secret_alloc(n + 1);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

/* -- the forms a secret has -------------------------------------------------------------------- */

int azure_account_key(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX])
{
    size_t len = strlen(text);
    uint8_t *key = tb_secret_alloc(len + 4);
    ssize_t n;

    if (!key)
        return auth_fail(err, -ENOMEM, "out of memory");
    n = tb_base64_decode(text, len, key);
    if (n < 16) {
        tb_secret_free(key);
        return auth_fail(
            err, -EINVAL,
            "is not a storage account key (base64, as 'az storage account keys list' prints it)");
    }
    tb_secret_free(a->key);
    a->key = key;
    a->key_len = (size_t)n;
    a->kind = AZURE_AUTH_KEY;
    return 0;
}

int azure_sas(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX])
{
    const char *q = strchr(text, '?'), *sas = q ? q + 1 : text;
    char *copy;

    if (!strstr(sas, "sig=") || !strchr(sas, '&'))
        return auth_fail(err, -EINVAL, "is not a shared access signature (it has no sig=)");
    for (const char *p = sas; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || *p == '#')
            return auth_fail(
                err, -EINVAL,
                "is not a shared access signature (it has a character that is not allowed in a URL)");
    copy = auth_secret_trimmed(sas, strlen(sas));
    if (!copy)
        return auth_fail(err, -ENOMEM, "out of memory");
    tb_secret_free(a->sas);
    a->sas = copy;
    a->kind = AZURE_AUTH_SAS;
    return 0;
}

/* Decoded; "" when absent or longer than out. */
static const char *auth_sas_field(const char *sas, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    out[0] = '\0';
    for (const char *p = sas; *p; p += strcspn(p, "&"), p += *p == '&') {
        size_t len = strcspn(p, "&"), at = n + 1, to = 0;

        if (len <= n || strncmp(p, name, n) != 0 || p[n] != '=')
            continue;
        while (at < len && to + 1 < size) {
            uint8_t byte;

            if (p[at] == '%' && at + 2 < len + 1 && tb_hex_decode(p + at + 1, 2, &byte, 1) == 0) {
                out[to++] = (char)byte;
                at += 3;
            } else {
                out[to++] = p[at++];
            }
        }
        out[at < len ? 0 : to] = '\0';
        return out;
    }
    return out;
}

/* The forms that the service takes: a day, to the minute, to the second, with a fraction. */
static bool auth_sas_time(const char *text, uint64_t *ret_us)
{
    _cleanup_free_ char *full = NULL;

    if (strlen(text) == 10)
        full = tb_strf("%sT00:00:00Z", text);
    else if (strlen(text) == 17 && text[16] == 'Z')
        full = tb_strf("%.16s:00Z", text);
    return tb_rfc3339_parse(full ? full : text, ret_us) == 0;
}

int azure_sas_judge(const char *sas, uint64_t now_us, char err[static TB_AZURE_ERR_MAX])
{
    char end[40], start[40], may[40], of[16], kinds[16];
    uint64_t t;

    auth_sas_field(sas, "se", end, sizeof(end));
    auth_sas_field(sas, "st", start, sizeof(start));
    auth_sas_field(sas, "sp", may, sizeof(may));
    auth_sas_field(sas, "sr", of, sizeof(of));
    auth_sas_field(sas, "srt", kinds, sizeof(kinds));
    if (auth_sas_time(end, &t) && t <= now_us)
        return auth_fail(err, -EACCES, "the shared access signature ended at %s", end);
    if (auth_sas_time(start, &t) && t > now_us)
        return auth_fail(err, -EACCES, "the shared access signature begins at %s, by this machine's clock",
                         start);
    if (*may && (!strchr(may, 'r') || !strpbrk(may, "cw")))
        return auth_fail(err, -EACCES, "the shared access signature may not %s (it has sp=%s)",
                         strchr(may, 'r') ? "write" : "read", may);
    if (strcmp(of, "b") == 0)
        return auth_fail(err, -EACCES, "the shared access signature is for one blob (sr=b)");
    if (*kinds && !strchr(kinds, 'o'))
        return auth_fail(err, -EACCES, "the shared access signature is not for objects (srt=%s)", kinds);
    return 0;
}

/* Value of one member of a connection string in secret memory, NULL when absent. Values may hold '='. */
static char *auth_member(const char *text, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = text; *p;) {
        size_t len = strcspn(p, ";");

        while (len > 0 && (*p == ' ' || *p == '\n'))
            p++, len--;
        if (len > n && p[n] == '=' && strncasecmp(p, name, n) == 0)
            return auth_secret_trimmed(p + n + 1, len - n - 1);
        p += len;
        p += *p == ';';
    }
    return NULL;
}

static char *auth_endpoint_of(const char *text, const char *account)
{
    _cleanup_secret_ char *blob = auth_member(text, "BlobEndpoint"),
                          *suffix = auth_member(text, "EndpointSuffix");
    _cleanup_secret_ char *protocol = auth_member(text, "DefaultEndpointsProtocol");

    if (blob)
        return strdup(blob);
    if (!suffix || !account)
        return NULL;
    return tb_strf("%s://%s.blob.%s", protocol ? protocol : "https", account, suffix);
}

int azure_connection_string(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX])
{
    _cleanup_secret_ char *account = auth_member(text, "AccountName"), *key = auth_member(text, "AccountKey");
    _cleanup_secret_ char *sas = auth_member(text, "SharedAccessSignature"), *emulator = NULL;
    char why[TB_AZURE_ERR_MAX];
    int r;

    emulator = auth_member(text, "UseDevelopmentStorage");
    if (emulator)
        return auth_fail(
            err, -EINVAL,
            "UseDevelopmentStorage is not supported: give AccountName, AccountKey and BlobEndpoint instead");
    if (!key && !sas)
        return auth_fail(err, -EINVAL,
                         "is not a connection string (it has neither AccountKey nor SharedAccessSignature)");
    if (key && !account)
        return auth_fail(err, -EINVAL, "is not a connection string (it has no AccountName)");
    r = key ? azure_account_key(key, a, why) : azure_sas(sas, a, why);
    if (r < 0)
        return auth_fail(err, r, "the %s in it %s", key ? "AccountKey" : "SharedAccessSignature", why);
    free(a->account);
    free(a->endpoint);
    a->account = account ? strdup(account) : NULL;
    a->endpoint = auth_endpoint_of(text, a->account);
    return 0;
}

/* -- where they are looked for ----------------------------------------------------------------- */

typedef int (*take_fn)(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX]);

static int auth_take_file(const char *option, const char *path, take_fn take, struct azure_auth *a, char *err)
{
    _cleanup_secret_ char *text = NULL;
    char *raw = NULL, why[TB_AZURE_ERR_MAX];
    size_t len = 0;
    int r;

    r = tb_read_file(path, SECRET_FILE_MAX, &raw, &len);
    if (r < 0)
        return auth_fail(err, r, "%s %s: %s", option, path, strerror(-r));
    text = auth_secret_trimmed(raw, strlen(raw));
    tb_erase(raw, len);
    free(raw);
    if (!text)
        return auth_fail(err, -ENOMEM, "out of memory");
    r = take(text, a, why);
    if (r < 0)
        return auth_fail(err, r, "%s %s: %s", option, path, why);
    set_source(a, "%s", option);
    return 0;
}

char *azure_auth_take_env(const char *name)
{
    static struct {
        const char *name;
        char *value; /* secret; for the step of publish that asks after another one did */
    } taken[AUTH_VARIABLES_MAX];
    char *value = getenv(name);
    size_t i = 0;

    while (i < ARRAY_SIZE(taken) && taken[i].name && strcmp(taken[i].name, name) != 0)
        i++;
    assert(i < ARRAY_SIZE(taken));
    if (value) { /* anew: what was taken before is over */
        tb_secret_free(taken[i].value);
        taken[i].name = name;
        taken[i].value = *value ? auth_secret_trimmed(value, strlen(value)) : NULL;
        tb_erase(value, strlen(value));
        unsetenv(name);
    }
    return taken[i].value ? auth_secret_trimmed(taken[i].value, strlen(taken[i].value)) : NULL;
}

static int auth_bearer_text(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX])
{
    for (const char *p = text; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return auth_fail(err, -EINVAL,
                             "is not a bearer token (it has white space or control characters)");
    a->bearer = auth_secret_trimmed(text, strlen(text));
    a->kind = AZURE_AUTH_BEARER;
    return a->bearer ? 0 : auth_fail(err, -ENOMEM, "out of memory");
}

/* 1: taken; 0: not there; or -errno. */
static int auth_try_files(const struct azure_auth_options *o, struct azure_auth *a, char *err)
{
    const struct {
        const char *option, *path;
        take_fn take;
    } files[] = {
        {"--connection-string-file", o->connection_string_file, azure_connection_string},
        {"--account-key-file", o->account_key_file, azure_account_key},
        {"--sas-file", o->sas_file, azure_sas},
    };
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        if (!files[i].path)
            continue;
        r = auth_take_file(files[i].option, files[i].path, files[i].take, a, err);
        return r < 0 ? r : 1;
    }
    return 0;
}

static int auth_try_environment(struct azure_auth *a, char *err)
{
    static const struct {
        const char *name;
        take_fn take;
    } variables[] = {
        {"AZURE_STORAGE_CONNECTION_STRING", azure_connection_string},
        {"AZURE_STORAGE_KEY", azure_account_key},
        {"AZURE_STORAGE_SAS_TOKEN", azure_sas},
        {"AZURE_ACCESS_TOKEN", auth_bearer_text},
    };
    char why[TB_AZURE_ERR_MAX];
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        _cleanup_secret_ char *value = azure_auth_take_env(variables[i].name);

        if (!value)
            continue;
        r = variables[i].take(value, a, why);
        if (r < 0)
            return auth_fail(err, r, "%s %s", variables[i].name, why);
        set_source(a, "the environment variable %s", variables[i].name);
        return 1;
    }
    return 0;
}

static const char *auth_env(const char *name)
{
    const char *v = getenv(name);

    return v && *v ? v : NULL;
}

static int auth_try_principal(struct azure_auth *a, char *err)
{
    char why[TB_AZURE_ERR_MAX];
    int r;

    a->client_secret = azure_auth_take_env("AZURE_CLIENT_SECRET");
    if (!a->client_secret)
        return 0;
    if (!auth_env("AZURE_TENANT_ID") || !auth_env("AZURE_CLIENT_ID"))
        return auth_fail(err, -EINVAL, "AZURE_CLIENT_SECRET is set; a service principal also needs %s",
                         auth_env("AZURE_TENANT_ID") ? "AZURE_CLIENT_ID" : "AZURE_TENANT_ID");
    a->renew = AZURE_RENEW_PRINCIPAL;
    set_source(a, "the service principal AZURE_CLIENT_ID");
    r = azure_auth_renew(a, why);
    return r < 0 ? auth_fail(err, r, "%s", why) : 1;
}

/* An identity that nobody configured and that is not there is no error: the Azure CLI comes next. */
static int auth_try_identity(struct azure_auth *a, char *err)
{
    char why[TB_AZURE_ERR_MAX];
    int r;

    a->renew = AZURE_RENEW_IDENTITY;
    set_source(a, "the managed identity of this machine");
    r = azure_auth_renew(a, why);
    if (r < 0 && tb_azure_identity_configured())
        return auth_fail(err, r, "managed identity: %s", why);
    return r < 0 ? 0 : 1;
}

static int auth_try_cli(struct azure_auth *a, char *err)
{
    char why[TB_AZURE_ERR_MAX];
    int r;

    a->renew = AZURE_RENEW_CLI;
    set_source(a, "the Azure CLI");
    r = azure_auth_renew(a, why);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? auth_fail(err, r, "%s", why) : 1;
}

int azure_auth_find(const struct azure_auth_options *o, struct azure_auth *ret,
                    char err[static TB_AZURE_ERR_MAX])
{
    int (*const steps[])(struct azure_auth *, char *) = {auth_try_environment, auth_try_principal,
                                                         auth_try_identity, auth_try_cli};
    _cleanup_azure_auth_ struct azure_auth a = {.tls = o->tls};
    int r;

    r = auth_try_files(o, &a, err);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(steps); i++)
        r = steps[i](&a, err);
    if (r < 0)
        return r;
    if (r == 0)
        return auth_fail(err, -ENOENT, AZURE_AUTH_NONE_FOUND);
    *ret = a;
    a = (struct azure_auth){0};
    return 0;
}

/* -- renewal ----------------------------------------------------------------------------------- */

int azure_auth_renew(struct azure_auth *a, char err[static TB_AZURE_ERR_MAX])
{
    struct tb_azure_token t = {0};
    int r;

    switch (a->renew) {
    case AZURE_RENEW_PRINCIPAL:
        r = azure_token_principal("storage.azure.com", getenv("AZURE_TENANT_ID"), getenv("AZURE_CLIENT_ID"),
                                  a->client_secret, a->tls, &t, err);
        break;
    case AZURE_RENEW_IDENTITY:
        r = tb_azure_identity_token("storage.azure.com", auth_env("AZURE_CLIENT_ID"), &t, err);
        break;
    case AZURE_RENEW_CLI:
        r = azure_token_cli("storage.azure.com", &t, err);
        break;
    default:
        return auth_fail(err, -ENOTSUP, "%s cannot be renewed", a->source);
    }
    if (r < 0)
        return r;
    tb_secret_free(a->bearer);
    a->bearer = t.text;
    a->kind = AZURE_AUTH_BEARER;
    a->renew_at_us = 0;
    if (t.lifetime_s > 2 * RENEW_BEFORE_S)
        a->renew_at_us = tb_now_boottime_us() + (t.lifetime_s - RENEW_BEFORE_S) * TB_USEC_PER_SEC;
    return 0;
}

bool azure_auth_renew_due(const struct azure_auth *a)
{
    return a->renew_at_us != 0 && tb_now_boottime_us() >= a->renew_at_us;
}
