/* SPDX-License-Identifier: Apache-2.0 */
/* Globs whose only special character is `*`, any run of characters. */
#ifndef TB_PROXY_GATE_GLOB_H
#define TB_PROXY_GATE_GLOB_H

#include <stdbool.h>
#include <stddef.h>

bool tb_glob_match(const char *glob, size_t glob_len, const char *s, size_t len);

#endif
