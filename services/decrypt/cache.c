/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/cache.h"

#include <assert.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "common/cond.h"
#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "decrypt/header.h"
#include "decrypt/keymem.h"
#include "tbenc/digest.h"
#include "tbenc/opener.h"

#define CACHE_SLOTS_MIN 16
#define CACHE_PINS_PER_THREAD 2
#define CACHE_JUST_NOW 128 /* stamps, two for each answer */
#define CACHE_MARK_BYTES 16
#define CACHE_HUGE_PAGE (2UL * 1024 * 1024)
#define CACHE_NOWHERE UINT32_MAX

enum cache_slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY };

struct cache_slot {
    struct tb_slot out; /* first: what callers hold */
    uint8_t *pt;
    enum cache_slot_state state;
    unsigned pins;
    uint64_t used; /* the latest has the highest */
    uint32_t kept; /* bytes that were served to who keeps them; all, where nobody asked for any */
};

struct cache_entry { /* of a block */
    uint32_t slot;   /* CACHE_NOWHERE: none */
    bool verified, read;
    uint64_t served;                /* the stamp of when it last was */
    uint8_t mark[CACHE_MARK_BYTES]; /* of its tags, when it was verified */
    uint8_t *tags;                  /* until the frontier has passed; owned */
};

struct tb_cache {
    const struct tbenc_manifest *m;
    struct tb_ciphertext ciphertext;
    struct tb_blocks blocks;
    struct cache_entry *entries;
    struct cache_slot *slots;
    unsigned n_slots, threads;
    uint8_t *memory; /* of the slots; in the mapping, which is longer */
    size_t memory_bytes;
    void *mapping;                /* by a huge page */
    struct tbenc_opener *openers; /* one for each thread */
    struct tb_file_header header;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    uint64_t stamp, frontier;
    unsigned pinned;
    bool revoked, wiped;
    struct tbenc_sha256 tags;
    struct tb_cache_state state;
};

unsigned tb_cache_slots(const struct tbenc_manifest *m, unsigned threads)
{
    uint64_t block = tbenc_chunks_of(TB_BLOCK_BYTES_MIN, m->chunk_bytes) * m->chunk_bytes;

    return MAX(MAX((unsigned)(TB_CACHE_BYTES / block), (unsigned)CACHE_SLOTS_MIN),
               (CACHE_PINS_PER_THREAD + 1) * threads);
}

const struct tb_blocks *tb_cache_blocks(const struct tb_cache *c)
{
    return &c->blocks;
}

/* -- made and freed -------------------------------------------------------------------------------------- */
static int cache_make_slots(struct tb_cache *c)
{
    c->entries = calloc(MAX(c->blocks.n, 1U), sizeof(*c->entries));
    c->slots = calloc(c->n_slots, sizeof(*c->slots));
    if (!c->entries || !c->slots)
        return -ENOMEM;
    for (uint64_t i = 0; i < c->blocks.n; i++)
        c->entries[i].slot = CACHE_NOWHERE;
    c->memory_bytes = (size_t)c->n_slots * c->blocks.bytes;
    c->mapping = mmap(NULL, c->memory_bytes + CACHE_HUGE_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->mapping == MAP_FAILED) {
        c->mapping = NULL;
        return -errno;
    }
    c->memory = (uint8_t *)c->mapping + CACHE_HUGE_PAGE - (uintptr_t)c->mapping % CACHE_HUGE_PAGE;
    /* The kernel looks up each page of what is written to /dev/fuse: 512 times as many small ones. */
    (void)madvise(c->memory, c->memory_bytes, MADV_HUGEPAGE);
    /* Not memfd_secret: the kernel takes no pages of it for what is written to /dev/fuse (EFAULT). */
    if (mlock2(c->memory, c->memory_bytes, MLOCK_ONFAULT) < 0)
        tb_warn("memory for what is decrypted cannot be locked, and may be swapped out: %s", strerror(errno));
    (void)madvise(c->memory, c->memory_bytes, MADV_DONTDUMP);
    (void)madvise(c->memory, c->memory_bytes, MADV_DONTFORK);
    for (unsigned i = 0; i < c->n_slots; i++)
        c->slots[i].out.pt = c->slots[i].pt = c->memory + (size_t)i * c->blocks.bytes;
    return 0;
}

