/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/prompt.h"

#include <string.h>

#include "common/macros.h"

static bool prompt_word_in(const char *word, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (word[0] == list[i][0] && strcmp(word, list[i]) == 0)
            return true;
    return false;
}

/* The key of the container that the value stands in, or of the array's place. */
static const char *prompt_parent_key(const struct tb_json_scan *s)
{
    return s->depth >= 2 && s->depth <= TB_JSON_SCAN_LEVELS ? s->level[s->depth - 2].key : "";
}

static uint64_t prompt_decoded(uint64_t base64)
{
    return base64 / 4 * 3;
}

uint64_t tb_prompt_sound(uint64_t bytes)
{
    return (bytes / TB_PROMPT_SOUND_BYTES + 1) * TB_PROMPT_SOUND_SECOND;
}

/* By the type that a data URL says, else by the kind of the member it stands in. */
static uint64_t prompt_media_tokens(const char *member, const char *value, uint64_t len)
{
    if (strncmp(value, "data:image/", 11) == 0)
        return TB_PROMPT_PICTURE;
    if (strstr(member, "_embeds"))
        return prompt_decoded(len) / TB_PROMPT_EMBED_BYTES + 1;
    if (strncmp(value, "data:video/", 11) == 0 || strstr(member, "video"))
        return TB_PROMPT_VIDEO;
    if (strncmp(value, "data:audio/", 11) == 0 || strstr(member, "audio"))
        return tb_prompt_sound(prompt_decoded(len));
    if (strncmp(value, "data:", 5) == 0 || strstr(member, "file"))
        return (prompt_decoded(len) / TB_PROMPT_PAGE_BYTES + 1) * TB_PROMPT_PICTURE;
    return TB_PROMPT_PICTURE;
}

/* Whether a picture or the like may stand here: directly in the prompt, or in a list of parts. What tools are
 * given or asked is read as text, whatever its keys are. levels: of the way to the part. */
static bool prompt_media_may_be(enum tb_api a, const struct tb_json_scan *s, unsigned levels)
{
    static const char *const beside[] = {"image_data", "images", "multimodal_data"}, *const lists[] = {
                                                                                         "content", "output"};
    const char *top = s->level[0].key;

    if (levels == 0)
        return true;
    if (a == TB_API_EMBEDDING ? strcmp(top, "tools") == 0
                              : tb_api_member_of(a, top) != TB_MEMBER_PROMPT &&
                                    !prompt_word_in(top, beside, ARRAY_SIZE(beside)))
        return false;
    for (unsigned i = 1; i < levels; i++)
        if (!s->level[i].array && (!prompt_word_in(s->level[i].key, lists, ARRAY_SIZE(lists)) ||
                                   i + 1 == levels || !s->level[i + 1].array))
            return false;
    return true;
}

/* Tokens of a string that is no text; 0 when it is text. */
static uint64_t prompt_media_of(enum tb_api a, const struct tb_json_scan *s)
{
    static const char *const holders[] = {"image_url", "video_url",   "audio_url",     "input_audio",
                                          "source",    "input_image", "input_file",    "file",
                                          "images",    "image_data",  "prompt_embeds", "multimodal_data"};
    static const char *const data[] = {"url", "data", "file_data", "file_url", "file_id", "b64_json"};
    static const char *const alone[] = {"image_url", "video_url", "audio_url",    "file_data",
                                        "file_url",  "file_id",   "image",        "prompt_embeds",
                                        "video",     "audio",     "image_embeds", "audio_embeds"};
    const char *key = tb_json_last_key(s), *parent = prompt_parent_key(s);

    if (prompt_word_in(key, alone, ARRAY_SIZE(alone)) && prompt_media_may_be(a, s, s->depth - 1))
        return prompt_media_tokens(key, s->value, s->text_len);
    if (prompt_word_in(parent, holders, ARRAY_SIZE(holders)) &&
        (key[0] == '\0' || prompt_word_in(key, data, ARRAY_SIZE(data))) &&
        prompt_media_may_be(a, s, s->depth - 2))
        return prompt_media_tokens(parent, s->value, s->text_len);
    return 0;
}

/* Words of the API rather than of the prompt. */
static bool prompt_is_word_of_api(enum tb_api a, const struct tb_json_scan *s)
{
    const char *key = tb_json_last_key(s);
    enum tb_api_member what = s->depth == 1 ? tb_api_member_of(a, key) : TB_MEMBER_NONE;
    static const char *const words[] = {"role",         "type",   "id",     "model", "media_type",
                                        "tool_call_id", "format", "detail", "user",  "encoding_format"};

    return (what != TB_MEMBER_NONE && what != TB_MEMBER_PROMPT) ||
           prompt_word_in(key, words, ARRAY_SIZE(words));
}

static bool prompt_is_list(enum tb_api a, const struct tb_json_scan *s)
{
    /* A list of conversations: seen by the first message of each. */
    if (a == TB_API_CHAT)
        return s->depth == 3 && s->level[1].array && s->level[2].array && s->level[2].items == 0 &&
               strcmp(s->level[0].key, "messages") == 0;
    if (s->depth != 2 || !s->level[1].array)
        return false;
    if (a == TB_API_COMPLETION)
        return strcmp(s->level[0].key, "prompt") == 0 || strcmp(s->level[0].key, "prompt_embeds") == 0;
    return a == TB_API_EMBEDDING && strcmp(s->level[0].key, "messages") != 0;
}

