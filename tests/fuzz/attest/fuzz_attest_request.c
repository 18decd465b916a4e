/* SPDX-License-Identifier: Apache-2.0 */
/* What the client of tb-attest's socket asks. */
#include <stdlib.h>
#include <string.h>

#include "attest/evidence.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[TB_ATTEST_ERR_MAX] = "";
    struct attest_request q;

    memset(&q, 0, sizeof(q));
    if (attest_request_parse((const char *)data, size, &q, err) < 0) {
        if (!*err)
            abort();
    } else if (q.pcrs == 0 || (q.pcrs & ~0xffffU) || strlen(q.challenge_hex) != TB_CHALLENGE_HEX_CHARS) {
        abort();
    }
    return 0;
}
