/* SPDX-License-Identifier: Apache-2.0 */
/* Files that may change under a running proxy: TB_API_KEYS, TB_TLS_CERT, TB_TLS_KEY. Read at start, and
 * again on SIGHUP and when they change; what cannot be used then is reported and the old stays. The old
 * stays over a restart, too, where systemd keeps it. */
#ifndef TB_PROXY_RELOAD_H
#define TB_PROXY_RELOAD_H

#include <stdint.h>
#include <sys/stat.h>

#include "proxy/file_watch.h"

struct tb_server;

struct tb_file_stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime;
};
struct tb_reload {
    struct tb_file_stamp keys, cert, key; /* of the last reading, good or not */
    struct tb_file_watch watch;
    struct tb_timer timer;
};

/* Reads all for the first time, and watches them. Says what is wrong; -EINVAL or -errno. */
int tb_reload_start(struct tb_server *s, const char *state_dir);
void tb_reload_now(struct tb_server *s);
void tb_reload_stop(struct tb_server *s);

#endif
