/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/reload.h"

#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/secret.h"
#include "proxy/server.h"
#include "proxy/http/tls.h"
#include "common/units.h"

#define PEM_MAX (256 * 1024)
#define KEPT_CERT "tls-cert" /* names for systemd */
#define KEPT_KEY "tls-key"
#define LOOK_US (5 * TB_USEC_PER_SEC) /* for changes that were not announced: behind a link, on a network */
#define GATHER_US (TB_USEC_PER_SEC / 10) /* a certificate and its key are replaced one after the other */

static void reload_file_stamp(const char *path, struct tb_file_stamp *ret)
{
    struct stat st;

    *ret = (struct tb_file_stamp){0};
    if (path && stat(path, &st) == 0) {
        ret->dev = st.st_dev;
        ret->ino = st.st_ino;
        ret->size = st.st_size;
        ret->mtime = st.st_mtim;
    }
}

static bool reload_file_changed(const char *path, const struct tb_file_stamp *old)
{
    struct tb_file_stamp now;

    if (!path)
        return false;
    reload_file_stamp(path, &now);
    return now.dev != old->dev || now.ino != old->ino || now.size != old->size ||
           now.mtime.tv_sec != old->mtime.tv_sec || now.mtime.tv_nsec != old->mtime.tv_nsec;
}

static void reload_keys_event(struct tb_source *src, uint32_t events)
{
    struct tb_server *s = container_of(src, struct tb_server, keys_read);

    tb_key_store_finish(s->keys);
}

static int reload_start_keys(struct tb_server *s, const char *state_dir)
{
    _cleanup_free_ char *accounts = tb_path_join(state_dir, "keys");
    int r;

    reload_file_stamp(s->config->api_keys,
                      &s->reload.keys); /* before reading: a change in between is seen at the next look */
    r = accounts ? tb_key_store_open(s->config->api_keys, accounts, &s->keys) : -ENOMEM;
    if (r < 0)
        return r;
    s->keys_read.fn = reload_keys_event;
    return tb_loop_add(&s->loop, tb_key_store_fd(s->keys), EPOLLIN, &s->keys_read);
}

static int reload_read_pem(struct tb_tls_file *f, char **ret)
{
    int r = tb_read_file(f->path, PEM_MAX, ret, &f->len);

    f->text = *ret;
    if (r < 0)
        tb_error("%s: cannot read %s: %s", f->setting, f->path, strerror(-r));
    return r;
}

static int reload_use_tls(struct tb_server *s, const struct tb_tls_file *cert, const struct tb_tls_file *key)
{
    char err[TB_TLS_ERR_MAX], warning[TB_TLS_ERR_MAX];
    int r = tb_tls_use(&s->tls, cert, key, err, warning);

    if (r < 0)
        tb_error("%s", err);
    else if (warning[0])
        tb_warn("%s", warning);
    return r;
}

/* A pair that is good is also kept by systemd: the next start may meet a wrong one. */
static int reload_load_tls(struct tb_server *s)
{
    struct tb_tls_file cert = {"TB_TLS_CERT", s->config->tls_cert, NULL, 0};
    struct tb_tls_file key = {"TB_TLS_KEY", s->config->tls_key, NULL, 0};
    _cleanup_free_ char *cert_text = NULL;
    _cleanup_erase_string_ char *key_text = NULL;
    int r;

    reload_file_stamp(cert.path, &s->reload.cert);
    reload_file_stamp(key.path, &s->reload.key);
    r = reload_read_pem(&cert, &cert_text);
    if (r >= 0)
        r = reload_read_pem(&key, &key_text);
    if (r >= 0)
        r = reload_use_tls(s, &cert, &key);
    if (r < 0)
        return r;
    tb_notify_keep(KEPT_CERT, cert.text, cert.len);
    tb_notify_keep(KEPT_KEY, key.text, key.len);
    return 0;
}

/* A wrong pair at a restart, by which a new one was to come into force, closes the port no more than one that
 * comes while it runs: the pair before stays. */
