/* SPDX-License-Identifier: Apache-2.0 */
/* Directories of the settings, as the units see them, and variables that are systemd's. */
#include <string.h>
#include <sys/stat.h>

#include "configure/configure.h"

/* Is path the directory, or below it? */
static bool place_is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static const char *place_find(const char *path, const char *const *dirs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (place_is_below(path, dirs[i]))
            return dirs[i];
    return NULL;
}

/* The longest part of the path that is there. Heap. */
static char *place_existing(const char *path)
{
    char *part = strdup(path), *slash;

    while (part && access(part, F_OK) < 0 && (slash = strrchr(part, '/')) && slash != part)
        *slash = '\0';
    return part;
}

/* What tb-hydrate writes tb-decrypt reads: ProtectHome=, PrivateTmp=, InaccessiblePaths= and
 * TemporaryFileSystem= of their units stand between. */
static void place_check_target(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    static const char *const hidden[] = {"/home", "/root", "/tmp", "/var/tmp", "/run",
                                         "/dev",  "/proc", "/sys", "/boot",    "/efi"};
    const char *dir = tb_settings_get(s, "TB_TARGET_DIR"), *where;
    _cleanup_free_ char *part = NULL;
    struct stat st;

    if (!dir || *dir != '/')
        return;
    if (!tb_target_dir_plain(dir)) {
        tb_findings_add(
            f, TB_FINDING_ERROR, 0, "TB_TARGET_DIR",
            "\"%.80s\" must be a path of letters, digits and /._@+- without .., so that a unit can name it",
            dir);
        return;
    }
    where = place_find(dir, hidden, ARRAY_SIZE(hidden));
    part = place_existing(dir);
    if (dir[strspn(dir, "/")] == '\0')
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_TARGET_DIR",
                        "\"%.80s\" is the root directory; name one of its own, as /srv/trustbridge", dir);
    else if (part && stat(part, &st) == 0 && !S_ISDIR(st.st_mode))
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_TARGET_DIR", "%s is no directory; choose another path",
                        part);
    else if (where)
        tb_findings_add(f, how->installed ? TB_FINDING_ERROR : TB_FINDING_WARNING, 0, "TB_TARGET_DIR",
                        "the units do not share %s of this machine; choose another directory, as "
                        "/srv/trustbridge",
                        where);
}

/* The units have StateDirectory= and RuntimeDirectory= there, and may write nowhere else. */
static void place_check_parent(const struct tb_settings *s, const struct tb_check *how, const char *setting,
                               const char *of_units, struct tb_findings *f)
{
    const char *dir = tb_settings_get(s, setting);
    struct stat st;

    if (!dir || *dir != '/' || strcmp(dir, of_units) == 0)
        return;
    if (how->installed)
        tb_findings_add(f, TB_FINDING_ERROR, 0, setting,
                        "the units have their directories in %s and may not write to \"%.80s\"; remove the "
                        "line",
                        of_units, dir);
    else if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
        tb_findings_add(f, TB_FINDING_ERROR, 0, setting,
                        "\"%.80s\" is no directory; make it, or correct the "
                        "path",
                        dir);
}

/* tb-runtime.service has these in memory; a drop-in may allow more. */
static void place_check_memory(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    static const char *const settings[] = {"TB_MODEL_DIR", "TB_PIPE_PATH", "TB_READY_SIGNAL"},
                             *const writable[] = {"/dev/shm", "/tmp", "/var/tmp", "/run/tb-runtime"};

    for (size_t i = 0; how->installed && i < ARRAY_SIZE(settings); i++) {
        const char *path = tb_settings_get(s, settings[i]);

        if (path && *path == '/' && !place_find(path, writable, ARRAY_SIZE(writable)))
            tb_findings_add(
                f, TB_FINDING_WARNING, 0, settings[i],
                "tb-runtime.service may not write to \"%.80s\" unless a drop-in allows it; choose "
                "a path below /dev/shm",
                path);
    }
}

/* EnvironmentFile= wins over what systemd itself tells a program: none would be taken for started. */
static void place_check_systemd(const struct tb_settings *s, struct tb_findings *f)
{
    static const char *const names[] = {
        "NOTIFY_SOCKET",     "LISTEN_FDS",      "LISTEN_PID",    "LISTEN_FDNAMES",
        "WATCHDOG_USEC",     "WATCHDOG_PID",    "BOOT_ID",       "CREDENTIALS_DIRECTORY",
        "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (tb_envfile_find(&s->file, names[i]))
            tb_findings_add(f, TB_FINDING_ERROR, 0, names[i],
                            "systemd sets this itself for each program, and this line would be in its way; "
                            "remove the line");
}

void tb_places_check(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    place_check_target(s, how, f);
    place_check_parent(s, how, "TB_STATE_DIR", "/var/lib", f);
    place_check_parent(s, how, "TB_RUN_DIR", "/run", f);
    place_check_memory(s, how, f);
    place_check_systemd(s, f);
}
