/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/target.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#include "common/io.h"
#include "common/log.h"
#include "common/units.h"
#include "hydrate/partial.h"
#include "hydrate/verified.h"

#define MEMINFO_PATH "/proc/meminfo"
#define MEMINFO_MAX (64 * 1024)
#define TARGET_FILE_MODE 0640

/* Whoever changed the mode of the directory did not mean to stop the machine. */
static void target_open_to_group(int fd, const char *dir)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 0050) == 0050 ||
        (st.st_mode & 0005) == 0005)
        return;
    if (fchmod(fd, (st.st_mode & 07777) | 0050) == 0)
        tb_warn("%s could not be read by the programs that decrypt the model: its mode is corrected", dir);
}

int target_lock(const char *dir, int *ret_fd, struct tb_outcome *o)
{
    _cleanup_close_ int fd = -1;
    int r;

    r = tb_mkdir_p(dir, 0755);
    if (r < 0)
        return hydrate_outcome_io(o, r, "cannot create TB_TARGET_DIR", dir);
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return hydrate_outcome_io(o, -errno, "cannot open TB_TARGET_DIR", dir);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? tb_outcome_set(o, TB_EXIT_TEMPFAIL,
                                    "another tb-hydrate works in %s; wait for it or stop it", dir)
                   : hydrate_outcome_io(o, -errno, "cannot lock TB_TARGET_DIR", dir);
    target_open_to_group(fd, dir);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int target_make_way(const char *path)
{
    char now[TB_RFC3339_MAX];
    _cleanup_free_ char *aside =
        tb_strf("%s.aside-%s", path, tb_rfc3339_format(tb_now_realtime_us(), 1, now));
    struct stat st;

    if (!aside)
        return -ENOMEM;
    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return 0;
    if (rename(path, aside) < 0)
        return -errno;
    tb_warn("%s is a directory where a file of tb-hydrate belongs: renamed to %s", path, aside);
    return 0;
}

void target_sweep_halves(const char *manifest_path, const char *final_path)
{
    static const char *const suffixes[] = {PARTIAL_SUFFIX, PARTIAL_RECORD_SUFFIX, PARTIAL_LIVE_SUFFIX,
                                           VERIFIED_SUFFIX};

    (void)target_make_way(manifest_path);
    tb_newfile_sweep(manifest_path);
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        _cleanup_free_ char *path = tb_strf("%s%s", final_path, suffixes[i]);

        if (!path)
            continue;
        /* what cannot be made way for fails where it is written, with its name */
        (void)target_make_way(path);
        tb_newfile_sweep(path);
    }
}

int target_restore_access(const char *path, const struct stat *st)
{
    bool group = (st->st_mode & S_IRGRP) && st->st_gid == getegid();

    if ((st->st_mode & S_IRUSR) && (group || (st->st_mode & S_IROTH)))
        return 0;
    if (chown(path, (uid_t)-1, getegid()) < 0 || chmod(path, TARGET_FILE_MODE) < 0)
        return -errno;
    tb_warn("%s could not be read by the programs that decrypt it: its group and mode are what they were",
            path);
    return 0;
}

int target_check_disk(const char *dir, const char *part_path, uint64_t size, struct tb_outcome *o)
{
    char need_text[32], have_text[32], lack_text[32];
    uint64_t need = size, have, there = 0;
    struct statvfs fs;
    struct stat st;

    if (statvfs(dir, &fs) < 0)
        return hydrate_outcome_io(o, -errno, "cannot determine the free space of", dir);
    if (lstat(part_path, &st) == 0 && S_ISREG(st.st_mode))
        there = (uint64_t)st.st_blocks * 512;
    have = (uint64_t)fs.f_bavail * fs.f_frsize;
    need = size > there ? size - there : 0;
    need += TARGET_DISK_MARGIN;
    if (need <= have)
        return 0;
    return tb_outcome_set(
        o, TB_EXIT_IOERR,
        "not enough disk space in %s: needs %s (%llu bytes), %s (%llu bytes) available, %s missing; free "
        "space there or set TB_TARGET_DIR to a larger disk",
        dir, tb_bytes_format(need, need_text, sizeof(need_text)), (unsigned long long)need,
        tb_bytes_format(have, have_text, sizeof(have_text)), (unsigned long long)have,
        tb_bytes_format(need - have, lack_text, sizeof(lack_text)));
}

int meminfo_available(const char *text, uint64_t *ret)
{
    static const char name[] = "MemAvailable:";
    const char *line = strstr(text, name);
    unsigned long long kib;

    if (!line || (line != text && line[-1] != '\n') || sscanf(line + strlen(name), "%llu kB", &kib) != 1 ||
        kib > UINT64_MAX / 1024)
        return -EINVAL;
    *ret = (uint64_t)kib * 1024;
    return 0;
}

int target_check_memory(uint64_t need, bool in_all, struct tb_outcome *o)
{
    _cleanup_free_ char *text = NULL;
    char need_text[32], have_text[32], lack_text[32];
    const char *which = "available";
    struct sysinfo si;
    uint64_t have;

    if (in_all || tb_read_file(MEMINFO_PATH, MEMINFO_MAX, &text, NULL) < 0 ||
        meminfo_available(text, &have) < 0) {
        /* ProcSubset=pid hides it; free memory without the page cache would refuse too much */
        if (sysinfo(&si) < 0)
            return 0;
        have = (uint64_t)si.totalram * si.mem_unit;
        which = "in all";
    }
    if (need <= have)
        return 0;
    return tb_outcome_set(
        o, TB_EXIT_IOERR,
        "not enough memory for the weights: TB_DELIVERY=dir needs %s (%llu bytes), %s (%llu bytes) %s, %s "
        "missing; use a larger VM size or stop what uses memory",
        tb_bytes_format(need, need_text, sizeof(need_text)), (unsigned long long)need,
        tb_bytes_format(have, have_text, sizeof(have_text)), (unsigned long long)have, which,
        tb_bytes_format(need - have, lack_text, sizeof(lack_text)));
}
