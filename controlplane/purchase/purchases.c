/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/purchase/purchases.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/purchase/settle.h"

#define PURCHASES_LOOK_S 5 /* at what others left */
/* For a claim: longer than Resource Manager and the identity take together. */
#define PURCHASES_CLAIM_US (300 * TB_USEC_PER_SEC)

struct cp_purchases {
    const struct cp_place *place;
    struct cp_arm *arm;
    uint8_t sigs[CP_SIGS_MAX][32]; /* hashes: of one length */
    unsigned n_sigs;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool due, stopping;
    pthread_t thread;
};

/* -- sig --------------------------------------------------------------------------------------- */
static int sig_hash(const char *s, size_t n, uint8_t out[static 32])
{
    return EVP_Digest(s, n, out, NULL, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

static int sig_read(struct cp_purchases *p, const char *text, char *err)
{
    while (*text) {
        size_t n = strcspn(text, "\r\n"), k = strspn(text, " \t");

        while (n > k && isspace((unsigned char)text[n - 1]))
            n--;
        if (n > k) {
            snprintf(err, CP_ERR_MAX,
                     "a line of it has fewer than %d characters, or it has more than %d lines",
                     CP_SIG_CHARS_MIN, CP_SIGS_MAX);
            if (n - k < CP_SIG_CHARS_MIN || p->n_sigs == CP_SIGS_MAX)
                return -EINVAL;
            if (sig_hash(text + k, n - k, p->sigs[p->n_sigs++]) < 0)
                return -EIO;
        }
        text += strcspn(text, "\r\n");
        text += strspn(text, "\r\n");
    }
    snprintf(err, CP_ERR_MAX, "there is nothing in it");
    return p->n_sigs > 0 ? 0 : -EINVAL;
}

bool cp_purchases_sig_is(const struct cp_purchases *p, const char *sig)
{
    uint8_t given[32];
    bool same = false;

    if (!sig || sig_hash(sig, strlen(sig), given) < 0)
        return false;
    for (unsigned i = 0; i < p->n_sigs; i++)
        same |= tb_mem_equal(given, p->sigs[i], sizeof(given));
    return same;
}

/* -- the thread -------------------------------------------------------------------------------- */
struct purchases_claim {
    struct cp_application a;
    uint64_t now_us;
};

static int purchases_claim(struct cp_store *s, void *ctx)
{
    struct purchases_claim *c = ctx;

    return cp_store_claim_application(s, c->now_us, c->now_us + PURCHASES_CLAIM_US, &c->a);
}

static void purchases_tell(const struct cp_settlement *t)
{
    if (*t->said && t->warn)
        tb_warn("purchase: %s: %s", t->application_id, t->said);
    else if (*t->said)
        tb_info("purchase: %s: %s", t->application_id, t->said);
}

/* 0: one was settled. -ENOENT: none is due. */
static int purchases_settle_one(struct cp_purchases *p, struct cp_store *s)
{
    struct purchases_claim c = {.now_us = tb_now_realtime_us()};
    struct cp_settlement t = {.verify = p->arm};
    char why[CP_ARM_ERR_MAX] = "";
    int r = cp_store_transact(s, purchases_claim, &c);

    if (r < 0)
        return r;
    t.application_id = c.a.application_id;
    t.claimed_check_us = c.a.check_us;
    if (p->arm && cp_arm_get(p->arm, c.a.application_id, &t.arm, why) < 0)
        t.failure = why;
    t.now_us = tb_now_realtime_us();
    r = cp_store_transact(s, cp_purchase_settle, &t);
    if (r == 0)
        purchases_tell(&t);
    return r;
}

/* False: stop. */
static bool purchases_wait(struct cp_purchases *p)
{
    struct timespec until;
    bool stop;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PURCHASES_LOOK_S;
    pthread_mutex_lock(&p->lock);
    while (!p->due && !p->stopping)
        if (pthread_cond_timedwait(&p->wake, &p->lock, &until) != 0)
            break;
    p->due = false;
    stop = p->stopping;
    pthread_mutex_unlock(&p->lock);
    return !stop;
}

static void *purchases_run(void *arg)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct cp_purchases *p = arg;
    bool failed = false;

    do {
        char err[CP_ERR_MAX] = "";
        int r = s ? 0 : cp_data_open_store(p->place, &s, err);

        while (r == 0 && !__atomic_load_n(&p->stopping, __ATOMIC_ACQUIRE))
            r = purchases_settle_one(p, s);
        if (r < 0 && r != -ENOENT && !failed)
            tb_error("purchase: %s; tried again every %d s", s ? cp_store_error(s) : err, PURCHASES_LOOK_S);
        failed = r < 0 && r != -ENOENT;
    } while (purchases_wait(p));
    return NULL;
}

int cp_purchases_start(const struct cp_place *place, const char *sigs, struct cp_arm *arm,
                       struct cp_purchases **ret, char err[static CP_ERR_MAX])
{
    struct cp_purchases *p = calloc(1, sizeof(*p));
    int r = p ? sig_read(p, sigs, err) : -ENOMEM;

    if (r < 0) {
        cp_arm_free(arm);
        free(p);
        return r;
    }
    p->place = place;
    p->arm = arm;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    r = -pthread_create(&p->thread, NULL, purchases_run, p);
    if (r < 0) {
        snprintf(err, CP_ERR_MAX, "cannot start a thread: %s", strerror(-r));
        cp_arm_free(arm);
        free(p);
        return r;
    }
    *ret = p;
    return 0;
}

struct cp_arm *cp_purchases_arm(const struct cp_purchases *p)
{
    return p->arm;
}

void cp_purchases_nudge(struct cp_purchases *p)
{
    pthread_mutex_lock(&p->lock);
    p->due = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct cp_purchases *cp_purchases_stop(struct cp_purchases *p)
{
    if (!p)
        return NULL;
    pthread_mutex_lock(&p->lock);
    __atomic_store_n(&p->stopping, true, __ATOMIC_RELEASE);
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    cp_arm_free(p->arm);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p);
    return NULL;
}
