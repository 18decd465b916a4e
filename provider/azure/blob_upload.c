/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob_upload.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "common/base64.h"
#include "common/io.h"
#include "common/units.h"

#define POLL_MS 200
#define NAMERS_MAX 8
#define SECONDS_PER_BLOCK 8

/* A block's way through the ring: EMPTY -> (feed) FILLING -> READ -> (a namer) NAMING -> NAMED -> (sender)
 * ADMITTED -> SENDING <-> WAITING -> EMPTY. A block belongs to the thread that may move it on. */
enum block_slot_state {
    SLOT_EMPTY,
    SLOT_FILLING,
    SLOT_READ,
    SLOT_NAMING,
    SLOT_NAMED,
    SLOT_ADMITTED,
    SLOT_SENDING,
    SLOT_WAITING
};

struct block_slot {
    enum block_slot_state state;
    struct blob_block block;
    uint8_t *buf;
    char md5_base64[BLOB_MD5_BASE64 + 1];
    struct blob_exchange x;
    struct tb_backoff backoff;
    uint64_t not_before_us;
};

struct block_engine;

struct blob_feed {
    struct block_engine *e;
    struct block_slot *slot; /* being filled, or NULL */
    size_t next;             /* index of the block after it */
};

struct block_engine {
    const struct blob_upload *u;
    size_t n_blocks, n_slots;
    struct block_slot *slots;
    CURLM *multi;
    struct blob_feed feed;
    pthread_t threads[1 + NAMERS_MAX];
    unsigned n_threads;
    pthread_mutex_t lock; /* slot states, n_named, stop, feed_error */
    pthread_cond_t moved;
    bool stop;
    size_t n_named;
    int feed_error; /* -errno of the feed or a namer */
    /* sender only */
    size_t n_done, n_sending;
    unsigned concurrency;
    uint64_t shown;
    struct blob_upload_result result;
    struct blob_fault *fault;
};

static void blocks_set_state(struct block_engine *e, struct block_slot *s, enum block_slot_state state)
{
    pthread_mutex_lock(&e->lock);
    s->state = state;
    pthread_cond_broadcast(&e->moved);
    pthread_mutex_unlock(&e->lock);
}

static void blocks_feed_failed(struct block_engine *e, int r)
{
    pthread_mutex_lock(&e->lock);
    if (e->feed_error == 0)
        e->feed_error = r;
    pthread_cond_broadcast(&e->moved);
    pthread_mutex_unlock(&e->lock);
    curl_multi_wakeup(e->multi);
}

/* -- feed and namers --------------------------------------------------------------------------- */

/* Waits for a slot in state `from` and moves it to `to`. NULL: stop, or no block is left to name. */
static struct block_slot *blocks_take(struct block_engine *e, enum block_slot_state from,
                                      enum block_slot_state to)
{
    struct block_slot *found = NULL;

    pthread_mutex_lock(&e->lock);
    while (!e->stop && e->feed_error == 0 && !found && (from != SLOT_READ || e->n_named < e->n_blocks)) {
        for (size_t i = 0; i < e->n_slots && !found; i++)
            if (e->slots[i].state == from)
                found = &e->slots[i];
        if (!found)
            pthread_cond_wait(&e->moved, &e->lock);
    }
    if (found) {
        found->state = to;
        e->n_named += to == SLOT_NAMING;
        if (e->n_named == e->n_blocks)
            pthread_cond_broadcast(&e->moved); /* the other namers are done */
    }
    pthread_mutex_unlock(&e->lock);
    return found;
}

static size_t blocks_len(const struct block_engine *e, size_t index)
{
    return (size_t)MIN(e->u->size - (uint64_t)index * e->u->block_bytes, (uint64_t)e->u->block_bytes);
}

uint8_t *blob_feed_room(struct blob_feed *f, size_t *ret_n)
{
    struct block_engine *e = f->e;

    if (!f->slot && f->next == e->n_blocks) {
        blocks_feed_failed(e, -EBADMSG); /* more than was announced */
        return NULL;
    }
    if (!f->slot) {
        f->slot = blocks_take(e, SLOT_EMPTY, SLOT_FILLING);
        if (!f->slot)
            return NULL;
        f->slot->block = (struct blob_block){.index = f->next++};
    }
    *ret_n = blocks_len(e, f->slot->block.index) - f->slot->block.len;
    return f->slot->buf + f->slot->block.len;
}

void blob_feed_advance(struct blob_feed *f, size_t n)
{
    struct block_slot *s = f->slot;

    s->block.len += n;
    if (s->block.len < blocks_len(f->e, s->block.index))
        return;
    f->slot = NULL;
    blocks_set_state(f->e, s, SLOT_READ);
}

