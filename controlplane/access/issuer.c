/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/issuer.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/http.h"
#include "common/inet.h"
#include "common/log.h"
#include "common/units.h"

#define ISSUER_TIMEOUT_MS 5000
#define ISSUER_WAITING_MAX 2
#define ISSUER_DOCUMENT_MAX (256 * 1024)
#define ISSUER_CERTS "/certs"
/* Names that were asked for in vain. Whoever makes up more pushes out others, which are then not known to be
 * nobody's for a while longer: he gets no key by that. */
#define ISSUER_MISSING_MAX 16

struct issuer_missing {
    char kid[CP_KID_MAX + 1];
    uint64_t since_us; /* when the first keys were fetched that lacked it; 0: no name */
};

struct cp_issuer {
    struct cp_issuer_settings settings; /* its url is the copy below */
    char url[CP_ISSUER_URL_MAX];
    bool loopback; /* it is of this machine, for tests: http is good enough */
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct cp_jwks keys;
    uint64_t fetched_us; /* monotonic; 0: never */
    uint64_t full_us;    /* bucket of fetches: when it will be full */
    uint64_t generation; /* of attempts that ended */
    bool fetching;
    unsigned waiting;
    struct issuer_missing missing[ISSUER_MISSING_MAX];
};

/* -- URLs -------------------------------------------------------------------------------------- */
static bool issuer_is_loopback(const char *url)
{
    static const char *const hosts[] = {"http://127.0.0.1", "http://[::1]", "http://localhost"};

    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        size_t n = strlen(hosts[i]);

        if (strncmp(url, hosts[i], n) == 0 && (url[n] == ':' || url[n] == '/' || url[n] == '\0'))
            return !strchr(url, '@');
    }
    return false;
}

