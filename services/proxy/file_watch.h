/* SPDX-License-Identifier: Apache-2.0 */
/* Says when a file in one of a few directories has been written, replaced or removed (inotify), so that
 * nobody has to look. What a mount or a link hides from it is found by looking now and then all the same. */
#ifndef TB_PROXY_FILE_WATCH_H
#define TB_PROXY_FILE_WATCH_H

#include <stdbool.h>

#include "proxy/http/loop.h"

struct tb_file_watch {
    void (*changed)(struct tb_file_watch *w); /* something in one of them has changed */
    /* private */
    struct tb_source src;
    int fd; /* -1: none can be had */
};

/* Set changed before. Without inotify the watch stays silent. */
void tb_file_watch_open(struct tb_file_watch *w, struct tb_loop *l);
/* Adds a directory; one that is there already is not added twice. False when it cannot be watched, or is
 * not there yet. */
bool tb_file_watch_add(struct tb_file_watch *w, const char *dir);
void tb_file_watch_close(struct tb_file_watch *w);

#endif
