/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the manifest: the members of v1 first and in its order, then ours; one line for each file of the
 * table. */
#include <string.h>

#include "tbenc/internal.h"
#include "common/hex.h"
#include "common/secret.h"

/* Names are valid UTF-8 without control characters, so only these two need an escape. */
static void manifest_put_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fputc('\\', f);
        fputc(*s, f);
    }
    fputc('"', f);
}

static void manifest_put_sha256(FILE *f, const uint8_t sha256[TBENC_SHA256_BYTES])
{
    char hex[2 * TBENC_SHA256_BYTES + 1];

    tb_hex_encode(sha256, TBENC_SHA256_BYTES, hex);
    manifest_put_string(f, hex);
}

static void manifest_put_v1(FILE *f, const struct tbenc_manifest *m)
{
    fprintf(f, "{\n  \"format\": \"%s\",\n  \"algo\": \"aes-256-gcm-chunked\",\n",
            m->base ? TBENC_FORMAT_OVERLAY : "tbenc/v1");
    fprintf(f,
            "  \"chunk_bytes\": %u,\n  \"plaintext_bytes\": %llu,\n  \"sha256_ciphertext\": ", m->chunk_bytes,
            (unsigned long long)m->plaintext_bytes);
    manifest_put_sha256(f, m->sha256_ciphertext);
    fputs(",\n  \"asset_id\": ", f);
    manifest_put_string(f, m->asset_id);
    fputs(",\n  \"weights_filename\": ", f);
    manifest_put_string(f, m->weights_filename);
}

static void manifest_put_file(FILE *f, const char *indent, const struct tbenc_file *file)
{
    fprintf(f, "%s  {\"path\": ", indent);
    manifest_put_string(f, file->path);
    fprintf(f, ", \"bytes\": %llu, \"mode\": \"%04o\", \"chunk\": %llu, \"sha256\": ",
            (unsigned long long)file->bytes, file->mode, (unsigned long long)file->chunk);
    manifest_put_sha256(f, file->sha256);
    fputc('}', f);
}

static void manifest_put_files(FILE *f, const char *indent, const struct tbenc_file *files, size_t n)
{
    fprintf(f, ",\n%s\"files\": [", indent);
    for (size_t i = 0; i < n; i++) {
        fputs(i > 0 ? ",\n" : "\n", f);
        manifest_put_file(f, indent, &files[i]);
    }
    if (n > 0)
        fprintf(f, "\n%s", indent);
    fputc(']', f);
}

static void manifest_put_base(FILE *f, const struct tbenc_base *b)
{
    fprintf(f, ",\n  \"base\": {\n    \"version\": %llu,\n    \"manifest_sha256\": ",
            (unsigned long long)b->version);
    manifest_put_sha256(f, b->manifest_sha256);
    fputs(",\n    \"sha256_ciphertext\": ", f);
    manifest_put_sha256(f, b->sha256_ciphertext);
    fputs(",\n    \"tags_sha256\": ", f);
    manifest_put_sha256(f, b->tags_sha256);
    fputs(",\n    \"salt\": ", f);
    manifest_put_sha256(f, b->salt);
    manifest_put_files(f, "    ", b->files, b->n_files);
    fputs("\n  }", f);
}

static void manifest_put_additions(FILE *f, const struct tbenc_manifest *m)
{
    fprintf(f, ",\n  \"allow_finetune\": %s", m->allow_finetune ? "true" : "false");
    if (m->has_tags_sha256) {
        fputs(",\n  \"tags_sha256\": ", f);
        manifest_put_sha256(f, m->tags_sha256);
    }
    if (m->has_key_id) {
        char hex[2 * TBENC_KEY_ID_BYTES + 1];

        tb_hex_encode(m->key_id, TBENC_KEY_ID_BYTES, hex);
        fprintf(f, ",\n  \"key_id\": \"%s\"", hex);
    }
    if (m->base)
        manifest_put_base(f, m->base);
    if (m->files)
        manifest_put_files(f, "  ", m->files, m->n_files);
    fputs("\n}", f);
}

int tbenc_manifest_format(const struct tbenc_manifest *m, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    FILE *f;
    int failed;

    if (!tb_asset_id_valid(m->asset_id) || !tbenc_filename_valid(m->weights_filename) ||
        tbenc_layout_check(m, NULL) < 0 || tbenc_overlay_check(m, NULL) < 0)
        return -EINVAL;
    f = open_memstream(&text, &len);
    if (!f)
        return -ENOMEM;
    manifest_put_v1(f, m);
    manifest_put_additions(f, m);
    failed = ferror(f);
    if (fclose(f) != 0 || failed)
        return -ENOMEM;
    if (len > TBENC_MANIFEST_MAX) /* no reader would take it */
        return -EFBIG;
    *ret = TAKE_PTR(text);
    if (ret_len)
        *ret_len = len;
    return 0;
}
