/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/tokens.h"

void tb_tokens_book(struct tb_usage *u, const struct tb_tokens *t)
{
    tb_usage_add(u, TB_USAGE_PROMPT_TOKENS, t->prompt);
    tb_usage_add(u, TB_USAGE_COMPLETION_TOKENS, t->completion);
    tb_usage_add(u, TB_USAGE_CACHED_TOKENS, t->cached);
    tb_usage_add(u, TB_USAGE_ESTIMATED_TOKENS, t->ours);
}
