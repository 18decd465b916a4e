/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes that this proxy gives by itself, and the words that go with a code. */
#ifndef TB_PROXY_HTTP_STATUS_H
#define TB_PROXY_HTTP_STATUS_H

enum tb_http_status {
    TB_HTTP_OK = 200,
    TB_HTTP_NO_CONTENT = 204,
    TB_HTTP_NOT_MODIFIED = 304,
    TB_HTTP_BAD_REQUEST = 400,
    TB_HTTP_UNAUTHORIZED = 401,
    TB_HTTP_FORBIDDEN = 403,
    TB_HTTP_NOT_FOUND = 404,
    TB_HTTP_METHOD_NOT_ALLOWED = 405,
    TB_HTTP_REQUEST_TIMEOUT = 408,
    TB_HTTP_CONTENT_TOO_LARGE = 413,
    TB_HTTP_URI_TOO_LONG = 414,
    TB_HTTP_UNSUPPORTED_MEDIA_TYPE = 415,
    TB_HTTP_EXPECTATION_FAILED = 417,
    TB_HTTP_TOO_MANY_REQUESTS = 429,
    TB_HTTP_FIELDS_TOO_LARGE = 431,
    TB_HTTP_CLIENT_CLOSED = 499, /* in records only: the client went away before its answer was complete */
    TB_HTTP_BAD_GATEWAY = 502,
    TB_HTTP_SERVICE_UNAVAILABLE = 503,
    TB_HTTP_GATEWAY_TIMEOUT = 504,
    TB_HTTP_VERSION_NOT_SUPPORTED = 505,
};

/* The reason phrase of the registry; "Unknown" for a code it does not have. */
const char *tb_http_reason(int status);

#endif
