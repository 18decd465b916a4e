/* SPDX-License-Identifier: Apache-2.0 */
/* The one way from ciphertext on the disk to plaintext for a reader, whatever the delivery: a block is
 * decrypted and verified whole into a slot, by one thread while others that want it wait, and stays there
 * until the slot is needed. Each thread that pins blocks has a cipher of its own, so the key is needed only
 * while the cache is made.
 *
 * Each block's tags are recorded when it is first verified. When all were, they must make the manifest's
 * tags_sha256 in order: then the whole is complete. A block that is decrypted again must be the one that was
 * verified. */
#ifndef TB_DECRYPT_CACHE_H
#define TB_DECRYPT_CACHE_H

#include "decrypt/blocks.h"
#include "decrypt/ciphertext.h"

#define TB_CACHE_BYTES (96 * 1024 * 1024UL) /* of slots, where blocks are of one MiB */

struct tb_cache;

struct tb_slot {
    struct tb_cache_block block;
    const uint8_t *pt; /* block.len bytes; valid while it is pinned */
};

struct tb_cache_params {
    const struct tbenc_manifest *manifest; /* borrowed, as is the ciphertext */
    const uint8_t *key;
    const struct tb_ciphertext *ciphertext;
    unsigned threads; /* that will pin */
    unsigned slots;   /* at least 2 for each thread and one more */
};

struct tb_cache_state {
    uint64_t verified_bytes, blocks_decrypted, blocks_found;
    uint64_t read_bytes;               /* of blocks of which readers have got anything */
    uint64_t served_bytes;             /* that readers have got, however often */
    uint64_t cached_bytes, room_bytes; /* in slots now, and as much as they hold */
    bool complete;                     /* all verified, and the whole is the manifest's */
    bool foreign;                      /* all verified, and it is not */
};

/* How many slots serve so many threads well, for blocks of that size: about TB_CACHE_BYTES, never fewer than
 * 3 for each thread. */
unsigned tb_cache_slots(const struct tbenc_manifest *m, unsigned threads);

/* Reads the file header, which must be there. 0 or -errno, with the reason in e. */
int tb_cache_new(const struct tb_cache_params *p, struct tb_cache **ret, struct tbenc_error *e);
/* No thread may be using it. Wipes. Accepts NULL; returns NULL. */
struct tb_cache *tb_cache_free(struct tb_cache *c);

const struct tb_blocks *tb_cache_blocks(const struct tb_cache *c);

/* Pins a block for thread 0..threads-1, which holds two at most. 0; -EAGAIN: its ciphertext is not there yet;
 * -ESHUTDOWN: revoked; -EBADMSG or another errno, with the reason in e. */
int tb_cache_pin(struct tb_cache *c, unsigned thread, uint64_t block, const struct tb_slot **ret,
                 struct tbenc_error *e);
void tb_cache_unpin(struct tb_cache *c, const struct tb_slot *s);
/* The same, of one that was to be verified and nothing else: it makes room as early as one that was served.
 */
void tb_cache_unpin_verified(struct tb_cache *c, const struct tb_slot *s);
/* So many bytes of a pinned one have gone to a reader. kept: by way of the kernel's page cache, which answers
 * for them from now on: a block of which that holds throughout is the first to make room. */
void tb_cache_served(struct tb_cache *c, const struct tb_slot *s, size_t bytes, bool kept);

/* Is it in a slot, or being decrypted into one, or was it served just now, so that it may be gone already for
 * want of a use? Answers of a view are not in the order of the requests. ret_now: for tb_cache_fill(). */
bool tb_cache_holds(struct tb_cache *c, uint64_t block, uint64_t *ret_now);
/* Has a block in a slot, for who reads it soon, unless somebody has read of it since then. As tb_cache_pin(),
 * but nothing stays pinned. */
int tb_cache_fill(struct tb_cache *c, unsigned thread, uint64_t block, uint64_t then, struct tbenc_error *e);
/* Was it verified before? */
bool tb_cache_verified(struct tb_cache *c, uint64_t block);
/* The first block that was not; blocks->n when all were. */
uint64_t tb_cache_frontier(struct tb_cache *c);
void tb_cache_state(struct tb_cache *c, struct tb_cache_state *ret);

/* From now on every pin fails. Waits until nothing is pinned, at most timeout_ms, then wipes slots and key
 * schedules. false: something still was, and no slot was wiped. */
bool tb_cache_revoke(struct tb_cache *c, int timeout_ms);

#endif
