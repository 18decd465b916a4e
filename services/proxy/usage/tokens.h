/* SPDX-License-Identifier: Apache-2.0 */
/* What an answer cost: the one thing that the usage parser finds, and the counters, the key's account and
 * the record keep. */
#ifndef TB_PROXY_USAGE_TOKENS_H
#define TB_PROXY_USAGE_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/usage.h"

struct tb_tokens {
    uint64_t prompt, completion, cached; /* cached: of the prompt */
    uint64_t ours;                       /* of prompt and completion: counted or guessed by us */
    bool known;                          /* the answer had to do with tokens */
    bool estimated;
};

/* Adds them to the usage counters. */
void tb_tokens_book(struct tb_usage *u, const struct tb_tokens *t);

#endif
