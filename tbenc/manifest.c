/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the manifest: tbenc(5), section MANIFEST. The text comes from outside; every member is checked
 * before use. */
#include <string.h>

#include "tbenc/internal.h"
#include "common/hex.h"
#include "common/json.h"
#include "common/secret.h"

#define FORMAT "tbenc/v1"
#define FORMAT_OVERLAY TBENC_FORMAT_OVERLAY
#define ALGO "aes-256-gcm-chunked"

/* What is wrong with the contents of a manifest is one error for callers, whatever getter found it. */
static int manifest_bad(struct tbenc_error *e, int r, const char *err)
{
    if (r == -ENOMEM)
        return tbenc_fail(e, r, "manifest: out of memory");
    return tbenc_fail(e, r == -EFBIG ? r : -EBADMSG, "manifest: %s", err);
}

static int manifest_get_exact(const cJSON *o, const char *name, const char *want, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (strcmp(s, want) != 0)
        return tbenc_fail(e, -EBADMSG, "manifest: %s is not \"%s\": not a %s manifest", name, want, FORMAT);
    return 0;
}

static int manifest_uint(const cJSON *o, const char *name, uint64_t max, uint64_t *ret, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    int r;

    r = tb_json_get_uint(o, name, max, ret, err);
    return r < 0 ? manifest_bad(e, r, err) : 0;
}

static int manifest_get_sha256(const cJSON *o, const char *name, uint8_t ret[TBENC_SHA256_BYTES],
                               struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (tb_hex_decode(s, strlen(s), ret, TBENC_SHA256_BYTES) < 0)
        return tbenc_fail(e, -EBADMSG, "manifest: %s is not %d hex digits", name, 2 * TBENC_SHA256_BYTES);
    return 0;
}

