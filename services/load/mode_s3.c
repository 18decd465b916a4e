/* SPDX-License-Identifier: Apache-2.0 */
/* Mode s3: an endpoint on a loopback address, which tb-decrypt serves, for an inference server that reads its
 * model by S3's API. The listener is made here, in the runtime's network namespace, and passed on. This
 * process stays: by its end tb-decrypt knows that nobody reads any more, and when tb-decrypt finds the model
 * to be void, the runtime that has read of it is killed here. */
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/inet.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "load/child.h"
#include "load/client.h"
#include "load/model_dir.h"
#include "load/modes.h"

#define S3_BACKLOG 256
#define S3_LAST_WORD_MS 1000
#define S3_REGION "us-east-1"
#define S3_NOBODY "trustbridge" /* for clients that insist on signing; nobody looks at it */

struct s3_load {
    struct tb_load *load;
    int sock; /* -1: tb-decrypt has gone, which is well once all was verified */
    char endpoint[64];
    char bucket[TB_DELIVER_MESSAGE_MAX]; /* "": not served yet */
    pid_t child;
    bool verified; /* all of the model */
};

/* -- what the runtime is told ---------------------------------------------------------------------------- */
/* Proxies are for the world outside. */
static int s3_set_no_proxy(const char *name)
{
    const char *old = getenv(name);
    _cleanup_free_ char *new = old &&*old ? tb_strf("%s,127.0.0.1", old) : strdup("127.0.0.1");

    return new &&setenv(name, new, 1) == 0 ? 0 : -ENOMEM;
}

/* Run:ai's client gives up a request that is slow for a second unless it is told otherwise, and with it the
 * model; a block that is fetched once more takes longer. */
static int s3_set_environment(const struct s3_load *s)
{
    const char *const set[][2] = {{"AWS_ENDPOINT_URL", s->endpoint},
                                  {"AWS_ENDPOINT_URL_S3", s->endpoint},
                                  {"AWS_ACCESS_KEY_ID", S3_NOBODY},
                                  {"AWS_SECRET_ACCESS_KEY", S3_NOBODY},
                                  {"AWS_REGION", S3_REGION},
                                  {"AWS_DEFAULT_REGION", S3_REGION},
                                  {"AWS_EC2_METADATA_DISABLED", "true"},
                                  {"RUNAI_STREAMER_S3_ENDPOINT", s->endpoint},
                                  {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0"},
                                  {"RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS", "600000"}};
    /* They would have the client take other credentials. */
    static const char *const unset[] = {"AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"};
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(set); i++)
        r = setenv(set[i][0], set[i][1], 1) < 0 ? -errno : 0;
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(unset); i++)
        r = unsetenv(unset[i]) < 0 ? -errno : 0;
    if (r == 0)
        r = s3_set_no_proxy("NO_PROXY");
    return r == 0 ? s3_set_no_proxy("no_proxy") : r;
}

/* s3://BUCKET/ of an asset with a table, s3://BUCKET/FILE of one without. */
static char *s3_address(const struct s3_load *s)
{
    _cleanup_free_ char *model = tb_model_dir_model(s->load);
    const char *slash = model ? strrchr(model, '/') : NULL;

    if (!slash)
        return NULL;
    return tb_strf("s3://%s/%s", s->bucket, s->load->manifest->files ? "" : slash + 1);
}

/* -- served ---------------------------------------------------------------------------------------------- */
static int s3_listen(struct s3_load *s, int *ret)
{
    char err[TB_INET_ERR_MAX];
    struct sockaddr_in a;
    socklen_t n = sizeof(a);
    int fd = tb_inet_listen("127.0.0.1:0", S3_BACKLOG, err);

    if (fd < 0)
        return tb_outcome_set(&s->load->outcome, TB_EXIT_IOERR, "cannot listen for the runtime: %s", err);
    *ret = fd;
    if (getsockname(fd, (struct sockaddr *)&a, &n) < 0)
        return tb_outcome_set(&s->load->outcome, TB_EXIT_IOERR, "cannot listen for the runtime: %s",
                              strerror(errno));
    snprintf(s->endpoint, sizeof(s->endpoint), "http://127.0.0.1:%u", ntohs(a.sin_port));
    return 0;
}

