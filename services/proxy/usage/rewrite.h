/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a request for tokens, while it streams to the runtime: what it asks for, and the few bytes we
 * change in it. Nothing of it is held but the member that is being decided on. So that usage arrives with a
 * stream, stream_options.include_usage is set in the copy the runtime gets; so that a budget holds, a limit
 * of tokens may be. What is ours stands before the bracket that ends the object, where all is known and
 * nobody can have acted yet; a member that may have to change is moved there. A member that decides
 * something and comes twice stops the request, so each change happens once, and a body of announced length
 * grows by exactly TB_REWRITE_GROWTH bytes, the rest of them blanks behind the end. No I/O. What is no JSON
 * object passes as it is. */
#ifndef TB_PROXY_USAGE_REWRITE_H
#define TB_PROXY_USAGE_REWRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "proxy/usage/api.h"
#include "proxy/usage/cost.h"
#include "proxy/usage/json_scan.h"
#include "proxy/usage/prompt.h"

#define TB_REWRITE_GROWTH 128
#define TB_REWRITE_HELD 256 /* more than the longest spelling of a key that decides anything */
#define TB_REWRITE_LIMITS 4 /* names of limits that one API has */

/* A limit of tokens as the body has it. */
struct tb_rewrite_limit {
    char name[TB_JSON_SCAN_KEY + 1], value[TB_JSON_SCAN_VALUE + 1];
    bool string, extra; /* extra: not every runtime reads it */
    bool null;
    int64_t number; /* -1, or of null: none for some runtimes */
};

struct tb_rewrite {
    enum tb_api api;
    bool budgeted; /* the key has a budget: limits may have to change */
    /* What the body says. */
    bool stream, wants_usage; /* wants_usage: its author set include_usage */
    bool each_usage;          /* it has continuous_usage_stats, to which include_usage gives a meaning */
    bool background;
    bool complete;                         /* a JSON object, to its end */
    bool injected;                         /* include_usage is ours */
    uint64_t choices;                      /* of each prompt; the largest number that is named */
    uint64_t max_tokens;                   /* the largest limit; 0: none */
    const char *repeated;                  /* the member that comes twice; NULL: none */
    const char *unclear;                   /* a member whose value could mean several things */
    char previous[TB_JSON_SCAN_VALUE + 1]; /* the response that it continues; "" when it is not known */
    struct tb_prompt prompt;
    uint64_t in;     /* bytes of the body */
    uint64_t object; /* ... up to the bracket that ends the object */
    /* private */
    struct tb_json_scan scan;
    uint64_t out, seen;
    struct tb_rewrite_limit limit[TB_REWRITE_LIMITS];
    unsigned n_limits;
    int hold;
    enum tb_api_member member; /* that is being read, of the outermost object */
    char name[TB_JSON_SCAN_KEY + 1];
    char held[TB_REWRITE_HELD];
    size_t held_len;
    bool members_out, value_begun, options_seen, options_open, options_null, options_empty, usage_seen,
        decided;
};

/* Whether anything may be changed in it; if not, the body does not grow. */
bool tb_rewrite_may_change(const struct tb_rewrite *a);
/* Appends what the runtime shall get for p[0..n) to out. 1: stopped before the end of the object, *ret_used
 * bytes are done; call tb_rewrite_close() and go on with the rest. 0: all done. -EEXIST: ->repeated.
 * -ENOMEM. */
int tb_rewrite_feed(struct tb_rewrite *a, const char *p, size_t n, struct tb_buf *out, size_t *ret_used);
/* Appends the members that are ours. cap: the limit of tokens to set instead of those the body has; 0:
 * leave them. 0 or -ENOMEM. */
int tb_rewrite_close(struct tb_rewrite *a, uint64_t cap, struct tb_buf *out);
/* The body is over: appends what is still held and, with pad, the blanks that make it as long as announced.
 * 0 or -ENOMEM. */
int tb_rewrite_end(struct tb_rewrite *a, bool pad, struct tb_buf *out);
/* What it asks for, once the object has ended. previous: tokens of the response that it continues, prompt and
 * completion; UINT64_MAX: not known. */
void tb_rewrite_size(const struct tb_rewrite *a, uint64_t previous, struct tb_request_size *ret);

#endif
