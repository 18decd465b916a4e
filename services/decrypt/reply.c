/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/reply.h"

#include <string.h>
#include <sys/socket.h>

#include "common/deliver.h"

void decrypt_reply_send(int sock, const struct tb_outcome *o, uint64_t bytes)
{
    struct tb_deliver_reply reply = {.status = (uint32_t)o->code, .bytes = bytes};
    char rest[sizeof(struct tb_deliver_request)];

    memcpy(reply.magic, TB_DELIVER_REPLY_MAGIC, sizeof(reply.magic));
    snprintf(reply.message, sizeof(reply.message), "%.*s", TB_DELIVER_MESSAGE_MAX - 1, o->reason);
    (void)send(sock, &reply, sizeof(reply), MSG_NOSIGNAL | MSG_DONTWAIT);
    /* Closing a unix socket with unread messages makes the client's next call fail with ECONNRESET. */
    while (recv(sock, rest, sizeof(rest), MSG_DONTWAIT) > 0)
        ;
}

void decrypt_reply_serving(int sock, const char *bucket)
{
    struct tb_deliver_reply reply = {.status = TB_EXIT_OK};

    snprintf(reply.message, sizeof(reply.message), "%s", bucket);
    memcpy(reply.magic, TB_DELIVER_SERVING_MAGIC, sizeof(reply.magic));
    (void)send(sock, &reply, sizeof(reply), MSG_NOSIGNAL | MSG_DONTWAIT);
}
