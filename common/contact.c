/* SPDX-License-Identifier: Apache-2.0 */
#include "common/contact.h"

#include <string.h>

#include "common/domain_file.h"
#include "common/json.h"
#include "common/units.h"

static int contact_add_time(cJSON *o, const char *name, uint64_t real_us)
{
    char text[TB_RFC3339_MAX];

    if (real_us == 0)
        return 0;
    return cJSON_AddStringToObject(o, name, tb_rfc3339_format(real_us, 0, text)) ? 0 : -ENOMEM;
}

static int contact_add_certificate(cJSON *doc, const char *name, const struct tb_certificate *c)
{
    cJSON *o;

    if (!c->path[0])
        return 0;
    o = cJSON_AddObjectToObject(doc, name);
    if (!o || !cJSON_AddStringToObject(o, "path", c->path) ||
        (c->error[0] && !cJSON_AddStringToObject(o, "error", c->error)))
        return -ENOMEM;
    return contact_add_time(o, "not_before", c->from_us) < 0 ? -ENOMEM
                                                             : contact_add_time(o, "expires_at", c->until_us);
}

int tb_contact_write(const char *dir, const struct tb_contact *c)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddBoolToObject(o, "reachable", c->reachable) ||
        !cJSON_AddStringToObject(o, "reason", c->reason) ||
        tb_json_add_uint(o, "failures", c->failures) < 0 ||
        contact_add_time(o, "asked_at", c->asked_real_us) < 0 ||
        tb_json_add_uint(o, "asked_boottime_us", c->asked_boot_us) < 0)
        return -ENOMEM;
    if (c->date_real_us > 0 && (contact_add_time(o, "date", c->date_real_us) < 0 ||
                                tb_json_add_uint(o, "date_boottime_us", c->date_boot_us) < 0))
        return -ENOMEM;
    if (contact_add_certificate(o, "client_cert", &c->client) < 0 ||
        contact_add_certificate(o, "ca", &c->ca) < 0)
        return -ENOMEM;
    return tb_state_write(dir, TB_CONTACT_NAME, o, 0);
}

static void contact_get_string(const cJSON *o, const char *name, char *out, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    (void)tb_json_get_string(o, name, &s, err);
    snprintf(out, size, "%s", s);
}

static uint64_t contact_get_time(const cJSON *o, const char *name)
{
    char text[TB_RFC3339_MAX];
    uint64_t us;

    contact_get_string(o, name, text, sizeof(text));
    return tb_rfc3339_parse(text, &us) == 0 ? us : 0;
}

static uint64_t contact_get_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

static void contact_get_certificate(const cJSON *doc, const char *name, struct tb_certificate *ret)
{
    const cJSON *o = tb_json_member(doc, name);

    if (!cJSON_IsObject(o))
        return;
    contact_get_string(o, "path", ret->path, sizeof(ret->path));
    contact_get_string(o, "error", ret->error, sizeof(ret->error));
    ret->from_us = contact_get_time(o, "not_before");
    ret->until_us = contact_get_time(o, "expires_at");
}

int tb_contact_read(const char *dir, const char *name, struct tb_contact *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    int r = tb_state_read_at(dir, name, &o);

    *ret = (struct tb_contact){0};
    if (r < 0)
        return r;
    *ret = (struct tb_contact){
        .known = true,
        .reachable = cJSON_IsTrue(tb_json_member(o, "reachable")),
        .failures = contact_get_uint(o, "failures"),
        .asked_real_us = contact_get_time(o, "asked_at"),
        .asked_boot_us = contact_get_uint(o, "asked_boottime_us"),
        .date_real_us = contact_get_time(o, "date"),
        .date_boot_us = contact_get_uint(o, "date_boottime_us"),
    };
    contact_get_string(o, "reason", ret->reason, sizeof(ret->reason));
    contact_get_certificate(o, "client_cert", &ret->client);
    contact_get_certificate(o, "ca", &ret->ca);
    return 0;
}

bool tb_contact_clock_offset(const struct tb_contact *c, uint64_t now_real_us, uint64_t now_boot_us,
                             double *ret)
{
    uint64_t should;

    if (c->date_real_us == 0 || now_boot_us < c->date_boot_us)
        return false;
    should = c->date_real_us + TB_USEC_PER_SEC / 2 + (now_boot_us - c->date_boot_us);
    *ret = ((double)now_real_us - (double)should) / 1e6;
    return true;
}
