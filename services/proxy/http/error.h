/* SPDX-License-Identifier: Apache-2.0 */
/* Why a request is not served: what its sender is told and the record says. */
#ifndef TB_PROXY_HTTP_ERROR_H
#define TB_PROXY_HTTP_ERROR_H

#include "common/macros.h"
#include "proxy/http/status.h"

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

#endif
