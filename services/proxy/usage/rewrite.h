/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a request for tokens, while it streams to the runtime: what it asks for, and the few bytes we add to it. Nothing of it
 * is held. So that usage arrives with a stream, stream_options.include_usage is set in the copy the runtime gets; so that a
 * reservation holds, a missing limit of tokens is. Both happen before the bracket that ends the object: nobody can act on the
 * request before that. A body of announced length grows by exactly TB_REWRITE_GROWTH bytes, the rest of them blanks behind the end.
 * No I/O. UTF-8 JSON only; what is no JSON object passes as it is. */
#ifndef TB_PROXY_USAGE_REWRITE_H
#define TB_PROXY_USAGE_REWRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "proxy/usage/json_scan.h"

#define TB_REWRITE_GROWTH 128

enum tb_api {
    TB_API_OTHER,
    TB_API_CHAT,
    TB_API_COMPLETION,
    TB_API_EMBEDDING,
    TB_API_RESPONSE,
    TB_API_MESSAGE
};
/* By the end of the path, without query: "/v1/chat/completions" and so on. */
enum tb_api tb_api_of(const char *path, size_t len);

struct tb_rewrite {
    enum tb_api kind;
    /* What the body says; of repeated members the largest number, the last boolean. */
    bool stream, wants_usage; /* wants_usage: its author set include_usage */
    bool max_given, max_bad;  /* a limit of tokens; max_bad: that is not a whole number > 0 */
    uint64_t max_tokens, n, best_of, prompts;
    bool complete; /* a JSON object, to its end */
    bool injected; /* include_usage is ours */
    /* private */
    struct tb_json_scan scan;
    uint64_t in, out;
    bool drop, decided, options_seen, options_open, usage_seen;
};

/* Appends what the runtime shall get for p[0..n) to out. 1: stopped before the end of the object, *ret_used bytes are done; call
 * tb_rewrite_close() and go on with the rest. 0: all done. -ENOMEM. */
int tb_rewrite_feed(struct tb_rewrite *a, const char *p, size_t n, struct tb_buf *out, size_t *ret_used);
/* Appends the members that are ours. max_tokens: the limit to set when the body gives none; 0: leave it so. 0 or -ENOMEM. */
int tb_rewrite_close(struct tb_rewrite *a, uint64_t max_tokens, struct tb_buf *out);
/* Appends the blanks that make the body as long as announced. 0 or -ENOMEM. */
int tb_rewrite_pad(struct tb_rewrite *a, struct tb_buf *out);
/* How many completions it may lead to: prompts times the larger of n and best_of. */
uint64_t tb_rewrite_completions(const struct tb_rewrite *a);

#endif
