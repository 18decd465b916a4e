/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/serve_view.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/domain_file.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/serving.h"
#include "common/units.h"
#include "decrypt/keymem.h"
#include "decrypt/reply.h"
#include "decrypt/view.h"

#define VIEW_TICK_MS 500
#define VIEW_MOUNT_TIMEOUT_US (30 * TB_USEC_PER_SEC)

struct view_service {
    struct decrypt_view *d;
    struct tb_view view;
    int event_fd;
    uint64_t served_us; /* by the clock of day */
    bool told;          /* that all of it was verified */
    bool closed;        /* the runtime is ready, and wanted it for no longer */
};

static int service_explain(struct view_service *s, const struct view_layer *at_fault, int r,
                           const struct tbenc_error *e)
{
    struct decrypt_view *d = s->d;
    bool base = at_fault == &s->view.layers[1];
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

static int service_stopped(struct view_service *s, bool by_signal)
{
    return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL, "%s",
                          by_signal ? "stopped" : "the client went away before the view was served");
}

/* Before there is a mount to watch, the client is. */
static bool service_must_stop(void *ctx)
{
    struct view_service *s = ctx;

    tb_notify_watchdog();
    return service_readable(s->d->signal_fd, POLLIN) || service_readable(s->d->sock, POLLRDHUP);
}

/* The file header is needed before anything can be decrypted. */
static int service_await_header(struct view_service *s)
{
    int r;

    do
        r = service_must_stop(s) ? -ECANCELED : tb_supply_await(&s->d->asset->supply, 0, TBENC_HEADER_BYTES);
    while (r == -EAGAIN);
    return r;
}

static int service_lost(struct view_service *s)
{
    return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL,
                          "the download of %s was begun anew while it was read; start again",
                          s->d->asset->manifest->weights_filename);
}

static int service_prepare(struct view_service *s)
{
    bool suspect = tb_report_suspects(s->d->report, s->d->asset->supply.fd) ||
                   (s->d->asset->base && tb_report_suspects(s->d->report, s->d->asset->base_supply.fd));
    const char *how = tb_keymem_open();
    struct tbenc_error e = {0};
    int r = how ? service_await_header(s) : -errno;

    if (r == 0)
        r = tb_view_init(&s->view, (*s->d->key)->b, &e);
    tb_secret_freep(s->d->key);
    if (r == 0)
        tb_info("key schedules are %s%s", how,
                suspect ? "; the ciphertext was found damaged before and is verified first" : "");
    if (r == 0)
        r = tb_view_verify(&s->view, suspect, service_must_stop, s, &e);
    if (r == -ECANCELED)
        return service_stopped(s, service_readable(s->d->signal_fd, POLLIN));
    if (r == -ESTALE)
        return service_lost(s);
    if (r == 0)
        r = tb_view_start(&s->view);
    return r == 0 ? 0 : service_explain(s, s->view.at_fault, r, &e);
}

/* What became of the view, apart from being read; 0: nothing. */
static int service_trouble(struct view_service *s)
{
    const struct view_layer *at_fault;
    struct tb_cache_state c;
    struct tbenc_error e;
    int r;

    tb_view_state(&s->view, &c);
    r = tb_view_error(&s->view, &at_fault, &e);
    if (r == 0 && tb_supply_lost(&s->d->asset->supply))
        return service_lost(s);
    return r == 0 ? 0 : service_explain(s, at_fault, r, &e);
}

/* Until something happened: 0, or the exit code it leads to. */
static int service_wait(struct view_service *s, bool client_matters)
{
    struct pollfd p[] = {{.fd = s->event_fd, .events = POLLIN},
                         {.fd = s->d->signal_fd, .events = POLLIN},
                         {.fd = client_matters ? s->d->sock : -1, .events = POLLRDHUP}};
    eventfd_t n;

    if (poll(p, ARRAY_SIZE(p), VIEW_TICK_MS) < 0 && errno != EINTR)
        return tb_outcome_set(s->d->outcome, TB_EXIT_IOERR, "cannot wait: %s", strerror(errno));
    tb_notify_watchdog();
    if (p[0].revents)
        (void)eventfd_read(s->event_fd, &n);
    if (p[1].revents || p[2].revents)
        return service_stopped(s, p[1].revents);
    return service_trouble(s);
}

