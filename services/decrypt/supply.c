/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/supply.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/events.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"

#define OPEN_TRIES 5             /* a file may take its final name between two looks */
#define MEND_POLL_US 50000U      /* while no tb-hydrate is at work yet */
#define WISH_AGAIN_US 1000000ULL /* so that a tb-hydrate that was just ending sees it too */

/* -- opening --------------------------------------------------------------------------------------------- */
static int supply_open_fd(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

static int supply_open_failed(const char *path, int r, struct tb_outcome *o)
{
    if (r == -ENOENT)
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished", path);
    return tb_outcome_set(o, tb_errno_is_ours(r) ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "cannot open %s: %s",
                          path, strerror(-r));
}

/* The map of a download of this very ciphertext. NULL: there is none. */
static struct tb_range_map *supply_open_map(const struct tb_supply *s)
{
    const struct tbenc_manifest *m = s->manifest;
    struct tb_range_map *map = NULL;

    if (tb_range_map_open(s->live_path, &map) < 0)
        return NULL;
    if (tb_range_map_id(map)->size != tbenc_manifest_ciphertext_bytes(m) ||
        memcmp(tb_range_map_id(map)->sha256, m->sha256_ciphertext, TBENC_SHA256_BYTES) != 0)
        return tb_range_map_free(map);
    return map;
}

/* One look. -EAGAIN: names changed meanwhile. */
static int supply_find(struct tb_supply *s)
{
    _cleanup_free_ char *part = tb_strf("%s.part", s->path);
    _cleanup_range_map_ struct tb_range_map *map = supply_open_map(s);
    uint64_t size = tbenc_manifest_ciphertext_bytes(s->manifest);
    _cleanup_close_ int fd = -ENOENT;

    if (!part)
        return -ENOMEM;
    if (map && tb_range_map_state(map) == TB_RANGE_MAP_COMING)
        fd = supply_open_fd(part);
    if (fd == -ENOENT)
        fd = supply_open_fd(s->path);
    if (map && fd == -ENOENT)
        return -EAGAIN;
    if (fd < 0)
        return fd;
    /* Of another download than the file that was just opened, or of one whose file is gone. */
    if (map && tb_range_map_state(map) == TB_RANGE_MAP_ABANDONED && !tb_range_map_has(map, 0, size, NULL))
        return -EAGAIN;
    s->fd = TAKE_FD(fd);
    s->map = TAKE_PTR(map);
    return 0;
}

static int supply_check(struct tb_supply *s, struct tb_outcome *o)
{
    uint64_t want = tbenc_manifest_ciphertext_bytes(s->manifest);
    _cleanup_free_ char *verified = tb_strf("%s.verified.json", s->path);
    struct stat st;

    if (fstat(s->fd, &st) < 0)
        return supply_open_failed(s->path, -errno, o);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != want)
        return tb_outcome_set(o, TB_EXIT_DATAERR, "%s has %jd bytes, the manifest says %" PRIu64, s->path,
                              (intmax_t)st.st_size, want);
    s->brought = s->map || (verified && access(verified, F_OK) == 0);
    tb_hex_encode(s->manifest->sha256_ciphertext, TBENC_SHA256_BYTES, s->want.sha256);
    return 0;
}

int tb_supply_open(struct tb_supply *s, const char *dir, const struct tbenc_manifest *m, struct tb_outcome *o)
{
    int r = -EAGAIN;

    *s = (struct tb_supply){.manifest = m, .fd = -1};
    pthread_mutex_init(&s->lock, NULL);
    s->name = strdup(m->weights_filename);
    s->path = tb_path_join(dir, m->weights_filename);
    s->live_path = s->path ? tb_strf("%s.part.live", s->path) : NULL;
    if (!s->name || !s->live_path)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    for (int i = 0; r == -EAGAIN && i < OPEN_TRIES; i++)
        r = supply_find(s);
    if (r == -EAGAIN)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s is being downloaded anew; start again", s->path);
    return r < 0 ? supply_open_failed(s->path, r, o) : supply_check(s, o);
}

void tb_supply_close(struct tb_supply *s)
{
    if (!s->manifest)
        return;
    if (s->want.n > 0)
        tb_supply_withdraw(s);
    s->fd = tb_close(s->fd);
    s->map = tb_range_map_free(s->map);
    tb_freep(&s->path);
    tb_freep(&s->live_path);
    tb_freep(&s->name);
    pthread_mutex_destroy(&s->lock);
    s->manifest = NULL;
}

