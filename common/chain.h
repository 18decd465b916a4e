/* SPDX-License-Identifier: Apache-2.0 */
/* The hash chain through the audit records: tb-proxy writes it, tb-audit checks it. docs/contracts.md, "Audit
 * chain".
 *
 * Each record is one line of JSON. Its hash is the SHA-256 of the line's bytes without the line end; `prev`
 * in a record is the hash of the record before, and 64 zeros in record 1. `seq` counts by one. */
#ifndef TB_CHAIN_H
#define TB_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"
#include "common/units.h"

#define TB_CHAIN_HASH_BYTES 32
/* A record's path is a request's, escaped: far shorter. */
#define TB_CHAIN_LINE_MAX (256 * 1024)
#define TB_CHAIN_ERR_MAX 220

/* Where a chain stands: its last record. seq 0 and zeros: before the first. */
struct tb_chain_point {
    uint64_t seq;
    uint8_t hash[TB_CHAIN_HASH_BYTES];
};

/* What of a record matters to the chain. */
struct tb_chain_entry {
    uint64_t seq;
    uint8_t prev[TB_CHAIN_HASH_BYTES];
    char ts[TB_RFC3339_MAX];
    /* Requests that the record stands for: 1, or more of those that were refused without a key. */
    uint64_t count;
    bool after_stop;   /* the writer had not ended cleanly: the next two are there */
    uint64_t lost_max; /* requests without a record */
    uint64_t unsure;   /* records just before this one that may be missing */
};

/* Reads one record, line[0..len) without its line end. -EBADMSG (or -ENOMEM) and a reason. */
int tb_chain_parse(const char *line, size_t len, struct tb_chain_entry *ret,
                   char err[static TB_CHAIN_ERR_MAX]);
/* 0 or -ENOMEM. */
int tb_chain_hash(const char *line, size_t len, uint8_t out[static TB_CHAIN_HASH_BYTES]);
bool tb_chain_hash_equal(const uint8_t *a, const uint8_t *b);

/* How the end of an audit file stands to a point. */
enum tb_chain_tail {
    TB_CHAIN_TAIL_EMPTY,   /* no whole line */
    TB_CHAIN_TAIL_LEADS,   /* the point's record is there, and the chain leads from it to the last line */
    TB_CHAIN_TAIL_FOREIGN, /* anything else */
};
/* text[0..len): the end of an audit file, starting at the start of a line. From `from` (seq 0: whatever the
 * last line says) follows the chain to the last whole line: *ret. *ret_whole: bytes of whole lines. enum
 * tb_chain_tail or -ENOMEM. */
int tb_chain_follow(const char *text, size_t len, const struct tb_chain_point *from,
                    struct tb_chain_point *ret, size_t *ret_whole);

#endif
