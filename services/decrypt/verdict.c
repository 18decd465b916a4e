/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int tb_refuse(struct tb_deliver_reply *r, enum tb_exit status, const char *fmt, ...)
{
    va_list ap;

    r->status = status;
    va_start(ap, fmt);
    vsnprintf(r->message, sizeof(r->message), fmt, ap);
    va_end(ap);
    return status;
}

void tb_reply_send(int sock, const struct tb_deliver_reply *r)
{
    struct tb_deliver_reply out = *r;
    char rest[sizeof(struct tb_deliver_request)];

    memcpy(out.magic, TB_DELIVER_REPLY_MAGIC, sizeof(out.magic));
    (void)send(sock, &out, sizeof(out), MSG_NOSIGNAL | MSG_DONTWAIT);
    /* Closing a unix socket with unread messages makes the client's next call fail with ECONNRESET. */
    while (recv(sock, rest, sizeof(rest), MSG_DONTWAIT) > 0)
        ;
}
