/* SPDX-License-Identifier: Apache-2.0 */
/* Mode dir: files in a private tmpfs, filled by tb-decrypt, sealed, then this process becomes the runtime. */
#include <poll.h>
#include <string.h>

#include "load/client.h"
#include "load/modes.h"
#include "common/log.h"
#include "common/notify.h"
#include "load/model_dir.h"
#include "load/runtime.h"

#define TICK_MS 500

/* Until the answer or a signal. 0 or an exit code. */
static int dir_await_reply(struct tb_load *l, const struct tb_model_dir *p, int sock)
{
    struct tb_progress progress = {.verb = "Loading", .total = l->manifest->plaintext_bytes};

    for (;;) {
        struct pollfd fds[] = {{.fd = sock, .events = POLLIN}, {.fd = l->signal_fd, .events = POLLIN}};
        int n = poll(fds, ARRAY_SIZE(fds), TICK_MS);

        if (n < 0 && errno != EINTR)
            return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot wait for tb-decrypt: %s",
                                  strerror(errno));
        if (n > 0 && fds[1].revents && tb_load_signal(l) && l->stopped_by)
            return tb_outcome_set(&l->outcome, TB_EXIT_TEMPFAIL, "stopped by %s", strsignal(l->stopped_by));
        if (n > 0 && fds[0].revents) {
            int r = tb_client_reply(l, sock);

            if (r == 0)
                tb_progress_finish(&progress, progress.total);
            return r;
        }
        tb_progress_update(&progress, MIN(tb_model_dir_filled(p), progress.total));
    }
}

static int dir_fill(struct tb_load *l, struct tb_model_dir *p)
{
    _cleanup_close_ int sock = -1;
    int r = tb_model_dir_open(l, p);

    if (r == 0)
        r = tb_model_dir_create(l, p);
    if (r != 0)
        return r;
    r = tb_client_request(l, TB_DELIVER_DIR, p->fds, p->n_fds, &sock);
    if (r != 0)
        return r;
    tb_load_state(l, "delivering");
    r = dir_await_reply(l, p, sock);
    return r == 0 ? tb_model_dir_seal(l, p) : r;
}

static int dir_start(struct tb_load *l)
{
    _cleanup_free_ char *model = tb_model_dir_model(l);
    int r;

    if (!model)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    r = tb_ready_write(l);
    if (r != 0)
        return r;
    tb_load_state(l, "delivered");
    tb_info("the model is in %s; starting %s", model, l->command[0]);
    tb_notify_ready("Model delivered, runtime started");
    return tb_runtime_exec(l, model);
}

int tb_load_dir(struct tb_load *l)
{
    _cleanup_(tb_model_dir_clear) struct tb_model_dir p = TB_MODEL_DIR_INIT;
    int r = dir_fill(l, &p);

    if (r == 0)
        r = dir_start(l);
    tb_model_dir_discard(&p);
    return r;
}
