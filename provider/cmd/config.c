/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg config show: every setting, its value, and where it came from. Settings are no secrets; of
 * credentials only the names of the variables that hold one are told. */
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "provider/cli/settings.h"
#include "provider/tbpkg.h"

struct config_job {
    struct cli cli;
};

#define TB_OPTION_TARGET struct config_job
static const struct tb_option config_options[] = {CLI_COMMON_ROWS};

static const char *const credentials[] = {
    "TBPKG_KEY_FILE",     "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_KEY",  "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_ACCESS_TOKEN", "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",    "AZURE_CLIENT_SECRET",
};

/* A URL may carry what it should not. */
static const char *config_shown(const char *value, char *out, size_t out_len)
{
    return strstr(value, "://") ? tb_url_redact(value, out, out_len) : value;
}

static void config_show_text(void)
{
    bool read;
    const char *path = settings_path(&read);

    printf("settings file: %s%s\n", path ? path : "none", path && !read ? " (does not exist)" : "");
    for (size_t i = 0; i < n_settings; i++) {
        struct setting_value v;
        char url[512];

        if (setting_get(settings[i].name, &v))
            printf("%-24s %s  (%s)\n", settings[i].name, config_shown(v.value, url, sizeof(url)), v.source);
        else
            printf("%-24s %s  (%s%s%s%s)\n", settings[i].name,
                   settings[i].fallback ? settings[i].fallback : "-", settings[i].fallback ? "default; " : "",
                   settings[i].what, settings[i].env ? "; " : "", settings[i].env ? settings[i].env : "");
    }
    for (size_t i = 0; i < ARRAY_SIZE(credentials); i++)
        if (getenv(credentials[i]))
            printf("%-24s is set; not shown\n", credentials[i]);
}

static int config_show_json(void)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();
    cJSON *list, *secret;
    bool read;
    const char *path = settings_path(&read);

    if (path)
        cJSON_AddStringToObject(d, "file", path);
    cJSON_AddBoolToObject(d, "file_exists", read);
    list = cJSON_AddObjectToObject(d, "settings");
    for (size_t i = 0; i < n_settings; i++) {
        cJSON *o = cJSON_AddObjectToObject(list, settings[i].name);
        struct setting_value v;
        char url[512];

        if (setting_get(settings[i].name, &v)) {
            cJSON_AddStringToObject(o, "value", config_shown(v.value, url, sizeof(url)));
            cJSON_AddStringToObject(o, "source", v.source);
        } else {
            cJSON_AddNullToObject(o, "value");
        }
        if (settings[i].fallback)
            cJSON_AddStringToObject(o, "default", settings[i].fallback);
        if (settings[i].env)
            cJSON_AddStringToObject(o, "environment", settings[i].env);
    }
    secret = cJSON_AddArrayToObject(d, "credentials");
    for (size_t i = 0; i < ARRAY_SIZE(credentials); i++)
        if (getenv(credentials[i]))
            cJSON_AddItemToArray(secret, cJSON_CreateString(credentials[i]));
    return cli_print_json(d);
}

static int config_main(int argc, char **argv)
{
    struct config_job j = {.cli = {.command = &tbpkg_config}};

    if (cli_parse(&j.cli, &j, argc, argv, CLI_ANY_WORDS, NULL, NULL) != CLI_OK)
        return j.cli.rc;
    if (optind >= argc || strcmp(argv[optind], "show") != 0)
        return cli_usage(&j.cli, "no such command: use tbpkg config show");
    if (optind + 1 < argc)
        return cli_usage(&j.cli, "unexpected argument '%s'", argv[optind + 1]);
    if (j.cli.json)
        return config_show_json();
    config_show_text();
    return cli_flush_stdout();
}

const struct tbpkg_command tbpkg_config = {
    .name = "config",
    .summary = "show the settings and where each comes from",
    .synopsis = "show [OPTION]...",
    .about = "Show the values that options have when they are not given, and where each comes from: the\n"
             "environment, else the settings file. Credentials are not shown.\n",
    .options = config_options,
    .tail = "The file has lines KEY = VALUE under [SECTION] for what is listed as SECTION.KEY.\n",
    .run = config_main,
};
