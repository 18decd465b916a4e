/* SPDX-License-Identifier: Apache-2.0 */
/* Terms by which contracts are billed, terms of office of the submitter, and the summary for people. */
#include <string.h>

#include "controlplane/store/billing_room.h"

/* -- a mapping --------------------------------------------------------------------------------- */
static const struct tb_usage_dimension *dimension_find(const char *name, size_t len)
{
    for (int i = 0; i < TB_USAGE_DIMENSIONS; i++)
        if (strlen(tb_usage_dimension[i].name) == len && memcmp(tb_usage_dimension[i].name, name, len) == 0)
            return &tb_usage_dimension[i];
    return NULL;
}

/* One word of the list, without spaces: QUANTITY or QUANTITY=NAME. */
static int dimension_parse(const char *word, size_t len, struct cp_dimension *ret)
{
    const char *eq = memchr(word, '=', len), *name = eq ? eq + 1 : word;
    size_t n = len - (size_t)(name - word);

    ret->of = dimension_find(word, eq ? (size_t)(eq - word) : len);
    if (!ret->of || n == 0 || n >= sizeof(ret->name))
        return -EINVAL;
    memcpy(ret->name, name, n);
    ret->name[n] = '\0';
    return tb_id_valid(ret->name) ? 0 : -EINVAL;
}

int cp_dimensions_parse(const char *text, struct cp_dimension ret[static TB_USAGE_DIMENSIONS], size_t *ret_n)
{
    size_t n = 0, len;

    if (strlen(text) >= CP_DIMENSIONS_MAX)
        return -EINVAL;
    for (;; text += len) {
        text += strspn(text, " ");
        len = strcspn(text, ", ");
        if (n == TB_USAGE_DIMENSIONS || dimension_parse(text, len, &ret[n]) < 0)
            return -EINVAL;
        for (size_t i = 0; i < n; i++)
            if (ret[i].of == ret[n].of || strcmp(ret[i].name, ret[n].name) == 0)
                return -EINVAL;
        n++;
        text += len;
        len = strspn(text, " ");
        if (text[len] == '\0')
            break;
        if (text[len] != ',')
            return -EINVAL;
        len++;
    }
    *ret_n = n;
    return 0;
}

bool cp_billing_resource_valid(const char *resource)
{
    static const char may[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.()/";
    size_t n = strlen(resource);

    return n > 1 && n < TB_METERING_RESOURCE_MAX && strspn(resource, may) == n &&
           (*resource == '/' || !strchr(resource, '/'));
}

/* -- terms of contracts ------------------------------------------------------------------------ */
int cp_store_get_billing(struct cp_store *s, const char *contract_id, struct cp_billing *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT resource, plan, dimensions, updated_us FROM billing_terms"
                         " WHERE contract_id=$1",
                         "t", contract_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    *ret = (struct cp_billing){.updated_us = (uint64_t)cp_rows_int(rows, 3)};
    snprintf(ret->contract_id, sizeof(ret->contract_id), "%s", contract_id);
    CP_ROWS_TEXT(rows, 0, ret->resource);
    CP_ROWS_TEXT(rows, 1, ret->plan);
    CP_ROWS_TEXT(rows, 2, ret->dimensions);
    return 0;
}

/* What was reported before the control plane billed the contract is somebody else's: marked as booked. */
static int billing_begin(struct cp_store *s, const char *contract_id)
{
    int r = store_run(s,
                      "INSERT INTO billing_marks SELECT contract_id, hw_id, ledger, -1, counter, total-base"
                      " FROM usage_totals WHERE contract_id=$1",
                      "t", contract_id);
    return r < 0 ? r
                 : store_run(s,
                             "INSERT INTO billing_marks SELECT contract_id, hw_id, ledger, hour, counter,"
                             " total-base FROM usage_hours WHERE contract_id=$1",
                             "t", contract_id);
}

/* Sources of one contract, one after the other. */
static int billing_next_ledger(struct cp_store *s, struct cp_source *from)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT hw_id, ledger FROM usage_ledgers WHERE contract_id=$1"
                         " AND (hw_id>$2 OR (hw_id=$2 AND ledger>$3)) ORDER BY hw_id, ledger LIMIT 1",
                         "ttt", from->contract_id, from->hw_id, from->ledger);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    CP_ROWS_TEXT(rows, 0, from->hw_id);
    CP_ROWS_TEXT(rows, 1, from->ledger);
    return 0;
}

static int billing_book_contract(struct cp_store *s, const struct cp_billing *terms, uint64_t now_us)
{
    struct cp_source from = {0};
    uint64_t booked;
    int r = 0;

    if (!*terms->resource)
        return 0;
    snprintf(from.contract_id, sizeof(from.contract_id), "%s", terms->contract_id);
    while (r == 0 && (r = billing_next_ledger(s, &from)) == 0)
        r = cp_billing_book(s, terms, &from, now_us, &booked);
    return r == -ENOENT ? 0 : r;
}

/* The marketplace takes ids that differ in case alone for one resource, and one event of it for each hour:
 * the second of two would be a duplicate, its usage lost. So a resource is spelt as it was the first time. */
static int billing_spell(struct cp_store *s, const char *resource, char ret[static TB_METERING_RESOURCE_MAX])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT resource FROM billing_events WHERE lower(resource)=lower($1)"
                         " UNION SELECT resource FROM billing_terms WHERE lower(resource)=lower($1)"
                         " ORDER BY resource LIMIT 1",
                         "t", resource);

    if (r == 0)
        r = cp_rows_next(rows);
    snprintf(ret, TB_METERING_RESOURCE_MAX, "%s", resource);
    if (r > 0)
        cp_rows_text(rows, 0, ret, TB_METERING_RESOURCE_MAX);
    return MIN(r, 0);
}