/* -- wishes, all under the lock -------------------------------------------------------------------------- */
static bool wish_is_open(const struct tb_supply *s, const struct tb_supply_wish *w)
{
    if (w->r.repair)
        return !w->done;
    return s->map && !tb_range_map_has(s->map, w->r.offset, w->r.bytes, NULL);
}

static void wishes_write(struct tb_supply *s)
{
    int r;

    s->want.n = 0;
    for (size_t i = 0; i < s->n_wishes; i++)
        if (wish_is_open(s, &s->wishes[i]))
            s->want.r[s->want.n++] = s->wishes[i].r;
    s->written_us = tb_now_monotonic_us();
    r = s->run_dir ? tb_want_write(s->run_dir, &s->want) : -ENOENT;
    if (r == 0 && s->want.n > 0 && atomic_load(&s->mending) > 0)
        r = tb_want_call(s->run_dir);
    if (r < 0 && !s->wish_failed)
        tb_warn("cannot write " TB_WANT_NAME ": %s; tb-hydrate is not told what is waited for", strerror(-r));
    s->wish_failed = r < 0;
}

void tb_supply_wish_in(struct tb_supply *s, const char *dir)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_WANT_NAME);

    pthread_mutex_lock(&s->lock);
    s->run_dir = dir;
    if (path && access(path, F_OK) == 0)
        wishes_write(s);
    pthread_mutex_unlock(&s->lock);
}

void tb_supply_withdraw(struct tb_supply *s)
{
    pthread_mutex_lock(&s->lock);
    s->n_wishes = 0;
    if (s->run_dir)
        wishes_write(s);
    s->run_dir = NULL;
    s->wish_failed = true; /* a thread that is left behind has nothing to say of it */
    pthread_mutex_unlock(&s->lock);
}

static struct tb_supply_wish *wish_find(struct tb_supply *s, uint64_t offset, bool repair)
{
    for (size_t i = 0; i < s->n_wishes; i++)
        if (s->wishes[i].r.offset == offset && s->wishes[i].r.repair == repair)
            return &s->wishes[i];
    return NULL;
}

/* The oldest that is none any more; for a record that is to be mended also one that only hastens what comes
 * anyway. n_wishes: none. */
static size_t wish_find_dispensable(const struct tb_supply *s, bool for_repair)
{
    size_t i = 0;

    while (i < s->n_wishes && wish_is_open(s, &s->wishes[i]))
        i++;
    if (i < s->n_wishes || !for_repair)
        return i;
    for (i = 0; i < s->n_wishes && s->wishes[i].r.repair; i++)
        ;
    return i;
}

/* NULL: there are too many at once. */
static struct tb_supply_wish *wish_add(struct tb_supply *s, const struct tb_want_range *r)
{
    struct tb_supply_wish new = {.r = *r, .since_us = tb_now_monotonic_us()};

    if (s->n_wishes >= TB_WANT_MAX) {
        size_t i = wish_find_dispensable(s, r->repair);

        if (i == s->n_wishes)
            return NULL;
        memmove(&s->wishes[i], &s->wishes[i + 1], (s->n_wishes - i - 1) * sizeof(s->wishes[0]));
        s->n_wishes--;
    }
    s->wishes[s->n_wishes] = new;
    return &s->wishes[s->n_wishes++];
}

/* -- a record once more, under the lock ------------------------------------------------------------------ */
/* The map in which a record that came once more shows: of the download, or, when that has ended, the one that
 * a tb-hydrate makes which looks at the wishes. NULL: none does now. */
static const struct tb_range_map *mend_map(const struct tb_supply *s, struct tb_range_map **later)
{
    if (s->map && tb_range_map_state(s->map) == TB_RANGE_MAP_COMING)
        return s->map;
    return *later = supply_open_map(s);
}

/* It is asked for as it is there now. */
static void mend_note(const struct tb_range_map *map, struct tb_supply_wish *w)
{
    snprintf(w->instance, sizeof(w->instance), "%s", map ? tb_range_map_id(map)->instance : "");
    w->r.seen = map ? tb_range_map_seen(map, w->r.offset, w->r.bytes) : 0;
}

/* It was what the download fetched last: that has ended, and its map has no name any more. */
static bool mend_came_last(const struct tb_supply *s, const struct tb_supply_wish *w)
{
    return s->map && strcmp(tb_range_map_id(s->map)->instance, w->instance) == 0 &&
           tb_range_map_came_again(s->map, w->r.offset, w->r.bytes, w->r.seen);
}