static int cache_make_openers(struct tb_cache *c, const struct tb_cache_params *p,
                              const struct tbenc_header *h)
{
    struct tbenc_opener warm = {0};
    static const uint8_t nothing[TBENC_KEY_BYTES];
    int r;

    c->openers = calloc(c->threads, sizeof(*c->openers));
    if (!c->openers)
        return -ENOMEM;
    /* What OpenSSL makes once and keeps does not belong among the keys. */
    r = tbenc_opener_init(&warm, h, nothing, c->ciphertext.fd, c->m);
    tbenc_opener_done(&warm);
    tb_keymem_enter();
    for (unsigned i = 0; r == 0 && i < c->threads; i++)
        r = tbenc_opener_init(&c->openers[i], h, p->key, c->ciphertext.fd, c->m);
    tb_keymem_leave();
    return r;
}

/* Key schedules need not wait for readers of plaintext, only for who decrypts. */
static void cache_wipe_keys(struct tb_cache *c)
{
    for (unsigned i = 0; c->slots && i < c->n_slots; i++)
        if (c->slots[i].state == SLOT_LOADING)
            return;
    for (unsigned i = 0; c->openers && i < c->threads; i++)
        tbenc_opener_done(&c->openers[i]);
}

static void cache_wipe(struct tb_cache *c)
{
    cache_wipe_keys(c);
    for (unsigned i = 0; c->memory && i < c->n_slots; i++)
        if (c->slots[i].out.block.len > 0) /* else it was never used, and to write to it would take memory */
            tb_erase(c->slots[i].pt, c->blocks.bytes);
    c->state.cached_bytes = 0;
    c->wiped = true;
}

static void cache_freep(struct tb_cache **c)
{
    *c = tb_cache_free(*c);
}

int tb_cache_new(const struct tb_cache_params *p, struct tb_cache **ret, struct tbenc_error *e)
{
    _cleanup_(cache_freep) struct tb_cache *c = calloc(1, sizeof(*c));
    struct tbenc_header h;
    int r;

    if (!c)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    assert(p->slots > CACHE_PINS_PER_THREAD * p->threads);
    c->m = p->manifest;
    c->ciphertext = *p->ciphertext;
    tb_header_init(&c->header, c->m, &c->ciphertext);
    c->n_slots = p->slots;
    c->threads = p->threads;
    (void)pthread_mutex_init(&c->lock, NULL);
    tb_cond_init(&c->changed);
    r = tbenc_opener_header(c->ciphertext.fd, c->m, 0, &h, e);
    if (r < 0)
        return r;
    r = tb_blocks_init(&c->blocks, c->m);
    if (r == 0)
        r = cache_make_slots(c);
    if (r == 0)
        r = tbenc_sha256_init(&c->tags);
    if (r == 0)
        r = cache_make_openers(c, p, &h);
    if (r < 0)
        return tbenc_fail(e, r, "cannot start: %s", strerror(-r));
    c->state.complete = c->blocks.n == 0;
    c->state.room_bytes = c->memory_bytes;
    *ret = TAKE_PTR(c);
    return 0;
}

struct tb_cache *tb_cache_free(struct tb_cache *c)
{
    if (!c)
        return NULL;
    if (!c->wiped)
        cache_wipe(c);
    for (uint64_t i = 0; c->entries && i < c->blocks.n; i++)
        free(c->entries[i].tags);
    if (c->mapping)
        munmap(c->mapping, c->memory_bytes + CACHE_HUGE_PAGE);
    tbenc_sha256_done(&c->tags);
    tb_header_done(&c->header);
    tb_blocks_clear(&c->blocks);
    (void)pthread_mutex_destroy(&c->lock);
    (void)pthread_cond_destroy(&c->changed);
    free(c->entries);
    free(c->slots);
    free(c->openers);
    free(c);
    return NULL;
}

