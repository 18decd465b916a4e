/* SPDX-License-Identifier: Apache-2.0 */
/* Mode fifo: a fresh FIFO, a fresh stream, the runtime as a child. Success is known only when tb-decrypt has
 * answered, so until then this process holds a write end: a reader cannot take a cut stream for a whole one.
 * When the delivery fails the runtime is killed before the FIFO ends. */
#include <poll.h>
#include <stdbool.h>
#include <string.h>

#include "load/child.h"
#include "load/client.h"
#include "load/fifo.h"
#include "load/modes.h"
#include "common/log.h"
#include "common/notify.h"

struct supervision {
    struct tb_load *load;
    struct tb_fifo fifo;
    int sock;      /* -1 once the answer has come */
    pid_t child;   /* 0: none (an external runtime reads the FIFO), or it has ended */
    bool answered; /* with success */
    bool done;     /* answered, and somebody has the FIFO open: the end may be seen */
};

static void supervision_clear(struct supervision *s)
{
    s->sock = tb_close(s->sock);
    tb_fifo_clear(&s->fifo);
}

/* Ends the stream once that is safe. A reader that opens the FIFO only now still needs a writer there to open
 * it at all. */
static void supervise_finish_when_safe(struct supervision *s)
{
    if (s->done || !s->answered || s->fifo.opens == 0)
        return;
    s->done = true;
    /* Before the end is seen: an external reader can ask delivery.json whether what it read is whole. */
    tb_load_state(s->load, "delivered");
    tb_notify_status("Model delivered");
    tb_info("the model is delivered, %s has ended well", s->fifo.path);
    s->fifo.write_fd = tb_close(s->fifo.write_fd);
    s->fifo.watch_fd = tb_close(s->fifo.watch_fd);
}

/* Returns true when the supervision is over, with its exit code. */
static bool supervise_signal(struct supervision *s, int *ret)
{
    int signo = tb_load_signal(s->load);

    if (signo == SIGCHLD && tb_child_ended(s->load, &s->child, s->done, ret))
        return true;
    if (signo != SIGTERM && signo != SIGINT)
        return false;
    s->sock = tb_close(s->sock); /* tb-decrypt sees it and stops */
    if (s->child > 0) {
        (void)kill(s->child, signo);
        return false;
    }
    *ret = tb_outcome_set(&s->load->outcome, TB_EXIT_OK, "stopped by %s", strsignal(signo));
    return true;
}

static int supervise_opened(struct supervision *s)
{
    if (tb_fifo_opened(&s->fifo) > 1)
        return tb_outcome_set(
            &s->load->outcome, TB_EXIT_DATAERR,
            "two readers opened %s, and each would get a part; only the runtime may open it, and once",
            s->fifo.path);
    return 0;
}

static int supervise_reply(struct supervision *s)
{
    int r = tb_client_reply(s->load, s->sock);

    s->sock = tb_close(s->sock);
    s->answered = r == 0;
    return r;
}

static int supervise_loop(struct supervision *s)
{
    for (;;) {
        struct pollfd p[] = {{.fd = s->load->signal_fd, .events = POLLIN},
                             {.fd = s->fifo.watch_fd, .events = POLLIN},
                             {.fd = s->sock, .events = POLLIN}};
        int r = 0;

        if (poll(p, ARRAY_SIZE(p), -1) < 0) {
            if (errno == EINTR)
                continue;
            return tb_outcome_set(&s->load->outcome, TB_EXIT_IOERR, "cannot wait: %s", strerror(errno));
        }
        if (p[1].revents)
            r = supervise_opened(s);
        if (r == 0 && p[2].revents && s->sock >= 0)
            r = supervise_reply(s);
        if (r != 0)
            return r;
        supervise_finish_when_safe(s);
        if (p[0].revents && supervise_signal(s, &r))
            return r;
        if (s->done && s->child == 0)
            return 0;
    }
}

static int supervise_deliver(struct supervision *s)
{
    struct tb_load *l = s->load;
    int r = tb_fifo_make(l, &s->fifo);

    if (r == 0)
        r = tb_client_request(l, TB_DELIVER_FIFO, &s->fifo.write_fd, 1, &s->sock);
    if (r == 0)
        r = tb_ready_write(l);
    if (r != 0)
        return r;
    tb_load_state(l, "delivering");
    r = l->command ? tb_child_start(l, l->config->pipe_path, &s->child) : 0;
    if (r != 0)
        return r;
    tb_notify_ready("Delivering the model through %s", s->fifo.path);
    return supervise_loop(s);
}

int tb_load_fifo(struct tb_load *l)
{
    _cleanup_(supervision_clear) struct supervision s = {.load = l, .fifo = TB_FIFO_INIT, .sock = -1};
    int r = supervise_deliver(&s);

    /* In this order: nobody may start, and nobody may see the end, of what is not whole. */
    if (!s.done || l->command)
        tb_ready_remove(l);
    tb_child_kill(&s.child);
    return r;
}
