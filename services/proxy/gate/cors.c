/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/cors.h"

#include <string.h>
#include <strings.h>

#define SEPARATORS ", \t"
#define METHODS "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
/* Seconds; browsers keep it for two hours at most. */
#define MAX_AGE "7200"
/* By name what we add, for clients that do not know the star; the star for what the runtime adds. */
#define EXPOSED                                                                                              \
    "X-Request-Id, Retry-After, x-should-retry, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, "      \
    "x-ratelimit-limit-budget, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, "               \
    "x-ratelimit-remaining-budget, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, *"

/* scheme://host[:port], as a browser writes it, or null. */
static bool cors_origin_valid(const char *s, size_t len)
{
    const char *p = memmem(s, len, "://", 3);

    if (len == 4 && memcmp(s, "null", 4) == 0)
        return true;
    if (!p || p == s || p + 3 == s + len)
        return false;
    for (p += 3; p < s + len; p++)
        if (*p == '/' || *p == '?' || *p == '#' || *p == '*' || *p == '@' || (unsigned char)*p <= 0x20 ||
            (unsigned char)*p >= 0x7f)
            return false;
    return true;
}

static bool cors_word_is(const char *word, size_t len, const char *s)
{
    return strlen(s) == len && memcmp(word, s, len) == 0;
}

const char *tb_cors_parse(const char *setting, bool with_keys, struct tb_cors_policy *ret)
{
    size_t n = 0;
    bool any = false, none = false;

    *ret = (struct tb_cors_policy){.mode = with_keys ? TB_CORS_ANY : TB_CORS_RUNTIME};
    if (!setting)
        return NULL;
    for (const char *p = setting + strspn(setting, SEPARATORS); *p; n++) {
        size_t len = strcspn(p, SEPARATORS);

        if (cors_word_is(p, len, "*"))
            any = true;
        else if (cors_word_is(p, len, "none"))
            none = true;
        else if (!cors_origin_valid(p, len))
            return "each origin is scheme://host or scheme://host:port, without a path, as in "
                   "https://app.example.com; "
                   "or give * alone, or none";
        p += len;
        p += strspn(p, SEPARATORS);
    }
    if (n == 0)
        return "no origin is given; leave it unset, or give none";
    if ((any || none) && n > 1)
        return "* and none stand alone";
    *ret = (struct tb_cors_policy){any ? TB_CORS_ANY : none ? TB_CORS_NONE : TB_CORS_LIST, setting};
    return NULL;
}

void tb_cors_field(struct tb_cors_request *rq, const char *name, const char *value)
{
    if ((*name | 0x20) != 'o' && (*name | 0x20) != 'a')
        return; /* most fields */
    if (strcasecmp(name, "Origin") == 0)
        rq->origin = value;
    else if (strcasecmp(name, "Access-Control-Request-Method") == 0)
        rq->method = value;
    else if (strcasecmp(name, "Access-Control-Request-Headers") == 0)
        rq->headers = value;
}

static bool cors_allows(const struct tb_cors_policy *p, const struct tb_cors_request *rq)
{
    if (!rq->origin || p->mode == TB_CORS_NONE || p->mode == TB_CORS_RUNTIME)
        return false;
    if (p->mode == TB_CORS_ANY)
        return true;
    for (const char *o = p->origins + strspn(p->origins, SEPARATORS); *o;) {
        size_t len = strcspn(o, SEPARATORS);

        if (strlen(rq->origin) == len && strncasecmp(rq->origin, o, len) == 0)
            return true;
        o += len;
        o += strspn(o, SEPARATORS);
    }
    return false;
}

enum tb_cors_verdict tb_cors_judge(const struct tb_cors_policy *p, const struct tb_cors_request *rq,
                                   const char *method)
{
    if (p->mode == TB_CORS_RUNTIME || !rq->origin || !rq->method || strcmp(method, "OPTIONS") != 0)
        return TB_CORS_PASS;
    return cors_allows(p, rq) ? TB_CORS_PREFLIGHT : TB_CORS_REFUSE;
}

size_t tb_cors_fields(const struct tb_cors_policy *p, const struct tb_cors_request *rq, bool preflight,
                      struct tb_cors_field ret[static TB_CORS_FIELDS_MAX])
{
    size_t n = 0;

    if (p->mode == TB_CORS_RUNTIME || p->mode == TB_CORS_NONE)
        return 0;
    /* A cache must not give the answer for one origin, or for none, to another. */
    ret[n++] =
        (struct tb_cors_field){"Vary", preflight ? "Origin, Access-Control-Request-Headers" : "Origin"};
    if (!cors_allows(p, rq))
        return n;
    ret[n++] =
        (struct tb_cors_field){"Access-Control-Allow-Origin", p->mode == TB_CORS_ANY ? "*" : rq->origin};
    if (!preflight) {
        ret[n++] = (struct tb_cors_field){"Access-Control-Expose-Headers", EXPOSED};
        return n;
    }
    ret[n++] = (struct tb_cors_field){"Access-Control-Allow-Methods", METHODS};
    if (rq->headers && rq->headers[0])
        ret[n++] = (struct tb_cors_field){"Access-Control-Allow-Headers", rq->headers};
    ret[n++] = (struct tb_cors_field){"Access-Control-Max-Age", MAX_AGE};
    return n;
}

bool tb_cors_replaces(const struct tb_cors_policy *p, const char *name)
{
    return p->mode != TB_CORS_RUNTIME && (*name | 0x20) == 'a' &&
           strncasecmp(name, "Access-Control-", 15) == 0;
}
