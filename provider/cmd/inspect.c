/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg inspect: what a .tbenc and a manifest say of themselves, and where they contradict. Nothing is decrypted and nothing
 * hashed; a damaged file is described as far as it can be read. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/cli/cli.h"
#include "common/hex.h"
#include "common/json.h"
#include "provider/cli/option.h"
#include "provider/asset/scan.h"
#include "provider/tbpkg.h"
#include "common/text.h"
#include "common/units.h"

struct job {
    struct cli cli;
    const char *in, *manifest;
    unsigned flags;
    char *beside; /* the manifest that was found beside the ciphertext */
    struct tbenc_manifest *m;
    struct scan scan;
    bool scanned;
    cJSON *problems; /* array of strings */
};

static void job_clear(struct job *j)
{
    tb_freep(&j->beside);
    j->m = tbenc_manifest_free(j->m);
    cJSON_Delete(j->problems);
}

static void problem(struct job *j, const char *object, const char *what)
{
    _cleanup_free_ char *s = tb_strf("%s: %s", object, what);

    if (s)
        cJSON_AddItemToArray(j->problems, cJSON_CreateString(tb_text_plain(s)));
}

/* -- command line -------------------------------------------------------------------------------------------------- */

static int take_positional(struct job *j, const char *arg)
{
    size_t n = strlen(arg);
    bool json = n > 5 && strcmp(arg + n - 5, ".json") == 0;
    const char **slot = json ? &j->manifest : &j->in;

    if (*slot)
        return cli_usage(&j->cli, "the %s is given twice: '%s' and '%s'", json ? "manifest" : "ciphertext",
                         *slot, arg);
    *slot = arg;
    return CLI_OK;
}

static const struct cli_option options[] = {
    CLI_OPTION('i', "in", "FILE", CLI_STRING, in, "the ciphertext [model.tbenc]"),
    CLI_OPTION('m', "manifest", "FILE", CLI_STRING, manifest,
               "the manifest [beside FILE: NAME.manifest.json]"),
    CLI_OPTION(0, "lenient", NULL, CLI_BITS, flags,
               "accept what the first writers of tbenc/v1 may have left: any chunk size, reserved bytes that "
               "are set",
               .max = TBENC_LENIENT),
    CLI_COMMON,
};

static int parse(struct job *j, int argc, char **argv)
{
    if (cli_parse(&j->cli, j, argc, argv) != CLI_OK)
        return CLI_STOP;
    for (int i = optind; i < argc && j->cli.rc == CLI_OK; i++)
        j->cli.rc = take_positional(j, argv[i]);
    if (j->cli.rc != CLI_OK)
        return CLI_STOP;
    if (!j->in && !j->manifest)
        j->in = ASSET_DEFAULT_NAME;
    return CLI_OK;
}

/* -- looking ------------------------------------------------------------------------------------------------------- */

static int look_at_manifest(struct job *j)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    size_t len;
    int r;

    if (!j->manifest) {
        j->beside = asset_manifest_name(j->in);
        if (!j->beside || access(j->beside, F_OK) < 0)
            return CLI_OK;
        j->manifest = j->beside;
    }
    r = tb_read_file(j->manifest, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -EFBIG) {
        problem(j, j->manifest, "larger than 1 MiB, so it is no manifest");
        return CLI_OK;
    }
    if (r < 0)
        return tbpkg_fail_errno(j->manifest, r);
    r = tbenc_manifest_parse(text, len, j->flags, &j->m, &e);
    if (r < 0)
        problem(j, j->manifest, e.message[0] ? e.message : strerror(-r));
    return CLI_OK;
}

