/* SPDX-License-Identifier: Apache-2.0 */
/* tb-attest: one question, one answer. Has the TPM, and neither network nor secret. */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "attest/evidence.h"
#include "common/config.h"
#include "common/exit.h"
#include "common/fdpass.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/signals.h"

/* Who connects asks at once; a TPM that is slow takes seconds. */
#define REQUEST_TIMEOUT_MS 10000

static const char help[] =
    "Usage: tb-attest [--help | --version | --check]\n"
    "\n"
    "Answers one client of the attestation socket with evidence of this machine and this boot, made by its "
    "TPM\n"
    "($TB_TPM), and exits. Settings come from the environment.\n"
    "\n"
    "The socket is inherited (LISTEN_FDNAMES=attest), or bound at $TB_RUN_DIR/tb-attest.sock.\n"
    "\n"
    "Exit status: 0 answered, 64 malformed request, 74 I/O, 75 try again, 78 configuration. See "
    "tb-attest(8).\n";

static void attest_unlinkp(char **path)
{
    if (*path)
        (void)unlink(*path);
    tb_freep(path);
}

/* Waits for the descriptor, or a signal: -ECANCELED. */
static int attest_wait(int fd, int signal_fd, int timeout_ms)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    int r;

    do
        r = poll(p, ARRAY_SIZE(p), timeout_ms);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    return r == 0 ? -ETIMEDOUT : p[1].revents ? -ECANCELED : 0;
}

static int attest_answer(int sock, const char *evidence, const char *why)
{
    _cleanup_json_ cJSON *o = evidence ? NULL : cJSON_CreateObject();
    _cleanup_free_ char *error = NULL;

    if (!evidence && o && cJSON_AddStringToObject(o, "error", why))
        evidence = error = cJSON_PrintUnformatted(o);
    if (!evidence)
        return TB_EXIT_IOERR;
    if (send(sock, evidence, strlen(evidence), MSG_NOSIGNAL) < 0) {
        tb_error("the client is gone: %s", strerror(errno));
        return TB_EXIT_IOERR;
    }
    return TB_EXIT_OK;
}

static int attest_serve(const struct tb_config *c, int sock, int signal_fd)
{
    char buf[TB_ATTEST_REQUEST_MAX + 1], err[TB_ATTEST_ERR_MAX];
    _cleanup_free_ char *evidence = NULL;
    struct attest_request q;
    ssize_t n;
    int r = attest_wait(sock, signal_fd, REQUEST_TIMEOUT_MS);

    if (r == -ECANCELED)
        return TB_EXIT_OK;
    n = r < 0 ? r : recv(sock, buf, sizeof(buf), MSG_DONTWAIT);
    if (n <= 0) {
        tb_error("the client asked nothing");
        return TB_EXIT_USAGE;
    }
    r = attest_request_parse(buf, (size_t)n, &q, err);
    if (r < 0) {
        tb_error("%s", err);
        (void)attest_answer(sock, NULL, err);
        return TB_EXIT_USAGE;
    }
    r = attest_evidence(c, &q, &evidence, err);
    if (r < 0) {
        tb_error("%s", err);
        (void)attest_answer(sock, NULL, err);
        return TB_EXIT_TEMPFAIL;
    }
    tb_info("evidence of this boot for contract %s", q.contract_id);
    return attest_answer(sock, evidence, NULL);
}

static int attest_run(const struct tb_config *c)
{
    _cleanup_(attest_unlinkp) char *path = NULL;
    _cleanup_close_ int signal_fd = tb_signals_open(NULL), listener = -1, sock = -1;
    int r;

    if (signal_fd < 0) {
        tb_error_errno(signal_fd, "cannot wait for signals");
        return TB_EXIT_IOERR;
    }
    listener = tb_listen_or_bind("attest", c->run_dir, SOCK_SEQPACKET, &path);
    if (listener < 0)
        return TB_EXIT_CONFIG;
    tb_notify_ready("Waiting for a question");
    r = attest_wait(listener, signal_fd, -1);
    if (r == -ECANCELED)
        return TB_EXIT_OK;
    sock = r < 0 ? r : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (sock < 0) {
        tb_error("cannot accept: %s", strerror(r < 0 ? -r : errno));
        return TB_EXIT_IOERR;
    }
    return attest_serve(c, sock, signal_fd);
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config config = {0};

    tb_config_main(argc, argv, &(struct tb_program){"tb-attest", help, NULL}, &config);
    return attest_run(&config);
}
