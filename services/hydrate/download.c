/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/download.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "common/log.h"
#include "hydrate/transfer.h"
#include "common/units.h"

#define POLL_MS 500

enum slot_state { SLOT_IDLE, SLOT_RUNNING, SLOT_WAITING };

struct slot {
    enum slot_state state;
    struct transfer t;
    struct tb_backoff backoff;
    unsigned wrong_answers;
    uint64_t due_us; /* SLOT_WAITING: next attempt */
};

struct run {
    const struct download *d;
    struct verdict *v;
    const struct partial_identity *id;
    CURLM *multi;
    struct slot *slots;
    unsigned n_slots;
    uint64_t cursor;   /* ranges below it are there or in a slot */
    bool identified;   /* the blob's entity tag is known, or that it has none: others may start */
    uint64_t drain_us; /* nonzero: start nothing, and end then at the latest */
    char where[256];   /* URL without its query */
};

static uint64_t bytes_there(const struct run *x)
{
    uint64_t n = partial_ranges(x->d->partial)->bytes;

    for (unsigned i = 0; i < x->n_slots; i++)
        if (x->slots[i].state != SLOT_IDLE)
            n += x->slots[i].t.got;
    return n;
}

/* Why an attempt failed, without secrets. */
static void describe(const struct run *x, struct slot *s, CURLcode code, char *out, size_t len)
{
    struct transfer *t = &s->t;
    char err[TB_HTTP_ERR_MAX];

    if (t->fault != TRANSFER_OK) {
        snprintf(out, len, "%s: %s", x->where, t->why);
    } else if (t->status >= 300) {
        snprintf(out, len, "%s: status %ld%s%s", x->where, t->status, *t->error_code ? " " : "",
                 t->error_code);
    } else if (code != CURLE_OK) {
        tb_http_error(code, x->d->url, t->errbuf, err);
        snprintf(out, len, "%s", err);
    } else {
        snprintf(out, len, "%s: the body ended early", x->where);
    }
}

/* Starts nothing from here on. Ranges on their way may still finish, unless it ends now. */
static void wind_down(struct run *x, bool now)
{
    uint64_t until = tb_now_monotonic_us() + (now ? 0 : DOWNLOAD_DRAIN_MS * 1000ULL);

    if (x->drain_us == 0 || now)
        x->drain_us = until;
}

/* Ends the download. Of several reasons the first one counts. */
static void give_up(struct run *x, bool now, int code, const char *fmt, ...) _printf_(4, 5);
static void give_up(struct run *x, bool now, int code, const char *fmt, ...)
{
    char text[VERDICT_MESSAGE_MAX];
    va_list ap;

    wind_down(x, now);
    if (x->v->code != 0)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    verdict_set(x->v, code, "%s", text);
}

static void give_up_io(struct run *x, int r, const char *what)
{
    wind_down(x, true);
    if (x->v->code == 0)
        verdict_io(x->v, r, what, partial_path(x->d->partial));
}

static void start(struct run *x, struct slot *s)
{
    if (transfer_begin(&s->t) < 0 || curl_multi_add_handle(x->multi, s->t.easy) != CURLM_OK) {
        s->state = SLOT_IDLE;
        give_up(x, true, TB_EXIT_IOERR, "out of memory for a transfer");
        return;
    }
    s->state = SLOT_RUNNING;
}

/* Gives an idle slot the next missing range. false when there is none. */
static bool assign(struct run *x, struct slot *s)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t i = ranges_next_missing(ranges, x->cursor);

    if (i >= ranges->n)
        return false;
    x->cursor = i + 1;
    s->t.index = i;
    s->t.start = ranges_start(ranges, i);
    s->t.end = s->t.start + ranges_len(ranges, i);
    s->t.got = 0;
    s->wrong_answers = 0;
    s->backoff = (struct tb_backoff){.base_ms = DOWNLOAD_BACKOFF_BASE_MS, .cap_ms = DOWNLOAD_BACKOFF_CAP_MS};
    return true;
}

/* Starts what may start. Returns the number of slots that hold a range. */
static unsigned start_slots(struct run *x)
{
    uint64_t now = tb_now_monotonic_us();
    unsigned busy = 0;

    for (unsigned i = 0; i < x->n_slots; i++) {
        struct slot *s = &x->slots[i];
        bool may = x->drain_us == 0 && (x->identified || i == 0);

        if (may && s->state == SLOT_WAITING && s->due_us <= now)
            start(x, s);
        else if (may && s->state == SLOT_IDLE && assign(x, s))
            start(x, s);
        if (s->state == SLOT_RUNNING || (s->state == SLOT_WAITING && x->drain_us == 0))
            busy++;
    }
    return busy;
}

