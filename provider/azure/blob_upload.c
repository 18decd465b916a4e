/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob_upload.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "common/io.h"
#include "common/units.h"

#define POLL_MS 200

/* A block's way through the ring: EMPTY -> (reader) READ -> (namer) NAMED -> (sender) SENDING <-> WAITING ->
 * EMPTY. Each state but EMPTY is left by one thread only, and the block belongs to that thread. */
enum block_slot_state { SLOT_EMPTY, SLOT_READ, SLOT_NAMED, SLOT_SENDING, SLOT_WAITING };

struct block_slot {
    enum block_slot_state state;
    size_t index; /* of the block */
    size_t len;
    uint8_t *buf;
    char id[BLOB_ID_CHARS + 1], md5_base64[BLOB_MD5_BASE64 + 1];
    struct blob_exchange x;
    struct tb_backoff backoff;
    uint64_t not_before_us;
};

struct block_engine {
    const struct blob_upload *u;
    size_t n_blocks, n_slots;
    struct block_slot *slots;
    CURLM *multi;
    EVP_MD_CTX *sha;
    pthread_t reader, namer;
    bool reader_runs, namer_runs;
    pthread_mutex_t lock; /* slot states, stop, file_error */
    pthread_cond_t moved;
    bool stop;
    int file_error; /* -errno of the reader or namer */
    /* sender only */
    size_t n_done, n_sending;
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

static void blocks_file_failed(struct block_engine *e, int r)
{
    pthread_mutex_lock(&e->lock);
    if (e->file_error == 0)
        e->file_error = r;
    pthread_cond_broadcast(&e->moved);
    pthread_mutex_unlock(&e->lock);
    curl_multi_wakeup(e->multi);
}

/* -- reader and namer -------------------------------------------------------------------------- */

/* Waits for an empty slot (index SIZE_MAX), or for the slot in which block `index` was read. NULL: stop. */
static struct block_slot *blocks_wait_slot(struct block_engine *e, size_t index)
{
    struct block_slot *found = NULL;

