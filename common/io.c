/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

ssize_t tb_read_full(int fd, void *buf, size_t n)
{
    size_t done = 0;

    while (done < n) {
        ssize_t k = read(fd, (char *)buf + done, n - done);

        if (k == 0)
            break;
        if (k < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)k;
    }
    return (ssize_t)done;
}

ssize_t tb_pread_full(int fd, void *buf, size_t n, uint64_t off)
{
    size_t done = 0;

    while (done < n) {
        ssize_t k = pread(fd, (char *)buf + done, n - done, (off_t)(off + done));

        if (k == 0)
            break;
        if (k < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)k;
    }
    return (ssize_t)done;
}

int tb_write_full(int fd, const void *buf, size_t n)
{
    for (const char *p = buf; n > 0;) {
        ssize_t k = write(fd, p, n);

        if (k < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

int tb_pwrite_full(int fd, const void *buf, size_t n, uint64_t off)
{
    for (const char *p = buf; n > 0;) {
        ssize_t k = pwrite(fd, p, n, (off_t)off);

        if (k < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += k;
        n -= (size_t)k;
        off += (uint64_t)k;
    }
    return 0;
}

int tb_read_file(const char *path, size_t max, char **ret, size_t *ret_len)
{
    _cleanup_close_ int fd = -1;
    _cleanup_free_ char *buf = NULL;
    size_t cap = 4096, len = 0;
    struct stat st;

    fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (S_ISREG(st.st_mode)) {
        if ((uint64_t)st.st_size > max)
            return -EFBIG;
        cap = (size_t)st.st_size + 2;
    }
    for (;;) {
        ssize_t k;
        char *grown;

        grown = realloc(buf, cap);
        if (!grown)
            return -ENOMEM;
        buf = grown;
        k = tb_read_full(fd, buf + len, cap - 1 - len);
        if (k < 0)
            return (int)k;
        len += (size_t)k;
        if (len > max)
            return -EFBIG;
        if (len < cap - 1)
            break;
        cap *= 2;
    }
    buf[len] = '\0';
    *ret = TAKE_PTR(buf);
    if (ret_len)
        *ret_len = len;
    return 0;
}

int tb_write_file_atomic(const char *path, const void *buf, size_t n, mode_t mode)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    int r;

    r = tb_newfile_open(&f, path, mode);
    if (r < 0)
        return r;
    r = tb_write_full(f.fd, buf, n);
    if (r < 0)
        return r;
    return tb_newfile_commit(&f, true);
}

/* "dir/.name.XXXXXX" for "dir/name". */
static char *temp_template(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

    return tb_strf("%.*s.%s.XXXXXX", (int)(name - path), path, name);
}

int tb_newfile_open(struct tb_newfile *f, const char *path, mode_t mode)
{
    _cleanup_free_ char *final = strdup(path), *tmp = NULL;
    int fd, r;

    if (!final)
        return -ENOMEM;
    tmp = temp_template(path);
    if (!tmp)
        return -ENOMEM;
    fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fchmod(fd, mode) < 0) {
        r = -errno;
        (void)unlink(tmp);
        close(fd);
        return r;
    }
    *f = (struct tb_newfile){.fd = fd, .path = TAKE_PTR(final), .tmp_path = TAKE_PTR(tmp)};
    return 0;
}

int tb_newfile_commit(struct tb_newfile *f, bool replace)
{
    int r;

    if (fsync(f->fd) < 0)
        return -errno;
    if (replace)
        r = rename(f->tmp_path, f->path);
    else
        r = renameat2(AT_FDCWD, f->tmp_path, AT_FDCWD, f->path, RENAME_NOREPLACE);
    if (r < 0)
        return -errno;
    tb_freep(&f->tmp_path);
    r = tb_fsync_parent(f->path);
    tb_newfile_abort(f);
    return r;
}

void tb_newfile_abort(struct tb_newfile *f)
{
    if (f->tmp_path)
        (void)unlink(f->tmp_path);
    f->fd = tb_close(f->fd);
    tb_freep(&f->tmp_path);
    tb_freep(&f->path);
}

/* Is it ".NAME." and six characters as mkostemp() makes them? */
static bool io_is_temp_of(const char *entry, const char *name)
{
    size_t n = strlen(name);

    return entry[0] == '.' && strncmp(entry + 1, name, n) == 0 && entry[n + 1] == '.' &&
           strlen(entry + n + 2) == 6 &&
           strspn(entry + n + 2, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == 6;
}

void tb_newfile_sweep(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    _cleanup_free_ char *dir = slash ? tb_strf("%.*s/", (int)(slash - path), path) : strdup(".");
    DIR *d = dir ? opendir(dir) : NULL;

    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        if (io_is_temp_of(e->d_name, name))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

int tb_mkdir_p(const char *path, mode_t mode)
{
    _cleanup_free_ char *p = strdup(path);

    if (!p)
        return -ENOMEM;
    for (char *s = p + 1;; s++) {
        char c = *s;

        if (c != '/' && c != '\0')
            continue;
        *s = '\0';
        if (mkdir(p, mode) < 0 && errno != EEXIST)
            return -errno;
        *s = c;
        if (c == '\0')
            return 0;
    }
}

int tb_fsync_parent(const char *path)
{
    _cleanup_free_ char *dir = strdup(path);
    _cleanup_close_ int fd = -1;
    char *slash;

    if (!dir)
        return -ENOMEM;
    slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = '\0';
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

void tb_allow_descriptors(uint64_t want)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur >= MIN(want, l.rlim_max))
        return;
    l.rlim_cur = MIN(want, l.rlim_max);
    (void)setrlimit(RLIMIT_NOFILE, &l);
}

char *tb_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);

    return tb_strf("%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
}

char *tb_strf(const char *fmt, ...)
{
    char *s;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : s;
}

bool tb_errno_is_disk(int r)
{
    /* The block layer has a number for each kind of medium error, file systems add theirs. */
    static const int errors[] = {EIO, ENODATA, EREMOTEIO, EILSEQ, EUCLEAN, ENXIO, ESHUTDOWN};

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        if (r == -errors[i])
            return true;
    return false;
}

bool tb_errno_is_ours(int r)
{
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EINTR;
}

int tb_boot_id(char ret[static TB_BOOT_ID_MAX])
{
    const char *given = getenv("BOOT_ID");
    _cleanup_free_ char *id = NULL;
    size_t len;

    if (given && strlen(given) >= 32 && strlen(given) < TB_BOOT_ID_MAX &&
        strspn(given, "0123456789abcdef-") == strlen(given)) {
        memset(ret, 0, TB_BOOT_ID_MAX);
        memcpy(ret, given, strlen(given));
        return 0;
    }
    if (tb_read_file("/proc/sys/kernel/random/boot_id", 64, &id, &len) < 0 || len < TB_BOOT_ID_MAX - 1)
        return -ENOTSUP;
    memcpy(ret, id, TB_BOOT_ID_MAX - 1);
    ret[TB_BOOT_ID_MAX - 1] = '\0';
    return 0;
}
