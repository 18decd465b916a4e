/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/purchase/arm.h"

#include <string.h>
#include <strings.h>

#include "common/percent.h"
#include "common/secret.h"
#include "common/text.h"
#include "controlplane/keys/bearer.h"
#include "controlplane/keys/remote.h"
#include "controlplane/purchase/notice.h"

#define ARM_API "?api-version=2021-07-01"
#define ARM_URL_MAX 200
#define ARM_SERVICE "management.azure.com"
#define ARM_TOKEN_MAX 8192
#define ARM_BODY_MAX (256 * 1024) /* an application has all its parameters in it */

struct cp_arm {
    char url[ARM_URL_MAX + 1], service[ARM_URL_MAX + 1];
    char *client_id, *ca_file;
    struct tb_http_tls tls;
    struct cp_bearer *bearer;
};

static bool arm_host_valid(const char *s)
{
    return *s && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:")];
}

int cp_arm_new(const char *url, const char *client_id, const char *ca_file, struct cp_arm **ret,
               char err[static CP_ARM_ERR_MAX])
{
    bool https = strncmp(url, "https://", 8) == 0, loopback = strncmp(url, "http://127.0.0.1:", 17) == 0;
    const char *host = url + (https ? 8 : 7);
    struct cp_arm *a;

    snprintf(err, CP_ARM_ERR_MAX, "out of memory");
    if ((!https && !loopback) || strlen(url) > ARM_URL_MAX || !arm_host_valid(host)) {
        snprintf(err, CP_ARM_ERR_MAX, "'%.100s' is not https://HOST, of Azure Resource Manager", url);
        return -EINVAL;
    }
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    strcpy(a->url, url);
    /* a cloud of its own has tokens of its own */
    strcpy(a->service, https ? host : ARM_SERVICE);
    a->service[strcspn(a->service, ":")] = '\0';
    a->client_id = client_id ? strdup(client_id) : NULL;
    a->ca_file = ca_file ? strdup(ca_file) : NULL;
    a->tls = (struct tb_http_tls){.ca_file = a->ca_file, .allow_http = loopback};
    a->bearer = cp_bearer_new(a->service, a->client_id);
    if ((client_id && !a->client_id) || (ca_file && !a->ca_file) || !a->bearer) {
        cp_arm_free(a);
        return -ENOMEM;
    }
    *ret = a;
    return 0;
}

struct cp_arm *cp_arm_free(struct cp_arm *a)
{
    if (!a)
        return NULL;
    cp_bearer_free(a->bearer);
    free(a->client_id);
    free(a->ca_file);
    free(a);
    return NULL;
}

/* -- the answer -------------------------------------------------------------------------------- */
static const char *arm_text(const cJSON *o, const char *name)
{
    const cJSON *m = cJSON_IsObject(o) ? tb_json_member(o, name) : NULL;

    return cJSON_IsString(m) ? m->valuestring : "";
}

/* The portal's form gives it as a parameter of the application. A secure one is not told. */
static void arm_read_contract(const cJSON *properties, char out[static TB_ID_MAX + 1])
{
    const cJSON *parameters = tb_json_member(properties, "parameters");
    const cJSON *p = cJSON_IsObject(parameters) ? tb_json_member(parameters, "contractId") : NULL;
    const char *id = arm_text(p, "value");

    if (tb_id_valid(id))
        strcpy(out, id);
}

/* Not of its grammar: "" , and no machine is one of it. */
static void arm_read_group(const cJSON *properties, char out[static TB_APPLICATION_MAX + 1])
{
    const char *group = arm_text(properties, "managedResourceGroupId");
    char text[CP_SOURCE_MAX + 1];

    if (*group == '/' && cp_source_read(group, text) == 0 && strncmp(text, "/subscriptions/", 15) == 0)
        strcpy(out, text);
}

