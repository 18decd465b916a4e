/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/document.h"

#include <stdarg.h>
#include <string.h>

#include "common/envfile.h"
#include "common/text.h"
#include "common/units.h"

#define VALUE_MAX 1024
#define CREDENTIAL_MAX 32768
#define CREDENTIALS "/run/credentials/tb-proxy.service/"

/* docs/closed-image.md says of each setting why it is one of these, or none. */
#define APPLICATION "TB_BILLING_RESOURCE_ID"
static const char *const allowed_settings[] = {"TB_CONTRACT_ID", "TB_ASSET_ID",  "TB_PUBLIC_ADDR",
                                               "TB_HEALTH_ADDR", "TB_LOG_LEVEL", APPLICATION};

/* setting: what then names the file, or NULL. */
static const struct {
    const char *name, *setting;
} allowed_credentials[PROVISION_CREDENTIALS] = {{"client-cert", NULL},     {"client-key", NULL},
                                                {"enrolment-code", NULL},  {"tls-cert", "TB_TLS_CERT"},
                                                {"tls-key", "TB_TLS_KEY"}, {"api-keys", "TB_API_KEYS"}};

const char *provision_credential(size_t i)
{
    return allowed_credentials[i].name;
}

static _printf_(3, 4) int document_fault(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, PROVISION_ERR_MAX, fmt, ap);
    va_end(ap);
    tb_text_plain(err); /* names are quoted: no line of its own in a log */
    return r;
}

void provision_document_clear(struct provision_document *d)
{
    tb_json_freep(&d->json);
    *d = (struct provision_document){0};
}

/* It stands between single quotes on a line of its own. */
static bool value_is_plain(const char *s)
{
    size_t n = strlen(s);

    for (const char *p = s; *p; p++)
        if (*p < ' ' || *p >= 0x7f || *p == '\'' || *p == '\\')
            return false;
    return n <= VALUE_MAX;
}

static bool setting_is_allowed(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(allowed_settings); i++)
        if (strcmp(allowed_settings[i], name) == 0)
            return true;
    return false;
}

static int document_check_settings(const cJSON *o, char *err)
{
    const cJSON *m;

    if (o && !cJSON_IsObject(o))
        return document_fault(err, -EBADMSG, "\"settings\" is no object");
    cJSON_ArrayForEach (m, o) {
        if (!setting_is_allowed(m->string))
            return document_fault(
                err, -EPERM,
                "\"%.60s\" is not for instance metadata to say: it comes from the image, or is no "
                "setting; leave it out of the document",
                m->string);
        if (!cJSON_IsString(m) || !value_is_plain(m->valuestring))
            return document_fault(err, -EBADMSG,
                                  "%s is not a string of at most %d printable characters without ' and \\",
                                  m->string, VALUE_MAX);
    }
    return 0;
}

static bool credential_is_text(const char *s)
{
    size_t n = strlen(s);

    for (const char *p = s; *p; p++)
        if ((*p < ' ' && *p != '\n' && *p != '\r') || *p >= 0x7f)
            return false;
    return n > 0 && n <= CREDENTIAL_MAX;
}

static int document_check_credentials(const cJSON *o, char *err)
{
    const cJSON *m;

    if (o && !cJSON_IsObject(o))
        return document_fault(err, -EBADMSG, "\"credentials\" is no object");
    cJSON_ArrayForEach (m, o) {
        bool is = false;

        for (size_t i = 0; i < ARRAY_SIZE(allowed_credentials); i++)
            is |= strcmp(allowed_credentials[i].name, m->string) == 0;
        if (!is)
            return document_fault(err, -EPERM, "\"%.60s\" is no credential that instance metadata may give",
                                  m->string);
        if (!cJSON_IsString(m) || !credential_is_text(m->valuestring))
            return document_fault(err, -EBADMSG, "the credential %s is not a text of at most %d bytes",
                                  m->string, CREDENTIAL_MAX);
    }
    return 0;
}

