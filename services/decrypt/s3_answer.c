/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/s3_answer.h"

#include <inttypes.h>
#include <string.h>

#include "common/units.h"
#include "decrypt/s3_list.h"

struct answer_error {
    const char *status, *code, *message;
};

static const struct answer_error answer_errors[S3_ERRORS] = {
    [S3_OK] = {"200 OK", NULL, NULL},
    [S3_BAD_REQUEST] = {"400 Bad Request", "BadRequest", "The request is malformed, or has a body."},
    [S3_HEAD_TOO_LARGE] = {"400 Bad Request", "RequestHeaderSectionTooLarge", "The request is too long."},
    [S3_BAD_VERSION] = {"505 HTTP Version Not Supported", "BadRequest", "This server speaks HTTP/1.1."},
    [S3_BAD_ARGUMENT] = {"400 Bad Request", "InvalidArgument", "A parameter of the request is invalid."},
    [S3_NEEDS_ENCODING] = {"400 Bad Request", "InvalidArgument",
                           "A name in this list has characters that XML cannot carry: ask with "
                           "encoding-type=url."},
    [S3_BAD_METHOD] = {"405 Method Not Allowed", "MethodNotAllowed", "The model can only be read."},
    [S3_NOT_IMPLEMENTED] = {"501 Not Implemented", "NotImplemented",
                            "This server lists and reads, and knows nothing else."},
    [S3_DENIED] = {"403 Forbidden", "AccessDenied", "Access Denied"},
    [S3_NO_KEY] = {"404 Not Found", "NoSuchKey", "The specified key does not exist."},
    [S3_BAD_RANGE] = {"416 Range Not Satisfiable", "InvalidRange", "The requested range is not satisfiable"},
    [S3_BAD_PART] = {"416 Range Not Satisfiable", "InvalidPartNumber",
                     "The requested partnumber is not satisfiable"},
    [S3_PRECONDITION] = {"412 Precondition Failed", "PreconditionFailed",
                         "At least one of the preconditions you specified did not hold."},
    [S3_NOT_MODIFIED] = {"304 Not Modified", NULL, NULL},
    [S3_BUSY] = {"503 Slow Down", "SlowDown", "There are too many connections; close one."},
};

/* -- a file ---------------------------------------------------------------------------------------------- */
/* A part of it is asked for, and of this very file. */
static bool file_is_ranged(const struct s3_request *q, const char *etag)
{
    return q->range != S3_RANGE_NONE && (!q->if_range || s3_request_names(q->if_range, etag));
}

static enum s3_error file_range(const struct s3_request *q, uint64_t bytes, struct s3_body *ret)
{
    if (q->range == S3_RANGE_FROM && q->from >= bytes)
        return S3_BAD_RANGE;
    if (q->range == S3_RANGE_LAST && (q->to == 0 || bytes == 0))
        return S3_BAD_RANGE;
    if (q->range == S3_RANGE_LAST) {
        ret->from = bytes - MIN(q->to, bytes);
        return S3_OK;
    }
    ret->from = q->from;
    ret->end = q->to < bytes ? q->to + 1 : bytes;
    return S3_OK;
}

static enum s3_error file_conditions(const struct s3_request *q, const char *etag)
{
    if (q->if_match && !s3_request_names(q->if_match, etag))
        return S3_PRECONDITION;
    if (q->if_none_match && s3_request_names(q->if_none_match, etag))
        return S3_NOT_MODIFIED;
    return S3_OK;
}

/* -- answers --------------------------------------------------------------------------------------------- */
static void answer_begin(struct tb_buf *out, const char *status, bool close)
{
    char date[TB_HTTP_DATE_MAX];

    tb_buf_printf(out, "HTTP/1.1 %s\r\nDate: %s\r\nServer: TrustBridge\r\n%s", status,
                  tb_http_date_format(tb_now_realtime_us(), date), close ? "Connection: close\r\n" : "");
}

