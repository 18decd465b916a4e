/* SPDX-License-Identifier: Apache-2.0 */
/* Terms by which contracts are billed, terms of office of the submitter, and the summary for people. New
 * terms are set in billing_book.c, since what was reported before is booked by the old ones. */
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
