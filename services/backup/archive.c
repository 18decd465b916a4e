/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/text.h"

#define FORMAT_NAME "trustbridge-backup/"
#define FORMAT FORMAT_NAME "1"
#define MANIFEST "trustbridge-backup.json"
#define MANIFEST_MAX (256UL * 1024)
#define END "end"
#define HASH_MAX (2 * SHA256_DIGEST_LENGTH + 1)
#define TAR_BLOCK 512

static void archive_hash(const void *p, size_t n, char out[static HASH_MAX])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];

    SHA256(p, n, digest);
    tb_hex_encode(digest, sizeof(digest), out);
}

/* -- writing --------------------------------------------------------------------------------------------- */

static la_ssize_t archive_append(struct archive *a, void *out, const void *p, size_t n)
{
    return tb_buf_append(out, p, n) < 0 ? -1 : (la_ssize_t)n;
}

static int archive_put(struct archive *a, const char *name, mode_t mode, const char *data, size_t len)
{
    struct archive_entry *e = archive_entry_new();
    bool good;

    if (!e)
        return -ENOMEM;
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, (__LA_MODE_T)mode);
    archive_entry_set_size(e, (la_int64_t)len);
    good = archive_write_header(a, e) == ARCHIVE_OK &&
           (len == 0 || archive_write_data(a, data, len) == (la_ssize_t)len);
    archive_entry_free(e);
    return good ? 0 : -ENOMEM;
}

static cJSON *manifest_member(const struct backup_member *m)
{
    cJSON *o = cJSON_CreateObject();
    char hash[HASH_MAX];

    archive_hash(m->data, m->len, hash);
    if (o && cJSON_AddStringToObject(o, "name", m->name) && tb_json_add_uint(o, "mode", m->mode) == 0 &&
        tb_json_add_uint(o, "bytes", m->len) == 0 && cJSON_AddStringToObject(o, "sha256", hash))
        return o;
    cJSON_Delete(o);
    return NULL;
}

static char *manifest_text(const struct backup_set *s)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *list;

    if (!o || !cJSON_AddStringToObject(o, "format", FORMAT) ||
        !cJSON_AddStringToObject(o, "created", s->created) ||
        !cJSON_AddStringToObject(o, "version", s->version) ||
        !cJSON_AddStringToObject(o, "machine", s->machine) || !(list = cJSON_AddArrayToObject(o, "members")))
        return NULL;
    for (size_t i = 0; i < s->n; i++)
        if (!cJSON_AddItemToArray(list, manifest_member(&s->v[i])))
            return NULL;
    return cJSON_Print(o);
}

int backup_archive_write(const struct backup_set *s, struct tb_buf *out)
{
    _cleanup_free_ char *manifest = manifest_text(s);
    struct archive *a = archive_write_new();
    char hash[HASH_MAX];
    int r = manifest && a ? 0 : -ENOMEM;

    if (r == 0 && (archive_write_set_format_ustar(a) != ARCHIVE_OK ||
                   archive_write_set_bytes_per_block(a, TAR_BLOCK) != ARCHIVE_OK ||
                   archive_write_open(a, out, NULL, archive_append, NULL) != ARCHIVE_OK))
        r = -ENOMEM;
    if (r == 0)
        r = archive_put(a, MANIFEST, 0600, manifest, strlen(manifest));
    for (size_t i = 0; r == 0 && i < s->n; i++)
        r = archive_put(a, s->v[i].name, s->v[i].mode, s->v[i].data, s->v[i].len);
    if (r == 0) {
        archive_hash(manifest, strlen(manifest), hash);
        r = archive_put(a, END, 0600, hash, strlen(hash));
    }
    if (a && archive_write_close(a) != ARCHIVE_OK && r == 0)
        r = -ENOMEM;
    archive_write_free(a);
    return r == 0 ? tb_buf_error(out) : r;
}

/* -- reading --------------------------------------------------------------------------------------------- */

struct archive_reader {
    struct archive *a;
    struct archive_entry *e;
    const char *buf;
    size_t len;
    bool sealed;
    char *err;
};

static int reader_refuse(struct archive_reader *rd, const char *fmt, ...) _printf_(2, 3);
static int reader_refuse(struct archive_reader *rd, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(rd->err, BACKUP_ERR_MAX, fmt, ap);
    va_end(ap);
    return -EBADMSG;
}

