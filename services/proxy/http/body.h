/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a request out of its framing (RFC 9112, 6 and 7.1), strictly: chunk sizes of hexadecimal
 * digits only, lines that end in CR LF, and no more than a few KiB of chunk extensions and trailer fields
 * in all, which are dropped. Works in place, without I/O. */
#ifndef TB_PROXY_HTTP_BODY_H
#define TB_PROXY_HTTP_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/http/request.h"

#define TB_BODY_LINES_MAX (16 * 1024) /* bytes of chunk extensions and of trailer fields in one body */

struct tb_request_body {
    bool done;
    /* private */
    bool chunked;
    uint64_t left;  /* of the body or of the current chunk */
    unsigned phase; /* of chunked coding */
    unsigned digits;
    size_t extra; /* bytes of extensions and trailers seen */
};

/* From a head that tb_request_verify() has nothing against. */
void tb_request_body_init(struct tb_request_body *b, const struct tb_request *rq);
/* Takes the framing out of buf[0..len): the bytes of the body move to its beginning. *ret_used: how many
 * bytes it looked at; *ret_made: how many are body. b->done when the body is complete; what follows is not
 * looked at. 0, or -EBADMSG and *ret_why. */
int tb_request_body_decode(struct tb_request_body *b, char *buf, size_t len, size_t *ret_used,
                           size_t *ret_made, const char **ret_why);

#endif
