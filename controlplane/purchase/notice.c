/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/purchase/notice.h"

#include <ctype.h>
#include <string.h>

#include "common/text.h"
#include "common/units.h"

#define NOTICE_MAX (64 * 1024)
#define NOTICE_WORD_MAX ((CP_EVENT_MAX - 1) / 2)

/* "" when it is no string. */
static const char *notice_text(const cJSON *o, const char *name)
{
    const cJSON *m = o ? tb_json_member(o, name) : NULL;

    return cJSON_IsString(m) ? m->valuestring : "";
}

int cp_source_read(const char *text, char ret[static CP_SOURCE_MAX + 1])
{
    size_t n = strlen(text);

    ret[0] = '\0';
    if (n == 0 || n > CP_SOURCE_MAX)
        return -EINVAL;
    for (size_t i = 0, k; i < n; i += k) {
        k = tb_utf8_char(text + i, NULL);
        if (k == 0 || (k == 1 && !isalnum((unsigned char)text[i]) && !strchr("/-_.()", text[i])))
            return -EINVAL;
    }
    for (size_t i = 0; i <= n; i++)
        ret[i] = (char)((unsigned char)text[i] < 0x80 ? tolower((unsigned char)text[i]) : text[i]);
    return 0;
}

void cp_notice_source(const cJSON *plan, const char *definition, char ret[static CP_SOURCE_MAX + 1])
{
    char text[CP_SOURCE_MAX + 2];

    ret[0] = '\0';
    if (*notice_text(plan, "product") && *notice_text(plan, "name"))
        snprintf(text, sizeof(text), "%s/%s/%s", notice_text(plan, "publisher"), notice_text(plan, "product"),
                 notice_text(plan, "name"));
    else if (definition && *definition)
        snprintf(text, sizeof(text), "%s%s", *definition == '/' ? "" : "/", definition);
    else
        return;
    (void)cp_source_read(text, ret);
}

int cp_plan_read(const char *plan, char ret[static CP_SOURCE_MAX + 1])
{
    const char *product = strchr(plan, '/'), *name = product ? strchr(product + 1, '/') : NULL;

    if (!name || product == plan || name == product + 1 || !name[1] || strchr(name + 1, '/'))
        return -EINVAL;
    return cp_source_read(plan, ret);
}

int cp_definition_read(const char *id, char ret[static CP_SOURCE_MAX + 1])
{
    return *id == '/' ? cp_source_read(id, ret) : -EINVAL;
}

bool cp_subscription_valid(const char *s)
{
    for (int i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
            return false;
    return !s[36];
}

void cp_notice_usage_id(const cJSON *o, char ret[static CP_USAGE_ID_MAX + 1])
{
    const char *id = notice_text(tb_json_member(o, "billingDetails"), "resourceUsageId");

    ret[0] = '\0';
    if (strlen(id) <= CP_USAGE_ID_MAX && !id[strspn(id, "0123456789abcdefABCDEF-")])
        strcpy(ret, id);
}

/* A word of letters; so many as no real one has. */
static int notice_word(const cJSON *o, const char *name, const char **ret, char *err)
{
    int r = tb_json_get_string(o, name, ret, err);

    if (r < 0)
        return r;
    for (const char *s = *ret; *s; s++)
        if (!isalpha((unsigned char)*s))
            r = -EINVAL;
    if (r < 0 || !**ret || strlen(*ret) > NOTICE_WORD_MAX) {
        snprintf(err, TB_JSON_ERR_MAX, "%s is not a word", name);
        return -EINVAL;
    }
    return 0;
}

static int notice_read(const cJSON *j, uint64_t now_us, struct cp_notice *n, char *err)
{
    const char *type, *state, *application;
    const cJSON *error = tb_json_member(j, "error");
    int r = notice_word(j, "eventType", &type, err);

    if (r == 0)
        r = notice_word(j, "provisioningState", &state, err);
    if (r == 0)
        r = tb_json_get_string(j, "applicationId", &application, err);
    if (r < 0)
        return r;
    if (tb_application_read(application, n->application_id) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "applicationId is not the id of a managed application");
        return -EINVAL;
    }
    snprintf(n->event, sizeof(n->event), "%s %s", type, state);
    if (tb_rfc3339_parse(notice_text(j, "eventTime"), &n->event_us) < 0)
        n->event_us = now_us;
    cp_notice_source(tb_json_member(j, "plan"), notice_text(j, "applicationDefinitionId"), n->source);
    cp_notice_usage_id(j, n->resource_usage_id);
    if (cJSON_IsObject(error))
        snprintf(n->detail, sizeof(n->detail), "%.60s: %.160s", notice_text(error, "code"),
                 notice_text(error, "message"));
    tb_text_plain(n->detail);
    return 0;
}

int cp_notice_parse(const char *body, size_t len, uint64_t now_us, struct cp_notice *ret,
                    char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *j = NULL;
    struct cp_notice n = {0};
    int r = -EBADMSG;

    snprintf(err, TB_JSON_ERR_MAX, "the body is not a JSON object");
    if (len > 0)
        r = tb_json_parse(body, len, NOTICE_MAX, &j, err);
    if (r == 0 && !cJSON_IsObject(j))
        r = -EBADMSG;
    if (r == 0)
        r = notice_read(j, now_us, &n, err);
    tb_text_plain(err);
    if (r == 0)
        *ret = n;
    return r;
}
