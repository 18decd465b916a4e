/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/cost.h"

#include <assert.h>

#include "common/macros.h"
#include "proxy/usage/prompt.h"

static uint64_t cost_add(uint64_t a, uint64_t b)
{
    return a > TB_COST_MAX || b > TB_COST_MAX ? TB_COST_MAX : MIN(a + b, TB_COST_MAX);
}

static uint64_t cost_multiply(uint64_t a, uint64_t b)
{
    return b > 0 && a > TB_COST_MAX / b ? TB_COST_MAX : a * b;
}

/* The most it can cost when no completion is longer than max. A prompt and its completion share the
 * context: the longer one is, the shorter the other, and several completions of one prompt cost more than
 * the prompt they leave no room for. */
static uint64_t cost_most(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t max)
{
    uint64_t prompt = s->prompt_most;

    if (l->context > 0) {
        max = MIN(max, l->context);
        prompt = MIN(prompt, cost_multiply(s->prompts, l->context - (s->completions > 0 ? max : 0)));
    }
    return cost_add(prompt, cost_multiply(s->completions, max));
}

/* The largest limit with which it fits into what is left; 0 when there is none. */
static uint64_t cost_cap(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t high,
                         uint64_t left)
{
    uint64_t low = 0;

    while (low < high) {
        uint64_t mid = low + (high - low + 1) / 2;

        if (cost_most(s, l, mid) <= left)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

/* What the prompts cost at most. Of a prompt that is not all here it is the runtime's context, or what stands
 * for that. */
static uint64_t cost_prompt(const struct tb_request_size *s, const struct tb_runtime_limits *l)
{
    uint64_t more = MAX(l->template_least, (uint64_t)TB_PROMPT_TEMPLATE) - TB_PROMPT_TEMPLATE;

    if (s->prompt_most == UINT64_MAX)
        return l->context > 0 ? UINT64_MAX : cost_multiply(s->prompts, l->completion_max);
    return cost_add(s->prompt_most, cost_multiply(s->templates, more));
}

/* What a template may add beyond what it is known to: a completion leaves room for that, though not more than
 * half of what there is, as a limit on a prompt cannot be written. */
static uint64_t cost_slack(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t left)
{
    uint64_t least = cost_most(s, l, 1), low = MAX(l->template_least, (uint64_t)TB_PROMPT_TEMPLATE);
    uint64_t high =
        l->template_most > 0 ? MIN(l->template_most, (uint64_t)TB_COST_TEMPLATE) : TB_COST_TEMPLATE;

    if (high <= low || left == UINT64_MAX || left <= least || !s->conversation)
        return 0;
    return MIN(cost_multiply(s->templates, high - low), (left - least) / 2);
}

static void cost_of(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t left,
                    struct tb_cost *ret)
{
    uint64_t whole = l->context > 0 ? l->context : l->completion_max;
    bool open = s->open || s->max_tokens == 0;
    uint64_t max = open ? MAX(whole, s->max_tokens) : s->max_tokens;
    uint64_t likely = s->max_tokens > 0 ? s->max_tokens : TB_COST_LIKELY_COMPLETION;

    assert(s->prompts > 0 && l->completion_max > 0);
    if (l->context > 0) {
        max = MIN(max, l->context);
        likely = MIN(likely, l->context);
    }
    *ret = (struct tb_cost){
        .likely = cost_add(s->prompt_likely, cost_multiply(s->completions, likely)),
        .most = cost_most(s, l, max),
        .asked = s->max_tokens > 0 ? cost_multiply(s->completions, likely) : 0,
    };
    if (left == UINT64_MAX || s->completions == 0 || !s->may_cap)
        return;
    /* A runtime that does not say what it can do is held to what stands for it. */
    if (ret->most <= left && (l->context > 0 || !open))
        return;
    /* What the client asked for and surely does not fit is refused rather than cut short. */
    if (!open && ret->likely > left)
        return;
    ret->cap = cost_cap(s, l, max, left);
    if (ret->cap > 0 || open)
        ret->most = cost_most(s, l, MAX(ret->cap, 1)); /* without room for one token: what there should be */
}

void tb_cost_of(const struct tb_request_size *s, const struct tb_runtime_limits *l, uint64_t left,
                struct tb_cost *ret)
{
    struct tb_request_size known = *s;
    uint64_t slack;

    known.prompt_most = cost_prompt(s, l);
    slack = s->prompt_most == UINT64_MAX ? 0 : cost_slack(&known, l, left);
    cost_of(&known, l, left - slack, ret);
    ret->slack = slack;
}

void tb_cost_learn(const struct tb_request_size *s, uint64_t prompt, struct tb_runtime_limits *l)
{
    uint64_t text, all;

    if (s->prompt_most == UINT64_MAX || s->templates == 0 || s->templates > UINT32_MAX || prompt == 0)
        return;
    text = s->prompt_most - MIN(s->prompt_most, s->templates * TB_PROMPT_TEMPLATE);
    all = (prompt + s->templates - 1) / s->templates;
    if (s->conversation && s->usual) /* others, plain prompts too, show nothing of the kind */
        l->template_most = l->template_most > 0 ? MIN(l->template_most, all) : all;
    if (prompt > text)
        l->template_least = MAX(l->template_least, (prompt - text + s->templates - 1) / s->templates);
}
