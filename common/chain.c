/* SPDX-License-Identifier: Apache-2.0 */
#include "common/chain.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/text.h"
#include "common/secret.h"

static EVP_MD *sha256;

static void fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL); /* once: looking it up costs as much as hashing a line */
}

int tb_chain_hash(const char *line, size_t len, uint8_t out[static TB_CHAIN_HASH_BYTES])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, fetch_sha256);
    return sha256 && EVP_Digest(line, len, out, NULL, sha256, NULL) == 1 ? 0 : -ENOMEM;
}

bool tb_chain_hash_equal(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, TB_CHAIN_HASH_BYTES) == 0;
}

static int chain_parse_stop(const cJSON *doc, struct tb_chain_entry *e, char err[static TB_JSON_ERR_MAX])
{
    int r;

    e->after_stop = tb_json_member(doc, "lost_max") != NULL;
    if (!e->after_stop)
        return 0;
    r = tb_json_get_uint(doc, "lost_max", TB_JSON_INT_MAX, &e->lost_max, err);
    return r < 0 ? r : tb_json_get_uint(doc, "unsure", TB_JSON_INT_MAX, &e->unsure, err);
}

int tb_chain_parse(const char *line, size_t len, struct tb_chain_entry *ret,
                   char err[static TB_CHAIN_ERR_MAX])
{
    _cleanup_json_ cJSON *doc = NULL;
    const char *prev, *ts;
    int r = tb_json_parse(line, len, TB_CHAIN_LINE_MAX, &doc, err);

    *ret = (struct tb_chain_entry){0};
    if (r >= 0)
        r = tb_json_get_uint(doc, "seq", TB_JSON_INT_MAX, &ret->seq, err);
    if (r >= 0)
        r = tb_json_get_string(doc, "prev", &prev, err);
    if (r >= 0)
        r = tb_json_get_string(doc, "ts", &ts, err);
    ret->count = 1;
    if (r >= 0 && tb_json_member(doc, "count"))
        r = tb_json_get_uint(doc, "count", TB_JSON_INT_MAX, &ret->count, err);
    if (r >= 0)
        r = chain_parse_stop(doc, ret, err);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    if (ret->seq == 0 || tb_hex_decode(prev, strlen(prev), ret->prev, sizeof(ret->prev)) < 0) {
        snprintf(err, TB_CHAIN_ERR_MAX, "%s", ret->seq == 0 ? "seq is 0" : "prev is not 64 hex digits");
        return -EBADMSG;
    }
    snprintf(ret->ts, sizeof(ret->ts), "%s", ts);
    tb_text_plain(ret->ts); /* a forged record must not drive the terminal of who looks for it */
    return 0;
}

static int chain_read_line(const char *line, size_t len, struct tb_chain_entry *e, struct tb_chain_point *ret)
{
    char err[TB_CHAIN_ERR_MAX];
    int r = tb_chain_parse(line, len, e, err);

    ret->seq = e->seq;
    return r < 0 ? r : tb_chain_hash(line, len, ret->hash);
}

/* Goes on behind the record that `from` is. */
static int follow_on(const char *text, size_t at, size_t whole, struct tb_chain_point *p)
{
    while (at < whole) {
        const char *nl = memchr(text + at, '\n', whole - at);
        size_t len = (size_t)(nl - text) - at;
        struct tb_chain_point next;
        struct tb_chain_entry e;
        int r = chain_read_line(text + at, len, &e, &next);

        if (r == -ENOMEM)
            return r;
        if (r < 0 || e.seq != p->seq + 1 || !tb_chain_hash_equal(e.prev, p->hash))
            return TB_CHAIN_TAIL_FOREIGN;
        *p = next;
        at += len + 1;
    }
    return TB_CHAIN_TAIL_LEADS;
}

int tb_chain_follow(const char *text, size_t len, const struct tb_chain_point *from,
                    struct tb_chain_point *ret, size_t *ret_whole)
{
    const char *last = memrchr(text, '\n', len);
    size_t whole = last ? (size_t)(last - text) + 1 : 0, end = whole;

    *ret_whole = whole;
    *ret = *from;
    while (end > 0) {
        const char *nl = memrchr(text, '\n', end - 1);
        size_t start = nl ? (size_t)(nl - text) + 1 : 0;
        struct tb_chain_point p;
        struct tb_chain_entry e;
        int r = chain_read_line(text + start, end - 1 - start, &e, &p);

        if (r == -ENOMEM)
            return r;
        if (r < 0 || p.seq < from->seq)
            return TB_CHAIN_TAIL_FOREIGN;
        if (from->seq == 0 || p.seq == from->seq) {
            if (from->seq > 0 && !tb_chain_hash_equal(p.hash, from->hash))
                return TB_CHAIN_TAIL_FOREIGN;
            *ret = p;
            r = follow_on(text, end, whole, ret);
            if (r != TB_CHAIN_TAIL_LEADS)
                *ret = *from;
            return r;
        }
        end = start;
    }
    return whole == 0 ? TB_CHAIN_TAIL_EMPTY : TB_CHAIN_TAIL_FOREIGN;
}
