/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "common/units.h"
#include "hydrate/download_state.h"

/* Of a file system. Some say much more, to have much read at once. */
#define SLOT_BLOCK_MIN 4096
#define SLOT_BLOCK_MAX 65536

/* The place that is to give it, but for a mirror, without secrets. */
static const char *slot_storage(const struct download_state *x, const struct download_slot *s,
                                char other[static sizeof(x->where)])
{
    return s->elsewhere ? tb_url_redact(s->elsewhere, other, sizeof(x->where)) : x->where;
}

/* Why an attempt failed, without secrets. */
static void slot_describe(const struct download_state *x, struct download_slot *s, CURLcode code, char *out,
                          size_t len)
{
    struct transfer *t = &s->t;
    char err[TB_HTTP_ERR_MAX], other[sizeof(x->where)];
    const char *where = t->mirror ? x->d->mirror->where : slot_storage(x, s, other);

    if (t->fault != TRANSFER_OK) {
        snprintf(out, len, "%s: %s", where, t->why);
    } else if (t->status >= 300) {
        snprintf(out, len, "%s: status %ld%s%s", where, t->status, *t->error_code ? " " : "", t->error_code);
    } else if (code != CURLE_OK) {
        tb_http_error(code, t->url, t->errbuf, err);
        snprintf(out, len, "%s", err);
    } else {
        snprintf(out, len, "%s: the body ended early", where);
    }
}

/* The storage itself says what the blob is, by its first range too: a mirror that lies about these would
 * have the whole download refused. */
static bool slot_may_mirror(const struct download_state *x, const struct download_slot *s)
{
    return x->d->mirror && x->identified && !s->repair && !s->no_mirror && s->t.start > 0 &&
           mirror_may_ask(x->d->mirror, tb_now_monotonic_us());
}

static void slot_start(struct download_state *x, struct download_slot *s)
{
    s->t.mirror = slot_may_mirror(x, s);
    s->t.awaited = s->repair;
    s->t.url = s->t.mirror ? x->d->mirror->url : s->elsewhere ? s->elsewhere : x->d->url;
    s->t.etag = s->elsewhere ? "" : x->id->etag; /* another place has tags of its own */
    s->had = s->t.start + s->t.got;
    if (s->t.mirror)
        mirror_ask(x->d->mirror);
    if (transfer_begin(&s->t) < 0 || curl_multi_add_handle(s->multi, s->t.easy) != CURLM_OK) {
        s->state = SLOT_IDLE;
        download_give_up(x, true, TB_EXIT_IOERR, "out of memory for a transfer");
        return;
    }
    s->state = SLOT_RUNNING;
}

static bool download_holds(const struct download_state *x, bool repair, uint64_t off)
{
    for (unsigned i = 0; i < x->n_slots; i++) {
        const struct download_slot *s = &x->slots[i];

        if (s->state != SLOT_IDLE && s->repair == repair && s->t.start <= off && off < s->t.end)
            return true;
    }
    return false;
}

/* The first range from i on that is neither there nor on its way; ranges->n: none. */
static uint64_t download_next_open(const struct download_state *x, uint64_t i)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);

    do
        i = ranges_next_missing(ranges, i);
    while (i < ranges->n && download_holds(x, false, ranges_start(ranges, i)) && ++i < ranges->n);
    return i;
}

static void slot_take(struct download_slot *s, uint64_t start, uint64_t len)
{
    s->t.start = start;
    s->t.end = start + len;
    s->t.got = 0;
    s->wrong_answers = 0;
    s->no_mirror = false;
    s->elsewhere = NULL;
    s->backoff = (struct tb_backoff){.base_ms = DOWNLOAD_BACKOFF_BASE_MS, .cap_ms = DOWNLOAD_BACKOFF_CAP_MS};
}

/* How many ranges from i on are asked for at once. While much is missing a request ends at a multiple of its
 * size, as mirrors cut the file; the less there is left, the less each has, so that all end together. */
static uint64_t slot_stride(const struct download_state *x, uint64_t i)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t whole = MAX(x->d->request_bytes / ranges->chunk, 1U);
    uint64_t share = MAX((ranges->n - i) / (2ULL * x->n_slots), 1U);

    return ranges->n <= whole ? whole : MIN(share, whole - i % whole);
}

