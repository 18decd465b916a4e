/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/release.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/events.h"
#include "common/log.h"
#include "common/units.h"

#define HEX_MAX 32
#define UNIT_DIR "/unit/"

/* Who may have what: docs/contracts.md. Order as enum tb_credential. */
static const char *const credential_names[_TB_CRED_MAX] = {
    [TB_CRED_SAS_URL] = "sas-url",
    [TB_CRED_MANIFEST_URL] = "manifest-url",
    [TB_CRED_MANIFEST_SHA256] = "manifest-sha256",
    [TB_CRED_MODEL_KEY] = "model-key",
    [TB_CRED_ASSET_VERSION] = "asset-version",
    [TB_CRED_BASE_URLS] = "base-urls",
};
static const struct {
    const char *unit;
    enum tb_credential cred;
} permitted[] = {
    {"tb-hydrate.service", TB_CRED_SAS_URL},
    {"tb-hydrate.service", TB_CRED_MANIFEST_URL},
    {"tb-hydrate.service", TB_CRED_MANIFEST_SHA256},
    {"tb-decrypt.service", TB_CRED_MANIFEST_SHA256},
    {"tb-decrypt.service", TB_CRED_MODEL_KEY},
    {"tb-hydrate.service", TB_CRED_ASSET_VERSION},
    {"tb-next.service", TB_CRED_SAS_URL},
    {"tb-next.service", TB_CRED_MANIFEST_URL},
    {"tb-next.service", TB_CRED_MANIFEST_SHA256},
    {"tb-next.service", TB_CRED_ASSET_VERSION},
    {"tb-hydrate.service", TB_CRED_BASE_URLS},
    {"tb-next.service", TB_CRED_BASE_URLS},
};

static bool peer_name_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr(":-_.\\@", c));
}

/* Copies name characters from *p to end or '/'; advances. */
static int peer_take_name(const char **p, const char *end, char *out)
{
    size_t n = 0;

    while (*p < end && peer_name_char(**p))
        out[n++] = *(*p)++;
    out[n] = '\0';
    return n > 0 ? 0 : -EINVAL;
}

