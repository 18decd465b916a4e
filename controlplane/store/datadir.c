/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/datadir.h"

#include <string.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "common/io.h"

int cp_data_place(const char *dir, const char *database, struct cp_place *ret, char err[static CP_ERR_MAX])
{
    _cleanup_free_ char *path = tb_path_join(dir, CP_DB_FILE);
    int r;

    if (!path) {
        snprintf(err, CP_ERR_MAX, "out of memory");
        return -ENOMEM;
    }
    r = tb_mkdir_p(dir, 0755);
    if (r < 0) {
        snprintf(err, CP_ERR_MAX, "cannot make directory %s: %s", dir, strerror(-r));
        return r;
    }
    ret->seed = !database;
    if (database && strncmp(database, "sqlite:", 7) == 0)
        database += 7;
    r = snprintf(ret->where, sizeof(ret->where), "%s", database ? database : path);
    if (r < (int)sizeof(ret->where))
        return 0;
    snprintf(err, CP_ERR_MAX, "the name of the database is longer than %zu bytes", sizeof(ret->where) - 1);
    return -ENAMETOOLONG;
}

/* What may be said of a database: not its URL, which may have a password. */
static const char *datadir_name(const struct cp_place *p)
{
    return cp_sql_is_url(p->where) ? "(PostgreSQL)" : p->where;
}

int cp_data_open_store(const struct cp_place *p, struct cp_store **ret, char err[static CP_ERR_MAX])
{
    char why[TB_DB_ERR_MAX];
    int r = cp_store_open(p->where, p->seed, ret, why);

    if (r < 0)
        snprintf(err, CP_ERR_MAX, "cannot open database %.220s: %.255s", datadir_name(p),
                 *why ? why : strerror(-r));
    return r;
}

static int datadir_make_secret(const char *path)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    char hex[TB_KEY_HEX_CHARS + 2];
    _cleanup_key_ struct tb_key k;
    int r;

    r = tb_random(k.b, sizeof(k.b));
    if (r < 0)
        return r;
    r = tb_newfile_open(&f, path, 0600);
    if (r < 0)
        return r;
    tb_hex_encode(k.b, sizeof(k.b), hex);
    hex[TB_KEY_HEX_CHARS] = '\n';
    r = tb_write_full(f.fd, hex, TB_KEY_HEX_CHARS + 1);
    tb_erase(hex, sizeof(hex));
    if (r < 0)
        return r;
    return tb_newfile_commit(&f, false);
}

int cp_data_secret(const char *dir, const char *name, struct tb_key *ret, char err[static CP_ERR_MAX])
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    struct stat st;
    int r = 0;

    if (!path) {
        snprintf(err, CP_ERR_MAX, "out of memory");
        return -ENOMEM;
    }
    if (stat(path, &st) < 0 && errno == ENOENT)
        r = datadir_make_secret(path);
    if (r == -EEXIST)
        r = 0;
    if (r == 0 && stat(path, &st) < 0)
        r = -errno;
    if (r == 0 && (st.st_mode & 077)) {
        snprintf(err, CP_ERR_MAX, "%s may be read by others (mode %03o); run: chmod 600 %s", path,
                 st.st_mode & 0777u, path);
        return -EPERM;
    }
    if (r == 0)
        r = tb_key_read_file(path, ret);
    if (r == -EINVAL)
        snprintf(err, CP_ERR_MAX,
                 "%s does not hold 64 hex digits; restore it, or remove it to have a new one made", path);
    else if (r < 0)
        snprintf(err, CP_ERR_MAX, "cannot read %s: %s", path, strerror(-r));
    return r;
}
