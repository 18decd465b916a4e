/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/xml.h"

#include <stdbool.h>
#include <string.h>

#include "common/units.h"

#define XML_DEPTH_MAX 8
#define XML_NAME_MAX 32

/* Where the scanner is: the open elements, and the text of the element that just closed. */
struct xml {
    const char *p, *end;
    char open[XML_DEPTH_MAX][XML_NAME_MAX];
    unsigned depth;
    const char *text; /* of the innermost element, from its start tag on */
    size_t text_len;
};

enum { XML_END, XML_OPENED, XML_CLOSED };

static bool xml_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':';
}

static bool xml_starts(const struct xml *x, const char *s)
{
    size_t n = strlen(s);

    return (size_t)(x->end - x->p) >= n && memcmp(x->p, s, n) == 0;
}

/* Past the next `what`. */
static int xml_skip_past(struct xml *x, const char *what)
{
    const char *at = memmem(x->p, (size_t)(x->end - x->p), what, strlen(what));

    if (!at)
        return -EBADMSG;
    x->p = at + strlen(what);
    return 0;
}

static int xml_take_name(struct xml *x, char out[static XML_NAME_MAX])
{
    size_t n = 0;

    while (x->p + n < x->end && xml_name_char(x->p[n]))
        n++;
    if (n == 0 || n >= XML_NAME_MAX)
        return -EBADMSG;
    memcpy(out, x->p, n);
    out[n] = '\0';
    x->p += n;
    return 0;
}

static int xml_close_element(struct xml *x, const char *name, const char *text_end)
{
    if (x->depth == 0 || strcmp(x->open[x->depth - 1], name) != 0)
        return -EBADMSG;
    x->depth--;
    x->text_len = x->text ? (size_t)(text_end - x->text) : 0;
    return XML_CLOSED;
}

/* "<name attributes>" or "<name/>", p behind the '<'. */
static int xml_open_element(struct xml *x)
{
    int r;

    if (x->depth == XML_DEPTH_MAX)
        return -EBADMSG;
    r = xml_take_name(x, x->open[x->depth]);
    if (r < 0)
        return r;
    r = xml_skip_past(x, ">");
    if (r < 0)
        return r;
    x->depth++;
    x->text = x->p;
    if (x->p[-2] == '/')
        return xml_close_element(x, x->open[x->depth - 1], x->p);
    return XML_OPENED;
}

/* Next start or end of an element. XML_CLOSED: open[depth] is its name, text its raw contents (empty when it
 * had children). */
static int xml_next(struct xml *x)
{
    char name[XML_NAME_MAX];
    const char *text_end;
    int r;

    for (;;) {
        text_end = memchr(x->p, '<', (size_t)(x->end - x->p));
        if (!text_end)
            return x->depth == 0 ? XML_END : -EBADMSG;
        x->p = text_end;
        if (xml_starts(x, "<?"))
            r = xml_skip_past(x, "?>");
        else if (xml_starts(x, "<!--"))
            r = xml_skip_past(x, "-->");
        else if (xml_starts(x, "<!"))
            return -EBADMSG;
        else
            break;
        if (r < 0)
            return r;
    }
    x->p++;
    if (!xml_starts(x, "/"))
        return xml_open_element(x);
    x->p++;
    r = xml_take_name(x, name);
    if (r < 0 || !xml_starts(x, ">"))
        return -EBADMSG;
    x->p++;
    r = xml_close_element(x, name, text_end);
    return r;
}

