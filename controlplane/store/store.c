/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/store.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include "common/secret.h"
#include "common/units.h"
#include "controlplane/store/migrations.h"
#include "controlplane/store/store_room.h"

#define STORE_WAIT_US_MAX 200000

static int store_seed_new(struct cp_store *s, void *ctx)
{
    return cp_store_seed(s, tb_now_realtime_us());
}

int cp_store_open(const char *where, bool seed, struct cp_store **ret, char err[static TB_DB_ERR_MAX])
{
    _cleanup_store_ struct cp_store *s = calloc(1, sizeof(*s));
    bool is_new;
    int r;

    err[0] = '\0';
    if (!s)
        return -ENOMEM;
    r = cp_sql_open(where, &s->c, err);
    if (r == 0)
        r = cp_migrate(s->c, &is_new, err);
    if (r == 0 && seed && is_new) {
        r = cp_store_transact(s, store_seed_new, NULL);
        if (r < 0)
            snprintf(err, TB_DB_ERR_MAX, "%s", cp_store_error(s));
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

struct cp_store *cp_store_close(struct cp_store *s)
{
    if (s)
        cp_sql_close(s->c);
    free(s);
    return NULL;
}

const char *cp_store_error(const struct cp_store *s)
{
    return cp_sql_error(s->c);
}

int cp_store_check(struct cp_store *s)
{
    int64_t n;

    return cp_sql_int(s->c, &n, 0, "SELECT version FROM schema_version", "");
}

static int store_try(struct cp_store *s, int (*fn)(struct cp_store *s, void *ctx), void *ctx)
{
    int r = cp_sql_begin(s->c), done;

    if (r < 0)
        return r;
    s->in_transaction = true;
    r = fn(s, ctx);
    s->in_transaction = false;
    if (r < 0) {
        cp_sql_rollback(s->c);
        return r;
    }
    done = cp_sql_commit(s->c);
    return done < 0 ? done : r;
}

/* A random part, so that those who met do not meet again. */
static void store_wait(uint64_t *wait_us)
{
    uint32_t random = 0;
    uint64_t us;

    (void)tb_random(&random, sizeof(random));
    us = *wait_us / 2 + random % (*wait_us / 2 + 1);
    nanosleep(&(struct timespec){.tv_nsec = (long)us * 1000}, NULL);
    *wait_us = MIN(*wait_us * 2, (uint64_t)STORE_WAIT_US_MAX);
}

int cp_store_transact(struct cp_store *s, int (*fn)(struct cp_store *s, void *ctx), void *ctx)
{
    uint64_t since = 0, wait_us = 2000;
    int r;

    assert(!s->in_transaction);
    for (unsigned conflicts = 0;;) {
        r = store_try(s, fn, ctx);
        if (r == -EDEADLK && ++conflicts >= CP_STORE_CONFLICTS_MAX)
            return -EBUSY;
        if (r != -EDEADLK && r != -ENOTCONN)
            return r;
        if (r == -ENOTCONN) {
            if (since == 0)
                since = tb_now_monotonic_us();
            if (tb_now_monotonic_us() - since > CP_STORE_AWAY_US_MAX)
                return r;
            wait_us = MAX(wait_us, 20000ULL);
        }
        store_wait(&wait_us);
    }
}

int cp_store_only_read(struct cp_store *s)
{
    assert(s->in_transaction);
    return cp_sql_script(s->c, cp_sql_pick(s->c, "", "SET TRANSACTION READ ONLY"));
}

int cp_store_seed(struct cp_store *s, uint64_t now_us)
{
    struct cp_contract c = {.contract_id = "contract-allow",
                            .asset_id = CP_ANY_ASSET,
                            .mode = CP_MODE_OPEN,
                            .active = true,
                            .lease_seconds = CP_LEASE_SECONDS_DEFAULT,
                            .slot_ttl_s = CP_SLOT_TTL_DEFAULT,
                            .created_us = now_us,
                            .updated_us = now_us};
    int r;

    r = cp_store_put_contract(s, &c, true);
    if (r < 0)
        return r;
    strcpy(c.contract_id, "contract-deny");
    strcpy(c.reason, "contract_invalid");
    c.active = false;
    r = cp_store_put_contract(s, &c, true);
    return r < 0 ? r
                 : cp_change(s, now_us, "tb-controlplane", "contract.seed", "contract-allow contract-deny",
                             NULL);
}