    pthread_mutex_lock(&e->lock);
    while (!e->stop && e->file_error == 0 && !found) {
        for (size_t i = 0; i < e->n_slots && !found; i++) {
            struct block_slot *s = &e->slots[i];

            if (index == SIZE_MAX ? s->state == SLOT_EMPTY : s->state == SLOT_READ && s->index == index)
                found = s;
        }
        if (!found)
            pthread_cond_wait(&e->moved, &e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return found;
}

static int blocks_read_block(struct block_engine *e, struct block_slot *s, size_t index)
{
    uint64_t off = (uint64_t)index * e->u->block_bytes;
    ssize_t n;

    s->len = (size_t)MIN(e->u->size - off, (uint64_t)e->u->block_bytes);
    n = tb_pread_full(e->u->fd, s->buf, s->len, off);
    if (n < 0)
        return (int)n;
    if ((size_t)n < s->len)
        return -EBADMSG;
    if (EVP_DigestUpdate(e->sha, s->buf, s->len) != 1)
        return -EIO;
    s->index = index;
    return 0;
}

static void *blocks_reader_main(void *ctx)
{
    struct block_engine *e = ctx;

    for (size_t i = 0; i < e->n_blocks; i++) {
        struct block_slot *s = blocks_wait_slot(e, SIZE_MAX);
        int r = s ? blocks_read_block(e, s, i) : 0;

        if (r < 0)
            blocks_file_failed(e, r);
        if (!s || r < 0)
            return NULL;
        blocks_set_state(e, s, SLOT_READ);
    }
    return NULL;
}

static void *blocks_namer_main(void *ctx)
{
    struct block_engine *e = ctx;

    for (size_t i = 0; i < e->n_blocks; i++) {
        struct block_slot *s = blocks_wait_slot(e, i);
        uint8_t md5[BLOB_MD5_BYTES];

        if (!s)
            return NULL;
        if (blob_md5(s->buf, s->len, md5) < 0) {
            blocks_file_failed(e, -EIO);
            return NULL;
        }
        blob_base64(md5, sizeof(md5), s->md5_base64);
        blob_block_id(i, md5, s->id);
        blocks_set_state(e, s, SLOT_NAMED);
        curl_multi_wakeup(e->multi);
    }
    return NULL;
}

/* -- sender ------------------------------------------------------------------------------------ */

static void blocks_block_done(struct block_engine *e, struct block_slot *s, bool blocks_sent)
{
    memcpy(e->result.ids[s->index], s->id, sizeof(s->id));
    if (blocks_sent)
        e->result.bytes_sent += s->len;
    else
        e->result.bytes_resumed += s->len;
    e->n_done++;
    blocks_set_state(e, s, SLOT_EMPTY);
}

static int blocks_out_of_memory(struct block_engine *e)
{
    snprintf(e->fault->reason, sizeof(e->fault->reason), "out of memory");
    return -ENOMEM;
}

static int blocks_send_block(struct block_engine *e, struct block_slot *s)
{
    const struct blob_client *c = e->u->client;
    char renew_err[TB_AZURE_ERR_MAX];
    const struct blob_request rq = {
        .method = "PUT",
        .path = e->u->path,
        .query = {{"comp", "block"}, {"blockid", s->id}},
        .headers = {{"Content-Type", "application/octet-stream"}, {"Content-MD5", s->md5_base64}},
        .body = s->buf,
        .body_len = s->len,
    };

    if (c->auth && azure_auth_renew_due(c->auth))
        (void)azure_auth_renew(c->auth, renew_err);
    if (blob_exchange_prepare(c, &rq, 0, &s->x) < 0 ||
        curl_easy_setopt(s->x.curl, CURLOPT_PRIVATE, s) != CURLE_OK ||
        curl_multi_add_handle(e->multi, s->x.curl) != CURLM_OK)
        return blocks_out_of_memory(e);
    e->n_sending++;
    blocks_set_state(e, s, SLOT_SENDING);
    return 0;
}

static bool blocks_is_staged(const struct block_engine *e, const struct block_slot *s)
{
    const struct blob_staged *b = e->u->staged ? blob_staged_find(e->u->staged, s->id) : NULL;

    return b && b->size == s->len;
}

/* Takes each block that is due. *ret_wait_ms: until the next one that only waits for its time. */
static int blocks_start_due(struct block_engine *e, uint64_t *ret_wait_ms)
{
    uint64_t now = tb_now_monotonic_us();
    int r = 0;

    *ret_wait_ms = POLL_MS;
    for (size_t i = 0; i < e->n_slots && r == 0; i++) {
        struct block_slot *s = &e->slots[i];
        enum block_slot_state state;

        pthread_mutex_lock(&e->lock);
        state = s->state;
        pthread_mutex_unlock(&e->lock);
        if (state == SLOT_NAMED && blocks_is_staged(e, s))
            blocks_block_done(e, s, false);
        else if (e->n_sending >= e->u->concurrency)
            continue;
        else if (state == SLOT_NAMED || (state == SLOT_WAITING && s->not_before_us <= now))
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

    if (!e->u->progress)
        return;
    for (size_t i = 0; i < e->n_slots; i++) {
        struct block_slot *s = &e->slots[i];
        curl_off_t n = 0;

        pthread_mutex_lock(&e->lock);
        if (s->state != SLOT_SENDING)
            n = -1;
        pthread_mutex_unlock(&e->lock);
        if (n == 0 && curl_easy_getinfo(s->x.curl, CURLINFO_SIZE_UPLOAD_T, &n) == CURLE_OK)
            done += MIN((uint64_t)n, s->len);
    }
    e->shown = MAX(e->shown, done); /* a repeated block does not make the bar run backwards */
    e->u->progress(e->u->ctx, e->shown);
}

static int blocks_file_error(struct block_engine *e)
{
    int r;

    pthread_mutex_lock(&e->lock);
    r = e->file_error;
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
            r = blocks_file_error(e);
        blocks_show_progress(e);
    }
    return r;
}

/* -- life -------------------------------------------------------------------------------------- */

static int blocks_start_thread(struct block_engine *e, pthread_t *t, void *(*main)(void *), bool *runs)
{
    sigset_t all, old;
    int r;

    /* Signals belong to the thread that may clean up. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = -pthread_create(t, NULL, main, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    *runs = r == 0;
    return r;
}

static int blocks_engine_init(struct block_engine *e, const struct blob_upload *u, struct blob_fault *fault)
{
    e->u = u;
    e->fault = fault;
    fault->reason[0] = fault->remedy[0] = '\0';
    e->n_blocks = (size_t)((u->size + u->block_bytes - 1) / u->block_bytes);
    e->n_slots = MIN(e->n_blocks, (size_t)u->concurrency + 2);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->moved, NULL);
    e->multi = curl_multi_init();
    e->sha = EVP_MD_CTX_new();
    e->slots = calloc(e->n_slots, sizeof(*e->slots));
    e->result.ids = calloc(e->n_blocks, sizeof(*e->result.ids));
    e->result.n_blocks = e->n_blocks;
    if (!e->multi || !e->sha || !e->slots || !e->result.ids ||
        EVP_DigestInit_ex(e->sha, EVP_sha256(), NULL) != 1)
        return blocks_out_of_memory(e);
    curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS, (long)u->concurrency);
    for (size_t i = 0; i < e->n_slots; i++) {
        e->slots[i].backoff = (struct tb_backoff)BLOB_BACKOFF_INIT;
        e->slots[i].buf = malloc(u->block_bytes);
        if (!e->slots[i].buf)
            return blocks_out_of_memory(e);
    }
    if (blocks_start_thread(e, &e->reader, blocks_reader_main, &e->reader_runs) < 0 ||
        blocks_start_thread(e, &e->namer, blocks_namer_main, &e->namer_runs) < 0)
        return blocks_out_of_memory(e);
    return 0;
}

static void blocks_engine_clear(struct block_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_broadcast(&e->moved);
    pthread_mutex_unlock(&e->lock);
    if (e->reader_runs)
        pthread_join(e->reader, NULL);
    if (e->namer_runs)
        pthread_join(e->namer, NULL);
    for (size_t i = 0; e->slots && i < e->n_slots; i++) {
        if (e->slots[i].state == SLOT_SENDING)
            curl_multi_remove_handle(e->multi, e->slots[i].x.curl);
        blob_exchange_clear(&e->slots[i].x);
        free(e->slots[i].buf);
    }
    free(e->slots);
    curl_multi_cleanup(e->multi);
    EVP_MD_CTX_free(e->sha);
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
    if (r == 0 && EVP_DigestFinal_ex(e.sha, e.result.sha256, NULL) != 1)
        r = -EIO;
    if (r == 0) {
        *ret = e.result;
        e.result = (struct blob_upload_result){0};
    }
    blocks_engine_clear(&e);
    return r;
}
