/* SPDX-License-Identifier: Apache-2.0 */
/* What a request may cost: the amount to reserve, from what it asks for and from what its runtime can do.
 * Pure. A rate (tpm) is held by what is likely and may be exceeded; a budget is held by the most there can
 * be, whatever client and tokenizer do. */
#ifndef TB_PROXY_USAGE_COST_H
#define TB_PROXY_USAGE_COST_H

#include <stdbool.h>
#include <stdint.h>

/* More than any limit; sums stop here. */
#define TB_COST_MAX 1000000000000ULL
/* Tokens that a completion likely has when its request does not limit it. */
#define TB_COST_LIKELY_COMPLETION 256
/* Tokens that a chat template may add while no answer has shown that it adds fewer. */
#define TB_COST_TEMPLATE 576

/* What a runtime can do, as it says itself. */
struct tb_runtime_limits {
    uint64_t context;        /* most tokens of a prompt and its completion together; 0: not known */
    uint64_t completion_max; /* TB_DEFAULT_MAX_TOKENS: what stands for it then */
    /* Tokens that its chat template adds, as its usage showed: as many at least, since a prompt had so many
     * more than bytes; no more, since a prompt had no more in all. 0: nothing is known. */
    uint64_t template_least, template_most;
};

/* What a request asks for (the request rewrite knows). */
struct tb_request_size {
    uint64_t prompt_likely; /* tokens of all its prompts */
    uint64_t prompt_most;   /* ... with TB_PROMPT_TEMPLATE for each template; UINT64_MAX: nobody can say */
    uint64_t templates;     /* chat templates around them */
    bool conversation;      /* ... which surely are there */
    bool usual;             /* ... and add to it what they add to any */
    uint64_t prompts;       /* at least 1 */
    uint64_t completions;   /* prompts times choices; 0: it generates nothing */
    uint64_t max_tokens;    /* of each: the largest limit it names; 0: none */
    bool open;              /* a runtime may read it as without a limit */
    bool may_cap;           /* a limit can be written into it */
};

struct tb_cost {
    uint64_t likely; /* tokens, for a rate */
    uint64_t most;   /* for a budget. More than `left`: it does not fit */
    uint64_t slack;  /* and what a template may add to that, which nobody knows yet. Fits as well */
    uint64_t cap;    /* limit to write into it, so that it costs no more than `most`; 0: none */
    uint64_t asked;  /* of likely, what the client asked for, not our estimate */
};
/* left: tokens of the budget that are there; UINT64_MAX without a budget: nothing is ever written then. */
void tb_cost_of(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t left,
                struct tb_cost *ret);
/* An answer has told how many tokens the prompts really had: what that says of the template. */
void tb_cost_learn(const struct tb_request_size *s, uint64_t prompt, struct tb_runtime_limits *l);

#endif
