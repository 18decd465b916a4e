/* SPDX-License-Identifier: Apache-2.0 */
/* The control plane's answer to an authorize request, judged strictly. Pure: (status, buf, len) in, a verdict out.
 * Compat: the retry table of the authorize call. */
#ifndef TB_AUTHORIZE_RESPONSE_H
#define TB_AUTHORIZE_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "authorize/grant.h"
#include "common/lease_state.h"

#define TB_AUTHORIZE_REASON_MAX 200 /* characters taken over of a reason that another program gives */

enum authorize_verdict_kind {
    AUTHORIZE_GRANTED,
    AUTHORIZE_DENIED, /* status "denied", 401, 403, 400 and any other 3xx and 4xx */
    AUTHORIZE_RETRY,  /* no usable answer: network, 408, 429, 5xx, or a 200 that makes no sense */
};

struct authorize_verdict {
    enum authorize_verdict_kind kind;
    char reason[TB_REASON_MAX]; /* printable, without secrets; "" when authorized */
    int64_t retry_after_ms;     /* -1: none */
    uint64_t expires_at_us;     /* CLOCK_REALTIME; 0: the lease does not end by itself */
    struct tb_grant *grant;     /* owned; only when authorized */
};
void authorize_verdict_clear(struct authorize_verdict *v);
#define _cleanup_verdict_ _cleanup_(authorize_verdict_clear)

/* Makes cJSON wipe what it frees, and glibc overwrite freed blocks too large for its per-thread cache (the buffers of OpenSSL
 * and libcurl), so that no copy of an answer stays on the heap, not even of one that fails to parse. Once, before
 * threads. */
void tb_response_setup(void);

/* Judges a complete HTTP response. allow_http permits http:// URLs in the grant (TB_INSECURE_HTTP). Every input gives a
 * verdict; -ENOMEM is the only error. */
int tb_response_judge(long status, const char *body, size_t len, bool allow_http, uint64_t now_realtime_us,
                      struct authorize_verdict *ret);

/* Copies text into out: printable ASCII only, white space folded, at most TB_AUTHORIZE_REASON_MAX characters, and every run long
 * enough to be a key, a signature or a token replaced by "[redacted]". */
void tb_reason_sanitise(const char *text, size_t len, char out[static TB_REASON_MAX]);

#endif