int provision_parse(const char *buf, size_t len, struct provision_document *ret,
                    char err[static PROVISION_ERR_MAX])
{
    char why[TB_JSON_ERR_MAX] = "";
    const cJSON *m;
    uint64_t version;
    int r;

    *ret = (struct provision_document){0};
    r = tb_json_parse(buf, len, PROVISION_DOCUMENT_MAX, &ret->json, why);
    if (r < 0) /* the parser may quote what it stumbled over */
        return document_fault(err, r == -ENOMEM ? r : -EBADMSG, "is not one JSON object of at most %d bytes",
                              PROVISION_DOCUMENT_MAX);
    if (!cJSON_IsObject(ret->json) || tb_json_get_uint(ret->json, "trustbridge", 1, &version, why) < 0 ||
        version != 1)
        r = document_fault(err, -EBADMSG, "is no object with \"trustbridge\":1");
    cJSON_ArrayForEach (m, ret->json) {
        if (r == 0 && strcmp(m->string, "trustbridge") != 0 && strcmp(m->string, "settings") != 0 &&
            strcmp(m->string, "credentials") != 0)
            r = document_fault(err, -EBADMSG, "\"%.60s\" is unknown", m->string);
    }
    ret->settings = tb_json_member(ret->json, "settings");
    ret->credentials = tb_json_member(ret->json, "credentials");
    if (r == 0)
        r = document_check_settings(ret->settings, err);
    if (r == 0)
        r = document_check_credentials(ret->credentials, err);
    if (r < 0)
        provision_document_clear(ret);
    return r;
}

int provision_check_image(const char *image, size_t len, const struct provision_document *d,
                          char err[static PROVISION_ERR_MAX])
{
    _cleanup_envfile_ struct tb_envfile e = {0};
    const struct tb_envfile_entry *v;
    bool bills;

    if (!tb_json_member(d->settings, APPLICATION))
        return 0;
    if (tb_envfile_parse(image, len, &e) < 0)
        return document_fault(err, -ENOMEM, "cannot be compared with the image's settings: out of memory");
    v = tb_envfile_find(&e, "TB_BILLING_ENABLED");
    if (!v || !v->value || !*v->value || (tb_bool_parse(v->value, &bills) == 0 && !bills))
        return 0;
    return document_fault(err, -EPERM,
                          "\"" APPLICATION "\" is not for instance metadata to say where the image bills by "
                          "itself (TB_BILLING_ENABLED): it is the application of the machine's resource "
                          "group; leave it out of the document, and name the contract by its own id");
}

/* A quote that stays open would take what is added for its value. */
static int settings_check_image(const char *image, size_t len)
{
    _cleanup_envfile_ struct tb_envfile e = {0};
    int r = tb_envfile_parse(image, len, &e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < e.n; i++)
        if (e.v[i].unclosed || !e.v[i].value)
            return -EINVAL;
    return e.nul || e.not_utf8 ? -EINVAL : 0;
}

int provision_settings(const char *image, size_t len, const struct provision_document *d, struct tb_buf *ret)
{
    const cJSON *m;
    int r = settings_check_image(image, len);

    if (r < 0)
        return r;
    (void)tb_buf_append(ret, image, len);
    (void)tb_buf_puts(ret, "\n\n# From the instance metadata, by tb-provision.\n");
    cJSON_ArrayForEach (m, d->settings) {
        (void)tb_buf_puts(ret, m->string);
        (void)tb_buf_puts(ret, "='");
        (void)tb_buf_puts(ret, m->valuestring);
        (void)tb_buf_puts(ret, "'\n");
    }
    for (size_t i = 0; i < ARRAY_SIZE(allowed_credentials); i++)
        if (allowed_credentials[i].setting && tb_json_member(d->credentials, allowed_credentials[i].name))
            (void)tb_buf_printf(ret, "%s=" CREDENTIALS "%s\n", allowed_credentials[i].setting,
                                allowed_credentials[i].name);
    return tb_buf_error(ret);
}
