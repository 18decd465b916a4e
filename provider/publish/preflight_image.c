/* SPDX-License-Identifier: Apache-2.0 */
/* The part of preflight.h that is about the image: the programs that build it, and the registries. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "provider/cli/tool.h"
#include "provider/publish/preflight.h"

#define AUTH_FILE_MAX (1 << 20)
#define REGISTRY_TIMEOUT_MS 20000

/* -- asking a registry ------------------------------------------------------------------------- */

/* host[:port], and what is behind its '/': a path, or NULL. */
static char *image_host(const char *registry, const char **ret_path)
{
    size_t n = strcspn(registry, "/");

    *ret_path = registry[n] == '/' ? registry + n + 1 : NULL;
    return strndup(registry, n);
}

/* 0 with an answer of any status. */
static int image_get(const struct preflight *p, const char *host, const char *path, long *ret_status,
                     char err[static TB_HTTP_ERR_MAX])
{
    static const char *const headers[] = {
        "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
        "application/vnd.docker.distribution.manifest.list.v2+json, "
        "application/vnd.docker.distribution.manifest.v2+json",
        NULL};
    const struct tb_http_tls tls = {.allow_http = p->insecure_registry};
    const char *scheme = p->insecure_registry ? "http" : "https"; /* buildah tries both */
    int r = -ENOMEM;

    for (int i = 0; i < (p->insecure_registry ? 2 : 1); i++, scheme = "https") {
        _cleanup_http_response_ struct tb_http_response rs = {0};
        _cleanup_free_ char *url = tb_strf("%s://%s/v2/%s", scheme, host, path);
        const struct tb_http_request rq = {.url = url,
                                           .headers = headers,
                                           .max_response = 4 << 20,
                                           .timeout_ms = REGISTRY_TIMEOUT_MS,
                                           .tls = &tls};

        r = url ? tb_http_do(&rq, &rs, err) : -ENOMEM;
        *ret_status = rs.status;
        if (r == 0)
            return 0;
    }
    return r;
}

/* -- logins ------------------------------------------------------------------------------------ */

/* Whether buildah would find a login for the host there: one of its own, or a helper that is asked. */
static bool image_login_in(const char *file, const char *host)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    char why[TB_JSON_ERR_MAX];
    const cJSON *i;
    size_t len, n = strlen(host);

    if (tb_read_file(file, AUTH_FILE_MAX, &text, &len) < 0 ||
        tb_json_parse(text, len, AUTH_FILE_MAX, &doc, why) < 0)
        return false;
    if (tb_json_member(doc, "credsStore") || tb_json_member(tb_json_member(doc, "credHelpers"), host))
        return true;
    cJSON_ArrayForEach (i, tb_json_member(doc, "auths")) {
        const char *name = i->string ? i->string : "";

        name += strncmp(name, "https://", 8) == 0 ? 8 : 0;
        if (strncmp(name, host, n) == 0 && (name[n] == '\0' || name[n] == '/'))
            return true;
    }
    return false;
}

/* The places of containers-auth.json(5). */
static bool image_is_logged_in(const char *host)
{
    const char *named = getenv("REGISTRY_AUTH_FILE"), *run = getenv("XDG_RUNTIME_DIR"),
               *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char *files[5] = {0};
    bool found = false;

    if (named && *named)
        return image_login_in(named, host);
    files[0] = run && *run ? tb_strf("%s/containers/auth.json", run) : NULL;
    files[1] = tb_strf("/run/containers/%u/auth.json", (unsigned)getuid());
    files[2] = xdg && *xdg ? tb_strf("%s/containers/auth.json", xdg) : NULL;
    files[3] = home && *home ? tb_strf("%s/.config/containers/auth.json", home) : NULL;
    files[4] = home && *home ? tb_strf("%s/.docker/config.json", home) : NULL;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        found = found || (files[i] && image_login_in(files[i], host));
        tb_freep(&files[i]);
    }
    return found;
}

/* -- checks ------------------------------------------------------------------------------------ */

