/* SPDX-License-Identifier: Apache-2.0 */
#include "load/client.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fdpass.h"
#include "common/io.h"

static int client_send(const struct tb_load *l, enum tb_deliver_mode mode, int sock, const int *fds,
                       size_t n_fds)
{
    struct tb_deliver_request q = {.mode = mode, .n_fds = (uint32_t)n_fds};
    size_t sent = MIN(n_fds, (size_t)TB_FDPASS_MAX);
    int r;

    memcpy(q.magic, TB_DELIVER_REQUEST_MAGIC, sizeof(q.magic));
    memcpy(q.manifest_sha256, l->manifest_sha256, sizeof(q.manifest_sha256));
    r = tb_fd_send(sock, &q, sizeof(q), fds, sent);
    while (r == 0 && sent < n_fds) {
        size_t n = MIN(n_fds - sent, (size_t)TB_FDPASS_MAX);

        r = tb_fd_send(sock, "", 1, fds + sent, n);
        sent += n;
    }
    return r;
}

int tb_client_request(struct tb_load *l, enum tb_deliver_mode mode, const int *fds, size_t n_fds,
                      int *ret_sock)
{
    _cleanup_free_ char *path = tb_path_join(l->config->run_dir, "tb-decrypt.sock");
    _cleanup_close_ int sock = -1;
    int r;

    assert(n_fds > 0);
    if (!path)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    sock = tb_unix_connect(path, SOCK_SEQPACKET);
    if (sock == -ENOENT || sock == -ECONNREFUSED)
        return tb_outcome_set(&l->outcome, TB_EXIT_TEMPFAIL,
                              "no program listens on %s; is tb-decrypt.socket active?", path);
    if (sock < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot connect to %s: %s", path, strerror(-sock));
    r = client_send(l, mode, sock, fds, n_fds);
    /* It may have answered and closed before it read everything: the answer then says why. */
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        return tb_outcome_set(&l->outcome, r == -ETOOMANYREFS ? TB_EXIT_TEMPFAIL : TB_EXIT_IOERR,
                              "cannot send the request to %s: %s", path, strerror(-r));
    *ret_sock = TAKE_FD(sock);
    return 0;
}

static int client_judge(struct tb_load *l, const struct tb_deliver_reply *a)
{
    switch (a->status) {
    case TB_EXIT_OK:
        if (a->bytes == l->manifest->plaintext_bytes)
            return 0;
        return tb_outcome_set(&l->outcome, TB_EXIT_DATAERR,
                              "tb-decrypt delivered %" PRIu64 " bytes, the manifest says %" PRIu64, a->bytes,
                              l->manifest->plaintext_bytes);
    case TB_EXIT_USAGE:
    case TB_EXIT_NOINPUT:
    case TB_EXIT_IOERR:
    case TB_EXIT_TEMPFAIL:
    case TB_EXIT_DATAERR:
    case TB_EXIT_NOPERM:
    case TB_EXIT_CONFIG:
        return tb_outcome_set(&l->outcome, (enum tb_exit)a->status, "tb-decrypt: %s", a->message);
    default:
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "tb-decrypt answered with the unknown status %u",
                              a->status);
    }
}

static int client_take(struct tb_load *l, int sock, const char *good, struct tb_deliver_reply *ret)
{
    struct tb_deliver_reply a;
    ssize_t n;

    /* ECONNRESET only says that it left messages of ours unread; the answer is still queued behind it. */
    for (int i = 0; i < 2; i++) {
        do
            n = recv(sock, &a, sizeof(a), MSG_TRUNC);
        while (n < 0 && errno == EINTR);
        if (n >= 0 || errno != ECONNRESET)
            break;
    }
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return tb_outcome_set(&l->outcome, TB_EXIT_TEMPFAIL,
                              "tb-decrypt ended without an answer; the delivery is void");
    if (n < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot receive tb-decrypt's answer: %s",
                              strerror(errno));
    if (n != (ssize_t)sizeof(a) || (memcmp(a.magic, TB_DELIVER_REPLY_MAGIC, sizeof(a.magic)) != 0 &&
                                    memcmp(a.magic, good, sizeof(a.magic)) != 0))
        return tb_outcome_set(
            &l->outcome, TB_EXIT_IOERR,
            "tb-decrypt's answer has not the form it should have; are both of one version?");
    a.message[sizeof(a.message) - 1] = '\0';
    *ret = a;
    return 0;
}

int tb_client_reply(struct tb_load *l, int sock)
{
    struct tb_deliver_reply a;
    int r = client_take(l, sock, TB_DELIVER_REPLY_MAGIC, &a);

    return r == 0 ? client_judge(l, &a) : r;
}

int tb_client_serving(struct tb_load *l, int sock, char ret_bucket[static TB_DELIVER_MESSAGE_MAX])
{
    struct tb_deliver_reply a;
    int r = client_take(l, sock, TB_DELIVER_SERVING_MAGIC, &a);

    if (r == 0 && memcmp(a.magic, TB_DELIVER_SERVING_MAGIC, sizeof(a.magic)) != 0)
        r = client_judge(l, &a);
    if (r == 0)
        memcpy(ret_bucket, a.message, sizeof(a.message));
    return r;
}

bool tb_client_is_left(int sock)
{
    char byte;
    ssize_t n;

    do
        n = recv(sock, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}
