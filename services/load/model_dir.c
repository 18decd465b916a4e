/* SPDX-License-Identifier: Apache-2.0 */
#include "load/model_dir.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "common/deliver.h"
#include "common/io.h"
#include "common/log.h"
#include "common/units.h"
#include "load/memory.h"
#include "load/tree.h"

static void plain_name(const struct tbenc_manifest *m, char out[static TBENC_NAME_MAX + 1])
{
    memcpy(out, m->weights_filename, strlen(m->weights_filename) + 1);
    (void)tb_deliver_name(out);
}

char *tb_model_dir_model(const struct tb_load *l)
{
    char name[TBENC_NAME_MAX + 1];

    if (l->manifest->files)
        return strdup(l->config->model_dir);
    plain_name(l->manifest, name);
    return tb_path_join(l->config->model_dir, name);
}

static int model_dir_check_memory(struct tb_load *l, uint64_t need)
{
    uint64_t have;
    int r = tb_memory_available(&have);

    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot find out how much memory is available: %s",
                              strerror(-r));
    if (have < need)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR,
                              "the model needs %" PRIu64 " bytes of memory, %" PRIu64
                              " are available; use a larger machine or "
                              "stop other programs",
                              need, have);
    return 0;
}

static int model_dir_check_swap(struct tb_load *l, dev_t device)
{
    char name[TB_SWAP_NAME_MAX];

    if (tb_memory_swaps(name) == 0 || tb_memory_noswap(device))
        return 0;
    return tb_outcome_set(
        &l->outcome, TB_EXIT_CONFIG,
        "swap is on (%s) and the plaintext in %s could reach it; run 'swapoff -a', or use Linux 6.4 or newer "
        "with CAP_SYS_ADMIN, where tb-load mounts it noswap",
        name, l->config->model_dir);
}

bool tb_model_dir_may_mount(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {0};

    return syscall(SYS_capget, &h, d) == 0 && (d[0].effective & (1u << CAP_SYS_ADMIN));
}

bool tb_model_dir_fits(const struct tb_load *l, char why[static TB_MODEL_DIR_WHY_MAX])
{
    uint64_t need = tb_memory_need(l->manifest), have;
    char swap[TB_SWAP_NAME_MAX], needed[32], available[32];
    struct stat st;

    if (tb_memory_available(&have) == 0 && have < need) {
        snprintf(why, TB_MODEL_DIR_WHY_MAX, "%s are needed, %s available",
                 tb_bytes_format(need, needed, sizeof(needed)),
                 tb_bytes_format(have, available, sizeof(available)));
        return false;
    }
    /* Where a file system can be mounted it is noswap; else the one that is there has to be. */
    if (tb_memory_swaps(swap) > 0 && !tb_model_dir_may_mount() &&
        (stat(l->config->model_dir, &st) < 0 || !tb_memory_noswap(st.st_dev))) {
        snprintf(why, TB_MODEL_DIR_WHY_MAX, "swap is on (%.80s)", swap);
        return false;
    }
    return true;
}

int tb_model_dir_stop_propagation(const char *dir)
{
    _cleanup_free_ char *path = strdup(dir);
    struct statx st;
    char *slash;

    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0)
        return 0;
    if (errno != EINVAL)
        return -errno;
    if (!path)
        return -ENOMEM;
    while (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0) {
        if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
            return mount(NULL, path, NULL, MS_SLAVE, NULL) < 0 ? -errno : 0;
        slash = strrchr(path, '/');
        if (!slash || slash == path)
            return -EPERM;
        *slash = '\0';
    }
    return -errno;
}

/* A tmpfs of our own over the directory. 0, or -errno: -EPERM when it may not be done here. */
static int mount_private(const struct tb_load *l, uint64_t need)
{
    const char *dir = l->config->model_dir;
    _cleanup_free_ char *options = NULL, *noswap = NULL;
    const unsigned long flags = MS_NODEV | MS_NOSUID | MS_NOEXEC;
    int r;

    options = tb_strf("size=%" PRIu64 ",nr_inodes=%" PRIu64 ",mode=0700,uid=%u,gid=%u", need,
                      tb_memory_inodes(l->manifest) + 8, (unsigned)geteuid(), (unsigned)getegid());
    noswap = options ? tb_strf("%s,noswap", options) : NULL;
    if (!noswap)
        return -ENOMEM;
    if (unshare(CLONE_NEWNS) < 0)
        return -errno;
    r = tb_model_dir_stop_propagation(dir);
    if (r < 0)
        return r;
    if (mount("tb-model", dir, "tmpfs", flags, noswap) == 0)
        return 0;
    if (errno == EINVAL && mount("tb-model", dir, "tmpfs", flags, options) == 0) /* Linux before 6.4 */
        return 0;
    return -errno;
}

