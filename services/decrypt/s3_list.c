/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/s3_list.h"

#include <inttypes.h>
#include <string.h>

#include "common/hex.h"
#include "common/percent.h"
#include "common/units.h"

struct list_state {
    const struct s3_bucket *b;
    const struct s3_request *q;
    struct tb_buf entries;
    char common[TBENC_PATH_MAX + 1]; /* the prefix that the last entry was, "": it was a key */
    const char *last;                /* the last entry; NULL: none */
    unsigned n;
    bool more;
    bool needs_encoding; /* a name has characters that XML 1.0 has no way to write */
};

/* Names and parameters are UTF-8 without control characters; of the rest XML 1.0 leaves out these two. */
static bool list_fits_xml(const char *s)
{
    return !strstr(s, "\xef\xbf\xbe") && !strstr(s, "\xef\xbf\xbf"); /* U+FFFE, U+FFFF */
}

static void list_xml_text(struct tb_buf *out, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '&':
            tb_buf_puts(out, "&amp;");
            break;
        case '<':
            tb_buf_puts(out, "&lt;");
            break;
        case '>':
            tb_buf_puts(out, "&gt;");
            break;
        case '"':
            tb_buf_puts(out, "&quot;");
            break;
        default:
            tb_buf_append(out, s, 1);
        }
    }
}

static void list_name(struct list_state *l, struct tb_buf *out, const char *element, const char *s)
{
    tb_buf_printf(out, "<%s>", element);
    l->needs_encoding |= !l->q->encode && !list_fits_xml(s);
    if (l->q->encode) {
        for (; *s; s++) {
            char c[TB_PERCENT_CHAR_MAX];

            tb_buf_append(out, c, tb_percent_encode_char(*s, "/", c));
        }
    } else {
        list_xml_text(out, s);
    }
    tb_buf_printf(out, "</%s>", element);
}

/* Before where the list goes on, or in the entry that was the last before it. */
static bool list_is_behind(const struct s3_request *q, const char *key)
{
    size_t n = strlen(q->after), d = strlen(q->delimiter);

    if (n == 0)
        return false;
    if (strcmp(key, q->after) <= 0)
        return true;
    /* start-after is a name of the client's own, and no entry of ours. */
    return q->after != q->start_after && d > 0 && n >= d && strcmp(q->after + n - d, q->delimiter) == 0 &&
           strncmp(key, q->after, n) == 0;
}

static void list_add_key(struct list_state *s, size_t file)
{
    char etag[S3_ETAG_CHARS + 1], time[TB_RFC3339_MAX];

    s3_bucket_etag(s->b, file, etag);
    tb_buf_puts(&s->entries, "<Contents>");
    list_name(s, &s->entries, "Key", s3_bucket_key(s->b, file));
    tb_buf_printf(&s->entries,
                  "<LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag><Size>%" PRIu64
                  "</Size><StorageClass>STANDARD</StorageClass></Contents>",
                  tb_rfc3339_format(s->b->time_us, 1, time), etag, s3_bucket_bytes(s->b, file));
    s->last = s3_bucket_key(s->b, file);
    s->common[0] = '\0';
}

static void list_add_common(struct list_state *s, const char *key, size_t n)
{
    snprintf(s->common, sizeof(s->common), "%.*s", (int)n, key);
    tb_buf_puts(&s->entries, "<CommonPrefixes>");
    list_name(s, &s->entries, "Prefix", s->common);
    tb_buf_puts(&s->entries, "</CommonPrefixes>");
    s->last = s->common;
}

static void list_take(struct list_state *s, size_t file)
{
    const struct s3_request *q = s->q;
    const char *key = s3_bucket_key(s->b, file), *cut;
    size_t prefix = strlen(q->prefix);

    if (strncmp(key, q->prefix, prefix) != 0 || list_is_behind(q, key))
        return;
    if (s->common[0] && strncmp(key, s->common, strlen(s->common)) == 0)
        return;
    if (s->n == q->max_keys) {
        s->more = q->max_keys > 0;
        return;
    }
    s->n++;
    cut = *q->delimiter ? strstr(key + prefix, q->delimiter) : NULL;
    if (cut)
        list_add_common(s, key, (size_t)(cut - key) + strlen(q->delimiter));
    else
        list_add_key(s, file);
}

static void list_token(struct tb_buf *out, const char *last)
{
    tb_buf_puts(out, "<NextContinuationToken>");
    for (; *last; last++) {
        char hex[3];

        tb_hex_encode((const uint8_t *)last, 1, hex);
        tb_buf_append(out, hex, 2);
    }
    tb_buf_puts(out, "</NextContinuationToken>");
}

static void list_head(struct list_state *s, struct tb_buf *out)
{
    const struct s3_request *q = s->q;

    tb_buf_printf(out,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
                  "<Name>%s</Name><MaxKeys>%u</MaxKeys><IsTruncated>%s</IsTruncated>",
                  s->b->name, q->max_keys, s->more ? "true" : "false");
    list_name(s, out, "Prefix", q->prefix);
    if (*q->delimiter)
        list_name(s, out, "Delimiter", q->delimiter);
    if (q->encode)
        tb_buf_puts(out, "<EncodingType>url</EncodingType>");
    if (!q->list_v2) {
        list_name(s, out, "Marker", q->after);
        if (s->more)
            list_name(s, out, "NextMarker", s->last);
        return;
    }
    tb_buf_printf(out, "<KeyCount>%u</KeyCount>", s->n);
    if (q->start_after)
        list_name(s, out, "StartAfter", q->start_after);
    if (q->token) { /* hex digits, longer than what is printed may be */
        tb_buf_puts(out, "<ContinuationToken>");
        tb_buf_puts(out, q->token);
        tb_buf_puts(out, "</ContinuationToken>");
    }
    if (s->more)
        list_token(out, s->last);
}

enum s3_error s3_list(const struct s3_bucket *b, const struct s3_request *q, struct tb_buf *out)
{
    struct list_state s = {.b = b, .q = q};

    for (size_t i = 0; !s.more && i < s3_bucket_files(b); i++)
        list_take(&s, i);
    list_head(&s, out);
    if (tb_buf_error(&s.entries) == 0)
        tb_buf_append(out, s.entries.data, s.entries.len);
    else
        out->error = out->error ? out->error : tb_buf_error(&s.entries);
    tb_buf_puts(out, "</ListBucketResult>");
    tb_buf_free(&s.entries);
    if (tb_buf_error(out) < 0)
        return S3_BUSY;
    return s.needs_encoding ? S3_NEEDS_ENCODING : S3_OK;
}