int cp_arm_parse(const char *body, size_t len, struct cp_arm_application *ret,
                 char err[static TB_JSON_ERR_MAX])
{
    struct cp_arm_application a = {.existence = CP_EXISTENCE_FOUND};
    _cleanup_json_ cJSON *j = NULL;
    const cJSON *properties;
    int r = tb_json_parse(body, len, ARM_BODY_MAX, &j, err);

    if (r < 0)
        return r;
    properties = cJSON_IsObject(j) ? tb_json_member(j, "properties") : NULL;
    snprintf(err, TB_JSON_ERR_MAX, "it has no properties.provisioningState");
    if (!cJSON_IsObject(properties) || !*arm_text(properties, "provisioningState"))
        return -EBADMSG;
    snprintf(a.provisioning, sizeof(a.provisioning), "%s", arm_text(properties, "provisioningState"));
    cp_notice_source(tb_json_member(j, "plan"), arm_text(properties, "applicationDefinitionId"), a.source);
    cp_notice_usage_id(properties, a.resource_usage_id);
    arm_read_group(properties, a.managed_group);
    arm_read_contract(properties, a.contract_id);
    *ret = a;
    return 0;
}

/* A 404 for another reason than that the application is not there says nothing of it. */
static bool arm_says_gone(const struct tb_http_response *rs)
{
    static const char *const codes[] = {"ResourceNotFound", "ResourceGroupNotFound", "ApplicationNotFound"};
    _cleanup_json_ cJSON *j = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *code;

    if (rs->status != 404 || tb_json_parse(rs->body, rs->len, ARM_BODY_MAX, &j, why) < 0 ||
        !cJSON_IsObject(j))
        return false;
    code = arm_text(tb_json_member(j, "error"), "code");
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
        if (strcasecmp(code, codes[i]) == 0)
            return true;
    return false;
}

static int arm_judge(const struct tb_http_response *rs, struct cp_arm_application *ret, char *err)
{
    char why[TB_JSON_ERR_MAX];

    if (rs->status == 200 && cp_arm_parse(rs->body, rs->len, ret, why) == 0)
        return 0;
    if (arm_says_gone(rs)) {
        *ret = (struct cp_arm_application){.existence = CP_EXISTENCE_GONE};
        return 0;
    }
    if (rs->status == 200)
        snprintf(err, CP_ARM_ERR_MAX, "Azure Resource Manager's answer is no managed application: %s", why);
    else if (rs->status == 401 || rs->status == 403)
        snprintf(
            err, CP_ARM_ERR_MAX,
            "Azure Resource Manager refuses this machine's identity (%ld): give it Reader in the offer's "
            "authorizations, or set TBCP_PURCHASE_VERIFY=false",
            rs->status);
    else
        snprintf(err, CP_ARM_ERR_MAX, "Azure Resource Manager answers %ld", rs->status);
    return -EAGAIN;
}

static int arm_url(const struct cp_arm *a, const char *application_id, char *out, size_t room)
{
    size_t n = (size_t)snprintf(out, room, "%s", a->url);

    for (const char *s = application_id; *s; s++) {
        if (n + TB_PERCENT_CHAR_MAX + sizeof(ARM_API) > room)
            return -EINVAL;
        n += tb_percent_encode_char(*s, "/", out + n);
    }
    strcpy(out + n, ARM_API);
    return 0;
}

