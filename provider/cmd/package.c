/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg package: the zip that Partner Center wants of a managed application, from the templates of bicep/
 * with this asset's values as defaults. The same inputs make the same bytes. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "provider/azure/blob.h"
#include "common/config.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "provider/image/spdx.h"
#include "provider/publish/template.h"
#include "provider/cmd/rows.h"
#include "provider/remote/remote.h"
#include "provider/tbpkg.h"
#include "provider/cli/interrupt.h"

#define DEFAULT_ZIP "managed-app.zip"
#define DEFAULT_TEMPLATES "/usr/share/trustbridge/managed-app"

enum { MAIN_TEMPLATE, FORM, VIEW, N_FILES };
static const char *const names[N_FILES] = {"mainTemplate.json", "createUiDefinition.json",
                                           "viewDefinition.json"};

struct package_job {
    struct cli cli;
    const char *asset_id, *endpoint, *image, *vm_image, *zip, *templates, *version, *provider_key, *sbom;
    struct tb_option_list sets;
    bool no_image, no_sbom, dry_run;

    cJSON *doc[N_FILES];
    char *text[N_FILES]; /* what goes into the zip */
    char package_version[32];
    struct tb_newfile out, sbom_out;
    char *sbom_path; /* NULL: none is written */
    uint64_t bytes;
    char sha256[65];
};

static void package_job_clear(struct package_job *j)
{
    tb_option_list_clear(&j->sets);
    for (size_t i = 0; i < N_FILES; i++) {
        tb_json_freep(&j->doc[i]);
        tb_freep(&j->text[i]);
    }
    tb_newfile_abort(&j->out);
    tb_newfile_abort(&j->sbom_out);
    tb_freep(&j->sbom_path);
    cli_temp_forget_all();
}

/* -- command line ------------------------------------------------------------------------------ */

#define TB_OPTION_TARGET struct package_job
static const struct tb_option package_options[] = {
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, asset_id,
              "name of the asset that the machines will serve"),
    ROW_EDC_ENDPOINT(endpoint),
    ROW_VM_IMAGE(vm_image),
    ROW_IMAGE(image),
    ROW_NO_IMAGE(no_image),
    TB_OPTION('o', "output-zip", "FILE", TB_OPTION_STRING, zip,
              "the package [" DEFAULT_ZIP "]; replaced when it exists"),
    TB_OPTION(0, "output", "FILE", TB_OPTION_STRING, zip, "the same as --output-zip"),
    TB_OPTION(
        0, "sbom", "FILE", TB_OPTION_STRING, sbom,
        "where its bill of materials (SPDX 2.3) goes [beside it, NAME.spdx.json]; replaced when it exists"),
    TB_OPTION(0, "no-sbom", NULL, TB_OPTION_FLAG, no_sbom, "write no bill of materials"),
    ROW_SET(sets),
    TB_OPTION('n', "dry-run", NULL, TB_OPTION_FLAG, dry_run, "check everything, write nothing"),
    ROW_PACKAGE_VERSION(version),
    ROW_PROVIDER_KEY(provider_key, PACKAGE_PROVIDER_KEY_HELP),
    TB_OPTION(
        0, "template-dir", "DIR", TB_OPTION_STRING, templates,
        "where mainTemplate.json, createUiDefinition.json and viewDefinition.json are [" DEFAULT_TEMPLATES
        "]",
        .setting = "package.template_dir"),
    CLI_COMMON_ROWS,
};

/* PUBLISHER:OFFER:PLAN[:VERSION] has no '/', a reference to a container image has one. */
static bool package_is_marketplace(const char *image)
{
    size_t colons = 0;

    for (const char *p = image; *p; p++)
        colons += *p == ':';
    return !strchr(image, '/') && colons >= 2;
}

static bool package_is_resource(const char *image)
{
    return strncasecmp(image, "/subscriptions/", 15) == 0;
}