/* A directory somebody else has made for us. */
static int model_dir_check_shared(struct tb_load *l, int fd, const struct stat *st, uint64_t need)
{
    const char *dir = l->config->model_dir;
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot look at %s: %s", dir, strerror(errno));
    if ((uint64_t)fs.f_type != TMPFS_MAGIC && (uint64_t)fs.f_type != RAMFS_MAGIC)
        return tb_outcome_set(
            &l->outcome, TB_EXIT_CONFIG,
            "TB_MODEL_DIR %s is on a disk, where plaintext must not go; give tb-load CAP_SYS_ADMIN, or the "
            "unit TemporaryFileSystem=%s, or name a directory in /dev/shm",
            dir, dir);
    if (st->st_uid != geteuid() || (st->st_mode & 0077))
        return tb_outcome_set(
            &l->outcome, TB_EXIT_CONFIG,
            "TB_MODEL_DIR %s must belong to tb-load's user with mode 0700: what is in it is removed", dir);
    if ((uint64_t)fs.f_type == TMPFS_MAGIC && fs.f_blocks > 0 &&
        (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < need)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR,
                              "the model needs %" PRIu64 " bytes in %s, %" PRIu64 " are free", need, dir,
                              (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize);
    if ((uint64_t)fs.f_type == RAMFS_MAGIC)
        return 0; /* a ramfs is never swapped */
    return model_dir_check_swap(l, st->st_dev);
}

static int tb_model_dir_reopen(struct tb_load *l, struct tb_model_dir *p, struct stat *ret_st)
{
    p->dir_fd = tb_close(p->dir_fd);
    p->dir_fd = open(l->config->model_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (p->dir_fd < 0 || fstat(p->dir_fd, ret_st) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "cannot open TB_MODEL_DIR %s: %s",
                              l->config->model_dir, strerror(errno));
    return 0;
}

int tb_model_dir_open(struct tb_load *l, struct tb_model_dir *p)
{
    uint64_t need = tb_memory_need(l->manifest);
    struct stat st;
    int r;

    r = tb_mkdir_p(l->config->model_dir, 0700);
    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "cannot make TB_MODEL_DIR %s: %s",
                              l->config->model_dir, strerror(-r));
    r = tb_model_dir_reopen(l, p, &st);
    if (r != 0)
        return r;
    r = mount_private(l, need);
    if (r < 0 && r != -EPERM && r != -EACCES && r != -ENOSYS)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot mount a tmpfs on %s: %s",
                              l->config->model_dir, strerror(-r));
    p->mounted = r == 0;
    if (p->mounted) {
        r = tb_model_dir_reopen(l, p, &st);
        if (r == 0)
            r = model_dir_check_swap(l, st.st_dev);
    } else {
        /* Memory that an earlier, killed run left is counted as free only when it is gone. */
        r = model_dir_check_shared(l, p->dir_fd, &st, 0);
        if (r == 0)
            tb_tree_empty(p->dir_fd);
        if (r == 0)
            r = model_dir_check_shared(l, p->dir_fd, &st, need);
    }
    return r == 0 ? model_dir_check_memory(l, need) : r;
}

static int model_dir_create_one(struct tb_load *l, struct tb_model_dir *p, const char *path)
{
    int fd = tb_tree_create(p->dir_fd, path);

    if (fd < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot create %s/%s: %s", l->config->model_dir,
                              path, strerror(-fd));
    p->fds[p->n_fds++] = fd;
    return 0;
}

int tb_model_dir_create(struct tb_load *l, struct tb_model_dir *p)
{
    const struct tbenc_manifest *m = l->manifest;
    char name[TBENC_NAME_MAX + 1];
    int r = 0;

    p->created = true;
    p->fds = calloc(m->files ? m->n_files : 1, sizeof(*p->fds));
    if (!p->fds)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    if (!m->files) {
        plain_name(m, name);
        return model_dir_create_one(l, p, name);
    }
    for (size_t i = 0; r == 0 && i < m->n_files; i++)
        r = model_dir_create_one(l, p, m->files[i].path);
    return r;
}

uint64_t tb_model_dir_filled(const struct tb_model_dir *p)
{
    uint64_t blocks = 0;
    struct stat st;

    for (size_t i = 0; i < p->n_fds; i++)
        if (fstat(p->fds[i], &st) == 0)
            blocks += (uint64_t)st.st_blocks;
    return blocks * 512;
}

static void model_dir_close_files(struct tb_model_dir *p)
{
    for (size_t i = 0; i < p->n_fds; i++)
        tb_close(p->fds[i]);
    free(p->fds);
    p->fds = NULL;
    p->n_fds = 0;
}

int tb_model_dir_seal(struct tb_load *l, struct tb_model_dir *p)
{
    const struct tbenc_manifest *m = l->manifest;
    const char *dir = l->config->model_dir;
    int r = 0;

    for (size_t i = 0; i < p->n_fds; i++)
        if (fchmod(p->fds[i], ((m->files ? m->files[i].mode : 0444) & 0555) | 0400) < 0)
            return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot make a file in %s read-only: %s", dir,
                                  strerror(errno));
    model_dir_close_files(p);
    if (!p->mounted)
        r = tb_tree_close(p->dir_fd);
    else if (mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOEXEC, NULL) < 0)
        r = -errno;
    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot make %s read-only: %s", dir, strerror(-r));
    return 0;
}

void tb_model_dir_discard(struct tb_model_dir *p)
{
    model_dir_close_files(p);
    if (p->created && !p->mounted) /* a mount of our own goes with this process */
        tb_tree_empty(p->dir_fd);
}

void tb_model_dir_clear(struct tb_model_dir *p)
{
    model_dir_close_files(p);
    p->dir_fd = tb_close(p->dir_fd);
}
