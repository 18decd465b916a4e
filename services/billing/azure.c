/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/azure.h"

#include <errno.h>
#include <string.h>

#include "metering/answer.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define TIMEOUT_MS 15000
#define CONNECT_MS 5000
#define TOKEN_MARGIN_S 300

void tb_azure_init(struct tb_azure *a, const struct tb_config *cfg)
{
    *a = (struct tb_azure){.cfg = cfg, .tls = {.ca_file = cfg->ca_file, .allow_http = cfg->insecure_http}};
    if (cfg->billing_resource_id)
        a->resource = strdup(cfg->billing_resource_id);
}

void tb_azure_drop_token(struct tb_azure *a)
{
    tb_erase_stringp(&a->token);
}

void tb_azure_clear(struct tb_azure *a)
{
    tb_azure_drop_token(a);
    tb_freep(&a->resource);
}

/* An endpoint without its trailing slashes, and a path. */
static char *azure_url(const char *endpoint, const char *path)
{
    size_t n = strlen(endpoint);

    while (n > 0 && endpoint[n - 1] == '/')
        n--;
    return tb_strf("%.*s%s", (int)n, endpoint, path);
}

static int azure_out_of_memory(char *err)
{
    snprintf(err, TB_HTTP_ERR_MAX, "out of memory");
    return -ENOMEM;
}

/* GET of the instance metadata service: plain HTTP, never through a proxy. */
static int azure_get_imds(struct tb_azure *a, const char *path, const char *remedy,
                          struct tb_http_response *ret, char *err)
{
    static const char *const headers[] = {"Metadata: true", NULL};
    static const struct tb_http_tls plain = {.allow_http = true};
    _cleanup_free_ char *url = azure_url(a->cfg->imds_endpoint, path);
    const struct tb_http_request rq = {.url = url,
                                       .headers = headers,
                                       .tls = &plain,
                                       .direct = true,
                                       .timeout_ms = TIMEOUT_MS,
                                       .connect_timeout_ms = CONNECT_MS};
    int r = url ? tb_http_do(&rq, ret, err) : azure_out_of_memory(err);

    if (r < 0 || ret->status == 200)
        return r;
    snprintf(err, TB_HTTP_ERR_MAX, "%s: the instance metadata service answered %ld; %s",
             a->cfg->imds_endpoint, ret->status, remedy);
    return -EACCES;
}

/* resource is the audience, already fit for a query. */
static int azure_get_token(struct tb_azure *a, const char *resource, char **ret, uint64_t *ret_seconds,
                           char *err)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_free_ char *path =
        tb_strf("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%s", resource);
    int r;

    if (!path)
        return azure_out_of_memory(err);
    r = azure_get_imds(a, path, "does the machine have a managed identity?", &rs, err);
    if (r < 0)
        return r;
    r = tb_metering_answer_token(rs.body, rs.len, ret, ret_seconds);
    if (r < 0)
        snprintf(err, TB_HTTP_ERR_MAX, "%s: the token of the machine's identity makes no sense",
                 a->cfg->imds_endpoint);
    return r;
}

int tb_azure_authenticate(struct tb_azure *a, char err[static TB_HTTP_ERR_MAX])
{
    uint64_t seconds;
    int r;

    if (a->token && tb_now_boottime_us() < a->token_until_us)
        return 0;
    tb_azure_drop_token(a);
    r = azure_get_token(a, TB_METERING_AUDIENCE, &a->token, &seconds, err);
    if (r == 0)
        a->token_until_us =
            tb_now_boottime_us() +
            (seconds > TOKEN_MARGIN_S ? seconds - TOKEN_MARGIN_S : seconds / 2) * TB_USEC_PER_SEC;
    return r;
}