/* Of a machine, whether by --vm-image or by --image. */
static bool package_names_image(const struct package_job *j)
{
    if (j->vm_image || (j->image && (package_is_marketplace(j->image) || package_is_resource(j->image))))
        return true;
    for (size_t i = 0; i < j->sets.n; i++)
        if (strncmp(j->sets.v[i], "imageId=", 8) == 0 || strncmp(j->sets.v[i], "imagePlan=", 10) == 0)
            return true;
    return false;
}

static int package_check_image(const struct package_job *j)
{
    const struct cli *c = &j->cli;

    if (package_names_image(j))
        return j->no_image ? cli_usage(c, "--no-image: but an image is named") : CLI_OK;
    if (j->no_image)
        return CLI_OK;
    if (j->image)
        return cli_usage(
            c,
            "--image %s: the machines start from an image of their own and pull no container; build "
            "it with tbpkg build --target vm-azure and name it with --vm-image; --no-image leaves "
            "that to whoever deploys the package",
            j->image);
    return cli_usage(c,
                     "--vm-image is missing: nobody can deploy the package without an image of the machines; "
                     "tbpkg build --target vm-azure makes one, and --no-image leaves it to whoever deploys");
}

static int package_check_options(void *job)
{
    const struct package_job *j = job;
    const struct cli *c = &j->cli;
    char err[BLOB_ERR_MAX];
    int rc = cli_check_asset_id(c, j->asset_id);

    if (!j->endpoint)
        rc = cli_usage(c, REMOTE_ENDPOINT_MISSING);
    else if (blob_base_url_check("--edc-endpoint", j->endpoint, false, err) < 0)
        rc = cli_usage(c, "%s", err);
    else if (strncasecmp(j->endpoint, "https://", 8) != 0)
        rc = cli_usage(c, "--edc-endpoint must be https://");
    for (size_t i = 0; i < j->sets.n; i++)
        if (!strchr(j->sets.v[i], '=') || j->sets.v[i][0] == '=')
            rc = cli_usage(c, "--set: must be NAME=VALUE");
    if (j->sbom && j->no_sbom)
        rc = cli_usage(c, "--sbom and --no-sbom exclude each other");
    if (j->sbom && strcmp(j->sbom, j->zip) == 0)
        rc = cli_usage(c, "--sbom: names the package itself");
    return cli_worse(rc, package_check_image(j));
}

/* -- templates --------------------------------------------------------------------------------- */

static int package_read_templates(struct package_job *j)
{
    for (size_t i = 0; i < N_FILES; i++) {
        _cleanup_free_ char *path = tb_path_join(j->templates, names[i]), *text = NULL;
        char err[TEMPLATE_ERR_MAX];
        size_t len;
        int r = path ? tb_read_file(path, TEMPLATE_FILE_MAX, &text, &len) : -ENOMEM;

        if (r == -ENOENT)
            return tbpkg_fail(path, strerror(ENOENT),
                              "name the directory of the templates with --template-dir");
        if (r < 0)
            return tbpkg_fail_errno(path ? path : names[i], r);
        r = template_parse(text, len, &j->doc[i], err);
        if (r < 0)
            return tbpkg_fail(path, err, NULL);
    }
    return CLI_OK;
}

static int package_set(struct package_job *j, const char *name, const char *value)
{
    char err[TEMPLATE_ERR_MAX];

    if (template_set(j->doc[MAIN_TEMPLATE], name, value, err) < 0)
        return tbpkg_fail(names[MAIN_TEMPLATE], err, NULL);
    if (template_form_asks(j->doc[FORM], name))
        tbpkg_warn("%s: the portal's form asks for it too, and what it says wins", name);
    return CLI_OK;
}

