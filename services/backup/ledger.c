/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/ledger.h"

#include <string.h>

#include "common/io.h"
#include "common/ledger_schema.h"

#define SQLITE_HEADER_BYTES 100
#define SQLITE_MODE_AT 18 /* two bytes: 2 with a write-ahead log, 1 without */

static int image_backup(sqlite3 *from, sqlite3 *to)
{
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    uint64_t give_up = tb_now_boottime_us() + TB_DB_BUSY_MS * 1000ULL;
    int rc;

    if (!b)
        return tb_db_errno(to);
    while ((rc = sqlite3_backup_step(b, -1)) == SQLITE_BUSY || rc == SQLITE_LOCKED) {
        if (tb_now_boottime_us() > give_up)
            break;
        tb_sleep_ms(20);
    }
    sqlite3_backup_finish(b);
    switch (rc) {
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    default:
        return -EIO;
    }
}

static int image_check(sqlite3 *db, const char *schema, char err[static TB_DB_ERR_MAX])
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    char sql[64];
    int64_t version;
    int r;

    snprintf(sql, sizeof(sql), "PRAGMA \"%s\".quick_check(1)", schema);
    if (tb_db_prepare(db, &s, sql, NULL) < 0 || tb_db_step(s) <= 0 ||
        strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0) {
        snprintf(err, TB_DB_ERR_MAX, "the database is damaged");
        return -EBADMSG;
    }
    snprintf(sql, sizeof(sql), "PRAGMA \"%s\".user_version", schema);
    r = tb_db_int(db, &version, 0, sql, NULL);
    if (r == 0 && version > TB_LEDGER_SCHEMA_VERSION) {
        snprintf(err, TB_DB_ERR_MAX, "the ledger is of a newer TrustBridge; upgrade this one first");
        return -EBADMSG;
    }
    return r;
}

int backup_ledger_copy(const char *path, char **ret, size_t *ret_len, char err[static TB_DB_ERR_MAX])
{
    _cleanup_db_ sqlite3 *from = NULL, *to = NULL;
    sqlite3_int64 n = 0;
    unsigned char *image;
    int r;

    err[0] = '\0';
    if (access(path, F_OK) < 0)
        return -errno;
    r = tb_db_open(path, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOFOLLOW, &from, err);
    if (r < 0)
        return r;
    r = tb_db_open(":memory:", SQLITE_OPEN_READWRITE, &to, err);
    if (r == 0)
        r = image_backup(from, to);
    if (r == 0)
        r = image_check(to, "main", err);
    if (r < 0)
        return tb_db_error(from, r, "copying", err);
    image = sqlite3_serialize(to, "main", &n, 0);
    r = !image ? -ENOMEM : n < SQLITE_HEADER_BYTES ? -EBADMSG : (uint64_t)n > BACKUP_LEDGER_MAX ? -EFBIG : 0;
    *ret = r == 0 ? malloc((size_t)n) : NULL;
    if (r == 0 && !*ret)
        r = -ENOMEM;
    if (r == 0)
        memcpy(*ret, image, (size_t)n);
    *ret_len = (size_t)n;
    sqlite3_free(image);
    return r < 0 ? tb_db_error(NULL, r, "copying", err) : 0;
}

int backup_ledger_attach(sqlite3 *db, const char *schema, const struct backup_member *m,
                         char err[static TB_DB_ERR_MAX])
{
    unsigned char *image = m->len >= SQLITE_HEADER_BYTES ? sqlite3_malloc64(m->len) : NULL;
    char sql[64];
    int r = 0;

    err[0] = '\0';
    if (!image) {
        snprintf(err, TB_DB_ERR_MAX,
                 m->len < SQLITE_HEADER_BYTES ? "it is no database" : "not enough memory");
        return m->len < SQLITE_HEADER_BYTES ? -EBADMSG : -ENOMEM;
    }
    memcpy(image, m->data, m->len);
    memset(image + SQLITE_MODE_AT, 1, 2); /* in memory there is no write-ahead log */
    if (strcmp(schema, "main") != 0) {
        snprintf(sql, sizeof(sql), "ATTACH ':memory:' AS \"%s\"", schema);
        r = tb_db_exec(db, sql);
    }
    if (r < 0)
        sqlite3_free(image);
    else if (sqlite3_deserialize(db, schema, image, (sqlite3_int64)m->len, (sqlite3_int64)m->len,
                                 SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_READONLY) != SQLITE_OK)
        r = -ENOMEM; /* it has freed the image */
    return r < 0 ? tb_db_error(db, r, "opening", err) : image_check(db, schema, err);
}
