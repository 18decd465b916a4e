/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-decrypt answers. Every step returns 0 or the exit code it leads to, and has then put that code and a sentence
 * for people (object, reason, remedy; never a secret) into the reply. */
#ifndef TB_DECRYPT_VERDICT_H
#define TB_DECRYPT_VERDICT_H

#include "common/deliver.h"
#include "common/exit.h"
#include "common/macros.h"

/* Stores status and message; returns status, so that `return tb_refuse(...)` reads well. */
int tb_refuse(struct tb_deliver_reply *r, enum tb_exit status, const char *fmt, ...) _printf_(3, 4);

/* Sends the reply. A client that has gone is not an error: the exit code says what happened. */
void tb_reply_send(int sock, const struct tb_deliver_reply *r);

#endif
