/* SPDX-License-Identifier: Apache-2.0 */
/* How many tokens an answer cost, from the answer itself while it passes: a JSON body or an event stream of the OpenAI API (chat,
 * completions, embeddings, responses), Anthropic's messages, or llama.cpp's timings. A step function over (buf, len) without I/O;
 * memory is bounded whatever the runtime sends. */
#ifndef TB_PROXY_USAGE_USAGE_PARSER_H
#define TB_PROXY_USAGE_USAGE_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "proxy/usage/json_scan.h"
#include "proxy/usage/tokens.h"

#define TB_USAGE_PARSER_HOLD_MAX (16 * 1024) /* a longer event is never the one with the usage alone */

struct tb_usage_parser {
    bool events; /* an event stream, not one JSON body */
    bool strip;  /* take the event out that holds nothing but the usage */
    /* private */
    struct tb_json_scan scan;
    uint64_t prompt, completion, cached, input, cache_read, cache_write, total; /* of usage */
    uint64_t timed_prompt, timed_cache, timed_completion;                       /* of timings */
    bool has_usage, has_timings, final;
    uint64_t pieces, text_bytes; /* events with text in them; bytes of text */
    bool event_usage, event_text, event_bare;
    unsigned line; /* bytes of the current line's beginning seen */
    bool data, lone_cr;
    struct tb_buf held;
    bool passing; /* the current event was too long to hold */
};

/* Looks at bytes of the answer's body. Without strip what the client gets is what came. */
void tb_usage_parser_feed(struct tb_usage_parser *m, const char *p, size_t n);
/* As tb_usage_parser_feed(), with strip: appends what the client shall get to out. 0 or -ENOMEM. */
int tb_usage_parser_filter(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out);
/* At the end of the body: appends what is still held. 0 or -ENOMEM. */
int tb_usage_parser_flush(struct tb_usage_parser *m, struct tb_buf *out);
/* complete: the runtime sent the answer to its end and the client took it. prompt_bytes: size of the request, to guess from. */
void tb_usage_parser_result(const struct tb_usage_parser *m, bool complete, uint64_t prompt_bytes,
                            struct tb_tokens *ret);
void tb_usage_parser_clear(struct tb_usage_parser *m);

#endif
