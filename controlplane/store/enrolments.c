/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/units.h"
#include "controlplane/store/store_room.h"

#define RESOURCE_DAY_US (86400 * TB_USEC_PER_SEC)

int cp_store_put_code(struct cp_store *s, const struct cp_code *c)
{
    return store_run(s, "INSERT INTO enrolment_codes VALUES($1,$2,$3,$4,$5)", "ttuuu", c->code_sha256,
                     c->contract_id, c->uses_left, c->expires_us, c->created_us);
}

#define CODE_COLUMNS "code_sha256, contract_id, uses_left, expires_us, created_us FROM enrolment_codes"

static void enrolment_read_code(struct cp_rows *rows, struct cp_code *c)
{
    *c = (struct cp_code){.uses_left = (uint64_t)cp_rows_int(rows, 2),
                          .expires_us = (uint64_t)cp_rows_int(rows, 3),
                          .created_us = (uint64_t)cp_rows_int(rows, 4)};
    CP_ROWS_TEXT(rows, 0, c->code_sha256);
    CP_ROWS_TEXT(rows, 1, c->contract_id);
}

int cp_store_page_codes(struct cp_store *s, uint64_t now_us, const char *contract_id,
                        const struct cp_code *after, uint64_t limit,
                        int (*fn)(const struct cp_code *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_code c;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " CODE_COLUMNS " WHERE uses_left>0 AND (expires_us=0 OR expires_us>$1)"
                         " AND ($2='' OR contract_id=$2)"
                         " AND (contract_id>$3 OR (contract_id=$3 AND code_sha256>$4))"
                         " ORDER BY contract_id, code_sha256 LIMIT $5",
                         "utttu", now_us, contract_id, after->contract_id, after->code_sha256, limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        enrolment_read_code(rows, &c);
        r = fn(&c, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_end_code(struct cp_store *s, const char *code_id, struct cp_code *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " CODE_COLUMNS " WHERE substr(code_sha256, 1, 16)=$1", "t",
                         code_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    enrolment_read_code(rows, ret);
    rows = cp_rows_free(rows);
    return store_run(s, "UPDATE enrolment_codes SET uses_left=0 WHERE code_sha256=$1", "t", ret->code_sha256);
}

int cp_store_end_codes(struct cp_store *s, const char *contract_id, uint64_t until_us)
{
    return store_run(
        s, "UPDATE enrolment_codes SET uses_left=0 WHERE ($1 IS NULL OR contract_id=$1) AND created_us<=$2",
        "tu", contract_id, until_us);
}

static int enrolment_get_code(struct cp_store *s, const char *code_sha256, const char *contract_id,
                              struct cp_code *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT uses_left, expires_us FROM enrolment_codes"
                         " WHERE code_sha256=$1 AND contract_id=$2",
                         "tt", code_sha256, contract_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    ret->uses_left = (uint64_t)cp_rows_int(rows, 0);
    ret->expires_us = (uint64_t)cp_rows_int(rows, 1);
    return 0;
}

static int enrolment_use_code(struct cp_store *s, const char *code_sha256, const struct cp_code *c,
                              uint64_t now_us)
{
    int n;

    if (c->expires_us && c->expires_us <= now_us)
        return -EKEYEXPIRED;
    n = cp_sql_run(s->c,
                   "UPDATE enrolment_codes SET uses_left=uses_left-1 WHERE code_sha256=$1 AND uses_left>0",
                   "t", code_sha256);
    return n < 0 ? n : n == 0 ? -EDQUOT : 0;
}

int cp_store_enrol_machine(struct cp_store *s, const char *code_sha256, const char *contract_id,
                           const char *hw_id, const char *key_sha256, uint64_t now_us)
{
    struct cp_machine m;
    struct cp_code c;
    int r = enrolment_get_code(s, code_sha256, contract_id, &c);

    if (r < 0)
        return r;
    r = cp_store_get_machine(s, contract_id, hw_id, &m);
    if (r == 0)
        return m.expelled_us ? -EACCES : 0;
    if (r == -ENOENT)
        r = enrolment_use_code(s, code_sha256, &c, now_us);
    return r < 0 ? r
                 : store_run(s, "INSERT INTO machines VALUES($1,$2,$3,$3,0,$4,0)", "ttut", contract_id, hw_id,
                             now_us, key_sha256);
}

static int enrolment_check_resource(struct cp_store *s, const char *contract_id, const char *resource_id)
{
    int64_t expelled = 0;
    int r =
        cp_sql_int(s->c, &expelled, 0,
                   "SELECT count(*) FROM machine_resources r JOIN machines m ON m.contract_id=r.contract_id"
                   " AND m.hw_id=r.hw_id WHERE r.contract_id=$1 AND r.resource_id=$2 AND m.expelled_us<>0",
                   "tt", contract_id, resource_id);

    return r < 0 ? r : expelled > 0 ? -EACCES : 0;
}

/* A virtual machine is one machine: those that it was before, with other keys, are forgotten. The instances
 * of a scale set share its id, so they stay. */
static int enrolment_supersede(struct cp_store *s, const char *contract_id, const char *resource_id)
{
    if (strstr(resource_id, "/virtualmachinescalesets/"))
        return 0;
    return store_run(s,
                     "DELETE FROM machines WHERE contract_id=$1 AND expelled_us=0 AND hw_id IN"
                     " (SELECT hw_id FROM machine_resources WHERE contract_id=$1 AND resource_id=$2)",
                     "tt", contract_id, resource_id);
}

/* Who has the token of a machine's identity could enrol keys without end. */
static int enrolment_count_keys(struct cp_store *s, const char *contract_id, const char *resource_id,
                                uint64_t now_us)
{
    bool set = strstr(resource_id, "/virtualmachinescalesets/");
    uint64_t since_us = now_us > RESOURCE_DAY_US ? now_us - RESOURCE_DAY_US : 0;
    int64_t keys = 0;
    int r = cp_sql_int(s->c, &keys, 0,
                       "SELECT count(*) FROM machine_resources WHERE contract_id=$1 AND resource_id=$2"
                       " AND enrolled_us>$3",
                       "ttu", contract_id, resource_id, since_us);

    if (r == 0 && keys >= (set ? CP_SET_KEYS_A_DAY : CP_VM_KEYS_A_DAY))
        r = -EDQUOT;
    return r < 0 ? r
                 : store_run(s,
                             "DELETE FROM machine_resources WHERE contract_id=$1 AND resource_id=$2 AND"
                             " enrolled_us<=$3 AND hw_id NOT IN"
                             " (SELECT hw_id FROM machines WHERE contract_id=$1)",
                             "ttu", contract_id, resource_id, since_us);
}

int cp_store_admit_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                           const char *key_sha256, const char *resource_id, uint64_t now_us)
{
    struct cp_machine m;
    int r = enrolment_check_resource(s, contract_id, resource_id);

    if (r == 0)
        r = cp_store_get_machine(s, contract_id, hw_id, &m);
    if (r == 0)
        return m.expelled_us ? -EACCES : 0;
    if (r == -ENOENT)
        r = enrolment_count_keys(s, contract_id, resource_id, now_us);
    if (r == 0)
        r = enrolment_supersede(s, contract_id, resource_id);
    if (r == 0)
        r = store_run(s,
                      "INSERT INTO machine_resources VALUES($1,$2,$3,$4) ON CONFLICT(contract_id, hw_id)"
                      " DO UPDATE SET resource_id=$3, enrolled_us=$4",
                      "tttu", contract_id, hw_id, resource_id, now_us);
    return r < 0 ? r
                 : store_run(s, "INSERT INTO machines VALUES($1,$2,$3,$3,0,$4,0)", "ttut", contract_id, hw_id,
                             now_us, key_sha256);
}

int cp_store_expel_machine(struct cp_store *s, const char *contract_id, const char *hw_id, uint64_t now_us)
{
    int n = cp_sql_run(s->c,
                       "UPDATE machines SET expelled_us=CASE WHEN expelled_us=0 THEN $3 ELSE expelled_us END,"
                       " slot_until_us=0 WHERE contract_id=$1 AND hw_id=$2",
                       "ttu", contract_id, hw_id, now_us);

    if (n <= 0)
        return n < 0 ? n : -ENOENT;
    return cp_store_end_codes(s, contract_id, INT64_MAX);
}
