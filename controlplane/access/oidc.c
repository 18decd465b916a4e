/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/oidc.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/inet.h"
#include "common/log.h"
#include "common/units.h"

#define OIDC_URL_MAX 1024
#define OIDC_TIMEOUT_MS 5000
#define OIDC_WAITING_MAX 2
#define OIDC_DOCUMENT_MAX (256 * 1024)

struct cp_oidc {
    struct cp_oidc_settings settings;
    bool loopback; /* the issuer is of this machine, for tests: http is good enough */
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct cp_jwks keys;
    uint64_t fetched_us; /* monotonic; 0: never */
    uint64_t full_us;    /* bucket of fetches: when it will be full */
    uint64_t generation; /* of attempts that ended */
    bool fetching;
    unsigned waiting;
};

/* -- URLs -------------------------------------------------------------------------------------- */
static bool oidc_is_loopback(const char *url)
{
    static const char *const hosts[] = {"http://127.0.0.1", "http://[::1]", "http://localhost"};

    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        size_t n = strlen(hosts[i]);

        if (strncmp(url, hosts[i], n) == 0 && (url[n] == ':' || url[n] == '/' || url[n] == '\0'))
            return !strchr(url, '@');
    }
    return false;
}

static bool oidc_url_good(const struct cp_oidc *o, const char *url)
{
    if (strlen(url) >= OIDC_URL_MAX)
        return false;
    for (const char *s = url; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return false;
    return strncmp(url, "https://", 8) == 0 || (o->loopback && oidc_is_loopback(url));
}

int cp_oidc_new(const struct cp_oidc_settings *settings, struct cp_oidc **ret,
                char err[static CP_JWT_ERR_MAX])
{
    struct cp_oidc *o = calloc(1, sizeof(*o));

    snprintf(err, CP_JWT_ERR_MAX, "out of memory");
    if (!o)
        return -ENOMEM;
    o->settings = *settings;
    o->loopback = oidc_is_loopback(settings->issuer);
    if (!oidc_url_good(o, settings->issuer) || strpbrk(settings->issuer, "?#")) {
        snprintf(err, CP_JWT_ERR_MAX, "the issuer is an https:// URL, as it stands in its tokens (iss)");
        free(o);
        return -EINVAL;
    }
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->done, NULL);
    *ret = o;
    return 0;
}

struct cp_oidc *cp_oidc_free(struct cp_oidc *o)
{
    if (!o)
        return NULL;
    cp_jwks_clear(&o->keys);
    pthread_cond_destroy(&o->done);
    pthread_mutex_destroy(&o->lock);
    free(o);
    return NULL;
}

/* -- fetching ---------------------------------------------------------------------------------- */
static int oidc_get(const struct cp_oidc *o, const char *url, struct tb_http_response *ret,
                    char err[static CP_JWT_ERR_MAX])
{
    const struct tb_http_tls tls = {.ca_file = o->settings.ca_file, .allow_http = o->loopback};
    const struct tb_http_request rq = {.url = url,
                                       .max_response = OIDC_DOCUMENT_MAX,
                                       .timeout_ms = OIDC_TIMEOUT_MS,
                                       .connect_timeout_ms = OIDC_TIMEOUT_MS,
                                       .tls = &tls,
                                       .direct = o->loopback};
    char why[TB_HTTP_ERR_MAX];
    int r = tb_http_do(&rq, ret, why);

    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "%.250s", why);
        return r;
    }
    if (ret->status != 200) {
        snprintf(err, CP_JWT_ERR_MAX, "%.200s: status %ld", url, ret->status);
        return -EPROTO;
    }
    return 0;
}

/* Where its keys are, by OpenID Connect Discovery. */
static int oidc_discover(const struct cp_oidc *o, char out[static OIDC_URL_MAX],
                         char err[static CP_JWT_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response a = {0};
    _cleanup_json_ cJSON *j = NULL;
    char url[OIDC_URL_MAX + 40], why[TB_JSON_ERR_MAX];
    size_t n = strlen(o->settings.issuer);
    const char *issuer, *jwks;
    int r;

    n -= n > 0 && o->settings.issuer[n - 1] == '/';
    snprintf(url, sizeof(url), "%.*s/.well-known/openid-configuration", (int)n, o->settings.issuer);
    r = oidc_get(o, url, &a, err);
    if (r < 0)
        return r;
    if (tb_json_parse(a.body, a.len, OIDC_DOCUMENT_MAX, &j, why) < 0 ||
        tb_json_get_string(j, "issuer", &issuer, why) < 0 ||
        tb_json_get_string(j, "jwks_uri", &jwks, why) < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "its configuration: %s", why);
        return -EPROTO;
    }
    if (strcmp(issuer, o->settings.issuer) != 0 || !oidc_url_good(o, jwks)) {
        snprintf(err, CP_JWT_ERR_MAX,
                 "its configuration is of another issuer, or its keys are not at an https:// URL");
        return -EPROTO;
    }
    strcpy(out, jwks);
    return 0;
}

