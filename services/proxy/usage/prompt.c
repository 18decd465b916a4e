/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/prompt.h"

#include <string.h>

#include "common/macros.h"

static bool word_in(const char *word, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (word[0] == list[i][0] && strcmp(word, list[i]) == 0)
            return true;
    return false;
}

/* The key of the container that the value stands in, or of the array's place. */
static const char *parent_key(const struct tb_json_scan *s)
{
    return s->depth >= 2 && s->depth <= TB_JSON_SCAN_LEVELS ? s->level[s->depth - 2].key : "";
}

static uint64_t decoded(uint64_t base64)
{
    return base64 / 4 * 3;
}

uint64_t tb_prompt_sound(uint64_t bytes)
{
    return (bytes / TB_PROMPT_SOUND_BYTES + 1) * TB_PROMPT_SOUND_SECOND;
}

/* By the type that a data URL says, else by the kind of the member it stands in. */
static uint64_t media_tokens(const char *member, const char *value, uint64_t len)
{
    if (strncmp(value, "data:image/", 11) == 0)
        return TB_PROMPT_PICTURE;
    if (strncmp(value, "data:video/", 11) == 0 || strstr(member, "video"))
        return TB_PROMPT_VIDEO;
    if (strncmp(value, "data:audio/", 11) == 0 || strstr(member, "audio"))
        return tb_prompt_sound(decoded(len));
    if (strncmp(value, "data:", 5) == 0 || strstr(member, "file"))
        return (decoded(len) / TB_PROMPT_PAGE_BYTES + 1) * TB_PROMPT_PICTURE;
    if (strcmp(member, "prompt_embeds") == 0)
        return decoded(len) / TB_PROMPT_EMBED_BYTES + 1;
    return TB_PROMPT_PICTURE;
}

/* Tokens of a string that is no text; 0 when it is text. */
static uint64_t media_of(const struct tb_json_scan *s)
{
    static const char *const holders[] = {"image_url", "video_url",   "audio_url",     "input_audio",
                                          "source",    "input_image", "input_file",    "file",
                                          "images",    "image_data",  "prompt_embeds", "multimodal_data"};
    static const char *const data[] = {"url", "data", "file_data", "file_url", "file_id", "b64_json"};
    static const char *const alone[] = {"image_url", "video_url", "audio_url", "file_data",
                                        "file_url",  "file_id",   "image",     "prompt_embeds"};
    const char *key = tb_json_last_key(s), *parent = parent_key(s);

    if (word_in(key, alone, ARRAY_SIZE(alone)))
        return media_tokens(key, s->value, s->text_len);
    if (word_in(parent, holders, ARRAY_SIZE(holders)) &&
        (key[0] == '\0' || word_in(key, data, ARRAY_SIZE(data))))
        return media_tokens(parent, s->value, s->text_len);
    return 0;
}

/* Words of the API rather than of the prompt. */
static bool is_word_of_api(enum tb_api a, const struct tb_json_scan *s)
{
    const char *key = tb_json_last_key(s);
    enum tb_api_member what = s->depth == 1 ? tb_api_member_of(a, key) : TB_MEMBER_NONE;
    static const char *const words[] = {"role",         "type",   "id",     "model", "media_type",
                                        "tool_call_id", "format", "detail", "user",  "encoding_format"};

    return (what != TB_MEMBER_NONE && what != TB_MEMBER_PROMPT) || word_in(key, words, ARRAY_SIZE(words));
}

static bool is_prompt_list(enum tb_api a, const struct tb_json_scan *s)
{
    if (s->depth != 2 || !s->level[1].array)
        return false;
    if (a == TB_API_COMPLETION)
        return strcmp(s->level[0].key, "prompt") == 0 || strcmp(s->level[0].key, "prompt_embeds") == 0;
    return a == TB_API_EMBEDDING && strcmp(s->level[0].key, "messages") != 0;
}

static bool is_token(enum tb_api a, const struct tb_json_scan *s)
{
    return (a == TB_API_COMPLETION || a == TB_API_EMBEDDING) && (s->depth == 2 || s->depth == 3) &&
           s->level[1].array && (s->depth == 2 || s->level[2].array) &&
           (strcmp(s->level[0].key, "prompt") == 0 || strcmp(s->level[0].key, "input") == 0);
}

void tb_prompt_note(struct tb_prompt *p, enum tb_api a, const struct tb_json_scan *s, enum tb_json_token t)
{
    uint64_t media;

    if (t == TB_JSON_DONE) {
        p->tokens += is_token(a, s);
        return;
    }
    if (is_prompt_list(a, s))
        p->n++;
    if (t == TB_JSON_BEGIN)
        return;
    media = media_of(s);
    if (media > 0) {
        p->media += media;
        p->data += s->text_len;
    } else if (!is_word_of_api(a, s)) {
        p->text += s->text_len;
        if (a == TB_API_EMBEDDING && s->depth == 1)
            p->query += s->text_len;
        if (p->n == 1 && is_prompt_list(a, s))
            p->first_text = s->text_len;
    }
}

/* A query is read again with each of the texts it is compared to. */
static uint64_t repeated_text(const struct tb_prompt *p)
{
    return p->text + (p->n > 1 ? p->query * (p->n - 1) : 0);
}

uint64_t tb_prompt_likely(const struct tb_prompt *p)
{
    uint64_t text = (repeated_text(p) + TB_PROMPT_TOKEN_BYTES - 1) / TB_PROMPT_TOKEN_BYTES;

    return MAX(text + p->tokens + p->media, 1);
}

uint64_t tb_prompt_most(const struct tb_prompt *p, uint64_t body)
{
    uint64_t text = body - MIN(body, p->data) + repeated_text(p) - p->text; /* a token has at least a byte */

    if (p->elsewhere)
        return UINT64_MAX;
    return text + p->media * TB_PROMPT_MEDIA_MOST + TB_PROMPT_TEMPLATE + (p->tools ? TB_PROMPT_TOOLS : 0);
}
