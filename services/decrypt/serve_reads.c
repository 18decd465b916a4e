/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/serve_reads.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/deliver.h"
#include "common/domain_file.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/serving.h"
#include "common/units.h"
#include "decrypt/keymem.h"
#include "decrypt/endpoint.h"
#include "decrypt/reply.h"
#include "decrypt/view.h"

#define READS_TICK_MS 500
#define READS_MOUNT_TIMEOUT_US (30 * TB_USEC_PER_SEC)

struct reads_service {
    struct decrypt_reads *d;
    struct tb_weights weights;
    struct tb_view view;
    struct tb_endpoint endpoint;
    int event_fd;
    uint64_t served_us; /* since the boot; 0: nothing is served yet */
    bool told;          /* that all of it was verified */
    bool closed;        /* the runtime is ready, and wanted it for no longer */
    bool left;          /* of mode s3: the client has gone, and the runtime with it */
};

static int service_explain(struct reads_service *s, const struct weights_layer *at_fault, int r,
                           const struct tbenc_error *e)
{
    struct decrypt_reads *d = s->d;
    bool base = at_fault == &s->weights.layers[1];
    const char *why = e->message[0] ? e->message : strerror(-r),
               *place = base ? TB_SERVING_BASE_NAME "/" : "";
    const char *file = (base ? d->asset->base : d->asset->manifest)->weights_filename;

    if (r == -EBADMSG || r == -EFBIG || tb_errno_is_disk(r))
        d->report->damaged =
            fstat(base ? d->asset->base_supply.fd : d->asset->supply.fd, &d->report->ciphertext) == 0;
    if (tb_errno_is_disk(r))
        return tb_outcome_set(d->outcome, TB_EXIT_DATAERR, "%s%s: the disk does not give it back: %s", place,
                              file, why);
    if (r == -EBADMSG || r == -EFBIG || r == -EINVAL)
        return tb_outcome_set(d->outcome, TB_EXIT_DATAERR, "%s%s: %s", place, file, why);
    if (r == -EPERM)
        return tb_outcome_set(d->outcome, TB_EXIT_USAGE, "%s", why);
    return tb_outcome_set(d->outcome, TB_EXIT_IOERR, "%s", why);
}

static bool service_readable(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, 0) > 0;
}

static int service_stopped(struct reads_service *s, bool by_signal)
{
    return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL, "%s",
                          by_signal ? "stopped" : "the client went away before anything was served");
}

/* Before there is a mount to watch, the client is. */
static bool service_must_stop(void *ctx)
{
    struct reads_service *s = ctx;

    tb_notify_watchdog();
    return service_readable(s->d->signal_fd, POLLIN) || service_readable(s->d->sock, POLLRDHUP);
}

/* Of the files that the model is made of, the one whose rest does not come. NULL: none. */
static const struct tb_supply *service_find_lost(const struct reads_service *s)
{
    const struct tb_asset *a = s->d->asset;

    if (tb_supply_lost(&a->supply))
        return &a->supply;
    return a->base && tb_supply_lost(&a->base_supply) ? &a->base_supply : NULL;
}

static int service_lost(struct reads_service *s)
{
    const struct tb_supply *lost = service_find_lost(s);

    return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL,
                          "the download of %s was begun anew while it was read; start again",
                          lost ? lost->path : s->d->asset->supply.path);
}

static bool service_is_s3(const struct reads_service *s)
{
    return s->d->mode == TB_DELIVER_S3;
}

static int service_init(struct reads_service *s, struct tbenc_error *e)
{
    unsigned n = service_is_s3(s) ? tb_endpoint_readers() : tb_view_readers(&s->weights);
    int r = tb_weights_init(&s->weights, (*s->d->key)->b, n, tb_weights_threads(), e);

    if (r < 0)
        return r;
    return service_is_s3(s) ? tb_endpoint_init(&s->endpoint, s->d->manifest_sha256, e)
                            : tb_view_init(&s->view, e);
}