/* The next entry must be a regular file of this name and, unless max is meant, this size. */
static int reader_next(struct archive_reader *rd, const char *name, uint64_t size, bool size_is_max)
{
    int r = archive_read_next_header(rd->a, &rd->e);
    const char *found;

    if (r == ARCHIVE_EOF)
        return reader_refuse(rd, "it ends before %s: it was cut off", name);
    if (r != ARCHIVE_OK)
        return reader_refuse(rd, "it is damaged, or cut off, where %s should be", name);
    found = archive_entry_pathname(rd->e);
    if (!found || strcmp(found, name) != 0)
        return reader_refuse(rd, "%s is not where it should be: it is not as tb-backup wrote it", name);
    if (archive_entry_filetype(rd->e) != AE_IFREG || archive_entry_hardlink(rd->e) ||
        archive_entry_symlink(rd->e) || archive_entry_sparse_count(rd->e) > 0)
        return reader_refuse(rd, "%s in it is not a plain file", name);
    if (!archive_entry_size_is_set(rd->e) || archive_entry_size(rd->e) < 0 ||
        (uint64_t)archive_entry_size(rd->e) > rd->len)
        return reader_refuse(rd, "%s in it claims to be larger than all of it", name);
    if (size_is_max ? (uint64_t)archive_entry_size(rd->e) > size
                    : (uint64_t)archive_entry_size(rd->e) != size)
        return reader_refuse(rd, "%s in it is not of the size that it should be", name);
    return 0;
}

/* The bytes of the present entry, NUL-terminated. */
static int reader_data(struct archive_reader *rd, const char *name, char **ret, size_t *ret_len)
{
    size_t n = (size_t)archive_entry_size(rd->e);
    _cleanup_free_ char *data = malloc(n + 1);

    if (!data) {
        snprintf(rd->err, BACKUP_ERR_MAX, "not enough memory for %s", name);
        return -ENOMEM;
    }
    if (n > 0 && archive_read_data(rd->a, data, n) != (la_ssize_t)n)
        return reader_refuse(rd, "it is cut off in the middle of %s", name);
    data[n] = '\0';
    *ret = TAKE_PTR(data);
    *ret_len = n;
    return 0;
}

static int reader_member(struct archive_reader *rd, const cJSON *row, struct backup_set *s)
{
    _cleanup_free_ char *data = NULL;
    const char *name, *want;
    char err[TB_JSON_ERR_MAX], hash[HASH_MAX];
    uint64_t bytes, mode;
    enum backup_kind kind;
    size_t len;
    int r;

    if (tb_json_get_string(row, "name", &name, err) < 0 ||
        tb_json_get_uint(row, "mode", 0777, &mode, err) < 0 ||
        tb_json_get_uint(row, "bytes", BACKUP_LEDGER_MAX, &bytes, err) < 0 ||
        tb_json_get_string(row, "sha256", &want, err) < 0)
        return reader_refuse(rd, "its table of contents is not one: %s", err);
    kind = backup_name_kind(name, rd->sealed);
    if (kind == BACKUP_KIND_NONE)
        return reader_refuse(rd, "it holds something that belongs to no backup: %.80s", name);
    if (bytes > (strcmp(name, BACKUP_LEDGER) == 0 ? BACKUP_LEDGER_MAX : BACKUP_MEMBER_MAX))
        return reader_refuse(rd, "%s in it is too large", name);
    if (backup_set_find(s, name))
        return reader_refuse(rd, "%s is in it twice", name);
    r = reader_next(rd, name, bytes, false);
    if (r == 0)
        r = reader_data(rd, name, &data, &len);
    if (r < 0)
        return r;
    archive_hash(data, len, hash);
    if (strcmp(hash, want) != 0)
        return reader_refuse(rd, "%s in it is damaged: its SHA-256 is not what the archive says", name);
    return backup_set_add(s, name, (mode_t)mode, TAKE_PTR(data), len);
}

