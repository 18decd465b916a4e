/* SPDX-License-Identifier: Apache-2.0 */
/* Which web pages of other origins may use the API (TB_CORS_ORIGINS), and the header fields that tell a
 * browser so: from the facts of a request to a list of fields. Credentials are never allowed: a browser
 * does not send a bearer key by itself, a page's script does, and that needs no cookie.
 * https://fetch.spec.whatwg.org/#http-cors-protocol. Pure.
 *
 *   unset, with TB_API_KEYS     any origin
 *   unset, without              what the runtime says: nothing is added, taken out or answered here
 *   *                           any origin
 *                               none                        no origin; what the runtime says is taken out
 *                               https://a.example, ...      these */
#ifndef TB_PROXY_GATE_CORS_H
#define TB_PROXY_GATE_CORS_H

#include <stdbool.h>
#include <stddef.h>

#define TB_CORS_FIELDS_MAX 6

enum tb_cors_mode { TB_CORS_RUNTIME, TB_CORS_ANY, TB_CORS_LIST, TB_CORS_NONE };
struct tb_cors_policy {
    enum tb_cors_mode mode;
    const char *origins; /* TB_CORS_LIST: separated by commas or blanks, borrowed */
};
/* Reads TB_CORS_ORIGINS (NULL: unset). NULL when fine, else what is wrong with it. */
const char *tb_cors_parse(const char *setting, bool with_keys, struct tb_cors_policy *ret);

/* What a request's head says; borrowed, NULL when not there. */
struct tb_cors_request {
    const char *origin, *method, *headers; /* Origin, Access-Control-Request-Method and -Headers */
};
/* Feed each header field. */
void tb_cors_field(struct tb_cors_request *rq, const char *name, const char *value);

enum tb_cors_verdict {
    TB_CORS_PASS,      /* no preflight, or one for the runtime */
    TB_CORS_PREFLIGHT, /* answer 204 with the fields, without asking for a key */
    TB_CORS_REFUSE,    /* a preflight from an origin that may not: 403 */
};
enum tb_cors_verdict tb_cors_judge(const struct tb_cors_policy *p, const struct tb_cors_request *rq,
                                   const char *method);

struct tb_cors_field {
    const char *name, *value;
};
/* Fields for the answer, ours and the runtime's alike. Returns how many; values are borrowed from the
 * request. */
size_t tb_cors_fields(const struct tb_cors_policy *p, const struct tb_cors_request *rq, bool preflight,
                      struct tb_cors_field ret[static TB_CORS_FIELDS_MAX]);
/* True for a field of the runtime's answer that ours stand for. */
bool tb_cors_replaces(const struct tb_cors_policy *p, const char *name);

#endif
