/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/usage_sum.h"

#include <assert.h>

#include "proxy/usage/prompt.h"

/* --- adding up ---------------------------------------------------------------------------------------- */

/* Of several usage objects each number is the largest: in a stream they grow, and some are said twice. */
static void sum_merge_halves(struct tb_usage_halves *all, const struct tb_usage_halves *u)
{
    all->prompt = MAX(all->prompt, u->prompt);
    all->completion = MAX(all->completion, u->completion);
    all->cached = MAX(all->cached, u->cached);
    all->total = MAX(all->total, u->total);
    all->input = MAX(all->input, u->input);
    all->cache_read = MAX(all->cache_read, u->cache_read);
    all->cache_write = MAX(all->cache_write, u->cache_write);
    all->has_prompt |= u->has_prompt;
    all->has_completion |= u->has_completion;
    all->has_total |= u->has_total;
    all->has_input |= u->has_input;
}

static struct tb_usage_choice *sum_current_choice(struct tb_usage_parser *m)
{
    return &m->choice[MIN(m->index, TB_USAGE_PARSER_CHOICES - 1)];
}

static uint64_t sum_asked_choices(const struct tb_usage_parser *m)
{
    return MAX(m->request.choices, 1) * MAX(m->request.prompts, 1);
}

static bool sum_has_choices(const struct tb_usage_parser *m)
{
    return m->request.api == TB_API_CHAT || m->request.api == TB_API_COMPLETION;
}

void tb_usage_add_usage(struct tb_usage_parser *m)
{
    struct tb_usage_choice *c = sum_current_choice(m);

    sum_merge_halves(&m->all, &m->now);
    if (!m->events || !sum_has_choices(m)) {
        m->final |= m->events && m->now.has_completion && m->request.api == TB_API_RESPONSE;
        return;
    }
    if (m->bare && m->event_text == 0) {
        m->alone++;
        m->alone_completion += m->now.completion;
        m->final |= m->now.has_completion && (sum_asked_choices(m) == 1 || m->alone >= m->n_choices);
        return;
    }
    c->told |= m->now.has_completion;
    c->completion = MAX(c->completion, m->now.completion);
    c->prompt = MAX(c->prompt, m->now.prompt);
}

void tb_usage_add_timings(struct tb_usage_parser *m)
{
    struct tb_usage_choice *c = sum_current_choice(m);
    const struct tb_usage_halves *t = &m->now_timed;

    m->timed.has_prompt |= t->has_prompt;
    m->timed.has_completion |= t->has_completion;
    if (!m->events) { /* a list has several */
        m->timed.prompt += t->prompt;
        m->timed.cached += t->cached;
        m->timed.completion += t->completion;
        return;
    }
    m->timed.prompt = MAX(m->timed.prompt, t->prompt);
    m->timed.cached = MAX(m->timed.cached, t->cached);
    if (m->bare && m->has_usage)
        return; /* of whichever choice has ended: its usage says the same */
    c->told |= t->has_completion;
    c->completion = MAX(c->completion, t->completion);
    c->prompt = MAX(c->prompt, t->prompt);
    m->n_choices = MAX(m->n_choices, MIN(m->index, TB_USAGE_PARSER_CHOICES - 1) + 1);
}

/* --- estimates ---------------------------------------------------------------------------------------- */

static uint64_t sum_text_tokens(uint64_t bytes)
{
    return (bytes + TB_PROMPT_TOKEN_BYTES - 1) / TB_PROMPT_TOKEN_BYTES;
}

/* By the text that was delivered, and one token for each event that had any at least. */
static uint64_t sum_estimated_completion(const struct tb_usage_parser *m)
{
    uint64_t sum = sum_text_tokens(m->choice_text + MAX(m->reasoning, m->reasoning_too));

    for (uint64_t i = 0; i < m->n_choices; i++)
        sum += MAX(sum_text_tokens(m->choice[i].text), m->events ? m->choice[i].events : 0);
    return sum;
}

/* --- what is told ------------------------------------------------------------------------------------- */

/* llama-server's usage is that of one choice or prompt, however many there were. */
static bool sum_says_one_of_many(const struct tb_usage_parser *m)
{
    bool all_at_limit = m->request.max_tokens > 0 && m->all.completion == m->request.max_tokens;

    if (m->events || m->n_choices < 2 || !m->all.has_completion)
        return false;
    for (uint64_t i = 0; i < m->n_choices; i++)
        all_at_limit = all_at_limit && m->choice[i].length;
    return all_at_limit || (m->timed.has_completion && m->timed.completion == m->all.completion);
}

/* The others by what was delivered: as much as the first for those that ended at the same limit, else in
 * proportion to their text. */
static uint64_t sum_completion_of_many(const struct tb_usage_parser *m, bool *ret_exact)
{
    const struct tb_usage_choice *first = &m->choice[0];
    uint64_t sum = m->all.completion;

    *ret_exact = true;
    for (uint64_t i = 1; i < m->n_choices; i++) {
        const struct tb_usage_choice *c = &m->choice[i];

        if (c->length && (first->length || m->request.max_tokens > 0)) {
            sum += first->length ? m->all.completion : m->request.max_tokens;
            continue;
        }
        *ret_exact = false;
        sum += first->text > 0 ? (m->all.completion * c->text + first->text - 1) / first->text
                               : sum_text_tokens(c->text);
    }
    return sum;
}

