/* SPDX-License-Identifier: Apache-2.0 */
/* Logging for programs (libraries return errors, programs log them). Lines go to the journal as structured
 * entries when stderr is the journal ($JOURNAL_STREAM), else to stderr as "<program>: <level>: message". */
#ifndef TB_LOG_H
#define TB_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "common/macros.h"

enum tb_log_level {
    TB_LOG_ERR,
    TB_LOG_WARN,
    TB_LOG_INFO,
    TB_LOG_DEBUG,
    _TB_LOG_LEVEL_MAX,
    _TB_LOG_LEVEL_INVALID = -1
};

/* program is kept by reference. Level starts at info. */
void tb_log_init(const char *program);
void tb_log_set_level(enum tb_log_level level);
/* "debug", "info", "warn", "error", any case; _TB_LOG_LEVEL_INVALID otherwise. */
enum tb_log_level tb_log_level_from_string(const char *s);

/* msgid: one of the 128-bit ids of common/events.h as 32 hex digits, or NULL; a warning or error of a daemon
 * then has the id of its program, so that the catalog explains each. fields: NULL-terminated "NAME=value"
 * strings for the journal, or NULL. On stderr only the message is printed. */
void tb_log_full(enum tb_log_level level, const char *msgid, const char *const *fields, const char *fmt, ...)
    _printf_(4, 5);
#define tb_error(...) tb_log_full(TB_LOG_ERR, NULL, NULL, __VA_ARGS__)
#define tb_warn(...) tb_log_full(TB_LOG_WARN, NULL, NULL, __VA_ARGS__)
#define tb_info(...) tb_log_full(TB_LOG_INFO, NULL, NULL, __VA_ARGS__)
#define tb_debug(...) tb_log_full(TB_LOG_DEBUG, NULL, NULL, __VA_ARGS__)

/* The same with ": " and strerror(-r) behind the message. Returns r, a negative errno, so that a caller may
 * `return tb_error_errno(r, ...)`: library code returns, program code logs and returns, main() makes an exit
 * code of it. */
int tb_log_errno(enum tb_log_level level, int r, const char *fmt, ...) _printf_(3, 4);
#define tb_error_errno(r, ...) tb_log_errno(TB_LOG_ERR, r, __VA_ARGS__)
#define tb_warn_errno(r, ...) tb_log_errno(TB_LOG_WARN, r, __VA_ARGS__)

/* Copies url without its query, fragment and userinfo: the only form in which a URL may be logged. Returns
 * out. */
char *tb_url_redact(const char *url, char *out, size_t out_len);

#endif
