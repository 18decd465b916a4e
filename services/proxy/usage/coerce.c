/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/coerce.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"

static bool coerce_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits, with single underscores between them when those are allowed. Returns behind them; NULL when there
 * are none. */
static const char *coerce_digits(const char *p, bool underscores, uint64_t *ret)
{
    if (!coerce_is_digit(*p))
        return NULL;
    for (*ret = 0; coerce_is_digit(*p) || (underscores && *p == '_' && coerce_is_digit(p[1])); p++)
        if (*p != '_')
            *ret = *ret > INT64_MAX / 10 - 1 ? INT64_MAX : *ret * 10 + (uint64_t)(*p - '0');
    return p;
}

/* " +1_000.0 ", as Python's int() has it, and the fraction of zeros that pydantic allows. */
static bool coerce_int_text(const char *p, int64_t *ret)
{
    bool minus = false;
    uint64_t v;

    p += strspn(p, " \t\r\n\f\v");
    if (*p == '+' || *p == '-')
        minus = *p++ == '-';
    p = coerce_digits(p, true, &v);
    if (p && *p == '.' && p[1] == '0')
        p += 1 + strspn(p + 1, "0");
    if (!p || p[strspn(p, " \t\r\n\f\v")])
        return false;
    *ret = minus ? -(int64_t)v : (int64_t)v;
    return true;
}

/* A literal number. A fraction is refused by pydantic and cut off by llama-server. */
static bool coerce_int_number(const char *p, int64_t *ret)
{
    const char *digits = p + (*p == '-'), *end;
    char *end_real;
    double real;
    uint64_t v;

    end = coerce_digits(digits, false, &v);
    if (end && !*end) {
        *ret = *p == '-' ? -(int64_t)v : (int64_t)v;
        return true;
    }
    real = strtod(p, &end_real);
    if (!end || *end_real || !isfinite(real))
        return false;
    *ret = real >= 9e18 ? INT64_MAX : real <= -9e18 ? -INT64_MAX : (int64_t)real;
    return true;
}

enum tb_coerced tb_coerce_int(const struct tb_json_scan *s, enum tb_json_token t, int64_t *ret)
{
    bool ok;

    assert(t == TB_JSON_DONE || t == TB_JSON_TEXT);
    if (t == TB_JSON_DONE && strcmp(s->value, "null") == 0)
        return TB_COERCED_NULL;
    if (s->cut)
        return TB_COERCED_INVALID;
    if (t == TB_JSON_TEXT) {
        ok = coerce_int_text(s->value, ret);
    } else if (strcmp(s->value, "true") == 0 || strcmp(s->value, "false") == 0) {
        *ret = s->value[0] == 't';
        ok = true;
    } else {
        ok = coerce_int_number(s->value, ret);
    }
    return ok ? TB_COERCED_VALUE : TB_COERCED_INVALID;
}

enum tb_coerced tb_coerce_bool(const struct tb_json_scan *s, enum tb_json_token t, bool *ret)
{
    static const char *const yes[] = {"true", "1", "t", "yes", "y", "on"}, *const no[] = {"false", "0",
                                                                                          "f",     "no",
                                                                                          "n",     "off"};
    int64_t v;

    if (t == TB_JSON_TEXT) {
        for (size_t i = 0; i < ARRAY_SIZE(yes) && !s->cut; i++)
            if (strcasecmp(s->value, yes[i]) == 0 || strcasecmp(s->value, no[i]) == 0) {
                *ret = strcasecmp(s->value, yes[i]) == 0;
                return TB_COERCED_VALUE;
            }
        return TB_COERCED_INVALID;
    }
    if (tb_coerce_int(s, t, &v) == TB_COERCED_NULL)
        return TB_COERCED_NULL;
    if (s->cut || tb_coerce_int(s, t, &v) == TB_COERCED_INVALID || (v != 0 && v != 1))
        return TB_COERCED_INVALID;
    *ret = v == 1;
    return TB_COERCED_VALUE;
}
