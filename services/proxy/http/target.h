/* SPDX-License-Identifier: Apache-2.0 */
/* The target of a request, read once (RFC 9112, 3.2; RFC 3986, 6.2.2). Its path has one spelling from here
 * on: that one is matched against the routes, classified, metered, recorded and sent to the runtime, so
 * that no two readers can disagree about it.
 *
 *   absolute-form (http://host/path)   the path; the host replaces the Host field
 *   %41, %2d, %3a                      decoded where the character may stand in a path as it is
 *   %c3%a9, %20, %3b                   kept, in upper case
 *   " < > ^ ` { | } [ ]                encoded: no path has them, but some clients send them
 *   dot segments, plain or encoded     refused: what they mean differs between servers
 *   empty segments (a//b)              refused: some servers merge them
 *   %2F, %5C and \, controls, NUL, # , octets that are no UTF-8 once decoded: refused
 *
 * The query is not touched. No I/O. */
#ifndef TB_PROXY_HTTP_TARGET_H
#define TB_PROXY_HTTP_TARGET_H

#include <stdbool.h>
#include <stddef.h>

enum tb_target_form {
    TB_TARGET_ORIGIN,    /* /path?query */
    TB_TARGET_ABSOLUTE,  /* http://host/path?query */
    TB_TARGET_ASTERISK,  /* *, of OPTIONS */
    TB_TARGET_AUTHORITY, /* host:port, of CONNECT */
};

struct tb_target {
    enum tb_target_form form;
    const char *text;      /* normalised path and query, NUL-terminated, in the buffer given */
    size_t path_len;       /* of text; what follows is "" or begins with '?' */
    const char *authority; /* of absolute-form, in the raw target; NULL otherwise */
    size_t authority_len;
};

/* The size of the buffer that a target of n bytes needs. */
#define TB_TARGET_ROOM(n) (3 * (n) + 2)

/* Why a target is refused: the status that says so, and a sentence for its sender. */
struct tb_target_refusal {
    int status; /* 400, or 404 for a path that can name nothing */
    const char *why;
};

/* Reads raw[0..len) into text, which has room for TB_TARGET_ROOM(len). False and *ret_why when it is
 * refused. The form is told for what it looks like; whether the method may have it is the caller's to say. */
bool tb_target_parse(const char *raw, size_t len, char *text, struct tb_target *ret,
                     struct tb_target_refusal *ret_why);
/* host[:port] as a Host field or an absolute-form may have it; no user name. An empty one is valid in a
 * Host field only. */
bool tb_authority_valid(const char *s, size_t len);

#endif
