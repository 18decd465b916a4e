/* SPDX-License-Identifier: Apache-2.0 */
/* Mode view: a read-only file system that tb-decrypt serves for as long as it is mounted. This process
 * becomes the runtime as soon as the first byte can be read. */
#include <poll.h>
#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "load/client.h"
#include "load/model_dir.h"
#include "load/modes.h"
#include "load/runtime.h"
#include "load/view_mount.h"

#define VIEW_TICK_MS 1000

static int view_await_serving(struct tb_load *l, int sock)
{
    char none[TB_DELIVER_MESSAGE_MAX];

    while (!l->stopped_by) {
        struct pollfd fds[] = {{.fd = sock, .events = POLLIN}, {.fd = l->signal_fd, .events = POLLIN}};
        int n = poll(fds, ARRAY_SIZE(fds), VIEW_TICK_MS);

        if (n < 0 && errno != EINTR)
            return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot wait for tb-decrypt: %s",
                                  strerror(errno));
        if (n > 0 && fds[1].revents)
            (void)tb_load_signal(l);
        else if (n > 0 && fds[0].revents)
            return tb_client_serving(l, sock, none);
    }
    return tb_outcome_set(&l->outcome, TB_EXIT_TEMPFAIL, "stopped by %s", strsignal(l->stopped_by));
}

static int view_serve(struct tb_load *l, int *sock)
{
    _cleanup_close_ int fd = -1;
    int r = tb_mkdir_p(l->config->model_dir, 0700);

    fd = r == 0 ? tb_view_mount(l) : r;
    if (fd < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot mount the view on %s: %s",
                              l->config->model_dir, strerror(-fd));
    r = tb_client_request(l, TB_DELIVER_VIEW, &fd, 1, sock);
    fd = tb_close(fd);
    if (r != 0)
        return r;
    tb_load_state(l, "delivering");
    tb_view_await_readahead(l); /* while tb-decrypt gets ready */
    return view_await_serving(l, *sock);
}

int tb_load_view(struct tb_load *l)
{
    _cleanup_close_ int sock = -1;
    _cleanup_free_ char *model = tb_model_dir_model(l);
    int r = model ? view_serve(l, &sock) : tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");

    if (r == 0)
        r = tb_ready_write(l);
    if (r != 0)
        return r;
    tb_load_state(l, "streaming");
    tb_info("the model can be read in %s; starting %s", model, l->command[0]);
    tb_notify_ready("Runtime started on a view of the model");
    return tb_runtime_exec(l, model);
}
