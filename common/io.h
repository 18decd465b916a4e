/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, and files that appear under their final name only when complete. All sizes are
 * bytes; all functions return 0 (or a count) or a negative errno and never log. */
#ifndef TB_IO_H
#define TB_IO_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/macros.h"

/* Reads until n bytes or end of file, retrying EINTR and short reads. Returns bytes read (< n only at EOF) or
 * -errno. */
ssize_t tb_read_full(int fd, void *buf, size_t n);
ssize_t tb_pread_full(int fd, void *buf, size_t n, uint64_t off);
/* Writes all n bytes. 0 or -errno. */
int tb_write_full(int fd, const void *buf, size_t n);
int tb_pwrite_full(int fd, const void *buf, size_t n, uint64_t off);

/* Reads a whole file of at most max bytes into a NUL-terminated heap buffer owned by the caller.
 * -EFBIG when it is larger; -EISDIR for a directory. path "-" is stdin. */
int tb_read_file(const char *path, size_t max, char **ret, size_t *ret_len);

/* Writes path atomically: temporary file in the same directory, fsync, rename, fsync of the directory. */
int tb_write_file_atomic(const char *path, const void *buf, size_t n, mode_t mode);

/* A file that becomes visible only on tb_newfile_commit(): it is written as ".NAME.XXXXXX" beside its final
 * name, and unlinked by tb_newfile_abort() and by the cleanup attribute. */
struct tb_newfile {
    int fd;
    char *path;     /* final name */
    char *tmp_path; /* NULL once committed */
};
#define TB_NEWFILE_INIT                                                                                      \
    {                                                                                                        \
        .fd = -1                                                                                             \
    }
int tb_newfile_open(struct tb_newfile *f, const char *path, mode_t mode);
/* fsync, then take the final name and fsync the directory. replace=false: -EEXIST when the name is taken. */
int tb_newfile_commit(struct tb_newfile *f, bool replace);
void tb_newfile_abort(struct tb_newfile *f);
/* Unlinks what a killed process left of tb_newfile_open(path): ".NAME.XXXXXX" beside it. Only for a path that
 * nobody else is writing now. Best effort. */
void tb_newfile_sweep(const char *path);
#define _cleanup_newfile_ _cleanup_(tb_newfile_abort)

static inline void tb_closedirp(DIR **d)
{
    if (*d)
        closedir(*d);
    *d = NULL;
}
#define _cleanup_closedir_ _cleanup_(tb_closedirp)

/* mkdir -p. Existing directories are fine whatever their mode. */
int tb_mkdir_p(const char *path, mode_t mode);
/* What reading or writing a failing disk answers; r is a negative errno. */
bool tb_errno_is_disk(int r);
/* The process lacks memory or descriptors: nothing is wrong with the file. */
bool tb_errno_is_ours(int r);
#define TB_BOOT_ID_MAX 37
/* The id of this boot: $BOOT_ID, which a unit without /proc/sys has from systemd, else the kernel's. 0, or
 * -ENOTSUP when neither tells one. */
int tb_boot_id(char ret[static TB_BOOT_ID_MAX]);
/* fsync of the directory that holds path. */
int tb_fsync_parent(const char *path);
/* Allows at least want open descriptors, or as many as the hard limit does; never fewer than before. */
void tb_allow_descriptors(uint64_t want);
/* dir + "/" + name in a heap string. NULL on ENOMEM. */
char *tb_path_join(const char *dir, const char *name);
/* printf into a heap string. NULL on ENOMEM. */
char *tb_strf(const char *fmt, ...) _printf_(1, 2);

#endif