int blob_feed_write(struct blob_feed *f, const void *buf, size_t n)
{
    const uint8_t *p = buf;

    while (n > 0) {
        size_t room, k;
        uint8_t *to = blob_feed_room(f, &room);

        if (!to)
            return -ECANCELED;
        k = MIN(room, n);
        memcpy(to, p, k);
        blob_feed_advance(f, k);
        p += k;
        n -= k;
    }
    return 0;
}

static void *blocks_feed_main(void *ctx)
{
    struct block_engine *e = ctx;
    int r = e->u->feed(e->u->feed_ctx, &e->feed);

    if (r == 0 && (e->feed.slot || e->feed.next < e->n_blocks))
        r = -EBADMSG; /* fewer than were announced */
    if (r < 0)
        blocks_feed_failed(e, r);
    return NULL;
}

static int blocks_name(struct block_engine *e, struct block_slot *s)
{
    struct blob_block *b = &s->block;
    unsigned n = sizeof(b->sha256);

    if (blob_md5(s->buf, b->len, b->md5) < 0 ||
        (e->u->admit && EVP_Digest(s->buf, b->len, b->sha256, &n, EVP_sha256(), NULL) != 1))
        return -EIO;
    tb_base64_encode(b->md5, sizeof(b->md5), s->md5_base64);
    blob_block_id(b->index, e->u->session, b->md5, b->id);
    return 0;
}

static void *blocks_namer_main(void *ctx)
{
    struct block_engine *e = ctx;
    struct block_slot *s;

    while ((s = blocks_take(e, SLOT_READ, SLOT_NAMING))) {
        int r = blocks_name(e, s);

        if (r < 0) {
            blocks_feed_failed(e, r);
            return NULL;
        }
        blocks_set_state(e, s, SLOT_NAMED);
        curl_multi_wakeup(e->multi);
    }
    return NULL;
}

/* -- sender ------------------------------------------------------------------------------------ */

static void blocks_block_done(struct block_engine *e, struct block_slot *s, bool blocks_sent)
{
    memcpy(e->result.ids[s->block.index], s->block.id, sizeof(s->block.id));
    if (blocks_sent)
        e->result.bytes_sent += s->block.len;
    else
        e->result.bytes_resumed += s->block.len;
    e->n_done++;
    blocks_set_state(e, s, SLOT_EMPTY);
}

static int blocks_out_of_memory(struct block_engine *e)
{
    snprintf(e->fault->reason, sizeof(e->fault->reason), "out of memory");
    return -ENOMEM;
}

/* Each transfer's share of the bandwidth; 0: no limit. */
static curl_off_t blocks_speed(const struct block_engine *e)
{
    return e->u->bandwidth ? (curl_off_t)MAX(e->u->bandwidth / e->concurrency, UINT64_C(1)) : 0;
}

static int blocks_send_block(struct block_engine *e, struct block_slot *s)
{
    const struct blob_client *c = e->u->client;
    char renew_err[TB_AZURE_ERR_MAX];
    const struct blob_request rq = {
        .method = "PUT",
        .path = e->u->path,
        .query = {{"comp", "block"}, {"blockid", s->block.id}},
        .headers = {{"Content-Type", "application/octet-stream"}, {"Content-MD5", s->md5_base64}},
        .body = s->buf,
        .body_len = s->block.len,
    };

    if (c->auth && azure_auth_renew_due(c->auth))
        (void)azure_auth_renew(c->auth, renew_err);
    if (blob_exchange_prepare(c, &rq, 0, &s->x) < 0 ||
        curl_easy_setopt(s->x.curl, CURLOPT_PRIVATE, s) != CURLE_OK ||
        curl_easy_setopt(s->x.curl, CURLOPT_MAX_SEND_SPEED_LARGE, blocks_speed(e)) != CURLE_OK ||
        curl_multi_add_handle(e->multi, s->x.curl) != CURLM_OK)
        return blocks_out_of_memory(e);
    e->n_sending++;
    blocks_set_state(e, s, SLOT_SENDING);
    return 0;
}

static bool blocks_is_staged(const struct block_engine *e, const struct block_slot *s)
{
    const struct blob_staged *b = e->u->staged ? blob_staged_find(e->u->staged, s->block.id) : NULL;

    return e->u->only_compare || (b && b->size == s->block.len);
}

static enum block_slot_state blocks_state(struct block_engine *e, const struct block_slot *s)
{
    enum block_slot_state state;

    pthread_mutex_lock(&e->lock);
    state = s->state;
    pthread_mutex_unlock(&e->lock);
    return state;
}

