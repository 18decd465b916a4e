/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg image: images of machines, and what a machine's TPM says that booted one. How it is predicted is in
 * provider/image/measure.c. */
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/image/approve.h"
#include "provider/image/measure.h"
#include "provider/tbpkg.h"

#define IMAGES_UKI_MAX ((size_t)1 << 30)
#define IMAGES_DOCUMENT_MAX 16384

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option images_measure_rows[] = {
    TB_OPTION(0, "image", "NAME", TB_OPTION_STRING, image, "what the image is called"),
    TB_OPTION(0, "image-version", "VERSION", TB_OPTION_STRING, image_version, "its version"),
    TB_OPTION(0, "no-drivers", NULL, TB_OPTION_FLAG, no_drivers,
              "of machines whose firmware loads no driver: PCR 2 is named too"),
    TB_OPTION(0, "output", "FILE", TB_OPTION_STRING, output,
              "write it there instead of standard output; replaced when it exists"),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};
static const struct tb_option images_approve_rows[] = {
    TB_OPTION(0, "key", "FILE", TB_OPTION_STRING, approve_key,
              "the private key that approves: RSA with 2048 bits, PEM"),
    TB_OPTION(0, "no-drivers", NULL, TB_OPTION_FLAG, no_drivers,
              "only where the firmware loaded no driver: as the image was measured"),
    TB_OPTION(0, "output", "FILE", TB_OPTION_STRING, output,
              "write it there instead of standard output; replaced when it exists"),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};
static const struct tb_option images_list_rows[] = {ROWS_REMOTE};
static const struct tb_option images_change_rows[] = {ROWS_REMOTE_CHANGE};

static int images_check_name(struct admin_job *j, const char *option, const char *name)
{
    if (!name)
        return cli_need(&j->cli, false, option);
    return measure_name_valid(name)
               ? CLI_OK
               : cli_usage(&j->cli, "%s \"%s\": must be " MEASURE_NAME_WORDS, option, name);
}

static int images_check_measure(struct admin_job *j)
{
    int rc = images_check_name(j, "--image", j->image);

    return cli_worse(rc, images_check_name(j, "--image-version", j->image_version));
}

/* The time that a reproducible build says it is, else none: the same file gives the same document. */
static const char *images_created(char out[static TB_RFC3339_MAX])
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    unsigned long long s;
    char end;

    if (!epoch || sscanf(epoch, "%11llu%c", &s, &end) != 1)
        return NULL;
    return tb_rfc3339_format(s * TB_USEC_PER_SEC, 0, out);
}

static int images_write(const struct admin_job *j, const cJSON *doc)
{
    _cleanup_free_ char *text = cJSON_Print(doc), *line = text ? tb_strf("%s\n", text) : NULL;
    int r = line ? tb_write_file_atomic(j->output, line, strlen(line), 0644) : -ENOMEM;

    return r < 0 ? tbpkg_fail_errno(j->output, r) : CLI_OK;
}

static int images_read(const struct admin_job *j, struct measured *ret)
{
    char err[MEASURE_ERR_MAX] = "";
    _cleanup_free_ char *uki = NULL;
    size_t len;
    int r = tb_read_file(j->operand, IMAGES_UKI_MAX, &uki, &len);

    if (r < 0)
        return tbpkg_fail_errno(j->operand, r);
    r = measure_uki((const uint8_t *)uki, len, ret, err);
    if (r < 0)
        return *err ? tbpkg_fail(j->operand, err, NULL) : tbpkg_fail_errno(j->operand, r);
    return CLI_OK;
}

static int images_measure(struct admin_job *j)
{
    _cleanup_(measured_clear) struct measured m = {0};
    char created[TB_RFC3339_MAX];
    _cleanup_json_ cJSON *doc = NULL;
    int rc = images_read(j, &m);

    if (rc != CLI_OK)
        return rc;
    if (*m.open.data)
        tbpkg_warn("%s: its command line lets others in: it %s. Contracts take it only with --allow-debug",
                   j->operand, m.open.data);
    m.no_drivers = j->no_drivers;
    doc = measured_describe(&m, j->image, j->image_version, images_created(created));
    if (!doc)
        return tbpkg_fail_errno(j->operand, -ENOMEM);
    return j->output ? images_write(j, doc) : cli_print_json(doc);
}

static int images_check_approve(struct admin_job *j)
{
    return cli_need(&j->cli, j->approve_key, "--key");
}

static int images_approve(struct admin_job *j)
{
    _cleanup_(measured_clear) struct measured m = {0};
    char err[APPROVE_ERR_MAX];
    _cleanup_free_ char *pem = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    size_t len;
    int rc = images_read(j, &m), r;

    if (rc != CLI_OK)
        return rc;
    if (*m.open.data)
        return tbpkg_fail(
            j->operand, m.open.data,
            "its command line lets others in, and they would have the state: approve none such");
    r = tb_read_file(j->approve_key, APPROVE_KEY_MAX, &pem, &len);
    if (r < 0)
        return tbpkg_fail_errno(j->approve_key, r);
    m.no_drivers = j->no_drivers;
    r = approve_image(&m, pem, len, &doc, err);
    tb_erase(pem, len);
    if (r < 0)
        return tbpkg_fail(j->approve_key, err, NULL);
    return j->output ? images_write(j, doc) : cli_print_json(doc);
}