static int package_set_marketplace(struct package_job *j, const char *image)
{
    static const char *const parameters[] = {"imagePublisher", "imageOffer", "imagePlan", "imageVersion"};
    _cleanup_free_ char *copy = strdup(image);
    char *rest = copy, *part;
    int rc = copy ? CLI_OK : tbpkg_fail_errno("--vm-image", -ENOMEM);

    for (size_t i = 0; rc == CLI_OK && (part = strsep(&rest, ":")); i++)
        rc = i < ARRAY_SIZE(parameters) && *part
                 ? package_set(j, parameters[i], part)
                 : cli_usage(&j->cli, "--vm-image: PUBLISHER:OFFER:PLAN[:VERSION], not '%s'", image);
    return rc;
}

static int package_ask_image(struct package_job *j)
{
    static const struct template_question q = {
        .name = "imageId",
        .label = "Image of the machines",
        .tip = "Resource id of an image version in a Compute Gallery that your account can read.",
        .regex = "^/subscriptions/[^/]{1,64}/resourceGroups/[^/]{1,90}/providers/Microsoft\\.Compute/"
                 "(galleries/[^/]{1,80}/images/[^/]{1,80}(/versions/[^/]{1,40})?|images/[^/]{1,80})$",
        .message = "A resource id such as /subscriptions/.../galleries/NAME/images/NAME/versions/1.0.0.",
    };
    char err[TEMPLATE_ERR_MAX];

    if (!template_parameter(j->doc[MAIN_TEMPLATE], q.name))
        return CLI_OK; /* a template that settles it by itself */
    return template_ask(j->doc[FORM], &q, err) < 0 ? tbpkg_fail(names[FORM], err, NULL) : CLI_OK;
}

static int package_set_image(struct package_job *j)
{
    const char *image = j->vm_image ? j->vm_image : j->image;

    if (j->image && template_parameter(j->doc[MAIN_TEMPLATE], "containerImage")) {
        if (package_set(j, "containerImage", j->image) != CLI_OK)
            return CLI_FAILED;
        image = j->vm_image;
    }
    if (j->no_image)
        return package_ask_image(j);
    if (!image)
        return CLI_OK; /* by --set */
    if (package_is_resource(image))
        return package_set(j, "imageId", image);
    if (package_is_marketplace(image))
        return package_set_marketplace(j, image);
    return cli_usage(&j->cli, "--vm-image: PUBLISHER:OFFER:PLAN[:VERSION] or a resource id, not '%s'", image);
}

static int package_set_provider_key(struct package_job *j)
{
    _cleanup_free_ char *text = NULL, *line = NULL;

    if (!j->provider_key)
        return CLI_OK;
    text = provider_keys_setting(j->provider_key);
    if (!text)
        return CLI_FAILED;
    if (package_set(j, "providerKey", text) != CLI_OK)
        return CLI_FAILED;
    line = tb_strf("Provider's key: %s", text);
    if (!line || template_form_text(j->doc[FORM], "providerKeyText", line) == -ENOMEM)
        return tbpkg_fail_errno("--provider-key", -ENOMEM);
    return CLI_OK;
}

static int package_set_others(struct package_job *j)
{
    int rc = CLI_OK;

    for (size_t i = 0; rc == CLI_OK && i < j->sets.n; i++) {
        const char *eq = strchr(j->sets.v[i], '=');
        _cleanup_free_ char *name = strndup(j->sets.v[i], (size_t)(eq - j->sets.v[i]));

        rc = name ? package_set(j, name, eq + 1) : tbpkg_fail_errno("--set", -ENOMEM);
    }
    return rc;
}

