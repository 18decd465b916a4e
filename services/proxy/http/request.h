/* SPDX-License-Identifier: Apache-2.0 */
/* The head of a request: RFC 9112, strictly. Whatever two readers may take for two things is refused: a
 * line that does not end in CR LF, two spaces or a tab in the request line, a folded line, a space before
 * a colon, a control character, two lengths, a length and a coding. A parser over (buf, len) without I/O. */
#ifndef TB_PROXY_HTTP_REQUEST_H
#define TB_PROXY_HTTP_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proxy/http/headers.h"

#define TB_REQUEST_HEAD_MAX (64 * 1024) /* bytes, from the request line to the empty line */
#define TB_REQUEST_LINE_MAX (16 * 1024) /* bytes of the request line */
#define TB_REQUEST_FIELDS_MAX 256

/* Why nothing but an answer may follow a request: what its sender is told. */
struct tb_refusal {
    int status;       /* 0: none */
    const char *code; /* for programs, as in struct tb_http_error; static */
    const char *why;  /* for people; static */
};

/* A field as it was received. Both strings are NUL-terminated and stand in the buffer that was parsed. */
struct tb_field {
    const char *name, *value;
    size_t name_len, value_len;
    enum tb_header_id id;
};

/* What is known of a request: its line when that could be read, and its fields. Everything points into the
 * buffer. */
struct tb_request {
    const char *method, *target; /* "" when the request line is none */
    size_t method_len, target_len;
    unsigned minor;                                /* of HTTP/1.x: 0 or 1 */
    const char *host, *authorization, *request_id; /* values, NULL when absent; of a repeated one the last */
    bool has_length, chunked;
    uint64_t length; /* of the body, when has_length */
    bool keep_alive; /* the client wants to send another request on the connection */
    bool expect_continue, other_expectation, websocket;
    bool has_connection;       /* a Connection field names fields */
    bool coded, multipart;     /* the body has a Content-Encoding; is made of parts */
    struct tb_refusal refusal; /* of a head that could not be parsed */
    bool gone;                 /* the client went away while the request waited */
    /* private */
    bool bad_length, bad_host, other_coding, close;
    unsigned n_lengths, n_codings, n_hosts;
    size_t connection_len; /* of all Connection fields */
    /* last, as what is behind n_fields is not cleared */
    size_t n_fields;
    struct tb_field field[TB_REQUEST_FIELDS_MAX];
};

/* Where the search for the end of a head that comes in pieces stands. Zero-initialise for each head. */
struct tb_request_scan {
    size_t pos;     /* bytes that hold no end */
    bool line_seen; /* the request line is complete */
};

/* Parses the head in buf[0..len), which is modified only when it is complete. Returns its size; 0 when
 * more is needed; -EBADMSG with ret->refusal and as much of the request line as could be read. Empty lines
 * in front of the request line are part of the head. */
ssize_t tb_request_parse(char *buf, size_t len, struct tb_request_scan *scan, struct tb_request *ret);
/* The request line of a head that is not complete, for the record of a request that never will be. */
void tb_request_parse_line(char *buf, size_t len, struct tb_request *ret);
/* What else is wrong with a parsed head, or NULL: framing that is not certain (RFC 9112, 6.1 to 6.3),
 * Host, WebSocket. Nothing behind such a head may be read. */
const char *tb_request_verify(const struct tb_request *rq);
/* The first field of this name, or NULL. */
const struct tb_field *tb_request_find(const struct tb_request *rq, const char *name);

#endif
