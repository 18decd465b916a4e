/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/mhd_response.h"

#include <string.h>

/* Lines of "Name: value\r\n" one by one; they are taken apart. */
static void mhd_response_add_fields(struct MHD_Response *rs, struct tb_buf *fields)
{
    char *line = fields->data, *end = fields->data + fields->len;

    while (line < end) {
        char *colon = memchr(line, ':', (size_t)(end - line)), *cr = memchr(line, '\r', (size_t)(end - line));

        *colon = *cr = '\0';
        MHD_add_response_header(rs, line, colon + 2);
        line = cr + 2;
    }
}

struct MHD_Response *tb_mhd_response(struct tb_reply *r)
{
    struct MHD_Response *rs = NULL;

    if (tb_reply_error(r) >= 0)
        rs = MHD_create_response_from_buffer(r->body.len, r->body.data ? r->body.data : (void *)"",
                                             MHD_RESPMEM_MUST_COPY);
    if (rs)
        mhd_response_add_fields(rs, &r->fields);
    tb_reply_clear(r);
    return rs;
}

struct MHD_Response *tb_mhd_error(const struct tb_http_error *e)
{
    struct tb_reply r = {0};

    tb_reply_fail(&r, e);
    return tb_mhd_response(&r);
}

struct MHD_Response *tb_mhd_text(const char *body, size_t len, const char *content_type)
{
    struct tb_reply r = {0};

    tb_reply_text(&r, MHD_HTTP_OK, body, len, content_type);
    return tb_mhd_response(&r);
}
