/* SPDX-License-Identifier: Apache-2.0 */
/* A JSON tokenizer over a stream: says where values stand and what they are, and holds no document. A step function over
 * (buf, len) without I/O; memory does not depend on the text. UTF-8 only. Who uses it must not rely on its refusing all that is not
 * JSON: it tracks structure, the reader behind it judges the rest. */
#ifndef TB_PROXY_USAGE_JSON_SCAN_H
#define TB_PROXY_USAGE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_JSON_SCAN_LEVELS 8 /* whose keys are known; deeper ones are only counted */
#define TB_JSON_SCAN_KEY 40   /* a longer key matches nothing */
#define TB_JSON_SCAN_VALUE 24 /* of a number or literal; a longer one is cut and matches nothing */

enum tb_json_token {
    TB_JSON_MORE,  /* all bytes are used */
    TB_JSON_BEGIN, /* behind the bytes used an object or array begins: its bracket comes next */
    TB_JSON_END,   /* behind the bytes used one ends: its bracket comes next */
    TB_JSON_VALUE, /* behind the bytes used a number or literal begins */
    TB_JSON_DONE,  /* the number or literal is in value[] */
    TB_JSON_TEXT,  /* a string that is no key ended; text_len is its size in bytes as written */
    TB_JSON_BAD,   /* not JSON; nothing is reported any more and all bytes count as used */
};

struct tb_json_level {
    bool array, keyed;              /* keyed: the key's colon has been seen */
    char key[TB_JSON_SCAN_KEY + 1]; /* of the value that comes or is; "" in arrays */
    uint64_t items;                 /* values begun */
};
struct tb_json_scan {
    unsigned depth; /* containers open */
    struct tb_json_level level[TB_JSON_SCAN_LEVELS];
    char value[TB_JSON_SCAN_VALUE + 1];
    uint64_t text_len;
    bool closed; /* the outermost container has ended */
    bool bad;
    /* private */
    int mode;
    bool told, key, escape, clean;
    unsigned hex_left, hex;
    size_t fill;
};

/* Zero-initialise. Uses at most n bytes of p up to the next token; returns how many. */
size_t tb_json_scan(struct tb_json_scan *s, const char *p, size_t n, enum tb_json_token *ret);
/* True when the current value (BEGIN, END, VALUE, DONE, TEXT) stands at this path: "usage.prompt_tokens", "choices..delta"
 * with an empty word for an array's place. Letters of either case: some readers do not tell them apart. */
bool tb_json_at(const struct tb_json_scan *s, const char *path);
/* The last key of the current value's path; "" in an array or too deep. */
const char *tb_json_last_key(const struct tb_json_scan *s);
/* value[] as an unsigned number; a fraction or exponent is none. */
bool tb_json_scan_uint(const struct tb_json_scan *s, uint64_t *ret);

#endif