int cp_arm_get(struct cp_arm *a, const char *application_id, struct cp_arm_application *ret,
               char err[static CP_ARM_ERR_MAX])
{
    char url[ARM_URL_MAX + 3 * TB_APPLICATION_MAX + 64], why[TB_AZURE_ERR_MAX], http[TB_HTTP_ERR_MAX];
    int r = arm_url(a, application_id, url, sizeof(url));

    snprintf(err, CP_ARM_ERR_MAX, "the application's id is too long");
    for (int try = 0; r == 0 && try < 2; try++) {
        _cleanup_http_response_ struct tb_http_response rs = {0};
        _cleanup_secret_ char *bearer = cp_bearer_header(a->bearer, try > 0, why);

        if (!bearer) {
            snprintf(err, CP_ARM_ERR_MAX, "no token of this machine's managed identity: %.300s", why);
            return -EAGAIN;
        }
        r = tb_http_do(&(struct tb_http_request){.url = url,
                                                 .headers = (const char *const[]){bearer, NULL},
                                                 .max_response = ARM_BODY_MAX,
                                                 .tls = &a->tls},
                       &rs, http);
        if (r < 0) {
            snprintf(err, CP_ARM_ERR_MAX, "Azure Resource Manager: %s", http);
            return -EAGAIN;
        }
        if (rs.status != 401 || try > 0)
            return arm_judge(&rs, ret, err);
    }
    return -EAGAIN;
}

/* -- machines ----------------------------------------------------------------------------------- */
int cp_arm_token_parse(const char *token, char ret[static TB_APPLICATION_MAX + 1])
{
    const char *payload = strchr(token, '.'), *end = payload ? strchr(payload + 1, '.') : NULL;
    _cleanup_free_ char *text = end ? strndup(payload + 1, (size_t)(end - payload - 1)) : NULL;
    _cleanup_free_ char *json = text ? calloc(1, ARM_TOKEN_MAX + 1) : NULL;
    _cleanup_json_ cJSON *claims = NULL;
    char why[TB_JSON_ERR_MAX], id[CP_SOURCE_MAX + 1];
    size_t n;

    ret[0] = '\0';
    if (!json || strlen(token) > ARM_TOKEN_MAX ||
        cp_remote_decode(text, (uint8_t *)json, ARM_TOKEN_MAX, &n) < 0 ||
        tb_json_parse(json, n, ARM_TOKEN_MAX, &claims, why) < 0 || !cJSON_IsObject(claims) ||
        cp_source_read(arm_text(claims, "xms_mirid"), id) < 0 || strncmp(id, "/subscriptions/", 15) != 0)
        return -EBADMSG;
    strcpy(ret, id);
    return 0;
}

/* Whoever has a token that Resource Manager takes may list the subscriptions that it sees, which may be none.
 * So nobody needs Entra's keys here. */
int cp_arm_identify(struct cp_arm *a, const char *token, char ret[static TB_APPLICATION_MAX + 1],
                    char err[static CP_ARM_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_secret_ char *bearer = tb_secret_alloc(strlen(token) + 32);
    char url[ARM_URL_MAX + 64], http[TB_HTTP_ERR_MAX];

    snprintf(err, CP_ARM_ERR_MAX, "it is no token of a machine's managed identity");
    if (!bearer || token[strcspn(token, " \r\n\t")] || cp_arm_token_parse(token, ret) < 0)
        return -EBADMSG;
    sprintf(bearer, "Authorization: Bearer %s", token);
    snprintf(url, sizeof(url), "%s/subscriptions?api-version=2022-12-01", a->url);
    if (tb_http_do(&(struct tb_http_request){.url = url,
                                             .headers = (const char *const[]){bearer, NULL},
                                             .max_response = ARM_BODY_MAX,
                                             .timeout_ms = 15000,
                                             .tls = &a->tls},
                   &rs, http) < 0) {
        snprintf(err, CP_ARM_ERR_MAX, "Azure Resource Manager: %s", http);
        return -EAGAIN;
    }
    snprintf(err, CP_ARM_ERR_MAX, "Azure Resource Manager answers %ld to the machine's token", rs.status);
    return rs.status == 200 ? 0 : rs.status == 401 ? -EACCES : -EAGAIN;
}

bool cp_arm_is_machine_of(const char *resource, const char *group)
{
    static const char *const kinds[] = {"/providers/microsoft.compute/virtualmachines/",
                                        "/providers/microsoft.compute/virtualmachinescalesets/"};
    size_t n = strlen(group);

    if (n == 0 || strncmp(resource, group, n) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strncmp(resource + n, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}
