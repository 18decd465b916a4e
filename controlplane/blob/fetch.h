/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a blob, by range. */
#ifndef CP_FETCH_H
#define CP_FETCH_H

#include <stdint.h>

#include "common/http.h"

/* GETs bytes 0 to n-1 of url into fd, from its offset 0; more than n is not read. *ret_size: of the whole
 * blob, UINT64_MAX when the server does not say. 0; -ENOENT there is no such blob, or it may not be read
 * (404, 403, 401); -ERANGE it is shorter than n; -EAGAIN the storage does not answer, or not now; -EIO fd.
 * The reason, without the URL's query, in err. */
int cp_fetch_beginning(const char *url, const struct tb_http_tls *tls, uint64_t n, int fd, uint64_t *ret_size,
                       char err[static TB_HTTP_ERR_MAX]);

#endif
