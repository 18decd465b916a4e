/* SPDX-License-Identifier: Apache-2.0 */
/* How many tokens an answer cost, from the answer itself while it passes: a JSON body or server-sent events
 * of the OpenAI API (chat, completions, embeddings, responses), of Anthropic's messages, or with
 * llama-server's timings. Each API's own rule says how the usage of its events adds up; a half that nobody
 * tells is estimated from the text. A step function over (buf, len) without I/O; memory is bounded whatever
 * the runtime sends. */
#ifndef TB_PROXY_USAGE_USAGE_PARSER_H
#define TB_PROXY_USAGE_USAGE_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "proxy/usage/api.h"
#include "proxy/usage/json_scan.h"
#include "proxy/usage/sse.h"
#include "proxy/usage/tokens.h"

#define TB_USAGE_PARSER_HOLD_MAX (16 * 1024) /* a longer event is never the one with the usage alone */
#define TB_USAGE_PARSER_CHOICES 32           /* told apart; those beyond count as the last of them */

/* What the request says of its answer. */
struct tb_usage_request {
    enum tb_api api;
    uint64_t prompts, choices; /* choices: of each prompt; at least 1 */
    uint64_t max_tokens;       /* of each choice, when all its limits say the same; 0: not known */
    uint64_t prompt_likely;    /* tokens: the estimate */
    uint64_t text, first_text; /* bytes of all prompts' text, and of the first one's */
};

/* What one usage object, or several together, say. */
struct tb_usage_halves {
    uint64_t prompt, completion, cached, total;
    uint64_t input, cache_read, cache_write; /* Anthropic's parts of the prompt */
    bool has_prompt, has_completion, has_total, has_input;
};

struct tb_usage_choice {
    uint64_t prompt, completion; /* as its own usage said at last */
    uint64_t events, text;       /* with text in them; its bytes */
    bool told, length;           /* told: it had a usage; length: it ended at its limit */
};

struct tb_usage_parser {
    struct tb_usage_request request;
    bool events;                     /* server-sent events, not one JSON body */
    bool strip;                      /* take out what comes because we asked for usage */
    bool strip_each;                 /* ... and is in each event */
    bool opaque;                     /* bytes that nobody here can read: they are only counted */
    bool untyped;                    /* nobody says that it is JSON: read as such, opaque if it is none */
    char id[TB_JSON_SCAN_VALUE + 1]; /* of a response (Responses API) */
    bool id_cut;                     /* it is longer */
    bool over;                       /* the response's status is one that stays */
    /* private */
    struct tb_json_scan scan;
    struct tb_sse sse;
    struct tb_usage_choice choice[TB_USAGE_PARSER_CHOICES];
    struct tb_usage_halves all, timed; /* of the answer; timed: by timings */
    uint64_t alone, alone_completion;  /* events with nothing but usage, and the sum of what they say */
    uint64_t n_choices;                /* the largest index of one, and 1 */
    uint64_t bytes;                    /* opaque */
    bool inferred;                     /* it has the shape of an answer of its API */
    bool final;                        /* the count is whole whatever comes now */
    /* of the current event or body */
    struct tb_usage_halves now, now_timed;
    uint64_t index, choice_text, reasoning, reasoning_too, event_text;
    unsigned in_usage, in_timings; /* depth of the object's members; 0: not in one */
    bool has_usage, has_timings, bare, finished, choice_length;
    struct tb_buf held;      /* the current event */
    struct tb_buf kept;      /* the one before, that what is stripped of this one may go to */
    bool passing, dropped;   /* the current event was too long to hold; the one before was taken out */
    bool begun, spare_usage; /* there was an event before; usage of the current one goes */
};

/* Looks at bytes of the answer's body. Without strip what the client gets is what came. */
void tb_usage_parser_feed(struct tb_usage_parser *m, const char *p, size_t n);
/* As tb_usage_parser_feed(), with strip: appends what the client shall get to out. 0 or -ENOMEM. */
int tb_usage_parser_filter(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out);
/* The answer has come to its end; an event counts though no empty line ends it. With strip: appends what is
 * still held for the client; out may be NULL without. 0 or -ENOMEM. */
int tb_usage_parser_end(struct tb_usage_parser *m, struct tb_buf *out);
/* The answer broke off in its middle: with strip, appends the whole events that are held. 0 or -ENOMEM. */
int tb_usage_parser_cut(struct tb_usage_parser *m, struct tb_buf *out);
/* complete: the runtime sent the answer to its end and the client took it. */
void tb_usage_parser_result(const struct tb_usage_parser *m, bool complete, struct tb_tokens *ret);
/* Of events: what went to the client ends with a whole line, so that another may stand there. */
bool tb_usage_parser_at_line(const struct tb_usage_parser *m);
/* The usage has come, with both its halves, or none will come. */
bool tb_usage_parser_told(const struct tb_usage_parser *m);
void tb_usage_parser_clear(struct tb_usage_parser *m);

#endif