/* The first response that is right says which blob this is; If-Match holds all others to it. */
static void identify(struct run *x, const struct transfer *t)
{
    if (x->identified || !t->accepted)
        return;
    x->identified = true;
    if (*t->response_etag)
        partial_set_etag(x->d->partial, t->response_etag);
    else
        tb_warn("%s has no strong ETag: a blob replaced during the download shows only in its hash",
                x->where);
}

static void retry(struct run *x, struct slot *s, CURLcode code)
{
    char why[VERDICT_MESSAGE_MAX - 160];
    uint64_t delay_ms;

    describe(x, s, code, why, sizeof(why));
    if (s->t.fault == TRANSFER_PROTOCOL) {
        s->t.got = 0; /* nothing this server sent for the range is worth keeping */
        if (++s->wrong_answers >= DOWNLOAD_PROTOCOL_TRIES) {
            give_up(x, false, TB_EXIT_DATAERR,
                    "%s, %u times; the server or a proxy on the way does not serve ranges correctly", why,
                    s->wrong_answers);
            return;
        }
    }
    if (s->backoff.attempt + 1 >= DOWNLOAD_TRIES) {
        give_up(x, false, TB_EXIT_TEMPFAIL, "%s, after %d attempts; progress is kept, the next start goes on",
                why, DOWNLOAD_TRIES);
        return;
    }
    delay_ms = tb_backoff_next_ms(&s->backoff, s->t.retry_after_ms);
    tb_info("range at %" PRIu64 ": %s; again in %" PRIu64 " ms", s->t.start, why, delay_ms);
    s->due_us = tb_now_monotonic_us() + delay_ms * 1000;
    s->state = SLOT_WAITING;
}

static void range_done(struct run *x, struct slot *s)
{
    struct partial *p = x->d->partial;
    int r;

    s->state = SLOT_IDLE;
    r = partial_mark(p, s->t.index);
    if (r < 0) {
        give_up_io(x, r, "cannot record progress of");
        return;
    }
    s->t.got = 0;
    hasher_advance(x->d->hasher, ranges_prefix_bytes(partial_ranges(p)));
}

/* Faults found by the slot itself that no retry helps. true when handled. */
static bool finish_fault(struct run *x, struct transfer *t)
{
    switch (t->fault) {
    case TRANSFER_SIZE:
        give_up(x, true, TB_EXIT_DATAERR,
                "%s has %s bytes, its manifest says %" PRIu64
                "; upload blob and manifest of the same encryption",
                x->where, t->why, t->size);
        return true;
    case TRANSFER_CHANGED:
        give_up(x, true, VERDICT_CHANGED, "%s was replaced during the download", x->where);
        return true;
    case TRANSFER_IO:
        give_up_io(x, t->io_error, "cannot write");
        return true;
    default:
        return false;
    }
}

/* Statuses that no retry helps. true when handled. */
static bool finish_status(struct run *x, struct transfer *t)
{
    const char *space = *t->error_code ? " " : "";

    if (t->status < 300 || tb_http_status_retryable(t->status))
        return false;
    if (t->status == 401 || t->status == 403)
        give_up(x, false, TB_EXIT_TEMPFAIL,
                "%s refused access: status %ld%s%s; progress is kept, a restart asks for a fresh SAS URL",
                x->where, t->status, space, t->error_code);
    else if (t->status == 404 || t->status == 410)
        give_up(x, false, TB_EXIT_NOINPUT, "%s: status %ld%s%s; upload the asset with tbpkg upload", x->where,
                t->status, space, t->error_code);
    else if (t->status == 412)
        give_up(x, true, VERDICT_CHANGED, "%s was replaced during the download", x->where);
    else if (t->status == 416)
        give_up(x, true, TB_EXIT_DATAERR,
                "%s is shorter than the %" PRIu64
                " bytes its manifest says; upload blob and manifest of the same "
                "encryption",
                x->where, t->size);
    else
        give_up(x, false, TB_EXIT_TEMPFAIL,
                "%s: unexpected status %ld%s%s; progress is kept, the next start goes on", x->where,
                t->status, space, t->error_code);
    return true;
}

