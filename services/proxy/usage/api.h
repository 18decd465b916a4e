/* SPDX-License-Identifier: Apache-2.0 */
/* Which API a path belongs to, and which members of its requests decide anything. Names are those of the
 * API, letter by letter. */
#ifndef TB_PROXY_USAGE_API_H
#define TB_PROXY_USAGE_API_H

#include <stdbool.h>
#include <stddef.h>

enum tb_api {
    TB_API_OTHER, /* not known: it may generate anything */
    TB_API_FREE,  /* infers nothing */
    TB_API_CHAT,
    TB_API_COMPLETION,
    TB_API_EMBEDDING, /* reads prompts and generates nothing: embeddings, reranking, scores, classes */
    TB_API_RESPONSE,
    TB_API_MESSAGE, /* Anthropic's */
    TB_API_AUDIO,   /* speech to text, a form with a file */
};
/* path: in its normal form (http/target), without query. By its end, as runtimes also serve it below other
 * prefixes. */
enum tb_api tb_api_of(const char *path, size_t len);
/* Its requests are JSON objects whose members decide what they cost. */
bool tb_api_is_json(enum tb_api a);
/* Its answers hold tokens that a model wrote. */
bool tb_api_generates(enum tb_api a);

enum tb_api_member {
    TB_MEMBER_NONE,
    TB_MEMBER_STREAM,
    TB_MEMBER_STREAM_OPTIONS,
    TB_MEMBER_LIMIT,       /* of tokens */
    TB_MEMBER_LIMIT_EXTRA, /* one that not every runtime reads */
    TB_MEMBER_COUNT,       /* completions of each prompt */
    TB_MEMBER_BACKGROUND,
    TB_MEMBER_CONTEXT,  /* names a prompt that is elsewhere */
    TB_MEMBER_PREVIOUS, /* names a response that is continued */
    TB_MEMBER_PROMPT,
    TB_MEMBER_TOOLS,
};
enum tb_api_member tb_api_member_of(enum tb_api a, const char *name);
/* The limit that is written into a request; every runtime reads it when the others are absent. */
const char *tb_api_limit_name(enum tb_api a);

#endif