static int service_start(struct reads_service *s)
{
    int r = tb_weights_start(&s->weights);

    if (r < 0)
        return r;
    return service_is_s3(s) ? tb_endpoint_start(&s->endpoint) : tb_view_start(&s->view);
}

/* What became of it, apart from being read; 0: nothing. */
static int service_trouble(struct reads_service *s)
{
    const struct weights_layer *at_fault;
    struct tb_cache_state c;
    struct tbenc_error e;
    int r;

    tb_weights_state(&s->weights, &c);
    r = tb_weights_error(&s->weights, &at_fault, &e);
    if (r == 0 && service_find_lost(s))
        return service_lost(s);
    return r == 0 ? 0 : service_explain(s, at_fault, r, &e);
}

static int service_prepare(struct reads_service *s)
{
    bool suspect = tb_report_suspects(s->d->report, s->d->asset->supply.fd) ||
                   (s->d->asset->base && tb_report_suspects(s->d->report, s->d->asset->base_supply.fd));
    const char *how = tb_keymem_open();
    struct tbenc_error e = {0};
    int r = how ? tb_asset_await_header(s->d->asset, service_must_stop, s) : -errno;

    if (r == 0)
        r = service_init(s, &e);
    tb_secret_freep(s->d->key);
    if (r == 0)
        tb_info("key schedules are %s%s", how,
                suspect ? "; the ciphertext was found damaged before and is verified first" : "");
    if (r == 0)
        r = tb_weights_verify(&s->weights, suspect, service_must_stop, s, &e);
    if (r == -ECANCELED)
        return service_stopped(s, service_readable(s->d->signal_fd, POLLIN));
    if (r == -ESTALE)
        return service_lost(s);
    if (r < 0)
        return service_explain(s, s->weights.at_fault, r, &e);
    r = service_trouble(s); /* all of it was verified, and the tags together are not the manifest's */
    if (r != 0)
        return r;
    r = service_start(s);
    return r == 0 ? 0 : service_explain(s, s->weights.at_fault, r, &e);
}

/* Until something happened: 0, or the exit code it leads to. */
static int service_wait(struct reads_service *s)
{
    bool client_matters = service_is_s3(s) || s->served_us == 0;
    struct pollfd p[] = {{.fd = s->event_fd, .events = POLLIN},
                         {.fd = s->d->signal_fd, .events = POLLIN},
                         {.fd = client_matters ? s->d->sock : -1, .events = POLLRDHUP}};
    eventfd_t n;

    if (poll(p, ARRAY_SIZE(p), READS_TICK_MS) < 0 && errno != EINTR)
        return tb_outcome_set(s->d->outcome, TB_EXIT_IOERR, "cannot wait: %s", strerror(errno));
    tb_notify_watchdog();
    if (p[0].revents)
        (void)eventfd_read(s->event_fd, &n);
    s->left = p[2].revents && s->served_us > 0;
    if (p[1].revents || (p[2].revents && !s->left))
        return service_stopped(s, p[1].revents);
    return service_trouble(s);
}

static int service_await_mount(struct reads_service *s)
{
    uint64_t until = tb_now_monotonic_us() + READS_MOUNT_TIMEOUT_US;
    int r = 0;

    while (r == 0 && !service_is_s3(s) && !tb_view_serves(&s->view)) {
        if (tb_now_monotonic_us() > until)
            return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL, "the kernel sent no request for the view");
        r = service_wait(s);
    }
    return r;
}

static void service_look(struct reads_service *s, struct tb_cache_state *ret)
{
    struct tb_report *report = s->d->report;

    tb_weights_state(&s->weights, ret);
    tb_report_set_reading(report,
                          &(struct tb_report_reading){.read_bytes = MIN(ret->read_bytes, report->total),
                                                      .served_bytes = ret->served_bytes,
                                                      .cached_bytes = ret->cached_bytes,
                                                      .room_bytes = ret->room_bytes});
}