/* -- verified, in order ---------------------------------------------------------------------------------- */
static int cache_finish(struct tb_cache *c)
{
    uint8_t got[TBENC_SHA256_BYTES];

    if (!c->m->has_tags_sha256) {
        c->state.complete = true;
        return 0;
    }
    if (tbenc_sha256_final(&c->tags, got) < 0)
        return -EIO;
    c->state.complete = memcmp(got, c->m->tags_sha256, sizeof(got)) == 0;
    c->state.foreign = !c->state.complete;
    return 0;
}

static int cache_advance(struct tb_cache *c)
{
    for (; c->frontier < c->blocks.n && c->entries[c->frontier].verified; c->frontier++) {
        struct cache_entry *x = &c->entries[c->frontier];
        struct tb_cache_block b;

        tb_blocks_get(&c->blocks, c->frontier, &b);
        if (tbenc_sha256_update(&c->tags, x->tags, (size_t)b.records * TBENC_TAGREC_BYTES) < 0)
            return -EIO;
        free(TAKE_PTR(x->tags));
    }
    return c->frontier == c->blocks.n ? cache_finish(c) : 0;
}

/* Takes the tags of a block that was decrypted, and is void where it is not the one that was verified. */
static int cache_record(struct tb_cache *c, const struct tb_cache_block *b, uint8_t **tags,
                        struct tbenc_error *e)
{
    struct cache_entry *x = &c->entries[b->index];
    uint8_t sha256[TBENC_SHA256_BYTES];

    SHA256(*tags, (size_t)b->records * TBENC_TAGREC_BYTES, sha256);
    if (x->verified) {
        if (memcmp(x->mark, sha256, sizeof(x->mark)) == 0)
            return 0;
        return tbenc_fail_chunk(e, -EBADMSG, b->first.index,
                                "it is authentic, but not what was there before: the file was replaced");
    }
    memcpy(x->mark, sha256, sizeof(x->mark));
    x->tags = TAKE_PTR(*tags);
    x->verified = true;
    c->state.verified_bytes += b->len;
    return cache_advance(c) < 0 ? tbenc_fail(e, -EIO, "cannot hash: the crypto library refused") : 0;
}

/* -- pins ------------------------------------------------------------------------------------------------ */
/* s: of the thread, for whatever is opened to find out. */
static bool cache_is_mended(struct tb_cache *c, unsigned thread, struct cache_slot *s,
                            const struct tbenc_record *rec, int r)
{
    if (!c->ciphertext.damaged || (r != -EBADMSG && !tb_errno_is_disk(r)))
        return false;
    if (r == -EBADMSG && tb_header_suspect(&c->header, &c->openers[thread], rec, s->pt))
        return true;
    return c->ciphertext.damaged(c->ciphertext.ctx, rec, r);
}

/* Without the lock: the slot is this thread's while it is loading. */
static int cache_decrypt(struct tb_cache *c, unsigned thread, struct cache_slot *s, uint8_t *tags,
                         struct tbenc_error *e)
{
    const struct tb_cache_block *b = &s->out.block;
    struct tbenc_record rec = b->first;
    uint32_t done = 0;

    for (uint32_t i = 0; i < b->records; i++) {
        int r = tbenc_opener_open(&c->openers[thread], &rec, s->pt + done,
                                  tags + (size_t)i * TBENC_TAGREC_BYTES, e);

        if (r < 0) {
            tb_erase(s->pt, done);
            return cache_is_mended(c, thread, s, &rec, r) ? -EAGAIN : r;
        }
        tb_header_prove(&c->header, &c->openers[thread].header);
        done += rec.pt_len;
        if (i + 1 < b->records)
            tbenc_layout_next(c->m, &rec);
    }
    return 0;
}

static struct cache_slot *cache_slot(struct tb_cache *c, const struct tb_slot *s)
{
    return &c->slots[container_of(s, struct cache_slot, out) - c->slots];
}

/* Of those that nobody is to ask for again the one that was used last: the processor's cache still has it,
 * and slots that are never needed take no memory. Else an empty one, else the one that was not used for the
 * longest time. */