/* Range i, and what is missing too of those behind it. Returns the first that it does not take. */
static uint64_t slot_take_ranges(const struct download_state *x, struct download_slot *s, uint64_t i)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t stride = slot_stride(x, i), end = i + 1;

    while (end < MIN(i + stride, ranges->n) && download_next_open(x, end) == end)
        end++;
    s->repair = false;
    slot_take(s, ranges_start(ranges, i), MIN(end * ranges->chunk, ranges->size) - ranges_start(ranges, i));
    return end;
}

/* The disk does not give back what is to be fetched once more. Then it cannot be written in parts of blocks
 * either, for whose rest they would have to be read. */
static bool slot_is_unreadable(const struct download_state *x, const struct download_slot *s)
{
    char piece[65536];
    ssize_t n = 1;

    for (uint64_t at = s->t.start; n > 0 && at < s->t.end; at += (uint64_t)n)
        n = tb_pread_full(partial_fd(x->d->partial), piece, MIN(sizeof(piece), s->t.end - at), at);
    return n < 0 && tb_errno_is_disk((int)n);
}

/* Whole blocks are emptied, which reads nothing, and fetched, with what else is in them. Where a file system
 * cannot do that, writing fails. */
static void slot_widen(const struct download_state *x, struct download_slot *s)
{
    uint64_t start, end, block = SLOT_BLOCK_MIN;
    int fd = partial_fd(x->d->partial);
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_blksize > SLOT_BLOCK_MIN)
        block = MIN((uint64_t)st.st_blksize, (uint64_t)SLOT_BLOCK_MAX);
    start = s->t.start / block * block;
    end = MIN((s->t.end + block - 1) / block * block, s->t.size);
    if (fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)(end - start)) < 0)
        return;
    tb_info("the disk does not give chunk %" PRIu64 " back: its blocks are written anew", s->record);
    slot_take(s, start, end - start);
}

/* The place that is asked next for the slot's record, from its beginning. */
static void slot_turn(struct download_state *x, struct download_slot *s)
{
    int place = turns_place(turns_next(&x->turns, s->wish, s->try), x->d->n_others);

    s->elsewhere = place >= 0 ? x->d->others[place] : NULL;
    if (x->d->n_others > 0)
        s->t.got = 0;
}

static void slot_say_repair(const struct download_state *x, const struct download_slot *s,
                            const struct tb_want_range *r)
{
    char other[sizeof(x->where)];
    const char *where = slot_storage(x, s, other);

    if (r->offset == 0) /* where no record is */
        tb_info("fetching the header once more, %" PRIu64 " bytes, from %s", r->bytes, where);
    else
        tb_info("fetching chunk %" PRIu64 " once more, %" PRIu64 " bytes at %" PRIu64 ", from %s", r->record,
                r->bytes, r->offset, where);
}

/* What somebody waits for, if it is not there or on its way. */
static bool slot_take_wish(struct download_state *x, struct download_slot *s, const struct tb_want_range *r)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t i = r->offset / ranges->chunk;

    if (!r->repair) {
        i = download_next_open(x, i);
        if (i >= ranges->n || ranges_start(ranges, i) >= r->offset + r->bytes)
            return false;
        (void)slot_take_ranges(x, s, i);
        return true;
    }
    if (!partial_wants_again(x->d->partial, r->offset, r->bytes, r->seen) ||
        download_holds(x, true, r->offset))
        return false;
    s->repair = true;
    s->record = r->record;
    s->wish = r->offset;
    s->try = r->try;
    slot_take(s, r->offset, r->bytes);
    if (slot_is_unreadable(x, s)) /* whoever gave it */
        slot_widen(x, s);
    else if (x->d->mirror)
        mirror_doubt(x->d->mirror, i, (r->offset + r->bytes - 1) / ranges->chunk);
    slot_turn(x, s);
    slot_say_repair(x, s, r);
    return true;
}

/* Gives an idle slot a wish, or the next missing ranges. false when there are none. */
static bool slot_assign(struct download_state *x, struct download_slot *s)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t i = x->cursor;

    for (size_t k = 0; k < x->wishes.want.n; k++)
        if ((!s->mends || x->wishes.want.r[k].repair) && slot_take_wish(x, s, &x->wishes.want.r[k]))
            return true;
    if (s->urgent)
        return false;
    i = download_next_open(x, i);
    if (i >= ranges->n)
        return false;
    x->cursor = slot_take_ranges(x, s, i);
    return true;
}