/* Copies the text of the element that closed, entities resolved, cut at the first newline. */
static void xml_copy_text(const struct xml *x, char *out, size_t out_len)
{
    static const struct {
        const char *entity;
        char c;
    } entities[] = {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};
    const char *p = x->text, *end = x->text + x->text_len;
    size_t n = 0;

    while (p < end && n + 1 < out_len && *p != '\n' && *p != '\r') {
        char c = *p;
        size_t step = 1;

        for (size_t i = 0; c == '&' && i < ARRAY_SIZE(entities); i++) {
            size_t l = strlen(entities[i].entity);

            if ((size_t)(end - p) >= l && memcmp(p, entities[i].entity, l) == 0) {
                c = entities[i].c;
                step = l;
                break;
            }
        }
        out[n++] = c >= ' ' && c < 0x7f ? c : '?';
        p += step;
    }
    out[n] = '\0';
}

static bool xml_is_at(const struct xml *x, const char *const *path, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++)
        if (strcmp(x->open[i], path[i]) != 0)
            return false;
    return x->depth == depth - 1;
}

int blob_xml_error(const char *buf, size_t len, char code[static BLOB_CODE_MAX],
                   char message[static BLOB_MESSAGE_MAX])
{
    static const char *const code_path[] = {"Error", "Code"}, *const message_path[] = {"Error", "Message"};
    char c[BLOB_CODE_MAX] = "", m[BLOB_MESSAGE_MAX] = "";
    struct xml x = {.p = buf, .end = buf + len};
    int r;

    while ((r = xml_next(&x)) > XML_END) {
        if (r == XML_CLOSED && xml_is_at(&x, code_path, 2))
            xml_copy_text(&x, c, sizeof(c));
        else if (r == XML_CLOSED && xml_is_at(&x, message_path, 2))
            xml_copy_text(&x, m, sizeof(m));
        if (r == XML_CLOSED)
            x.text = NULL;
    }
    if (r < 0 || c[0] == '\0')
        return -EBADMSG;
    memcpy(code, c, sizeof(c));
    memcpy(message, m, sizeof(m));
    return 0;
}

static int xml_compare_staged(const void *a, const void *b)
{
    return strcmp(((const struct blob_staged *)a)->id, ((const struct blob_staged *)b)->id);
}

static int xml_add_block(struct blob_staged_set *s, size_t *cap, const char *name, const char *size)
{
    struct blob_staged *grown, b = {.id = ""};

    if (s->n + s->n_foreign >= BLOB_UNCOMMITTED_MAX || tb_uint_parse(size, 0, UINT64_MAX, &b.size) < 0)
        return -EBADMSG;
    if (strlen(name) != BLOB_ID_CHARS) {
        s->n_foreign++;
        return 0;
    }
    memcpy(b.id, name, BLOB_ID_CHARS);
    if (s->n == *cap) {
        *cap = *cap ? *cap * 2 : 64;
        grown = realloc(s->blocks, *cap * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        s->blocks = grown;
    }
    s->blocks[s->n++] = b;
    return 0;
}

int blob_xml_block_list(const char *buf, size_t len, const char *which, struct blob_staged_set *ret)
{
    const char *const block[] = {"BlockList", which, "Block"};
    const char *const name_path[] = {"BlockList", which, "Block", "Name"};
    const char *const size_path[] = {"BlockList", which, "Block", "Size"};
    static const char *const list[] = {"BlockList"};
    _cleanup_staged_set_ struct blob_staged_set s = {0};
    char name[128] = "", size[24] = "";
    struct xml x = {.p = buf, .end = buf + len};
    bool seen = false;
    size_t cap = 0;
    int r;

    while ((r = xml_next(&x)) > XML_END) {
        if (r != XML_CLOSED)
            continue;
        if (xml_is_at(&x, name_path, 4)) {
            xml_copy_text(&x, name, sizeof(name));
        } else if (xml_is_at(&x, size_path, 4)) {
            xml_copy_text(&x, size, sizeof(size));
        } else if (xml_is_at(&x, block, 3)) {
            r = xml_add_block(&s, &cap, name, size);
            if (r < 0)
                return r;
            name[0] = size[0] = '\0';
        } else if (xml_is_at(&x, list, 1)) {
            seen = true;
        }
        x.text = NULL;
    }
    if (r < 0 || !seen)
        return -EBADMSG;
    if (s.n > 1)
        qsort(s.blocks, s.n, sizeof(s.blocks[0]), xml_compare_staged);
    *ret = s;
    s = (struct blob_staged_set){0};
    return 0;
}

void blob_staged_set_clear(struct blob_staged_set *s)
{
    free(s->blocks);
    *s = (struct blob_staged_set){0};
}

const struct blob_staged *blob_staged_find(const struct blob_staged_set *s, const char *id)
{
    struct blob_staged key = {.id = ""};

    if (s->n == 0)
        return NULL;
    snprintf(key.id, sizeof(key.id), "%s", id);
    return bsearch(&key, s->blocks, s->n, sizeof(s->blocks[0]), xml_compare_staged);
}

/* -- lists of blobs ---------------------------------------------------------------------------- */

void blob_entries_clear(struct blob_entries *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->v[i].name);
    free(e->v);
    *e = (struct blob_entries){0};
}

