/* SPDX-License-Identifier: Apache-2.0 */
/* Values that need not stand on the command line: from the environment, else from a settings file, tbpkg.ini.
 * None is a secret: credentials have their own ways (azure/auth.h, cli_key_arg). */
#ifndef TBPKG_CLI_SETTINGS_H
#define TBPKG_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include "provider/cli/output.h"

#define SETTINGS_FILE_MAX (64 * 1024)
#define SETTINGS_LINE_MAX 190 /* of the library that reads it */
#define SETTINGS_ERR_MAX 256

/* Index into the table, for those who list it. */
struct tbpkg_setting {
    const char *name; /* "azure.storage_account": section and key of the file */
    /* environment variables that may hold it, the first that is set wins; separated by spaces; or NULL */
    const char *env;
    const char *what;     /* one line for people */
    const char *fallback; /* the value that commands take when it is set nowhere; or NULL */
};
extern const struct tbpkg_setting settings[];
extern const size_t n_settings;

struct setting_value {
    char *value;      /* lives as long as the process; writable */
    char source[300]; /* "AZURE_STORAGE_ACCOUNT", "FILE: azure.storage_account" */
};

/* Reads the file: path, or when NULL $XDG_CONFIG_HOME/trustbridge/tbpkg.ini or ~/.config/..., which may be
 * absent. Again with the same path: does nothing. CLI_OK, or the error is reported and CLI_FAILED
 * returned. */
int settings_load(const char *path);
/* The file settings_load() looked at; NULL: there is none. *ret_read: it was there. */
const char *settings_path(bool *ret_read);

/* The value of a setting of that name, by environment or file; false when it has none. */
bool setting_get(const char *name, struct setting_value *ret);
/* Its environment variables, or NULL. */
const char *setting_env(const char *name);

/* The grammar, without I/O: calls set(ctx, index, value) for each setting in buf. set returns 0 or -errno.
 * -EINVAL with the line and the reason in err, which never repeats a value. */
int settings_parse(const char *buf, size_t len, int (*set)(void *ctx, size_t index, const char *value),
                   void *ctx, char err[static SETTINGS_ERR_MAX]);

#endif
