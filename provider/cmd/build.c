/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg build: the image that the weights are served from, without any weights, and its bill of materials.
 * How it is built is in provider/image/. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/json.h"
#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/tool.h"
#include "provider/cmd/rows.h"
#include "provider/image/debs.h"
#include "provider/image/image.h"
#include "provider/image/spdx.h"
#include "provider/tbpkg.h"

static void build_clear(struct image_build *b)
{
    tb_option_list_clear(&b->vars);
    tb_option_list_clear(&b->labels);
    attested_clear(&b->attested);
    tool_rmdir(&b->work);
    tb_freep(&b->provider_keys);
    tb_freep(&b->reference);
    tb_freep(&b->digest);
    tb_freep(&b->image_id);
    tb_freep(&b->containerfile);
    tb_freep(&b->resource);
    tb_freep(&b->inventory);
    tb_freep(&b->sbom_path);
    cli_temp_forget_all();
}

/* -- command line ------------------------------------------------------------------------------ */

/* m: a struct attested_build */
#define ROWS_ATTESTED(m)                                                                                     \
    TB_OPTION(0, "settings", "FILE", TB_OPTION_STRING, m.settings,                                           \
              "settings of the image, as of trustbridge.env: runtime, control plane, routes"),               \
        TB_OPTION(0, "image", "NAME", TB_OPTION_STRING, m.image, "what the image is called"),                \
        TB_OPTION(0, "image-version", "VERSION", TB_OPTION_STRING, m.version, "its version"),                \
        TB_OPTION(0, "output-dir", "DIR", TB_OPTION_DIR_NAME, m.output,                                      \
                  "directory that is made [IMAGE-VERSION]"),                                                 \
        TB_OPTION(0, "extra-package", "NAME", TB_OPTION_LIST, m.packages,                                    \
                  "another package of Debian; may be repeated"),                                             \
        TB_OPTION(0, "run-script", "FILE", TB_OPTION_LIST, m.scripts,                                        \
                  "run as root in the image's tree, with network; may be repeated"),                         \
        TB_OPTION(0, "overlay", "DIR", TB_OPTION_LIST, m.overlays,                                           \
                  "files that are put over the root, as the inference server; may be repeated"),             \
        TB_OPTION(0, "allow-unit", "UNIT", TB_OPTION_LIST, m.units,                                          \
                  "a unit of theirs that may be there; may be repeated"),                                    \
        TB_OPTION(0, "secure-boot-key", "FILE", TB_OPTION_STRING, m.secure_boot_key,                         \
                  "sign the kernel image with this key (PEM), with --secure-boot-cert"),                     \
        TB_OPTION(0, "secure-boot-cert", "FILE", TB_OPTION_STRING, m.secure_boot_cert,                       \
                  "the key's certificate (PEM), which goes into the machine's db"),                          \
        TB_OPTION(0, "state-key", "FILE", TB_OPTION_STRING, m.state_key,                                     \
                  "approve the image by this RSA key (PEM), so that it keeps state and the next opens it"),  \
        TB_OPTION(0, "no-drivers", NULL, TB_OPTION_FLAG, m.no_drivers,                                       \
                  "of machines whose firmware loads no driver: keys and state ask for PCR 2, too"),          \
        TB_OPTION(0, "append-cmdline", "WORDS", TB_OPTION_STRING, m.append_cmdline,                          \
                  "for debugging: behind the kernel command line; what lets others in is measured as such"), \
        TB_OPTION(0, "mirror", "URL", TB_OPTION_STRING, m.mirror,                                            \
                  "mirror of Debian [that of apt's sources]"),                                               \
        TB_OPTION(0, "cache-dir", "DIR", TB_OPTION_DIR_NAME, m.cache,                                        \
                  "keep Debian's trees there and take them again, not newer ones"),                          \
        TB_OPTION(0, "recipe-dir", "DIR", TB_OPTION_DIR_NAME, m.recipe,                                      \
                  "directory of the recipe [" ATTESTED_DEFAULT_RECIPE "]")

