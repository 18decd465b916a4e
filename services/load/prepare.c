/* SPDX-License-Identifier: Apache-2.0 */
#include "load/prepare.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/serving.h"
#include "load/cmdline.h"
#include "load/runtime.h"
#include "load/trust.h"

#define MANIFEST_NAME "model.manifest.json"

int tb_load_command(const struct tb_config *c, char ***ret, struct tb_outcome *o)
{
    const char *line = c->runtime_exec;
    char err[TB_CMDLINE_ERR_MAX], **words;
    int r;

    if (!line) {
        if (c->delivery == TB_DELIVERY_FIFO)
            return 0;
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "TB_RUNTIME_EXEC is not set; TB_DELIVERY=%s needs the command line of the "
                              "inference server, with %s "
                              "where the model's %s belongs",
                              tb_delivery_name(c->delivery),
                              c->delivery == TB_DELIVERY_S3 ? TB_CMDLINE_S3 : TB_CMDLINE_MODEL,
                              c->delivery == TB_DELIVERY_S3 ? "address" : "path");
    }
    r = tb_cmdline_split(line, strlen(line), &words, err);
    if (r == -ENOMEM)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG, "TB_RUNTIME_EXEC cannot be split into words: %s", err);
    *ret = words;
    if (!tb_runtime_found(words[0]))
        return tb_outcome_set(o, TB_EXIT_CONFIG, "TB_RUNTIME_EXEC: %s is not an executable file%s", words[0],
                              strchr(words[0], '/') ? "" : " in PATH");
    if (c->delivery == TB_DELIVERY_S3 && !tb_cmdline_has(words, TB_CMDLINE_S3))
        return tb_outcome_set(
            o, TB_EXIT_CONFIG,
            "TB_RUNTIME_EXEC has no {s3}; write it where the model's address belongs, or set "
            "TB_DELIVERY=auto");
    if (c->delivery == TB_DELIVERY_S3 && tb_cmdline_has(words, TB_CMDLINE_MODEL))
        return tb_outcome_set(
            o, TB_EXIT_CONFIG,
            "TB_RUNTIME_EXEC has {model}, and with TB_DELIVERY=s3 there is no path; write {s3} "
            "instead, or set TB_DELIVERY=auto");
    return 0;
}

static int load_read_manifest(struct tb_load *l, const char *dir)
{
    _cleanup_free_ char *path = tb_path_join(dir, MANIFEST_NAME), *text = NULL;
    struct tbenc_error e = {0};
    size_t len;
    int r;

    if (!path)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -ENOENT)
        return tb_outcome_set(&l->outcome, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished",
                              path);
    if (r == -EFBIG)
        return tb_outcome_set(&l->outcome, TB_EXIT_DATAERR, "%s is larger than any manifest may be", path);
    if (r < 0)
        return tb_outcome_set(&l->outcome, tb_errno_is_ours(r) ? TB_EXIT_IOERR : TB_EXIT_DATAERR,
                              "cannot read %s: %s", path, strerror(-r));
    SHA256((const uint8_t *)text, len, l->manifest_sha256);
    r = tbenc_manifest_parse(text, len, TBENC_OVERLAY, &l->manifest, &e);
    if (r < 0)
        return tb_outcome_set(&l->outcome, r == -ENOMEM ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "%s: %s", path,
                              e.message);
    if (strcmp(l->manifest->asset_id, l->config->asset_id) != 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_DATAERR, "%s is of asset '%s', TB_ASSET_ID is '%s'", path,
                              l->manifest->asset_id, l->config->asset_id);
    return 0;
}

/* From here on only the files matter that are delivered, whichever ciphertext they are in. */
static int load_take_tree(struct tb_load *l)
{
    struct tbenc_manifest *tree;

    if (tbenc_manifest_tree(l->manifest, &tree) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    (void)tbenc_manifest_free(l->manifest);
    l->manifest = tree;
    return 0;
}

int tb_load_check_paths(struct tb_load *l)
{
    const struct tb_config *c = l->config;
    _cleanup_free_ char *model = tb_strf("%s/", c->model_dir);
    int r = tb_trust_check(l, "TB_READY_SIGNAL", c->ready_signal);

    if (r != 0)
        return r;
    if (!model)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    if (c->delivery == TB_DELIVERY_S3)
        return 0;
    return c->delivery == TB_DELIVERY_FIFO ? tb_trust_check(l, "TB_PIPE_PATH", c->pipe_path)
                                           : tb_trust_check(l, "TB_MODEL_DIR", model);
}

int tb_load_prepare(struct tb_load *l)
{
    const struct tb_config *c = l->config;
    struct tb_serving s;
    bool versioned = tb_serving_read(c->target_dir, c->asset_id, &s) == 0;
    _cleanup_free_ char *dir =
        versioned ? tb_serving_place(c->target_dir, c->asset_id, s.version, s.beside) : strdup(c->target_dir);
    int r = tb_load_command(c, &l->command, &l->outcome);

    l->asset_version = versioned ? s.version : 0;
    if (r == 0 && !dir)
        r = tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "out of memory");
    if (r == 0)
        r = load_read_manifest(l, dir);
    return r == 0 ? load_take_tree(l) : r;
}