static int image_check_registry(struct preflight *p, const char *host, char *detail, size_t size)
{
    char err[TB_HTTP_ERR_MAX], reason[TB_HTTP_ERR_MAX + 100];
    long status = 0;
    int r = image_get(p, host, "", &status, err);

    if (r == -ENOMEM)
        return tbpkg_fail_errno(host, r);
    if (r < 0)
        return tbpkg_fail_as(CLI_UNAVAILABLE, host, err,
                             p->insecure_registry
                                 ? "check --registry and the network"
                                 : "check --registry and the network; a registry without TLS "
                                   "needs --insecure-registry");
    if (status != 200 && status != 401 && status != 403) {
        snprintf(reason, sizeof(reason), "answered %ld to /v2/: it is no registry", status);
        return tbpkg_fail_as(tb_http_status_retryable(status) ? CLI_UNAVAILABLE : CLI_NOT_FOUND, host, reason,
                             "check --registry");
    }
    if (status != 200 && !image_is_logged_in(host)) {
        snprintf(reason, sizeof(reason), "buildah login %s", host);
        return tbpkg_fail_as(CLI_DENIED, host, "wants a login, and there is none", reason);
    }
    snprintf(detail, size, "%s%s", host, status == 200 ? "" : ", with the login that is there");
    return CLI_OK;
}

/* NAME:TAG or NAME@DIGEST of "HOST/NAME...", as the path of a manifest. Heap; NULL: of no certain registry.
 */
static char *image_manifest_path(const char *image, char **ret_host)
{
    const char *path, *tag;
    _cleanup_free_ char *host = image_host(image, &path);

    if (!host || !path || (!strpbrk(host, ".:") && strcmp(host, "localhost") != 0))
        return NULL;
    tag = strchr(path, '@') ? strchr(path, '@') : strrchr(path, ':');
    *ret_host = strcmp(host, "docker.io") == 0 ? strdup("registry-1.docker.io") : TAKE_PTR(host);
    return tag ? tb_strf("%.*s/manifests/%s", (int)(tag - path), path, tag + 1)
               : tb_strf("%s/manifests/latest", path);
}

/* It may also lie in buildah's own storage: what a registry does not have is a warning. */
static void image_check_base(struct preflight *p)
{
    struct finding *k = checklist_begin(&p->list, "base image");
    _cleanup_free_ char *host = NULL, *path = image_manifest_path(p->base, &host);
    char err[TB_HTTP_ERR_MAX];
    long status = 0;

    if (!path || !host) {
        checklist_end(k, CLI_OK, CHECK_UNKNOWN, "%s names no registry", p->base);
        return;
    }
    if (image_get(p, host, path, &status, err) < 0)
        checklist_end(k, CLI_OK, CHECK_WARNING, "%s: %s; only a copy in local storage would do", p->base,
                      err);
    else if (status == 200)
        checklist_end(k, CLI_OK, CHECK_OK, "%s", p->base);
    else if (status == 401 || status == 403)
        checklist_end(k, CLI_OK, CHECK_UNKNOWN, "%s: its registry wants a login to say", p->base);
    else
        checklist_end(k, CLI_OK, CHECK_WARNING,
                      "%s: its registry answered %ld; only a copy in local storage would do", p->base,
                      status);
}

void preflight_image(struct preflight *p)
{
    bool oci = !p->target || strcmp(p->target, "oci") == 0;
    const char *program = oci ? "buildah" : "packer", *path;
    struct finding *k = checklist_begin(&p->list, "builder");
    _cleanup_free_ char *host = NULL;
    char detail[300] = "";

    checklist_end(k, tool_find(program, program), CHECK_OK, "%s", program);
    if (!oci && p->base) {
        k = checklist_begin(&p->list, "base image");
        checklist_end(k, access(p->base, R_OK) < 0 ? tbpkg_fail_errno(p->base, -errno) : CLI_OK, CHECK_OK,
                      "%s", p->base);
    }
    if (!oci)
        return;
    if (p->registry && !p->no_push) {
        k = checklist_begin(&p->list, "registry");
        host = image_host(p->registry, &path);
        checklist_end(k,
                      host ? image_check_registry(p, host, detail, sizeof(detail))
                           : tbpkg_fail_errno(p->registry, -ENOMEM),
                      CHECK_OK, "%s", detail);
    }
    if (p->base)
        image_check_base(p);
}
