/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config_rules.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/inet.h"
#include "common/io.h"
#include "common/log.h"
#include "common/provider_key.h"
#include "common/units.h"
#include "common/update_policy.h"
#include "common/usage.h"

#define config_bad(f, s, ...) tb_findings_add(f, TB_FINDING_ERROR, 0, (s)->name, __VA_ARGS__)

static bool config_printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

/* --- URLs and addresses --------------------------------------------------------------------------------- */

/* A port, which may be left out, and no more but a path. */
static bool url_rest_valid(const char *host)
{
    const char *end = host + strcspn(host, "/"), *colon = *host == '[' ? strchr(host, ']') : host;
    char port[8];
    uint64_t v;

    if (!colon)
        return false;
    colon += *host == '[';
    colon = *host == '[' ? colon : colon + strcspn(colon, ":/");
    if (colon == end)
        return true;
    snprintf(port, sizeof(port), "%.*s", (int)MIN(end - colon - 1, 7L), colon + 1);
    return *colon == ':' && tb_uint_parse(port, 1, 65535, &v) == 0;
}

/* Length of "scheme://" when s starts with it and a host follows, without userinfo, query or fragment; else
 * 0. */
static size_t url_scheme(const char *s, const char *scheme)
{
    size_t n = strlen(scheme);

    if (strncasecmp(s, scheme, n) != 0 || s[n] == '\0' || strchr("/:?#", s[n]) || strpbrk(s, "@?# \t\\"))
        return 0;
    return url_rest_valid(s + n) ? n : 0;
}

/* http:// on a loopback address, or one of link_local, with nothing after the port. */
static bool config_local_url(const char *s, bool link_local)
{
    size_t n = url_scheme(s, "http://"), host;
    const char *end;

    if (n == 0)
        return false;
    s += n;
    end = s + strcspn(s, "/");
    if (end[0] == '/' && end[1] != '\0')
        return false;
    host = *s == '[' ? strcspn(s, "]") + 1 : strcspn(s, ":/");
    if (link_local && strncmp(s, "169.254.", 8) == 0 && strspn(s, "0123456789.") == host)
        return true;
    return (host == 9 && strncasecmp(s, "localhost", 9) == 0) || (host == 5 && strncmp(s, "[::1]", 5) == 0) ||
           (host >= 7 && strncmp(s, "127.", 4) == 0 && strspn(s, "0123456789.") == host);
}

static bool config_runtime_url(const char *s)
{
    return strncmp(s, "unix:/", 6) == 0 ? s[6] != '\0' : config_local_url(s, false);
}

static bool config_target_valid(const char *s)
{
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '#')
            return false;
    return *s == '/';
}

/* An ARM id, or a GUID. */
static bool config_resource_id(const char *s)
{
    if (*s == '/')
        return strncasecmp(s, "/subscriptions/", 15) == 0 && s[15] && !strpbrk(s, " ?#\"\\");
    for (size_t i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-'
                                                    : !s[i] || !strchr("0123456789abcdefABCDEF", s[i]))
            return false;
    return s[36] == '\0';
}

/* What people write for an address, and what they meant. */
static const char *config_check_addr(const char *v)
{
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];
    const char *colon = strrchr(v, ':');
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;

    if (tb_inet_split(v, host, port) == 0)
        return strpbrk(host, " \t/\\\"'@,")
                   ? "must be host:port, [v6]:port or :port, the host without blanks "
                     "and signs"
                   : NULL;
    if (strstr(v, "://"))
        return "must be host:port without http://, as 0.0.0.0:8000";
    if (strspn(v, "0123456789") == strlen(v))
        return "must be host:port, [v6]:port or :port; a port alone has a colon before it, as :8000";
    if (!colon)
        return "must be host:port, [v6]:port or :port; the port is missing, as in 0.0.0.0:8000";
    if (*v != '[' && strchr(v, ':') != colon)
        return "must be [v6]:port; an IPv6 address has brackets around it, as [::1]:8000";
    if (digits > 0 && colon[1 + digits] == '\0' && (*v != '[' || colon[-1] == ']'))
        return "must be host:port, [v6]:port or :port, the port 0 to 65535; choose a smaller port";
    return "must be host:port, [v6]:port or :port, the port 0 to 65535";
}

static const char *config_check_endpoint(const char *v, bool insecure)
{
    if (url_scheme(v, "https://") || (insecure && url_scheme(v, "http://")))
        return NULL;
    if (url_scheme(v, "http://"))
        return "must be https://; for a test set TB_INSECURE_HTTP=true";
    if (!strstr(v, "://"))
        return "must be an https:// URL with a host and without user, query or fragment; it has no https://";
    return "must be an https:// URL with a host and without user, query or fragment";
}

