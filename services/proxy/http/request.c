/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/request.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"
#include "common/units.h"
#include "proxy/http/status.h"
#include "proxy/http/target.h"

#define VERSION_LEN 8 /* HTTP/1.1 */
#define CONNECTION_MAX                                                                                       \
    256 /* bytes of the Connection fields: each field of the request is looked for in them */

static ssize_t head_refuse(struct tb_request *rq, int status, const char *code, const char *why)
{
    rq->refusal = (struct tb_refusal){status, code, why};
    return -EBADMSG;
}

static ssize_t head_refuse_malformed(struct tb_request *rq, const char *why)
{
    return head_refuse(rq, TB_HTTP_BAD_REQUEST, "malformed_request", why);
}

/* --- the request line ----------------------------------------------------------------------------------- */

/* A version that is none of HTTP/1's: told as such when it looks like one. */
static ssize_t head_check_version(struct tb_request *rq, const char *p, size_t len)
{
    bool http = len == VERSION_LEN && memcmp(p, "HTTP/", 5) == 0 && p[5] >= '0' && p[5] <= '9' &&
                p[6] == '.' && p[7] >= '0' && p[7] <= '9';

    if (!http)
        return head_refuse_malformed(rq, "the request line is not \"METHOD TARGET HTTP/1.1\"");
    if (p[5] != '1' || p[7] > '1')
        return head_refuse(rq, TB_HTTP_VERSION_NOT_SUPPORTED, "malformed_request",
                           "HTTP/1.1 and HTTP/1.0 are spoken here");
    rq->minor = (unsigned)(p[7] - '0');
    return 0;
}

