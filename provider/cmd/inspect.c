/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg inspect: what a .tbenc and a manifest say of themselves, and where they contradict. Nothing is
 * decrypted and nothing hashed; a damaged file is described as far as it can be read. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "common/hex.h"
#include "common/json.h"
#include "provider/asset/scan.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"
#include "common/text.h"
#include "common/units.h"

struct inspect_job {
    struct cli cli;
    const char *in, *manifest, *provider_key;
    unsigned flags;
    char *beside; /* the manifest that was found beside the ciphertext */
    struct tbenc_manifest *m;
    struct tbenc_signature signature;
    struct tb_minisign_keys trusted;
    bool verified; /* the signature is of one of them */
    struct scan scan;
    bool scanned;
    cJSON *problems; /* array of strings */
};

static void inspect_job_clear(struct inspect_job *j)
{
    tb_freep(&j->beside);
    j->m = tbenc_manifest_free(j->m);
    cJSON_Delete(j->problems);
}

static void inspect_problem(struct inspect_job *j, const char *object, const char *what)
{
    _cleanup_free_ char *s = tb_strf("%s: %s", object, what);

    if (s)
        cJSON_AddItemToArray(j->problems, cJSON_CreateString(tb_text_plain(s)));
}

/* -- command line ------------------------------------------------------------------------------ */

static int inspect_take_positional(struct inspect_job *j, const char *arg)
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

#define TB_OPTION_TARGET struct inspect_job
static const struct tb_option inspect_options[] = {
    TB_OPTION('i', "in", "FILE", TB_OPTION_STRING, in, "the ciphertext [model.tbenc]"),
    ROW_MANIFEST(manifest),
    ROW_PROVIDER_KEY(provider_key, "check the signature of the manifest: KEY is the public key, several with "
                                   "commas, or a file of them"),
    ROW_LENIENT(flags),
    CLI_COMMON_ROWS,
};

static int inspect_take_words(struct inspect_job *j, int argc, char **argv)
{
    for (int i = optind; i < argc; i++)
        if (inspect_take_positional(j, argv[i]) != CLI_OK)
            return CLI_USAGE;
    if (!j->in && !j->manifest)
        j->in = ASSET_DEFAULT_NAME;
    return CLI_OK;
}

/* -- looking ----------------------------------------------------------------------------------- */

static void inspect_look_at_signature(struct inspect_job *j, const char *text, size_t len)
{
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    struct tbenc_manifest *m = NULL;
    int r = tbenc_signature_look(text, len, &j->signature, &e);

    if (r == 0 && j->provider_key) {
        r = tbenc_manifest_parse_signed(text, len, j->flags | TBENC_OVERLAY, &j->trusted, &m, &e);
        tbenc_manifest_free(m);
        j->verified = r == 0;
    }
    if (r < 0)
        inspect_problem(j, j->manifest, e.message[0] ? e.message : strerror(-r));
}

static int inspect_look_at_manifest(struct inspect_job *j)
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
        inspect_problem(j, j->manifest, "larger than 1 MiB, so it is not a manifest");
        return CLI_OK;
    }
    if (r < 0)
        return tbpkg_fail_errno(j->manifest, r);
    r = tbenc_manifest_parse(text, len, j->flags | TBENC_OVERLAY, &j->m, &e);
    if (r < 0)
        inspect_problem(j, j->manifest, e.message[0] ? e.message : strerror(-r));
    else
        inspect_look_at_signature(j, text, len);
    return CLI_OK;
}

