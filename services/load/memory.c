/* SPDX-License-Identifier: Apache-2.0 */
#include "load/memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>

#include "common/io.h"
#include "common/macros.h"
#include "common/units.h"

#define PAGE 4096ULL
#define MARGIN (1024 * 1024ULL)
#define PROC_FILE_MAX (1024 * 1024)

/* The next line of buf[*pos..len) as a string in out, cut to fit; false at the end. */
static bool memory_next_line(const char *buf, size_t len, size_t *pos, char *out, size_t out_len)
{
    const char *nl;
    size_t n;

    if (*pos >= len)
        return false;
    nl = memchr(buf + *pos, '\n', len - *pos);
    n = nl ? (size_t)(nl - (buf + *pos)) : len - *pos;
    snprintf(out, out_len, "%.*s", (int)MIN(n, out_len - 1), buf + *pos);
    *pos += n + 1;
    return true;
}

int tb_meminfo_parse(const char *buf, size_t len, const char *field, uint64_t *ret)
{
    char line[160], number[32];
    size_t pos = 0, n = strlen(field);
    uint64_t kib;

    while (memory_next_line(buf, len, &pos, line, sizeof(line))) {
        if (strncmp(line, field, n) != 0 || line[n] != ':')
            continue;
        if (sscanf(line + n + 1, " %31[0-9] kB", number) != 1 ||
            tb_uint_parse(number, 0, UINT64_MAX / 1024, &kib) < 0)
            return -EBADMSG;
        *ret = kib * 1024;
        return 0;
    }
    return -EBADMSG;
}

unsigned tb_swaps_parse(const char *buf, size_t len, char name[static TB_SWAP_NAME_MAX])
{
    char line[512];
    size_t pos = 0;
    unsigned n = 0;

    name[0] = '\0';
    (void)memory_next_line(buf, len, &pos, line, sizeof(line)); /* column heads */
    while (memory_next_line(buf, len, &pos, line, sizeof(line))) {
        if (line[0] == '\0')
            continue;
        if (n++ == 0)
            snprintf(name, TB_SWAP_NAME_MAX, "%.*s",
                     (int)MIN(strcspn(line, " \t"), (size_t)TB_SWAP_NAME_MAX - 1), line);
    }
    return n;
}

static bool option_listed(const char *list, const char *option)
{
    size_t n = strlen(option);

    for (const char *p = list; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ','))
        if (strncmp(p, option, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return true;
    return false;
}

/* "36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw,errors=continue" */
bool tb_mountinfo_option(const char *buf, size_t len, dev_t device, const char *option)
{
    char line[4096], want[48];
    size_t pos = 0;

    snprintf(want, sizeof(want), "%u:%u", major(device), minor(device));
    while (memory_next_line(buf, len, &pos, line, sizeof(line))) {
        char dev[48];
        const char *tail = strstr(line, " - "), *options;

        if (!tail || sscanf(line, "%*s %*s %47s", dev) != 1 || strcmp(dev, want) != 0)
            continue;
        options = strrchr(tail, ' ') + 1;
        if (option_listed(options, option))
            return true;
    }
    return false;
}

int tb_memory_available(uint64_t *ret)
{
    _cleanup_free_ char *text = NULL;
    struct sysinfo si;
    size_t len;

    if (tb_read_file("/proc/meminfo", PROC_FILE_MAX, &text, &len) == 0)
        return tb_meminfo_parse(text, len, "MemAvailable", ret);
    /* ProcSubset=pid hides the file; this count knows nothing of reclaimable cache, so it errs on the safe
     * side. */
    if (sysinfo(&si) < 0)
        return -errno;
    *ret = ((uint64_t)si.freeram + si.bufferram) * si.mem_unit;
    return 0;
}

unsigned tb_memory_swaps(char name[static TB_SWAP_NAME_MAX])
{
    _cleanup_free_ char *text = NULL;
    struct sysinfo si;
    size_t len;

    if (tb_read_file("/proc/swaps", PROC_FILE_MAX, &text, &len) == 0)
        return tb_swaps_parse(text, len, name);
    snprintf(name, TB_SWAP_NAME_MAX, "swap");
    return sysinfo(&si) < 0 || si.totalswap > 0;
}

bool tb_memory_noswap(dev_t device)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    return tb_read_file("/proc/self/mountinfo", PROC_FILE_MAX, &text, &len) == 0 &&
           tb_mountinfo_option(text, len, device, "noswap");
}

static uint64_t memory_directories(const struct tbenc_manifest *m)
{
    uint64_t n = 1;

    for (size_t i = 0; i < m->n_files; i++)
        for (const char *p = m->files[i].path; (p = strchr(p, '/')); p++)
            n++;
    return n;
}

uint64_t tb_memory_inodes(const struct tbenc_manifest *m)
{
    return (m->files ? m->n_files : 1) + memory_directories(m);
}

uint64_t tb_memory_need(const struct tbenc_manifest *m)
{
    /* Each file may waste most of a page, and each inode may need one for itself. */
    return (m->plaintext_bytes + PAGE - 1) / PAGE * PAGE + 2 * tb_memory_inodes(m) * PAGE + MARGIN;
}