/* Partner Center wants X.Y.Z, a template has X.Y.Z.W. */
static int package_set_version(struct package_job *j)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j->doc[MAIN_TEMPLATE], "contentVersion");
    const char *s = j->version ? j->version : cJSON_IsString(v) ? v->valuestring : "";
    unsigned a, b, c;
    int n = 0;
    char full[48];

    if (strspn(s, "0123456789.") != strlen(s) || sscanf(s, "%5u.%5u.%5u%n", &a, &b, &c, &n) != 3 ||
        (j->version && s[n]))
        return j->version
                   ? cli_usage(&j->cli, "--package-version: three numbers such as 1.0.0, not '%s'", s)
                   : tbpkg_fail(names[MAIN_TEMPLATE], "has no contentVersion", "give --package-version");
    snprintf(j->package_version, sizeof(j->package_version), "%u.%u.%u", a, b, c);
    if (!j->version)
        return CLI_OK;
    snprintf(full, sizeof(full), "%s.0", j->package_version);
    cJSON_DeleteItemFromObjectCaseSensitive(j->doc[MAIN_TEMPLATE], "contentVersion");
    cJSON_AddStringToObject(j->doc[MAIN_TEMPLATE], "contentVersion", full);
    return CLI_OK;
}

static int package_fill_in(struct package_job *j)
{
    char err[TEMPLATE_ERR_MAX];
    int rc = package_set(j, "assetId", j->asset_id);

    if (rc == CLI_OK)
        rc = package_set(j, "edcEndpoint", j->endpoint);
    if (rc == CLI_OK)
        rc = package_set_image(j);
    if (rc == CLI_OK)
        rc = package_set_provider_key(j);
    if (rc == CLI_OK)
        rc = package_set_others(j);
    if (rc == CLI_OK)
        rc = package_set_version(j);
    if (rc != CLI_OK)
        return rc;
    if (template_check_form(j->doc[MAIN_TEMPLATE], j->doc[FORM], err) < 0)
        return tbpkg_fail(names[FORM], err, NULL);
    for (size_t i = 0; i < N_FILES; i++) {
        if (template_check_secrets(j->doc[i], err) < 0)
            return tbpkg_fail(names[i], err, "everyone can read a package: remove it");
        j->text[i] = cJSON_Print(j->doc[i]);
        if (!j->text[i])
            return tbpkg_fail_errno(names[i], -ENOMEM);
    }
    return CLI_OK;
}

/* The default of a string parameter, "" when there is none. */
static const char *package_value_of(const struct package_job *j, const char *name)
{
    const cJSON *v =
        cJSON_GetObjectItemCaseSensitive(template_parameter(j->doc[MAIN_TEMPLATE], name), "defaultValue");

    return cJSON_IsString(v) ? v->valuestring : "";
}

/* -- the zip ----------------------------------------------------------------------------------- */

static int package_add_file(struct archive *a, const char *name, const char *text)
{
    struct archive_entry *e = archive_entry_new();
    size_t n = strlen(text);
    bool good;

    if (!e)
        return -ENOMEM;
    /* No time, no owner: they would differ from one run to the next. */
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, (la_int64_t)n);
    good = archive_write_header(a, e) == ARCHIVE_OK && archive_write_data(a, text, n) == (la_ssize_t)n;
    archive_entry_free(e);
    return good ? 0 : -(archive_errno(a) > 0 ? archive_errno(a) : EIO);
}

static int package_write_zip(struct package_job *j)
{
    struct archive *a = archive_write_new();
    int r = a ? 0 : -ENOMEM;

    if (r == 0 && (archive_write_set_format_zip(a) != ARCHIVE_OK ||
                   archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
                   archive_write_open_fd(a, j->out.fd) != ARCHIVE_OK))
        r = -EIO;
    for (size_t i = 0; r == 0 && i < N_FILES; i++)
        r = package_add_file(a, names[i], j->text[i]);
    if (r == 0 && archive_write_close(a) != ARCHIVE_OK)
        r = -(archive_errno(a) > 0 ? archive_errno(a) : EIO);
    archive_write_free(a);
    return r;
}

