/* SPDX-License-Identifier: Apache-2.0 */
/* What answers on their way have cost so far: STATE/tb-proxy/flight, a mapped file. A killed process leaves it, and the next one books
 * what it finds as estimated. docs/contracts.md, "Usage counters". */
#ifndef TB_PROXY_USAGE_IN_FLIGHT_H
#define TB_PROXY_USAGE_IN_FLIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "proxy/gate/key_accounts.h"
#include "proxy/usage/usage_parser.h"
#include "common/usage.h"

struct tb_flight_slot {
    uint64_t taken; /* 1 while an answer is on its way */
    uint64_t key;   /* its account's place in the book, from 1; 0: none */
    uint64_t prompt, completion, cached, ours;
};

struct tb_flight;
/* Opens or makes the file, books what a killed process left there and tells how many answers that were. book: NULL without keys.
 * -EBADMSG when the file is something else; -errno. */
int tb_flight_open(const char *path, struct tb_usage *usage, struct tb_key_book *book, struct tb_flight **ret,
                   size_t *ret_found);
void tb_flight_close(struct tb_flight *f);

/* A slot for an answer; NULL when all are taken: what it costs is then lost with a kill. */
struct tb_flight_slot *tb_flight_take(struct tb_flight *f, const struct tb_key_account *a);
void tb_flight_note(struct tb_flight_slot *slot, const struct tb_tokens *t);
/* Before what it cost is booked: a kill in between loses it rather than books it twice. */
void tb_flight_give_back(struct tb_flight *f, struct tb_flight_slot *slot);

#endif