/* The record came once more since it was found bad, and is as it is noted now. *ret_other: another tb-hydrate
 * is to do it now, for which the wish has to be written again. */
static bool mend_came(const struct tb_supply *s, struct tb_supply_wish *w, bool *ret_other)
{
    _cleanup_range_map_ struct tb_range_map *later = NULL;
    const struct tb_range_map *map = mend_map(s, &later);
    bool same = strcmp(map ? tb_range_map_id(map)->instance : "", w->instance) == 0;
    bool came;

    if (mend_came_last(s, w)) {
        mend_note(s->map, w);
        return true;
    }
    *ret_other = !same;
    came = map && tb_range_map_came_again(map, w->r.offset, w->r.bytes, same ? w->r.seen : 0);

    if (came || !same)
        mend_note(map, w);
    return came;
}

static void mend_settle(struct tb_supply *s, struct tb_supply_wish *w)
{
    w->done = true;
    atomic_fetch_sub(&s->mending, 1);
}

/* Time in which no reader waited does not count: a tb-hydrate may have come and gone. */
static void mend_watch(struct tb_supply_wish *w, uint64_t now)
{
    uint64_t unwatched = now - w->looked_us;

    if (unwatched >= TB_SUPPLY_UNWATCHED_US) {
        w->since_us += unwatched;
        w->asked_us += unwatched;
    }
    w->looked_us = now;
}

static void mend_look(struct tb_supply *s, struct tb_supply_wish *w)
{
    uint64_t now = tb_now_monotonic_us();
    bool other = false, came = mend_came(s, w, &other), nobody;

    mend_watch(w, now);
    nobody = !came && !*w->instance && now - w->asked_us >= TB_SUPPLY_CALL_US;

    w->came = came;
    if (nobody || came || *w->instance) /* else it is too soon to tell */
        s->forsaken = nobody;
    if (came)
        atomic_fetch_add(&s->refetched, 1);
    if (nobody)
        w->since_us = now - MIN(now, TB_SUPPLY_MEND_US); /* read as it is, it ends the work */
    if (came || nobody || now - w->since_us >= TB_SUPPLY_MEND_US)
        mend_settle(s, w);
    if (w->done || other || now - s->written_us >= WISH_AGAIN_US)
        wishes_write(s);
}

static bool mend_is_near(const struct tb_supply_wish *a, const struct tb_supply_wish *b)
{
    return a->r.offset < b->r.offset + b->r.bytes + TB_SUPPLY_WANT_BYTES &&
           b->r.offset < a->r.offset + a->r.bytes + TB_SUPPLY_WANT_BYTES;
}

/* The map counts by ranges: when one record of a range comes, all that are waited for in it seem to have
 * come, and are read and found bad again. So others beside this one may each cost it a try. */
static unsigned mend_tries_max(const struct tb_supply *s, const struct tb_supply_wish *w)
{
    unsigned n = TB_SUPPLY_TRIES;

    for (size_t i = 0; i < s->n_wishes; i++) {
        const struct tb_supply_wish *o = &s->wishes[i];

        n += o != w && o->r.repair && o->asked_us + TB_SUPPLY_MEND_US >= w->since_us && mend_is_near(o, w);
    }
    return n;
}

static void mend_say(const struct tb_supply *s, const struct tbenc_record *rec, int error, unsigned tries)
{
    char reason[160], record[32], what[32];
    const char *const fields[] = {reason, record, NULL};

    snprintf(reason, sizeof(reason), "TB_REASON=%s", error == -EBADMSG ? "not authentic" : strerror(-error));
    snprintf(record, sizeof(record), "TB_RECORD=%" PRIu64, rec->index);
    if (rec->ct_off == 0) /* no record is there */
        snprintf(what, sizeof(what), "the header");
    else
        snprintf(what, sizeof(what), "chunk %" PRIu64, rec->index);
    tb_log_full(TB_LOG_WARN, TB_EVENT_REPAIR_RECORD, fields,
                "%s of %s, %" PRIu32 " bytes at %" PRIu64
                ", is damaged: %s; tb-hydrate is asked to fetch it once more, try %u of %u",
                what, s->name, rec->pt_len + TBENC_RECORD_OVERHEAD, rec->ct_off, reason + 10, tries,
                MAX(tries, (unsigned)TB_SUPPLY_TRIES));
}

/* It came once more and was good for a while: what is wrong with it now is another matter. */
static bool mend_is_over(const struct tb_supply_wish *w)
{
    return w->done && w->came && tb_now_monotonic_us() - w->since_us >= TB_SUPPLY_MEND_US;
}

