/* SPDX-License-Identifier: Apache-2.0 */
/* Strict reading of JSON from outside, over cJSON: bounded size and depth, no duplicate keys, no trailing
 * bytes, exact integers. Every getter names the member in its message. */
#ifndef TB_JSON_H
#define TB_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_JSON_DEPTH_MAX 16
#define TB_JSON_ERR_MAX 200
/* Largest integer a JSON number carries exactly in every reader. */
#define TB_JSON_INT_MAX 9007199254740991ULL

static inline void tb_json_freep(cJSON **j)
{
    cJSON_Delete(*j);
    *j = NULL;
}
#define _cleanup_json_ _cleanup_(tb_json_freep)

/* Parses buf[0..len). Rejects: len > max, nesting deeper than TB_JSON_DEPTH_MAX, duplicate member names in
 * one object (compared exactly), a NUL byte (plain or as \u0000), anything but white space after the value,
 * numbers that are not finite. On failure -EBADMSG (or -EFBIG, -ENOMEM) and a reason in err. */
int tb_json_parse(const char *buf, size_t len, size_t max, cJSON **ret, char err[static TB_JSON_ERR_MAX]);

/* Member of an object. Required getters: -ENOENT when absent, -EINVAL when of another type or out of range;
 * err says which. Member names are compared exactly. */
int tb_json_get_string(const cJSON *o, const char *name, const char **ret, char err[static TB_JSON_ERR_MAX]);
int tb_json_get_uint(const cJSON *o, const char *name, uint64_t max, uint64_t *ret,
                     char err[static TB_JSON_ERR_MAX]);
int tb_json_get_bool(const cJSON *o, const char *name, bool *ret, char err[static TB_JSON_ERR_MAX]);
const cJSON *tb_json_member(const cJSON *o, const char *name);

/* Adds an exact unsigned integer (up to TB_JSON_INT_MAX), which cJSON's double printing would write as
 * 1e+15. */
int tb_json_add_uint(cJSON *o, const char *name, uint64_t v);
/* Adds n bytes as a string in base64. */
int tb_json_add_base64(cJSON *o, const char *name, const void *p, size_t n);

#endif
