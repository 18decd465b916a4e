/* SPDX-License-Identifier: Apache-2.0 */
#include "common/file_check.h"

#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "common/io.h"

#define FILE_GROUPS_MAX 64

#define file_bad(f, setting, ...) tb_findings_add(f, TB_FINDING_ERROR, 0, setting, __VA_ARGS__)

/* --- permissions ---------------------------------------------------------------------------------------- */

struct file_reader {
    const char *name;
    uid_t uid;
    gid_t groups[FILE_GROUPS_MAX];
    int n_groups;
};

/* false: nobody of that name, or root. */
static bool file_reader_find(const char *user, struct file_reader *ret)
{
    const struct passwd *pw = user ? getpwnam(user) : NULL;

    if (!pw || pw->pw_uid == 0)
        return false;
    *ret = (struct file_reader){.name = user, .uid = pw->pw_uid, .n_groups = FILE_GROUPS_MAX};
    if (getgrouplist(user, pw->pw_gid, ret->groups, &ret->n_groups) < 0)
        ret->n_groups = FILE_GROUPS_MAX;
    return true;
}

/* want: 4 read, 2 write, 1 execute or search. An access list may allow more than the mode: then it is
 * allowed. */
static bool file_mode_allows(const char *path, const struct file_reader *who, unsigned want)
{
    unsigned shift = 0;
    struct stat st;

    if (stat(path, &st) < 0 || getxattr(path, "system.posix_acl_access", NULL, 0) > 0)
        return true;
    for (int i = 0; i < who->n_groups; i++)
        if (who->groups[i] == st.st_gid)
            shift = 3;
    if (who->uid == st.st_uid)
        shift = 6;
    return ((st.st_mode >> shift) & want) == want;
}

/* The first directory on the way to the real path that the user may not search; NULL: none. */
static char *file_barrier(const char *path, const struct file_reader *who)
{
    for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
        _cleanup_free_ char *dir = strndup(path, (size_t)(slash - path));

        if (dir && !file_mode_allows(dir, who, 1))
            return TAKE_PTR(dir);
    }
    return NULL;
}

/* What everybody may know, certificates, is best readable for everybody: several programs need it. */
static bool file_check_user(const char *setting, const char *path, const char *user, unsigned want, bool open,
                            struct tb_findings *f)
{
    _cleanup_free_ char *real = realpath(path, NULL), *dir = NULL;
    static const char *const verb[] = {[1] = "execute it", [2] = "write to it", [4] = "read it"};
    static const char *const mode[] = {[1] = "g+x", [2] = "g+w", [3] = "g+wx", [4] = "g+r"};
    struct file_reader who;

    if (!real || !file_reader_find(user, &who))
        return true;
    dir = file_barrier(real, &who);
    if (!dir && file_mode_allows(real, &who, want))
        return true;
    if (open)
        file_bad(f, setting, "%s: the users that the programs run as may not read it; chmod o+%s %s", path,
                 dir ? "x" : "r", dir ? dir : real);
    else if (dir)
        file_bad(f, setting,
                 "%s: user %s, who needs it, may not enter %s; chmod o+x %s, or put the file elsewhere", path,
                 user, dir, dir);
    else
        file_bad(f, setting, "%s: user %s, who needs it, may not %s; chgrp %s %s && chmod %s %s", path, user,
                 want == 3 ? "make files in its directory" : verb[want], user, real, mode[want], real);
    return false;
}

/* --- the file ------------------------------------------------------------------------------------------- */

/* The longest part of the path that is there. */
static void file_say_missing(const char *setting, const char *path, struct tb_findings *f)
{
    _cleanup_free_ char *dir = strdup(path);
    char to[PATH_MAX];
    ssize_t n = readlink(path, to, sizeof(to) - 1);
    char *slash;

    if (n >= 0) {
        to[n] = '\0';
        file_bad(f, setting, "%s is a link to %s, which does not exist; correct the link", path, to);
        return;
    }
    while (dir && (slash = strrchr(dir, '/')) && slash != dir) {
        *slash = '\0';
        if (access(dir, F_OK) == 0)
            break;
    }
    if (dir && strrchr(path, '/') != path + strlen(dir))
        file_bad(f, setting, "%s does not exist: there is only %s; make the file, or correct the path", path,
                 *dir ? dir : "/");
    else
        file_bad(f, setting, "%s does not exist; make the file, or correct the path", path);
}

static bool file_check_kind(const char *setting, const char *path, struct tb_findings *f)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            file_say_missing(setting, path, f);
        else if (errno == EACCES && geteuid() != 0)
            tb_findings_add(f, TB_FINDING_WARNING, 0, setting,
                            "%s cannot be looked at by this user; run the check as root", path);
        else
            file_bad(f, setting, "%s: %s; correct the path", path, strerror(errno));
        return false;
    }
    if (S_ISREG(st.st_mode))
        return true;
    file_bad(f, setting, "%s is %s; name a file", path,
             S_ISDIR(st.st_mode) ? "a directory" : "no regular file");
    return false;
}

static bool file_check_readable(const char *setting, const char *path, const char *user, bool open,
                                struct tb_findings *f)
{
    if (strncmp(path, TB_FILE_CREDSTORE, strlen(TB_FILE_CREDSTORE)) == 0)
        user = NULL; /* systemd reads it */
    if (!file_check_kind(setting, path, f) || !file_check_user(setting, path, user, 4, open, f))
        return false;
    if (access(path, R_OK) == 0)
        return true;
    if (geteuid() == 0)
        file_bad(f, setting, "%s cannot be read: %s", path, strerror(errno));
    else
        tb_findings_add(
            f, TB_FINDING_WARNING, 0, setting,
            "%s cannot be read by this user, so what is in it is not checked; run the check as root", path);
    return false;
}

bool tb_file_check(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    return file_check_readable(setting, path, user, false, f);
}

bool tb_file_check_open(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    return file_check_readable(setting, path, user, true, f);
}

bool tb_file_check_key(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    struct stat st;

    if (!tb_file_check(setting, path, user, f))
        return false;
    if (stat(path, &st) == 0 && (st.st_mode & (S_IROTH | S_IWOTH)))
        tb_findings_add(f, TB_FINDING_WARNING, 0, setting,
                        "%s has mode %03o: everybody on this machine may read the key; chmod o= %s", path,
                        (unsigned)st.st_mode & 0777, path);
    return true;
}

void tb_file_check_program(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    if (file_check_kind(setting, path, f))
        (void)file_check_user(setting, path, user, 1, false, f);
}

void tb_file_check_writable(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    _cleanup_free_ char *dir = strdup(path);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    struct stat st;

    if (!slash)
        return;
    if (stat(path, &st) == 0) {
        if (file_check_kind(setting, path, f))
            (void)file_check_user(setting, path, user, 2, false, f);
        return;
    }
    slash[slash == dir] = '\0';
    if (stat(dir, &st) < 0)
        file_bad(f, setting, "%s: the directory %s does not exist; make it, or correct the path", path, dir);
    else if (!S_ISDIR(st.st_mode))
        file_bad(f, setting, "%s: %s is no directory; correct the path", path, dir);
    else
        (void)file_check_user(setting, dir, user, 3, false, f);
}