/* The first response that is right says which blob this is; If-Match holds all others to it. */
static void download_identify(struct download_state *x, const struct transfer *t)
{
    if (x->identified || !t->accepted)
        return;
    x->identified = true;
    download_wake(x);
    if (*t->response_etag)
        partial_set_etag(x->d->partial, t->response_etag);
    else
        tb_warn("%s has no strong ETag: a blob replaced during the download shows only in its hash",
                x->where);
}

/* A record that comes once more while ranges have still to come: whatever is answered to it ends nothing, the
 * ranges have more time, and the wish is still there then, or not. */
static bool slot_is_spare(const struct download_state *x, const struct download_slot *s)
{
    return s->repair && x->d->linger_ms == 0;
}

static void slot_retry(struct download_state *x, struct download_slot *s, CURLcode code)
{
    char why[TB_OUTCOME_REASON_MAX - 160];
    uint64_t delay_ms;

    slot_describe(x, s, code, why, sizeof(why));
    if (s->t.fault == TRANSFER_PROTOCOL) {
        s->t.got = 0; /* nothing this server sent for the range is worth keeping */
        if (++s->wrong_answers >= DOWNLOAD_PROTOCOL_TRIES && !slot_is_spare(x, s)) {
            download_give_up(x, false, TB_EXIT_DATAERR,
                             "%s, %u times; the server or a proxy on the way does not serve ranges correctly",
                             why, s->wrong_answers);
            return;
        }
    }
    if (s->backoff.attempt + 1 >= DOWNLOAD_TRIES) {
        if (slot_is_spare(x, s)) {
            s->state = SLOT_IDLE;
            return;
        }
        download_give_up(x, false, TB_EXIT_TEMPFAIL,
                         "%s, after %d attempts; progress is kept, the next start goes on", why,
                         DOWNLOAD_TRIES);
        return;
    }
    delay_ms = tb_backoff_next_ms(&s->backoff, s->t.retry_after_ms);
    if (s->repair) /* of the time that its reader waits much is better spent on trying */
        delay_ms = MIN(delay_ms, (uint64_t)DOWNLOAD_REPAIR_CAP_MS);
    tb_info("range at %" PRIu64 ": %s; again in %" PRIu64 " ms", s->t.start, why, delay_ms);
    s->due_us = tb_now_monotonic_us() + delay_ms * 1000;
    s->state = SLOT_WAITING;
    if (s->repair)
        slot_turn(x, s);
}

/* The first of the slot's ranges came, and is not its any more. false: the download ends. */
static bool slot_mark_first(struct download_state *x, struct download_slot *s)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);
    uint64_t i = s->t.start / ranges->chunk, len = ranges_len(ranges, i), end = s->t.start + len;
    int r = partial_mark(x->d->partial, i);

    if (r < 0) {
        download_give_up_io(x, r, "cannot record progress of");
        return false;
    }
    if (s->t.mirror)
        mirror_gave(x->d->mirror, i, MIN(len, end - MIN(s->had, end)));
    s->t.start = end;
    s->t.got -= len;
    if (x->d->hasher)
        hasher_advance(x->d->hasher, ranges_prefix_bytes(ranges));
    return true;
}

void slot_mark(struct download_state *x, struct download_slot *s)
{
    const struct ranges *ranges = partial_ranges(x->d->partial);

    /* Who answers 200 gives nothing but the whole, and what breaks off has to begin anew. */
    if (s->state != SLOT_RUNNING || s->repair || s->t.status != 206)
        return;
    while (s->t.got >= ranges->chunk && s->t.start + ranges->chunk < s->t.end && slot_mark_first(x, s))
        ;
}

static void slot_done(struct download_state *x, struct download_slot *s)
{
    s->state = SLOT_IDLE;
    if (s->repair)
        partial_renew(x->d->partial, s->t.start, s->t.end - s->t.start);
    while (!s->repair && s->t.start < s->t.end && slot_mark_first(x, s))
        ;
    s->t.got = 0;
}

/* It is known what the blob is that is asked: not only that one in another place gave ranges. */
static bool slot_knows_blob(const struct download_state *x)
{
    return x->identified || (partial_ranges(x->d->partial)->bytes > 0 && x->d->n_others == 0);
}

