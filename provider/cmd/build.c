/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg build: the image that the weights are served from, without any weights. A virtual machine's by Packer, from the templates in
 * packer/; a container's by Buildah. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "provider/cli/cli.h"
#include "common/io.h"
#include "common/json.h"
#include "provider/cli/option.h"
#include "provider/cli/tool.h"

#define DEFAULT_TEMPLATES "/usr/share/trustbridge/packer"
#define DEFAULT_BASE "nvcr.io/nvidia/vllm:latest" /* as the first TrustBridge */
#define PLUGINS "plugins.pkr.hcl"                 /* Packer 1.6 does not understand it */

struct job {
    struct cli cli;
    const char *target, *debs, *templates, *base, *registry, *name, *tag;
    struct cli_list vars;
    bool no_push, insecure_registry, dry_run;

    char *work;      /* temporary directory */
    char *reference; /* "REGISTRY/NAME:TAG" */
    char *digest, *image_id;
    char *resource; /* what was built for a VM: file or resource id */
};

static void job_clear(struct job *j)
{
    cli_list_clear(&j->vars);
    tool_rmdir(&j->work);
    tb_freep(&j->reference);
    tb_freep(&j->digest);
    tb_freep(&j->image_id);
    tb_freep(&j->resource);
}

/* -- command line -------------------------------------------------------------------------------------------------- */

static const struct cli_option options[] = {
    CLI_OPTION(0, "target", "TARGET", CLI_STRING, target, "oci, vm-qemu or vm-azure [oci]"),
    CLI_OPTION(0, "deb-dir", "DIR", CLI_DIR_NAME, debs,
               "directory with the .debs of trustbridge and libtbenc1, built for the release of the base",
               .setting = "build.deb_dir"),
    CLI_OPTION(0, "base-image", "IMAGE", CLI_STRING, base,
               "what to build on: a container image with the inference server in it [" DEFAULT_BASE
               "]; for vm-qemu a qcow2 of a Debian cloud image",
               .setting = "docker.base_image"),
    CLI_OPTION('n', "dry-run", NULL, CLI_FLAG, dry_run,
               "oci: show the Containerfile; vm: have packer check the templates and variables"),
    CLI_HEADING_ROW("Container image (oci):"),
    CLI_OPTION('r', "registry", "REGISTRY", CLI_STRING, registry,
               "registry to push to, as in acme.azurecr.io", .setting = "docker.registry"),
    CLI_OPTION(0, "image-name", "NAME", CLI_STRING, name, "name of the image there [trustbridge-runtime]",
               .setting = "docker.image_name"),
    CLI_OPTION(0, "tag", "TAG", CLI_STRING, tag, "its tag [latest]"),
    CLI_OPTION(0, "no-push", NULL, CLI_FLAG, no_push, "leave the image in local storage"),
    CLI_OPTION(0, "insecure-registry", NULL, CLI_FLAG, insecure_registry,
               "allow a registry without TLS or with an unknown certificate, for tests"),
    CLI_HEADING_ROW("Image of a virtual machine (vm-qemu, vm-azure):"),
    CLI_OPTION(0, "var", "NAME=VALUE", CLI_LIST, vars, "variable of the template; may be repeated"),
    CLI_OPTION(0, "template-dir", "DIR", CLI_DIR_NAME, templates,
               "directory of the Packer templates [" DEFAULT_TEMPLATES "]", .setting = "build.template_dir"),
    CLI_GONE_ROW("sentinel-binary", "FILE", "the programs come from the .debs in --deb-dir"),
    CLI_GONE_ROW("entrypoint", "FILE", "the image starts systemd, which starts and confines the programs"),
    CLI_HEADING_ROW("Every command:"),
    CLI_COMMON,
};

static bool is_oci(const struct job *j)
{
    return strcmp(j->target, "oci") == 0;
}

/* Parts of an image's name, as registries want them. */
static bool name_valid(const char *s, const char *more)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789._-", s[i]) && !strchr(more, s[i]))
            return false;
    return n > 0 && n <= 128 && !strchr(".-/:", s[0]);
}

static int check_var(const struct job *j, const char *var)
{
    static const char *const secrets[] = {"secret", "password", "token"};

    if (!strchr(var, '=') || var[0] == '=')
        return cli_usage(&j->cli, "--var: NAME=VALUE is wanted");
    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
        const char *s = strcasestr(var, secrets[i]);

        if (s && s < strchr(var, '='))
            return cli_usage(
                &j->cli,
                "--var %.*s: a secret on a command line is seen by everybody; say az login, or put it into "
                "the environment as PKR_VAR_%.*s",
                (int)strcspn(var, "="), var, (int)strcspn(var, "="), var);
    }
    return CLI_OK;
}

