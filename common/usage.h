/* SPDX-License-Identifier: Apache-2.0 */
/* The usage counters tb-proxy keeps and tb-billing books: docs/contracts.md, "Usage counters". A shared
 * mapping of a small file: an increment that happened survives SIGKILL of either side. Single writer. */
#ifndef TB_USAGE_H
#define TB_USAGE_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

/* A value is the counter's place in the file, for good: add new ones at the end, never move or reuse one. A
 * file from before a counter existed reads as 0 there, and an older program passes over those it does not
 * know. Room for 509. */
enum tb_usage_counter {
    TB_USAGE_REQUESTS = 0,          /* answered by the runtime */
    TB_USAGE_BYTES_IN = 1,          /* request body bytes forwarded */
    TB_USAGE_BYTES_OUT = 2,         /* response body bytes delivered */
    TB_USAGE_PROMPT_TOKENS = 3,     /* cached ones included, as the OpenAI API counts them */
    TB_USAGE_COMPLETION_TOKENS = 4, /* estimated ones included */
    TB_USAGE_CACHED_TOKENS = 5,     /* of the prompt tokens: served from the runtime's cache */
    TB_USAGE_ESTIMATED_TOKENS = 6,  /* of both: counted by us, because the runtime's own count never came */
    _TB_USAGE_MAX,
};
/* "requests", "bytes_in", ...; the ledger's name of the counter, as durable as its place. NULL when c is
 * none. */
const char *tb_usage_name(enum tb_usage_counter c);

/* What usage can be billed by (TB_BILLING_DIMENSION): a sum of counters. The name is the dimension's id in
 * the marketplace offer. */
struct tb_usage_dimension {
    const char *name;
    uint32_t counters; /* bits, 1 << enum tb_usage_counter */
    uint64_t unit;     /* what the counters count (requests, tokens, bytes) in a quantity of 1 */
};
#define TB_USAGE_DIMENSIONS 7
extern const struct tb_usage_dimension tb_usage_dimension[TB_USAGE_DIMENSIONS];
/* "requests,bytes" -> bits, 1 << row of the table. -EINVAL: an unknown or repeated name, or none at all. */
int tb_usage_dimensions_parse(const char *list, uint32_t *ret);

struct tb_usage;
/* Writer: opens or creates path (0640). A file of another size or magic is set aside as path.corrupt-<time>
 * and a new epoch begins. -EWOULDBLOCK when another writer holds it. */
int tb_usage_open(const char *path, struct tb_usage **ret);
/* On one thread. */
void tb_usage_add(struct tb_usage *u, enum tb_usage_counter c, uint64_t n);
uint64_t tb_usage_get(const struct tb_usage *u, enum tb_usage_counter c);
void tb_usage_close(struct tb_usage *u);
/* Sees that path still names the file of these counters, and gives them a new one if not:
 * tb_mapfile_keep(). On the thread that adds. */
int tb_usage_keep(struct tb_usage *u, const char *path);

/* Reader: a snapshot, of values that are on the disk when this returns. -ENOENT when there is no file yet;
 * -EBADMSG when it is not one. */
struct tb_usage_snapshot {
    char epoch[33]; /* hex */
    uint64_t value[_TB_USAGE_MAX];
};
int tb_usage_read(const char *path, struct tb_usage_snapshot *ret);

#endif