int tb_peer_parse(const char *path, size_t len, struct tb_peer *ret)
{
    const char *p = path, *end = path + len, *hex;
    struct tb_peer peer;

    if (len == 0 || len > TB_RELEASE_NAME_MAX || *p != '\0')
        return -EINVAL;
    hex = ++p;
    while (p < end && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')))
        p++;
    if (p == hex || p - hex > HEX_MAX)
        return -EINVAL;
    if ((size_t)(end - p) < strlen(UNIT_DIR) || memcmp(p, UNIT_DIR, strlen(UNIT_DIR)) != 0)
        return -EINVAL;
    p += strlen(UNIT_DIR);
    if (peer_take_name(&p, end, peer.unit) < 0 || p == end || *p++ != '/')
        return -EINVAL;
    if (peer_take_name(&p, end, peer.credential) < 0 || p != end)
        return -EINVAL;
    *ret = peer;
    return 0;
}

enum tb_credential tb_peer_credential(const struct tb_peer *p)
{
    for (size_t i = 0; i < ARRAY_SIZE(permitted); i++)
        if (strcmp(p->unit, permitted[i].unit) == 0 &&
            strcmp(p->credential, credential_names[permitted[i].cred]) == 0)
            return permitted[i].cred;
    return _TB_CRED_INVALID;
}

enum tb_release_for tb_peer_for(const struct tb_peer *p)
{
    return strcmp(p->unit, "tb-next.service") == 0 ? TB_RELEASE_FOR_NEXT : TB_RELEASE_FOR_SERVING;
}

const struct tb_grant *tb_release_grant(const struct tb_grants *g, enum tb_release_for whom, uint64_t serving,
                                        bool *ret_missing)
{
    const struct tb_grant *current = g->current;

    *ret_missing = false;
    if (!current || whom == TB_RELEASE_FOR_NEXT || !serving || !current->version ||
        serving == current->version)
        return current;
    if (g->held && g->held->version == serving)
        return g->held;
    *ret_missing = true;
    return current;
}

enum tb_credential tb_release_judged_as(const struct tb_peer *p)
{
    enum tb_credential cred = tb_peer_credential(p);
    bool starts =
        cred == TB_CRED_MANIFEST_SHA256 || cred == TB_CRED_ASSET_VERSION || cred == TB_CRED_BASE_URLS;

    return starts && strcmp(p->unit, "tb-decrypt.service") != 0 ? TB_CRED_SAS_URL : cred;
}

static bool url_stale(const char *url, const struct tb_handouts *h, enum tb_credential cred,
                      const struct tb_clock *now)
{
    uint64_t end_us = tb_sas_expiry_us(url);

    /* Nothing fresher is to be had than what came a moment ago. */
    if (now->boot_us - h->granted_us < TB_RELEASE_REUSE_US)
        return false;
    if (end_us > 0 && end_us < now->real_us + TB_RELEASE_SAS_MARGIN_US)
        return true;
    return h->first_us[cred] > 0 && now->boot_us - h->first_us[cred] > TB_RELEASE_REUSE_US;
}

enum tb_release_answer tb_release_decide(const struct tb_lease *l, const struct tb_grant *grant,
                                         const struct tb_handouts *h, enum tb_credential cred,
                                         const struct tb_clock *now)
{
    if (l->suspended)
        return TB_RELEASE_REFUSE;
    if (!grant || !tb_lease_serving(l))
        return TB_RELEASE_WAIT;
    if (cred == TB_CRED_SAS_URL && url_stale(grant->sas_url, h, cred, now))
        return TB_RELEASE_RENEW;
    /* The boot's key is another as soon as a register of the TPM changes. */
    if (cred == TB_CRED_MODEL_KEY && grant->is_wrapped && now->boot_us - h->granted_us >= TB_RELEASE_REUSE_US)
        return TB_RELEASE_RENEW;
    if (cred == TB_CRED_MANIFEST_URL && url_stale(grant->manifest_url, h, cred, now))
        return TB_RELEASE_RENEW;
    return TB_RELEASE_GIVE;
}

const void *tb_release_value(const struct tb_grant *g, enum tb_credential cred, char number[static 24],
                             size_t *ret_len)
{
    const char *text = NULL;

    switch (cred) {
    case TB_CRED_SAS_URL:
        text = g->sas_lines;
        break;
    case TB_CRED_MANIFEST_URL:
        text = g->manifest_lines;
        break;
    case TB_CRED_MANIFEST_SHA256:
        text = g->manifest_sha256;
        break;
    case TB_CRED_BASE_URLS:
        text = g->base_lines;
        break;
    case TB_CRED_ASSET_VERSION:
        snprintf(number, 24, g->version ? "%llu" : "none", (unsigned long long)g->version);
        text = number;
        break;
    default:
        *ret_len = g->is_wrapped ? sizeof(g->wrapped) : sizeof(g->key.b);
        return g->is_wrapped ? g->wrapped : g->key.b;
    }
    *ret_len = strlen(text);
    return text;
}

/* The audit trail of releases. why is NULL for a release. */
static void release_log(const struct tb_peer *p, const char *why)
{
    char unit[TB_RELEASE_NAME_MAX + 16], credential[TB_RELEASE_NAME_MAX + 16], reason[TB_REASON_MAX + 16];
    const char *const fields[] = {unit, credential, why ? "TB_RELEASED=no" : "TB_RELEASED=yes",
                                  why ? reason : NULL, NULL};

    snprintf(unit, sizeof(unit), "TB_UNIT=%s", p->unit);
    snprintf(credential, sizeof(credential), "TB_CREDENTIAL=%s", p->credential);
    snprintf(reason, sizeof(reason), "TB_REASON=%s", why ? why : "");
    if (why)
        tb_log_full(TB_LOG_WARN, TB_EVENT_REFUSED, fields, "refused %s to %s: %s", p->credential, p->unit,
                    why);
    else
        tb_log_full(TB_LOG_INFO, TB_EVENT_RELEASED, fields, "released %s to %s", p->credential, p->unit);
}

/* Who is at the other end of fd, and what of ours it may have; _TB_CRED_INVALID after logging why not. */
static enum tb_credential peer_identify(int fd, struct tb_peer *peer)
{
    struct sockaddr_un sa = {0};
    socklen_t sa_len = sizeof(sa), cred_len;
    struct ucred ucred;
    enum tb_credential cred;

    cred_len = sizeof(ucred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ucred, &cred_len) < 0 ||
        getpeername(fd, (struct sockaddr *)&sa, &sa_len) < 0 ||
        tb_peer_parse(sa.sun_path, sa_len - offsetof(struct sockaddr_un, sun_path), peer) < 0) {
        tb_warn("refused a connection on the release socket: its address is not one systemd gives a unit");
        return _TB_CRED_INVALID;
    }
    if (ucred.uid != 0) {
        tb_warn("process %ld of user %ld claims to be systemd", (long)ucred.pid, (long)ucred.uid);
        release_log(peer, "the peer is not root");
        return _TB_CRED_INVALID;
    }
    cred = tb_peer_credential(peer);
    if (cred == _TB_CRED_INVALID)
        release_log(peer, "this unit may not have it");
    return cred;
}

void tb_releases_accept(struct tb_releases *r)
{
    while (r->n < TB_RELEASE_WAITING_MAX) {
        struct tb_waiting w = {0};

        w.fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (w.fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (w.fd < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                tb_error("cannot accept on the release socket: %s", strerror(errno));
            return;
        }
        w.cred = peer_identify(w.fd, &w.peer);
        if (w.cred == _TB_CRED_INVALID)
            close(w.fd);
        else
            r->waiting[r->n++] = w;
    }
}

void tb_releases_drop(struct tb_releases *r, size_t i)
{
    assert(i < r->n);
    tb_close(r->waiting[i].fd);
    r->waiting[i] = r->waiting[--r->n];
}

void tb_releases_give(struct tb_releases *r, size_t i, const struct tb_grant *g)
{
    struct tb_waiting *w = &r->waiting[i];
    char number[24];
    size_t len;
    const void *value = tb_release_value(g, w->cred, number, &len);
    ssize_t n = send(w->fd, value, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    assert(i < r->n && g);
    /* A fresh unix socket takes far more than our largest value at once, or its reader is gone. */
    release_log(&w->peer, n == (ssize_t)len ? NULL : "the connection was lost");
    tb_releases_drop(r, i);
}

void tb_releases_refuse(struct tb_releases *r, size_t i, const char *why)
{
    release_log(&r->waiting[i].peer, why);
    tb_releases_drop(r, i);
}