static bool sum_told_completion(const struct tb_usage_parser *m, uint64_t *ret, bool *ret_exact)
{
    bool told = false;

    *ret = 0;
    *ret_exact = true;
    if (m->events && sum_has_choices(m) && m->alone == 0) {
        for (uint64_t i = 0; i < TB_USAGE_PARSER_CHOICES; i++) {
            told |= m->choice[i].told;
            *ret += m->choice[i].completion;
        }
        return told;
    }
    if (m->alone > 1 && sum_asked_choices(m) > 1) {
        *ret = m->alone_completion;
        return true;
    }
    if (m->all.has_completion) {
        *ret = sum_says_one_of_many(m) ? sum_completion_of_many(m, ret_exact) : m->all.completion;
        return true;
    }
    if (m->all.has_total && m->all.has_prompt) {
        *ret = m->all.total - MIN(m->all.prompt, m->all.total);
        return true;
    }
    *ret = m->timed.completion;
    return m->timed.has_completion;
}

/* Of several prompts that answer in a stream, each says its own. */
static uint64_t sum_prompts_of_stream(const struct tb_usage_parser *m)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < TB_USAGE_PARSER_CHOICES; i++)
        sum += m->choice[i].prompt;
    return sum / MAX(m->request.choices, 1);
}

static bool sum_told_prompt(const struct tb_usage_parser *m, uint64_t *ret, bool *ret_exact)
{
    const struct tb_usage_halves *a = &m->all;
    bool several = m->request.prompts > 1 && m->request.api == TB_API_COMPLETION;

    *ret_exact = true;
    if (several && m->events && m->alone == 0 && (a->has_prompt || m->timed.has_prompt)) {
        *ret = sum_prompts_of_stream(m);
        return true;
    }
    if (a->has_prompt || a->has_input) {
        *ret = MAX(a->prompt, a->input + a->cache_read + a->cache_write);
        if (several && !m->events && m->timed.has_prompt && m->timed.prompt == *ret) {
            *ret_exact = false;
            *ret = m->request.first_text > 0 ? *ret * m->request.text / m->request.first_text
                                             : *ret * m->request.prompts;
        }
        return true;
    }
    if (a->has_total && (a->has_completion || !tb_api_generates(m->request.api))) {
        *ret = a->total - MIN(a->completion, a->total);
        return true;
    }
    *ret = m->timed.prompt / (m->events ? 1 : MAX(m->request.choices, 1));
    return m->timed.has_prompt;
}

/* --- the sum ------------------------------------------------------------------------------------------ */

static void sum_opaque_result(const struct tb_usage_parser *m, struct tb_tokens *ret)
{
    uint64_t most = m->request.max_tokens * sum_asked_choices(m);

    if (!tb_api_is_json(m->request.api) && m->request.api != TB_API_AUDIO)
        return;
    ret->known = ret->estimated = true;
    ret->prompt = m->request.prompt_likely;
    if (m->request.api != TB_API_EMBEDDING)
        ret->completion = sum_text_tokens(m->bytes);
    if (most > 0)
        ret->completion = MIN(ret->completion, most);
    ret->ours = ret->prompt + ret->completion;
}

void tb_usage_parser_result(const struct tb_usage_parser *m, bool complete, struct tb_tokens *ret)
{
    bool writes = tb_api_generates(m->request.api) || m->request.api == TB_API_AUDIO;
    bool final = m->final || complete || (!m->events && m->scan.closed);
    bool prompt, completion, prompt_exact, completion_exact;
    uint64_t delivered = sum_estimated_completion(m);

    *ret = (struct tb_tokens){0};
    if (m->opaque || (m->untyped && m->bytes > 0 && (m->scan.bad || !m->scan.closed))) {
        sum_opaque_result(m, ret);
        return;
    }
    prompt = sum_told_prompt(m, &ret->prompt, &prompt_exact);
    completion = sum_told_completion(m, &ret->completion, &completion_exact);
    ret->known = prompt || completion ||
                 ((writes || m->request.api == TB_API_EMBEDDING) && (m->inferred || delivered > 0));
    if (!ret->known)
        return;
    /* A runtime that reports 0 for what there was does not count. Completions may echo their prompt. */
    if (ret->completion == 0 && delivered > 0 && (m->request.api != TB_API_COMPLETION || ret->prompt == 0))
        completion = false;
    if (ret->prompt == 0 && tb_api_is_json(m->request.api) &&
        (delivered > 0 || ret->completion > 0 || (m->request.api == TB_API_EMBEDDING && m->inferred)))
        prompt = false;
    if (!prompt)
        ret->prompt = ret->ours = m->request.prompt_likely;
    if (writes && delivered > ret->completion && (!completion || !final)) {
        ret->ours += delivered - ret->completion;
        ret->completion = delivered;
    }
    ret->estimated = !prompt || !prompt_exact || (writes && (!completion || !completion_exact)) || !final;
    ret->cached = MIN(MAX(m->all.cached, MAX(m->all.cache_read, m->timed.cached)), ret->prompt);
}
