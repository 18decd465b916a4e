/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/model_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"

#define DEPTH_MAX 128 /* directories within one another */

struct walk {
    struct model_dir *m;
    const char *root;
    const struct model_dir_options *o;
    char *real_root, *blobs; /* where links may point to; blobs NULL: not a snapshot of a cache */
    struct {
        dev_t dev;
        ino_t ino;
    } above[DEPTH_MAX]; /* the directories that the walk is in */
    unsigned depth;
    struct model_dir_error *e;
};

static int model_dir_refuse(struct walk *w, const char *path, int r, const char *reason, const char *remedy)
{
    w->e->object = *path ? tb_path_join(w->root, path) : strdup(w->root);
    if (!w->e->object)
        return -ENOMEM;
    w->e->reason = reason;
    w->e->remedy = remedy;
    return r;
}

static int model_dir_refuse_errno(struct walk *w, const char *path, int r)
{
    return model_dir_refuse(w, path, r, NULL, NULL);
}

static int model_dir_check_type(struct walk *w, const char *path, mode_t mode)
{
    if (S_ISREG(mode))
        return 0;
    if (S_ISLNK(mode))
        return model_dir_refuse(w, path, -EMEDIUMTYPE, "is a symbolic link",
                                "replace it by what it points to");
    return model_dir_refuse(w, path, -EMEDIUMTYPE,
                            S_ISFIFO(mode)   ? "is a FIFO"
                            : S_ISSOCK(mode) ? "is a socket"
                                             : "is a device",
                            "an asset holds regular files only: move it out of the directory");
}

static int model_dir_reserve(struct model_dir *m)
{
    size_t n = m->capacity ? 2 * m->capacity : 64;
    struct tbenc_input *inputs;
    struct model_dir_times *times;

    if (m->n < m->capacity)
        return 0;
    inputs = reallocarray(m->inputs, n, sizeof(*inputs));
    if (!inputs)
        return -ENOMEM;
    m->inputs = inputs;
    times = reallocarray(m->times, n, sizeof(*times));
    if (!times)
        return -ENOMEM;
    m->times = times;
    m->capacity = n;
    return 0;
}

/* Takes fd, which is open for reading. path becomes the property of the list on success only. */
static int model_dir_add_file(struct walk *w, int fd, char **path)
{
    _cleanup_close_ int own = fd;
    struct model_dir *m = w->m;
    struct stat st;
    int r;

    if (m->n >= TBENC_FILES_MAX)
        return model_dir_refuse(w, "", -E2BIG, "holds more than 4096 files",
                                "pack the small ones into an archive first");
    if (!tbenc_path_valid(*path))
        return model_dir_refuse(
            w, *path, -EILSEQ, "has a name that a manifest cannot hold",
            "rename it: UTF-8 without control characters, at most 1024 bytes with its directories");
    if (fd < 0 || fstat(fd, &st) < 0)
        return model_dir_refuse_errno(w, *path, -errno);
    r = model_dir_check_type(w, *path, st.st_mode); /* it may have been replaced since it was listed */
    if (r < 0)
        return r;
    if ((uint64_t)st.st_size > TBENC_PLAINTEXT_MAX - m->bytes)
        return model_dir_refuse(w, *path, -E2BIG, "makes the asset larger than 8 PiB", NULL);
    r = model_dir_reserve(m);
    if (r < 0)
        return r;
    m->bytes += (uint64_t)st.st_size;
    m->times[m->n] = (struct model_dir_times){.m = st.st_mtim, .c = st.st_ctim};
    m->inputs[m->n++] = (struct tbenc_input){
        .fd = TAKE_FD(own),
        .path = TAKE_PTR(*path),
        .mode = st.st_mode & 0777,
        .bytes = (uint64_t)st.st_size,
    };
    return 0;
}

/* -- links ------------------------------------------------------------------------------------- */

static bool model_dir_is_below(const char *path, const char *dir)
{
    size_t n = dir ? strlen(dir) : 0;

    return dir && strncmp(path, dir, n) == 0 && (path[n] == '/' || (n > 0 && dir[n - 1] == '/'));
}