static int inspect_look_at_ciphertext(struct inspect_job *j)
{
    _cleanup_close_ int fd = -1;
    struct stat st;
    int r;

    if (!j->in)
        return CLI_OK;
    if (stat(j->in, &st) < 0)
        return tbpkg_fail_errno(j->in, -errno);
    if (!S_ISREG(st.st_mode))
        return tbpkg_fail(j->in, "is not a regular file", "name the .tbenc file");
    fd = open(j->in, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tbpkg_fail_errno(j->in, -errno);
    r = scan_ciphertext(fd, (uint64_t)st.st_size, j->m, j->flags, &j->scan);
    if (r < 0)
        return tbpkg_fail_errno(j->in, r);
    j->scanned = true;
    for (size_t i = 0; i < j->scan.n_problems; i++)
        inspect_problem(j, j->in, j->scan.problems[i]);
    return CLI_OK;
}

/* -- showing ----------------------------------------------------------------------------------- */

static void inspect_show_bytes(const char *label, uint64_t n)
{
    char s[32];

    printf("  %-16s%llu (%s)\n", label, (unsigned long long)n, tb_bytes_format(n, s, sizeof(s)));
}

static void inspect_show_hash(const char *label, const uint8_t *h)
{
    char hex[2 * TBENC_SHA256_BYTES + 1];

    tb_hex_encode(h, TBENC_SHA256_BYTES, hex);
    printf("  %-16s%s\n", label, hex);
}

static void inspect_show_ciphertext(const char *path, const struct scan *s)
{
    printf("%s\n", path);
    inspect_show_bytes("size", s->bytes);
    if (!s->has_header)
        return;
    printf("  %-16s%s\n", "format", "tbenc/v1, aes-256-gcm-chunked");
    inspect_show_bytes("chunk bytes", s->header.chunk_bytes);
    printf("  %-16s%02x%02x%02x%02x\n", "nonce prefix", s->header.nonce_prefix[0], s->header.nonce_prefix[1],
           s->header.nonce_prefix[2], s->header.nonce_prefix[3]);
    printf("  %-16s%llu\n", "whole records", (unsigned long long)s->records);
    inspect_show_bytes("plaintext", s->plaintext_bytes);
}

static void inspect_show_files(const char *what, const struct tbenc_file *f, size_t n)
{
    printf("  %-16s%zu\n", what, n);
    if (n > 0)
        printf("    mode           bytes       chunk  path\n");
    for (size_t i = 0; i < n; i++)
        printf("    %04o %15llu  %10llu  %s\n", f[i].mode, (unsigned long long)f[i].bytes,
               (unsigned long long)f[i].chunk, f[i].path);
}

static void inspect_show_signature(const struct inspect_job *j)
{
    char comment[TB_MINISIGN_COMMENT_MAX + 1];

    if (!j->signature.present) {
        printf("  %-16s%s\n", "signature", "none");
        return;
    }
    for (size_t i = 0; i <= strlen(j->signature.comment); i++)
        comment[i] = j->signature.comment[i] == '\t' ? ' ' : j->signature.comment[i];
    printf("  %-16sby key %s, %s\n", "signature", j->signature.key_id,
           j->verified       ? "verified"
           : j->provider_key ? "NOT of the provider"
                             : "not checked (--provider-key)");
    printf("  %-16s%s\n", "", tb_text_plain(comment));
}

static void inspect_show_manifest(const struct inspect_job *j)
{
    const char *path = j->manifest;
    const struct tbenc_manifest *m = j->m;

    printf("%s\n", path);
    printf("  %-16s%s\n", "asset", m->asset_id);
    printf("  %-16s%s\n", "weights file", m->weights_filename);
    inspect_show_bytes("chunk bytes", m->chunk_bytes);
    inspect_show_bytes("plaintext", m->plaintext_bytes);
    inspect_show_bytes("ciphertext", tbenc_manifest_ciphertext_bytes(m));
    printf("  %-16s%llu\n", "records", (unsigned long long)tbenc_manifest_records(m));
    inspect_show_hash("sha256", m->sha256_ciphertext);
    if (m->has_tags_sha256)
        inspect_show_hash("tags sha256", m->tags_sha256);
    else
        printf("  %-16s%s\n", "tags sha256", "none (written by another tool)");
    if (m->has_key_id) {
        char id[ASSET_KEY_ID_HEX + 1];

        printf("  %-16s%s\n", "key", asset_key_id_wanted(m, id));
    }
    printf("  %-16s%s\n", "fine-tuning", m->allow_finetune ? "allowed" : "not allowed");
    inspect_show_signature(j);
    if (m->files)
        inspect_show_files("files", m->files, m->n_files);
    if (!m->base)
        return;
    printf("  %-16sversion %llu of %s\n", "stands on", (unsigned long long)m->base->version, m->asset_id);
    inspect_show_hash("its manifest", m->base->manifest_sha256);
    inspect_show_hash("its sha256", m->base->sha256_ciphertext);
    inspect_show_files("taken from it", m->base->files, m->base->n_files);
}

static void inspect_show_text(const struct inspect_job *j)
{
    const cJSON *p;

    if (j->scanned)
        inspect_show_ciphertext(j->in, &j->scan);
    if (j->m)
        inspect_show_manifest(j);
    else if (!j->manifest)
        printf("no manifest beside it: its claims were not compared\n");
    if (cJSON_GetArraySize(j->problems) > 0)
        printf("problems\n");
    cJSON_ArrayForEach (p, j->problems) {
        printf("  %s\n", p->valuestring);
    }
}

static cJSON *inspect_json_ciphertext(const char *path, const struct scan *s)
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

static cJSON *inspect_json_manifest(struct inspect_job *j)
{
    const struct tbenc_manifest *m = j->m;
    cJSON *o = cJSON_CreateObject(), *sig;
    _cleanup_free_ char *text = NULL;
    size_t len;

    cJSON_AddStringToObject(o, "path", j->manifest);
    tb_json_add_uint(o, "records", tbenc_manifest_records(m));
    tb_json_add_uint(o, "ciphertext_bytes", tbenc_manifest_ciphertext_bytes(m));
    if (tbenc_manifest_format(m, &text, &len) == 0)
        cJSON_AddItemToObject(o, "content", cJSON_ParseWithLength(text, len));
    if (!j->signature.present)
        return o;
    sig = cJSON_AddObjectToObject(o, "signature");
    cJSON_AddStringToObject(sig, "key_id", j->signature.key_id);
    cJSON_AddStringToObject(sig, "trusted_comment", tb_text_plain(j->signature.comment));
    if (j->provider_key)
        cJSON_AddBoolToObject(sig, "verified", j->verified);
    return o;
}

static int inspect_show_json(struct inspect_job *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (j->scanned)
        cJSON_AddItemToObject(o, "ciphertext", inspect_json_ciphertext(j->in, &j->scan));
    if (j->m)
        cJSON_AddItemToObject(o, "manifest", inspect_json_manifest(j));
    cJSON_AddItemToObject(o, "problems", TAKE_PTR(j->problems));
    return cli_print_json(o);
}

static int inspect(struct inspect_job *j)
{
    int rc, n;

    j->problems = cJSON_CreateArray();
    if (!j->problems)
        return tbpkg_fail_errno("inspect", -ENOMEM);
    rc = inspect_look_at_manifest(j);
    if (rc == CLI_OK)
        rc = inspect_look_at_ciphertext(j);
    if (rc != CLI_OK)
        return rc;
    n = cJSON_GetArraySize(j->problems);
    if (j->cli.json)
        rc = inspect_show_json(j);
    else if (!j->cli.quiet)
        inspect_show_text(j);
    if (n > 0)
        return tbpkg_failf(j->in ? j->in : j->manifest, "%d problem%s found", n, n == 1 ? "" : "s");
    return rc;
}

static int inspect_main(int argc, char **argv)
{
    _cleanup_(inspect_job_clear) struct inspect_job j = {.cli = {.command = &tbpkg_inspect}};

    if (cli_parse(&j.cli, &j, argc, argv, CLI_ANY_WORDS, NULL, NULL) != CLI_OK)
        return j.cli.rc;
    if (inspect_take_words(&j, argc, argv) != CLI_OK)
        return CLI_USAGE;
    if (j.provider_key && provider_keys_read(j.provider_key, &j.trusted) != CLI_OK)
        return CLI_FAILED;
    return inspect(&j);
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
    .options = inspect_options,
    .run = inspect_main,
};
