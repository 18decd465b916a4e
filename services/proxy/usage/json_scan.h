/* SPDX-License-Identifier: Apache-2.0 */
/* A JSON tokenizer over a stream: says where values stand and what they are, and holds no document. A step
 * function over (buf, len) without I/O; memory does not depend on the text. It takes the structure as RFC
 * 8259 has it, a byte order mark before it, and the words NaN and Infinity, which Python's reader knows;
 * the spelling of numbers it leaves to the reader behind it. */
#ifndef TB_PROXY_USAGE_JSON_SCAN_H
#define TB_PROXY_USAGE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TB_JSON_SCAN_LEVELS 8   /* whose keys are known; deeper ones are only checked */
#define TB_JSON_SCAN_DEPTH 1024 /* more open containers are bad */
#define TB_JSON_SCAN_KEY 40     /* a longer key matches nothing */
#define TB_JSON_SCAN_VALUE 64   /* bytes of a value that are kept */

enum tb_json_token {
    TB_JSON_MORE, /* all bytes are used */
    /* behind the bytes used a member of the outermost object begins: its comma, or the first one's quote */
    TB_JSON_MEMBER,
    TB_JSON_KEY,   /* a key of the two outermost levels ended */
    TB_JSON_BEGIN, /* behind the bytes used an object or array begins: its bracket comes next */
    TB_JSON_END,   /* behind the bytes used one ends: its bracket comes next */
    TB_JSON_DONE,  /* a number or word ended */
    TB_JSON_TEXT,  /* a string that is no key ended */
    TB_JSON_BAD,   /* not JSON; nothing is reported any more and all bytes count as used */
};

struct tb_json_level {
    bool array;
    char key[TB_JSON_SCAN_KEY + 1]; /* of the value that comes or is; "" in arrays */
    uint64_t items;                 /* values begun */
};
struct tb_json_scan {
    unsigned depth; /* containers open */
    /* DONE and TEXT: the value, of a string its decoded beginning; a byte that is not printable ASCII is
     * DEL. */
    char value[TB_JSON_SCAN_VALUE + 1];
    bool cut;          /* the value is longer */
    uint64_t text_len; /* TEXT: bytes of the decoded string */
    bool closed;       /* the outermost container has ended */
    bool bad;
    /* private */
    int expect, mode;
    bool told, key, escape;
    unsigned hex_left, hex, mark;
    size_t fill;
    /* last, as what is beyond depth is not looked at */
    struct tb_json_level level[TB_JSON_SCAN_LEVELS];
    uint8_t object[TB_JSON_SCAN_DEPTH / 8]; /* bit: the container of this depth is an object */
};

/* For the next text; zeros are as good. */
static inline void tb_json_scan_reset(struct tb_json_scan *s)
{
    memset(s, 0, offsetof(struct tb_json_scan, level));
}

/* Zero-initialise. Uses at most n bytes of p up to the next token; returns how many. */
size_t tb_json_scan(struct tb_json_scan *s, const char *p, size_t n, enum tb_json_token *ret);
/* True when the current value (BEGIN, END, DONE, TEXT) stands at this path: "usage.prompt_tokens",
 * "choices..delta" with an empty word for an array's place. */
bool tb_json_at(const struct tb_json_scan *s, const char *path);
/* The last key of the current value's path; "" in an array or too deep. */
const char *tb_json_last_key(const struct tb_json_scan *s);
/* DONE: value[] as an unsigned number; a sign, fraction or exponent is none. */
bool tb_json_scan_uint(const struct tb_json_scan *s, uint64_t *ret);

#endif
