/* SPDX-License-Identifier: Apache-2.0 */
/* A known secret never comes out, whatever is around it; and what came out has nothing more to take out. */
#include "support/redact.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char secret[] = "geheimnis42";
    _cleanup_redactor_ struct redactor r = {0};
    _cleanup_buf_ struct tb_buf in = {0}, out = {0};

    if (redactor_know(&r, secret, strlen(secret), REDACT_SECRET) < 0)
        return 0;
    redactor_ready(&r);
    tb_buf_append(&in, data, size / 2);
    tb_buf_puts(&in, secret);
    tb_buf_append(&in, data + size / 2, size - size / 2);
    if (redact_text(&r, in.data, in.len, &out) < 0)
        return 0;
    if (out.len >= strlen(secret) && memmem(out.data, out.len, secret, strlen(secret)))
        abort();
    return 0;
}