/* DIR/blobs, when the directory is DIR/snapshots/REVISION. */
static char *model_dir_blobs(const char *real_root)
{
    static const char snapshots[] = "/snapshots";
    const char *slash = strrchr(real_root, '/');
    size_t n = slash ? (size_t)(slash - real_root) : 0, s = sizeof(snapshots) - 1;
    _cleanup_free_ char *blobs = NULL;

    if (n <= s || strncmp(real_root + n - s, snapshots, s) != 0)
        return NULL;
    blobs = tb_strf("%.*s/blobs", (int)(n - s), real_root);
    return blobs ? realpath(blobs, NULL) : NULL;
}

/* What the descriptor refers to, without links. */
static int model_dir_real_path(int fd, char out[static PATH_MAX])
{
    char proc[48];
    ssize_t n;

    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    n = readlink(proc, out, PATH_MAX - 1);
    if (n < 0)
        return -errno;
    out[n] = '\0';
    return 0;
}

/* A link is no way around the rules: the path below the directory, and each directory in it. */
static bool model_dir_link_left_out(const struct walk *w, const char *real, bool is_dir)
{
    _cleanup_free_ char *path = NULL;

    if (!w->o->select || !model_dir_is_below(real, w->real_root))
        return false;
    path = strdup(real + strlen(w->real_root) + 1);
    for (char *p = path; p && (p = strchr(p, '/')); p++) {
        bool out;

        *p = '\0';
        out = select_leaves_out(w->o->select, path, true);
        *p = '/';
        if (out)
            return true;
    }
    return !path || select_leaves_out(w->o->select, path, is_dir);
}

/* fd is an O_PATH descriptor of what the link points to. */
static int model_dir_check_link(struct walk *w, const char *path, int fd, mode_t mode)
{
    char real[PATH_MAX];
    int r = model_dir_real_path(fd, real);

    if (r < 0)
        return model_dir_refuse_errno(w, path, r);
    if (model_dir_link_left_out(w, real, S_ISDIR(mode)))
        return model_dir_refuse(w, path, -EMEDIUMTYPE, "is a symbolic link to something that is left out",
                                "leave the link out with --exclude, or keep both with --include");
    if (w->o->follow_links)
        return S_ISDIR(mode) ? 0 : model_dir_check_type(w, path, mode);
    if (S_ISDIR(mode))
        return model_dir_refuse(w, path, -EMEDIUMTYPE, "is a symbolic link to a directory",
                                "use --follow-links if that belongs to the model");
    if (!model_dir_is_below(real, w->real_root) && !model_dir_is_below(real, w->blobs))
        return model_dir_refuse(w, path, -EMEDIUMTYPE, "is a symbolic link that leaves the directory",
                                "use --follow-links if what it points to belongs to the model");
    return model_dir_check_type(w, path, mode);
}

