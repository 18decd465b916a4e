/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-decrypt wants of the ciphertext: ranges that somebody waits for, to be fetched before others, and
 * ranges that came and proved bad, to be fetched once more. tb-decrypt writes RUN/tb-decrypt/want.json,
 * tb-hydrate reads it (docs/contracts.md). To tb-hydrate it is a wish, and foreign bytes. */
#ifndef TB_WANT_H
#define TB_WANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_WANT_NAME "want.json" /* below the runtime directory of tb-decrypt */
#define TB_WANT_CALL "repair"    /* beside it */
#define TB_WANT_MAX 64           /* ranges at once */
#define TB_WANT_SHA256_HEX 64

struct tb_want_range {
    uint64_t offset, bytes; /* in the ciphertext; bytes > 0 */
    /* A record that is to be fetched once more, because what came is not right: */
    bool repair;
    uint64_t record; /* its number, for people */
    uint32_t seen;   /* tb_range_map_seen() of what was found bad; another value: done since */
    uint8_t try;     /* from 1: where there are several places, with which to begin */
};

struct tb_want {
    char sha256[TB_WANT_SHA256_HEX + 1]; /* of which ciphertext, as its manifest says */
    size_t n;
    struct tb_want_range r[TB_WANT_MAX]; /* the most urgent first */
};

/* Nothing is wanted: n is 0. -EBADMSG. */
int tb_want_parse(const char *buf, size_t len, struct tb_want *ret);
/* The file below run_dir. -ENOENT: nothing was ever wanted; -EBADMSG; -errno. */
int tb_want_read(const char *run_dir, struct tb_want *ret);
/* Replaces the file in tb-decrypt's own directory. 0 or -errno. */
int tb_want_write(const char *dir, const struct tb_want *w);
/* Calls a tb-hydrate that has ended already: its unit's path watches TB_WANT_CALL there. */
int tb_want_call(const char *dir);

#endif
