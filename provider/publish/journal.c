/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of text. The first is MAGIC and the header in JSON; then "B INDEX SHA256 MD5" for each block, "M
 * JSON" once all is sealed, "S HEX" for other inputs of the same, "C" before the commit. They are appended
 * with one write and one fdatasync, so a killed process leaves at most one line without its end, of which
 * nothing has left the machine. Whatever else is wrong with the file may hide a block that did leave: then a
 * new key is made. */
#include "provider/publish/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "common/hex.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/cli/interrupt.h"

#define MAGIC "tbpkg-upload-1 "

static void journal_forget(struct journal *j)
{
    tb_freep(&j->key_file);
    tb_freep(&j->key_recipient);
    tb_freep(&j->destination);
    tb_freep(&j->origin);
    tb_freep(&j->manifest);
    free(j->blocks);
    j->blocks = NULL;
    j->n_blocks = 0;
    j->valid = j->commit_begun = false;
}

void journal_clear(struct journal *j)
{
    journal_forget(j);
    tb_freep(&j->path);
    j->fd = tb_close(j->fd);
}

static int journal_make_blocks(struct journal *j)
{
    uint64_t n = j->block_bytes ? (j->size + j->block_bytes - 1) / j->block_bytes : 0;

    if (n < 1 || n > BLOB_BLOCKS_MAX)
        return -EBADMSG;
    free(j->blocks);
    j->blocks = calloc((size_t)n, sizeof(*j->blocks));
    j->n_blocks = j->blocks ? (size_t)n : 0;
    return j->blocks ? 0 : -ENOMEM;
}

/* -- reading ----------------------------------------------------------------------------------- */

static int journal_get_text(const cJSON *o, const char *name, char *out, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0 || strlen(s) >= size)
        return -EBADMSG;
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int journal_get_heap(const cJSON *o, const char *name, char **ret)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    if (!v)
        return 0;
    *ret = cJSON_IsString(v) ? strdup(v->valuestring) : NULL;
    return *ret ? 0 : -EBADMSG;
}

static int journal_get_u32(const cJSON *o, const char *name, uint32_t min, uint32_t max, uint32_t *ret)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v;

    if (tb_json_get_uint(o, name, max, &v, err) < 0 || v < min)
        return -EBADMSG;
    *ret = (uint32_t)v;
    return 0;
}

static int journal_read_header(struct journal *j, const char *text, size_t len)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], prefix[9];

    if (len < strlen(MAGIC) || memcmp(text, MAGIC, strlen(MAGIC)) != 0 ||
        tb_json_parse(text + strlen(MAGIC), len - strlen(MAGIC), len, &o, err) < 0)
        return -EBADMSG;
    if (journal_get_text(o, "asset_id", j->asset_id, sizeof(j->asset_id)) < 0 ||
        journal_get_text(o, "key_id", j->key_id, sizeof(j->key_id)) < 0 ||
        strlen(j->key_id) != ASSET_KEY_ID_HEX ||
        journal_get_text(o, "layout", j->layout, sizeof(j->layout)) < 0 ||
        journal_get_text(o, "nonce_prefix", prefix, sizeof(prefix)) < 0 ||
        tb_hex_decode(prefix, strlen(prefix), j->nonce_prefix, sizeof(j->nonce_prefix)) < 0 ||
        journal_get_u32(o, "chunk_bytes", TBENC_CHUNK_BYTES_MIN, TBENC_CHUNK_BYTES_MAX, &j->chunk_bytes) <
            0 ||
        journal_get_u32(o, "block_bytes", BLOB_BLOCK_BYTES_MIN, BLOB_BLOCK_BYTES_MAX, &j->block_bytes) < 0 ||
        tb_json_get_uint(o, "size", TB_JSON_INT_MAX, &j->size, err) < 0 ||
        journal_get_heap(o, "key_file", &j->key_file) < 0 ||
        journal_get_heap(o, "key_recipient", &j->key_recipient) < 0 || !j->key_file ||
        journal_get_text(o, "file", j->file, sizeof(j->file)) < 0 ||
        journal_get_heap(o, "destination", &j->destination) < 0 || !j->destination ||
        journal_get_heap(o, "origin", &j->origin) < 0)
        return -EBADMSG;
    return journal_make_blocks(j);
}