#define TB_OPTION_TARGET struct image_build
static const struct tb_option build_options[] = {
    TB_OPTION(0, "target", "TARGET", TB_OPTION_STRING, target, "oci, vm-qemu, vm-azure or vm-attested [oci]"),
    ROW_DEB_DIR(debs),
    TB_OPTION(0, "base-image", "IMAGE", TB_OPTION_STRING, base,
              "what to build on: a container image with the inference server in it [" IMAGE_DEFAULT_BASE
              "]; for vm-qemu a qcow2 of a Debian cloud image",
              .setting = "docker.base_image"),
    ROW_PROVIDER_KEY(provider_key, "pin it in the image: " PACKAGE_PROVIDER_KEY_HELP),
    TB_OPTION(0, "sbom", "FILE", TB_OPTION_STRING, sbom,
              "where the bill of materials (SPDX 2.3) goes [IMAGE-NAME-TAG.spdx.json, beside the output "
              "directory, or IMAGE_NAME-IMAGE_VERSION.spdx.json]; replaced when it exists"),
    TB_OPTION(0, "no-sbom", NULL, TB_OPTION_FLAG, no_sbom, "write no bill of materials"),
    TB_OPTION('n', "dry-run", NULL, TB_OPTION_FLAG, dry_run,
              "oci: show the Containerfile; vm: look whether inputs, templates and variables are right"),
    TB_OPTION_HEADING_ROW("Container image (oci):"),
    ROW_REGISTRY(registry),
    ROW_IMAGE_NAME(name),
    TB_OPTION(0, "tag", "TAG", TB_OPTION_STRING, tag, "its tag [latest]"),
    TB_OPTION(0, "label", "NAME=VALUE", TB_OPTION_LIST, labels,
              "label of the image, as in org.opencontainers.image.vendor=ACME; may be repeated"),
    ROW_NO_PUSH(no_push),
    TB_OPTION(0, "no-cache", NULL, TB_OPTION_FLAG, no_cache,
              "take a newer base if the registry has one, and make every layer afresh"),
    ROW_INSECURE_REGISTRY(insecure_registry),
    TB_OPTION_HEADING_ROW("Image of a virtual machine (vm-qemu, vm-azure):"),
    ROW_VAR(vars),
    TB_OPTION(0, "template-dir", "DIR", TB_OPTION_DIR_NAME, templates,
              "directory of the Packer templates [" IMAGE_DEFAULT_TEMPLATES "]",
              .setting = "build.template_dir"),
    TB_OPTION_HEADING_ROW("Closed image of a virtual machine (vm-attested):"),
    ROWS_ATTESTED(attested),
    ROWS_GONE_PROGRAMS,
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

/* What stands on the command line and would do nothing. What settings may say as well is for all targets. */
static int build_check_target(const struct image_build *b)
{
    static const struct {
        const char *name;
        bool oci, vm, attested;
    } only[] = {
        {"tag", .oci = true},
        {"label", .oci = true},
        {"no-push", .oci = true},
        {"no-cache", .oci = true},
        {"insecure-registry", .oci = true},
        {"base-image", .oci = true, .vm = true},
        {"var", .vm = true},
        {"settings", .attested = true},
        {"image", .attested = true},
        {"image-version", .attested = true},
        {"output-dir", .attested = true},
        {"extra-package", .attested = true},
        {"run-script", .attested = true},
        {"overlay", .attested = true},
        {"allow-unit", .attested = true},
        {"secure-boot-key", .attested = true},
        {"secure-boot-cert", .attested = true},
        {"state-key", .attested = true},
        {"no-drivers", .attested = true},
        {"append-cmdline", .attested = true},
        {"mirror", .attested = true},
        {"cache-dir", .attested = true},
        {"recipe-dir", .attested = true},
    };
    int rc = CLI_OK;

    for (size_t i = 0; i < ARRAY_SIZE(only); i++) {
        bool used = image_is_oci(b) ? only[i].oci : image_is_attested(b) ? only[i].attested : only[i].vm;

        if (!used && cli_given(&b->cli, only[i].name))
            rc = cli_usage(&b->cli, "--%s is for %s, and means nothing for %s", only[i].name,
                           only[i].attested ? "vm-attested"
                           : !only[i].vm    ? "oci"
                           : only[i].oci    ? "oci, vm-qemu and vm-azure"
                                            : "vm-qemu and vm-azure",
                           b->target);
    }
    return rc;
}

static int build_check_options(void *job)
{
    struct image_build *b = job;
    const struct cli *c = &b->cli;
    int rc = CLI_OK;

    if (!image_is_oci(b) && !image_is_qemu(b) && !image_is_attested(b) && strcmp(b->target, "vm-azure") != 0)
        return cli_usage(c, "--target: oci, vm-qemu, vm-azure or vm-attested, not '%s'", b->target);
    if (!b->debs)
        rc = cli_usage(
            c,
            "--deb-dir is missing: the directory with the .debs of trustbridge and libtbenc1 for the release "
            "of the base image");
    rc = cli_worse(rc, build_check_target(b));
    if (b->sbom && b->no_sbom)
        rc = cli_usage(c, "--sbom and --no-sbom exclude each other");
    if (image_is_attested(b))
        return cli_worse(rc, image_attested_check(b));
    return cli_worse(rc, image_is_oci(b) ? image_oci_check(b) : image_vm_check(b));
}

/* -- bill of materials ------------------------------------------------------------------------- */

/* That it cannot be written is known before an hour is spent. */
static int build_name_sbom(struct image_build *b)
{
    const char *name = strrchr(b->name, '/');
    _cleanup_free_ char *output = image_output(b), *dir = NULL;
    struct stat st;

    if (b->no_sbom || b->dry_run)
        return CLI_OK;
    if (b->sbom)
        b->sbom_path = strdup(b->sbom);
    else if (image_is_oci(b))
        b->sbom_path = tb_strf("%s-%s.spdx.json", name ? name + 1 : b->name, b->tag);
    else if (image_is_attested(b))
        b->sbom_path = tb_strf("%s.spdx.json", b->attested.output);
    else if (image_is_qemu(b))
        b->sbom_path = tb_strf("%s.spdx.json", output ? output : IMAGE_DEFAULT_OUTPUT);
    else
        b->sbom_path = tb_strf("%s-%s.spdx.json", image_var(b, "image_name", "trustbridge"),
                               image_var(b, "image_version", "1.0.0"));
    if (!b->sbom_path)
        return tbpkg_fail_errno("--sbom", -ENOMEM);
    name = strrchr(b->sbom_path, '/');
    dir = name ? strndup(b->sbom_path, (size_t)(name - b->sbom_path) + 1) : strdup(".");
    if (!dir)
        return tbpkg_fail_errno("--sbom", -ENOMEM);
    if (access(dir, W_OK) < 0)
        return tbpkg_fail_errno(b->sbom_path, -errno);
    if (asset_key_is_file(b->sbom_path))
        return tbpkg_fail(b->sbom_path, "holds a key and is never replaced",
                          "choose another name with --sbom");
    if (stat(b->sbom_path, &st) == 0 && !S_ISREG(st.st_mode))
        return tbpkg_fail(b->sbom_path, "exists and is not a regular file",
                          "choose another name with --sbom");
    return CLI_OK;
}

static cJSON *build_describe(const struct image_build *b)
{
    const char *name = strrchr(b->name, '/');
    struct spdx_subject s = {.purpose = "OPERATING-SYSTEM"};
    _cleanup_free_ char *purl = NULL;

    if (image_is_attested(b)) {
        s.name = b->attested.image;
        s.version = b->attested.version;
        return spdx_new(&s, b->inventory);
    }
    if (!image_is_oci(b)) {
        s.name = image_var(b, "image_name", "trustbridge");
        s.version = image_is_qemu(b) ? NULL : image_var(b, "image_version", "1.0.0");
        return spdx_new(&s, b->inventory);
    }
    s.purpose = "CONTAINER";
    s.name = name ? name + 1 : b->name;
    s.version = b->tag;
    if (b->digest)
        purl = tb_strf("pkg:oci/%s@%.6s%%3A%s?repository_url=%s/%s&tag=%s", s.name, b->digest, b->digest + 7,
                       b->registry, b->name, b->tag);
    s.purl = purl;
    return spdx_new(&s, b->image_id);
}

static int build_write_sbom(struct image_build *b)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    _cleanup_json_ cJSON *doc = NULL;
    int r;

    if (!b->sbom_path)
        return CLI_OK;
    if (!b->inventory) {
        tbpkg_warn("no bill of materials: the templates in %s do not hand out the list of software",
                   b->templates);
        tb_freep(&b->sbom_path);
        return CLI_OK;
    }
    doc = build_describe(b);
    r = doc ? spdx_add_inventory(doc, b->inventory) : -ENOMEM;
    if (r == -EBADMSG)
        return tbpkg_fail("tb-inventory", "says something else than a list of software", NULL);
    if (r == 0)
        r = cli_newfile_open(&f, b->sbom_path, 0666);
    if (r == 0)
        r = spdx_write(doc, &f);
    if (r == 0)
        r = tb_newfile_commit(&f, true);
    return r < 0 ? tbpkg_fail_errno(b->sbom_path, r) : CLI_OK;
}

