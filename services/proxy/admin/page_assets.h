/* SPDX-License-Identifier: Apache-2.0 */
/* The files of page/, as they are, in the program. */
#ifndef TB_PROXY_ADMIN_PAGE_ASSETS_H
#define TB_PROXY_ADMIN_PAGE_ASSETS_H

#include <stddef.h>

struct tb_page_asset {
    const char *path, *content_type; /* as it is served */
    const char *text;
};
/* status.css, status.js, status.svg: by path of a request; NULL when it is none of them. */
const struct tb_page_asset *tb_page_asset(const char *path, size_t len);
/* status.html, with {{names}} to fill in. */
const char *tb_page_template(size_t *ret_len);

#endif
