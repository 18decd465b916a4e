/* SPDX-License-Identifier: Apache-2.0 */
/* The container image, by Buildah. */
#include <errno.h>
#include <string.h>

#include "common/provider_key.h"
#include "common/units.h"
#include "provider/cli/tool.h"
#include "provider/image/debs.h"
#include "provider/image/image.h"

/* -- options ----------------------------------------------------------------------------------- */

/* Parts of an image's name, as registries want them. */
static bool oci_name_valid(const char *s, const char *more)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789._-", s[i]) && !strchr(more, s[i]))
            return false;
    return n > 0 && n <= 128 && !strchr(".-/:", s[0]);
}

/* Buildah would find a URL's mistake when everything is built, and is to be pushed. */
static bool oci_registry_valid(const char *s)
{
    return oci_name_valid(s, ":/") && !strstr(s, "//") && s[strlen(s) - 1] != '/';
}

int image_oci_check(struct image_build *b)
{
    const struct cli *c = &b->cli;
    int rc = cli_need(c, b->registry, "--registry");

    if (b->registry && !oci_registry_valid(b->registry))
        rc = cli_usage(c, "--registry: a host, perhaps with port and path, not '%s'", b->registry);
    if (!oci_name_valid(b->name, "/"))
        rc = cli_usage(c, "--image-name: letters a-z, digits, '.', '_', '-' and '/', not '%s'", b->name);
    if (!oci_name_valid(b->tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        rc = cli_usage(c, "--tag: letters, digits, '.', '_' and '-', not '%s'", b->tag);
    if (!b->base)
        b->base = IMAGE_DEFAULT_BASE;
    if (*b->base == '\0' || *b->base == '-' || strpbrk(b->base, " \t\n\r\"'\\$"))
        rc = cli_usage(c, "--base-image: the name of a container image, not '%s'", b->base);
    for (size_t i = 0; i < b->labels.n; i++)
        if (!strchr(b->labels.v[i], '=') || b->labels.v[i][0] == '=')
            rc = cli_usage(c, "--label: must be NAME=VALUE");
    if (rc != CLI_OK)
        return rc;
    b->reference = tb_strf("%s/%s:%s", b->registry, b->name, b->tag);
    return b->reference ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

/* -- Containerfile ----------------------------------------------------------------------------- */

/* Two builds: the software, whose layers are kept and used again, and on that what is only said of the image,
 * which is different each time and costs nothing. */

/* The packages are mounted and not copied, so that no layer holds them. Their hash is in the command because
 * Buildah's cache goes by the words of a step and does not look into what is mounted.
 *
 * systemd is the image's first process, as on a machine, after tb-init has looked whether it may do what the
 * units ask. Its units confine the daemons by name spaces, and systemd leaves out, with no more than a
 * warning, what it is not allowed to make: then the runtime would stand in the open. So the units, too, must
 * not start without those rights, whoever is the first process. */
static char *oci_software(const struct image_build *b, const char *debs_hash)
{
    return tb_strf(
        "FROM %s\n"
        "USER root\n"
        "RUN command -v apt-get >/dev/null || { \\\n"
        "        echo 'the base image has no apt-get: it must be Debian 12, Ubuntu 24.04 or later' >&2; exit "
        "1; }; "
        "\\\n"
        "    set -e; export DEBIAN_FRONTEND=noninteractive; \\\n"
        "    apt-get -q update; \\\n"
        "    apt-get -qy install --no-install-recommends systemd-sysv dbus ca-certificates; \\\n"
        "    apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log\n"
        "RUN --mount=type=bind,source=debs,target=/mnt \\\n"
        "    set -e; export DEBIAN_FRONTEND=noninteractive; : packages %s; \\\n"
        "    apt-get -q update; \\\n"
        "    apt-get -qy install --no-install-recommends /mnt/trustbridge_*.deb; \\\n"
        "    apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; \\\n"
        "    cd /lib/systemd/system; \\\n"
        "    for u in tb-*.service; do \\\n"
        "        mkdir -p /etc/systemd/system/$u.d; \\\n"
        "        for c in SYS_ADMIN NET_ADMIN SYS_PTRACE; do echo AssertCapability=CAP_$c; done | \\\n"
        "            sed '1i [Unit]' >/etc/systemd/system/$u.d/container.conf; \\\n"
        "    done; \\\n"
        "    install -d -m 750 -o tb-proxy -g tb-proxy /var/log/trustbridge; \\\n"
        "    : >/etc/machine-id\n",
        b->base, debs_hash);
}

static const char oci_config[] = "ENV container=oci\n"
                                 "EXPOSE 8000 8001\n"
                                 "STOPSIGNAL SIGRTMIN+3\n"
                                 "ENTRYPOINT [\"/usr/lib/trustbridge/tb-init\"]\n"
                                 "CMD []\n";

/* Beside the programs, where nothing that is mounted into the container covers it. */
static char *oci_finish(const struct image_build *b)
{
    _cleanup_free_ char *pin = b->provider_keys
                                   ? tb_strf("RUN echo '%s' >" TB_PROVIDER_KEY_IMAGE "\n", b->provider_keys)
                                   : strdup("");

    return pin ? tb_strf("%s%s", pin, oci_config) : NULL;
}

/* -- labels ------------------------------------------------------------------------------------ */

static void oci_add_label(struct tool *t, const char *name, const char *value)
{
    if (value && *value)
        tool_add(t, "--label=org.opencontainers.image.%s=%s", name, value);
}

/* The annotation keys of the OCI image specification. The caller's come last, so they win. */
static void oci_add_labels(const struct image_build *b, struct tool *t, const char *base_digest)
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH"), *title = strrchr(b->name, '/');
    char when[TB_RFC3339_MAX];

    oci_add_label(t, "title", title ? title + 1 : b->name);
    oci_add_label(t, "version", b->tag);
    oci_add_label(t, "description",
                  "Inference server that serves licensed, encrypted model weights by TrustBridge");
    oci_add_label(t, "base.name", b->base);
    oci_add_label(t, "base.digest", base_digest);
    if (!epoch)
        oci_add_label(t, "created", tb_rfc3339_format(tb_now_realtime_us(), false, when));
    for (size_t i = 0; i < b->labels.n; i++)
        tool_add(t, "--label=%s", b->labels.v[i]);
}

/* -- Buildah ----------------------------------------------------------------------------------- */

static void oci_start(const struct image_build *b, struct tool *t, const char *verb)
{
    tool_add(t, "buildah");
    tool_add(t, "%s", verb);
    t->quiet = b->cli.quiet;
}

static void oci_tls(const struct image_build *b, struct tool *t)
{
    tool_add(t, "--tls-verify=%s", b->insecure_registry ? "false" : "true");
}

static int oci_read_line(const char *path, char **ret)
{
    size_t len;
    int r = tb_read_file(path, 4096, ret, &len);

    if (r < 0)
        return tbpkg_fail_errno(path, r);
    (*ret)[strcspn(*ret, "\r\n")] = '\0';
    return CLI_OK;
}

/* Before the build, because a base that cannot be had is the most frequent error, and for its digest. */
static int oci_pull(const struct image_build *b, char **ret_digest)
{
    _cleanup_tool_ struct tool t = {0}, look = {0};
    _cleanup_free_ char *id = NULL, *digest = NULL;
    int rc;

    oci_start(b, &t, "pull");
    tool_add(&t, "--policy=%s", b->no_cache ? "ifnewer" : "missing");
    oci_tls(b, &t);
    tool_add(&t, "%s", b->base);
    rc = tool_run(&t, "buildah", &id);
    if (rc == CLI_FAILED)
        return tbpkg_failf("--base-image",
                           "%s cannot be had; log in with buildah login %.*s, or name another", b->base,
                           (int)strcspn(b->base, "/"), b->base);
    if (rc != CLI_OK)
        return rc;
    id[strcspn(id, "\r\n")] = '\0';
    oci_start(b, &look, "inspect");
    tool_add(&look, "--type=image");
    tool_add(&look, "--format={{.FromImageDigest}}");
    tool_add(&look, "%s", id);
    rc = tool_run(&look, "buildah", &digest);
    if (rc != CLI_OK)
        return rc;
    digest[strcspn(digest, "\r\n")] = '\0';
    *ret_digest = TAKE_PTR(digest);
    return CLI_OK;
}

/* Builds what text says and puts the image's id into *ret_id. labels: of the finished image. */
static int oci_run_build(const struct image_build *b, const char *text, bool labels, const char *base_digest,
                         char **ret_id)
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    _cleanup_free_ char *id = tb_path_join(b->work, "id"), *file = tb_path_join(b->work, "Containerfile");
    _cleanup_tool_ struct tool t = {0};
    int r = id && file ? tb_write_file_atomic(file, text, strlen(text), 0644) : -ENOMEM, rc;

    if (r < 0)
        return tbpkg_fail_errno(b->work, r);
    oci_start(b, &t, "build");
    tool_add(&t, "--format=oci");
    tool_add(&t, "--layers=%s", labels ? "false" : "true");
    if (b->no_cache)
        tool_add(&t, "--no-cache");
    if (epoch)
        tool_add(&t, "--timestamp=%s", epoch);
    tool_add(&t, "--iidfile=%s", id);
    oci_tls(b, &t);
    if (labels)
        oci_add_labels(b, &t, base_digest);
    tool_add(&t, "--file=%s", file);
    tool_add(&t, "%s", b->work);
    rc = tool_run(&t, "buildah", NULL);
    if (rc == CLI_FAILED && !labels)
        tbpkg_note(false, "Where Buildah may not use user namespaces or overlay mounts, set "
                          "BUILDAH_ISOLATION=chroot and STORAGE_DRIVER=vfs.");
    return rc == CLI_OK ? oci_read_line(id, ret_id) : rc;
}

static int oci_build(struct image_build *b, const char *software, const char *finish)
{
    _cleanup_free_ char *base_digest = NULL, *id = NULL, *text = NULL;
    int rc = tool_find("buildah", "buildah");

    if (rc == CLI_OK)
        rc = oci_pull(b, &base_digest);

    if (rc == CLI_OK)
        rc = oci_run_build(b, software, false, NULL, &id);
    if (rc != CLI_OK)
        return rc;
    text = tb_strf("FROM %s\n%s", id + (strncmp(id, "sha256:", 7) == 0 ? 7 : 0), finish);
    return text ? oci_run_build(b, text, true, base_digest, &b->image_id)
                : tbpkg_fail_errno("build", -ENOMEM);
}

/* The image gets its name only when everything else is done. */
static int oci_tag(const struct image_build *b)
{
    _cleanup_tool_ struct tool t = {0};

    oci_start(b, &t, "tag");
    tool_add(&t, "%s", b->image_id);
    tool_add(&t, "%s", b->reference);
    return tool_run(&t, "buildah", NULL);
}

/* By its id: another build may have taken the name meanwhile. */
static int oci_push(struct image_build *b)
{
    _cleanup_free_ char *file = tb_path_join(b->work, "digest");
    _cleanup_tool_ struct tool t = {0};
    int rc;

    oci_start(b, &t, "push");
    tool_add(&t, "--digestfile=%s", file ? file : "");
    oci_tls(b, &t);
    tool_add(&t, "%s", b->image_id);
    tool_add(&t, "docker://%s", b->reference);
    rc = tool_run(&t, "buildah", NULL);
    if (rc == CLI_FAILED)
        return tbpkg_failf("--registry",
                           "%s did not take the image; log in with buildah login %.*s, or use --no-push",
                           b->registry, (int)strcspn(b->registry, "/"), b->registry);
    return rc == CLI_OK ? oci_read_line(file, &b->digest) : rc;
}

/* -- what is in it ----------------------------------------------------------------------------- */

static int oci_forget_container(const struct image_build *b, const char *container, int rc)
{
    _cleanup_tool_ struct tool t = {.quiet = true};
    int removed;

    tool_add(&t, "buildah");
    tool_add(&t, "rm");
    tool_add(&t, "%s", container);
    removed = tool_run(&t, "buildah", NULL);
    return rc == CLI_OK ? removed : rc;
}

static int oci_take_inventory(struct image_build *b)
{
    _cleanup_tool_ struct tool from = {0}, t = {0};
    _cleanup_free_ char *container = NULL;
    int rc;

    oci_start(b, &from, "from");
    tool_add(&from, "--pull=false");
    tool_add(&from, "%s", b->image_id);
    rc = tool_run(&from, "buildah", &container);
    if (rc != CLI_OK)
        return rc;
    container[strcspn(container, "\r\n")] = '\0';
    oci_start(b, &t, "run");
    tool_add(&t, "%s", container);
    tool_add(&t, "--");
    tool_add(&t, "/usr/lib/trustbridge/tb-inventory");
    rc = tool_run(&t, "buildah", &b->inventory);
    return oci_forget_container(b, container, rc);
}

/* -- all of it --------------------------------------------------------------------------------- */

int image_oci_build(struct image_build *b)
{
    char hash[65];
    _cleanup_free_ char *debs = tb_path_join(b->work, "debs"), *software = NULL, *finish = oci_finish(b);
    int rc = debs && finish ? debs_copy(b->debs, debs) : tbpkg_fail_errno("build", -ENOMEM);

    if (rc == CLI_OK)
        rc = debs_hash(debs, hash);
    if (rc != CLI_OK)
        return rc;
    software = oci_software(b, hash);
    b->containerfile = software ? tb_strf("%s%s", software, finish) : NULL;
    if (!b->containerfile)
        return tbpkg_fail_errno("build", -ENOMEM);
    if (b->dry_run)
        return CLI_OK;
    rc = oci_build(b, software, finish);
    if (rc == CLI_OK && b->sbom_path)
        rc = oci_take_inventory(b);
    if (rc == CLI_OK)
        rc = oci_tag(b);
    return rc == CLI_OK && !b->no_push ? oci_push(b) : rc;
}
