/* SPDX-License-Identifier: Apache-2.0 */
/* First byte: how many descriptors came along; the rest: the message. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decrypt/request.h"
#include "tbenc/tbenc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[DECRYPT_REQUEST_ERR_MAX] = "";
    struct tb_deliver_request q;

    if (size < 1)
        return 0;
    if (decrypt_request_parse(data + 1, size - 1, data[0], &q, err) == 0) {
        if (q.n_fds < 1 || q.n_fds > TBENC_FILES_MAX || data[0] > q.n_fds ||
            (q.mode != TB_DELIVER_DIR && q.n_fds != 1))
            abort();
    } else if (err[0] == '\0') {
        abort();
    }
    return 0;
}