/* Opens what was looked at, whatever the link points to by now. */
static int model_dir_open_again(int fd, int flags)
{
    char proc[48];

    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    return open(proc, flags | O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

static int model_dir_leave_out(struct walk *w, const char *path, bool is_dir)
{
    struct model_dir *m = w->m;
    char *text = tb_strf("%s%s", path, is_dir ? "/" : "");
    char **v = text ? reallocarray(m->left_out, m->n_left_out + 1, sizeof(*v)) : NULL;

    if (!v) {
        free(text);
        return -ENOMEM;
    }
    m->left_out = v;
    m->left_out[m->n_left_out++] = text;
    return 0;
}

static int model_dir_walk_dir(struct walk *w, int dir_fd, const char *path);

static int model_dir_walk_below(struct walk *w, int fd, const char *path)
{
    struct stat st;
    int r;

    if (strlen(path) > TBENC_PATH_MAX || w->depth >= DEPTH_MAX) {
        tb_close(fd);
        return model_dir_refuse(w, path, -EILSEQ, "is nested too deep",
                                "a path in an asset has at most 1024 bytes and 128 directories");
    }
    if (fd < 0 || fstat(fd, &st) < 0) {
        r = -errno;
        tb_close(fd);
        return model_dir_refuse_errno(w, path, r);
    }
    for (unsigned i = 0; i < w->depth; i++)
        if (w->above[i].dev == st.st_dev && w->above[i].ino == st.st_ino) {
            tb_close(fd);
            return model_dir_refuse(w, path, -EMEDIUMTYPE, "is a symbolic link to a directory that it is in",
                                    "leave it out with --exclude");
        }
    w->above[w->depth].dev = st.st_dev;
    w->above[w->depth++].ino = st.st_ino;
    r = model_dir_walk_dir(w, fd, path);
    w->depth--;
    return r;
}

static int model_dir_walk_link(struct walk *w, int dir_fd, const char *name, char **path)
{
    _cleanup_close_ int fd = openat(dir_fd, name, O_PATH | O_CLOEXEC);
    struct stat st;
    int r;

    if (fd < 0 && (errno == ENOENT || errno == ELOOP))
        return model_dir_refuse(w, *path, -EMEDIUMTYPE, "is a symbolic link to nothing",
                                "download the model again, or leave it out with --exclude");
    if (fd < 0 || fstat(fd, &st) < 0)
        return model_dir_refuse_errno(w, *path, -errno);
    r = model_dir_check_link(w, *path, fd, st.st_mode);
    if (r < 0)
        return r;
    if (S_ISDIR(st.st_mode))
        return model_dir_walk_below(w, model_dir_open_again(fd, O_DIRECTORY), *path);
    return model_dir_add_file(w, model_dir_open_again(fd, 0), path);
}

static int model_dir_walk_entry(struct walk *w, int dir_fd, const char *parent, const char *name)
{
    _cleanup_free_ char *path = *parent ? tb_path_join(parent, name) : strdup(name);
    struct stat st;
    int r;

    if (!path)
        return -ENOMEM;
    /* Never open what is not a regular file: it may be a device that acts on open. */
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return model_dir_refuse_errno(w, path, -errno);
    if (w->o->select && select_leaves_out(w->o->select, path, S_ISDIR(st.st_mode)))
        return model_dir_leave_out(w, path, S_ISDIR(st.st_mode));
    if (S_ISLNK(st.st_mode) && !w->o->no_links)
        return model_dir_walk_link(w, dir_fd, name, &path);
    if (S_ISDIR(st.st_mode))
        return model_dir_walk_below(w, openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECTORY),
                                    path);
    r = model_dir_check_type(w, path, st.st_mode);
    if (r < 0)
        return r;
    return model_dir_add_file(
        w, openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY), &path);
}

/* Takes dir_fd. */
static int model_dir_walk_dir(struct walk *w, int dir_fd, const char *path)
{
    _cleanup_closedir_ DIR *d = fdopendir(dir_fd);
    size_t entries = 0;

    if (!d) {
        int r = -errno;

        tb_close(dir_fd);
        return model_dir_refuse_errno(w, path, r);
    }
    for (;;) {
        struct dirent *de;
        int r;

        errno = 0;
        de = readdir(d);
        if (!de && errno != 0)
            return model_dir_refuse_errno(w, path, -errno);
        if (!de)
            break;
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
            continue;
        entries++;
        r = model_dir_walk_entry(w, dirfd(d), path, de->d_name);
        if (r < 0)
            return r;
    }
    if (entries == 0)
        w->m->empty_dirs++;
    return 0;
}

/* Sorts an index so that inputs and times move together. */
static int model_dir_compare_paths(const void *a, const void *b, void *arg)
{
    const struct tbenc_input *in = arg;

    return strcmp(in[*(const size_t *)a].path, in[*(const size_t *)b].path);
}