static int package_hash_zip(struct package_job *j)
{
    _cleanup_free_ char *text = NULL;
    uint8_t digest[32];
    unsigned n = sizeof(digest);
    size_t len;
    int r = tb_read_file(j->out.tmp_path, 8 * TEMPLATE_FILE_MAX, &text, &len);

    if (r < 0)
        return r;
    if (EVP_Digest(text, len, digest, &n, EVP_sha256(), NULL) != 1)
        return -EIO;
    tb_hex_encode(digest, sizeof(digest), j->sha256);
    j->bytes = len;
    return 0;
}

/* -- bill of materials ------------------------------------------------------------------------- */

static int package_open_sbom(struct package_job *j)
{
    size_t n = strlen(j->zip);
    int r;

    if (j->no_sbom)
        return CLI_OK;
    if (n > 4 && strcmp(j->zip + n - 4, ".zip") == 0)
        n -= 4;
    j->sbom_path = j->sbom ? strdup(j->sbom) : tb_strf("%.*s.spdx.json", (int)n, j->zip);
    if (!j->sbom_path)
        return tbpkg_fail_errno("--sbom", -ENOMEM);
    if (asset_key_is_file(j->sbom_path))
        return tbpkg_fail(j->sbom_path, "holds a key and is never replaced", "choose another name");
    tb_newfile_sweep(j->sbom_path); /* of a run that was killed; so below */
    r = cli_newfile_open(&j->sbom_out, j->sbom_path, 0666);
    return r < 0 ? tbpkg_fail_errno(j->sbom_path, r) : CLI_OK;
}

/* Its files, and the image that its machines start from. */
static int package_write_sbom(struct package_job *j)
{
    const char *name = strrchr(j->zip, '/'), *id = package_value_of(j, "imageId"),
               *plan = package_value_of(j, "imagePlan");
    const struct spdx_subject s = {.name = name ? name + 1 : j->zip,
                                   .version = j->package_version,
                                   .purpose = "ARCHIVE",
                                   .sha256 = j->sha256};
    _cleanup_json_ cJSON *doc = NULL;
    int r = 0;

    if (!j->sbom_path)
        return 0;
    doc = spdx_new(&s, j->asset_id);
    if (!doc)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < N_FILES; i++)
        r = spdx_add_file(doc, names[i], j->text[i], strlen(j->text[i]));
    if (r == 0 && *id) {
        r = spdx_add_needed(doc, id, NULL);
    } else if (r == 0 && *plan) {
        _cleanup_free_ char *image = tb_strf("%s:%s:%s", package_value_of(j, "imagePublisher"),
                                             package_value_of(j, "imageOffer"), plan);

        r = image ? spdx_add_needed(doc, image, package_value_of(j, "imageVersion")) : -ENOMEM;
    }
    if (r == 0)
        r = spdx_write(doc, &j->sbom_out);
    return r == 0 ? tb_newfile_commit(&j->sbom_out, true) : r;
}

static int package_make_zip(struct package_job *j)
{
    struct stat st;
    int r;

    if (stat(j->zip, &st) == 0 && !S_ISREG(st.st_mode))
        return tbpkg_fail(j->zip, "exists and is not a regular file", "choose another name");
    if (asset_key_is_file(j->zip))
        return tbpkg_fail(j->zip, "holds a key and is never replaced", "choose another name");
    tb_newfile_sweep(j->zip);
    r = cli_newfile_open(&j->out, j->zip, 0666);
    if (r == 0 && package_open_sbom(j) != CLI_OK)
        return CLI_FAILED;
    if (r == 0)
        r = package_write_zip(j);
    if (r == 0)
        r = package_hash_zip(j);
    if (r < 0)
        return tbpkg_fail_errno(j->zip, r);
    r = package_write_sbom(j);
    if (r < 0)
        return tbpkg_fail_errno(j->sbom_path, r);
    r = tb_newfile_commit(&j->out, true);
    return r < 0 ? tbpkg_fail_errno(j->zip, r) : CLI_OK;
}

/* -- report ------------------------------------------------------------------------------------ */