static struct cache_slot *cache_find_victim(struct tb_cache *c)
{
    struct cache_slot *spent = NULL, *empty = NULL, *oldest = NULL;

    for (unsigned i = 0; i < c->n_slots; i++) {
        struct cache_slot *s = &c->slots[i];

        if (s->pins > 0)
            continue;
        if (s->state == SLOT_EMPTY)
            empty = empty ? empty : s;
        else if (s->kept >= s->out.block.len && (!spent || s->used > spent->used))
            spent = s;
        if (!oldest || s->used < oldest->used)
            oldest = s;
    }
    return spent ? spent : empty ? empty : oldest;
}

static void cache_let_go(struct tb_cache *c, struct cache_slot *s)
{
    assert(s->pins > 0);
    s->pins--;
    c->pinned--;
    (void)pthread_cond_broadcast(&c->changed);
}

/* Under the lock, which it gives back while it works. */
static int cache_load(struct tb_cache *c, unsigned thread, const struct tb_cache_block *b,
                      struct cache_slot *s, struct tbenc_error *e)
{
    _cleanup_free_ uint8_t *tags = NULL;
    int r;

    if (s->state == SLOT_READY) {
        c->entries[s->out.block.index].slot = CACHE_NOWHERE;
        c->state.cached_bytes -= s->out.block.len;
    }
    s->out.block = *b;
    s->kept = 0;
    s->state = SLOT_LOADING;
    s->pins = 1;
    c->pinned++;
    c->entries[b->index].slot = (uint32_t)(s - c->slots);
    (void)pthread_mutex_unlock(&c->lock);
    tags = malloc((size_t)b->records * TBENC_TAGREC_BYTES);
    r = tags ? cache_decrypt(c, thread, s, tags, e) : tbenc_fail(e, -ENOMEM, "out of memory");
    (void)pthread_mutex_lock(&c->lock);
    c->state.blocks_decrypted++;
    if (r == 0)
        r = cache_record(c, b, &tags, e);
    s->state = r == 0 ? SLOT_READY : SLOT_EMPTY;
    c->state.cached_bytes += r == 0 ? s->out.block.len : 0;
    if (r < 0) {
        c->entries[b->index].slot = CACHE_NOWHERE;
        cache_let_go(c, s);
    }
    (void)pthread_cond_broadcast(&c->changed);
    return r;
}

static int cache_pin_locked(struct tb_cache *c, unsigned thread, const struct tb_cache_block *b,
                            struct cache_slot **ret, struct tbenc_error *e)
{
    for (;;) {
        uint32_t at = c->entries[b->index].slot;
        struct cache_slot *s = at == CACHE_NOWHERE ? NULL : &c->slots[at];

        if (c->revoked)
            return tbenc_fail(e, -ESHUTDOWN, "the weights are not to be read any more");
        *ret = s;
        if (s && s->state == SLOT_READY) {
            s->pins++;
            c->pinned++;
            c->state.blocks_found++;
            return 0;
        }
        if (!s) {
            if (!tb_ciphertext_has(&c->ciphertext, b->ct_from, b->ct_to))
                return -EAGAIN;
            s = *ret = cache_find_victim(c);
            if (s)
                return cache_load(c, thread, b, s, e);
        }
        (void)pthread_cond_wait(&c->changed, &c->lock);
    }
}

int tb_cache_pin(struct tb_cache *c, unsigned thread, uint64_t block, const struct tb_slot **ret,
                 struct tbenc_error *e)
{
    struct cache_slot *s = NULL;
    struct tb_cache_block b;
    int r;

    assert(thread < c->threads && block < c->blocks.n);
    tb_blocks_get(&c->blocks, block, &b);
    (void)pthread_mutex_lock(&c->lock);
    r = cache_pin_locked(c, thread, &b, &s, e);
    if (r == 0) {
        s->used = ++c->stamp;
        *ret = &s->out;
    }
    (void)pthread_mutex_unlock(&c->lock);
    return r;
}