/* -- main -------------------------------------------------------------------------------------- */

/* Of a closed image: what lies in its directory. */
static void build_add_files(cJSON *d, const char *dir)
{
    static const char *const files[][2] = {{"image", "disk.raw"},
                                           {"vhd", "disk.vhd"},
                                           {"uki", "uki.efi"},
                                           {"measurements", "measurements.json"},
                                           {"units", "units"}};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        _cleanup_free_ char *path = tb_path_join(dir, files[i][1]);

        cJSON_AddStringToObject(d, files[i][0], path ? path : files[i][1]);
    }
}

static cJSON *build_result(const struct image_build *b)
{
    cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "target", b->target);
    if (b->dry_run && image_is_oci(b)) {
        cJSON_AddStringToObject(d, "image", b->reference);
        cJSON_AddStringToObject(d, "containerfile", b->containerfile);
    } else if (b->dry_run) {
        cJSON_AddBoolToObject(d, "valid", true);
    } else if (image_is_oci(b)) {
        cJSON_AddStringToObject(d, "image", b->reference);
        cJSON_AddStringToObject(d, "image_id", b->image_id);
        cJSON_AddBoolToObject(d, "pushed", !b->no_push);
        if (b->digest)
            cJSON_AddStringToObject(d, "digest", b->digest);
    } else if (image_is_attested(b)) {
        build_add_files(d, b->resource);
    } else {
        cJSON_AddStringToObject(d, "image", b->resource);
    }
    if (b->provider_keys)
        cJSON_AddStringToObject(d, "provider_key", b->provider_keys);
    if (b->sbom_path)
        cJSON_AddStringToObject(d, "sbom", b->sbom_path);
    return d;
}

