/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/api.h"

#include <string.h>

#include "common/macros.h"

#define END(s) s, sizeof(s) - 1

enum tb_api tb_api_of(const char *path, size_t len)
{
    static const struct {
        const char *end;
        size_t n;
        enum tb_api api;
    } known[] = {
        {END("/chat/completions"), TB_API_CHAT},
        {END("/chat/completions/batch"), TB_API_CHAT},
        {END("/completions"), TB_API_COMPLETION},
        {END("/completion"), TB_API_COMPLETION},
        {END("/infill"), TB_API_COMPLETION},
        {END("/invocations"), TB_API_COMPLETION}, /* vLLM: a chat or a completion, by what is in it */
        {END("/embeddings"), TB_API_EMBEDDING},
        {END("/embedding"), TB_API_EMBEDDING},
        {END("/rerank"), TB_API_EMBEDDING},
        {END("/reranking"), TB_API_EMBEDDING},
        {END("/score"), TB_API_EMBEDDING},
        {END("/classify"), TB_API_EMBEDDING},
        {END("/pooling"), TB_API_EMBEDDING},
        {END("/responses"), TB_API_RESPONSE},
        {END("/messages"), TB_API_MESSAGE},
        {END("/audio/transcriptions"), TB_API_AUDIO},
        {END("/audio/translations"), TB_API_AUDIO},
        {END("/tokenize"), TB_API_FREE},
        {END("/detokenize"), TB_API_FREE},
        {END("/count_tokens"), TB_API_FREE},
        {END("/input_tokens"), TB_API_FREE},
        {END("/apply-template"), TB_API_FREE},
        {END("/render"), TB_API_FREE},
        {END("/cancel"), TB_API_FREE},
        {END("/chat/completions/control"), TB_API_FREE},
        {END("/models"), TB_API_FREE},
    };

    while (len > 1 && path[len - 1] == '/')
        len--;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (len >= known[i].n && path[len - 1] == known[i].end[known[i].n - 1] &&
            memcmp(path + len - known[i].n, known[i].end, known[i].n) == 0)
            return known[i].api;
    return TB_API_OTHER;
}

bool tb_api_is_json(enum tb_api a)
{
    return tb_api_generates(a) || a == TB_API_EMBEDDING;
}

bool tb_api_generates(enum tb_api a)
{
    return a == TB_API_CHAT || a == TB_API_COMPLETION || a == TB_API_RESPONSE || a == TB_API_MESSAGE;
}

enum {
    CHAT = 1 << TB_API_CHAT,
    COMPLETION = 1 << TB_API_COMPLETION,
    EMBEDDING = 1 << TB_API_EMBEDDING,
    RESPONSE = 1 << TB_API_RESPONSE,
    MESSAGE = 1 << TB_API_MESSAGE,
    GENERATING = CHAT | COMPLETION | RESPONSE | MESSAGE,
};

/* llama-server reads n_predict, max_completion_tokens, max_tokens in this order in all of them, and n_cmpl
 * before n. */
enum tb_api_member tb_api_member_of(enum tb_api a, const char *name)
{
    static const struct {
        const char *name;
        enum tb_api_member what;
        int apis;
    } members[] = {
        {"stream", TB_MEMBER_STREAM, GENERATING},
        {"stream_options", TB_MEMBER_STREAM_OPTIONS, CHAT | COMPLETION},
        {"max_tokens", TB_MEMBER_LIMIT, CHAT | COMPLETION | MESSAGE},
        {"max_tokens", TB_MEMBER_LIMIT_EXTRA, RESPONSE},
        {"max_completion_tokens", TB_MEMBER_LIMIT, CHAT},
        {"max_completion_tokens", TB_MEMBER_LIMIT_EXTRA, COMPLETION | RESPONSE | MESSAGE},
        {"max_output_tokens", TB_MEMBER_LIMIT, RESPONSE},
        {"n_predict", TB_MEMBER_LIMIT_EXTRA, GENERATING},
        {"n", TB_MEMBER_COUNT, GENERATING},
        {"n_cmpl", TB_MEMBER_COUNT, GENERATING},
        {"best_of", TB_MEMBER_COUNT, CHAT | COMPLETION},
        {"background", TB_MEMBER_BACKGROUND, RESPONSE},
        {"previous_response_id", TB_MEMBER_PREVIOUS, RESPONSE},
        {"conversation", TB_MEMBER_CONTEXT, RESPONSE},
        {"prompt", TB_MEMBER_CONTEXT, RESPONSE},
        {"chat_template", TB_MEMBER_CONTEXT,
         CHAT | COMPLETION}, /* a program: it makes a prompt of any length */
        {"prompt_embeds", TB_MEMBER_PROMPT, COMPLETION},
        {"prompt", TB_MEMBER_PROMPT, COMPLETION},
        {"messages", TB_MEMBER_PROMPT, CHAT | COMPLETION | MESSAGE | EMBEDDING},
        {"input", TB_MEMBER_PROMPT, RESPONSE | EMBEDDING},
        {"system", TB_MEMBER_PROMPT, MESSAGE},
        {"instructions", TB_MEMBER_PROMPT, RESPONSE},
        {"tools", TB_MEMBER_TOOLS, CHAT | COMPLETION | RESPONSE | MESSAGE},
    };

    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        if (members[i].apis & 1 << a && strcmp(members[i].name, name) == 0)
            return members[i].what;
    return TB_MEMBER_NONE;
}

const char *tb_api_limit_name(enum tb_api a)
{
    return a == TB_API_RESPONSE ? "max_output_tokens" : "max_tokens";
}
