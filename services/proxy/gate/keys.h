/* SPDX-License-Identifier: Apache-2.0 */
/* API keys: TB_API_KEYS names a file of lines `name:sha256`, the SHA-256 of the key in hex, and behind it
 * what the key may use: `rpm=` requests a minute, `tpm=` tokens a minute, `concurrent=` requests at once,
 * `budget=` tokens for good. Several keys may have one name, so that a key can be changed; they share what
 * they use, and their limits must be the same. No key has two names. Empty lines and lines that begin with
 * `#` are skipped. The keys themselves are never stored. */
#ifndef TB_PROXY_GATE_KEYS_H
#define TB_PROXY_GATE_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "proxy/gate/limits.h"

#define TB_API_KEY_NAME_MAX 64
#define TB_API_KEYS_MAX 10000
#define TB_API_KEYS_BYTES_MAX (TB_API_KEYS_MAX * 512UL) /* of the file */
#define TB_API_KEYS_ERR_MAX 200

struct tb_api_key {
    char name[TB_API_KEY_NAME_MAX + 1]; /* [A-Za-z0-9._-]+ */
    unsigned line;                      /* of the file */
    struct tb_limits limits;
    struct tb_key_account *account; /* set by tb_key_accounts_bind() */
};
/* A hash and the key that has it. */
struct tb_api_key_hash {
    uint8_t sha256[32];
    uint32_t index;
};
/* Two lines of the file that have something in common. */
struct tb_api_key_pair {
    size_t n; /* such pairs; 0: none */
    unsigned first, second;
};
struct tb_api_keys {
    struct tb_api_key *key;       /* in the order of the file */
    struct tb_api_key_hash *hash; /* sorted, as many */
    size_t n;
    /* What may be meant, or a slip: two keys of one name; a key that is there twice. */
    struct tb_api_key_pair same_name, same_key;
};

/* Parses the file's text, in O(n log n). -EINVAL and err, which names the line and never its contents;
 * -E2BIG; -ENOMEM. */
int tb_api_keys_parse(const char *text, size_t len, struct tb_api_keys *ret,
                      char err[static TB_API_KEYS_ERR_MAX]);
void tb_api_keys_clear(struct tb_api_keys *k);
/* The key with this text, NULL when it is none of ours: one SHA-256 and a binary search. What the time tells
 * is about the hash of what the caller sent, which the caller knows. */
const struct tb_api_key *tb_api_keys_find(const struct tb_api_keys *k, const char *text, size_t len);

#endif
