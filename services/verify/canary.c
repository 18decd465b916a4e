/* SPDX-License-Identifier: Apache-2.0 */
/* Looks for a piece of plaintext where none may be. It is never printed, nor written anywhere. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "verify/claims.h"

#define PIECE_BYTES (1 << 20)

struct search {
    const char *canary;
    size_t len;
    char *buf;          /* PIECE_BYTES */
    unsigned n, unread; /* places that were read, and those that could not be */
    char where[160];    /* the first place that has it */
    char why[120];      /* of the first that could not be read */
};

static void search_skip(struct search *s, const char *path, int r)
{
    if (s->unread++ == 0)
        snprintf(s->why, sizeof(s->why), "%.80s: %s", path, strerror(-r));
}

/* Over the edge of two pieces as well. -errno: not all of it was read. */
static int search_read(struct search *s, const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    size_t kept = 0;

    if (fd < 0)
        return -errno;
    for (;;) {
        ssize_t n = tb_read_full(fd, s->buf + kept, PIECE_BYTES - kept);

        if (n < 0)
            return (int)n;
        if (memmem(s->buf, kept + (size_t)n, s->canary, s->len)) {
            if (!*s->where)
                snprintf(s->where, sizeof(s->where), "%s", path);
            return 0;
        }
        if (kept + (size_t)n < PIECE_BYTES)
            return 0;
        kept = s->len - 1;
        memmove(s->buf, s->buf + PIECE_BYTES - kept, kept);
    }
}

static void search_file(struct search *s, const char *path)
{
    int r = search_read(s, path);

    if (r < 0)
        search_skip(s, path, r);
    else
        s->n++;
}

static void search_claim(struct verify_claims *c, const struct search *s, const char *name, const char *what)
{
    if (*s->where)
        verify_claim_set(c, name, VERIFY_BROKEN, "the plaintext given is in %s", s->where);
    else if (s->n == 0 && !s->unread)
        verify_claim_set(c, name, VERIFY_NOT_CHECKED, "there is no %s to look at", what);
    else if (s->unread)
        verify_claim_set(c, name, VERIFY_NOT_CHECKED, "%u of %u could not be read: %s", s->unread,
                         s->n + s->unread, s->why);
    else
        verify_claim_set(c, name, VERIFY_HOLDS, "not in %u %s", s->n, what);
}

static struct search search_begin(const struct search *of)
{
    return (struct search){.canary = of->canary, .len = of->len, .buf = of->buf};
}

/* Of each process of the machine; one that ended meanwhile, or has no memory of its own, is none. */
static void search_processes(struct verify_claims *c, const struct search *of, const char *name,
                             const char *file)
{
    _cleanup_closedir_ DIR *d = opendir("/proc");
    struct search s = search_begin(of);

    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *path = NULL;
        int r;

        if (strspn(e->d_name, "0123456789") != strlen(e->d_name))
            continue;
        path = tb_strf("/proc/%s/%s", e->d_name, file);
        r = path ? search_read(&s, path) : -ENOMEM;
        if (r == 0)
            s.n++;
        else if (r != -ENOENT && r != -ESRCH)
            search_skip(&s, path ? path : "/proc", r);
    }
    search_claim(c, &s, name, "processes");
}

static void search_directory(struct search *s, const char *dir, unsigned depth)
{
    _cleanup_closedir_ DIR *d = opendir(dir);

    if (!d && errno != ENOENT)
        search_skip(s, dir, -errno);
    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *path = *e->d_name == '.' ? NULL : tb_path_join(dir, e->d_name);
        struct stat st;

        if (!path || lstat(path, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth > 0)
            search_directory(s, path, depth - 1);
        else if (S_ISREG(st.st_mode))
            search_file(s, path);
    }
}

static void search_journal(struct verify_claims *c, const struct search *of)
{
    struct search s = search_begin(of);

    search_directory(&s, "/var/log/journal", 1);
    search_directory(&s, "/run/log/journal", 1);
    search_claim(c, &s, "no-plaintext-in-journal", "files of the journal");
}

/* Whole devices that have a size; memory is none. */
static void search_all_disks(struct search *s)
{
    _cleanup_closedir_ DIR *d = opendir("/sys/block");

    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *size = tb_strf("/sys/block/%s/size", e->d_name), *text = NULL,
                            *path = tb_strf("/dev/%s", e->d_name);

        if (*e->d_name == '.' || strncmp(e->d_name, "zram", 4) == 0 || strncmp(e->d_name, "ram", 3) == 0 ||
            !size || !path || tb_read_file(size, 64, &text, NULL) < 0 || strtoull(text, NULL, 10) == 0)
            continue;
        search_file(s, path);
    }
}

void verify_canary(struct verify_claims *c, const char *canary, size_t canary_len,
                   const struct tb_option_list *disks)
{
    static const char *const names[] = {"no-plaintext-in-environment", "no-plaintext-in-arguments",
                                        "no-plaintext-in-journal", "no-plaintext-on-disk"};
    _cleanup_free_ char *buf = malloc(PIECE_BYTES);
    struct search of = {.canary = canary, .len = canary_len, .buf = buf}, s;

    if (!canary_len || !buf) {
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
            verify_claim_set(c, names[i], VERIFY_NOT_CHECKED, "%s",
                             buf ? "no piece of plaintext was given (--canary)" : "out of memory");
        return;
    }
    search_processes(c, &of, names[0], "environ");
    search_processes(c, &of, names[1], "cmdline");
    search_journal(c, &of);
    s = search_begin(&of);
    for (size_t i = 0; i < disks->n; i++)
        search_file(&s, disks->v[i]);
    if (disks->n == 0)
        search_all_disks(&s);
    search_claim(c, &s, names[3], "disks");
}