static bool prompt_is_token(enum tb_api a, const struct tb_json_scan *s)
{
    return (a == TB_API_COMPLETION || a == TB_API_EMBEDDING) && (s->depth == 2 || s->depth == 3) &&
           s->level[1].array && (s->depth == 2 || s->level[2].array) &&
           (a == TB_API_EMBEDDING || strcmp(s->level[0].key, "prompt") == 0);
}

static void prompt_note_text(struct tb_prompt *p, enum tb_api a, const struct tb_json_scan *s)
{
    uint64_t media = prompt_media_of(a, s);

    if (media > 0) {
        p->media += media;
        p->data += s->text_len;
        p->member.media += media;
    } else if (!prompt_is_word_of_api(a, s)) {
        p->text += s->text_len;
        p->member.text += s->text_len;
        if (p->n == 1 && prompt_is_list(a, s))
            p->first_text = s->text_len;
    }
}

/* A query is what stands alone in its member, or in a list of one: it is read again with each of the texts it
 * is compared to. */
static struct tb_prompt_part prompt_query(const struct tb_prompt *p)
{
    struct tb_prompt_part q = p->query;

    if (p->member.n < 2) {
        q.text += p->member.text;
        q.tokens += p->member.tokens;
        q.media += p->member.media;
    }
    return q;
}

/* Members of a request for a conversation that no template makes less of. Others may (truncate_prompt_tokens,
 * chat_template_kwargs), and a template may add a system message of its own only where there is none. */
static bool prompt_is_usual_member(const char *key)
{
    static const char *const usual[] = {"messages",
                                        "input",
                                        "model",
                                        "stream",
                                        "stream_options",
                                        "n",
                                        "max_tokens",
                                        "max_completion_tokens",
                                        "max_output_tokens",
                                        "n_predict",
                                        "temperature",
                                        "top_p",
                                        "top_k",
                                        "min_p",
                                        "seed",
                                        "stop",
                                        "user",
                                        "metadata",
                                        "presence_penalty",
                                        "frequency_penalty",
                                        "logprobs",
                                        "top_logprobs",
                                        "store",
                                        "background"};

    return prompt_word_in(key, usual, ARRAY_SIZE(usual));
}

void tb_prompt_note(struct tb_prompt *p, enum tb_api a, const struct tb_json_scan *s, enum tb_json_token t)
{
    bool of_list = prompt_is_list(a, s), token = t == TB_JSON_DONE && prompt_is_token(a, s);

    if (s->depth > 0 && s->level[0].items != p->member_at) { /* another member of the request */
        p->query = prompt_query(p);
        p->member = (struct tb_prompt_part){0};
        p->member_at = s->level[0].items;
        p->unusual |= !prompt_is_usual_member(s->level[0].key);
    }
    p->unusual |=
        t == TB_JSON_TEXT && strcmp(tb_json_last_key(s), "role") == 0 && strcmp(s->value, "user") != 0;
    if (t == TB_JSON_DONE) {
        p->tokens += token;
        p->member.tokens += token;
        return;
    }
    p->n += of_list;
    p->member.n += of_list;
    if (t == TB_JSON_TEXT)
        prompt_note_text(p, a, s);
}

/* How many times more than once a query is read. */
static uint64_t prompt_repeats(const struct tb_prompt *p, enum tb_api a)
{
    return a == TB_API_EMBEDDING && p->n > 1 ? p->n - 1 : 0;
}

uint64_t tb_prompt_likely(const struct tb_prompt *p, enum tb_api a)
{
    struct tb_prompt_part q = prompt_query(p);
    uint64_t again = prompt_repeats(p, a);
    uint64_t text = (p->text + again * q.text + TB_PROMPT_TOKEN_BYTES - 1) / TB_PROMPT_TOKEN_BYTES;

    return MAX(text + p->tokens + p->media + again * (q.tokens + q.media), 1);
}

uint64_t tb_prompt_templates(const struct tb_prompt *p, enum tb_api a)
{
    struct tb_prompt_part q = prompt_query(p);

    if (a == TB_API_CHAT)
        return MAX(p->n, 1);
    return q.text + q.tokens + q.media > 0 ? prompt_repeats(p, a) + 1 : 1;
}

uint64_t tb_prompt_most(const struct tb_prompt *p, enum tb_api a, uint64_t body)
{
    struct tb_prompt_part q = prompt_query(p);
    uint64_t again = prompt_repeats(p, a);
    uint64_t text = body - MIN(body, p->data) + again * (q.text + q.tokens); /* a token has at least a byte */

    if (p->elsewhere)
        return UINT64_MAX;
    return text + (p->media + again * q.media) * TB_PROMPT_MEDIA_MOST +
           tb_prompt_templates(p, a) * TB_PROMPT_TEMPLATE + (p->tools ? TB_PROMPT_TOOLS : 0);
}
