/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "billing/ledger.h"
#include "common/db.h"
#include "common/io.h"
#include "common/mapfile.h"

static bool ledger_has_moved(struct tb_ledger *l)
{
    int moved = 0;

    return sqlite3_file_control(l->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved;
}

/* Of what lies under the name: a log beside the file that comes there would be taken for its own. */
static int ledger_clear_place(const char *path)
{
    static const char *const beside[] = {"-wal", "-shm", "-journal"};
    int r = tb_mapfile_set_aside(path);

    for (size_t i = 0; (r >= 0 || r == -ENOENT) && i < ARRAY_SIZE(beside); i++) {
        _cleanup_free_ char *p = tb_strf("%s%s", path, beside[i]);

        r = !p ? -ENOMEM : unlink(p) < 0 && errno != ENOENT ? -errno : 0;
    }
    return r == -ENOENT ? 0 : r;
}

static int ledger_write_again(struct tb_ledger *l, const char *path, char *err)
{
    _cleanup_free_ char *tmp = tb_strf("%s.again", path);
    int r = tmp ? 0 : -ENOMEM;

    if (r == 0 && unlink(tmp) < 0 && errno != ENOENT)
        r = -errno;
    if (r == 0)
        r = tb_db_run(l->db, "VACUUM INTO ?", "t", tmp);
    if (r < 0)
        return tb_db_error(l->db, r, "writing it again", err);
    r = ledger_clear_place(path);
    if (r == 0)
        r = rename(tmp, path) < 0 ? -errno : tb_fsync_parent(path);
    if (r < 0)
        snprintf(err, TB_LEDGER_ERR_MAX, "cannot be put in its place: %s", strerror(-r));
    return r < 0 ? r : 0;
}

int tb_ledger_keep(struct tb_ledger **l, const char *path, char err[static TB_LEDGER_ERR_MAX])
{
    uint32_t dimensions = (*l)->dimensions;
    int r;

    err[0] = '\0';
    if (!ledger_has_moved(*l))
        return 0;
    r = ledger_write_again(*l, path, err);
    if (r < 0)
        return r;
    tb_ledger_close(*l); /* first: SQLite removes its log by name */
    *l = NULL;
    r = tb_ledger_open(path, false, dimensions, l, err);
    return r < 0 ? r : 1;
}
