/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/attest.h"
#include "common/hex.h"
#include "common/secret.h"
#include "controlplane/store/store_room.h"

static int secret_read(struct cp_store *s, const char *name, uint8_t ret[static TB_KEY_BYTES])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    char hex[TB_KEY_HEX_CHARS + 1];
    int r = cp_sql_query(s->c, &rows, "SELECT secret FROM server_secrets WHERE name=$1", "t", name);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    CP_ROWS_TEXT(rows, 0, hex);
    r = tb_hex_decode(hex, strlen(hex), ret, TB_KEY_BYTES);
    tb_erase(hex, sizeof(hex));
    return r;
}

int cp_store_secret(struct cp_store *s, const char *name, uint8_t ret[static TB_KEY_BYTES])
{
    char hex[TB_KEY_HEX_CHARS + 1];
    int r = secret_read(s, name, ret);

    if (r != -ENOENT)
        return r;
    r = tb_random(ret, TB_KEY_BYTES);
    if (r < 0)
        return r;
    tb_hex_encode(ret, TB_KEY_BYTES, hex);
    r = store_run(s, "INSERT INTO server_secrets VALUES($1,$2) ON CONFLICT(name) DO NOTHING", "tt", name,
                  hex);
    tb_erase(hex, sizeof(hex));
    return r < 0 ? r : secret_read(s, name, ret);
}

int cp_store_take_challenge(struct cp_store *s, const char *challenge, uint64_t expires_us, uint64_t now_us)
{
    int n = store_run(s, "DELETE FROM used_challenges WHERE expires_us<=$1", "u", now_us);

    if (n == 0)
        n = cp_sql_run(s->c, "INSERT INTO used_challenges VALUES($1,$2) ON CONFLICT(challenge) DO NOTHING",
                       "tu", challenge, expires_us);
    return n < 0 ? n : n == 0 ? -EEXIST : 0;
}

int cp_store_get_attested(struct cp_store *s, const char *contract_id, const char *hw_id,
                          struct cp_machine_attested *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT ak, level, at_us, image, image_version FROM machine_attested"
                         " WHERE contract_id=$1 AND hw_id=$2",
                         "tt", contract_id, hw_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    CP_ROWS_TEXT(rows, 0, ret->ak);
    CP_ROWS_TEXT(rows, 1, ret->level);
    ret->at_us = (uint64_t)cp_rows_int(rows, 2);
    CP_ROWS_TEXT(rows, 3, ret->image);
    CP_ROWS_TEXT(rows, 4, ret->image_version);
    return 0;
}

int cp_store_attest_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                            const struct cp_machine_attested *m)
{
    int n =
        cp_sql_run(s->c,
                   "INSERT INTO machine_attested VALUES($1,$2,$3,$4,$5,$6,$7) ON CONFLICT(contract_id, hw_id)"
                   " DO UPDATE SET level=$4, at_us=$5, image=$6, image_version=$7"
                   " WHERE machine_attested.ak=$3",
                   "ttttutt", contract_id, hw_id, m->ak, m->level, m->at_us, m->image, m->image_version);

    return n < 0 ? n : n == 0 ? -EACCES : 0;
}

int cp_store_keep_report(struct cp_store *s, const char *contract_id, const char *hw_id,
                         const struct cp_kept_report *k)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    uint64_t clock;
    int r =
        cp_sql_query(s->c, &rows,
                     "SELECT clock_ms FROM machine_reports WHERE contract_id=$1 AND hw_id=$2 AND resets=$3"
                     " AND restarts=$4",
                     "ttuu", contract_id, hw_id, k->resets, k->restarts);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r < 0)
        return r;
    clock = r > 0 ? (uint64_t)cp_rows_int(rows, 0) : 0;
    if (r > 0 && clock >= k->clock_ms)
        return clock == k->clock_ms ? -EEXIST : -ESTALE;
    return store_run(s,
                     "INSERT INTO machine_reports VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)"
                     " ON CONFLICT(contract_id, hw_id) DO UPDATE SET made_us=$3, resets=$4, restarts=$5,"
                     " clock_ms=$6, holds=$7, broken=$8, not_checked=$9, first_broken=$10, report=$11",
                     "ttuuuuuuutt", contract_id, hw_id, k->made_us, k->resets, k->restarts, k->clock_ms,
                     (uint64_t)k->holds, (uint64_t)k->broken, (uint64_t)k->not_checked, k->first_broken,
                     k->text);
}

int cp_store_get_report(struct cp_store *s, const char *contract_id, const char *hw_id, char **ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT report FROM machine_reports WHERE contract_id=$1 AND hw_id=$2",
                         "tt", contract_id, hw_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    *ret = malloc(TB_MACHINE_REPORT_MAX + 1);
    if (!*ret)
        return -ENOMEM;
    cp_rows_text(rows, 0, *ret, TB_MACHINE_REPORT_MAX + 1);
    return 0;
}
