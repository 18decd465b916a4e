/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/grant.h"

#include <string.h>

#include "common/hex.h"
#include "common/units.h"
#include "common/usage_report.h"

struct tb_grant *tb_grant_new(void)
{
    return tb_secret_alloc(sizeof(struct tb_grant));
}

void tb_grant_free(struct tb_grant *g)
{
    tb_secret_free(g);
}

int tb_grant_report_key(const struct tb_grant *g, struct tb_key *ret)
{
    if (!g->is_wrapped)
        return tb_report_key(&g->key, ret);
    *ret = g->usage_key;
    return 0;
}

/* Percent-decodes up to '&', '#' or the end. -1 when it does not fit or is malformed. */
static int decode_value(const char *s, char *out, size_t out_len)
{
    size_t n = 0;

    for (; *s && *s != '&' && *s != '#'; s++) {
        char c = *s;

        if (c == '%') {
            int hi = tb_hex_digit(s[1]), lo = hi < 0 ? -1 : tb_hex_digit(s[2]);

            if (lo < 0)
                return -1;
            c = (char)(hi << 4 | lo);
            s += 2;
        }
        if (n + 1 >= out_len || c == '\0')
            return -1;
        out[n++] = c;
    }
    out[n] = '\0';
    return 0;
}

/* Azure also takes "2026-01-08" and "2026-01-08T12:00Z". */
static uint64_t sas_time_parse(const char *s)
{
    char full[TB_RFC3339_MAX];
    size_t n = strlen(s);
    uint64_t us;

    if (n == strlen("2026-01-08"))
        snprintf(full, sizeof(full), "%sT00:00:00Z", s);
    else if (n == strlen("2026-01-08T12:00Z") && s[n - 1] == 'Z')
        snprintf(full, sizeof(full), "%.16s:00Z", s);
    else
        snprintf(full, sizeof(full), "%s", s);
    return tb_rfc3339_parse(full, &us) < 0 ? 0 : us;
}

uint64_t tb_sas_expiry_us(const char *url)
{
    const char *p = strpbrk(url, "?#");
    char value[TB_RFC3339_MAX];

    for (; p && *p != '#'; p = strpbrk(p + 1, "&#"))
        if (strncmp(p + 1, "se=", 3) == 0)
            return decode_value(p + 4, value, sizeof(value)) < 0 ? 0 : sas_time_parse(value);
    return 0;
}