static int s3_serve(struct s3_load *s)
{
    _cleanup_close_ int fd = -1; /* with tb-decrypt gone, nobody is to wait at a listener of ours */
    int r = s3_listen(s, &fd);

    if (r == 0)
        r = tb_client_request(s->load, TB_DELIVER_S3, &fd, 1, &s->sock);
    if (r == 0)
        tb_load_state(s->load, "delivering");
    return r;
}

static int s3_start_runtime(struct s3_load *s)
{
    struct tb_load *l = s->load;
    _cleanup_free_ char *model = s3_address(s);
    int r = model ? s3_set_environment(s) : -ENOMEM;

    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot prepare to run %s: %s", l->command[0],
                              strerror(-r));
    r = tb_ready_write(l);
    if (r != 0)
        return r;
    tb_load_state(l, "streaming");
    tb_info("the model can be read at %s; starting %s", s->endpoint, l->command[0]);
    r = tb_child_start(l, model, &s->child);
    if (r == 0)
        tb_notify_ready("Runtime started on an endpoint with the model");
    return r;
}

static int s3_hear(struct s3_load *s)
{
    struct tb_load *l = s->load;
    int r;

    if (!s->bucket[0]) {
        r = tb_client_serving(l, s->sock, s->bucket);
        return r == 0 ? s3_start_runtime(s) : r;
    }
    if (s->verified && tb_client_is_left(s->sock)) {
        tb_info("tb-decrypt has ended: %s goes on with what it has read", l->command[0]);
        s->sock = tb_close(s->sock);
        return 0;
    }
    r = tb_client_reply(l, s->sock);
    if (r == 0 && !s->verified) {
        s->verified = true;
        tb_load_state(l, "delivered");
    }
    return r;
}

/* A runtime that ends may do so as tb-decrypt cut it off, which is about to say why. */
static void s3_hear_why(struct s3_load *s, int *ret)
{
    struct pollfd p[] = {{.fd = s->sock, .events = POLLIN}, {.fd = s->load->signal_fd, .events = POLLIN}};
    int r = 0;

    if (s->sock < 0 || s->load->stopped_by || poll(p, ARRAY_SIZE(p), S3_LAST_WORD_MS) <= 0)
        return;
    if (p[0].revents && !(s->verified && tb_client_is_left(s->sock)))
        r = tb_client_reply(s->load, s->sock);
    if (r != 0)
        *ret = r;
}

/* true: it is over, with this exit code. */
static bool s3_take_signal(struct s3_load *s, int *ret)
{
    int signo = tb_load_signal(s->load);

    if (signo == SIGCHLD) {
        bool over = tb_child_ended(s->load, &s->child, true, ret);

        if (over)
            s3_hear_why(s, ret);
        return over;
    }
    if (signo == 0)
        return false;
    if (s->child > 0) {
        (void)kill(s->child, signo);
        return false;
    }
    *ret = tb_outcome_set(&s->load->outcome, TB_EXIT_OK, "stopped by %s", strsignal(signo));
    return true;
}

static int s3_supervise(struct s3_load *s)
{
    for (;;) {
        struct pollfd p[] = {{.fd = s->load->signal_fd, .events = POLLIN}, {.fd = s->sock, .events = POLLIN}};
        int r = 0;

        if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
            return tb_outcome_set(&s->load->outcome, TB_EXIT_IOERR, "cannot wait: %s", strerror(errno));
        if (p[1].revents)
            r = s3_hear(s);
        if (r != 0 || (p[0].revents && s3_take_signal(s, &r)))
            return r;
    }
}

int tb_load_s3(struct tb_load *l)
{
    struct s3_load s = {.load = l, .sock = -1};
    int r = s3_serve(&s);

    if (r == 0)
        r = s3_supervise(&s);
    tb_child_kill(&s.child);
    tb_ready_remove(l);
    s.sock = tb_close(s.sock); /* last: until then nobody is told that the runtime is gone */
    return r;
}
