/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg build: the image that the weights are served from, without any weights. A virtual machine's by
 * Packer, from the templates in packer/; a container's by Buildah. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/json.h"
#include "provider/cli/tool.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"

#define DEFAULT_TEMPLATES "/usr/share/trustbridge/packer"
#define DEFAULT_BASE "nvcr.io/nvidia/vllm:latest" /* as the first TrustBridge */
#define PLUGINS "plugins.pkr.hcl"                 /* Packer 1.6 does not understand it */

struct build_job {
    struct cli cli;
    const char *target, *debs, *templates, *base, *registry, *name, *tag;
    struct tb_option_list vars;
    bool no_push, insecure_registry, dry_run;

    char *work;      /* temporary directory */
    char *reference; /* "REGISTRY/NAME:TAG" */
    char *digest, *image_id;
    char *resource; /* what was built for a VM: file or resource id */
};

static void build_job_clear(struct build_job *j)
{
    tb_option_list_clear(&j->vars);
    tool_rmdir(&j->work);
    tb_freep(&j->reference);
    tb_freep(&j->digest);
    tb_freep(&j->image_id);
    tb_freep(&j->resource);
}

/* -- command line ------------------------------------------------------------------------------ */

#define TB_OPTION_TARGET struct build_job
static const struct tb_option build_options[] = {
    TB_OPTION(0, "target", "TARGET", TB_OPTION_STRING, target, "oci, vm-qemu or vm-azure [oci]"),
    ROW_DEB_DIR(debs),
    TB_OPTION(0, "base-image", "IMAGE", TB_OPTION_STRING, base,
              "what to build on: a container image with the inference server in it [" DEFAULT_BASE
              "]; for vm-qemu a qcow2 of a Debian cloud image",
              .setting = "docker.base_image"),
    TB_OPTION('n', "dry-run", NULL, TB_OPTION_FLAG, dry_run,
              "oci: show the Containerfile; vm: have packer check the templates and variables"),
    TB_OPTION_HEADING_ROW("Container image (oci):"),
    ROW_REGISTRY(registry),
    ROW_IMAGE_NAME(name),
    TB_OPTION(0, "tag", "TAG", TB_OPTION_STRING, tag, "its tag [latest]"),
    ROW_NO_PUSH(no_push),
    ROW_INSECURE_REGISTRY(insecure_registry),
    TB_OPTION_HEADING_ROW("Image of a virtual machine (vm-qemu, vm-azure):"),
    ROW_VAR(vars),
    TB_OPTION(0, "template-dir", "DIR", TB_OPTION_DIR_NAME, templates,
              "directory of the Packer templates [" DEFAULT_TEMPLATES "]", .setting = "build.template_dir"),
    ROWS_GONE_PROGRAMS,
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

static bool build_is_oci(const struct build_job *j)
{
    return strcmp(j->target, "oci") == 0;
}

/* Parts of an image's name, as registries want them. */
static bool build_name_valid(const char *s, const char *more)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789._-", s[i]) && !strchr(more, s[i]))
            return false;
    return n > 0 && n <= 128 && !strchr(".-/:", s[0]);
}

static int build_check_var(const struct build_job *j, const char *var)
{
    static const char *const secrets[] = {"secret", "password", "token"};

    if (!strchr(var, '=') || var[0] == '=')
        return cli_usage(&j->cli, "--var: must be NAME=VALUE");
    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
        const char *s = strcasestr(var, secrets[i]);

        if (s && s < strchr(var, '='))
            return cli_usage(&j->cli,
                             "--var %.*s: a secret on a command line is visible to every user; run az login, "
                             "or put it into "
                             "the environment as PKR_VAR_%.*s",
                             (int)strcspn(var, "="), var, (int)strcspn(var, "="), var);
    }
    return CLI_OK;
}