/* "B 17 SHA256 MD5" */
static int journal_read_block(struct journal *j, const char *line, size_t len)
{
    enum { SHA = 64, MD = 2 * BLOB_MD5_BYTES };
    struct journal_block b = {.there = true};
    char number[8] = "";
    size_t digits = len - 2 > SHA + 1 + MD + 1 ? len - 2 - (SHA + 1 + MD + 1) : 0;
    const char *at = line + 2 + digits;
    uint64_t index;

    if (digits < 1 || digits >= sizeof(number) || at[0] != ' ' || at[1 + SHA] != ' ')
        return -EBADMSG;
    memcpy(number, line + 2, digits);
    if (tb_uint_parse(number, 0, j->n_blocks - 1, &index) < 0 ||
        tb_hex_decode(at + 1, SHA, b.sha256, sizeof(b.sha256)) < 0 ||
        tb_hex_decode(at + 2 + SHA, MD, b.md5, sizeof(b.md5)) < 0)
        return -EBADMSG;
    if (j->blocks[index].there)
        return -EBADMSG; /* one value for each, ever */
    j->blocks[index] = b;
    return 0;
}

static int journal_read_sealed(struct journal *j, const char *text, size_t len)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];

    tb_freep(&j->manifest);
    if (tb_json_parse(text, len, JOURNAL_MAX, &o, err) < 0 ||
        journal_get_text(o, "source", j->source, sizeof(j->source)) < 0 ||
        journal_get_heap(o, "manifest", &j->manifest) < 0 || !j->manifest)
        return -EBADMSG;
    return 0;
}

/* "S HEX": the manifest before is of these inputs, too. */
static int journal_read_source(struct journal *j, const char *text, size_t len)
{
    if (!j->manifest || len != sizeof(j->source) - 1)
        return -EBADMSG;
    memcpy(j->source, text, len);
    j->source[len] = '\0';
    return 0;
}

static int journal_read_line(struct journal *j, const char *line, size_t len)
{
    if (len > 2 && memcmp(line, "B ", 2) == 0)
        return journal_read_block(j, line, len);
    if (len > 2 && memcmp(line, "M ", 2) == 0)
        return journal_read_sealed(j, line + 2, len - 2);
    if (len > 2 && memcmp(line, "S ", 2) == 0)
        return journal_read_source(j, line + 2, len - 2);
    if (len != 1 || line[0] != 'C' || !j->manifest)
        return -EBADMSG;
    j->commit_begun = true;
    return 0;
}

int journal_parse(const char *buf, size_t len, struct journal *j, size_t *ret_len)
{
    const char *p = buf, *end;
    bool first = true;

    while ((end = memchr(p, '\n', len - (size_t)(p - buf)))) {
        int r =
            first ? journal_read_header(j, p, (size_t)(end - p)) : journal_read_line(j, p, (size_t)(end - p));

        if (r < 0)
            return r;
        first = false;
        p = end + 1;
    }
    *ret_len = (size_t)(p - buf);
    return first ? -EBADMSG : 0;
}

/* What a copy, or a file that was restored from a backup, does not share with the original. A file system
 * that does not know when a file was made has the number only. */
static int journal_identify(int fd, char out[static JOURNAL_FILE_MAX])
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) < 0)
        return -errno;
    if (!(st.stx_mask & STATX_BTIME))
        st.stx_btime = (struct statx_timestamp){0};
    snprintf(out, JOURNAL_FILE_MAX, "%" PRIu64 ".%" PRId64 ".%09" PRIu32, (uint64_t)st.stx_ino,
             (int64_t)st.stx_btime.tv_sec, (uint32_t)st.stx_btime.tv_nsec);
    return 0;
}

bool journal_is_last_word(const struct journal *j, const char *destination)
{
    size_t n = 0;

    while (n < j->n_blocks && j->blocks[n].there)
        n++;
    return n == j->n_blocks || (!j->is_copy && strcmp(j->destination, destination) == 0);
}

bool journal_knows(const struct journal *j, const struct blob_staged_set *staged)
{
    char id[BLOB_ID_CHARS + 1];
    size_t index;

    for (size_t i = 0; i < staged->n; i++) {
        if (!blob_block_id_parse(staged->blocks[i].id, j->key_id, &index))
            continue;
        if (index >= j->n_blocks || !j->blocks[index].there)
            return false;
        blob_block_id(index, j->key_id, j->blocks[index].md5, id);
        if (strcmp(id, staged->blocks[i].id) != 0)
            return false;
    }
    return true;
}

