/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg image: images of machines, and what a machine's TPM says that booted one. How it is predicted is in
 * provider/image/measure.c. */
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/image/measure.h"
#include "provider/tbpkg.h"

#define IMAGES_UKI_MAX ((size_t)1 << 30)

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option images_measure_rows[] = {
    TB_OPTION(0, "image", "NAME", TB_OPTION_STRING, image, "what the image is called"),
    TB_OPTION(0, "image-version", "VERSION", TB_OPTION_STRING, image_version, "its version"),
    TB_OPTION(0, "output", "FILE", TB_OPTION_STRING, output,
              "write it there instead of standard output; replaced when it exists"),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

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

static int images_measure(struct admin_job *j)
{
    _cleanup_(measured_clear) struct measured m = {0};
    char err[MEASURE_ERR_MAX] = "", created[TB_RFC3339_MAX];
    _cleanup_free_ char *uki = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    size_t len;
    int r = tb_read_file(j->operand, IMAGES_UKI_MAX, &uki, &len);

    if (r < 0)
        return tbpkg_fail_errno(j->operand, r);
    r = measure_uki((const uint8_t *)uki, len, &m, err);
    if (r < 0)
        return *err ? tbpkg_fail(j->operand, err, NULL) : tbpkg_fail_errno(j->operand, r);
    if (*m.open.data)
        tbpkg_warn("%s: its command line lets others in: it %s. Contracts take it only with --allow-debug",
                   j->operand, m.open.data);
    doc = measured_describe(&m, j->image, j->image_version, images_created(created));
    if (!doc)
        return tbpkg_fail_errno(j->operand, -ENOMEM);
    return j->output ? images_write(j, doc) : cli_print_json(doc);
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
        .work = images_measure,
        .local = true,
    },
};

static int images_main(int argc, char **argv)
{
    static const struct admin_group group = {"image", "Images of machines, and what their TPMs say.\n",
                                             images_commands, ARRAY_SIZE(images_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_image = {
    .name = "image", .summary = "images of machines: measure", .run = images_main};