static int build_check_oci(struct build_job *j)
{
    const struct cli *c = &j->cli;
    int rc = cli_need(c, j->registry, "--registry");

    if (j->registry && !build_name_valid(j->registry, ":/"))
        rc = cli_usage(c, "--registry: a host, perhaps with port and path, not '%s'", j->registry);
    if (!build_name_valid(j->name, "/"))
        rc = cli_usage(c, "--image-name: letters a-z, digits, '.', '_', '-' and '/', not '%s'", j->name);
    if (!build_name_valid(j->tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        rc = cli_usage(c, "--tag: letters, digits, '.', '_' and '-', not '%s'", j->tag);
    if (j->base && strpbrk(j->base, " \t\n\r\"'\\$"))
        rc = cli_usage(c, "--base-image: the name of a container image, not '%s'", j->base);
    if (rc != CLI_OK)
        return rc;
    j->reference = tb_strf("%s/%s:%s", j->registry, j->name, j->tag);
    return j->reference ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

static int build_check_options(void *job)
{
    struct build_job *j = job;
    const struct cli *c = &j->cli;
    int rc = CLI_OK;

    if (!build_is_oci(j) && !cli_given(c, "base-image"))
        j->base = NULL; /* the environment has that of containers */
    if (!build_is_oci(j) && strcmp(j->target, "vm-qemu") != 0 && strcmp(j->target, "vm-azure") != 0)
        return cli_usage(c, "--target: oci, vm-qemu or vm-azure, not '%s'", j->target);
    if (!j->debs)
        rc = cli_usage(
            c,
            "--deb-dir is missing: the directory with the .debs of trustbridge and libtbenc1 for the release "
            "of the base image");
    if (build_is_oci(j))
        return cli_worse(rc, build_check_oci(j));
    if (strcmp(j->target, "vm-qemu") == 0 && !j->base)
        rc = cli_usage(c, "--base-image is missing: a qcow2 of a Debian cloud image");
    for (size_t i = 0; i < j->vars.n; i++)
        rc = cli_worse(rc, build_check_var(j, j->vars.v[i]));
    return rc;
}

/* -- packages ---------------------------------------------------------------------------------- */

static bool build_is_deb_of(const char *file, const char *package)
{
    size_t n = strlen(package), all = strlen(file);

    return strncmp(file, package, n) == 0 && file[n] == '_' && all > 4 && strcmp(file + all - 4, ".deb") == 0;
}

static int build_check_debs(const struct build_job *j)
{
    static const char *const needed[] = {"trustbridge", "libtbenc1"};
    unsigned found[ARRAY_SIZE(needed)] = {0};
    _cleanup_closedir_ DIR *d = opendir(j->debs);
    const struct dirent *e;

    if (!d)
        return tbpkg_fail_errno(j->debs, -errno);
    while ((e = readdir(d)))
        for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
            found[i] += build_is_deb_of(e->d_name, needed[i]);
    /* The daemons have the library in them; a package that links it would bring it along. */
    if (found[0] == 0)
        return tbpkg_fail(j->debs, "has no trustbridge_*.deb",
                          "put the packages for the base's release there");
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (found[i] > 1)
            return tbpkg_failf(j->debs, "has %u versions of %s; leave one", found[i], needed[i]);
    return CLI_OK;
}

/* -- container --------------------------------------------------------------------------------- */

/* systemd is the image's first process, as on a machine. Its units confine the daemons by name spaces, and
 * systemd leaves out, with no more than a warning, what it is not allowed to make: then the runtime would
 * stand in the open. So they must not start without that right. */
static char *build_containerfile(const struct build_job *j)
{
    return tb_strf("FROM %s\n"
                   "USER root\n"
                   "COPY debs /tmp/tb-debs\n"
                   "RUN set -e; export DEBIAN_FRONTEND=noninteractive; \\\n"
                   "    apt-get -q update; \\\n"
                   "    apt-get -qy install --no-install-recommends systemd-sysv dbus ca-certificates; \\\n"
                   "    apt-get -qy install --no-install-recommends /tmp/tb-debs/trustbridge_*.deb; \\\n"
                   "    apt-get clean; rm -rf /tmp/tb-debs /var/lib/apt/lists/*; \\\n"
                   "    for u in tb-authorize.service tb-hydrate.service tb-decrypt.service "
                   "tb-runtime.service tb-proxy.service; do \\\n"
                   "        mkdir -p /etc/systemd/system/$u.d; \\\n"
                   "        printf '[Unit]\\nAssertCapability=CAP_SYS_ADMIN\\n' "
                   ">/etc/systemd/system/$u.d/container.conf; \\\n"
                   "    done; \\\n"
                   "    : >/etc/machine-id\n"
                   "ENV container=oci\n"
                   "EXPOSE 8000 8001\n"
                   "STOPSIGNAL SIGRTMIN+3\n"
                   "ENTRYPOINT [\"/sbin/init\"]\n"
                   "CMD []\n",
                   j->base ? j->base : DEFAULT_BASE);
}

static int build_copy_debs(const struct build_job *j)
{
    _cleanup_free_ char *to = tb_path_join(j->work, "debs");
    _cleanup_closedir_ DIR *d = NULL;
    const struct dirent *e;

    if (!to || mkdir(to, 0755) < 0)
        return tbpkg_fail_errno(j->work, to ? -errno : -ENOMEM);
    d = opendir(j->debs);
    if (!d)
        return tbpkg_fail_errno(j->debs, -errno);
    while ((e = readdir(d))) {
        _cleanup_free_ char *from = NULL, *file = NULL, *data = NULL;
        size_t len;
        int r;

        if (!build_is_deb_of(e->d_name, "trustbridge") && !build_is_deb_of(e->d_name, "libtbenc1"))
            continue;
        from = tb_path_join(j->debs, e->d_name);
        file = tb_path_join(to, e->d_name);
        r = from && file ? tb_read_file(from, 64 << 20, &data, &len) : -ENOMEM;
        if (r == 0)
            r = tb_write_file_atomic(file, data, len, 0644);
        if (r < 0)
            return tbpkg_fail_errno(from ? from : j->debs, r);
    }
    return CLI_OK;
}

static int build_read_line(const char *path, char **ret)
{
    size_t len;
    int r = tb_read_file(path, 4096, ret, &len);

    if (r < 0)
        return tbpkg_fail_errno(path, r);
    (*ret)[strcspn(*ret, "\r\n")] = '\0';
    return CLI_OK;
}

static int build_push(struct build_job *j)
{
    _cleanup_free_ char *file = tb_path_join(j->work, "digest");
    _cleanup_tool_ struct tool t = {0};
    int rc;

    tool_add(&t, "buildah");
    tool_add(&t, "push");
    tool_add(&t, "--digestfile=%s", file ? file : "");
    tool_add(&t, "--tls-verify=%s", j->insecure_registry ? "false" : "true");
    tool_add(&t, "%s", j->reference);
    rc = tool_run(&t, "buildah", NULL);
    if (rc != CLI_OK) {
        tbpkg_note(j->cli.quiet, "Push failed. Log in with: buildah login %s", j->registry);
        return rc;
    }
    return build_read_line(file, &j->digest);
}

static int build_oci(struct build_job *j)
{
    _cleanup_free_ char *text = build_containerfile(j), *file = NULL, *id = NULL;
    _cleanup_tool_ struct tool t = {0};
    int rc, r;

    if (!text)
        return tbpkg_fail_errno("build", -ENOMEM);
    if (j->dry_run) {
        fputs(text, stdout);
        return cli_flush_stdout();
    }
    file = tb_path_join(j->work, "Containerfile");
    id = tb_path_join(j->work, "id");
    r = file && id ? tb_write_file_atomic(file, text, strlen(text), 0644) : -ENOMEM;
    if (r < 0)
        return tbpkg_fail_errno(j->work, r);
    rc = build_copy_debs(j);
    if (rc != CLI_OK)
        return rc;
    tool_add(&t, "buildah");
    tool_add(&t, "build");
    tool_add(&t, "--format=oci");
    tool_add(&t, "--layers=false"); /* what a step removes is not in the image */
    tool_add(&t, "--iidfile=%s", id);
    tool_add(&t, "--tls-verify=%s", j->insecure_registry ? "false" : "true");
    tool_add(&t, "--file=%s", file);
    tool_add(&t, "--tag=%s", j->reference);
    tool_add(&t, "%s", j->work);
    rc = tool_run(&t, "buildah", NULL);
    if (rc == CLI_OK)
        rc = build_read_line(id, &j->image_id);
    return rc == CLI_OK && !j->no_push ? build_push(j) : rc;
}

/* -- virtual machine --------------------------------------------------------------------------- */

/* The value of --var NAME, or fallback. */
static const char *build_var(const struct build_job *j, const char *name, const char *fallback)
{
    size_t n = strlen(name);

    for (size_t i = j->vars.n; i > 0; i--)
        if (strncmp(j->vars.v[i - 1], name, n) == 0 && j->vars.v[i - 1][n] == '=')
            return j->vars.v[i - 1] + n + 1;
    return fallback;
}

static int build_packer_is_old(bool *ret)
{
    _cleanup_tool_ struct tool t = {0};
    _cleanup_free_ char *out = NULL;
    unsigned major = 0, minor = 0;
    int rc;

    tool_add(&t, "packer");
    tool_add(&t, "version");
    rc = tool_run(&t, "packer", &out);
    if (rc != CLI_OK)
        return rc;
    if (!out || sscanf(out, "Packer v%5u.%5u", &major, &minor) != 2)
        return tbpkg_fail("packer", "does not report its version", NULL);
    *ret = major < 1 || (major == 1 && minor < 7);
    return CLI_OK;
}

/* The templates by links, so that a file this Packer does not understand can be left out. */
static int build_link_templates(const struct build_job *j, bool old, char **ret)
{
    _cleanup_free_ char *root = realpath(j->templates, NULL), *to = tb_path_join(j->work, "packer");
    _cleanup_closedir_ DIR *d = NULL;
    const struct dirent *e;
    bool any = false;

    if (!root)
        return errno == ENOENT ? tbpkg_fail(j->templates, strerror(ENOENT),
                                            "name the Packer templates with --template-dir")
                               : tbpkg_fail_errno(j->templates, -errno);
    d = opendir(root);
    if (!d || !to || mkdir(to, 0700) < 0)
        return tbpkg_fail_errno(root, -errno);
    while ((e = readdir(d))) {
        _cleanup_free_ char *from = tb_path_join(root, e->d_name), *link = tb_path_join(to, e->d_name);

        if (e->d_name[0] == '.' || (old && strcmp(e->d_name, PLUGINS) == 0))
            continue;
        if (!from || !link || symlink(from, link) < 0)
            return tbpkg_fail_errno(to, -errno);
        any |= strcmp(e->d_name, "trustbridge.pkr.hcl") == 0;
    }
    if (!any)
        return tbpkg_fail(root, "has no trustbridge.pkr.hcl",
                          "name the Packer templates with --template-dir");
    *ret = TAKE_PTR(to);
    return CLI_OK;
}

static int build_make_seed(const struct build_job *j, const char *templates)
{
    _cleanup_tool_ struct tool t = {0};

    tool_add(&t, "sh");
    tool_add(&t, "%s/scripts/seed.sh", templates);
    tool_add(&t, "%s/seed", j->work);
    if (build_var(j, "ssh_username", NULL))
        tool_add(&t, "%s", build_var(j, "ssh_username", NULL));
    return tool_run(&t, "openssh-client", NULL);
}

static int build_run_packer(const struct build_job *j, const char *verb, const char *templates)
{
    bool qemu = strcmp(j->target, "vm-qemu") == 0;
    _cleanup_tool_ struct tool t = {0};

    tool_add(&t, "packer");
    tool_add(&t, "%s", verb);
    if (strcmp(verb, "init") != 0) {
        tool_add(&t, "-only=%s", qemu ? "qemu.trustbridge" : "azure-arm.trustbridge");
        tool_add(&t, "-var");
        tool_add(&t, "debs=%s", j->debs);
        if (qemu) {
            tool_add(&t, "-var");
            tool_add(&t, "base_image=%s", j->base);
        }
        if (qemu && !build_var(j, "seed", NULL)) {
            tool_add(&t, "-var");
            tool_add(&t, "seed=%s/seed", j->work);
        }
    }
    for (size_t i = 0; strcmp(verb, "init") != 0 && i < j->vars.n; i++) {
        tool_add(&t, "-var");
        tool_add(&t, "%s", j->vars.v[i]);
    }
    tool_add(&t, "%s", templates);
    return tool_run(&t, "packer", NULL);
}

static int build_name_output(struct build_job *j)
{
    if (strcmp(j->target, "vm-qemu") == 0)
        j->resource = tb_strf("%s/trustbridge.qcow2", build_var(j, "output_directory", "output-qemu"));
    else
        j->resource =
            tb_strf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/galleries/%s/images/%s/"
                    "versions/%s",
                    build_var(j, "subscription_id", ""), build_var(j, "resource_group", ""),
                    build_var(j, "gallery_name", ""), build_var(j, "image_name", "trustbridge"),
                    build_var(j, "image_version", "1.0.0"));
    return j->resource ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

static int build_vm(struct build_job *j)
{
    _cleanup_free_ char *templates = NULL;
    bool old = false;
    int rc = build_packer_is_old(&old);

    if (rc == CLI_OK)
        rc = build_link_templates(j, old, &templates);
    if (rc == CLI_OK && strcmp(j->target, "vm-qemu") == 0 && !build_var(j, "seed", NULL))
        rc = build_make_seed(j, templates);
    if (rc == CLI_OK && !old && !j->dry_run)
        rc = build_run_packer(j, "init", templates);
    if (rc == CLI_OK)
        rc = build_run_packer(j, j->dry_run ? "validate" : "build", templates);
    if (rc == CLI_OK && j->dry_run)
        tbpkg_note(j->cli.quiet, "%s: templates and variables are valid.", j->target);
    return rc == CLI_OK ? build_name_output(j) : rc;
}

/* -- main -------------------------------------------------------------------------------------- */

static int build_report(const struct build_job *j)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "target", j->target);
    if (build_is_oci(j)) {
        cJSON_AddStringToObject(d, "image", j->reference);
        cJSON_AddStringToObject(d, "image_id", j->image_id);
        cJSON_AddBoolToObject(d, "pushed", !j->no_push);
        if (j->digest)
            cJSON_AddStringToObject(d, "digest", j->digest);
    } else {
        cJSON_AddStringToObject(d, "image", j->resource);
    }
    if (j->cli.json)
        return cli_print_json(d);
    if (build_is_oci(j) && j->digest)
        printf("%.*s@%s\n", (int)(strlen(j->reference) - strlen(j->tag) - 1), j->reference, j->digest);
    else
        puts(build_is_oci(j) ? j->reference : j->resource);
    if (strcmp(j->target, "vm-azure") == 0)
        tbpkg_note(j->cli.quiet, "Next: tbpkg package --vm-image with that resource id.");
    return cli_flush_stdout();
}

static int build_main(int argc, char **argv)
{
    _cleanup_(build_job_clear) struct build_job j = {.cli = {.command = &tbpkg_build},
                                                     .target = "oci",
                                                     .templates = DEFAULT_TEMPLATES,
                                                     .name = "trustbridge-runtime",
                                                     .tag = "latest"};
    int rc;

    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, build_check_options) != CLI_OK)
        return j.cli.rc;
    rc = build_check_debs(&j);
    if (rc == CLI_OK && !(j.work = tool_mkdtemp()))
        rc = CLI_FAILED;
    if (rc == CLI_OK)
        rc = build_is_oci(&j) ? build_oci(&j) : build_vm(&j);
    return rc == CLI_OK && !j.dry_run ? build_report(&j) : rc;
}

const struct tbpkg_command tbpkg_build = {
    .name = "build",
    .summary = "build the image that the weights are served from",
    .synopsis = "[--target oci] --registry REGISTRY --deb-dir DIR [OPTION]...\n"
                "       tbpkg build --target vm-qemu|vm-azure --deb-dir DIR [OPTION]...",
    .about =
        "Build the image of the machine or container that will serve the model: a base and the packages of\n"
        "TrustBridge, without weights or keys. Prints what it is called: the container image with its\n"
        "digest, the file of a machine, or the resource id in the gallery, which tbpkg package takes.\n"
        "Drives buildah for oci and packer for the others; both read their own environment too.\n",
    .options = build_options,
    .run = build_main,
};
