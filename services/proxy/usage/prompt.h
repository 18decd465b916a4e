/* SPDX-License-Identifier: Apache-2.0 */
/* How large the prompts of a request are, from its body while it passes. Text is four bytes a token. What
 * is no text counts by what it is, never by its bytes (docs/billing.md, "Estimates"). */
#ifndef TB_PROXY_USAGE_PROMPT_H
#define TB_PROXY_USAGE_PROMPT_H

#include <stdint.h>

#include "proxy/usage/api.h"
#include "proxy/usage/json_scan.h"

#define TB_PROMPT_TOKEN_BYTES 4     /* of text */
#define TB_PROMPT_PICTURE 1024      /* tokens */
#define TB_PROMPT_VIDEO (8 * 1024)  /* tokens */
#define TB_PROMPT_SOUND_SECOND 25   /* tokens */
#define TB_PROMPT_SOUND_BYTES 16000 /* a second of it, decoded */
#define TB_PROMPT_PAGE_BYTES 65536  /* of another file, decoded; a page counts as a picture */
#define TB_PROMPT_EMBED_BYTES 8192  /* of an embedded token */
#define TB_PROMPT_MEDIA_MOST 16     /* how many times that a runtime may make of it */
#define TB_PROMPT_TEMPLATE 64       /* tokens a chat template may add, as far as nothing else is known */
#define TB_PROMPT_TOOLS 512         /* the same, when there are tools to describe */

/* Of one member of the request. */
struct tb_prompt_part {
    uint64_t text, tokens, media, n; /* as below */
};

struct tb_prompt {
    uint64_t text;                       /* bytes of decoded text */
    uint64_t tokens;                     /* given as numbers */
    uint64_t media;                      /* tokens of pictures, sound and the like */
    uint64_t data;                       /* bytes in which those came */
    uint64_t first_text;                 /* of text, the first prompt's */
    uint64_t n;                          /* prompts of a list; 0: no list */
    struct tb_prompt_part query, member; /* read with each of the others; the last member */
    uint64_t member_at;                  /* which one that is */
    bool tools;
    bool elsewhere; /* part of it is kept by the runtime, or made by a program of the request's own */
    bool continues; /* part of it is a response that the runtime keeps */
    bool unusual;   /* a template may add less to it than to others: it says more than what a user does */
};
/* Of DONE, TEXT and BEGIN. */
void tb_prompt_note(struct tb_prompt *p, enum tb_api a, const struct tb_json_scan *s, enum tb_json_token t);
/* A form's file of so many bytes. */
uint64_t tb_prompt_sound(uint64_t bytes);
uint64_t tb_prompt_likely(const struct tb_prompt *p, enum tb_api a);
/* How many times a chat template stands around it. */
uint64_t tb_prompt_templates(const struct tb_prompt *p, enum tb_api a);
/* Of what is in the body, of so many bytes, each template with TB_PROMPT_TEMPLATE. UINT64_MAX: nobody can
 * say. */
uint64_t tb_prompt_most(const struct tb_prompt *p, enum tb_api a, uint64_t body);

#endif
