/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/submitter/marketplace.h"

#include <string.h>

#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"
#include "metering/answer.h"

#define MARKETPLACE_AUDIENCE "20e940b3-4c77-4b0b-9a53-9e16a1b010a7"
#define MARKETPLACE_API "/api/batchUsageEvent?api-version=2018-08-31"
#define MARKETPLACE_RENEW_S 300 /* before the token ends */
#define MARKETPLACE_TIMEOUT_MS 15000
#define MARKETPLACE_CONNECT_MS 5000

static bool marketplace_url_valid(const char *url, bool *ret_http)
{
    static const char may[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:/";

    *ret_http = strncmp(url, "http://127.0.0.1:", 17) == 0;
    return (*ret_http || (strncmp(url, "https://", 8) == 0 && url[8])) && !url[strspn(url, may)];
}

int cp_marketplace_init(struct cp_marketplace *m, const struct cp_marketplace_settings *s,
                        char err[static CP_MARKETPLACE_ERR_MAX])
{
    bool http, authority_http;

    *m = (struct cp_marketplace){.set = *s};
    if (!marketplace_url_valid(s->url, &http)) {
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "'%.100s' is not https://HOST, of the metering API", s->url);
        return -EINVAL;
    }
    m->set.tls.allow_http = http;
    if (!s->tenant)
        return 0;
    if (!marketplace_url_valid(s->authority, &authority_http)) {
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "AZURE_AUTHORITY_HOST: '%.100s' is not https://HOST",
                 s->authority);
        return -EINVAL;
    }
    if (!tb_azure_tenant_valid(s->tenant)) {
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "'%.100s' is not the id or a domain of a tenant", s->tenant);
        return -EINVAL;
    }
    return 0;
}

void cp_marketplace_drop_token(struct cp_marketplace *m)
{
    tb_secret_free(m->bearer);
    m->bearer = NULL;
}

void cp_marketplace_clear(struct cp_marketplace *m)
{
    cp_marketplace_drop_token(m);
}

static int marketplace_token(struct cp_marketplace *m, struct tb_azure_token *ret, char *err)
{
    const struct cp_marketplace_settings *s = &m->set;
    struct tb_http_tls tls = s->tls;

    if (!s->tenant)
        return tb_azure_identity_token(MARKETPLACE_AUDIENCE, s->client_id, ret, err);
    tls.allow_http = strncmp(s->authority, "http://", 7) == 0;
    return tb_azure_principal_token(
        &(struct tb_azure_principal){s->authority, s->tenant, s->client_id, s->secret},
        MARKETPLACE_AUDIENCE "/.default", &tls, ret, err);
}

int cp_marketplace_authenticate(struct cp_marketplace *m, char err[static CP_MARKETPLACE_ERR_MAX])
{
    struct tb_azure_token t = {0};
    char why[TB_AZURE_ERR_MAX];
    uint64_t s;
    int r;

    if (m->bearer && tb_now_monotonic_us() < m->renew_us)
        return 0;
    cp_marketplace_drop_token(m);
    r = marketplace_token(m, &t, why);
    if (r < 0) {
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "no token for the metering API: %s", why);
        return r;
    }
    m->bearer = tb_secret_alloc(strlen(t.text) + 32);
    if (m->bearer)
        sprintf(m->bearer, "Authorization: Bearer %s", t.text);
    else
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "out of memory");
    tb_secret_free(t.text);
    s = t.lifetime_s > 2 * MARKETPLACE_RENEW_S ? t.lifetime_s - MARKETPLACE_RENEW_S : t.lifetime_s / 2;
    m->renew_us = tb_now_monotonic_us() + s * TB_USEC_PER_SEC;
    return m->bearer ? 0 : -ENOMEM;
}

int cp_marketplace_post(struct cp_marketplace *m, const char *body, const char *request_id,
                        struct tb_http_response *ret, bool *ret_reached, char err[static TB_HTTP_ERR_MAX])
{
    size_t n = strlen(m->set.url);
    _cleanup_free_ char *url =
        tb_strf("%.*s" MARKETPLACE_API, (int)(m->set.url[n - 1] == '/' ? n - 1 : n), m->set.url);
    _cleanup_free_ char *id = tb_strf("x-ms-requestid: %s", request_id),
                        *of = tb_strf("x-ms-correlationid: %s", request_id);
    const char *const headers[] = {"Content-Type: application/json", m->bearer, id, of, NULL};
    const struct tb_http_request rq = {.method = "POST",
                                       .url = url,
                                       .headers = headers,
                                       .body = body,
                                       .body_len = strlen(body),
                                       .max_response = TB_METERING_ANSWER_MAX,
                                       .timeout_ms = MARKETPLACE_TIMEOUT_MS,
                                       .connect_timeout_ms = MARKETPLACE_CONNECT_MS,
                                       .tls = &m->set.tls,
                                       .ret_reached = ret_reached};

    *ret_reached = false;
    if (url && id && of)
        return tb_http_do(&rq, ret, err);
    snprintf(err, TB_HTTP_ERR_MAX, "out of memory");
    return -ENOMEM;
}
