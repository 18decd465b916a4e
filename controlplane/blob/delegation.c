/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/delegation.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/blob/sas_key.h"
#include "controlplane/keys/bearer.h"

#define DELEGATION_PATH "/?restype=service&comp=userdelegationkey"
#define DELEGATION_ENDPOINT_MAX 200
#define DELEGATION_LIFE_US_MIN (6 * 3600 * 1000000ULL)
#define DELEGATION_EARLY_US                                                                                  \
    (900 * TB_USEC_PER_SEC) /* it starts so long ago, as no SAS of it may start before */
#define DELEGATION_PAUSE_US (5 * TB_USEC_PER_SEC)          /* behind a failure */
#define DELEGATION_SKEW_US (60 * (int64_t)TB_USEC_PER_SEC) /* less is nothing: Date has whole seconds */

struct cp_delegation {
    char endpoint[DELEGATION_ENDPOINT_MAX + 1];
    struct tb_http_tls tls;
    uint64_t lifetime_us;
    struct cp_bearer *bearer;
    pthread_mutex_t fetching; /* who fetches */
    pthread_mutex_t lock;     /* of what stands below */
    struct cp_delegation_key key;
    int64_t skew_us;
    uint64_t failed_us; /* monotonic */
};

int cp_delegation_new(const char *endpoint, const char *client_id, const struct tb_http_tls *tls,
                      uint64_t lifetime_us, struct cp_delegation **ret,
                      char err[static CP_DELEGATION_ERR_MAX])
{
    struct cp_delegation *d;
    size_t n = strlen(endpoint);

    snprintf(err, CP_DELEGATION_ERR_MAX, "out of memory");
    /* the token goes there */
    if (strncmp(endpoint, "https://", 8) != 0 || n > DELEGATION_ENDPOINT_MAX || n < 9 ||
        endpoint[n - 1] == '/' || strpbrk(endpoint, "?#@ \"\\")) {
        snprintf(err, CP_DELEGATION_ERR_MAX,
                 "'%.100s' is not https://ACCOUNT.blob.core.windows.net, without a slash behind it",
                 endpoint);
        return -EINVAL;
    }
    d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    strcpy(d->endpoint, endpoint);
    d->tls = *tls;
    d->tls.allow_http = false;
    d->lifetime_us = lifetime_us;
    pthread_mutex_init(&d->fetching, NULL);
    pthread_mutex_init(&d->lock, NULL);
    d->bearer = cp_bearer_new("storage.azure.com", client_id);
    if (!d->bearer) {
        cp_delegation_free(d);
        return -ENOMEM;
    }
    *ret = d;
    return 0;
}

struct cp_delegation *cp_delegation_free(struct cp_delegation *d)
{
    if (!d)
        return NULL;
    cp_bearer_free(d->bearer);
    pthread_mutex_destroy(&d->fetching);
    pthread_mutex_destroy(&d->lock);
    tb_erase(&d->key, sizeof(d->key));
    free(d);
    return NULL;
}