/* Another size than the manifest's, of a blob that had the right one a moment ago. If-Match says that it is
 * the same, so the answer is wrong, as the next may not be; without a tag another blob has taken its
 * place. */
static bool slot_finish_size(struct download_state *x, struct transfer *t)
{
    char total[32];

    if (!slot_knows_blob(x))
        return false;
    if (!*t->etag) {
        download_give_up(x, true, HYDRATE_CHANGED, "%s was replaced during the download", x->where);
        return true;
    }
    snprintf(total, sizeof(total), "%.31s", t->why);
    t->fault = TRANSFER_PROTOCOL;
    snprintf(t->why, sizeof(t->why), "an answer says that it has %s bytes", total);
    return false;
}

/* Faults found by the slot itself that no retry helps. true when handled. */
static bool slot_finish_fault(struct download_state *x, struct transfer *t)
{
    if (t->fault == TRANSFER_SIZE && slot_finish_size(x, t))
        return true;
    switch (t->fault) {
    case TRANSFER_SIZE:
        download_give_up(x, true, TB_EXIT_DATAERR,
                         "%s has %s bytes, its manifest says %" PRIu64
                         "; upload blob and manifest of the same encryption",
                         x->where, t->why, t->size);
        return true;
    case TRANSFER_CHANGED:
        download_give_up(x, true, HYDRATE_CHANGED, "%s was replaced during the download", x->where);
        return true;
    case TRANSFER_IO:
        download_give_up_io(x, t->io_error, "cannot write");
        return true;
    default:
        return false;
    }
}

/* 304, though nothing was asked on a condition that allows it; and 416 of a blob that gave ranges a moment
 * ago: one such answer, of a cache on the way, is as wrong as a range of another place, and the next may not
 * be. Without a tag another blob, a shorter one, may have taken its place. */
static void slot_finish_contradiction(struct download_state *x, struct transfer *t)
{
    uint64_t total;

    if (t->status != 304 && (t->status != 416 || !slot_knows_blob(x)))
        return;
    if (t->status == 416 && !*t->etag &&
        content_range_total(t->range_text, strlen(t->range_text), &total) == 0 && total < t->size) {
        t->fault = TRANSFER_CHANGED;
        return;
    }
    t->fault = TRANSFER_PROTOCOL;
    snprintf(t->why, sizeof(t->why), "status %ld to a range that it has", t->status);
}

/* 416: the range asked for is not there, or so it says. */
static void slot_finish_no_range(struct download_state *x, const struct transfer *t)
{
    uint64_t total;

    if (content_range_total(t->range_text, strlen(t->range_text), &total) == 0 && total >= t->size)
        download_give_up(x, true, TB_EXIT_DATAERR,
                         "%s: status 416 to a range that its %" PRIu64
                         " bytes have; the server or a proxy on the way does not serve ranges correctly",
                         x->where, total);
    else
        download_give_up(x, true, TB_EXIT_DATAERR,
                         "%s is shorter than the %" PRIu64 " bytes its manifest says (status 416%s%s); "
                         "upload blob and manifest of the same encryption",
                         x->where, t->size, *t->range_text ? ", Content-Range " : "", t->range_text);
}

/* Statuses that no retry helps. true when handled. */
static bool slot_finish_status(struct download_state *x, struct transfer *t)
{
    const char *space = *t->error_code ? " " : "";
    char text[TB_OUTCOME_REASON_MAX];

    if (t->status < 300 || tb_http_status_retryable(t->status))
        return false;
    if (t->status < 400)
        download_give_up(x, false, TB_EXIT_CONFIG, "%s",
                         hydrate_redirect_text(x->where, t->status, t->redirect, text));
    else if (t->status == 401 || t->status == 403)
        download_give_up(
            x, false, TB_EXIT_TEMPFAIL,
            "%s refused access: status %ld%s%s; progress is kept, a restart asks for a fresh SAS URL",
            x->where, t->status, space, t->error_code);
    else if (t->status == 404 || t->status == 410)
        download_give_up(x, false, TB_EXIT_NOINPUT, "%s: status %ld%s%s; upload the asset with tbpkg upload",
                         x->where, t->status, space, t->error_code);
    else if (t->status == 412)
        download_give_up(x, true, HYDRATE_CHANGED, "%s was replaced during the download", x->where);
    else if (t->status == 416)
        slot_finish_no_range(x, t);
    else
        download_give_up(x, false, TB_EXIT_TEMPFAIL,
                         "%s: unexpected status %ld%s%s; progress is kept, the next start goes on", x->where,
                         t->status, space, t->error_code);
    return true;
}

