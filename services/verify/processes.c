/* SPDX-License-Identifier: Apache-2.0 */
/* Our own processes: the daemons by their name, and whatever runs as a user tb-*: the inference server. */
#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "verify/claims.h"

#define PROC_MAX (1 << 20)

struct process {
    char pid[16], name[32];
    char *status, *limits;
};

static void process_clear(struct process *p)
{
    tb_freep(&p->status);
    tb_freep(&p->limits);
}

static char *process_read(const char *pid, const char *file)
{
    _cleanup_free_ char *path = tb_strf("/proc/%s/%s", pid, file);
    char *text = NULL;

    return path && tb_read_file(path, PROC_MAX, &text, NULL) == 0 ? text : NULL;
}

static bool process_is_daemon(const char *name)
{
    static const char *const daemons[] = {"tb-attest",  "tb-authorize", "tb-billing", "tb-decrypt",
                                          "tb-hydrate", "tb-load",      "tb-proxy",   "tb-update"};

    for (size_t i = 0; i < ARRAY_SIZE(daemons); i++)
        if (strcmp(name, daemons[i]) == 0)
            return true;
    return false;
}

static bool process_is_ours(const char *pid, char name[static 32])
{
    _cleanup_free_ char *path = tb_strf("/proc/%s/exe", pid), *dir = tb_strf("/proc/%s", pid);
    char exe[512];
    ssize_t n = path ? readlink(path, exe, sizeof(exe) - 1) : -1;
    const struct passwd *pw;
    struct stat st;
    const char *base;

    if (n <= 0)
        return false;
    exe[n] = '\0';
    base = strrchr(exe, '/');
    snprintf(name, 32, "%.31s", base ? base + 1 : exe);
    if (process_is_daemon(name))
        return true;
    pw = dir && stat(dir, &st) == 0 ? getpwuid(st.st_uid) : NULL;
    return pw && strncmp(pw->pw_name, "tb-", 3) == 0;
}

/* Whether this limit keeps the kernel from writing a core: it heeds 0 for files alone, and 1 for pipes. */
static bool core_is_kept(uint64_t limit, const char *pattern)
{
    return limit == 1 || (limit == 0 && *pattern != '|');
}

static bool sandbox_is_on(const char *status)
{
    uint64_t no_new_privileges, seccomp;

    return verify_status_parse(status, "NoNewPrivs", &no_new_privileges) == 0 && no_new_privileges == 1 &&
           verify_status_parse(status, "Seccomp", &seccomp) == 0 && seccomp == 2;
}

struct survey {
    const char *pattern;
    unsigned n, unread;
    char core[64], sandbox[64]; /* the first one without */
};

static void survey_add(struct survey *s, const char *pid, const char *name)
{
    __attribute__((cleanup(process_clear))) struct process p = {.status = process_read(pid, "status"),
                                                                .limits = process_read(pid, "limits")};
    _cleanup_free_ char *dir = tb_strf("/proc/%s", pid);
    uint64_t limit;

    if (dir && access(dir, F_OK) < 0)
        return; /* it ended meanwhile */
    s->n++;
    if (!p.status || !p.limits || verify_core_limit_parse(p.limits, &limit) < 0) {
        s->unread++;
        return;
    }
    if (!*s->core && !core_is_kept(limit, s->pattern))
        snprintf(s->core, sizeof(s->core), "%s (process %s)", name, pid);
    if (!*s->sandbox && !sandbox_is_on(p.status))
        snprintf(s->sandbox, sizeof(s->sandbox), "%s (process %s)", name, pid);
}

static void survey_claim(struct verify_claims *c, const struct survey *s, const char *claim,
                         const char *first, const char *broken, const char *holds)
{
    if (*first)
        verify_claim_set(c, claim, VERIFY_BROKEN, "%s: %s", first, broken);
    else if (s->n == 0)
        verify_claim_set(c, claim, VERIFY_NOT_CHECKED, "none of our programs runs");
    else if (s->unread)
        verify_claim_set(c, claim, VERIFY_NOT_CHECKED,
                         "%u of %u processes could not be looked at (not root?)", s->unread, s->n);
    else
        verify_claim_set(c, claim, VERIFY_HOLDS, "%u processes: %s", s->n, holds);
}

void verify_processes(struct verify_claims *c)
{
    _cleanup_closedir_ DIR *d = opendir("/proc");
    _cleanup_free_ char *pattern = NULL;
    struct survey s = {0};

    if (!d || tb_read_file("/proc/sys/kernel/core_pattern", PROC_MAX, &pattern, NULL) < 0) {
        verify_claim_set(c, "no-core", VERIFY_NOT_CHECKED, "/proc: %s", strerror(errno));
        verify_claim_set(c, "sandboxes", VERIFY_NOT_CHECKED, "/proc: %s", strerror(errno));
        return;
    }
    s.pattern = pattern;
    for (struct dirent *e; (e = readdir(d));) {
        char name[32];

        if (strspn(e->d_name, "0123456789") == strlen(e->d_name) && process_is_ours(e->d_name, name))
            survey_add(&s, e->d_name, name);
    }
    survey_claim(c, &s, "no-core", s.core,
                 "a crash writes its memory to a file or a program (LimitCORE=1 is missing)",
                 "none leaves a core");
    survey_claim(c, &s, "sandboxes", s.sandbox,
                 "runs without no-new-privileges or without a system call filter",
                 "no new privileges, system calls filtered");
}