/* -- the answer -------------------------------------------------------------------------------- */
/* The text of <name>, which has no markup in it. */
static int delegation_member(const char *body, const char *name, char *out, size_t room)
{
    char begin[40], end[40];
    const char *s, *e;

    snprintf(begin, sizeof(begin), "<%s>", name);
    snprintf(end, sizeof(end), "</%s>", name);
    s = strstr(body, begin);
    e = s ? strstr(s, end) : NULL;
    if (!e)
        return -EBADMSG;
    s += strlen(begin);
    if (e == s || (size_t)(e - s) >= room)
        return -EBADMSG;
    for (const char *c = s; c < e; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-:.+/=", *c))
            return -EBADMSG;
    memcpy(out, s, (size_t)(e - s));
    out[e - s] = '\0';
    return 0;
}

int cp_delegation_parse(char *body, size_t len, struct cp_delegation_key *ret)
{
    struct cp_delegation_key k = {0};
    _cleanup_secret_ uint8_t *key = NULL;
    char value[2 * CP_DELEGATION_KEY_MAX];
    size_t n = 0;
    bool ok = strlen(body) == len && delegation_member(body, "SignedOid", k.oid, sizeof(k.oid)) == 0 &&
              delegation_member(body, "SignedTid", k.tid, sizeof(k.tid)) == 0 &&
              delegation_member(body, "SignedStart", k.start, sizeof(k.start)) == 0 &&
              delegation_member(body, "SignedExpiry", k.expiry, sizeof(k.expiry)) == 0 &&
              delegation_member(body, "SignedService", k.service, sizeof(k.service)) == 0 &&
              delegation_member(body, "SignedVersion", k.version, sizeof(k.version)) == 0 &&
              delegation_member(body, "Value", value, sizeof(value)) == 0 &&
              tb_rfc3339_parse(k.expiry, &k.expiry_us) == 0 &&
              cp_sas_key_decode(value, strlen(value), &key, &n) == 0 && n <= sizeof(k.key);

    if (ok) {
        memcpy(k.key, key, n);
        k.key_len = n;
        *ret = k;
    }
    tb_erase(body, len);
    tb_erase(value, sizeof(value));
    tb_erase(&k, sizeof(k));
    return ok ? 0 : -EBADMSG;
}

/* -- fetching ---------------------------------------------------------------------------------- */
static int delegation_ask(struct cp_delegation *d, uint64_t now_us, struct tb_http_response *rs, char *err)
{
    uint64_t life = MAX(2 * d->lifetime_us, DELEGATION_LIFE_US_MIN);
    char start[TB_RFC3339_MAX], end[TB_RFC3339_MAX], body[256], url[DELEGATION_ENDPOINT_MAX + 64];
    char why[MAX(TB_AZURE_ERR_MAX, TB_HTTP_ERR_MAX)];
    int r = 0;

    /* the storage's own clock, as far as it is known: a key of days to come is refused */
    now_us += (uint64_t)d->skew_us;
    snprintf(url, sizeof(url), "%s" DELEGATION_PATH, d->endpoint);
    tb_rfc3339_format(now_us - DELEGATION_EARLY_US, 0, start);
    tb_rfc3339_format(now_us + MIN(life, CP_DELEGATION_LIFE_US_MAX - 2 * DELEGATION_EARLY_US), 0, end);
    snprintf(
        body, sizeof(body),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><KeyInfo><Start>%s</Start><Expiry>%s</Expiry></KeyInfo>",
        start, end);
    for (int try = 0; try < 2; try++) {
        _cleanup_secret_ char *bearer = cp_bearer_header(d->bearer, try > 0, why);

        if (!bearer) {
            snprintf(err, CP_DELEGATION_ERR_MAX, "no token of this machine's managed identity: %.300s", why);
            return -EAGAIN;
        }
        tb_http_response_clear(rs);
        r = tb_http_do(
            &(struct tb_http_request){.method = "POST",
                                      .url = url,
                                      .headers = (const char *const[]){bearer,
                                                                       "x-ms-version: " CP_DELEGATION_VERSION,
                                                                       "Content-Type: application/xml", NULL},
                                      .body = body,
                                      .body_len = strlen(body),
                                      .timeout_ms = 10000,
                                      .connect_timeout_ms = 5000,
                                      .tls = &d->tls},
            rs, why);
        if (r < 0) {
            snprintf(err, CP_DELEGATION_ERR_MAX, "%.300s", why);
            return -EAGAIN;
        }
        if (rs->status != 401)
            break;
    }
    return 0;
}

/* What the answer's Date says of the two clocks. */
static int64_t delegation_skew(const struct tb_http_response *rs)
{
    int64_t ahead;

    if (!rs->date_real_us)
        return 0;
    ahead = (int64_t)rs->date_real_us -
            (int64_t)(tb_now_realtime_us() - (tb_now_boottime_us() - rs->date_boot_us));
    return ahead > DELEGATION_SKEW_US || ahead < -DELEGATION_SKEW_US ? ahead : 0;
}

static void delegation_keep_skew(struct cp_delegation *d, const struct tb_http_response *rs)
{
    int64_t skew = delegation_skew(rs);
    char span[TB_SPAN_MAX];

    pthread_mutex_lock(&d->lock);
    if (skew != 0 && d->skew_us == 0)
        tb_warn("This machine's clock is %s %s that of %s: its URLs have the storage's times. Let the "
                "machine keep "
                "time (chrony, systemd-timesyncd)",
                tb_span_format((uint64_t)(skew < 0 ? -skew : skew), span), skew < 0 ? "ahead of" : "behind",
                d->endpoint);
    d->skew_us = skew;
    pthread_mutex_unlock(&d->lock);
}

/* A clock that is off by more than the key's early start is refused once, and heeded from then on. */
static int delegation_fetch(struct cp_delegation *d, uint64_t now_us, struct cp_delegation_key *ret,
                            char *err)
{
    for (int try = 0; try < 2; try++) {
        _cleanup_http_response_ struct tb_http_response rs = {0};
        int64_t skew = d->skew_us;
        int r = delegation_ask(d, now_us, &rs, err);

        if (r < 0)
            return r;
        delegation_keep_skew(d, &rs);
        if (rs.status == 200 && cp_delegation_parse(rs.body, rs.len, ret) == 0)
            return 0;
        if (rs.status == 200)
            snprintf(err, CP_DELEGATION_ERR_MAX, "the answer holds no user delegation key");
        else if (rs.status == 403)
            snprintf(
                err, CP_DELEGATION_ERR_MAX,
                "the service answers 403: give the machine's identity the roles Storage Blob Delegator and "
                "Storage Blob Data Reader on the account");
        else
            snprintf(err, CP_DELEGATION_ERR_MAX, "the service answers %ld", rs.status);
        if (rs.status != 400 || skew == d->skew_us)
            return -EAGAIN;
    }
    return -EAGAIN;
}

/* With the lock. */
static bool delegation_lasts(const struct cp_delegation *d, uint64_t now_us, uint64_t for_us)
{
    return d->key.key_len > 0 && d->key.expiry_us > now_us + (uint64_t)d->skew_us + for_us;
}

static bool delegation_has(struct cp_delegation *d, uint64_t now_us, uint64_t for_us)
{
    bool has;

    pthread_mutex_lock(&d->lock);
    has = delegation_lasts(d, now_us, for_us);
    pthread_mutex_unlock(&d->lock);
    return has;
}

/* Of a SAS, and some more. */
static uint64_t delegation_reserve(const struct cp_delegation *d)
{
    return MIN(d->lifetime_us, CP_DELEGATION_LIFE_US_MAX / 2) + DELEGATION_EARLY_US;
}

static void delegation_replace(struct cp_delegation *d, uint64_t now_us)
{
    struct cp_delegation_key k = {0};
    char err[CP_DELEGATION_ERR_MAX] = "";
    int r = delegation_fetch(d, now_us, &k, err);

    pthread_mutex_lock(&d->lock);
    d->failed_us = r < 0 ? tb_now_monotonic_us() : 0;
    if (r == 0)
        d->key = k;
    pthread_mutex_unlock(&d->lock);
    tb_erase(&k, sizeof(k));
    if (r < 0)
        tb_error("No user delegation key of %s: %s", d->endpoint, err);
    else
        tb_debug("A user delegation key of %s until %s", d->endpoint, d->key.expiry);
}

int cp_delegation_renew(struct cp_delegation *d, uint64_t now_us)
{
    bool spare = delegation_has(d, now_us, 0);
    uint64_t failed_us;

    if (delegation_has(d, now_us, delegation_reserve(d)))
        return 0;
    /* whoever has a key that still holds does not wait for another's request */
    if (spare && pthread_mutex_trylock(&d->fetching) != 0)
        return 0;
    if (!spare)
        pthread_mutex_lock(&d->fetching);
    pthread_mutex_lock(&d->lock);
    failed_us = d->failed_us;
    pthread_mutex_unlock(&d->lock);
    if (!delegation_has(d, now_us, delegation_reserve(d)) &&
        (!failed_us || tb_now_monotonic_us() - failed_us > DELEGATION_PAUSE_US))
        delegation_replace(d, now_us);
    pthread_mutex_unlock(&d->fetching);
    return delegation_has(d, now_us, 0) ? 0 : -EAGAIN;
}

int cp_delegation_get(struct cp_delegation *d, uint64_t now_us, struct cp_delegation_key *ret,
                      int64_t *ret_skew_us)
{
    int r = -EAGAIN;

    pthread_mutex_lock(&d->lock);
    if (delegation_lasts(d, now_us, 0)) {
        *ret = d->key;
        *ret_skew_us = d->skew_us;
        r = 0;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}