static int oidc_fetch(const struct cp_oidc *o, struct cp_jwks *ret, char err[static CP_JWT_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response a = {0};
    char url[OIDC_URL_MAX];
    int r = oidc_discover(o, url, err);

    if (r == 0)
        r = oidc_get(o, url, &a, err);
    if (r == 0)
        r = cp_jwks_parse(a.body, a.len, ret, err);
    if (r == 0 && ret->n == 0) {
        snprintf(err, CP_JWT_ERR_MAX, "it has no key for RS256 or ES256");
        r = -EPROTO;
    }
    return r;
}

/* With the lock, which is let go meanwhile. */
static void oidc_fetch_locked(struct cp_oidc *o, uint64_t now)
{
    char err[CP_JWT_ERR_MAX] = "";
    struct cp_jwks *new = calloc(1, sizeof(*new));
    int r = -ENOMEM;

    o->fetching = true;
    o->full_us = MAX(o->full_us, now) + CP_OIDC_REFILL_US;
    pthread_mutex_unlock(&o->lock);
    if (new)
        r = oidc_fetch(o, new, err);
    pthread_mutex_lock(&o->lock);
    if (r == 0) {
        struct cp_jwks old = o->keys;

        o->keys = *new;
        *new = old;
        o->fetched_us = now;
    } else {
        tb_warn("the keys of %s cannot be fetched: %s", o->settings.issuer, err);
    }
    if (new)
        cp_jwks_clear(new);
    free(new);
    o->fetching = false;
    o->generation++;
    pthread_cond_broadcast(&o->done);
}

static bool oidc_may_fetch(const struct cp_oidc *o, uint64_t now)
{
    return MAX(o->full_us, now) + CP_OIDC_REFILL_US <= now + CP_OIDC_BURST * CP_OIDC_REFILL_US;
}

/* -- keys -------------------------------------------------------------------------------------- */
static const struct cp_jwk *oidc_look_up(const struct cp_oidc *o, const struct cp_jwt *t)
{
    const struct cp_jwk *found = NULL;

    for (size_t i = 0; i < o->keys.n; i++) {
        const struct cp_jwk *k = &o->keys.v[i];

        if (strcmp(k->kid, t->kid) == 0 && (!found || (found->alg != t->alg && k->alg == t->alg)))
            found = k;
    }
    return found;
}

/* With the lock. Whoever asks with names that somebody made up holds few of the threads that answer machines:
 * one that fetches, and some that wait for it. */
static void oidc_refresh(struct cp_oidc *o, const struct cp_jwt *t, uint64_t now)
{
    bool known = oidc_look_up(o, t);
    uint64_t generation = o->generation;

    if (known && now - o->fetched_us < CP_OIDC_FRESH_US)
        return;
    if (!o->fetching && oidc_may_fetch(o, now)) {
        oidc_fetch_locked(o, now);
    } else if (o->fetching && !known && o->waiting < OIDC_WAITING_MAX) {
        o->waiting++;
        while (o->generation == generation)
            pthread_cond_wait(&o->done, &o->lock);
        o->waiting--;
    }
}

/* 0, and the key is the caller's; -EACCES: there is none of that name; -EAGAIN. */
static int oidc_find_key(struct cp_oidc *o, const struct cp_jwt *t, struct cp_jwk *ret)
{
    const struct cp_jwk *found;
    bool recent;
    uint64_t age;

    pthread_mutex_lock(&o->lock);
    oidc_refresh(o, t, tb_now_monotonic_us());
    age = o->fetched_us ? tb_now_monotonic_us() - o->fetched_us : UINT64_MAX;
    /* Keys that were fetched just now say that there is no such key; older ones say nothing. */
    recent = !o->fetching && age < CP_OIDC_BURST * CP_OIDC_REFILL_US;
    found = age < CP_OIDC_STALE_US ? oidc_look_up(o, t) : NULL;
    if (found && EVP_PKEY_up_ref(found->key) == 1)
        *ret = *found;
    pthread_mutex_unlock(&o->lock);
    return found ? 0 : recent ? -EACCES : -EAGAIN;
}

int cp_oidc_identify(struct cp_oidc *o, const char *token, uint64_t now_us, struct cp_jwt_person *ret,
                     unsigned *ret_scopes, char err[static CP_JWT_ERR_MAX])
{
    const struct cp_jwt_terms terms = {.issuer = o->settings.issuer, .audience = o->settings.audience};
    _cleanup_jwt_ struct cp_jwt t = {0};
    struct cp_jwk key;
    int r = cp_jwt_parse(token, &t, err);

    if (r == 0) /* before a stranger makes this server ask for keys */
        r = cp_jwt_check(&t, &terms, now_us, ret, err);
    if (r < 0)
        return r;
    r = oidc_find_key(o, &t, &key);
    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "%s",
                 r == -EAGAIN ? "the identity provider does not answer"
                              : "the identity provider has no key of the name that the JWT has");
        return r;
    }
    r = cp_jwt_verify(&t, token, &key);
    EVP_PKEY_free(key.key);
    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "the signature of the JWT is wrong");
        return r;
    }
    *ret_scopes = 0;
    for (size_t i = 0; i < o->settings.n_maps; i++)
        if (cp_jwt_has(&t, o->settings.claim, o->settings.map[i].value))
            *ret_scopes |= o->settings.map[i].scopes;
    return 0;
}
