/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/request.h"

#include <stdio.h>
#include <string.h>

#include "common/macros.h"
#include "tbenc/tbenc.h"

int decrypt_request_parse(const void *buf, size_t len, size_t n_here, struct tb_deliver_request *ret,
                          char err[static DECRYPT_REQUEST_ERR_MAX])
{
    struct tb_deliver_request q;
    uint32_t most;

    if (len != sizeof(q)) {
        snprintf(err, DECRYPT_REQUEST_ERR_MAX, "the request has %zu bytes, not %zu", len, sizeof(q));
        return -EBADMSG;
    }
    memcpy(&q, buf, sizeof(q));
    if (memcmp(q.magic, TB_DELIVER_REQUEST_MAGIC, sizeof(q.magic)) != 0) {
        snprintf(err, DECRYPT_REQUEST_ERR_MAX, "the request does not begin with %s",
                 TB_DELIVER_REQUEST_MAGIC);
        return -EBADMSG;
    }
    if (q.mode < TB_DELIVER_FIFO || q.mode > TB_DELIVER_S3) {
        snprintf(err, DECRYPT_REQUEST_ERR_MAX, "delivery mode %u is not known", q.mode);
        return -EBADMSG;
    }
    most = q.mode == TB_DELIVER_DIR ? TBENC_FILES_MAX : 1;
    if (q.n_fds < 1 || q.n_fds > most) {
        snprintf(err, DECRYPT_REQUEST_ERR_MAX, "the request announces %u descriptors, not 1 to %u", q.n_fds,
                 most);
        return -EBADMSG;
    }
    if (n_here < 1 || n_here > q.n_fds) {
        snprintf(err, DECRYPT_REQUEST_ERR_MAX, "%zu descriptors came with a request for %u", n_here, q.n_fds);
        return -EBADMSG;
    }
    *ret = q;
    return 0;
}