int tb_cache_fill(struct tb_cache *c, unsigned thread, uint64_t block, uint64_t then, struct tbenc_error *e)
{
    struct cache_slot *s = NULL;
    struct tb_cache_block b;
    int r = 0;

    assert(thread < c->threads && block < c->blocks.n);
    tb_blocks_get(&c->blocks, block, &b);
    (void)pthread_mutex_lock(&c->lock);
    if (c->entries[block].slot == CACHE_NOWHERE && c->entries[block].served <= then)
        r = cache_pin_locked(c, thread, &b, &s, e);
    if (r == 0 && s) {
        s->used = ++c->stamp;
        cache_let_go(c, s);
    }
    (void)pthread_mutex_unlock(&c->lock);
    return r;
}

void tb_cache_unpin(struct tb_cache *c, const struct tb_slot *s)
{
    (void)pthread_mutex_lock(&c->lock);
    cache_let_go(c, cache_slot(c, s));
    (void)pthread_mutex_unlock(&c->lock);
}

void tb_cache_unpin_verified(struct tb_cache *c, const struct tb_slot *s)
{
    struct cache_slot *slot = cache_slot(c, s);

    (void)pthread_mutex_lock(&c->lock);
    if (!c->entries[s->block.index].read)
        slot->kept = s->block.len;
    cache_let_go(c, slot);
    (void)pthread_mutex_unlock(&c->lock);
}

void tb_cache_served(struct tb_cache *c, const struct tb_slot *s, size_t bytes, bool kept)
{
    struct cache_slot *slot = cache_slot(c, s);
    struct cache_entry *x = &c->entries[s->block.index];

    (void)pthread_mutex_lock(&c->lock);
    if (!kept || !x->read) /* that it was verified does not count any more */
        slot->kept = 0;
    slot->kept += kept ? (uint32_t)MIN(bytes, (size_t)(s->block.len - MIN(slot->kept, s->block.len))) : 0;
    c->state.served_bytes += bytes;
    c->state.read_bytes += x->read ? 0 : s->block.len;
    x->read = true;
    x->served = ++c->stamp;
    (void)pthread_mutex_unlock(&c->lock);
}

/* -- asked and told -------------------------------------------------------------------------------------- */
bool tb_cache_holds(struct tb_cache *c, uint64_t block, uint64_t *ret_now)
{
    const struct cache_entry *x = &c->entries[block];
    bool r;

    (void)pthread_mutex_lock(&c->lock);
    r = x->slot != CACHE_NOWHERE || (x->served > 0 && c->stamp - x->served < CACHE_JUST_NOW);
    *ret_now = c->stamp;
    (void)pthread_mutex_unlock(&c->lock);
    return r;
}

bool tb_cache_verified(struct tb_cache *c, uint64_t block)
{
    bool r;

    (void)pthread_mutex_lock(&c->lock);
    r = c->entries[block].verified;
    (void)pthread_mutex_unlock(&c->lock);
    return r;
}

uint64_t tb_cache_frontier(struct tb_cache *c)
{
    uint64_t r;

    (void)pthread_mutex_lock(&c->lock);
    r = c->frontier;
    (void)pthread_mutex_unlock(&c->lock);
    return r;
}

void tb_cache_state(struct tb_cache *c, struct tb_cache_state *ret)
{
    (void)pthread_mutex_lock(&c->lock);
    *ret = c->state;
    (void)pthread_mutex_unlock(&c->lock);
}

bool tb_cache_revoke(struct tb_cache *c, int timeout_ms)
{
    struct timespec until = tb_cond_until((unsigned)timeout_ms);
    bool idle;
    int r = 0;

    (void)pthread_mutex_lock(&c->lock);
    c->revoked = true;
    (void)pthread_cond_broadcast(&c->changed);
    while (c->pinned > 0 && r == 0)
        r = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    idle = c->pinned == 0;
    if (!c->wiped && idle)
        cache_wipe(c);
    else if (!c->wiped)
        cache_wipe_keys(c);
    (void)pthread_mutex_unlock(&c->lock);
    return idle;
}
