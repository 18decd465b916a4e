/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/threads.h"

#include <dirent.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/units.h"

unsigned threads_cpus(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);

    return n > 0 ? (unsigned)n : 1;
}

static uint64_t link_speed(const char *dir, const char *name)
{
    _cleanup_free_ char *speed = tb_strf("%s/%s/speed", dir, name), *text = NULL;
    _cleanup_free_ char *device = tb_strf("%s/%s/device", dir, name);
    struct stat st;
    uint64_t mbit;
    size_t len;

    if (!speed || !device || stat(device, &st) < 0 || tb_read_file(speed, 64, &text, &len) < 0)
        return 0;
    text[strcspn(text, "\n")] = '\0';
    return tb_uint_parse(text, 1, UINT32_MAX, &mbit) == 0 ? mbit : 0; /* -1: it does not know */
}

uint64_t threads_link_mbit(const char *dir)
{
    _cleanup_closedir_ DIR *d = opendir(dir);
    const struct dirent *e;
    uint64_t best = 0;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.')
            best = MAX(best, link_speed(dir, e->d_name));
    return best;
}

unsigned threads_for(unsigned cpus, uint64_t link_mbit, unsigned connections)
{
    uint64_t n = MAX(cpus / 4, 1U);

    if (link_mbit > 0)
        n = MIN(n, (link_mbit + DOWNLOAD_THREAD_MBIT - 1) / DOWNLOAD_THREAD_MBIT);
    n = MIN(n, (uint64_t)DOWNLOAD_THREADS_MAX);
    return (unsigned)MIN(n, (uint64_t)MAX(connections, 1U));
}

unsigned threads_connections_for(unsigned cpus)
{
    return cpus >= DOWNLOAD_LARGE_CPUS ? DOWNLOAD_CONNECTIONS_LARGE : DOWNLOAD_CONNECTIONS;
}
