/* SPDX-License-Identifier: Apache-2.0 */
/* What an upstream sends: response head and body framing of HTTP/1.1 (RFC 9112). Parsers over (buf, len),
 * no I/O. */
#ifndef TB_PROXY_HTTP_RESPONSE_H
#define TB_PROXY_HTTP_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "proxy/http/headers.h"

#define TB_RESPONSE_HEAD_MAX (64 * 1024)
#define TB_RESPONSE_HEADERS_MAX 128

enum tb_framing { TB_FRAMING_NONE, TB_FRAMING_LENGTH, TB_FRAMING_CHUNKED, TB_FRAMING_CLOSE };

struct tb_header {
    const char *name, *value; /* NUL-terminated, inside the buffer given to the parser */
    size_t name_len, value_len;
    enum tb_header_id id;
};

struct tb_response {
    int status;
    size_t n_headers; /* in header[] */
    enum tb_framing framing;
    uint64_t length; /* TB_FRAMING_LENGTH; for a HEAD reply the length a GET would have, when has_length */
    bool has_length;
    bool keep_alive;   /* the connection may carry another request after this body */
    bool event_stream; /* Content-Type: text/event-stream */
    /* End-to-end ones only: hop-by-hop and framing are taken out. Last, as it is not cleared. */
    struct tb_header header[TB_RESPONSE_HEADERS_MAX];
};

/* Parses the head in buf[0..len), which is modified (names and values become strings). Returns the head's
 * size, 0 when more is needed, -EBADMSG for what is no response, -E2BIG past the limits. head_request: the
 * request was HEAD. */
ssize_t tb_response_parse(char *buf, size_t len, bool head_request, struct tb_response *ret);

/* Takes a body out of its framing, piece by piece. Start it from a response's framing and length. */
struct tb_body {
    enum tb_framing framing;
    uint64_t left; /* of the body or of the current chunk */
    int phase;     /* chunked: private */
    unsigned line; /* chunked: bytes of the current line */
    bool done;
};
void tb_body_init(struct tb_body *b, enum tb_framing framing, uint64_t length);
/* Moves body bytes from in to out, which may be the same place. *ret_used and *ret_made say how far it
 * came; b->done when the body is complete. 0 or -EBADMSG for bad chunking. */
int tb_body_decode(struct tb_body *b, const char *in, size_t in_len, char *out, size_t out_len,
                   size_t *ret_used, size_t *ret_made);
/* The line before a chunk of n bytes. 0 or the buffer's error. */
int tb_body_put_chunk_size(struct tb_buf *b, size_t n);

#endif
