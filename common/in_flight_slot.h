/* SPDX-License-Identifier: Apache-2.0 */
/* The format of STATE/tb-proxy/flight: a head slot that begins with the magic, then a slot for each answer
 * that is on its way. docs/contracts.md, "Usage counters". Integers in host order. */
#ifndef TB_IN_FLIGHT_SLOT_H
#define TB_IN_FLIGHT_SLOT_H

#include <stdint.h>

#define TB_IN_FLIGHT_MAGIC "TBFLIGH1"
#define TB_IN_FLIGHT_SLOTS 16384
/* The first slot is the head. */
#define TB_IN_FLIGHT_FILE_BYTES (sizeof(struct tb_in_flight_slot) * (TB_IN_FLIGHT_SLOTS + 1))

struct tb_in_flight_slot {
    uint64_t taken; /* 1 while an answer is on its way */
    uint64_t key;   /* its account's place, from 1; 0: none */
    uint64_t prompt, completion, cached, ours;
};

#endif
