/* SPDX-License-Identifier: Apache-2.0 */
/* What each API key has used, by name: counters in STATE/tb-proxy/keys that survive SIGKILL, and the
 * limits that hold now. Names are never forgotten: one that comes back finds its account as it was.
 * docs/contracts.md, "Usage by key". */
#ifndef TB_PROXY_GATE_KEY_ACCOUNTS_H
#define TB_PROXY_GATE_KEY_ACCOUNTS_H

#include <stdint.h>

#include "proxy/gate/keys.h"
#include "proxy/gate/limits.h"
#include "proxy/usage/tokens.h"

/* A record of the file; integers in host order. */
struct tb_key_record {
    char name[72]; /* NUL-terminated; "" behind the last */
    uint64_t requests, bytes_in, bytes_out;
    uint64_t prompt_tokens, completion_tokens, cached_tokens, estimated_tokens;
    uint64_t reserved[16]; /* 0 */
};

struct tb_key_account {
    struct tb_limiter limiter;
    struct tb_key_record *record; /* in the file */
    size_t place;                 /* of the record, from 0 */
};

struct tb_key_accounts;
/* Opens or makes the file. -EBADMSG when it is none of ours: it is left alone, as it holds what was spent.
 * -errno. */
int tb_key_accounts_open(const char *path, struct tb_key_accounts **ret);
/* Gives each key its account, O(n). May run on a thread of its own beside everything but itself, since it
 * touches no account that keys in force have. -ENOSPC when the file has no room for another name. */
int tb_key_accounts_bind(struct tb_key_accounts *b, struct tb_api_keys *keys);
/* The account of a key that is bound and in force, with this key's limits from now on: when the keys are
 * read again, the limits of each account change at its next request and not all at once. */
struct tb_key_account *tb_key_account_use(const struct tb_api_key *k);
void tb_key_accounts_close(struct tb_key_accounts *b);
/* Sees that path still names their file, and makes a new one if not: tb_mapfile_keep(). Not beside
 * tb_key_accounts_bind(). */
int tb_key_accounts_keep(struct tb_key_accounts *b, const char *path);

/* Tokens of the budget that are gone. */
uint64_t tb_key_spent(const struct tb_key_account *a);
/* Tokens for the account at this place, which need not be bound; nothing for a place where none is. */
void tb_key_accounts_add(struct tb_key_accounts *b, uint64_t place, const struct tb_tokens *t);
void tb_key_add_tokens(struct tb_key_account *a, const struct tb_tokens *t);
void tb_key_add_request(struct tb_key_account *a, uint64_t bytes_in, uint64_t bytes_out);

#endif
