/* SPDX-License-Identifier: Apache-2.0 */
/* The claims as JSON, and the machine's signature over them: a quote of its TPM, whose extraData is the
 * SHA-256 of "trustbridge machine report v1", NUL and the report. tb-verify(8). */
#ifndef TB_VERIFY_REPORT_H
#define TB_VERIFY_REPORT_H

#include "verify/claims.h"

#define VERIFY_ERR_MAX 200

/* One line, heap; NULL: out of memory. challenge: what the reader gave to see that it is fresh, or NULL. */
char *verify_report(const struct verify_claims *c, const char *challenge);
/* {"report":"...","signature":{...}}: heap; without a signature `unsigned` says why. NULL: out of memory. */
char *verify_sign(const char *report, const char *device, char why[static VERIFY_ERR_MAX]);
const char *verify_result_name(enum verify_result r);

#endif