static int xml_add_entry(struct blob_entries *e, struct blob_entry *b, const char *name)
{
    if (!*name || strchr(name, '?'))
        return 0;
    if (e->n >= BLOB_ENTRIES_MAX)
        return -EBADMSG;
    if (e->n == e->capacity) {
        size_t more = e->capacity ? 2 * e->capacity : 64;
        struct blob_entry *grown = realloc(e->v, more * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        e->v = grown;
        e->capacity = more;
    }
    b->name = strdup(name);
    if (!b->name)
        return -ENOMEM;
    e->v[e->n++] = *b;
    return 0;
}

/* What closed, of one blob. */
static void xml_take_property(const struct xml *x, struct blob_entry *b)
{
    static const char *const at[] = {"EnumerationResults", "Blobs", "Blob", "Properties"};
    const char *name = x->open[x->depth];
    char size[24];

    if (x->depth != ARRAY_SIZE(at) || strcmp(x->open[3], at[3]) != 0 || strcmp(x->open[2], at[2]) != 0)
        return;
    if (strcmp(name, "Content-Length") == 0) {
        xml_copy_text(x, size, sizeof(size));
        (void)tb_uint_parse(size, 0, UINT64_MAX, &b->size);
    } else if (strcmp(name, "Etag") == 0) {
        xml_copy_text(x, b->etag, sizeof(b->etag));
    } else if (strcmp(name, "Last-Modified") == 0) {
        xml_copy_text(x, b->modified, sizeof(b->modified));
    }
}

int blob_xml_list(const char *buf, size_t len, struct blob_entries *ret, char next[static BLOB_MARKER_MAX])
{
    static const char *const all[] = {"EnumerationResults"},
                             *const marker[] = {"EnumerationResults", "NextMarker"},
                             *const blob[] = {"EnumerationResults", "Blobs", "Blob"},
                             *const name_path[] = {"EnumerationResults", "Blobs", "Blob", "Name"};
    char name[BLOB_NAME_MAX + 1] = "";
    struct xml x = {.p = buf, .end = buf + len};
    struct blob_entry b = {0};
    bool seen = false;
    int r;

    *next = '\0';
    while ((r = xml_next(&x)) > XML_END) {
        if (r != XML_CLOSED)
            continue;
        if (xml_is_at(&x, name_path, 4)) {
            xml_copy_text(&x, name, sizeof(name));
        } else if (xml_is_at(&x, blob, 3)) {
            r = xml_add_entry(ret, &b, name);
            if (r < 0)
                return r;
            b = (struct blob_entry){0};
            *name = '\0';
        } else if (xml_is_at(&x, marker, 2)) {
            xml_copy_text(&x, next, BLOB_MARKER_MAX);
        } else if (xml_is_at(&x, all, 1)) {
            seen = true;
        } else {
            xml_take_property(&x, &b);
        }
        x.text = NULL;
    }
    return r < 0 || !seen ? -EBADMSG : 0;
}