static int build_report(const struct image_build *b)
{
    _cleanup_json_ cJSON *d = build_result(b);

    if (b->cli.json)
        return cli_print_json(d);
    if (b->dry_run && image_is_oci(b))
        fputs(b->containerfile, stdout);
    else if (b->dry_run)
        tbpkg_note(b->cli.quiet, "%s: %s are valid.", b->target,
                   image_is_attested(b) ? "settings and inputs" : "templates and variables");
    else if (image_is_oci(b) && b->digest)
        printf("%.*s@%s\n", (int)(strlen(b->reference) - strlen(b->tag) - 1), b->reference, b->digest);
    else
        puts(image_is_oci(b) ? b->reference : b->resource);
    if (b->sbom_path)
        tbpkg_note(b->cli.quiet, "Bill of materials: %s", b->sbom_path);
    if (!b->dry_run && strcmp(b->target, "vm-azure") == 0)
        tbpkg_note(b->cli.quiet, "Next: tbpkg package --vm-image with that resource id.");
    if (!b->dry_run && image_is_attested(b))
        tbpkg_note(b->cli.quiet, "Next: tbpkg image register %s/measurements.json", b->resource);
    return cli_flush_stdout();
}

static int build_all(struct image_build *b)
{
    int rc = debs_check(b->debs);

    if (rc == CLI_OK && b->provider_key && !(b->provider_keys = provider_keys_setting(b->provider_key)))
        rc = CLI_FAILED;
    if (rc == CLI_OK)
        rc = build_name_sbom(b);
    if (rc == CLI_OK && !(b->work = tool_mkdtemp()))
        rc = CLI_FAILED;
    if (rc == CLI_OK)
        rc = image_is_oci(b)        ? image_oci_build(b)
             : image_is_attested(b) ? image_attested_build(b)
                                    : image_vm_build(b);
    if (rc == CLI_OK)
        rc = build_write_sbom(b);
    return rc == CLI_OK ? build_report(b) : rc;
}

static int build_main(int argc, char **argv)
{
    struct image_build b = {.cli = {.command = &tbpkg_build},
                            .target = "oci",
                            .templates = IMAGE_DEFAULT_TEMPLATES,
                            .attested = {.recipe = ATTESTED_DEFAULT_RECIPE},
                            .name = "trustbridge-runtime",
                            .tag = "latest"};
    int rc;

    if (cli_parse(&b.cli, &b, argc, argv, CLI_NO_WORDS, NULL, build_check_options) != CLI_OK) {
        build_clear(&b);
        return b.cli.rc;
    }
    /* An interrupt is looked for while a program runs and before it: then all that was made is removed. */
    cli_signals_block();
    rc = build_all(&b);
    build_clear(&b);
    cli_signals_unblock();
    return rc;
}

const struct tbpkg_command tbpkg_build = {
    .name = "build",
    .summary = "build the image that the weights are served from",
    .synopsis =
        "[--target oci] --registry REGISTRY --deb-dir DIR [OPTION]...\n"
        "       tbpkg build --target vm-qemu|vm-azure --deb-dir DIR [OPTION]...\n"
        "       tbpkg build --target vm-attested --deb-dir DIR --settings FILE --image NAME [OPTION]...",
    .about =
        "Build the image of the machine or container that will serve the model: a base and the packages of\n"
        "TrustBridge, without weights or keys. Prints what it is called: the container image with its\n"
        "digest, the file of a machine, or the resource id in the gallery, which tbpkg package takes; and\n"
        "writes a bill of materials of all software in it. Drives buildah for oci, packer for vm-qemu\n"
        "and vm-azure, and mmdebstrap, as root, for vm-attested: an image that is measured and closed.\n",
    .options = build_options,
    .run = build_main,
};
