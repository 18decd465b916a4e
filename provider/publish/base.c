/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg publish --base: which version the overlay is made on, and its manifest. The control plane says where
 * that lies; a version that is an overlay itself leads to the one that it stands on. */
#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/publish/publish.h"
#include "provider/publish/store.h"
#include "provider/remote/remote.h"

void publish_base_clear(struct publish *p)
{
    tb_freep(&p->base_found);
    tb_freep(&p->base_file);
}

static const cJSON *base_version_of(const cJSON *asset, uint64_t version)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    uint64_t n;

    cJSON_ArrayForEach (v, tb_json_member(asset, "versions")) {
        if (tb_json_get_uint(v, "version", TB_JSON_INT_MAX, &n, err) == 0 && n == version)
            return v;
    }
    return NULL;
}

struct base_place {
    char *url;                /* of the manifest */
    char manifest_sha256[65]; /* as it was registered; "": the control plane knows none */
};

static void base_place_clear(struct base_place *b)
{
    tb_freep(&b->url);
}

static int base_take_place(const cJSON *v, struct base_place *ret)
{
    char err[TB_JSON_ERR_MAX];
    const char *url, *sha256 = "";

    if (!v || tb_json_get_string(v, "manifest_url", &url, err) < 0)
        return -ENOENT;
    (void)tb_json_get_string(v, "manifest_sha256", &sha256, err);
    snprintf(ret->manifest_sha256, sizeof(ret->manifest_sha256), "%s", sha256);
    ret->url = strdup(url);
    return ret->url ? 0 : -ENOMEM;
}

/* The version that was named, or the current one; or what that stands on. */
static int base_choose(const struct publish *p, const cJSON *asset, uint64_t *version, struct base_place *ret)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    uint64_t under;
    int r;

    if (*version == 0 && tb_json_get_uint(asset, "current_version", TB_JSON_INT_MAX, version, err) < 0)
        return tbpkg_fail(p->edc_endpoint, err, "is it a control plane?");
    v = base_version_of(asset, *version);
    if (v && tb_json_get_uint(v, "base_version", TB_JSON_INT_MAX, &under, err) == 0) {
        tbpkg_note(p->cli.quiet, "Version %llu is an overlay on version %llu: taking that as the base.",
                   (unsigned long long)*version, (unsigned long long)under);
        *version = under;
        v = base_version_of(asset, under);
    }
    r = base_take_place(v, ret);
    if (r == -ENOENT)
        return tbpkg_failf(p->asset_id, "has no version %llu at %s; tbpkg asset show says which there are",
                           (unsigned long long)*version, p->edc_endpoint);
    return r < 0 ? tbpkg_fail_errno("publish", r) : CLI_OK;
}

static int base_ask(const struct publish *p, uint64_t *version, struct base_place *ret)
{
    struct remote r = {.cli = &p->cli,
                       .endpoint = p->edc_endpoint,
                       .token_file = p->token_file,
                       .cert = p->cert,
                       .cert_key = p->cert_key,
                       .ca_file = p->ca_file,
                       .insecure = p->insecure};
    _cleanup_free_ char *path = remote_path("assets", p->asset_id);
    _cleanup_json_ cJSON *asset = NULL;
    int rc = remote_check(&r);

    if (rc == CLI_OK)
        rc = remote_open(&r, true);
    if (rc == CLI_OK)
        rc = remote_get(&r, path, &(struct remote_object){.kind = "asset", .name = p->asset_id}, &asset);
    if (rc == CLI_OK)
        rc = base_choose(p, asset, version, ret);
    remote_clear(&r);
    return rc;
}

static int base_fetch(struct publish *p, const struct base_place *at)
{
    const char *url = at->url;
    char sha256[BLOB_SHA256_HEX + 1];
    struct asset_store s = ASSET_STORE_INIT;
    _cleanup_free_ char *text = NULL;
    size_t len = 0, n = 0;
    int r, rc;

    s.cli = &p->cli;
    s.account = p->account;
    s.container = p->container;
    s.asset_id = p->asset_id;
    s.endpoint = p->blob_endpoint;
    s.ca_file = p->ca_file;
    s.credentials = (struct azure_auth_options){.connection_string_file = p->connection_string_file,
                                                .account_key_file = p->account_key_file,
                                                .sas_file = p->sas_file};
    rc = store_connect(&s);
    n = rc == CLI_OK ? strlen(s.service.url) : 0;
    if (rc == CLI_OK && (strncmp(url, s.service.url, n) != 0 || url[n] != '/'))
        rc = tbpkg_failf(url, "does not lie in %s; fetch it and name it by --base-manifest", s.service.url);
    if (rc == CLI_OK)
        rc = store_fetch(&s, url + n + 1, TBENC_MANIFEST_MAX, &text, &len);
    store_clear(&s);
    if (rc != CLI_OK)
        return rc;
    if (store_sha256(text, len, sha256) < 0)
        return tbpkg_fail_errno(url, -EIO);
    if (*at->manifest_sha256 && strcmp(sha256, at->manifest_sha256) != 0)
        return tbpkg_fail(url, "is not the manifest that was registered: its SHA-256 is another",
                          "put the registered one back, and find out who replaced it");
    tb_newfile_sweep(p->base_file); /* of a run that was killed */
    r = tb_write_file_atomic(p->base_file, text, len, 0644);
    return r < 0 ? tbpkg_fail_errno(p->base_file, r) : CLI_OK;
}

int publish_base_find(struct publish *p)
{
    const char *at = strrchr(p->under, '@');
    uint64_t version = 0;
    _cleanup_(base_place_clear) struct base_place at_place = {0};
    int rc = CLI_OK;

    if (at && tb_uint_parse(at + 1, 1, TB_JSON_INT_MAX, &version) < 0)
        return tbpkg_failf(p->under, "is not a version of asset '%s', as in %s@1", p->asset_id, p->asset_id);
    if (p->base_manifest) {
        p->base_file = strdup(p->base_manifest);
        if (version == 0)
            return tbpkg_failf(p->under, "names no version, as in %s@1", p->asset_id);
    } else {
        p->base_file = tb_path_join(p->encrypted, "base.manifest.json");
        rc = p->base_file ? base_ask(p, &version, &at_place) : CLI_OK;
        if (rc == CLI_OK && p->base_file)
            rc = base_fetch(p, &at_place);
    }
    if (rc != CLI_OK)
        return rc;
    p->base_found = tb_strf("%s@%llu", p->asset_id, (unsigned long long)version);
    return p->base_file && p->base_found ? CLI_OK : tbpkg_fail_errno("publish", -ENOMEM);
}
