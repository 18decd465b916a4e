/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/model_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"

struct walk {
    struct model_dir *m;
    const char *root;
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
        return model_dir_refuse(
            w, path, -EMEDIUMTYPE, "is a symbolic link",
            "an asset holds regular files only: copy the directory with cp -rL and encrypt the copy");
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
    struct timespec *mtimes;

    if (m->n < m->capacity)
        return 0;
    inputs = reallocarray(m->inputs, n, sizeof(*inputs));
    if (!inputs)
        return -ENOMEM;
    m->inputs = inputs;
    mtimes = reallocarray(m->mtimes, n, sizeof(*mtimes));
    if (!mtimes)
        return -ENOMEM;
    m->mtimes = mtimes;
    m->capacity = n;
    return 0;
}

/* path becomes the property of the list on success only. */
static int model_dir_add_file(struct walk *w, int dir_fd, const char *name, char **path)
{
    struct model_dir *m = w->m;
    _cleanup_close_ int fd = -1;
    struct stat st;
    int r;

    if (m->n >= TBENC_FILES_MAX)
        return model_dir_refuse(w, "", -E2BIG, "holds more than 4096 files",
                                "pack the small ones into an archive first");
    if (!tbenc_path_valid(*path))
        return model_dir_refuse(
            w, *path, -EILSEQ, "has a name that a manifest cannot hold",
            "rename it: UTF-8 without control characters, at most 1024 bytes with its directories");
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
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
    m->mtimes[m->n] = st.st_mtim;
    m->inputs[m->n++] = (struct tbenc_input){
        .fd = TAKE_FD(fd),
        .path = TAKE_PTR(*path),
        .mode = st.st_mode & 0777,
        .bytes = (uint64_t)st.st_size,
    };
    return 0;
}

static int model_dir_walk_dir(struct walk *w, int dir_fd, const char *path);

static int model_dir_walk_entry(struct walk *w, int dir_fd, const char *parent, const char *name)
{
    _cleanup_free_ char *path = *parent ? tb_path_join(parent, name) : strdup(name);
    _cleanup_close_ int fd = -1;
    struct stat st;
    int r;

    if (!path)
        return -ENOMEM;
    /* Never open what is not a regular file: it may be a device that acts on open. */
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return model_dir_refuse_errno(w, path, -errno);
    if (!S_ISDIR(st.st_mode)) {
        r = model_dir_check_type(w, path, st.st_mode);
        return r < 0 ? r : model_dir_add_file(w, dir_fd, name, &path);
    }
    if (strlen(path) > TBENC_PATH_MAX)
        return model_dir_refuse(w, path, -EILSEQ, "is nested too deep",
                                "a path in an asset has at most 1024 bytes");
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECTORY);
    if (fd < 0)
        return model_dir_refuse_errno(w, path, -errno);
    return model_dir_walk_dir(w, TAKE_FD(fd), path);
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

/* Sorts an index so that inputs and mtimes move together. */
static int model_dir_compare_paths(const void *a, const void *b, void *arg)
{
    const struct tbenc_input *in = arg;

    return strcmp(in[*(const size_t *)a].path, in[*(const size_t *)b].path);
}

static int model_dir_sort(struct model_dir *m)
{
    _cleanup_free_ size_t *order = calloc(m->n, sizeof(*order));
    _cleanup_free_ struct tbenc_input *inputs = calloc(m->n, sizeof(*inputs));
    _cleanup_free_ struct timespec *mtimes = calloc(m->n, sizeof(*mtimes));

    if (!order || !inputs || !mtimes)
        return -ENOMEM;
    for (size_t i = 0; i < m->n; i++)
        order[i] = i;
    qsort_r(order, m->n, sizeof(*order), model_dir_compare_paths, m->inputs);
    for (size_t i = 0; i < m->n; i++) {
        inputs[i] = m->inputs[order[i]];
        mtimes[i] = m->mtimes[order[i]];
    }
    memcpy(m->inputs, inputs, m->n * sizeof(*inputs));
    memcpy(m->mtimes, mtimes, m->n * sizeof(*mtimes));
    return 0;
}

int model_dir_open(const char *root, struct model_dir *ret, struct model_dir_error *e)
{
    _cleanup_model_dir_ struct model_dir m = {0};
    struct walk w = {.m = &m, .root = root, .e = e};
    int fd, r;

    *e = (struct model_dir_error){0};
    tb_allow_descriptors(TBENC_FILES_MAX + 512);
    fd = open(root, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0)
        return model_dir_refuse_errno(&w, "", -errno);
    r = model_dir_walk_dir(&w, fd, "");
    if (r < 0)
        return r;
    if (m.n > 0) {
        r = model_dir_sort(&m);
        if (r < 0)
            return r;
    }
    *ret = m;
    m = (struct model_dir){0};
    return 0;
}

int model_dir_check_unchanged(const struct model_dir *m, const char *root, struct model_dir_error *e)
{
    *e = (struct model_dir_error){0};
    for (size_t i = 0; i < m->n; i++) {
        struct walk w = {.root = root, .e = e};
        struct stat st;

        if (fstat(m->inputs[i].fd, &st) < 0)
            return model_dir_refuse_errno(&w, m->inputs[i].path, -errno);
        if ((uint64_t)st.st_size != m->inputs[i].bytes || st.st_mtim.tv_sec != m->mtimes[i].tv_sec ||
            st.st_mtim.tv_nsec != m->mtimes[i].tv_nsec)
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
    free(m->mtimes);
    *m = (struct model_dir){0};
}
