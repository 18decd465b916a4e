/* SPDX-License-Identifier: Apache-2.0 */
/* How a step of tb-hydrate ended: an exit code of common/exit.h and one line for people that names the
 * object, the reason and the remedy. The line holds no secret: URLs enter it through tb_url_redact() only. */
#ifndef TB_HYDRATE_VERDICT_H
#define TB_HYDRATE_VERDICT_H

#include "common/exit.h"
#include "common/macros.h"

#define VERDICT_MESSAGE_MAX 640

/* Outcomes inside the program, beyond enum tb_exit. */
enum {
    VERDICT_CHANGED = 256, /* the blob is another one than when the download began */
    VERDICT_STOPPED,       /* SIGTERM or SIGINT */
};

struct verdict {
    int code; /* 0, enum tb_exit, or one of the above */
    char message[VERDICT_MESSAGE_MAX];
};

/* Sets both and returns code, so that a step may `return verdict_set(...)`. */
int verdict_set(struct verdict *v, int code, const char *fmt, ...) _printf_(3, 4);
/* The same for a failed system call on a path: r is a negative errno, a full disk gets its remedy. Returns
 * TB_EXIT_IOERR. */
int verdict_io(struct verdict *v, int r, const char *what, const char *path);

#endif
