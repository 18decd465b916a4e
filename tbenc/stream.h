/* SPDX-License-Identifier: Apache-2.0 */
/* Byte streams in and out of the pipeline. */
#ifndef TBENC_STREAM_H
#define TBENC_STREAM_H

#include "tbenc/internal.h"

/* -- input: a regular file is read at offsets from where it stands, anything else in sequence ------------ */
struct tbenc_source {
    int fd;
    int wake_fd;   /* readable: give up with -ECANCELED; -1: none. Not owned */
    bool seekable; /* regular file: tbenc_source_pread() may be used, from any thread */
    uint64_t base; /* offset of its first byte */
};
int tbenc_source_init(struct tbenc_source *s, int fd, int wake_fd);
/* Up to n bytes in sequence; fewer only at the end. Works for non-blocking descriptors too. */
ssize_t tbenc_source_read(struct tbenc_source *s, void *buf, size_t n);
ssize_t tbenc_source_pread(const struct tbenc_source *s, void *buf, size_t n, uint64_t off);

/* -- output: anything; pages are lent to a pipe instead of copied where the caller says they stay untouched
 * */
struct tbenc_sink {
    int fd;
    bool pipe;
    size_t pipe_bytes; /* capacity */
};
int tbenc_sink_init(struct tbenc_sink *s, int fd);
/* lend: buf stays as it is until at least pipe_bytes more went into the pipe. 0 or -errno. */
int tbenc_sink_write(struct tbenc_sink *s, const void *buf, size_t n, bool lend);

#endif