static void finish(struct run *x, struct slot *s, CURLcode code)
{
    struct transfer *t = &s->t;
    char err[TB_HTTP_ERR_MAX];
    int r;

    curl_multi_remove_handle(x->multi, t->easy);
    s->state = SLOT_WAITING;
    s->due_us = 0;
    identify(x, t);
    if (code == CURLE_OK && transfer_complete(t)) {
        range_done(x, s);
        return;
    }
    if (finish_fault(x, t) || (t->fault == TRANSFER_OK && finish_status(x, t)))
        return;
    if (t->fault == TRANSFER_OK && code != CURLE_OK) {
        r = tb_http_error(code, x->d->url, t->errbuf, err);
        if (r == -EKEYREJECTED || r == -EINVAL) { /* trying again gets the same answer */
            give_up(x, false, TB_EXIT_TEMPFAIL, "%s", err);
            return;
        }
    }
    retry(x, s, code);
}

/* A response may be known good long before its range is there: others need not wait for its end. */
static void identify_early(struct run *x)
{
    if (!x->identified && x->slots[0].state == SLOT_RUNNING)
        identify(x, &x->slots[0].t);
}

static int poll_timeout_ms(const struct run *x)
{
    uint64_t now = tb_now_monotonic_us(), until = now + POLL_MS * 1000;

    if (x->drain_us)
        until = MIN(until, x->drain_us);
    for (unsigned i = 0; i < x->n_slots; i++)
        if (x->slots[i].state == SLOT_WAITING && x->drain_us == 0)
            until = MIN(until, x->slots[i].due_us);
    return until <= now ? 0 : (int)((until - now + 999) / 1000);
}

static int step(struct run *x)
{
    struct curl_waitfd stop = {.fd = x->d->stop_fd, .events = CURL_WAIT_POLLIN};
    int running, left;
    CURLMsg *msg;

    if (curl_multi_perform(x->multi, &running) != CURLM_OK)
        return verdict_set(x->v, TB_EXIT_IOERR, "libcurl failed");
    while ((msg = curl_multi_info_read(x->multi, &left))) {
        struct transfer *t;
        CURLcode code = msg->data.result;

        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        finish(x, (struct slot *)((char *)t - offsetof(struct slot, t)), code);
    }
    identify_early(x);
    if (x->v->code == 0)
        (void)x->d->progress(x->d->ctx, bytes_there(x));
    if (x->v->code != 0 && x->drain_us == 0)
        return x->v->code;
    if (start_slots(x) == 0)
        return 1;
    curl_multi_poll(x->multi, &stop, 1, poll_timeout_ms(x), NULL);
    if (stop.revents)
        return verdict_set(x->v, VERDICT_STOPPED,
                           "stopped by a signal; progress is kept, the next start goes on");
    if (x->drain_us && tb_now_monotonic_us() >= x->drain_us)
        return x->v->code;
    return 0;
}

static void run_clear(struct run *x)
{
    for (unsigned i = 0; x->slots && i < x->n_slots; i++) {
        if (x->slots[i].state == SLOT_RUNNING)
            curl_multi_remove_handle(x->multi, x->slots[i].t.easy);
        transfer_clear(&x->slots[i].t);
    }
    free(x->slots);
    if (x->multi)
        curl_multi_cleanup(x->multi);
}

static int run_init(struct run *x)
{
    x->multi = curl_multi_init();
    x->slots = calloc(x->n_slots, sizeof(*x->slots));
    if (!x->multi || !x->slots)
        return -ENOMEM;
    curl_multi_setopt(x->multi, CURLMOPT_MAXCONNECTS, (long)x->n_slots);
    for (unsigned i = 0; i < x->n_slots; i++) {
        struct transfer *t = &x->slots[i].t;

        if (transfer_init(t, x->d->tls) < 0)
            return -ENOMEM;
        t->url = x->d->url;
        t->fd = partial_fd(x->d->partial);
        t->size = x->id->size;
        t->etag = x->id->etag;
    }
    return 0;
}

int download_run(const struct download *d, struct verdict *v)
{
    struct run x = {.d = d, .v = v, .n_slots = d->concurrency};

    x.id = partial_identity(d->partial);
    x.identified = *x.id->etag != '\0';
    tb_url_redact(d->url, x.where, sizeof(x.where));
    v->code = 0;
    hasher_advance(d->hasher, ranges_prefix_bytes(partial_ranges(d->partial)));
    if (run_init(&x) < 0) {
        run_clear(&x);
        return verdict_set(v, TB_EXIT_IOERR, "out of memory for %u transfers", d->concurrency);
    }
    while (step(&x) == 0)
        ;
    run_clear(&x);
    return v->code;
}