/* Something of its ranges came after it was taken for mended, as another record of a range may have been the
 * one that came: what was read may be of before. It is read again before it is asked for again. */
static bool mend_came_late(const struct tb_range_map *map, struct tb_supply_wish *w)
{
    struct tb_supply_wish then = *w;

    if (!w->done || !w->came || !map || !*w->instance)
        return false;
    mend_note(map, w);
    return strcmp(w->instance, then.instance) == 0 && w->r.seen != then.r.seen;
}

/* -EAGAIN: it is fetched once more, or may have come; -EBUSY: too many are at once; -EBADMSG: it was tried
 * often enough. */
static int mend_begin(struct tb_supply *s, const struct tbenc_record *rec, int error)
{
    struct tb_want_range r = {.offset = rec->ct_off,
                              .bytes = (uint64_t)rec->pt_len + TBENC_RECORD_OVERHEAD,
                              .repair = true,
                              .record = rec->index};
    struct tb_supply_wish *w = wish_find(s, rec->ct_off, true);
    _cleanup_range_map_ struct tb_range_map *later = NULL;
    const struct tb_range_map *map;

    if (w && !w->done)
        return -EAGAIN;
    map = mend_map(s, &later);
    if (!map && s->forsaken)
        return -EBADMSG;
    if (!w)
        w = wish_add(s, &r);
    if (!w)
        return -EBUSY;
    if (mend_is_over(w))
        *w = (struct tb_supply_wish){.r = r, .since_us = tb_now_monotonic_us()};
    if (w->tries >= mend_tries_max(s, w) || tb_now_monotonic_us() - w->since_us >= TB_SUPPLY_MEND_US)
        return -EBADMSG;
    if (mend_came_late(map, w))
        return -EAGAIN;
    w->tries++;
    w->r.try = (uint8_t)MIN(w->tries, (unsigned)UINT8_MAX);
    w->asked_us = w->looked_us = tb_now_monotonic_us();
    w->done = w->came = false;
    w->file = rec->file;
    atomic_fetch_add(&s->mending, 1);
    mend_note(map, w);
    wishes_write(s); /* first: who reads the log may go by it */
    mend_say(s, rec, error, w->tries);
    return -EAGAIN;
}

/* -- what readers ask ------------------------------------------------------------------------------------ */
static bool wish_touches(const struct tb_supply_wish *w, uint64_t off, uint64_t len)
{
    return w->r.repair && !w->done && w->r.offset < off + len && off < w->r.offset + w->r.bytes;
}

/* Is a record of these being fetched once more? */
static bool supply_mends(struct tb_supply *s, uint64_t off, uint64_t len)
{
    bool waits = false;

    if (atomic_load(&s->mending) == 0)
        return false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_wishes; i++)
        if (wish_touches(&s->wishes[i], off, len)) {
            mend_look(s, &s->wishes[i]);
            waits |= !s->wishes[i].done;
        }
    pthread_mutex_unlock(&s->lock);
    return waits;
}

bool tb_supply_has(struct tb_supply *s, uint64_t off, uint64_t len)
{
    return (!s->map || tb_range_map_has(s->map, off, len, NULL)) && !supply_mends(s, off, len);
}

static bool supply_wishes_for(const struct tb_supply *s, uint64_t off)
{
    for (size_t i = 0; i < s->n_wishes; i++) {
        const struct tb_want_range *r = &s->wishes[i].r;

        if (!r->repair && r->offset <= off && off - r->offset < r->bytes)
            return true;
    }
    return false;
}

/* With what a reader will want next: it need not say so for each range. */
void tb_supply_want(struct tb_supply *s, uint64_t off, uint64_t len)
{
    struct tb_want_range r = {0};
    uint64_t missing;

    if (!s->map || tb_range_map_has(s->map, off, len, &missing))
        return;
    r.offset = missing;
    r.bytes = MIN((uint64_t)TB_SUPPLY_WANT_BYTES, tb_range_map_id(s->map)->size - missing);
    pthread_mutex_lock(&s->lock);
    if (!supply_wishes_for(s, missing) && wish_add(s, &r))
        wishes_write(s);
    pthread_mutex_unlock(&s->lock);
}

static void supply_wait(struct tb_supply *s, uint32_t changes, unsigned timeout_ms)
{
    atomic_fetch_add(&s->waiting, 1);
    if (s->map && atomic_load(&s->mending) == 0)
        tb_range_map_wait(s->map, changes, timeout_ms);
    else
        usleep(MIN(timeout_ms * 1000U, MEND_POLL_US));
    atomic_fetch_sub(&s->waiting, 1);
}