static int reload_use_kept_tls(struct tb_server *s)
{
    struct tb_tls_file cert = {"TB_TLS_CERT", "kept by systemd", NULL, 0};
    struct tb_tls_file key = {"TB_TLS_KEY", "kept by systemd", NULL, 0};
    _cleanup_free_ char *cert_text = NULL;
    _cleanup_erase_string_ char *key_text = NULL;
    int r = tb_notify_kept(KEPT_CERT, PEM_MAX, &cert_text, &cert.len);

    if (r >= 0)
        r = tb_notify_kept(KEPT_KEY, PEM_MAX, &key_text, &key.len);
    if (r < 0)
        return r;
    cert.text = cert_text;
    key.text = key_text;
    r = reload_use_tls(s, &cert, &key);
    if (r >= 0)
        tb_warn("TB_TLS_CERT: the certificate of before this restart stays in force; replace the files, and "
                "it is "
                "read at the next restart");
    return r;
}

static int reload_start_tls(struct tb_server *s)
{
    int r;

    if (!s->config->tls_cert) {
        tb_notify_keep(KEPT_CERT, NULL, 0);
        tb_notify_keep(KEPT_KEY, NULL, 0);
        return 0;
    }
    r = reload_load_tls(s);
    return r < 0 && reload_use_kept_tls(s) == 0 ? 0 : r;
}

static void reload_keys(struct tb_server *s)
{
    reload_file_stamp(s->config->api_keys, &s->reload.keys);
    tb_key_store_reload(s->keys);
}

static void reload_tls(struct tb_server *s)
{
    if (reload_load_tls(s) < 0)
        tb_warn("TB_TLS_CERT: the certificate read before stays in force");
    else
        tb_info("TB_TLS_CERT: read again");
}

void tb_reload_now(struct tb_server *s)
{
    if (s->config->tls_cert)
        reload_tls(s);
    if (s->keys)
        reload_keys(s);
}

/* --- when they change ----------------------------------------------------------------------------------- */

static void reload_watch_dir(struct tb_server *s, const char *path)
{
    _cleanup_free_ char *dir = path ? strdup(path) : NULL;
    char *slash = dir ? strrchr(dir, '/') : NULL;

    if (!dir)
        return;
    if (slash)
        slash[slash == dir] = '\0';
    (void)tb_file_watch_add(&s->reload.watch, slash ? dir : ".");
}

static void reload_look(struct tb_timer *t)
{
    struct tb_server *s = container_of(t, struct tb_server, reload.timer);

    if (s->config->tls_cert && (reload_file_changed(s->config->tls_cert, &s->reload.cert) ||
                                reload_file_changed(s->config->tls_key, &s->reload.key)))
        reload_tls(s);
    if (s->keys && reload_file_changed(s->config->api_keys, &s->reload.keys))
        reload_keys(s);
    tb_timer_set_period(&s->loop, t, LOOK_US);
}

static void reload_changed(struct tb_file_watch *w)
{
    struct tb_server *s = container_of(w, struct tb_server, reload.watch);

    tb_timer_set(&s->loop, &s->reload.timer, tb_now_monotonic_us() + GATHER_US);
}

static void reload_watch(struct tb_server *s)
{
    s->reload.watch.changed = reload_changed;
    s->reload.timer.fn = reload_look;
    tb_file_watch_open(&s->reload.watch, &s->loop);
    reload_watch_dir(s, s->config->tls_cert);
    reload_watch_dir(s, s->config->tls_key);
    reload_watch_dir(s, s->config->api_keys);
    tb_timer_set_period(&s->loop, &s->reload.timer, LOOK_US);
}

int tb_reload_start(struct tb_server *s, const char *state_dir)
{
    int r;

    r = reload_start_tls(s);
    if (!s->config->api_keys)
        tb_notify_keep("api-keys", NULL, 0);
    if (r >= 0 && s->config->api_keys)
        r = reload_start_keys(s, state_dir);
    if (r >= 0 && (s->config->tls_cert || s->config->api_keys))
        reload_watch(s);
    return r;
}

void tb_reload_stop(struct tb_server *s)
{
    tb_timer_stop(&s->loop, &s->reload.timer);
    tb_file_watch_close(&s->reload.watch);
}