/* line[0..len) without its line end. Only one space stands between its three parts. */
static ssize_t head_parse_line(struct tb_request *rq, char *line, size_t len)
{
    char *end = line + len, *target = memchr(line, ' ', len), *version;

    if (!target || !tb_header_name_valid(line, (size_t)(target - line)))
        return head_refuse_malformed(rq, "the request line does not begin with a method and one space");
    version = memchr(target + 1, ' ', (size_t)(end - target - 1));
    if (!version || version == target + 1)
        return head_refuse_malformed(rq, "the request line is not \"METHOD TARGET HTTP/1.1\"");
    *target = *version = '\0';
    rq->method = line;
    rq->method_len = (size_t)(target - line);
    rq->target = target + 1;
    rq->target_len = (size_t)(version - target - 1);
    /* Last, so that the record says what it was. */
    for (const char *p = target + 1; p < version; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return head_refuse_malformed(rq, "the request target has a control character");
    return head_check_version(rq, version + 1, (size_t)(end - version - 1));
}

/* --- fields --------------------------------------------------------------------------------------------- */

static void note_length(struct tb_request *rq, const struct tb_field *f)
{
    rq->n_lengths++;
    rq->has_length = tb_uint_parse(f->value, 0, INT64_MAX, &rq->length) >= 0;
    rq->bad_length |= !rq->has_length;
}

static void note_coding(struct tb_request *rq, const struct tb_field *f)
{
    rq->n_codings++;
    if (strcasecmp(f->value, "chunked") == 0)
        rq->chunked = true;
    else
        rq->other_coding = true;
}

static void note_host(struct tb_request *rq, const struct tb_field *f)
{
    rq->n_hosts++;
    rq->host = f->value;
    rq->bad_host |= !tb_authority_valid(f->value, f->value_len);
}

static void note_connection(struct tb_request *rq, const struct tb_field *f)
{
    rq->has_connection = true;
    rq->connection_len += f->value_len;
    rq->close |= tb_header_has_token(f->value, "close");
    if (tb_header_has_token(f->value, "keep-alive"))
        rq->keep_alive = true; /* for HTTP/1.0 */
}

static void note_expect(struct tb_request *rq, const struct tb_field *f)
{
    if (strcasecmp(f->value, "100-continue") == 0)
        rq->expect_continue = rq->minor > 0;
    else
        rq->other_expectation = true;
}

/* Fields that decide framing, identity and what is done with the body. */
static void head_note_field(struct tb_request *rq, const struct tb_field *f)
{
    switch (f->id) {
    case TB_HEADER_CONTENT_LENGTH:
        return note_length(rq, f);
    case TB_HEADER_TRANSFER_ENCODING:
        return note_coding(rq, f);
    case TB_HEADER_HOST:
        return note_host(rq, f);
    case TB_HEADER_CONNECTION:
        return note_connection(rq, f);
    case TB_HEADER_EXPECT:
        return note_expect(rq, f);
    case TB_HEADER_UPGRADE:
        rq->websocket |= tb_header_has_token(f->value, "websocket");
        return;
    case TB_HEADER_AUTHORIZATION:
        rq->authorization = f->value;
        return;
    case TB_HEADER_X_REQUEST_ID:
        rq->request_id = f->value;
        return;
    case TB_HEADER_CONTENT_ENCODING:
        rq->coded |= f->value_len > 0 && strcasecmp(f->value, "identity") != 0;
        return;
    case TB_HEADER_CONTENT_TYPE:
        rq->multipart |= strncasecmp(f->value, "multipart/", 10) == 0;
        return;
    default:
        return;
    }
}

/* line[0..len) without its line end; line[len] may be overwritten. */
static ssize_t head_parse_field(struct tb_request *rq, char *line, size_t len)
{
    size_t name_len = tb_header_token_len(line, len);
    char *colon = line + name_len, *value, *end = line + len;
    struct tb_field *f = &rq->field[rq->n_fields];

    if (*line == ' ' || *line == '\t')
        return head_refuse_malformed(rq, "a header line is folded");
    if (name_len == 0 || name_len == len || *colon != ':')
        return head_refuse_malformed(rq, "a header line is not \"Name: value\"");
    for (value = colon + 1; value < end && (*value == ' ' || *value == '\t');)
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (!tb_header_value_valid(value, (size_t)(end - value)))
        return head_refuse_malformed(rq, "a header field has a control character");
    if (rq->n_fields == TB_REQUEST_FIELDS_MAX)
        return head_refuse(rq, TB_HTTP_FIELDS_TOO_LARGE, "headers_too_large",
                           "the request has too many header fields");
    *colon = *end = '\0';
    *f = (struct tb_field){
        .name = line,
        .value = value,
        .name_len = name_len,
        .value_len = (size_t)(end - value),
        .id = tb_header_id(line, name_len),
    };
    rq->n_fields++;
    head_note_field(rq, f);
    return 0;
}

/* --- the head ------------------------------------------------------------------------------------------- */

/* Empty lines that some clients send behind a body. */
static size_t head_skip_empty_lines(const char *buf, size_t len)
{
    size_t n = 0;

    while (len - n >= 2 && buf[n] == '\r' && buf[n + 1] == '\n')
        n += 2;
    return n;
}

/* As soon as the request line is complete: nothing better can follow a bad one. The buffer is left as it
 * was. */
static ssize_t head_check_line(struct tb_request *rq, char *line, size_t len)
{
    ssize_t r = head_parse_line(rq, line, len);

    if (rq->method_len > 0)
        line[rq->method_len] = line[rq->method_len + 1 + rq->target_len] = ' ';
    return r;
}

/* Finds the end of the head, which begins at start. Its size; 0: not there yet; -EBADMSG: it is none
 * already. */
static ssize_t head_find_end(char *buf, size_t start, size_t len, struct tb_request_scan *scan,
                             struct tb_request *rq)
{
    const char *nl;

    while ((nl = memchr(buf + scan->pos, '\n', len - scan->pos))) {
        size_t at = (size_t)(nl - buf);

        if (at == 0 || buf[at - 1] != '\r')
            return head_refuse_malformed(rq, "a line of the head does not end in CR LF");
        scan->pos = at + 1;
        if (!scan->line_seen && at > TB_REQUEST_LINE_MAX)
            return head_refuse(rq, TB_HTTP_URI_TOO_LONG, "uri_too_long", "the request line is too long");
        if (scan->line_seen && at >= 3 && buf[at - 2] == '\n')
            return (ssize_t)(at + 1);
        if (!scan->line_seen && head_check_line(rq, buf + start, at - 1 - start) < 0)
            return -EBADMSG;
        scan->line_seen = true;
    }
    scan->pos = len;
    return 0;
}

static ssize_t head_check_size(const struct tb_request_scan *scan, size_t len, struct tb_request *rq)
{
    if (!scan->line_seen && len > TB_REQUEST_LINE_MAX)
        return head_refuse(rq, TB_HTTP_URI_TOO_LONG, "uri_too_long", "the request line is too long");
    if (len > TB_REQUEST_HEAD_MAX)
        return head_refuse(rq, TB_HTTP_FIELDS_TOO_LARGE, "headers_too_large",
                           "the header fields of the request are too large");
    return 0;
}

static void request_init(struct tb_request *rq)
{
    memset(rq, 0, offsetof(struct tb_request, field));
    rq->method = rq->target = "";
}

/* The lines of a complete head, from the request line on. */
static ssize_t head_parse_lines(struct tb_request *rq, char *line, const char *end)
{
    char *nl = memchr(line, '\n', (size_t)(end - line));
    ssize_t r = head_parse_line(rq, line, (size_t)(nl - 1 - line));

    if (r < 0)
        return r;
    rq->keep_alive = rq->minor > 0;
    for (line = nl + 1; end - line > 2; line = nl + 1) {
        nl = memchr(line, '\n', (size_t)(end - line));
        r = head_parse_field(rq, line, (size_t)(nl - 1 - line));
        if (r < 0)
            return r;
    }
    rq->keep_alive &= !rq->close;
    if (rq->minor > 0 && rq->n_hosts == 0)
        return head_refuse_malformed(rq, "the Host field is missing");
    return 0;
}

ssize_t tb_request_parse(char *buf, size_t len, struct tb_request_scan *scan, struct tb_request *ret)
{
    size_t start = head_skip_empty_lines(buf, len);
    ssize_t end, r;

    request_init(ret);
    scan->pos = MAX(scan->pos, start);
    if (start < len && buf[start] != '\r' && !tb_header_name_valid(buf + start, 1))
        return head_refuse_malformed(ret, "this is no HTTP request");
    end = head_find_end(buf, start, len, scan, ret);
    if (end == 0)
        end = head_check_size(scan, len, ret);
    else if (end > TB_REQUEST_HEAD_MAX)
        end = head_refuse(ret, TB_HTTP_FIELDS_TOO_LARGE, "headers_too_large",
                          "the header fields of the request are too large");
    if (end == 0)
        return 0;
    if (end < 0) {
        struct tb_refusal why = ret->refusal;

        tb_request_parse_line(buf, len, ret);
        ret->refusal = why;
        return end;
    }
    r = head_parse_lines(ret, buf + start, buf + end);
    return r < 0 ? r : end;
}

void tb_request_parse_line(char *buf, size_t len, struct tb_request *ret)
{
    size_t start = head_skip_empty_lines(buf, len);
    char *nl = memchr(buf + start, '\n', len - start);

    request_init(ret);
    if (nl && nl > buf + start && nl[-1] == '\r')
        (void)head_parse_line(ret, buf + start, (size_t)(nl - 1 - buf - start));
}

const char *tb_request_verify(const struct tb_request *rq)
{
    if (rq->bad_length)
        return "Content-Length is not a number";
    if (rq->n_lengths > 1)
        return "Content-Length is given twice";
    if (rq->n_hosts > 1)
        return "Host is given twice";
    if (rq->n_codings > 1 || rq->other_coding)
        return "only Transfer-Encoding: chunked is understood";
    if (rq->chunked && rq->n_lengths > 0)
        return "Content-Length and Transfer-Encoding exclude each other";
    if (rq->chunked && rq->minor == 0)
        return "HTTP/1.0 has no Transfer-Encoding";
    if (rq->bad_host)
        return "the Host field is malformed";
    if (rq->connection_len > CONNECTION_MAX)
        return "the Connection field is too long";
    if (rq->websocket)
        return "WebSocket is not offered here";
    return NULL;
}

const struct tb_field *tb_request_find(const struct tb_request *rq, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < rq->n_fields; i++)
        if (rq->field[i].name_len == n && strncasecmp(rq->field[i].name, name, n) == 0)
            return &rq->field[i];
    return NULL;
}