bool journal_all_staged(const struct journal *j, const struct blob_staged_set *staged,
                        char (*ids)[BLOB_ID_CHARS + 1])
{
    for (size_t i = 0; i < j->n_blocks; i++) {
        const struct blob_staged *b;

        if (!j->blocks[i].there)
            return false;
        blob_block_id(i, j->key_id, j->blocks[i].md5, ids[i]);
        b = blob_staged_find(staged, ids[i]);
        if (!b || b->size != MIN(j->size - (uint64_t)i * j->block_bytes, (uint64_t)j->block_bytes))
            return false;
    }
    return true;
}

/* The file under that name, locked. -EWOULDBLOCK: another process has it. */
static int journal_lock(const char *path)
{
    for (;;) {
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW);
        struct stat a, b;

        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &a) < 0)
            return -errno;
        if (stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
            return TAKE_FD(fd);
    }
}

static int journal_fail_lock(const char *path, int r)
{
    if (r == -EWOULDBLOCK || r == -EEXIST)
        return tbpkg_fail(path, "another tbpkg is working on this upload",
                          "wait for it, or choose another --manifest");
    return tbpkg_fail_errno(path, r);
}

/* A key, a model or whatever else has the name is never taken for a damaged journal, which a new one
 * replaces. */
static bool journal_is_ours(int fd)
{
    char head[sizeof(MAGIC) - 1];
    ssize_t n = tb_pread_full(fd, head, sizeof(head), 0);

    return n == 0 || (n == (ssize_t)sizeof(head) && memcmp(head, MAGIC, sizeof(head)) == 0);
}

int journal_open(const char *path, struct journal *ret)
{
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    _cleanup_free_ char *text = NULL;
    char file[JOURNAL_FILE_MAX];
    size_t len = 0, good;
    int r;

    j.path = strdup(path);
    if (!j.path)
        return tbpkg_fail_errno(path, -ENOMEM);
    j.fd = journal_lock(path);
    if (j.fd < 0 && j.fd != -ENOENT)
        return journal_fail_lock(path, j.fd);
    if (j.fd >= 0) {
        if (!journal_is_ours(j.fd))
            return tbpkg_fail(path, "is no record of an upload, and is not replaced by one",
                              "move it away, or choose another --manifest");
        r = tb_read_file(path, JOURNAL_MAX, &text, &len);
        if (r < 0 && r != -EFBIG)
            return tbpkg_fail_errno(path, r);
        j.valid = r == 0 && journal_parse(text, len, &j, &good) == 0;
        if (!j.valid)
            journal_forget(&j);
        j.len = j.valid ? good : 0;
        j.is_copy = journal_identify(j.fd, file) < 0 || strcmp(file, j.file) != 0;
        if (j.valid && good < len && ftruncate(j.fd, (off_t)good) < 0)
            return tbpkg_fail_errno(path, -errno);
    } else {
        j.fd = -1;
    }
    *ret = j;
    j = (struct journal)JOURNAL_INIT;
    return CLI_OK;
}

void journal_peek_origin(const char *path, const char *asset_id, char **ret)
{
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    _cleanup_free_ char *text = NULL;
    size_t len, good;

    *ret = NULL;
    if (tb_read_file(path, JOURNAL_MAX, &text, &len) == 0 && journal_parse(text, len, &j, &good) == 0 &&
        strcmp(j.asset_id, asset_id) == 0)
        *ret = TAKE_PTR(j.origin);
}

/* -- writing ----------------------------------------------------------------------------------- */

static char *journal_header(const struct journal *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;
    char prefix[2 * sizeof(j->nonce_prefix) + 1];

    tb_hex_encode(j->nonce_prefix, sizeof(j->nonce_prefix), prefix);
    cJSON_AddStringToObject(o, "asset_id", j->asset_id);
    cJSON_AddStringToObject(o, "key_id", j->key_id);
    cJSON_AddStringToObject(o, "key_file", j->key_file);
    if (j->key_recipient)
        cJSON_AddStringToObject(o, "key_recipient", j->key_recipient);
    cJSON_AddStringToObject(o, "nonce_prefix", prefix);
    tb_json_add_uint(o, "chunk_bytes", j->chunk_bytes);
    tb_json_add_uint(o, "block_bytes", j->block_bytes);
    tb_json_add_uint(o, "size", j->size);
    cJSON_AddStringToObject(o, "layout", j->layout);
    cJSON_AddStringToObject(o, "destination", j->destination);
    if (j->origin)
        cJSON_AddStringToObject(o, "origin", j->origin);
    cJSON_AddStringToObject(o, "file", j->file);
    text = cJSON_PrintUnformatted(o);
    return text ? tb_strf(MAGIC "%s\n", text) : NULL;
}

