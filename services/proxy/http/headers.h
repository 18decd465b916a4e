/* SPDX-License-Identifier: Apache-2.0 */
/* Header fields: names, values, and which are more than passed on. Pure functions. */
#ifndef TB_PROXY_HTTP_HEADERS_H
#define TB_PROXY_HTTP_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_REQUEST_ID_MAX 64

/* The fields that are more than passed on, by either side. */
enum tb_header_id {
    TB_HEADER_OTHER,
    /* for one hop only (RFC 9110, 7.6.1) */
    TB_HEADER_CONNECTION,
    TB_HEADER_KEEP_ALIVE,
    TB_HEADER_PROXY, /* Proxy-Connection, -Authenticate, -Authorization, -Authentication-Info */
    TB_HEADER_TE,
    TB_HEADER_TRAILER,
    TB_HEADER_TRANSFER_ENCODING,
    TB_HEADER_UPGRADE,
    _TB_HEADER_HOP_MAX,
    TB_HEADER_CONTENT_LENGTH,
    TB_HEADER_HOST,
    TB_HEADER_EXPECT,
    TB_HEADER_AUTHORIZATION,
    TB_HEADER_CONTENT_ENCODING,
    TB_HEADER_CONTENT_TYPE,
    TB_HEADER_ACCEPT_ENCODING,
    TB_HEADER_X_FORWARDED_FOR,
    TB_HEADER_X_FORWARDED_PROTO,
    TB_HEADER_X_REQUEST_ID,
    TB_HEADER_DATE,
};
enum tb_header_id tb_header_id(const char *name, size_t len); /* of a valid name */

size_t tb_header_token_len(const char *p, size_t n);           /* how many bytes of p may stand in a token */
bool tb_header_name_valid(const char *name, size_t n);         /* a token of RFC 9110 */
bool tb_header_value_valid(const char *value, size_t n);       /* no control characters but tab */
bool tb_header_has_token(const char *list, const char *token); /* comma-separated, any case */
/* For one hop only: not passed on (RFC 9110, 7.6.1). */
bool tb_header_is_hop_by_hop(enum tb_header_id id);

/* A request id a client may choose: 1..64 characters of [A-Za-z0-9._-]. */
bool tb_request_id_valid(const char *s);

#endif
