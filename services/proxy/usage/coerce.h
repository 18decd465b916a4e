/* SPDX-License-Identifier: Apache-2.0 */
/* What runtimes take a JSON value for. Pydantic's lax mode (vLLM, SGLang) reads "100", 100.0 and true as
 * integers, and 1, "yes" and "on" as true; llama-server reads 5.7 as 5 and -1 as without a limit. */
#ifndef TB_PROXY_USAGE_COERCE_H
#define TB_PROXY_USAGE_COERCE_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/usage/json_scan.h"

enum tb_coerced { TB_COERCED_NULL, TB_COERCED_VALUE, TB_COERCED_INVALID };

/* The scanner has just told DONE or TEXT. INVALID: what no runtime takes for an integer, or not surely for
 * this one. A number past the range is its end. */
enum tb_coerced tb_coerce_int(const struct tb_json_scan *s, enum tb_json_token t, int64_t *ret);
enum tb_coerced tb_coerce_bool(const struct tb_json_scan *s, enum tb_json_token t, bool *ret);

#endif