static int check_oci(struct job *j)
{
    const struct cli *c = &j->cli;

    if (!j->registry)
        return cli_usage(c, "--registry is missing");
    if (!name_valid(j->registry, ":/"))
        return cli_usage(c, "--registry: a host, perhaps with port and path, not '%s'", j->registry);
    if (!name_valid(j->name, "/"))
        return cli_usage(c, "--image-name: letters a-z, digits, '.', '_', '-' and '/', not '%s'", j->name);
    if (!name_valid(j->tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        return cli_usage(c, "--tag: letters, digits, '.', '_' and '-', not '%s'", j->tag);
    if (j->base && strpbrk(j->base, " \t\n\r\"'\\$"))
        return cli_usage(c, "--base-image: the name of a container image, not '%s'", j->base);
    j->reference = tb_strf("%s/%s:%s", j->registry, j->name, j->tag);
    return j->reference ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

static int check_options(struct job *j)
{
    const struct cli *c = &j->cli;
    int rc = CLI_OK;

    if (!is_oci(j) && !cli_given(c, "base-image"))
        j->base = NULL; /* the environment has that of containers */
    if (!is_oci(j) && strcmp(j->target, "vm-qemu") != 0 && strcmp(j->target, "vm-azure") != 0)
        return cli_usage(c, "--target: oci, vm-qemu or vm-azure, not '%s'", j->target);
    if (!j->debs)
        return cli_usage(
            c,
            "--deb-dir is missing: the directory with the .debs of trustbridge and libtbenc1 for the release "
            "of the base image");
    if (is_oci(j))
        return check_oci(j);
    if (strcmp(j->target, "vm-qemu") == 0 && !j->base)
        return cli_usage(c, "--base-image is missing: a qcow2 of a Debian cloud image");
    for (size_t i = 0; rc == CLI_OK && i < j->vars.n; i++)
        rc = check_var(j, j->vars.v[i]);
    return rc;
}

static int parse(struct job *j, int argc, char **argv)
{
    if (cli_parse(&j->cli, j, argc, argv) != CLI_OK)
        return CLI_STOP;
    j->cli.rc = cli_no_positional(&j->cli, argc, argv);
    if (j->cli.rc == CLI_OK)
        j->cli.rc = check_options(j);
    return cli_ready(&j->cli);
}

/* -- packages ------------------------------------------------------------------------------------------------------ */

static void closedirp(DIR **d)
{
    if (*d)
        closedir(*d);
}

static bool is_deb_of(const char *file, const char *package)
{
    size_t n = strlen(package), all = strlen(file);

    return strncmp(file, package, n) == 0 && file[n] == '_' && all > 4 && strcmp(file + all - 4, ".deb") == 0;
}

static int check_debs(const struct job *j)
{
    static const char *const needed[] = {"trustbridge", "libtbenc1"};
    unsigned found[ARRAY_SIZE(needed)] = {0};
    _cleanup_(closedirp) DIR *d = opendir(j->debs);
    const struct dirent *e;

    if (!d)
        return tbpkg_fail_errno(j->debs, -errno);
    while ((e = readdir(d)))
        for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
            found[i] += is_deb_of(e->d_name, needed[i]);
    /* The daemons have the library in them; a package that links it would bring it along. */
    if (found[0] == 0)
        return tbpkg_fail(j->debs, "has no trustbridge_*.deb",
                          "put the packages for the base's release there");
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (found[i] > 1)
            return tbpkg_failf(j->debs, "has %u versions of %s; leave one", found[i], needed[i]);
    return CLI_OK;
}

/* -- container ----------------------------------------------------------------------------------------------------- */

/* systemd is the image's first process, as on a machine. Its units confine the daemons by name spaces, and systemd leaves out,
 * with no more than a warning, what it is not allowed to make: then the runtime would stand in the open. So they must not
 * start without that right. */
static char *containerfile(const struct job *j)
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

static int copy_debs(const struct job *j)
{
    _cleanup_free_ char *to = tb_path_join(j->work, "debs");
    _cleanup_(closedirp) DIR *d = NULL;
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

        if (!is_deb_of(e->d_name, "trustbridge") && !is_deb_of(e->d_name, "libtbenc1"))
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

static int read_line(const char *path, char **ret)
{
    size_t len;
    int r = tb_read_file(path, 4096, ret, &len);

    if (r < 0)
        return tbpkg_fail_errno(path, r);
    (*ret)[strcspn(*ret, "\r\n")] = '\0';
    return CLI_OK;
}

static int push(struct job *j)
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
        tbpkg_note(&j->cli, "Push failed. Log in with: buildah login %s", j->registry);
        return rc;
    }
    return read_line(file, &j->digest);
}

static int build_oci(struct job *j)
{
    _cleanup_free_ char *text = containerfile(j), *file = NULL, *id = NULL;
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
    rc = copy_debs(j);
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
        rc = read_line(id, &j->image_id);
    return rc == CLI_OK && !j->no_push ? push(j) : rc;
}

/* -- virtual machine ----------------------------------------------------------------------------------------------- */

/* The value of --var NAME, or fallback. */
static const char *var(const struct job *j, const char *name, const char *fallback)
{
    size_t n = strlen(name);

    for (size_t i = j->vars.n; i > 0; i--)
        if (strncmp(j->vars.v[i - 1], name, n) == 0 && j->vars.v[i - 1][n] == '=')
            return j->vars.v[i - 1] + n + 1;
    return fallback;
}

static int packer_is_old(bool *ret)
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
        return tbpkg_fail("packer", "does not say which version it is", NULL);
    *ret = major < 1 || (major == 1 && minor < 7);
    return CLI_OK;
}

/* The templates by links, so that a file this Packer does not understand can be left out. */
static int link_templates(const struct job *j, bool old, char **ret)
{
    _cleanup_free_ char *root = realpath(j->templates, NULL), *to = tb_path_join(j->work, "packer");
    _cleanup_(closedirp) DIR *d = NULL;
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

static int make_seed(const struct job *j, const char *templates)
{
    _cleanup_tool_ struct tool t = {0};

    tool_add(&t, "sh");
    tool_add(&t, "%s/scripts/seed.sh", templates);
    tool_add(&t, "%s/seed", j->work);
    if (var(j, "ssh_username", NULL))
        tool_add(&t, "%s", var(j, "ssh_username", NULL));
    return tool_run(&t, "openssh-client", NULL);
}

static int run_packer(const struct job *j, const char *verb, const char *templates)
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
        if (qemu && !var(j, "seed", NULL)) {
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

static int name_output(struct job *j)
{
    if (strcmp(j->target, "vm-qemu") == 0)
        j->resource = tb_strf("%s/trustbridge.qcow2", var(j, "output_directory", "output-qemu"));
    else
        j->resource =
            tb_strf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/galleries/%s/images/%s/"
                    "versions/%s",
                    var(j, "subscription_id", ""), var(j, "resource_group", ""), var(j, "gallery_name", ""),
                    var(j, "image_name", "trustbridge"), var(j, "image_version", "1.0.0"));
    return j->resource ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

static int build_vm(struct job *j)
{
    _cleanup_free_ char *templates = NULL;
    bool old = false;
    int rc = packer_is_old(&old);

    if (rc == CLI_OK)
        rc = link_templates(j, old, &templates);
    if (rc == CLI_OK && strcmp(j->target, "vm-qemu") == 0 && !var(j, "seed", NULL))
        rc = make_seed(j, templates);
    if (rc == CLI_OK && !old && !j->dry_run)
        rc = run_packer(j, "init", templates);
    if (rc == CLI_OK)
        rc = run_packer(j, j->dry_run ? "validate" : "build", templates);
    if (rc == CLI_OK && j->dry_run)
        tbpkg_note(&j->cli, "%s: templates and variables are valid.", j->target);
    return rc == CLI_OK ? name_output(j) : rc;
}

/* -- main ---------------------------------------------------------------------------------------------------------- */

static int report(const struct job *j)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "target", j->target);
    if (is_oci(j)) {
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
    if (is_oci(j) && j->digest)
        printf("%.*s@%s\n", (int)(strlen(j->reference) - strlen(j->tag) - 1), j->reference, j->digest);
    else
        puts(is_oci(j) ? j->reference : j->resource);
    if (strcmp(j->target, "vm-azure") == 0)
        tbpkg_note(&j->cli, "Next: tbpkg package --vm-image with that resource id.");
    return cli_flush_stdout();
}

static int build_main(int argc, char **argv)
{
    _cleanup_(job_clear) struct job j = {.cli = {.command = &tbpkg_build},
                                         .target = "oci",
                                         .templates = DEFAULT_TEMPLATES,
                                         .name = "trustbridge-runtime",
                                         .tag = "latest"};
    int rc;

    if (parse(&j, argc, argv) == CLI_STOP)
        return j.cli.rc;
    rc = check_debs(&j);
    if (rc == CLI_OK && !(j.work = tool_mkdtemp()))
        rc = CLI_FAILED;
    if (rc == CLI_OK)
        rc = is_oci(&j) ? build_oci(&j) : build_vm(&j);
    return rc == CLI_OK && !j.dry_run ? report(&j) : rc;
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
    .options = options,
    .run = build_main,
};