static int model_dir_compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int model_dir_sort(struct model_dir *m)
{
    _cleanup_free_ size_t *order = calloc(m->n, sizeof(*order));
    _cleanup_free_ struct tbenc_input *inputs = calloc(m->n, sizeof(*inputs));
    _cleanup_free_ struct model_dir_times *times = calloc(m->n, sizeof(*times));

    if (!order || !inputs || !times)
        return -ENOMEM;
    for (size_t i = 0; i < m->n; i++)
        order[i] = i;
    qsort_r(order, m->n, sizeof(*order), model_dir_compare_paths, m->inputs);
    for (size_t i = 0; i < m->n; i++) {
        inputs[i] = m->inputs[order[i]];
        times[i] = m->times[order[i]];
    }
    memcpy(m->inputs, inputs, m->n * sizeof(*inputs));
    memcpy(m->times, times, m->n * sizeof(*times));
    return 0;
}

/* The whole cache would hold each file twice and every revision. */
static int model_dir_refuse_cache(struct walk *w, int fd)
{
    static const char *const parts[] = {"blobs", "refs", "snapshots"};
    struct stat st;

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (fstatat(fd, parts[i], &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
            return 0;
    return model_dir_refuse(w, "", -EMEDIUMTYPE, "is the cache of a Hugging Face model",
                            "name one snapshot in it: DIR/snapshots/REVISION");
}

static int model_dir_walk_root(struct walk *w)
{
    int fd = open(w->root, O_RDONLY | O_CLOEXEC | O_DIRECTORY), r;

    if (fd < 0)
        return model_dir_refuse_errno(w, "", -errno);
    w->real_root = realpath(w->root, NULL);
    if (w->real_root)
        w->blobs = model_dir_blobs(w->real_root);
    r = w->o->select ? model_dir_refuse_cache(w, fd) : 0;
    if (r == 0 && !w->real_root)
        r = model_dir_refuse_errno(w, "", -errno);
    if (r < 0) {
        tb_close(fd);
        return r;
    }
    return model_dir_walk_below(w, fd, "");
}

int model_dir_open(const char *root, const struct model_dir_options *o, struct model_dir *ret,
                   struct model_dir_error *e)
{
    static const struct model_dir_options strict = {.no_links = true};
    _cleanup_model_dir_ struct model_dir m = {0};
    struct walk w = {.m = &m, .root = root, .o = o ? o : &strict, .e = e};
    int r;

    *e = (struct model_dir_error){0};
    tb_allow_descriptors(TBENC_FILES_MAX + 512);
    r = model_dir_walk_root(&w);
    free(w.real_root);
    free(w.blobs);
    if (r == 0 && m.n > 0)
        r = model_dir_sort(&m);
    if (m.n_left_out > 0)
        qsort(m.left_out, m.n_left_out, sizeof(*m.left_out), model_dir_compare_names);
    if (r < 0)
        return r;
    *ret = m;
    m = (struct model_dir){0};
    return 0;
}

static bool model_dir_same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

int model_dir_check_unchanged(const struct model_dir *m, const char *root, struct model_dir_error *e)
{
    *e = (struct model_dir_error){0};
    for (size_t i = 0; i < m->n; i++) {
        struct walk w = {.root = root, .e = e};
        struct stat st;

        if (fstat(m->inputs[i].fd, &st) < 0)
            return model_dir_refuse_errno(&w, m->inputs[i].path, -errno);
        if ((uint64_t)st.st_size != m->inputs[i].bytes || !model_dir_same_time(&st.st_mtim, &m->times[i].m) ||
            !model_dir_same_time(&st.st_ctim, &m->times[i].c))
            return model_dir_refuse(&w, m->inputs[i].path, -ESTALE, "changed while it was read",
                                    "encrypt a copy that nothing writes to");
    }
    return 0;
}

void model_dir_close(struct model_dir *m)
{
    for (size_t i = 0; i < m->n; i++) {
        tb_close(m->inputs[i].fd);
        free((char *)m->inputs[i].path);
    }
    free(m->inputs);
    free(m->times);
    for (size_t i = 0; i < m->n_left_out; i++)
        free(m->left_out[i]);
    free(m->left_out);
    *m = (struct model_dir){0};
}