/* -- at the control plane ---------------------------------------------------------------------- */
static const struct table_column images_columns[] = {
    {"IMAGE", "image", TABLE_TEXT, NULL},      {"VERSION", "version", TABLE_TEXT, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},      {"REGISTERED", "registered_at", TABLE_TEXT, NULL},
    {"BY", "registered_by", TABLE_TEXT, NULL},
};

static int images_register(struct admin_job *j)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ cJSON *doc = NULL, *image = NULL;
    char err[TB_JSON_ERR_MAX];
    size_t len;
    int rc, r = tb_read_file(j->operand, IMAGES_DOCUMENT_MAX, &text, &len);

    if (r < 0)
        return tbpkg_fail_errno(j->operand, r);
    if (tb_json_parse(text, len, IMAGES_DOCUMENT_MAX, &doc, err) < 0)
        return tbpkg_fail(j->operand, err, "name the measurements.json that tbpkg image measure wrote");
    rc = remote_change(&j->remote, "POST", "images", doc, &(struct remote_object){"image", j->operand, NULL},
                       &image);
    if (rc != CLI_OK)
        return rc;
    if (cJSON_IsTrue(tb_json_member(image, "debug")))
        tbpkg_warn("%s@%s lets others in by its command line: contracts take it only with --allow-debug",
                   admin_text(image, "image"), admin_text(image, "version"));
    return admin_print_done(
        j, image, "Image %s@%s is registered: tbpkg contract add --attest image --image %s.",
        admin_text(image, "image"), admin_text(image, "version"), admin_text(image, "image"));
}

static int images_list(struct admin_job *j)
{
    return admin_list(j, "images", "images", images_columns, ARRAY_SIZE(images_columns));
}

static int images_check_revoke(struct admin_job *j)
{
    const char *at = strchr(j->operand, '@');
    _cleanup_free_ char *name = at ? strndup(j->operand, (size_t)(at - j->operand)) : NULL;

    return name && measure_name_valid(name) && measure_name_valid(at + 1)
               ? CLI_OK
               : cli_usage(&j->cli, "\"%s\" is not IMAGE@VERSION", j->operand);
}

static int images_revoke(struct admin_job *j)
{
    const char *at = strchr(j->operand, '@');
    _cleanup_free_ char *name = strndup(j->operand, (size_t)(at - j->operand));
    _cleanup_free_ char *path = name ? remote_path("images", name, "versions", at + 1, "revoke") : NULL;
    _cleanup_json_ cJSON *image = NULL;
    int rc = remote_change(&j->remote, "POST", path, NULL, &(struct remote_object){"image", j->operand, NULL},
                           &image);

    return rc == CLI_OK
               ? admin_print_done(
                     j, image, "Image %s is revoked: machines that booted it learn it at their next renewal.",
                     j->operand)
               : rc;
}

static const struct admin_command images_commands[] = {
    {
        .c = {.name = "image measure",
              .summary = "predict what the TPM of its machines says",
              .synopsis = "UKI --image NAME --image-version VERSION [OPTION]...",
              .about = "Predict the PCRs 4 and 11 of a machine whose firmware started this unified kernel "
                       "image, from the\n"
                       "file alone, and print measurements.json, which tbpkg image register takes.\n",
              .options = images_measure_rows},
        .operand = "UKI",
        .check = images_check_measure,
        .any_operand = true,
        .work = images_measure,
        .local = true,
    },
    {
        .c = {.name = "image approve",
              .summary = "let an image open what its predecessors kept",
              .synopsis = "UKI --key FILE [OPTION]...",
              .about =
                  "Sign that machines which boot this unified kernel image may open the state that earlier "
                  "images with\n"
                  "the same key left on their disks (tb-state(8)), and print what an image carries for "
                  "it.\n",
              .options = images_approve_rows},
        .operand = "UKI",
        .check = images_check_approve,
        .any_operand = true,
        .work = images_approve,
        .local = true,
    },
    {
        .c = {.name = "image register",
              .summary = "let contracts name an image",
              .synopsis = "MEASUREMENTS [OPTION]...",
              .about = "Give the control plane the measurements of an image (measurements.json), so that "
                       "contracts of the\n"
                       "level image can name it. The same once more is no error.\n",
              .options = images_change_rows},
        .operand = "MEASUREMENTS",
        .any_operand = true,
        .work = images_register,
    },
    {
        .c = {.name = "image list",
              .summary = "list images that are registered",
              .synopsis = "[OPTION]...",
              .about = "List the images that are registered, revoked ones too.\n",
              .options = images_list_rows},
        .work = images_list,
    },
    {
        .c = {.name = "image revoke",
              .summary = "give machines of an image no more keys",
              .synopsis = "IMAGE@VERSION [OPTION]...",
              .about = "Refuse the machines that booted this image, for good, from their next renewal on.\n",
              .options = images_change_rows},
        .operand = "IMAGE@VERSION",
        .any_operand = true,
        .check = images_check_revoke,
        .work = images_revoke,
    },
};

static int images_main(int argc, char **argv)
{
    static const struct admin_group group = {"image", "Images of machines, and what their TPMs say.\n",
                                             images_commands, ARRAY_SIZE(images_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_image = {.name = "image",
                                          .summary =
                                              "images of machines: measure, approve, register, list, revoke",
                                          .run = images_main};