/* The order in which Partner Center asks. */
static cJSON *package_describe(const struct package_job *j)
{
    cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "package", j->zip);
    cJSON_AddStringToObject(d, "version", j->package_version);
    cJSON_AddStringToObject(d, "sha256", j->sha256);
    tb_json_add_uint(d, "bytes", j->bytes);
    if (j->sbom_path)
        cJSON_AddStringToObject(d, "sbom", j->sbom_path);
    cJSON_AddStringToObject(d, "asset_id", j->asset_id);
    cJSON_AddStringToObject(d, "edc_endpoint", j->endpoint);
    if (*package_value_of(j, "imageId"))
        cJSON_AddStringToObject(d, "vm_image_id", package_value_of(j, "imageId"));
    if (*package_value_of(j, "imagePlan")) {
        cJSON_AddStringToObject(d, "vm_image_publisher", package_value_of(j, "imagePublisher"));
        cJSON_AddStringToObject(d, "vm_image_offer", package_value_of(j, "imageOffer"));
        cJSON_AddStringToObject(d, "vm_image_plan", package_value_of(j, "imagePlan"));
    }
    if (*package_value_of(j, "providerKey"))
        cJSON_AddStringToObject(d, "provider_key", package_value_of(j, "providerKey"));
    if (*package_value_of(j, "billingDimension"))
        cJSON_AddStringToObject(d, "metering_dimension", package_value_of(j, "billingDimension"));
    if (*package_value_of(j, "billingPlanId"))
        cJSON_AddStringToObject(d, "metering_plan", package_value_of(j, "billingPlanId"));
    return d;
}

static int package_report(const struct package_job *j)
{
    _cleanup_json_ cJSON *d = package_describe(j);
    const cJSON *i;

    if (j->cli.json)
        return cli_print_json(d);
    cJSON_ArrayForEach (i, d) {
        printf("%-20s %s\n", i->string, i->valuestring); /* a number of ours is text, too */
    }
    tbpkg_note(
        j->cli.quiet,
        "Next: in Partner Center, under the plan's technical configuration, give this version and upload the "
        "package; a plan that meters needs a dimension of that id.");
    return cli_flush_stdout();
}

/* Of a dry run: nothing was written. */
static int package_report_check(const struct package_job *j)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();

    tbpkg_note(j->cli.quiet, "%s: the templates and values are valid.", j->asset_id);
    cJSON_AddBoolToObject(d, "valid", true);
    cJSON_AddStringToObject(d, "version", j->package_version);
    return j->cli.json ? cli_print_json(d) : CLI_OK;
}

static int package_main(int argc, char **argv)
{
    _cleanup_(package_job_clear) struct package_job j = {.cli = {.command = &tbpkg_package},
                                                         .zip = DEFAULT_ZIP,
                                                         .templates = DEFAULT_TEMPLATES,
                                                         .out = TB_NEWFILE_INIT,
                                                         .sbom_out = TB_NEWFILE_INIT};
    int rc;

    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, package_check_options) != CLI_OK)
        return j.cli.rc;
    rc = package_read_templates(&j);
    if (rc == CLI_OK)
        rc = package_fill_in(&j);
    if (rc == CLI_OK && j.dry_run)
        return package_report_check(&j);
    if (rc == CLI_OK)
        rc = package_make_zip(&j);
    return rc == CLI_OK ? package_report(&j) : rc;
}

const struct tbpkg_command tbpkg_package = {
    .name = "package",
    .summary = "make the managed application's package for Partner Center",
    .synopsis = "--asset-id ID --edc-endpoint URL --vm-image IMAGE|--no-image [OPTION]...",
    .about =
        "Make the zip that Partner Center takes for a managed application: the templates with the values\n"
        "of this asset as their parameters' defaults. The same inputs make the same bytes. Everybody who\n"
        "deploys it can read it: values that look like a secret are refused.\n",
    .options = package_options,
    .run = package_main,
};
