/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/api.h"

#include <string.h>

#include "common/macros.h"

enum tb_api tb_api_of(const char *path, size_t len)
{
    static const struct {
        const char *end;
        enum tb_api api;
    } known[] = {
        {"/chat/completions", TB_API_CHAT},
        {"/chat/completions/batch", TB_API_CHAT},
        {"/completions", TB_API_COMPLETION},
        {"/completion", TB_API_COMPLETION},
        {"/infill", TB_API_COMPLETION},
        {"/embeddings", TB_API_EMBEDDING},
        {"/embedding", TB_API_EMBEDDING},
        {"/rerank", TB_API_EMBEDDING},
        {"/reranking", TB_API_EMBEDDING},
        {"/score", TB_API_EMBEDDING},
        {"/classify", TB_API_EMBEDDING},
        {"/pooling", TB_API_EMBEDDING},
        {"/responses", TB_API_RESPONSE},
        {"/messages", TB_API_MESSAGE},
        {"/audio/transcriptions", TB_API_AUDIO},
        {"/audio/translations", TB_API_AUDIO},
        {"/tokenize", TB_API_FREE},
        {"/detokenize", TB_API_FREE},
        {"/count_tokens", TB_API_FREE},
        {"/input_tokens", TB_API_FREE},
        {"/apply-template", TB_API_FREE},
        {"/render", TB_API_FREE},
        {"/cancel", TB_API_FREE},
        {"/chat/completions/control", TB_API_FREE},
        {"/models", TB_API_FREE},
    };

    while (len > 1 && path[len - 1] == '/')
        len--;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        size_t n = strlen(known[i].end);

        if (len >= n && memcmp(path + len - n, known[i].end, n) == 0)
            return known[i].api;
    }
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
        {"previous_response_id", TB_MEMBER_CONTEXT, RESPONSE},
        {"conversation", TB_MEMBER_CONTEXT, RESPONSE},
        {"prompt", TB_MEMBER_CONTEXT, RESPONSE},
        {"chat_template", TB_MEMBER_CONTEXT, CHAT}, /* a program: it makes a prompt of any length */
        {"prompt_embeds", TB_MEMBER_PROMPT, COMPLETION},
        {"prompt", TB_MEMBER_PROMPT, COMPLETION},
        {"messages", TB_MEMBER_PROMPT, CHAT | MESSAGE | EMBEDDING},
        {"input", TB_MEMBER_PROMPT, RESPONSE | EMBEDDING},
        {"system", TB_MEMBER_PROMPT, MESSAGE},
        {"instructions", TB_MEMBER_PROMPT, RESPONSE},
        {"tools", TB_MEMBER_TOOLS, CHAT | RESPONSE | MESSAGE},
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
