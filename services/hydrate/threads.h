/* SPDX-License-Identifier: Apache-2.0 */
/* How many connections and threads download, where the settings leave it open. A thread receives and writes
 * about 0.8 GB/s (docs/performance.md): a link that is faster needs several, and a quarter of the processors
 * is left to it while others decrypt. */
#ifndef TB_HYDRATE_THREADS_H
#define TB_HYDRATE_THREADS_H

#include <stdint.h>

#define DOWNLOAD_THREADS_MAX 16
#define DOWNLOAD_THREAD_MBIT 6400 /* what a thread can receive */
#define DOWNLOAD_CONNECTIONS 8
#define DOWNLOAD_CONNECTIONS_LARGE 32 /* from DOWNLOAD_LARGE_CPUS on */
#define DOWNLOAD_LARGE_CPUS 16

/* Processors that this process may use. */
unsigned threads_cpus(void);
/* Mbit/s of the fastest network device of dir (/sys/class/net), virtual ones left out, which say what they
 * like; 0: none tells. */
uint64_t threads_link_mbit(const char *dir);
/* Pure. link_mbit 0: not known, so the processors alone decide. At least 1, at most one for a connection. */
unsigned threads_for(unsigned cpus, uint64_t link_mbit, unsigned connections);
unsigned threads_connections_for(unsigned cpus);

#endif