static int reader_heading(struct archive_reader *rd, const cJSON *doc, struct backup_set *s)
{
    const char *format, *created, *version, *machine;
    char err[TB_JSON_ERR_MAX];

    if (tb_json_get_string(doc, "format", &format, err) < 0 ||
        strncmp(format, FORMAT_NAME, strlen(FORMAT_NAME)) != 0)
        return reader_refuse(rd, "it is not a backup of TrustBridge");
    if (strcmp(format, FORMAT) != 0) {
        snprintf(rd->err, BACKUP_ERR_MAX,
                 "its format, %.40s, is of a newer TrustBridge; upgrade this one first", format);
        return -EPROTONOSUPPORT;
    }
    if (tb_json_get_string(doc, "created", &created, err) < 0 ||
        tb_json_get_string(doc, "version", &version, err) < 0 ||
        tb_json_get_string(doc, "machine", &machine, err) < 0)
        return reader_refuse(rd, "its table of contents is not one: %s", err);
    snprintf(s->created, sizeof(s->created), "%s", created);
    snprintf(s->version, sizeof(s->version), "%s", version);
    snprintf(s->machine, sizeof(s->machine), "%s", machine);
    tb_text_plain(s->created); /* shown on a terminal */
    tb_text_plain(s->version);
    return 0;
}

/* Behind the last member there are zeros and nothing else. */
static int reader_end(struct archive_reader *rd, const char *manifest, size_t manifest_len)
{
    _cleanup_free_ char *text = NULL;
    char hash[HASH_MAX];
    size_t n, end;
    int r = reader_next(rd, END, HASH_MAX - 1, false);

    end = r == 0 ? (size_t)archive_read_header_position(rd->a) + 2UL * TAR_BLOCK : 0;
    if (r == 0)
        r = reader_data(rd, END, &text, &n);
    if (r < 0)
        return r;
    archive_hash(manifest, manifest_len, hash);
    if (strcmp(hash, text) != 0)
        return reader_refuse(rd, "its table of contents is damaged");
    if (archive_read_next_header(rd->a, &rd->e) != ARCHIVE_EOF)
        return reader_refuse(rd, "something was added at its end");
    if (end > rd->len || rd->len - end < 2UL * TAR_BLOCK)
        return reader_refuse(rd, "its end was cut off");
    for (size_t i = end; i < rd->len; i++)
        if (rd->buf[i] != '\0')
            return reader_refuse(rd, "something was added at its end");
    return 0;
}

static int reader_read(struct archive_reader *rd, struct backup_set *s)
{
    _cleanup_free_ char *manifest = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    const cJSON *list, *row;
    size_t n;
    int r = archive_read_support_format_tar(rd->a) == ARCHIVE_OK &&
                    archive_read_open_memory(rd->a, rd->buf, rd->len) == ARCHIVE_OK &&
                    archive_read_next_header(rd->a, &rd->e) == ARCHIVE_OK
                ? 0
                : -EBADMSG;

    if (r < 0 || !archive_entry_pathname(rd->e) || strcmp(archive_entry_pathname(rd->e), MANIFEST) != 0)
        return reader_refuse(rd, "it is not a backup of TrustBridge, or its beginning is damaged");
    if (archive_entry_filetype(rd->e) != AE_IFREG || archive_entry_size(rd->e) < 0 ||
        (uint64_t)archive_entry_size(rd->e) > MIN(MANIFEST_MAX, rd->len))
        return reader_refuse(rd, "its table of contents is not a plain file, or too large");
    r = reader_data(rd, MANIFEST, &manifest, &n);
    if (r < 0)
        return r;
    r = tb_json_parse(manifest, n, MANIFEST_MAX, &doc, err);
    if (r < 0)
        return r == -ENOMEM ? r : reader_refuse(rd, "its table of contents is damaged: %s", err);
    r = reader_heading(rd, doc, s);
    list = tb_json_member(doc, "members");
    if (r == 0 && !cJSON_IsArray(list))
        r = reader_refuse(rd, "its table of contents has no members");
    cJSON_ArrayForEach (row, list)
        if (r == 0)
            r = reader_member(rd, row, s);
    return r < 0 ? r : reader_end(rd, manifest, n);
}

int backup_archive_read(const char *buf, size_t len, bool sealed, struct backup_set **ret,
                        char err[static BACKUP_ERR_MAX])
{
    _cleanup_backup_set_ struct backup_set *s = calloc(1, sizeof(*s));
    struct archive_reader rd = {
        .a = archive_read_new(), .buf = buf, .len = len, .sealed = sealed, .err = err};
    int r = rd.a && s ? 0 : -ENOMEM;

    snprintf(err, BACKUP_ERR_MAX, "not enough memory");
    if (r == 0) {
        s->secret = sealed;
        r = reader_read(&rd, s);
    }
    archive_read_free(rd.a);
    if (r == 0)
        *ret = TAKE_PTR(s);
    return r;
}