static int look_at_ciphertext(struct job *j)
{
    _cleanup_close_ int fd = -1;
    struct stat st;
    int r;

    if (!j->in)
        return CLI_OK;
    if (stat(j->in, &st) < 0)
        return tbpkg_fail_errno(j->in, -errno);
    if (!S_ISREG(st.st_mode))
        return tbpkg_fail(j->in, "is no regular file", "name the .tbenc file");
    fd = open(j->in, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tbpkg_fail_errno(j->in, -errno);
    r = scan_ciphertext(fd, (uint64_t)st.st_size, j->m, j->flags, &j->scan);
    if (r < 0)
        return tbpkg_fail_errno(j->in, r);
    j->scanned = true;
    for (size_t i = 0; i < j->scan.n_problems; i++)
        problem(j, j->in, j->scan.problems[i]);
    return CLI_OK;
}

/* -- showing ------------------------------------------------------------------------------------------------------- */

static void show_bytes(const char *label, uint64_t n)
{
    char s[32];

    printf("  %-16s%llu (%s)\n", label, (unsigned long long)n, tb_bytes_format(n, s, sizeof(s)));
}

static void show_hash(const char *label, const uint8_t *h)
{
    char hex[2 * TBENC_SHA256_BYTES + 1];

    tb_hex_encode(h, TBENC_SHA256_BYTES, hex);
    printf("  %-16s%s\n", label, hex);
}

static void show_ciphertext(const char *path, const struct scan *s)
{
    printf("%s\n", path);
    show_bytes("size", s->bytes);
    if (!s->has_header)
        return;
    printf("  %-16s%s\n", "format", "tbenc/v1, aes-256-gcm-chunked");
    show_bytes("chunk bytes", s->header.chunk_bytes);
    printf("  %-16s%02x%02x%02x%02x\n", "nonce prefix", s->header.nonce_prefix[0], s->header.nonce_prefix[1],
           s->header.nonce_prefix[2], s->header.nonce_prefix[3]);
    printf("  %-16s%llu\n", "whole records", (unsigned long long)s->records);
    show_bytes("plaintext", s->plaintext_bytes);
}

static void show_manifest(const char *path, const struct tbenc_manifest *m)
{
    printf("%s\n", path);
    printf("  %-16s%s\n", "asset", m->asset_id);
    printf("  %-16s%s\n", "weights file", m->weights_filename);
    show_bytes("chunk bytes", m->chunk_bytes);
    show_bytes("plaintext", m->plaintext_bytes);
    show_bytes("ciphertext", tbenc_manifest_ciphertext_bytes(m));
    printf("  %-16s%llu\n", "records", (unsigned long long)tbenc_manifest_records(m));
    show_hash("sha256", m->sha256_ciphertext);
    if (m->has_tags_sha256)
        show_hash("tags sha256", m->tags_sha256);
    else
        printf("  %-16s%s\n", "tags sha256", "none (written by another tool)");
    printf("  %-16s%s\n", "fine-tuning", m->allow_finetune ? "allowed" : "not allowed");
    if (!m->files)
        return;
    printf("  %-16s%zu\n", "files", m->n_files);
    printf("    mode           bytes       chunk  path\n");
    for (size_t i = 0; i < m->n_files; i++)
        printf("    %04o %15llu  %10llu  %s\n", m->files[i].mode, (unsigned long long)m->files[i].bytes,
               (unsigned long long)m->files[i].chunk, m->files[i].path);
}

static void show_text(const struct job *j)
{
    const cJSON *p;

    if (j->scanned)
        show_ciphertext(j->in, &j->scan);
    if (j->m)
        show_manifest(j->manifest, j->m);
    else if (!j->manifest)
        printf("no manifest beside it: its claims were not compared\n");
    if (cJSON_GetArraySize(j->problems) > 0)
        printf("problems\n");
    cJSON_ArrayForEach (p, j->problems) {
        printf("  %s\n", p->valuestring);
    }
}

static cJSON *json_ciphertext(const char *path, const struct scan *s)
{
    cJSON *o = cJSON_CreateObject();
    char hex[9];

    cJSON_AddStringToObject(o, "path", path);
    tb_json_add_uint(o, "bytes", s->bytes);
    if (!s->has_header)
        return o;
    tb_json_add_uint(o, "chunk_bytes", s->header.chunk_bytes);
    tb_hex_encode(s->header.nonce_prefix, 4, hex);
    cJSON_AddStringToObject(o, "nonce_prefix", hex);
    tb_json_add_uint(o, "records", s->records);
    tb_json_add_uint(o, "plaintext_bytes", s->plaintext_bytes);
    return o;
}

static cJSON *json_manifest(const char *path, const struct tbenc_manifest *m)
{
    cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;
    size_t len;

    cJSON_AddStringToObject(o, "path", path);
    tb_json_add_uint(o, "records", tbenc_manifest_records(m));
    tb_json_add_uint(o, "ciphertext_bytes", tbenc_manifest_ciphertext_bytes(m));
    if (tbenc_manifest_format(m, &text, &len) == 0)
        cJSON_AddItemToObject(o, "content", cJSON_ParseWithLength(text, len));
    return o;
}

static int show_json(struct job *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (j->scanned)
        cJSON_AddItemToObject(o, "ciphertext", json_ciphertext(j->in, &j->scan));
    if (j->m)
        cJSON_AddItemToObject(o, "manifest", json_manifest(j->manifest, j->m));
    cJSON_AddItemToObject(o, "problems", TAKE_PTR(j->problems));
    return cli_print_json(o);
}

static int inspect(struct job *j)
{
    int rc, n;

    j->problems = cJSON_CreateArray();
    if (!j->problems)
        return tbpkg_fail_errno("inspect", -ENOMEM);
    rc = look_at_manifest(j);
    if (rc == CLI_OK)
        rc = look_at_ciphertext(j);
    if (rc != CLI_OK)
        return rc;
    n = cJSON_GetArraySize(j->problems);
    if (j->cli.json)
        rc = show_json(j);
    else if (!j->cli.quiet)
        show_text(j);
    if (n > 0)
        return tbpkg_failf(j->in ? j->in : j->manifest, "%d problem%s found", n, n == 1 ? "" : "s");
    return rc;
}

static int inspect_main(int argc, char **argv)
{
    _cleanup_(job_clear) struct job j = {.cli = {.command = &tbpkg_inspect}};

    return parse(&j, argc, argv) == CLI_OK ? inspect(&j) : j.cli.rc;
}

const struct tbpkg_command tbpkg_inspect = {
    .name = "inspect",
    .summary = "show what a .tbenc and its manifest say",
    .synopsis = "[OPTION]... [FILE] [MANIFEST]",
    .about =
        "Show what an encrypted .tbenc file, its manifest, or both say. No key is needed.\n"
        "\n"
        "A name that ends in .json is a manifest. For a .tbenc alone the manifest beside it is used when\n"
        "there is one. Problems are listed, and make the exit status 1; hashes are not computed: see\n"
        "tbpkg verify. With --quiet only the exit status tells.\n",
    .options = options,
    .run = inspect_main,
};