/* --- the kinds ------------------------------------------------------------------------------------------ */

static const char *config_check_text(const struct config_setting *s, const char *v, const struct tb_config *c)
{
    struct tb_update_policy policy;

    switch (s->kind) {
    case KIND_ID:
        return tb_id_valid(v) ? NULL : "must be 1 to 100 of A-Z a-z 0-9 _ -";
    case KIND_ASSET_ID:
        return tb_asset_id_valid(v) ? NULL : "must be " TB_ASSET_ID_WORDS ", as Llama-3.1-8B";
    case KIND_ENDPOINT:
        return config_check_endpoint(v, c->insecure_http);
    case KIND_RUNTIME:
        return config_runtime_url(v) ? NULL
                                     : "must be http:// on 127.0.0.0/8, [::1] or localhost, or unix:/path";
    case KIND_TARGET:
        return config_target_valid(v) ? NULL
                                      : "must be the path of a URL, as /health, without spaces or a fragment";
    case KIND_IMDS:
        return config_local_url(v, true)
                   ? NULL
                   : "must be http:// on 169.254.0.0/16, 127.0.0.0/8, [::1] or localhost";
    case KIND_RESOURCE:
        return config_resource_id(v) ? NULL
                                     : "must be the managed application's id, /subscriptions/..., or its "
                                       "resourceUsageId, a GUID";
    case KIND_PATH:
    case KIND_SECRET:
        return *v == '/' ? NULL : "must be an absolute path";
    case KIND_ADDR:
        return config_check_addr(v);
    case KIND_PROVIDER_KEY:
        return tb_provider_key_rule(v);
    case KIND_UPDATE:
        return tb_update_policy_parse(v, &policy) == 0 ? NULL : TB_UPDATE_POLICY_WORDS;
    default:
        return NULL;
    }
}

static void config_set_number(const struct config_setting *s, const char *v, void *field,
                              struct tb_findings *f)
{
    char hint[64] = "";
    uint64_t n;

    if (tb_uint_parse(v, s->min, s->max, &n) < 0) {
        if (isalpha((unsigned char)v[strlen(v) - 1]) && tb_size_parse(v, &n) == 0)
            snprintf(hint, sizeof(hint), ", without a unit: %llu", (unsigned long long)n);
        config_bad(f, s, "\"%.40s\" must be a whole number from %llu to %llu%s", v,
                   (unsigned long long)s->min, (unsigned long long)s->max, hint);
    } else if (s->kind == KIND_UINT32) {
        *(unsigned *)field = (unsigned)n;
    } else {
        *(uint64_t *)field = n;
    }
}

static void config_set_duration(const struct config_setting *s, const char *v, uint64_t *field,
                                struct tb_findings *f)
{
    uint64_t us;

    if (tb_duration_parse(v, &us) < 0) {
        bool number = strspn(v, "0123456789") == strlen(v);

        config_bad(f, s, "\"%.40s\" must be a duration such as 90s, 10m or 24h%s", v,
                   number ? "; the unit is missing" : "");
    } else if (us < s->min) {
        config_bad(f, s, "\"%.40s\" is too short; at least %llus", v, (unsigned long long)(s->min / 1000000));
    } else {
        *field = us;
    }
}

static void config_set_dimensions(const struct config_setting *s, const char *v, uint32_t *field,
                                  struct tb_findings *f)
{
    _cleanup_free_ char *known = NULL;

    if (tb_usage_dimensions_parse(v, field) == 0)
        return;
    for (int i = 0; i < TB_USAGE_DIMENSIONS; i++) {
        char *more = tb_strf("%s%s%s", known ? known : "", known ? ", " : "", tb_usage_dimension[i].name);

        free(known);
        known = more;
    }
    config_bad(f, s, "\"%.80s\" must be one or several of %s, separated by commas", v, known ? known : "");
}

/* systemd takes what stands behind a value for a part of it. Within quotes of a command, and as #fff, it may
 * be meant. */
static bool config_has_comment(const struct config_setting *s, const char *v)
{
    char quote = '\0';

    for (const char *p = v; *p; p++) {
        bool first = p == v || isblank((unsigned char)p[-1]);

        if (s->kind == KIND_COMMAND && (*p == '"' || *p == '\''))
            quote = quote == *p ? '\0' : quote ? quote : *p;
        else if (*p == '#' && first && p > v && !quote &&
                 (s->kind != KIND_COMMAND || p[1] == '\0' || isblank((unsigned char)p[1])))
            return true;
    }
    return false;
}