static void answer_xml(struct tb_buf *out, const struct tb_buf *xml, bool head)
{
    tb_buf_printf(out, "Content-Type: application/xml\r\nContent-Length: %zu\r\n\r\n", xml->len);
    if (!head)
        tb_buf_append(out, xml->data, xml->len);
}

/* more: further headers, whole lines; "": none. */
static enum s3_error answer_refusal(struct tb_buf *out, const struct s3_request *q, enum s3_error error,
                                    const char *more)
{
    const struct answer_error *e = &answer_errors[error];
    _cleanup_buf_ struct tb_buf xml = {0};

    answer_begin(out, e->status, q->close || error == S3_DENIED);
    tb_buf_puts(out, more);
    tb_buf_printf(&xml,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<Error><Code>%s</Code><Message>%s</Message></Error>",
                  e->code, e->message);
    answer_xml(out, &xml, q->head);
    return error;
}

static enum s3_error answer_file(const struct s3_bucket *b, const struct s3_request *q, size_t file,
                                 struct tb_buf *out, struct s3_body *ret)
{
    char etag[S3_ETAG_CHARS + 1], date[TB_HTTP_DATE_MAX], more[80];
    uint64_t bytes = s3_bucket_bytes(b, file);
    struct s3_body body = {.file = file, .end = bytes};
    enum s3_error e;
    bool part;

    s3_bucket_etag(b, file, etag);
    part = file_is_ranged(q, etag) && !(q->first_part && bytes == 0);
    e = file_conditions(q, etag);
    if (e == S3_OK && part)
        e = file_range(q, bytes, &body);
    snprintf(more, sizeof(more), "Content-Range: bytes */%" PRIu64 "\r\n", bytes);
    if (e == S3_PRECONDITION || e == S3_BAD_RANGE)
        return answer_refusal(out, q, e, e == S3_BAD_RANGE ? more : "");
    answer_begin(out, e == S3_OK && part ? "206 Partial Content" : answer_errors[e].status, q->close);
    tb_buf_printf(out, "ETag: \"%s\"\r\nLast-Modified: %s\r\n", etag, tb_http_date_format(b->time_us, date));
    if (e == S3_OK) {
        tb_buf_printf(out,
                      "Accept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n"
                      "Content-Length: %" PRIu64 "\r\n",
                      body.end - body.from);
        if (part)
            tb_buf_printf(out, "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n", body.from,
                          body.end - 1, bytes);
    }
    tb_buf_puts(out, "\r\n");
    if (e == S3_OK && !q->head)
        *ret = body;
    return e;
}

static enum s3_error answer_bucket(const struct s3_bucket *b, const struct s3_request *q, struct tb_buf *out)
{
    _cleanup_buf_ struct tb_buf xml = {0};
    enum s3_error e = S3_OK;

    if (q->location)
        tb_buf_puts(&xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                          "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>");
    else if (!q->head)
        e = s3_list(b, q, &xml);
    if (e != S3_OK || tb_buf_error(&xml) < 0)
        return answer_refusal(out, q, e != S3_OK ? e : S3_BUSY, "");
    answer_begin(out, answer_errors[S3_OK].status, q->close);
    answer_xml(out, &xml, q->head);
    return S3_OK;
}

enum s3_error s3_answer(const struct s3_bucket *b, const struct s3_request *q, enum s3_error error,
                        struct tb_buf *out, struct s3_body *ret)
{
    size_t file;

    *ret = (struct s3_body){0};
    if (error != S3_OK)
        return answer_refusal(out, q, error, error == S3_BAD_METHOD ? "Allow: GET, HEAD\r\n" : "");
    if (!s3_bucket_opens(b, q->bucket))
        return answer_refusal(out, q, S3_DENIED, "");
    if (!q->key)
        return answer_bucket(b, q, out);
    if (!s3_bucket_find(b, q->key, &file))
        return answer_refusal(out, q, S3_NO_KEY, "");
    return answer_file(b, q, file, out, ret);
}
