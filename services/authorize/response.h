/* SPDX-License-Identifier: Apache-2.0 */
/* The control plane's answer to an authorize request, judged strictly. Pure: a response in, a verdict out.
 * Only what the control plane itself says suspends a machine. Everything that may come from a gateway, proxy
 * or portal in front of it is a transient error. */
#ifndef TB_AUTHORIZE_RESPONSE_H
#define TB_AUTHORIZE_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "authorize/attest.h"
#include "authorize/grant.h"
#include "common/certificate.h"
#include "common/http.h"
#include "common/lease_state.h"
#include "common/outcome.h"

#define TB_AUTHORIZE_REASON_MAX 200 /* characters taken over of a reason that another program gives */

/* Codes of a verdict's outcome. */
enum {
    AUTHORIZE_GRANTED = TB_EXIT_OK,
    /* The status "denied", with 200 or any 3xx or 4xx but 408 and 429; or 401 and 403 with a reason as
     * JSON. */
    AUTHORIZE_DENIED = TB_EXIT_NOPERM,
    /* No usable answer: network, any other status, or a 200 that makes no sense. */
    AUTHORIZE_RETRY = TB_EXIT_TEMPFAIL,
};

struct authorize_verdict {
    /* The reason is printable, without secrets, at most TB_AUTHORIZE_REASON_MAX; "" when granted. */
    struct tb_outcome outcome;
    int64_t retry_after_ms;       /* -1: none */
    uint64_t expires_at_us;       /* CLOCK_REALTIME; 0: the lease does not end by itself */
    struct tb_grant *grant;       /* owned; only when granted */
    struct tb_grant *held;        /* owned; of the version that the request named, when that is another one */
    bool billed_by_control_plane; /* usage is reported to the marketplace there, not here */
    struct authorize_challenge challenge; /* for the next request; of a refusal: evidence for it is wanted */
    struct tb_attested attested;          /* what the control plane saw shown; without a time */
    char machine_report[TB_REASON_MAX];   /* what became of the report that was sent; "": nothing was said */
    bool look; /* it was a look whether the control plane is there: GRANTED or RETRY, no grant */
    uint64_t date_real_us, date_boot_us; /* Date of the answer and when it came; 0: none */
    struct tb_certificate client, ca;    /* what it was asked with */
};
/* Sets code and reason; the reason is made safe. Returns code. */
int authorize_verdict_set(struct authorize_verdict *v, int code, const char *reason);
void authorize_verdict_clear(struct authorize_verdict *v);
#define _cleanup_verdict_ _cleanup_(authorize_verdict_clear)

/* Makes cJSON wipe what it frees, and glibc overwrite freed blocks too large for its per-thread cache (the
 * buffers of OpenSSL and libcurl), so that no copy of an answer stays on the heap, not even of one that fails
 * to parse. Once, before threads. */
void authorize_response_setup(void);

/* Judges a complete HTTP response. allow_http permits http:// URLs in the grant (TB_INSECURE_HTTP). */
void authorize_response_judge(const struct tb_http_response *rs, bool allow_http, uint64_t now_realtime_us,
                              struct authorize_verdict *ret);

/* Copies text into out: printable ASCII only, white space folded, at most TB_AUTHORIZE_REASON_MAX characters,
 * and every run long enough to be a key, a signature or a token replaced by "[redacted]". */
void tb_reason_sanitise(const char *text, size_t len, char out[static TB_REASON_MAX]);

#endif