/* What stands around a value by mistake, whatever its kind; NULL: nothing. */
static const char *config_check_edges(const char *v)
{
    static const char *const quotes[] = {"\u201c", "\u201d", "\u201e", "\u2018",
                                         "\u2019", "\u00ab", "\u00bb"};
    size_t len = strlen(v);

    for (size_t i = 0; i < ARRAY_SIZE(quotes); i++) {
        size_t n = strlen(quotes[i]);

        if (strncmp(v, quotes[i], n) == 0 || (len >= n && strcmp(v + len - n, quotes[i]) == 0))
            return "has typographic quotes; write \" or ', or none";
    }
    if (strncmp(v, "\u00a0", 2) == 0 || (len >= 2 && strcmp(v + len - 2, "\u00a0") == 0))
        return "has a no-break space at its edge; remove it";
    if (isblank((unsigned char)v[0]) || isblank((unsigned char)v[len - 1]))
        return "has a blank within its quotes, at the edge; remove it";
    return NULL;
}

static void config_set_text(const struct config_setting *s, const char *v, struct tb_config *c,
                            struct tb_findings *f)
{
    bool hidden = s->kind == KIND_COMMAND || s->kind == KIND_SECRET;
    const char *why =
        config_printable(v) ? config_check_text(s, v, c) : "must not contain control characters";
    char shown[80], **field = (char **)((char *)c + s->offset);

    if (!why) {
        free(*field);
        *field = strdup(v);
    } else if (hidden) {
        config_bad(f, s, "its value, which is not shown, %s", why);
    } else {
        config_bad(f, s, "\"%s\" %s", config_printable(v) ? tb_url_redact(v, shown, sizeof(shown)) : "...",
                   why);
    }
}

static const char *const delivery_names[] = {[TB_DELIVERY_DIR] = "dir",
                                             [TB_DELIVERY_FIFO] = "fifo",
                                             [TB_DELIVERY_VIEW] = "view",
                                             [TB_DELIVERY_S3] = "s3",
                                             [TB_DELIVERY_AUTO] = "auto"};

const char *tb_delivery_name(enum tb_delivery d)
{
    return delivery_names[d];
}

static int config_delivery_parse(const char *v, enum tb_delivery *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(delivery_names); i++)
        if (strcmp(v, delivery_names[i]) == 0) {
            *ret = (enum tb_delivery)i;
            return 0;
        }
    return -EINVAL;
}

static void config_set_word(const struct config_setting *s, const char *v, struct tb_config *c,
                            struct tb_findings *f)
{
    int level;

    if (s->kind == KIND_DELIVERY) {
        if (config_delivery_parse(v, &c->delivery) < 0)
            config_bad(f, s, "\"%.40s\" must be auto, dir, view, s3 or fifo", v);
        return;
    }
    if (s->kind == KIND_AFTER_READY) {
        c->view_close = strcmp(v, "close") == 0;
        if (!c->view_close && strcmp(v, "keep") != 0)
            config_bad(f, s, "\"%.40s\" must be keep or close", v);
        return;
    }
    level = tb_log_level_from_string(v);
    if (level < 0)
        config_bad(f, s, "\"%.40s\" must be debug, info, warn or error", v);
    else
        c->log_level = level;
}

void config_rule_apply(const struct config_setting *s, const char *v, struct tb_config *c,
                       struct tb_findings *f)
{
    const char *edges = config_check_edges(v);
    void *field = (char *)c + s->offset;

    if (edges) {
        config_bad(f, s, "the value %s", edges);
        return;
    }
    if (config_has_comment(s, v)) {
        config_bad(f, s,
                   "the value has a remark behind it, which is taken for a part of it; put the remark "
                   "on a line of its own");
        if (s->kind != KIND_COMMAND) /* whose program is looked at all the same */
            return;
    }
    switch (s->kind) {
    case KIND_BOOL:
        if (tb_bool_parse(v, field) < 0)
            config_bad(f, s, "\"%.40s\" must be true or false (1, yes, on; 0, no, off)", v);
        break;
    case KIND_UINT:
    case KIND_UINT32:
        config_set_number(s, v, field, f);
        break;
    case KIND_DURATION:
        config_set_duration(s, v, field, f);
        break;
    case KIND_DIMENSIONS:
        config_set_dimensions(s, v, field, f);
        break;
    case KIND_DELIVERY:
    case KIND_AFTER_READY:
    case KIND_LEVEL:
        config_set_word(s, v, c, f);
        break;
    default:
        config_set_text(s, v, c, f);
    }
}
