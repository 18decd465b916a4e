/* SPDX-License-Identifier: Apache-2.0 */
/* The map of a file that is being downloaded: which of its equal ranges came, told by the program that
 * downloads (one writer) to the programs that follow right behind it (any number of readers, in other users
 * and sandboxes), without a system call for each look. A file, mapped shared by all; docs/contracts.md, "The
 * map", has its layout.
 *
 * Each range has a byte: 0 while it is missing, and another value each time that it came, so that who asked
 * for a range once more sees that it was. A futex word counts every change. The map says that bytes are
 * there, never that they are right: the tags of the records decide. It is valid during the boot that wrote
 * it, since then the page cache holds what came whatever became of the writer.
 *
 * To a reader the map is foreign: its geometry is checked once, and copied; no byte in it can lead outside. A
 * writer that cuts the file short can kill its readers (SIGBUS), as it can by taking the ciphertext away. */
#ifndef TB_RANGE_MAP_H
#define TB_RANGE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_RANGE_MAP_MAX (1U << 20) /* ranges */
#define TB_RANGE_MAP_INSTANCE 32    /* characters */
#define TB_RANGE_MAP_SHA256 32
#define TB_RANGE_MAP_HEADER_BYTES 256

/* Which file it is of. */
struct tb_range_map_id {
    char instance[TB_RANGE_MAP_INSTANCE + 1]; /* of one download */
    uint8_t sha256[TB_RANGE_MAP_SHA256];      /* of the whole file, as its manifest says */
    uint64_t size;                            /* of the whole file, > 0 */
    uint64_t chunk;                           /* of each range but the last, > 0 */
};

enum tb_range_map_state {
    TB_RANGE_MAP_COMING = 1, /* also while no writer lives: the next one goes on */
    TB_RANGE_MAP_COMPLETE,   /* every range came, and the file has its final name */
    TB_RANGE_MAP_ABANDONED,  /* this download will not become the file: who follows it begins anew */
};

struct tb_range_map;

/* -- both ------------------------------------------------------------------------------------------------ */
struct tb_range_map *tb_range_map_free(struct tb_range_map *m);
static inline void tb_range_map_freep(struct tb_range_map **m)
{
    *m = tb_range_map_free(*m);
}
#define _cleanup_range_map_ _cleanup_(tb_range_map_freep)

const struct tb_range_map_id *tb_range_map_id(const struct tb_range_map *m);
uint64_t tb_range_map_count(const struct tb_range_map *m);
/* Range i < tb_range_map_count() came. */
bool tb_range_map_has_range(const struct tb_range_map *m, uint64_t i);
enum tb_range_map_state tb_range_map_state(const struct tb_range_map *m);

/* -- reader ---------------------------------------------------------------------------------------------- */
/* Maps the map at path for reading. -ENOENT; -ESTALE: of another boot; -EBADMSG: it is none, or cut;
 * -errno. */
int tb_range_map_open(const char *path, struct tb_range_map **ret);
/* The same of bytes that are there already, for which nothing is freed: the parser alone. */
int tb_range_map_parse(const void *buf, size_t len, struct tb_range_map_id *ret);

/* All of [off, off + len) came. Else *ret_missing (may be NULL) is where the first missing range begins. Past
 * the end of the file nothing is missing. */
bool tb_range_map_has(const struct tb_range_map *m, uint64_t off, uint64_t len, uint64_t *ret_missing);
/* A number that is another one after any range of [off, off + len) came once more. Never 0 when all came. */
uint32_t tb_range_map_seen(const struct tb_range_map *m, uint64_t off, uint64_t len);
/* One of them came once more since that number was `seen`; 0: since each came for the first time. */
bool tb_range_map_came_again(const struct tb_range_map *m, uint64_t off, uint64_t len, uint32_t seen);
/* Number of changes so far. Take it before looking, and wait for another one. */
uint32_t tb_range_map_changes(const struct tb_range_map *m);
/* Until there was another change, or timeout_ms passed, or for no reason: look again. */
void tb_range_map_wait(const struct tb_range_map *m, uint32_t changes, unsigned timeout_ms);
/* Wakes who waits in this and other processes, with nothing changed: to have them look at something else. */
void tb_range_map_wake(const struct tb_range_map *m);

/* -- writer ---------------------------------------------------------------------------------------------- */
/* Goes on with the map at path, if it is of this boot and download, else writes one anew (0640), and abandons
 * what was there. present: a bitmap of the ranges that are there (bit i%8 of byte i/8). The state is COMING
 * then. -EINVAL; -EFBIG: too many ranges; -ENOTSUP: this kernel tells no boot id; -errno. */
int tb_range_map_create(const char *path, const struct tb_range_map_id *id, const uint8_t *present,
                        struct tb_range_map **ret);
/* Range i came, for the first time or once more. */
void tb_range_map_mark(struct tb_range_map *m, uint64_t i);
/* So did all ranges that [off, off + len) touches, and that had come before. */
void tb_range_map_renew(struct tb_range_map *m, uint64_t off, uint64_t len);
void tb_range_map_set_state(struct tb_range_map *m, enum tb_range_map_state s);
/* Says how it ended to all readers of the map at path, if there is one and it did not end before. Best
 * effort. */
void tb_range_map_end(const char *path, enum tb_range_map_state s);

#endif
