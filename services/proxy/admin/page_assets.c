/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/page_assets.h"

#include <string.h>

#include "common/macros.h"

/* Each file as a string. Paths are seen from where the compiler runs: the top of the tree. */
#define EMBED(name, file)                                                                                    \
    __asm__(".section .rodata\n"                                                                             \
            ".globl page_" #name "\n"                                                                        \
            ".hidden page_" #name "\n"                                                                       \
            "page_" #name ":\n"                                                                              \
            ".incbin \"services/proxy/admin/page/" file "\"\n"                                               \
            ".byte 0\n"                                                                                      \
            ".previous\n");                                                                                  \
    extern const char page_##name[] __attribute__((visibility("hidden")))

EMBED(html, "status.html");
EMBED(css, "status.css");
EMBED(js, "status.js");
EMBED(svg, "status.svg");

const struct tb_page_asset *tb_page_asset(const char *path, size_t len)
{
    static const struct tb_page_asset asset[] = {
        {"/status.css", "text/css; charset=utf-8", page_css},
        {"/status.js", "text/javascript; charset=utf-8", page_js},
        {"/status.svg", "image/svg+xml", page_svg},
    };

    for (size_t i = 0; i < ARRAY_SIZE(asset); i++)
        if (strlen(asset[i].path) == len && memcmp(path, asset[i].path, len) == 0)
            return &asset[i];
    return NULL;
}

const char *tb_page_template(size_t *ret_len)
{
    *ret_len = strlen(page_html);
    return page_html;
}