static int manifest_get_name(const cJSON *o, const char *name, bool (*valid)(const char *), const char *rule,
                             char *ret, size_t ret_size, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r;

    r = tb_json_get_string(o, name, &s, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (!valid(s))
        return tbenc_fail(e, -EBADMSG, "manifest: %s %s", name, rule);
    memcpy(ret, s, MIN(strlen(s) + 1, ret_size)); /* valid() has bounded it */
    return 0;
}

static int manifest_get_chunk_bytes(const cJSON *o, unsigned flags, uint32_t *ret, struct tbenc_error *e)
{
    uint32_t min = flags & TBENC_LENIENT ? 1 : TBENC_CHUNK_BYTES_MIN;
    uint64_t n;
    int r;

    r = manifest_uint(o, "chunk_bytes", TBENC_CHUNK_BYTES_MAX, &n, e);
    if (r < 0)
        return r;
    if (n < min)
        return tbenc_fail(e, -EBADMSG, "manifest: chunk_bytes is %u, the least is %u", (unsigned)n, min);
    *ret = (uint32_t)n;
    return 0;
}

/* An overlay has a name of its own for its format, so that a reader that would deliver its files alone,
 * without those of its base, refuses it. */
static int manifest_get_format(const cJSON *o, unsigned flags, bool *ret_overlay, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    *ret_overlay = tb_json_get_string(o, "format", &s, err) == 0 && strcmp(s, FORMAT_OVERLAY) == 0;
    if (!*ret_overlay)
        return manifest_get_exact(o, "format", FORMAT, e);
    if (flags & TBENC_OVERLAY)
        return 0;
    return tbenc_fail(e, -EBADMSG,
                      "manifest: format is " FORMAT_OVERLAY
                      ": an overlay, which needs the version that it stands on");
}

static int manifest_get_v1(const cJSON *o, unsigned flags, struct tbenc_manifest *m, bool *ret_overlay,
                           struct tbenc_error *e)
{
    int r;

    r = manifest_get_format(o, flags, ret_overlay, e);
    if (r >= 0)
        r = manifest_get_exact(o, "algo", ALGO, e);
    if (r >= 0)
        r = manifest_get_chunk_bytes(o, flags, &m->chunk_bytes, e);
    if (r >= 0)
        r = manifest_uint(o, "plaintext_bytes", TBENC_PLAINTEXT_MAX, &m->plaintext_bytes, e);
    if (r >= 0)
        r = manifest_get_sha256(o, "sha256_ciphertext", m->sha256_ciphertext, e);
    if (r >= 0)
        r = manifest_get_name(o, "asset_id", tb_asset_id_valid, "is not " TB_ASSET_ID_WORDS, m->asset_id,
                              sizeof(m->asset_id), e);
    if (r >= 0)
        r = manifest_get_name(
            o, "weights_filename", tbenc_filename_valid,
            "is not a plain file name (no \"/\", not \".\" or \"..\", no control characters, at "
            "most 255 bytes)",
            m->weights_filename, sizeof(m->weights_filename), e);
    return r;
}

/* "0644": an octal string, because a JSON number has no octal form and 420 tells nobody anything. */
static int manifest_get_mode(const cJSON *o, uint32_t *ret, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r;

    r = tb_json_get_string(o, "mode", &s, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (strlen(s) != 4 || strspn(s, "01234567") != 4 || s[0] != '0')
        return tbenc_fail(e, -EBADMSG, "manifest: mode is not four octal digits from \"0000\" to \"0777\"");
    *ret = (uint32_t)strtoul(s, NULL, 8);
    return 0;
}

static int manifest_get_file(const cJSON *o, struct tbenc_file *f, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *path;
    int r;

    r = tb_json_get_string(o, "path", &path, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    f->path = strdup(path);
    if (!f->path)
        return manifest_bad(e, -ENOMEM, NULL);
    r = manifest_uint(o, "bytes", TBENC_PLAINTEXT_MAX, &f->bytes, e);
    if (r >= 0)
        r = manifest_get_mode(o, &f->mode, e);
    if (r >= 0)
        r = manifest_uint(o, "chunk", TBENC_PLAINTEXT_MAX, &f->chunk, e);
    if (r >= 0)
        r = manifest_get_sha256(o, "sha256", f->sha256, e);
    return r;
}

/* of: what the messages say of whose files they are */
static int manifest_get_files(const cJSON *files, const char *of, size_t min, struct tbenc_file **ret,
                              size_t *ret_n, struct tbenc_error *e)
{
    const cJSON *o;
    size_t n = 0;

    cJSON_ArrayForEach (o, files)
        n++;
    if (!cJSON_IsArray(files) || n < min || n > TBENC_FILES_MAX)
        return tbenc_fail(e, -EBADMSG, "manifest: %s is not an array of %zu to %d objects", of, min,
                          TBENC_FILES_MAX);
    *ret = calloc(n + 1, sizeof(**ret)); /* none at all is a table, too */
    if (!*ret)
        return manifest_bad(e, -ENOMEM, NULL);
    cJSON_ArrayForEach (o, files) {
        struct tbenc_error inner = {.chunk = TBENC_NO_CHUNK};
        int r = manifest_get_file(o, &(*ret)[(*ret_n)++], &inner);

        if (r < 0)
            return tbenc_fail(e, r, "manifest: %s[%zu]: %.400s", of, *ret_n - 1,
                              inner.message + strlen("manifest: "));
    }
    return 0;
}

static int manifest_get_key_id(const cJSON *o, struct tbenc_manifest *m, struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r;

    r = tb_json_get_string(o, "key_id", &s, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (tb_hex_decode(s, strlen(s), m->key_id, TBENC_KEY_ID_BYTES) < 0)
        return tbenc_fail(e, -EBADMSG, "manifest: key_id is not %d hex digits", 2 * TBENC_KEY_ID_BYTES);
    m->has_key_id = true;
    return 0;
}

static int manifest_get_salt(const cJSON *o, uint8_t ret[TBENC_SALT_BYTES], struct tbenc_error *e)
{
    _Static_assert(TBENC_SALT_BYTES == TBENC_SHA256_BYTES, "both are 64 digits");
    return manifest_get_sha256(o, "salt", ret, e);
}

static int manifest_get_base_members(const cJSON *o, struct tbenc_base *b, struct tbenc_error *e)
{
    int r = manifest_uint(o, "version", TBENC_PLAINTEXT_MAX, &b->version, e);

    if (r >= 0 && b->version == 0)
        r = tbenc_fail(e, -EBADMSG, "manifest: version is 0, the first is 1");
    if (r >= 0)
        r = manifest_get_sha256(o, "manifest_sha256", b->manifest_sha256, e);
    if (r >= 0)
        r = manifest_get_sha256(o, "sha256_ciphertext", b->sha256_ciphertext, e);
    if (r >= 0)
        r = manifest_get_sha256(o, "tags_sha256", b->tags_sha256, e);
    return r < 0 ? r : manifest_get_salt(o, b->salt, e);
}

static int manifest_get_base(const cJSON *j, struct tbenc_manifest *m, struct tbenc_error *e)
{
    const cJSON *o = tb_json_member(j, "base");
    struct tbenc_error inner = {.chunk = TBENC_NO_CHUNK};
    int r;

    if (!cJSON_IsObject(o) || !m->has_tags_sha256 || !m->has_key_id)
        return tbenc_fail(e, -EBADMSG, "manifest: an overlay without %s",
                          !cJSON_IsObject(o)    ? "an object base"
                          : !m->has_tags_sha256 ? "tags_sha256"
                                                : "key_id");
    m->base = calloc(1, sizeof(*m->base));
    if (!m->base)
        return manifest_bad(e, -ENOMEM, NULL);
    r = manifest_get_base_members(o, m->base, &inner);
    if (r < 0)
        return tbenc_fail(e, r, "manifest: base: %.400s", inner.message + strlen("manifest: "));
    r = manifest_get_files(tb_json_member(o, "files"), "base.files", 0, &m->base->files, &m->base->n_files,
                           e);
    return r < 0 ? r : manifest_get_files(tb_json_member(j, "files"), "files", 0, &m->files, &m->n_files, e);
}

static int manifest_get_additions(const cJSON *o, struct tbenc_manifest *m, bool overlay,
                                  struct tbenc_error *e)
{
    char err[TB_JSON_ERR_MAX];
    int r;

    m->allow_finetune = true;
    if (tb_json_member(o, "allow_finetune")) {
        r = tb_json_get_bool(o, "allow_finetune", &m->allow_finetune, err);
        if (r < 0)
            return manifest_bad(e, r, err);
    }
    if (tb_json_member(o, "tags_sha256")) {
        r = manifest_get_sha256(o, "tags_sha256", m->tags_sha256, e);
        if (r < 0)
            return r;
        m->has_tags_sha256 = true;
    }
    if (tb_json_member(o, "key_id")) {
        r = manifest_get_key_id(o, m, e);
        if (r < 0)
            return r;
    }
    if (overlay)
        return manifest_get_base(o, m, e);
    if (tb_json_member(o, "files"))
        return manifest_get_files(tb_json_member(o, "files"), "files", 1, &m->files, &m->n_files, e);
    return 0;
}

static void manifest_freep(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

int tbenc_manifest_parse(const char *buf, size_t len, unsigned flags, struct tbenc_manifest **ret,
                         struct tbenc_error *e)
{
    _cleanup_(manifest_freep) struct tbenc_manifest *m = NULL;
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX];
    bool overlay = false;
    int r;

    r = tb_json_parse(buf, len, TBENC_MANIFEST_MAX, &j, err);
    if (r < 0)
        return manifest_bad(e, r, err);
    if (!cJSON_IsObject(j))
        return tbenc_fail(e, -EBADMSG, "manifest: not a JSON object");
    m = calloc(1, sizeof(*m));
    if (!m)
        return manifest_bad(e, -ENOMEM, NULL);
    r = manifest_get_v1(j, flags, m, &overlay, e);
    if (r >= 0)
        r = manifest_get_additions(j, m, overlay, e);
    if (r >= 0)
        r = tbenc_layout_check(m, e);
    if (r >= 0)
        r = tbenc_overlay_check(m, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(m);
    return 0;
}