static int azure_get_group(struct tb_azure *a, const char *token, const char *subscription, const char *group,
                           struct tb_http_response *ret, char *err)
{
    _cleanup_free_ char *path =
        tb_strf("/subscriptions/%s/resourceGroups/%s?api-version=2021-04-01", subscription, group);
    _cleanup_free_ char *url = path ? azure_url(a->cfg->arm_endpoint, path) : NULL;
    _cleanup_erase_string_ char *bearer = tb_strf("Authorization: Bearer %s", token);
    const char *const headers[] = {bearer, NULL};
    const struct tb_http_request rq = {.url = url,
                                       .headers = headers,
                                       .tls = &a->tls,
                                       .max_response = TB_METERING_ANSWER_MAX,
                                       .timeout_ms = TIMEOUT_MS,
                                       .connect_timeout_ms = CONNECT_MS};
    int r = url && bearer ? tb_http_do(&rq, ret, err) : azure_out_of_memory(err);

    if (r < 0 || ret->status == 200)
        return r;
    snprintf(err, TB_HTTP_ERR_MAX,
             "resource group %.90s: Resource Manager answered %ld; give the machine's identity the role "
             "Reader there or set "
             "TB_BILLING_RESOURCE_ID",
             group, ret->status);
    return -EACCES;
}

/* An audience is a URL with a slash at the end, in a query. ARM's host has nothing to escape but : and /. */
static char *azure_audience(const char *endpoint)
{
    const char *host = strstr(endpoint, "://");
    size_t n = host ? strcspn(host + 3, "/") : 0;

    return host ? tb_strf("%.*s%%3A%%2F%%2F%.*s%%2F", (int)(host - endpoint), endpoint, (int)n, host + 3)
                : NULL;
}

int tb_azure_find_resource(struct tb_azure *a, char err[static TB_HTTP_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response instance = {0}, group = {0};
    _cleanup_free_ char *subscription = NULL, *name = NULL, *arm = azure_audience(a->cfg->arm_endpoint);
    _cleanup_erase_string_ char *token = NULL;
    uint64_t seconds;
    int r;

    if (a->resource)
        return 0;
    if (!arm)
        return azure_out_of_memory(err);
    r = azure_get_imds(a, "/metadata/instance/compute?api-version=2021-02-01", "set TB_BILLING_RESOURCE_ID",
                       &instance, err);
    if (r < 0)
        return r;
    if (tb_metering_answer_instance(instance.body, instance.len, &subscription, &name) < 0) {
        snprintf(err, TB_HTTP_ERR_MAX,
                 "%s: the instance metadata name no resource group; set TB_BILLING_RESOURCE_ID",
                 a->cfg->imds_endpoint);
        return -EBADMSG;
    }
    r = azure_get_token(a, arm, &token, &seconds, err);
    if (r == 0)
        r = azure_get_group(a, token, subscription, name, &group, err);
    if (r < 0)
        return r;
    r = tb_metering_answer_managed_by(group.body, group.len, &a->resource);
    if (r < 0)
        snprintf(err, TB_HTTP_ERR_MAX, "resource group %.90s: %s; set TB_BILLING_RESOURCE_ID", name,
                 r == -ENOENT ? "no managed application owns it" : "what owns it makes no sense");
    return r;
}

int tb_azure_post(struct tb_azure *a, const char *body, const char *request_id, struct tb_http_response *ret,
                  bool *ret_reached, char err[static TB_HTTP_ERR_MAX])
{
    _cleanup_free_ char *url =
        azure_url(a->cfg->metering_endpoint, "/api/batchUsageEvent?api-version=" TB_METERING_API_VERSION);
    _cleanup_free_ char *id = tb_strf("x-ms-requestid: %s", request_id),
                        *of = tb_strf("x-ms-correlationid: %s", request_id);
    _cleanup_erase_string_ char *bearer = tb_strf("Authorization: Bearer %s", a->token);
    const char *const headers[] = {"Content-Type: application/json", bearer, id, of, NULL};
    const struct tb_http_request rq = {.method = "POST",
                                       .url = url,
                                       .headers = headers,
                                       .body = body,
                                       .body_len = strlen(body),
                                       .max_response = TB_METERING_ANSWER_MAX,
                                       .timeout_ms = TIMEOUT_MS,
                                       .connect_timeout_ms = CONNECT_MS,
                                       .tls = &a->tls,
                                       .ret_reached = ret_reached};

    *ret_reached = false;
    return url && id && of && bearer ? tb_http_do(&rq, ret, err) : azure_out_of_memory(err);
}
