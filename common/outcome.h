/* SPDX-License-Identifier: Apache-2.0 */
/* How a step of a program ended: an exit code of common/exit.h and a sentence for people that names the
 * object, the reason and the remedy. It holds no secret; URLs enter it through tb_url_redact() only. For
 * programs, not for libraries: those return errnos. */
#ifndef TB_OUTCOME_H
#define TB_OUTCOME_H

#include "common/exit.h"
#include "common/macros.h"

#define TB_OUTCOME_REASON_MAX 640 /* bytes with the NUL; what is longer is cut */

struct tb_outcome {
    int code; /* 0, enum tb_exit, or a value of the program's own above 255 */
    char reason[TB_OUTCOME_REASON_MAX];
};

/* Sets both and returns code, so that a step may `return tb_outcome_set(...)`. */
int tb_outcome_set(struct tb_outcome *o, int code, const char *fmt, ...) _printf_(3, 4);
/* Logs the reason as an error, as the event of its code. */
void tb_outcome_log(const struct tb_outcome *o);

#endif