void tb_supply_wait(struct tb_supply *s, unsigned timeout_ms)
{
    supply_wait(s, s->waited, timeout_ms);
    s->waited = s->map ? tb_range_map_changes(s->map) : 0;
}

bool tb_supply_lost(const struct tb_supply *s)
{
    return s->map && tb_range_map_state(s->map) == TB_RANGE_MAP_ABANDONED &&
           !tb_range_map_has(s->map, 0, tb_range_map_id(s->map)->size, NULL);
}

int tb_supply_await(struct tb_supply *s, uint64_t off, uint64_t len)
{
    uint32_t changes = s->map ? tb_range_map_changes(s->map) : 0;

    if (tb_supply_has(s, off, len))
        return 0;
    if (tb_supply_lost(s))
        return -ESTALE;
    supply_wait(s, changes, TB_SUPPLY_SLICE_MS);
    return tb_supply_has(s, off, len) ? 0 : -EAGAIN;
}

bool tb_supply_damaged(struct tb_supply *s, const struct tbenc_record *rec, int error)
{
    int r;

    if (!s->brought)
        return false;
    pthread_mutex_lock(&s->lock);
    r = s->run_dir ? mend_begin(s, rec, error) : -EBADMSG;
    pthread_mutex_unlock(&s->lock);
    if (r == -EBUSY) /* its turn comes: others are done with in a while, mended or not */
        usleep(MEND_POLL_US);
    return r != -EBADMSG;
}

bool tb_supply_mending(struct tb_supply *s, uint64_t *ret_record)
{
    bool found = false;

    if (atomic_load(&s->mending) == 0)
        return false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; !found && i < s->n_wishes; i++) {
        found = s->wishes[i].r.repair && !s->wishes[i].done;
        *ret_record = s->wishes[i].r.record;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void repairs_name(const struct tb_supply *s, const struct tb_supply_wish *w, struct tb_repairs *ret)
{
    const struct tbenc_manifest *m = s->manifest;
    struct tb_repair_record *r = &ret->r[ret->n];

    if (ret->n == TB_REPAIRS_MAX)
        return;
    *r = (struct tb_repair_record){.chunk = w->r.record,
                                   .tries = w->tries,
                                   .state = !w->done  ? TB_REPAIR_WAITING
                                            : w->came ? TB_REPAIR_FETCHED
                                                      : TB_REPAIR_GIVEN_UP};
    snprintf(r->file, sizeof(r->file), "%s", w->file < m->n_files ? m->files[w->file].path : s->name);
    tb_text_trim(r->file); /* where it is too long: JSON is UTF-8 */
    ret->n++;
}

void tb_supply_repairs(struct tb_supply *s, struct tb_repairs *ret)
{
    *ret = (struct tb_repairs){.fetched = atomic_load(&s->refetched)};
    pthread_mutex_lock(&s->lock);
    for (int done = 0; done <= 1; done++)
        for (size_t i = s->n_wishes; i-- > 0;) { /* the latest first */
            const struct tb_supply_wish *w = &s->wishes[i];

            if (!w->r.repair || w->done != (bool)done)
                continue;
            ret->waiting += !w->done;
            repairs_name(s, w, ret);
        }
    pthread_mutex_unlock(&s->lock);
}

/* -- for the cache --------------------------------------------------------------------------------------- */
static bool ciphertext_has(void *ctx, uint64_t from, uint64_t to)
{
    return tb_supply_has(ctx, from, to - from);
}

static void ciphertext_want(void *ctx, uint64_t from, uint64_t to)
{
    tb_supply_want(ctx, from, to - from);
}

static void ciphertext_wait(void *ctx, int timeout_ms)
{
    tb_supply_wait(ctx, (unsigned)MAX(timeout_ms, 0));
}

static int ciphertext_await(void *ctx, uint64_t from, uint64_t to)
{
    return tb_supply_await(ctx, from, to - from);
}

static bool ciphertext_damaged(void *ctx, const struct tbenc_record *rec, int error)
{
    return tb_supply_damaged(ctx, rec, error);
}

struct tb_ciphertext tb_supply_ciphertext(struct tb_supply *s)
{
    struct tb_ciphertext c = {.fd = s->fd, .ctx = s, .await = ciphertext_await};

    if (!s->map && !s->brought)
        return c;
    c.damaged = ciphertext_damaged;
    c.has = ciphertext_has;
    c.want = ciphertext_want;
    c.wait = ciphertext_wait;
    return c;
}
