/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/target.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#include "common/io.h"
#include "common/units.h"

#define MEMINFO_PATH "/proc/meminfo"
#define MEMINFO_MAX (64 * 1024)

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
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int target_check_disk(const char *dir, const char *part_path, uint64_t size, struct tb_outcome *o)
{
    char need_text[32], have_text[32];
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
        "not enough disk space in %s: needs %s (%llu bytes), %s (%llu bytes) available; free space there or "
        "set TB_TARGET_DIR to a larger disk",
        dir, tb_bytes_format(need, need_text, sizeof(need_text)), (unsigned long long)need,
        tb_bytes_format(have, have_text, sizeof(have_text)), (unsigned long long)have);
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

int target_check_memory(uint64_t need, struct tb_outcome *o)
{
    _cleanup_free_ char *text = NULL;
    char need_text[32], have_text[32];
    const char *which = "available";
    struct sysinfo si;
    uint64_t have;

    if (tb_read_file(MEMINFO_PATH, MEMINFO_MAX, &text, NULL) < 0 || meminfo_available(text, &have) < 0) {
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
        "not enough memory for the weights: TB_DELIVERY=dir needs %s (%llu bytes), %s (%llu bytes) %s; use a "
        "larger VM size or stop what uses memory",
        tb_bytes_format(need, need_text, sizeof(need_text)), (unsigned long long)need,
        tb_bytes_format(have, have_text, sizeof(have_text)), (unsigned long long)have, which);
}