/* The descriptor that stays holds the lock of the new file before it has its name. */
static int journal_put(struct journal *j)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = -1;
    bool replace = j->fd >= 0;
    int r;

    r = cli_newfile_open(&f, j->path, 0600);
    if (r < 0)
        return r;
    fd = fcntl(f.fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    r = journal_identify(f.fd, j->file);
    text = r == 0 ? journal_header(j) : NULL;
    if (r == 0)
        r = text ? tb_write_full(f.fd, text, strlen(text)) : -ENOMEM;
    if (r == 0)
        r = tb_newfile_commit(&f, replace);
    if (r < 0)
        return r;
    j->fd = tb_close(j->fd);
    j->fd = TAKE_FD(fd);
    j->len = strlen(text);
    return 0;
}

int journal_create(struct journal *j)
{
    int r = journal_make_blocks(j);

    if (r == -EBADMSG)
        return tbpkg_fail(j->asset_id, "is larger than 50000 blocks of 256 MiB", NULL);
    tb_freep(&j->manifest);
    j->commit_begun = j->is_copy = false;
    if (r == 0)
        r = journal_put(j);
    cli_temp_forget_all();
    if (r < 0)
        return r == -EEXIST ? journal_fail_lock(j->path, r) : tbpkg_fail_errno(j->path, r);
    j->valid = true;
    return CLI_OK;
}

static int journal_append(struct journal *j, const char *text, size_t len)
{
    int r = tb_pwrite_full(j->fd, text, len, j->len);

    if (r == 0 && fdatasync(j->fd) < 0)
        r = -errno;
    if (r == 0)
        j->len += len;
    return r;
}

static void journal_put_block(struct tb_buf *b, const struct blob_block *k)
{
    char sha256[65], md5[2 * BLOB_MD5_BYTES + 1];

    tb_hex_encode(k->sha256, sizeof(k->sha256), sha256);
    tb_hex_encode(k->md5, sizeof(k->md5), md5);
    (void)tb_buf_printf(b, "B %zu %s %s\n", k->index, sha256, md5);
}

int journal_admit(struct journal *j, const struct blob_block *const *blocks, size_t n, size_t *ret_index)
{
    _cleanup_buf_ struct tb_buf b = {0};
    int r;

    for (size_t i = 0; i < n; i++) {
        const struct journal_block *known = &j->blocks[blocks[i]->index];

        if (!known->there) {
            journal_put_block(&b, blocks[i]);
        } else if (memcmp(known->sha256, blocks[i]->sha256, sizeof(known->sha256)) != 0) {
            *ret_index = blocks[i]->index;
            return -ESTALE;
        }
    }
    r = tb_buf_error(&b);
    if (r == 0 && b.len > 0)
        r = journal_append(j, b.data, b.len);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct journal_block *k = &j->blocks[blocks[i]->index];

        k->there = true;
        memcpy(k->sha256, blocks[i]->sha256, sizeof(k->sha256));
        memcpy(k->md5, blocks[i]->md5, sizeof(k->md5));
    }
    return r;
}

int journal_sealed(struct journal *j, const char *manifest, const char *source)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL, *line = NULL;
    int r;

    cJSON_AddStringToObject(o, "source", source);
    cJSON_AddStringToObject(o, "manifest", manifest);
    text = cJSON_PrintUnformatted(o);
    line = text ? tb_strf("M %s\n", text) : NULL;
    r = line ? journal_append(j, line, strlen(line)) : -ENOMEM;
    return r < 0 ? tbpkg_fail_errno(j->path, r) : CLI_OK;
}

int journal_sealed_again(struct journal *j, const char *source)
{
    _cleanup_free_ char *line = tb_strf("S %s\n", source);
    int r = line ? journal_append(j, line, strlen(line)) : -ENOMEM;

    return r < 0 ? tbpkg_fail_errno(j->path, r) : CLI_OK;
}

int journal_commit(struct journal *j)
{
    int r = journal_append(j, "C\n", 2);

    return r < 0 ? tbpkg_fail_errno(j->path, r) : CLI_OK;
}