static void service_tell_progress(struct reads_service *s)
{
    struct tb_report *report = s->d->report;
    struct tb_cache_state c;

    service_look(s, &c);
    if (s->told)
        return tb_report_look(report);
    if (!c.complete)
        return tb_report_update(report, MIN(c.verified_bytes, report->total));
    s->told = true;
    report->done = report->total;
    tb_progress_finish(&report->progress, report->done);
    tb_report_state(report, "complete", NULL);
    if (service_is_s3(s)) /* the client stays, and is told when it may trust what was read */
        decrypt_reply_send(s->d->sock, s->d->outcome, report->total);
    tb_notify_status("Serving the model, verified whole");
    tb_info("the model is verified whole: %" PRIu64 " blocks were decrypted, %" PRIu64 " times one was found",
            c.blocks_decrypted, c.blocks_found);
}

/* tb-proxy says so, of this start of the runtime. */
static bool service_runtime_is_ready(const struct reads_service *s)
{
    _cleanup_json_ cJSON *doc = NULL;
    const char *state;
    char err[TB_JSON_ERR_MAX];
    uint64_t since_us;

    return tb_state_read_at(s->d->config->run_dir, "tb-proxy/proxy.json", &doc) == 0 &&
           tb_json_get_string(doc, "state", &state, err) == 0 && strcmp(state, "Ready") == 0 &&
           tb_json_get_uint(doc, "since_boottime_us", TB_JSON_INT_MAX, &since_us, err) == 0 &&
           since_us >= s->served_us;
}

static int service_run(struct reads_service *s)
{
    int r = service_prepare(s);

    if (r == 0)
        r = service_await_mount(s);
    if (r != 0)
        return r;
    s->served_us = tb_now_boottime_us();
    s->d->report->serving = true;
    tb_report_state(s->d->report, "serving", NULL);
    decrypt_reply_serving(s->d->sock, service_is_s3(s) ? s->endpoint.bucket.name : "");
    while (r == 0 && !tb_view_over(&s->view) && !s->left && !s->closed) {
        service_tell_progress(s);
        r = service_wait(s);
        s->closed = r == 0 && s->told && s->d->config->view_close && service_runtime_is_ready(s);
    }
    return r;
}

static void service_revoke(struct reads_service *s)
{
    if (service_is_s3(s)) {
        tb_endpoint_revoke(&s->endpoint);
    } else if (s->view.n_each > 0) {
        tb_view_revoke(&s->view);
        s->d->threads_left = !tb_view_over(&s->view);
        tb_view_leave(&s->view);
    } else {
        tb_weights_revoke(&s->weights);
    }
    tb_weights_join(&s->weights);
}

int decrypt_reads_serve(struct decrypt_reads *d)
{
    /* Threads that wait for the kernel outlive this function when the outcome is not 0. */
    static struct reads_service s;
    int r;

    s = (struct reads_service){.d = d, .event_fd = eventfd(0, EFD_CLOEXEC)};
    tb_asset_weights(d->asset, &s.weights);
    s.weights.event_fd = s.event_fd;
    s.view.weights = s.endpoint.weights = &s.weights;
    /* Never closed: no other file may take its number while threads use it. */
    s.view.fuse_fd = s.endpoint.listener = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
    if (s.event_fd < 0 || s.view.fuse_fd < 0)
        return tb_outcome_set(d->outcome, TB_EXIT_IOERR, "cannot start: %s", strerror(errno));
    r = service_run(&s);
    if (r != 0)
        d->failed(d->ctx);
    service_revoke(&s);
    if (s.weights.layers[0].cache) /* nothing is in memory any more */
        service_look(&s, &(struct tb_cache_state){0});
    if (r == 0 && s.closed)
        tb_info("the runtime is ready: %s is closed, and the key gone",
                service_is_s3(&s) ? "the endpoint" : "the view");
    if (r == 0)
        tb_report_state(d->report, s.closed ? "complete" : "ended", NULL);
    return r;
}