static int service_await_mount(struct view_service *s)
{
    uint64_t until = tb_now_monotonic_us() + VIEW_MOUNT_TIMEOUT_US;
    int r = 0;

    while (r == 0 && !tb_view_serves(&s->view)) {
        if (tb_now_monotonic_us() > until)
            return tb_outcome_set(s->d->outcome, TB_EXIT_TEMPFAIL, "the kernel sent no request for the view");
        r = service_wait(s, true);
    }
    return r;
}

static void service_look(struct view_service *s, struct tb_cache_state *ret)
{
    struct tb_report *report = s->d->report;

    tb_view_state(&s->view, ret);
    tb_report_set_reading(report,
                          &(struct tb_report_reading){.read_bytes = MIN(ret->read_bytes, report->total),
                                                      .served_bytes = ret->served_bytes,
                                                      .cached_bytes = ret->cached_bytes,
                                                      .room_bytes = ret->room_bytes});
}

static void service_tell_progress(struct view_service *s)
{
    struct tb_report *report = s->d->report;
    struct tb_cache_state c;

    service_look(s, &c);
    if (s->told)
        return tb_report_look(report);
    if (!c.complete)
        return tb_report_update(report, MIN(c.verified_bytes, report->total), report->total);
    s->told = true;
    report->done = report->total;
    tb_progress_finish(&report->progress, report->done);
    tb_report_state(report, "complete", NULL);
    tb_notify_status("Serving the model, verified whole");
    tb_info("the model is verified whole: %" PRIu64 " blocks were decrypted, %" PRIu64 " times one was found",
            c.blocks_decrypted, c.blocks_found);
}

/* tb-proxy says so, of this start of the runtime. */
static bool service_runtime_is_ready(const struct view_service *s)
{
    _cleanup_json_ cJSON *doc = NULL;
    const char *state, *since;
    char err[TB_JSON_ERR_MAX];
    uint64_t since_us;

    return tb_state_read_at(s->d->config->run_dir, "tb-proxy/proxy.json", &doc) == 0 &&
           tb_json_get_string(doc, "state", &state, err) == 0 && strcmp(state, "Ready") == 0 &&
           tb_json_get_string(doc, "since", &since, err) == 0 && tb_rfc3339_parse(since, &since_us) == 0 &&
           since_us >= s->served_us;
}

static int service_run(struct view_service *s)
{
    int r = service_prepare(s);

    if (r == 0)
        r = service_await_mount(s);
    if (r != 0)
        return r;
    s->served_us = tb_now_realtime_us();
    s->d->report->serving = true;
    tb_report_state(s->d->report, "serving", NULL);
    decrypt_reply_serving(s->d->sock);
    while (r == 0 && !tb_view_over(&s->view) && !s->closed) {
        service_tell_progress(s);
        r = service_wait(s, false);
        s->closed = r == 0 && s->told && s->d->config->view_close && service_runtime_is_ready(s);
    }
    return r;
}

int decrypt_view_serve(struct decrypt_view *d)
{
    /* Threads that wait for the kernel outlive this function when the outcome is not 0. */
    static struct view_service s;
    int r;

    s = (struct view_service){.d = d, .event_fd = eventfd(0, EFD_CLOEXEC)};
    /* Never closed: no other file may take its number while threads use it. */
    s.view.fuse_fd = fcntl(d->fuse_fd, F_DUPFD_CLOEXEC, 0);
    s.view.files = d->asset->tree;
    s.view.layers[0] = (struct view_layer){.manifest = d->asset->manifest,
                                           .ciphertext = tb_supply_ciphertext(&d->asset->supply)};
    s.view.layers[1] = (struct view_layer){.manifest = d->asset->base,
                                           .ciphertext = tb_supply_ciphertext(&d->asset->base_supply)};
    s.view.n_layers = d->asset->base ? 2 : 1;
    s.view.event_fd = s.event_fd;
    if (s.event_fd < 0 || s.view.fuse_fd < 0)
        return tb_outcome_set(d->outcome, TB_EXIT_IOERR, "cannot start: %s", strerror(errno));
    r = service_run(&s);
    if (s.view.n_each > 0)
        tb_view_revoke(&s.view);
    tb_view_leave(&s.view);
    if (s.view.n_each > 0) /* nothing is in memory any more */
        service_look(&s, &(struct tb_cache_state){0});
    if (r == 0 && s.closed)
        tb_info("the runtime is ready: the view is closed, and the key gone");
    if (r == 0)
        tb_report_state(d->report, s.closed ? "complete" : "ended", NULL);
    return r;
}
