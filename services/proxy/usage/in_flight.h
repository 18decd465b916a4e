/* SPDX-License-Identifier: Apache-2.0 */
/* What answers on their way have cost so far: STATE/tb-proxy/flight, a mapped file. A killed process leaves
 * it, and the next one books what it finds as estimated. docs/contracts.md, "Usage counters". */
#ifndef TB_PROXY_USAGE_IN_FLIGHT_H
#define TB_PROXY_USAGE_IN_FLIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "common/in_flight_slot.h"
#include "proxy/usage/tokens.h"

struct tb_in_flight;
/* Who books what a killed process left. key: as tb_in_flight_take() was given it. */
typedef void tb_in_flight_left_fn(void *arg, uint64_t key, const struct tb_tokens *t);
/* Opens or makes the file, gives each answer that a killed process left there to `left` and tells how many
 * there were. -EBADMSG when the file is something else; -errno. */
int tb_in_flight_open(const char *path, tb_in_flight_left_fn *left, void *arg, struct tb_in_flight **ret,
                      size_t *ret_found);
void tb_in_flight_close(struct tb_in_flight *f);
/* Sees that path still names its file, and makes a new one if not: tb_mapfile_keep(). */
int tb_in_flight_keep(struct tb_in_flight *f, const char *path);

/* A slot for an answer; NULL when all are taken: what it costs is then lost with a kill. */
struct tb_in_flight_slot *tb_in_flight_take(struct tb_in_flight *f, uint64_t key);
void tb_in_flight_note(struct tb_in_flight_slot *slot, const struct tb_tokens *t);
/* Before what it cost is booked: a kill in between loses it rather than books it twice. */
void tb_in_flight_give_back(struct tb_in_flight *f, struct tb_in_flight_slot *slot);

#endif
