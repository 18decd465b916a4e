/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base64.h"

/* Nesting is checked on the text, before cJSON recurses into it; so are NUL bytes, plain or escaped, at which
 * a C string would end: two readers could take one text for two values. */
static int json_check_text(const char *buf, size_t len, char *err)
{
    unsigned depth = 0;
    int in_string = 0;

    for (size_t i = 0; i < len; i++) {
        char c = buf[i];

        if (c == '\0') {
            snprintf(err, TB_JSON_ERR_MAX, "a NUL byte at offset %zu", i);
            return -EBADMSG;
        }
        if (in_string) {
            if (c == '\\' && len - i >= 6 && memcmp(buf + i, "\\u0000", 6) == 0) {
                snprintf(err, TB_JSON_ERR_MAX, "an escaped NUL at offset %zu", i);
                return -EBADMSG;
            }
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
            continue;
        }
        if (c == '"')
            in_string = 1;
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        if (depth > TB_JSON_DEPTH_MAX) {
            snprintf(err, TB_JSON_ERR_MAX, "nested deeper than %d levels", TB_JSON_DEPTH_MAX);
            return -EBADMSG;
        }
    }
    return 0;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int json_check_duplicates(const cJSON *o, char *err)
{
    _cleanup_free_ const char **names = NULL;
    size_t n = 0, i = 0;
    const cJSON *m;

    cJSON_ArrayForEach (m, o)
        n++;
    if (n < 2)
        return 0;
    names = calloc(n, sizeof(*names));
    if (!names)
        return -ENOMEM;
    cJSON_ArrayForEach (m, o)
        names[i++] = m->string ? m->string : "";
    qsort(names, n, sizeof(*names), name_compare);
    for (i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0) {
            snprintf(err, TB_JSON_ERR_MAX, "member \"%.60s\" appears twice", names[i]);
            return -EBADMSG;
        }
    return 0;
}

static int json_check_tree(const cJSON *v, char *err)
{
    const cJSON *m;
    int r;

    if (cJSON_IsNumber(v) && !isfinite(v->valuedouble)) {
        snprintf(err, TB_JSON_ERR_MAX, "a number is too large");
        return -EBADMSG;
    }
    if (cJSON_IsObject(v)) {
        r = json_check_duplicates(v, err);
        if (r < 0)
            return r;
    }
    cJSON_ArrayForEach (m, v) {
        r = json_check_tree(m, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int tb_json_parse(const char *buf, size_t len, size_t max, cJSON **ret, char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *j = NULL;
    const char *end = NULL;
    int r;

    if (len > max) {
        snprintf(err, TB_JSON_ERR_MAX, "%zu bytes, the limit is %zu", len, max);
        return -EFBIG;
    }
    r = json_check_text(buf, len, err);
    if (r < 0)
        return r;
    j = cJSON_ParseWithLengthOpts(buf, len, &end, 0);
    if (!j) {
        size_t at = end ? (size_t)(end - buf) : 0;

        snprintf(err, TB_JSON_ERR_MAX, "not valid JSON at byte %zu of %zu", MIN(at, len), len);
        return -EBADMSG;
    }
    for (; end < buf + len; end++)
        if (!strchr(" \t\r\n", *end)) {
            snprintf(err, TB_JSON_ERR_MAX, "something follows the JSON value at byte %zu",
                     (size_t)(end - buf));
            return -EBADMSG;
        }
    r = json_check_tree(j, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(j);
    return 0;
}

const cJSON *tb_json_member(const cJSON *o, const char *name)
{
    return cJSON_IsObject(o) ? cJSON_GetObjectItemCaseSensitive(o, name) : NULL;
}

static int json_missing(const char *name, char *err)
{
    snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is missing", name);
    return -ENOENT;
}

int tb_json_get_string(const cJSON *o, const char *name, const char **ret, char err[static TB_JSON_ERR_MAX])
{
    const cJSON *m = tb_json_member(o, name);

    if (!m)
        return json_missing(name, err);
    if (!cJSON_IsString(m) || !m->valuestring) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is not a string", name);
        return -EINVAL;
    }
    *ret = m->valuestring;
    return 0;
}

int tb_json_get_uint(const cJSON *o, const char *name, uint64_t max, uint64_t *ret,
                     char err[static TB_JSON_ERR_MAX])
{
    const cJSON *m = tb_json_member(o, name);
    double v;

    if (!m)
        return json_missing(name, err);
    v = cJSON_IsNumber(m) ? m->valuedouble : -1;
    if (!cJSON_IsNumber(m) || v < 0 || v != floor(v) || v > (double)TB_JSON_INT_MAX) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is not an integer from 0 to 2^53-1", name);
        return -EINVAL;
    }
    if ((uint64_t)v > max) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is %.0f, the limit is %llu", name, v,
                 (unsigned long long)max);
        return -EINVAL;
    }
    *ret = (uint64_t)v;
    return 0;
}

int tb_json_get_bool(const cJSON *o, const char *name, bool *ret, char err[static TB_JSON_ERR_MAX])
{
    const cJSON *m = tb_json_member(o, name);

    if (!m)
        return json_missing(name, err);
    if (!cJSON_IsBool(m)) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"%s\" is not true or false", name);
        return -EINVAL;
    }
    *ret = cJSON_IsTrue(m);
    return 0;
}

int tb_json_add_uint(cJSON *o, const char *name, uint64_t v)
{
    char digits[24];

    snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v);
    return cJSON_AddRawToObject(o, name, digits) ? 0 : -ENOMEM;
}

int tb_json_add_base64(cJSON *o, const char *name, const void *p, size_t n)
{
    _cleanup_free_ char *text = malloc(TB_BASE64_CHARS(n) + 1);

    if (!text)
        return -ENOMEM;
    tb_base64_encode(p, n, text);
    return cJSON_AddStringToObject(o, name, text) ? 0 : -ENOMEM;
}