/* All blocks that got their names since are judged together, before a byte of one of them leaves. */
static int blocks_admit(struct block_engine *e)
{
    const struct blob_block *batch[BLOB_CONCURRENCY_MAX + 2];
    struct block_slot *slots[BLOB_CONCURRENCY_MAX + 2];
    size_t n = 0;
    int r = 0;

    for (size_t i = 0; i < e->n_slots; i++)
        if (blocks_state(e, &e->slots[i]) == SLOT_NAMED) {
            batch[n] = &e->slots[i].block;
            slots[n++] = &e->slots[i];
        }
    if (n > 0 && e->u->admit)
        r = e->u->admit(e->u->feed_ctx, batch, n);
    for (size_t i = 0; r == 0 && i < n; i++)
        blocks_set_state(e, slots[i], SLOT_ADMITTED);
    if (r < 0)
        snprintf(e->fault->reason, sizeof(e->fault->reason), "%s", strerror(-r));
    return r;
}

/* Takes each block that is due. *ret_wait_ms: until the next one that only waits for its time. */
static int blocks_start_due(struct block_engine *e, uint64_t *ret_wait_ms)
{
    uint64_t now = tb_now_monotonic_us();
    int r = blocks_admit(e);

    *ret_wait_ms = POLL_MS;
    for (size_t i = 0; i < e->n_slots && r == 0; i++) {
        struct block_slot *s = &e->slots[i];
        enum block_slot_state state = blocks_state(e, s);

        if (state == SLOT_ADMITTED && blocks_is_staged(e, s))
            blocks_block_done(e, s, false);
        else if (e->n_sending >= e->concurrency)
            continue;
        else if (state == SLOT_ADMITTED || (state == SLOT_WAITING && s->not_before_us <= now))
            r = blocks_send_block(e, s);
        else if (state == SLOT_WAITING)
            *ret_wait_ms = MIN(*ret_wait_ms, (s->not_before_us - now) / 1000 + 1);
    }
    return r;
}

static int blocks_sent(struct block_engine *e, struct block_slot *s, CURLcode code)
{
    const struct blob_client *c = e->u->client;
    char err[TB_HTTP_ERR_MAX], renew_err[TB_AZURE_ERR_MAX];
    struct blob_reply reply;
    bool renewed = false;
    int64_t after = -1;
    int r;

    r = blob_exchange_finish(&s->x, code, &reply, err);
    curl_multi_remove_handle(e->multi, s->x.curl);
    e->n_sending--;
    if (r == 0 && reply.status == 201) {
        s->backoff.attempt = 0;
        blocks_block_done(e, s, true);
        return 0;
    }
    /* A refused token may just have expired under us; a network that answered before may lose its names for a
     * while. */
    if (r == 0 && reply.status == 401 && c->auth)
        renewed = azure_auth_renew(c->auth, renew_err) == 0;
    if ((!renewed && r != -EHOSTUNREACH && !blob_retryable(r, &reply)) || s->backoff.attempt >= c->retries) {
        blob_explain(c, r, &reply, err, e->fault);
        return r < 0 ? r : -EREMOTEIO;
    }
    if (r == 0)
        after = reply.retry_after_ms;
    s->not_before_us = tb_now_monotonic_us() + (tb_backoff_next_ms(&s->backoff, after) * 1000);
    e->result.retries++;
    blocks_set_state(e, s, SLOT_WAITING);
    return 0;
}

static int blocks_collect(struct block_engine *e)
{
    struct CURLMsg *m;
    int left, r = 0;

    while (r == 0 && (m = curl_multi_info_read(e->multi, &left))) {
        struct block_slot *s = NULL;

        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&s);
        r = blocks_sent(e, s, m->data.result);
    }
    return r;
}

static void blocks_show_progress(struct block_engine *e)
{
    uint64_t done = e->result.bytes_sent + e->result.bytes_resumed;
    unsigned attempt = 0;

    if (!e->u->progress)
        return;
    for (size_t i = 0; i < e->n_slots; i++) {
        struct block_slot *s = &e->slots[i];
        enum block_slot_state state = blocks_state(e, s);
        curl_off_t n = 0;

        if (state == SLOT_SENDING || state == SLOT_WAITING)
            attempt = MAX(attempt, s->backoff.attempt);
        if (state == SLOT_SENDING && curl_easy_getinfo(s->x.curl, CURLINFO_SIZE_UPLOAD_T, &n) == CURLE_OK)
            done += MIN((uint64_t)n, s->block.len);
    }
    e->shown = MAX(e->shown, done); /* a repeated block does not make the bar run backwards */
    e->u->progress(e->u->progress_ctx, e->shown, e->result.bytes_resumed, attempt);
}

static int blocks_feed_error(struct block_engine *e)
{
    int r;

    pthread_mutex_lock(&e->lock);
    r = e->feed_error;
    pthread_mutex_unlock(&e->lock);
    if (r < 0)
        snprintf(e->fault->reason, sizeof(e->fault->reason), "reading it: %s",
                 r == -EBADMSG ? "it became shorter" : strerror(-r));
    return r;
}

