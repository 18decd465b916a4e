/* SPDX-License-Identifier: Apache-2.0 */
/* The API keys in force, and reading them again: on a thread of its own, so that no stream waits for a
 * file of 10,000 keys. What cannot be used is reported, and the keys read before stay in force. All calls
 * but the thread's work are the loop's. */
#ifndef TB_PROXY_GATE_KEY_STORE_H
#define TB_PROXY_GATE_KEY_STORE_H

#include "proxy/gate/key_accounts.h"
#include "proxy/gate/keys.h"

struct tb_key_store;

/* Reads TB_API_KEYS, the file `path`, for the first time, and opens the accounts, the file `accounts`.
 * Reports what is wrong. -errno. */
int tb_key_store_open(const char *path, const char *accounts, struct tb_key_store **ret);
/* Waits for a thread that still reads. */
void tb_key_store_close(struct tb_key_store *s);

/* Starts to read the file again; once more afterwards, when it is being read. */
void tb_key_store_reload(struct tb_key_store *s);
/* Readable when tb_key_store_finish() has something to do. */
int tb_key_store_fd(const struct tb_key_store *s);
/* Puts what was read in force, by swapping a pointer. */
void tb_key_store_finish(struct tb_key_store *s);

/* Sees that path still names the file of the accounts: tb_mapfile_keep(). Not now, while keys are read. */
int tb_key_store_keep(struct tb_key_store *s, const char *path);

/* Why the file could not be used when it was read last, so that older keys are in force; "" when it could. */
const char *tb_key_store_trouble(const struct tb_key_store *s);
const struct tb_api_keys *tb_key_store_keys(const struct tb_key_store *s);
struct tb_key_accounts *tb_key_store_accounts(const struct tb_key_store *s);

#endif
