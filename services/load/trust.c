/* SPDX-License-Identifier: Apache-2.0 */
#include "load/trust.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

static bool trust_is_ours(const struct stat *st)
{
    return st->st_uid == 0 || st->st_uid == geteuid();
}

static int trust_check_one(struct tb_load *l, const char *setting, const char *dir)
{
    struct stat st;

    if (lstat(dir, &st) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "%s: cannot look at %s: %s", setting, dir,
                              strerror(errno));
    if (!trust_is_ours(&st))
        return tb_outcome_set(
            &l->outcome, TB_EXIT_CONFIG,
            "%s: %s belongs to user %u, who could replace what is in it; remove it, or choose another path",
            setting, dir, (unsigned)st.st_uid);
    if (S_ISLNK(st.st_mode) && stat(dir, &st) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "%s: cannot look at %s: %s", setting, dir,
                              strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "%s: %s is not a directory", setting, dir);
    if (!trust_is_ours(&st) || ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX)))
        return tb_outcome_set(
            &l->outcome, TB_EXIT_CONFIG,
            "%s: everybody can move and replace files in %s; 'chmod +t' or 'chmod o-w' it, or choose "
            "another path",
            setting, dir);
    return 0;
}

int tb_trust_check(struct tb_load *l, const char *setting, const char *path)
{
    _cleanup_free_ char *dir = strdup(path);
    int r = 0;

    if (!dir)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    for (char *slash = dir; r == 0 && (slash = strchr(slash, '/')); slash++) {
        if (slash == dir)
            continue; /* the root directory */
        *slash = '\0';
        if (access(dir, F_OK) < 0 && errno == ENOENT)
            return 0; /* it and all below it will be made by us */
        r = trust_check_one(l, setting, dir);
        *slash = '/';
    }
    return r;
}