static int blocks_send_all(struct block_engine *e)
{
    int running, r = 0;

    while (r == 0 && e->n_done < e->n_blocks) {
        uint64_t wait_ms;

        r = blocks_start_due(e, &wait_ms);
        if (r == 0 && (curl_multi_perform(e->multi, &running) != CURLM_OK ||
                       curl_multi_poll(e->multi, NULL, 0, (int)wait_ms, NULL) != CURLM_OK ||
                       curl_multi_perform(e->multi, &running) != CURLM_OK))
            r = blocks_out_of_memory(e);
        if (r == 0)
            r = blocks_collect(e);
        if (r == 0)
            r = blocks_feed_error(e);
        blocks_show_progress(e);
    }
    return r;
}

/* -- life -------------------------------------------------------------------------------------- */

static int blocks_start_thread(struct block_engine *e, void *(*main)(void *))
{
    sigset_t all, old;
    int r;

    /* Signals belong to the thread that may clean up. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = -pthread_create(&e->threads[e->n_threads], NULL, main, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    e->n_threads += r == 0;
    return r;
}

/* Few large transfers rather than many that crawl: with a limit, a block should take some seconds at most. */
static unsigned blocks_concurrency(const struct blob_upload *u)
{
    uint64_t most = u->bandwidth ? u->bandwidth * SECONDS_PER_BLOCK / u->block_bytes : u->concurrency;

    return (unsigned)MIN(MAX(most, UINT64_C(1)), (uint64_t)u->concurrency);
}

static int blocks_start_threads(struct block_engine *e)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned namers = (unsigned)MIN(MAX(cpus, 1L), (long)NAMERS_MAX);
    int r = blocks_start_thread(e, blocks_feed_main);

    for (unsigned i = 0; r == 0 && i < namers; i++)
        r = blocks_start_thread(e, blocks_namer_main);
    return r;
}

static int blocks_engine_init(struct block_engine *e, const struct blob_upload *u, struct blob_fault *fault)
{
    e->u = u;
    e->fault = fault;
    e->feed.e = e;
    fault->reason[0] = fault->remedy[0] = '\0';
    fault->rc = CLI_FAILED;
    e->concurrency = blocks_concurrency(u);
    e->n_blocks = (size_t)((u->size + u->block_bytes - 1) / u->block_bytes);
    e->n_slots = MIN(e->n_blocks, (size_t)e->concurrency + 2);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->moved, NULL);
    e->multi = curl_multi_init();
    e->slots = calloc(e->n_slots, sizeof(*e->slots));
    e->result.ids = calloc(e->n_blocks, sizeof(*e->result.ids));
    e->result.n_blocks = e->n_blocks;
    if (!e->multi || !e->slots || !e->result.ids)
        return blocks_out_of_memory(e);
    curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS, (long)e->concurrency);
    for (size_t i = 0; i < e->n_slots; i++) {
        e->slots[i].backoff = (struct tb_backoff)BLOB_BACKOFF_INIT;
        e->slots[i].buf = malloc((size_t)MIN(u->size, (uint64_t)u->block_bytes));
        if (!e->slots[i].buf)
            return blocks_out_of_memory(e);
    }
    return blocks_start_threads(e) < 0 ? blocks_out_of_memory(e) : 0;
}

static void blocks_join(struct block_engine *e)
{
    while (e->n_threads > 0)
        pthread_join(e->threads[--e->n_threads], NULL);
}

static void blocks_engine_clear(struct block_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_broadcast(&e->moved);
    pthread_mutex_unlock(&e->lock);
    blocks_join(e);
    for (size_t i = 0; e->slots && i < e->n_slots; i++) {
        if (e->slots[i].state == SLOT_SENDING)
            curl_multi_remove_handle(e->multi, e->slots[i].x.curl);
        blob_exchange_clear(&e->slots[i].x);
        free(e->slots[i].buf);
    }
    free(e->slots);
    curl_multi_cleanup(e->multi);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->moved);
    blob_upload_result_clear(&e->result);
}

void blob_upload_result_clear(struct blob_upload_result *r)
{
    free(r->ids);
    *r = (struct blob_upload_result){0};
}

int blob_upload_blocks(const struct blob_upload *u, struct blob_upload_result *ret, struct blob_fault *fault)
{
    struct block_engine e = {0};
    int r;

    r = blocks_engine_init(&e, u, fault);
    if (r == 0)
        r = blocks_send_all(&e);
    if (r == 0) {
        blocks_join(&e); /* a feed may fail at its very end */
        r = blocks_feed_error(&e);
    }
    if (r == 0) {
        *ret = e.result;
        e.result = (struct blob_upload_result){0};
    }
    blocks_engine_clear(&e);
    return r;
}
