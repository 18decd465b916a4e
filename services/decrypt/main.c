/* SPDX-License-Identifier: Apache-2.0 */
/* tb-decrypt: activated by a connection, decrypts the hydrated asset into the descriptors its client passes,
 * once or as it is read, answers and exits. No network, no capability, no place to write: design section
 * 3. */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/config.h"
#include "common/exit.h"
#include "common/fdpass.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/provider_key.h"
#include "common/secret.h"
#include "common/signals.h"
#include "decrypt/keymem.h"
#include "decrypt/serve.h"
#include "tbenc/tbenc.h"

static const char help[] =
    "Usage: tb-decrypt [--help | --version]\n"
    "\n"
    "Decrypts the asset in $TB_TARGET_DIR into the descriptors that the first client of the decrypt socket "
    "passes:\n"
    "once into files or a FIFO, or what is read of a view or an endpoint, as long as that is served. Then it "
    "exits.\n"
    "Settings come from the environment; the key from the credential model-key.\n"
    "\n"
    "The socket is inherited (LISTEN_FDNAMES=decrypt), or bound at $TB_RUN_DIR/tb-decrypt.sock.\n"
    "\n"
    "Exit status: 0 delivered, 64 malformed request, 66 no ciphertext yet, 74 I/O, 75 try again, 76 the data "
    "is not\n"
    "authentic, 77 the key is refused, 78 configuration. See tb-decrypt(8).\n";

/* systemd starts us again at once while the connection that activated us is queued, so it is answered on
 * every way out, also when the configuration is bad. */
static void client_answer_unserved(void)
{
    int fd = tb_listen_fd("decrypt"), sock;
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (fd < 0 || poll(&p, 1, 0) <= 0)
        return;
    sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (sock < 0)
        return;
    tb_serve_refusal(
        sock, TB_EXIT_CONFIG,
        "tb-decrypt could not start; 'journalctl --namespace=trustbridge -u tb-decrypt' says why");
    tb_close(sock);
}

static bool served;

static void client_at_exit(void)
{
    if (!served)
        client_answer_unserved();
}

/* The one client. -ECANCELED when SIGTERM came first. */
static int client_accept(int listener, int signal_fd)
{
    for (;;) {
        struct pollfd p[] = {{.fd = listener, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
        int sock;

        if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
            return -errno;
        if (p[1].revents)
            return -ECANCELED;
        if (!p[0].revents)
            continue;
        sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (sock >= 0 || (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED))
            return sock >= 0 ? sock : -errno;
    }
}

static void unlink_freep(char **path)
{
    if (*path)
        (void)unlink(*path);
    tb_freep(path);
}

static int decrypt_run(const struct tb_config *c)
{
    _cleanup_(unlink_freep) char *path = NULL;
    _cleanup_close_ int signal_fd = tb_signals_open(NULL), listener = -1, sock = -1;

    if (signal_fd < 0) {
        tb_error_errno(signal_fd, "cannot wait for signals");
        return TB_EXIT_IOERR;
    }
    tb_allow_descriptors(TBENC_FILES_MAX + 512); /* each file of an asset is a descriptor here */
    listener = tb_listen_or_bind("decrypt", c->run_dir, SOCK_SEQPACKET, &path);
    if (listener < 0)
        return TB_EXIT_CONFIG;
    if (path)
        tb_notify_ready("Waiting for a client on %s", path);
    sock = client_accept(listener, signal_fd);
    if (sock == -ECANCELED)
        return TB_EXIT_OK;
    if (sock < 0) {
        tb_error("cannot accept: %s", strerror(-sock));
        return TB_EXIT_IOERR;
    }
    served = true;
    listener = tb_close(listener); /* who comes now waits for the next activation, or is told at once */
    if (!path)
        tb_notify_ready("Serving a client");
    return tb_serve(c, sock, signal_fd);
}

static void decrypt_check(const struct tb_config *c, struct tb_findings *f)
{
    tb_provider_key_check(c->provider_key, "tb-decrypt", f);
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config config = {0};

    tb_secret_init();
    if (tb_keymem_install() < 0 || atexit(client_at_exit) != 0)
        return TB_EXIT_IOERR;
    tb_config_main(argc, argv, &(struct tb_program){"tb-decrypt", help, decrypt_check}, &config);
    return decrypt_run(&config);
}
