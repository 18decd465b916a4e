/* SPDX-License-Identifier: Apache-2.0 */
/* The FIFO at TB_PIPE_PATH. The reader's side owns it, 0600, a new one for each runtime start, so that an old
 * reader can never get the tail of a new stream. The path is good for one reader: it is removed as soon as
 * the first has opened it. */
#ifndef TB_LOAD_FIFO_H
#define TB_LOAD_FIFO_H

#include <stdbool.h>
#include <sys/types.h>

#include "load/load.h"

struct tb_fifo {
    const char *path;
    dev_t dev;
    ino_t ino;
    int write_fd; /* held until the answer is known: the reader sees no end before */
    int read_fd;  /* held until somebody reads: the writer sees no EPIPE before */
    int watch_fd; /* inotify: opens of the FIFO; closed when they do not matter any more */
    int watch;
    unsigned opens; /* seen so far */
};
#define TB_FIFO_INIT                                                                                         \
    {                                                                                                        \
        .write_fd = -1, .read_fd = -1, .watch_fd = -1                                                        \
    }

/* Removes what an earlier run left at the path and makes a new FIFO. 0, 74 or 78. */
int tb_fifo_make(struct tb_load *l, struct tb_fifo *f);
/* Takes events from watch_fd. On the first open: removes the path, closes read_fd. Returns the number of
 * opens so far. */
unsigned tb_fifo_opened(struct tb_fifo *f);
/* Removes the path if it still is this FIFO, and closes all ends. */
void tb_fifo_clear(struct tb_fifo *f);

#endif