/* loopback: of an issuer that is itself of this machine. */
static bool issuer_url_good(const char *url, bool loopback)
{
    if (strlen(url) >= CP_ISSUER_URL_MAX)
        return false;
    for (const char *s = url; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return false;
    return strncmp(url, "https://", 8) == 0 || (loopback && issuer_is_loopback(url));
}

bool cp_issuer_url_good(const char *url)
{
    return issuer_url_good(url, true) && !strpbrk(url, "?#");
}

int cp_issuer_new(const struct cp_issuer_settings *settings, struct cp_issuer **ret)
{
    struct cp_issuer *i = cp_issuer_url_good(settings->url) ? calloc(1, sizeof(*i)) : NULL;

    if (!i)
        return cp_issuer_url_good(settings->url) ? -ENOMEM : -EINVAL;
    i->settings = *settings;
    strcpy(i->url, settings->url);
    i->settings.url = i->url;
    i->loopback = issuer_is_loopback(i->url);
    pthread_mutex_init(&i->lock, NULL);
    pthread_cond_init(&i->done, NULL);
    *ret = i;
    return 0;
}

const char *cp_issuer_url(const struct cp_issuer *i)
{
    return i->url;
}

struct cp_issuer *cp_issuer_free(struct cp_issuer *i)
{
    if (!i)
        return NULL;
    cp_jwks_clear(&i->keys);
    pthread_cond_destroy(&i->done);
    pthread_mutex_destroy(&i->lock);
    free(i);
    return NULL;
}

/* -- fetching ---------------------------------------------------------------------------------- */
static int issuer_get(const struct cp_issuer *i, const char *url, struct tb_http_response *ret,
                      char err[static CP_JWT_ERR_MAX])
{
    const struct tb_http_tls tls = {.ca_file = i->settings.ca_file, .allow_http = i->loopback};
    const struct tb_http_request rq = {.url = url,
                                       .max_response = ISSUER_DOCUMENT_MAX,
                                       .timeout_ms = ISSUER_TIMEOUT_MS,
                                       .connect_timeout_ms = ISSUER_TIMEOUT_MS,
                                       .tls = &tls,
                                       .direct = i->loopback};
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
static int issuer_discover(const struct cp_issuer *i, char out[static CP_ISSUER_URL_MAX],
                           char err[static CP_JWT_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response a = {0};
    _cleanup_json_ cJSON *j = NULL;
    char url[CP_ISSUER_URL_MAX + 40], why[TB_JSON_ERR_MAX];
    size_t n = strlen(i->url);
    const char *issuer, *jwks;
    int r;

    n -= n > 0 && i->url[n - 1] == '/';
    snprintf(url, sizeof(url), "%.*s/.well-known/openid-configuration", (int)n, i->url);
    r = issuer_get(i, url, &a, err);
    if (r < 0)
        return r;
    if (tb_json_parse(a.body, a.len, ISSUER_DOCUMENT_MAX, &j, why) < 0 ||
        tb_json_get_string(j, "issuer", &issuer, why) < 0 ||
        tb_json_get_string(j, "jwks_uri", &jwks, why) < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "its configuration: %s", why);
        return -EPROTO;
    }
    if (strcmp(issuer, i->url) != 0 || !issuer_url_good(jwks, i->loopback)) {
        snprintf(err, CP_JWT_ERR_MAX,
                 "its configuration is of another issuer, or its keys are not at an https:// URL");
        return -EPROTO;
    }
    strcpy(out, jwks);
    return 0;
}

static int issuer_fetch(const struct cp_issuer *i, struct cp_jwks *ret, char err[static CP_JWT_ERR_MAX])
{
    _cleanup_http_response_ struct tb_http_response a = {0};
    char url[CP_ISSUER_URL_MAX + sizeof(ISSUER_CERTS)];
    int r = 0;

    if (i->settings.discovery)
        r = issuer_discover(i, url, err);
    else
        snprintf(url, sizeof(url), "%s" ISSUER_CERTS, i->url);

    if (r == 0)
        r = issuer_get(i, url, &a, err);
    if (r == 0)
        r = cp_jwks_parse(a.body, a.len, ret, err);
    if (r == 0 && ret->n == 0) {
        snprintf(err, CP_JWT_ERR_MAX, "it has no key for RS256 or ES256");
        r = -EPROTO;
    }
    return r;
}

/* With the lock, which is let go meanwhile. */
static void issuer_fetch_locked(struct cp_issuer *i, uint64_t now)
{
    char err[CP_JWT_ERR_MAX] = "";
    struct cp_jwks *new = calloc(1, sizeof(*new));
    int r = -ENOMEM;

    i->fetching = true;
    i->full_us = MAX(i->full_us, now) + i->settings.refill_us;
    pthread_mutex_unlock(&i->lock);
    if (new)
        r = issuer_fetch(i, new, err);
    pthread_mutex_lock(&i->lock);
    if (r == 0) {
        struct cp_jwks old = i->keys;

        i->keys = *new;
        *new = old;
        i->fetched_us = now;
    } else {
        tb_warn("the keys of %s cannot be fetched: %s", i->url, err);
    }
    if (new)
        cp_jwks_clear(new);
    free(new);
    i->fetching = false;
    i->generation++;
    pthread_cond_broadcast(&i->done);
}

static bool issuer_may_fetch(const struct cp_issuer *i, uint64_t now)
{
    return MAX(i->full_us, now) + i->settings.refill_us <= now + i->settings.burst * i->settings.refill_us;
}

/* -- keys -------------------------------------------------------------------------------------- */
static const struct cp_jwk *issuer_look_up(const struct cp_issuer *i, const struct cp_jwt *t)
{
    const struct cp_jwk *found = NULL;

    for (size_t n = 0; n < i->keys.n; n++) {
        const struct cp_jwk *k = &i->keys.v[n];

        if (strcmp(k->kid, t->kid) == 0 && (!found || (found->alg != t->alg && k->alg == t->alg)))
            found = k;
    }
    return found;
}

/* With the lock. Whoever asks with names that somebody made up holds few of the threads that answer machines:
 * one that fetches, and some that wait for it. */
static void issuer_refresh(struct cp_issuer *i, const struct cp_jwt *t, uint64_t now)
{
    bool known = issuer_look_up(i, t);
    uint64_t generation = i->generation;

    if (known && now - i->fetched_us < CP_ISSUER_FRESH_US)
        return;
    if (!i->fetching && issuer_may_fetch(i, now)) {
        issuer_fetch_locked(i, now);
    } else if (i->fetching && !known && i->waiting < ISSUER_WAITING_MAX) {
        i->waiting++;
        while (i->generation == generation)
            pthread_cond_wait(&i->done, &i->lock);
        i->waiting--;
    }
}

/* With the lock: since when it is known that the keys lack this name; from now on, where nobody asked before.
 * The name that was missed first gives way. */
static uint64_t issuer_missing_since(struct cp_issuer *i, const char *kid)
{
    struct issuer_missing *m = &i->missing[0];

    for (size_t n = 0; n < ISSUER_MISSING_MAX; n++) {
        if (i->missing[n].since_us && strcmp(i->missing[n].kid, kid) == 0)
            return i->missing[n].since_us;
        if (i->missing[n].since_us < m->since_us)
            m = &i->missing[n];
    }
    snprintf(m->kid, sizeof(m->kid), "%s", kid);
    m->since_us = i->fetched_us;
    tb_warn("a token names a key that %s does not have (yet)", i->url);
    return m->since_us;
}

/* With the lock: a name that came is none that is missing, should it go again. */
static void issuer_forget_missing(struct cp_issuer *i, const char *kid)
{
    for (size_t n = 0; n < ISSUER_MISSING_MAX; n++)
        if (strcmp(i->missing[n].kid, kid) == 0)
            i->missing[n] = (struct issuer_missing){0};
}

/* With the lock: keys that were fetched just now say that there is no such key; older ones say nothing. */
static bool issuer_lacks(struct cp_issuer *i, const struct cp_jwt *t, uint64_t asked_us)
{
    return !i->fetching && i->fetched_us && i->fetched_us + i->settings.certain_us >= asked_us &&
           (i->settings.confirm_us == 0 ||
            issuer_missing_since(i, t->kid) + i->settings.confirm_us <= i->fetched_us);
}

int cp_issuer_find(struct cp_issuer *i, const struct cp_jwt *t, struct cp_jwk *ret)
{
    const struct cp_jwk *found;
    uint64_t asked = tb_now_monotonic_us(), now;
    bool lacks = false;

    pthread_mutex_lock(&i->lock);
    issuer_refresh(i, t, tb_now_monotonic_us());
    now = tb_now_monotonic_us();
    found = i->fetched_us && now - i->fetched_us < CP_ISSUER_STALE_US ? issuer_look_up(i, t) : NULL;
    if (found && EVP_PKEY_up_ref(found->key) == 1) {
        *ret = *found;
        issuer_forget_missing(i, t->kid);
    } else {
        found = NULL;
        lacks = issuer_lacks(i, t, asked);
    }
    pthread_mutex_unlock(&i->lock);
    return found ? 0 : lacks ? -EACCES : -EAGAIN;
}