int cp_store_put_billing(struct cp_store *s, const struct cp_billing *b, uint64_t now_us)
{
    char resource[TB_METERING_RESOURCE_MAX];
    struct cp_billing before;
    int r = cp_store_get_billing(s, b->contract_id, &before);

    if (r == -ENOENT)
        r = billing_begin(s, b->contract_id);
    else if (r == 0)
        r = billing_book_contract(s, &before, now_us);
    if (r >= 0)
        r = billing_spell(s, b->resource, resource);
    return r < 0 ? r
                 : store_run(s,
                             "INSERT INTO billing_terms VALUES($1,$2,$3,$4,$5) ON CONFLICT(contract_id)"
                             " DO UPDATE SET resource=$2, plan=$3, dimensions=$4, updated_us=$5",
                             "ttttu", b->contract_id, resource, b->plan, b->dimensions, now_us);
}

int cp_store_remove_billing(struct cp_store *s, const char *contract_id)
{
    struct cp_billing b;
    int64_t used = 0;
    int r = cp_store_get_billing(s, contract_id, &b);

    if (r == 0)
        r = cp_sql_int(s->c, &used, 0, "SELECT count(*) FROM usage_ledgers WHERE contract_id=$1", "t",
                       contract_id);
    if (r < 0 || used)
        return r < 0 ? r : -EBUSY;
    return store_run(s, "DELETE FROM billing_terms WHERE contract_id=$1", "t", contract_id);
}

int cp_store_billing_state(struct cp_store *s, const char *contract_id, bool *ret_here, bool *ret_ended)
{
    int64_t state = 0;
    int r = cp_sql_int(s->c, &state, 0,
                       "SELECT CASE WHEN EXISTS (SELECT 1 FROM billing_ended e WHERE e.resource=t.resource)"
                       " THEN 2 ELSE 1 END FROM billing_terms t WHERE t.contract_id=$1",
                       "t", contract_id);

    *ret_here = state > 0;
    *ret_ended = state > 1;
    return r;
}

/* -- terms of office --------------------------------------------------------------------------- */
int cp_store_lock_submitter(struct cp_store *s)
{
    return cp_sql_lock(s->c);
}

int cp_store_begin_term(struct cp_store *s, const char *owner, uint64_t now_us, uint64_t *ret_term)
{
    int64_t term = 0;
    int r = store_run(s, "UPDATE submitter SET term=term+1, owner=$1, since_us=$2, seen_us=$2", "tu", owner,
                      now_us);

    if (r == 0)
        r = cp_sql_int(s->c, &term, 0, "SELECT term FROM submitter", "");
    *ret_term = (uint64_t)term;
    return r;
}

int cp_billing_fence(struct cp_store *s, uint64_t term, uint64_t now_us)
{
    int n = cp_sql_run(s->c, "UPDATE submitter SET seen_us=$1 WHERE term=$2", "uu", now_us, term);

    return n < 0 ? n : n == 1 ? 0 : -ESTALE;
}

/* -- for people -------------------------------------------------------------------------------- */
static int summarise_events(struct cp_store *s, struct cp_billing_summary *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT state, count(*), min(since), sum(CASE WHEN doubt=1 THEN 1 ELSE 0 END)"
                         " FROM billing_events GROUP BY state",
                         "");
    char state[16];

    ret->oldest = -1;
    while (r >= 0 && (r = cp_rows_next(rows)) > 0) {
        uint64_t n = (uint64_t)cp_rows_int(rows, 1);
        int64_t since = cp_rows_int(rows, 2);

        CP_ROWS_TEXT(rows, 0, state);
        if (strcmp(state, "ACCEPTED") == 0) {
            ret->accepted = n;
            continue;
        }
        *(strcmp(state, "OPEN") == 0     ? &ret->open
          : strcmp(state, "FROZEN") == 0 ? &ret->frozen
          : strcmp(state, "SENT") == 0   ? &ret->sent
                                         : &ret->parked) = n;
        if (strcmp(state, "PARKED") == 0)
            ret->doubt = (uint64_t)cp_rows_int(rows, 3);
        ret->oldest = ret->oldest < 0 ? since : MIN(ret->oldest, since);
    }
    return r;
}

/* Sources that wait, by why. */
static int summarise_held(struct cp_store *s, struct cp_billing_summary *ret)
{
    static const char waiting[] =
        "SELECT count(*) FROM usage_ledgers l JOIN billing_terms t ON t.contract_id=l.contract_id"
        " WHERE l.self_billing=$1 AND ($1=1 OR t.resource='')";
    int64_t n[3] = {0};
    int r = cp_sql_int(s->c, &n[0], 0, waiting, "i", INT64_C(0));

    if (r == 0)
        r = cp_sql_int(s->c, &n[1], 0, waiting, "i", INT64_C(1));
    if (r == 0)
        r = cp_sql_int(s->c, &n[2], 0, "SELECT count(*) FROM billing_ended", "");
    ret->without_resource = (uint64_t)n[0];
    ret->self_billing = (uint64_t)n[1];
    ret->ended = (uint64_t)n[2];
    return r;
}

int cp_store_summarise_billing(struct cp_store *s, struct cp_billing_summary *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT owner, term, since_us, seen_us FROM submitter", "");

    *ret = (struct cp_billing_summary){0};
    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r < 0 ? r : -EIO;
    CP_ROWS_TEXT(rows, 0, ret->owner);
    ret->term = (uint64_t)cp_rows_int(rows, 1);
    ret->since_us = (uint64_t)cp_rows_int(rows, 2);
    ret->seen_us = (uint64_t)cp_rows_int(rows, 3);
    r = summarise_events(s, ret);
    return r < 0 ? r : summarise_held(s, ret);
}
