/* SPDX-License-Identifier: Apache-2.0 */
/* Cleanup attributes and ownership helpers. A resource is released, and a secret wiped, where it is
 * declared. */
#ifndef TB_MACROS_H
#define TB_MACROS_H

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* The structure of which *p is the member. */
#define container_of(p, type, member)                                                                        \
    ((type *)((char *)(1 ? (p) : &((type *)(p))->member) - offsetof(type, member)))

static inline void tb_freep(void *p)
{
    free(*(void **)p);
    *(void **)p = NULL;
}

/* Closes fd when >= 0 and preserves errno; returns -1 so that `fd = tb_close(fd)` reads well. */
static inline int tb_close(int fd)
{
    if (fd >= 0) {
        int saved = errno;

        close(fd);
        errno = saved;
    }
    return -1;
}

static inline void tb_closep(int *fd)
{
    *fd = tb_close(*fd);
}

static inline void tb_fclosep(FILE **f)
{
    if (*f)
        fclose(*f);
    *f = NULL;
}

#define _cleanup_free_ _cleanup_(tb_freep)
#define _cleanup_close_ _cleanup_(tb_closep)
#define _cleanup_fclose_ _cleanup_(tb_fclosep)

/* Move ownership out of a variable, leaving it empty for its cleanup. */
#define TAKE_PTR(p)                                                                                          \
    ({                                                                                                       \
        __typeof__(p) _t = (p);                                                                              \
        (p) = NULL;                                                                                          \
        _t;                                                                                                  \
    })
#define TAKE_FD(fd)                                                                                          \
    ({                                                                                                       \
        int _t = (fd);                                                                                       \
        (fd) = -1;                                                                                           \
        _t;                                                                                                  \
    })

#endif
