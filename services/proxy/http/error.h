/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of our own: OpenAI-shaped errors and small fixed bodies. */
#ifndef TB_PROXY_HTTP_ERROR_H
#define TB_PROXY_HTTP_ERROR_H

#include <microhttpd.h>
#include <stdbool.h>

#include "common/macros.h"

#define TB_ERROR_CODE_MAX 64
#define TB_ERROR_MESSAGE_MAX 256

struct tb_http_error {
    int status;                         /* 0: none */
    char code[TB_ERROR_CODE_MAX];       /* [a-z0-9_]+, for programs */
    char message[TB_ERROR_MESSAGE_MAX]; /* for people */
    unsigned retry_after_s;             /* 0: no header */
};

/* Fills e; the code is cleaned to [a-z0-9_]. */
void tb_http_error_set(struct tb_http_error *e, int status, const char *code, const char *fmt, ...)
    _printf_(4, 5);
/* A response {"error":{"message","type","code"}} with Retry-After, WWW-Authenticate or Allow as the status asks. NULL on ENOMEM. */
struct MHD_Response *tb_http_error_response(const struct tb_http_error *e);
/* A response with a copied body. NULL on ENOMEM. */
struct MHD_Response *tb_http_text_response(const char *body, size_t len, const char *content_type);

#endif
