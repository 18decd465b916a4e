/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/reload.h"

#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "proxy/server.h"
#include "proxy/http/tls.h"
#include "common/units.h"

#define PEM_MAX (256 * 1024)

static void stamp(const char *path, struct tb_file_stamp *ret)
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

static bool changed(const char *path, const struct tb_file_stamp *old)
{
    struct tb_file_stamp now;

    if (!path)
        return false;
    stamp(path, &now);
    return now.dev != old->dev || now.ino != old->ino || now.size != old->size ||
           now.mtime.tv_sec != old->mtime.tv_sec || now.mtime.tv_nsec != old->mtime.tv_nsec;
}

static void keys_event(struct tb_source *src, uint32_t events)
{
    struct tb_server *s = container_of(src, struct tb_server, keys_read);

    tb_key_store_finish(s->keys);
}

static int start_keys(struct tb_server *s, const char *state_dir)
{
    _cleanup_free_ char *accounts = tb_path_join(state_dir, "keys");
    int r;

    stamp(s->config->api_keys,
          &s->reload.keys); /* before reading: a change in between is seen at the next look */
    r = accounts ? tb_key_store_open(s->config->api_keys, accounts, &s->keys) : -ENOMEM;
    if (r < 0)
        return r;
    s->keys_read.fn = keys_event;
    return tb_loop_add(&s->loop, tb_key_store_fd(s->keys), EPOLLIN, &s->keys_read);
}

static int read_pem(struct tb_tls_file *f, char **ret)
{
    int r = tb_read_file(f->path, PEM_MAX, ret, &f->len);

    f->text = *ret;
    if (r < 0)
        tb_error("%s: cannot read %s: %s", f->setting, f->path, strerror(-r));
    return r;
}

static int load_tls(struct tb_server *s)
{
    struct tb_tls_file cert = {"TB_TLS_CERT", s->config->tls_cert, NULL, 0};
    struct tb_tls_file key = {"TB_TLS_KEY", s->config->tls_key, NULL, 0};
    _cleanup_free_ char *cert_text = NULL;
    _cleanup_erase_string_ char *key_text = NULL;
    char err[TB_TLS_ERR_MAX], warning[TB_TLS_ERR_MAX];
    int r;

    stamp(cert.path, &s->reload.cert);
    stamp(key.path, &s->reload.key);
    r = read_pem(&cert, &cert_text);
    if (r >= 0)
        r = read_pem(&key, &key_text);
    if (r < 0)
        return r;
    r = tb_tls_use(&cert, &key, err, warning);
    if (r < 0)
        tb_error("%s", err);
    else if (warning[0])
        tb_warn("%s", warning);
    return r;
}

int tb_reload_start(struct tb_server *s, const char *state_dir)
{
    int r;

    s->tls = s->config->tls_cert != NULL;
    r = s->tls ? load_tls(s) : 0;
    if (r < 0 || !s->config->api_keys)
        return r;
    return start_keys(s, state_dir);
}

static void reload_keys(struct tb_server *s)
{
    stamp(s->config->api_keys, &s->reload.keys);
    tb_key_store_reload(s->keys);
}

static void reload_tls(struct tb_server *s)
{
    if (load_tls(s) < 0)
        tb_warn("TB_TLS_CERT: the certificate read before stays in force");
    else
        tb_info("TB_TLS_CERT: read again");
}

void tb_reload_now(struct tb_server *s)
{
    if (s->tls)
        reload_tls(s);
    if (s->keys)
        reload_keys(s);
}

void tb_reload_tick(struct tb_server *s, uint64_t now_us)
{
    if (now_us - s->reload.looked_us < TB_USEC_PER_SEC)
        return;
    s->reload.looked_us = now_us;
    if (s->tls &&
        (changed(s->config->tls_cert, &s->reload.cert) || changed(s->config->tls_key, &s->reload.key)))
        reload_tls(s);
    if (s->keys && changed(s->config->api_keys, &s->reload.keys))
        reload_keys(s);
}
