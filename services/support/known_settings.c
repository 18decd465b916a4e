/* SPDX-License-Identifier: Apache-2.0 */
/* What the values of settings are. */
#include <ctype.h>
#include <string.h>

#include "common/envfile.h"
#include "common/macros.h"
#include "support/support.h"

/* What stands in the settings is one of these by its name; what is none is looked at by its looks. */
static enum redact_class known_class(const char *name)
{
    static const char *const ids[] = {"TB_CONTRACT_ID", "TB_ASSET_ID", "TB_BILLING_RESOURCE_ID",
                                      "TB_BILLING_PLAN_ID"};

    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        if (strcmp(name, ids[i]) == 0)
            return REDACT_ID;
    return strncmp(name, "TB_", 3) != 0 ? REDACT_SECRET : REDACT_NOTHING;
}

void support_each_setting(const char *text, void (*fn)(void *arg, const char *name, const char *value),
                          void *arg)
{
    _cleanup_free_ char *copy = strdup(text);

    for (char *save, *line = copy ? strtok_r(copy, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        char *value;
        size_t n;

        line += strspn(line, " \t");
        if (*line == '#' || *line == ';' || !(value = strchr(line, '=')))
            continue;
        *value++ = '\0';
        line[strcspn(line, " \t")] = '\0';
        value += strspn(value, " \t\"'");
        n = strlen(value);
        while (n > 0 && (isspace((unsigned char)value[n - 1]) || strchr("\"'", value[n - 1])))
            value[--n] = '\0';
        fn(arg, line, value);
    }
}

/* The host of a URL, or of HOST:PORT. */
static void known_add_host(struct redactor *r, const char *value)
{
    const char *host = strstr(value, "://"), *at, *end;

    host = host ? host + 3 : value;
    end = host + strcspn(host, "/?#, ");
    at = memrchr(host, '@', (size_t)(end - host));
    host = at ? at + 1 : host;
    if (*host == '[') {
        host++;
        end = host + strcspn(host, "]");
    } else {
        end = MIN(end, host + strcspn(host, ":"));
    }
    if (end > host && *host != '/')
        (void)redactor_know(r, host, (size_t)(end - host), REDACT_ADDRESS);
}

static void known_setting(void *arg, const char *name, const char *value)
{
    static const char *const hosts[] = {"TB_EDC_ENDPOINT",      "TB_BLOB_MIRROR",  "TB_PUBLIC_ADDR",
                                        "TB_HEALTH_ADDR",       "TB_RUNTIME_URL",  "TB_ARM_ENDPOINT",
                                        "TB_METERING_ENDPOINT", "TB_IMDS_ENDPOINT"};
    struct redactor *r = arg;
    enum redact_class class = known_class(name);

    if (!*value)
        return;
    if (class != REDACT_NOTHING)
        (void)redactor_know(r, value, strlen(value), class);
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++)
        if (strcmp(name, hosts[i]) == 0)
            known_add_host(r, value);
}

void support_know_settings(struct redactor *r, const char *text)
{
    _cleanup_envfile_ struct tb_envfile file = {0};

    support_each_setting(text, known_setting, r);
    if (tb_envfile_parse(text, strlen(text), &file) < 0)
        return;
    for (size_t i = 0; i < file.n; i++)
        for (char *save, *line = file.v[i].value ? strtok_r(file.v[i].value, "\n", &save) : NULL; line;
             line = strtok_r(NULL, "\n", &save))
            known_setting(r, file.v[i].name, line);
}