/* The mirror answered, or did not. true: what it gave is not the range, and the storage is asked next. What
 * it sent in good order until it broke off is kept. */
static bool slot_finish_mirror(struct download_state *x, struct download_slot *s, CURLcode code)
{
    char why[TB_OUTCOME_REASON_MAX - 160];
    struct transfer *t = &s->t;

    if (code == CURLE_OK && transfer_complete(t)) {
        mirror_answer(x->d->mirror);
        return false;
    }
    if (t->fault == TRANSFER_IO) { /* not its fault */
        x->d->mirror->asked--;
        return false;
    }
    slot_describe(x, s, code, why, sizeof(why));
    if (t->fault != TRANSFER_OK)
        t->got = 0;
    mirror_fail(x->d->mirror, t->start / t->unit, t->got > 0 && t->start + t->got > s->had, why,
                tb_now_monotonic_us());
    s->no_mirror = true;
    return true;
}

/* What another place lacks of a record, the one of the download may have: it ends nothing. */
static bool slot_finish_elsewhere(struct download_state *x, struct download_slot *s, CURLcode code)
{
    char why[TB_OUTCOME_REASON_MAX - 160];

    if (!s->elsewhere || s->t.fault == TRANSFER_IO || (code == CURLE_OK && transfer_complete(&s->t)))
        return false;
    slot_describe(x, s, code, why, sizeof(why));
    tb_warn("another place does not give chunk %" PRIu64 ": %s; the next one is asked", s->record, why);
    slot_turn(x, s);
    return true;
}

/* What the next range would hear as well: another blob, a URL that is over, a disk that does not take it. */
static bool slot_is_for_all(const struct transfer *t)
{
    return t->fault == TRANSFER_CHANGED || t->fault == TRANSFER_IO ||
           (t->fault == TRANSFER_OK && (t->status == 401 || t->status == 403 || t->status == 412));
}

void slot_finish(struct download_state *x, struct download_slot *s, CURLcode code)
{
    struct transfer *t = &s->t;
    char err[TB_HTTP_ERR_MAX];
    int r;

    curl_multi_remove_handle(s->multi, t->easy);
    transfer_settle(t);
    if (t->fault == TRANSFER_OK) /* also where it broke off: they are there, and who gave them is known */
        slot_mark(x, s);
    s->state = SLOT_WAITING;
    s->due_us = 0;
    if (t->mirror && slot_finish_mirror(x, s, code))
        return;
    if (slot_finish_elsewhere(x, s, code))
        return;
    if (!t->mirror && !s->elsewhere)
        download_identify(x, t);
    if (code == CURLE_OK && transfer_complete(t)) {
        slot_done(x, s);
        return;
    }
    if (t->fault == TRANSFER_OK)
        slot_finish_contradiction(x, t);
    if (slot_is_spare(x, s) && !slot_is_for_all(t)) {
        slot_retry(x, s, code);
        return;
    }
    if (slot_finish_fault(x, t) || (t->fault == TRANSFER_OK && slot_finish_status(x, t)))
        return;
    if (t->fault == TRANSFER_OK && code != CURLE_OK) {
        r = tb_http_error(code, x->d->url, t->errbuf, err);
        if (r == -EKEYREJECTED || r == -EINVAL) { /* trying again gets the same answer */
            download_give_up(x, false, TB_EXIT_TEMPFAIL, "%s", err);
            return;
        }
    }
    slot_retry(x, s, code);
}

void slot_identify_early(struct download_state *x, const struct download_slot *s)
{
    if (!x->identified && s->state == SLOT_RUNNING && !s->elsewhere)
        download_identify(x, &s->t);
}

void slot_advance(struct download_state *x, struct download_slot *s, uint64_t now_us)
{
    if (x->drain_us != 0 || (!x->identified && s != x->slots))
        return;
    if (s->state == SLOT_WAITING ? s->due_us <= now_us : s->state == SLOT_IDLE && slot_assign(x, s))
        slot_start(x, s);
}
