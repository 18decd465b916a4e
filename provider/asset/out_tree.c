/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/out_tree.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "provider/asset/model_dir.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/output.h"

#define FTW_FDS 32

static mode_t out_tree_current_umask(void)
{
    mode_t m = umask(0);

    (void)umask(m);
    return m;
}

/* -- removing ---------------------------------------------------------------------------------- */

static int out_tree_remove_entry(const char *path, const struct stat *st _unused_, int type _unused_,
                                 struct FTW *f _unused_)
{
    return remove(path);
}

static int out_tree_remove_tree(const char *path)
{
    return nftw(path, out_tree_remove_entry, FTW_FDS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 ? -errno : 0;
}

/* -- may it be created? ------------------------------------------------------------------------ */

static int out_tree_compare_file(const void *key, const void *elem)
{
    return strcmp(key, ((const struct tbenc_file *)elem)->path);
}

int out_tree_check(const char *path, const struct tbenc_manifest *m, bool replace)
{
    _cleanup_model_dir_ struct model_dir dir = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? CLI_OK : tbpkg_fail_errno(path, -errno);
    if (!replace)
        return tbpkg_fail(path, "exists already", "choose another name or use --force");
    if (!S_ISDIR(st.st_mode))
        return tbpkg_fail(path, "exists and is not a directory",
                          "this asset is a directory: choose another name");
    if (model_dir_open(path, NULL, &dir, &e) < 0)
        return tbpkg_fail(e.object ? e.object : path, "is not from this asset, so --force does not remove it",
                          "choose another name");
    for (size_t i = 0; i < dir.n; i++) {
        _cleanup_free_ char *full = NULL;

        if (bsearch(dir.inputs[i].path, m->files, m->n_files, sizeof(*m->files), out_tree_compare_file))
            continue;
        full = tb_path_join(path, dir.inputs[i].path);
        return tbpkg_fail(full ? full : path, "is not from this asset, so --force does not remove it",
                          "choose another name");
    }
    return CLI_OK;
}

/* -- creating ---------------------------------------------------------------------------------- */

/* mkdtemp() beside path, with every interrupt kept out until it is registered. */
static int out_tree_make_root(struct out_tree *t)
{
    const char *slash = strrchr(t->path, '/'), *name = slash ? slash + 1 : t->path;
    int r = 0;

    t->tmp_path = tb_strf("%.*s.%s.XXXXXX", (int)(name - t->path), t->path, name);
    if (!t->tmp_path)
        return tbpkg_fail_errno(t->path, -ENOMEM);
    cli_signals_block();
    if (!mkdtemp(t->tmp_path)) {
        r = -errno;
        tb_freep(&t->tmp_path);
    } else {
        r = cli_temp_add(t->tmp_path);
    }
    cli_signals_unblock();
    return r < 0 ? tbpkg_fail_errno(t->path, r) : CLI_OK;
}

/* The directories above path, below root. */
static int out_tree_make_parents(const char *root, char *path)
{
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        int r = 0;

        *p = '\0';
        cli_signals_block();
        if (mkdir(path, 0777) == 0)
            r = cli_temp_add(path);
        else if (errno != EEXIST)
            r = -errno;
        cli_signals_unblock();
        *p = '/';
        if (r < 0)
            return r;
    }
    return 0;
}

static int out_tree_make_file(struct out_tree *t, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(t->tmp_path, name);
    int fd, r;

    if (!path)
        return -ENOMEM;
    r = out_tree_make_parents(t->tmp_path, path);
    if (r < 0)
        return r;
    cli_signals_block();
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    r = fd < 0 ? -errno : cli_temp_add(path);
    cli_signals_unblock();
    if (fd >= 0)
        t->fds[t->n++] = fd;
    return r;
}

int out_tree_create(const char *path, const struct tbenc_manifest *m, struct out_tree *ret)
{
    _cleanup_out_tree_ struct out_tree t = {.path = strdup(path), .fds = calloc(m->n_files, sizeof(int))};
    int rc;

    if (!t.path || !t.fds)
        return tbpkg_fail_errno(path, -ENOMEM);
    tb_allow_descriptors(TBENC_FILES_MAX + 512);
    rc = out_tree_make_root(&t);
    if (rc != CLI_OK)
        return rc;
    for (size_t i = 0; i < m->n_files; i++) {
        int r = out_tree_make_file(&t, m->files[i].path);

        if (r < 0)
            return tbpkg_fail_errno(m->files[i].path, r);
    }
    *ret = t;
    t = (struct out_tree){0};
    return CLI_OK;
}

/* -- committing -------------------------------------------------------------------------------- */

static int out_tree_sync_directory(const char *path, const struct stat *st _unused_, int type,
                                   struct FTW *f _unused_)
{
    _cleanup_close_ int fd = -1;

    if (type != FTW_D && type != FTW_DP)
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    return fd < 0 || fsync(fd) < 0 ? -1 : 0;
}

static int out_tree_settle_files(struct out_tree *t, const struct tbenc_manifest *m)
{
    mode_t mask = out_tree_current_umask();

    for (size_t i = 0; i < t->n; i++)
        if (fchmod(t->fds[i], m->files[i].mode & 0777 & ~mask) < 0 || fsync(t->fds[i]) < 0)
            return tbpkg_fail_errno(m->files[i].path, -errno);
    if (nftw(t->tmp_path, out_tree_sync_directory, FTW_FDS, FTW_DEPTH | FTW_PHYS) < 0 ||
        chmod(t->tmp_path, 0777 & ~mask) < 0)
        return tbpkg_fail_errno(t->path, -errno);
    return CLI_OK;
}

static int out_tree_take_name(struct out_tree *t, bool replace)
{
    if (renameat2(AT_FDCWD, t->tmp_path, AT_FDCWD, t->path, RENAME_NOREPLACE) == 0) {
        tb_freep(&t->tmp_path);
        return 0;
    }
    if (errno != EEXIST || !replace)
        return -errno;
    if (renameat2(AT_FDCWD, t->tmp_path, AT_FDCWD, t->path, RENAME_EXCHANGE) < 0)
        return -errno;
    /* The old directory has the temporary name now. */
    if (out_tree_remove_tree(t->tmp_path) < 0)
        tbpkg_warn("%s: the old directory could not be removed: %s", t->tmp_path, strerror(errno));
    tb_freep(&t->tmp_path);
    return 0;
}

int out_tree_commit(struct out_tree *t, const struct tbenc_manifest *m, bool replace)
{
    int rc, r;

    assert(t->tmp_path && t->n == m->n_files);
    rc = out_tree_settle_files(t, m);
    if (rc != CLI_OK)
        return rc;
    cli_signals_block();
    r = out_tree_take_name(t, replace);
    if (r == 0) {
        cli_temp_forget_all();
        r = tb_fsync_parent(t->path);
    }
    cli_signals_unblock();
    if (r == -EEXIST)
        return tbpkg_fail(t->path, "was created by another process meanwhile",
                          "choose another name or use --force");
    return r < 0 ? tbpkg_fail_errno(t->path, r) : CLI_OK;
}

void out_tree_abort(struct out_tree *t)
{
    for (size_t i = 0; i < t->n; i++)
        tb_close(t->fds[i]);
    if (t->tmp_path)
        (void)out_tree_remove_tree(t->tmp_path);
    free(t->fds);
    tb_freep(&t->tmp_path);
    tb_freep(&t->path);
    *t = (struct out_tree){0};
}
