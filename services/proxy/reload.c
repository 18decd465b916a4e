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

static int load_keys(struct tb_server *s)
{
    _cleanup_(tb_api_keys_clear) struct tb_api_keys keys = {0};
    _cleanup_free_ char *text = NULL;
    const char *path = s->config->api_keys;
    char err[TB_API_KEYS_ERR_MAX];
    size_t len;
    int r;

    stamp(path, &s->reload.keys); /* before reading: a change in between is seen at the next look */
    r = tb_read_file(path, TB_API_KEYS_MAX * 512UL, &text, &len);
    if (r < 0) {
        tb_error("TB_API_KEYS: cannot read %s: %s", path, strerror(-r));
        return r;
    }
    r = tb_api_keys_parse(text, len, &keys, err);
    if (r < 0) {
        tb_error("TB_API_KEYS: %s: %s", path, r == -ENOMEM ? "out of memory" : err);
        return r;
    }
    r = tb_key_book_bind(s->book, &keys);
    if (r < 0) {
        tb_error("TB_API_KEYS: %s: no room for another name in the usage by key; free disk space", path);
        return r;
    }
    if (keys.n == 0)
        tb_warn("TB_API_KEYS: %s holds no key; every request will get 401", path);
    tb_api_keys_clear(&s->keys);
    s->keys = keys;
    keys = (struct tb_api_keys){0};
    return 0;
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

static int open_book(struct tb_server *s, const char *state_dir)
{
    _cleanup_free_ char *path = tb_path_join(state_dir, "keys");
    int r = path ? tb_key_book_open(path, &s->book) : -ENOMEM;

    if (r == -EBADMSG)
        tb_error(
            "%s is not a record of usage by key; move it away to begin a new one, in which nothing is spent",
            path);
    else if (r < 0)
        tb_error("cannot open %s/keys: %s", state_dir, strerror(-r));
    return r;
}

int tb_reload_start(struct tb_server *s, const char *state_dir)
{
    int r;

    s->tls = s->config->tls_cert != NULL;
    r = s->tls ? load_tls(s) : 0;
    if (r < 0 || !s->config->api_keys)
        return r;
    s->need_key = true;
    r = open_book(s, state_dir);
    return r < 0 ? r : load_keys(s);
}

static void reload_keys(struct tb_server *s)
{
    if (load_keys(s) < 0)
        tb_warn("TB_API_KEYS: the keys read before stay in force");
    else
        tb_info("TB_API_KEYS: read again, %zu keys", s->keys.n);
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
    if (s->config->api_keys)
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
    if (changed(s->config->api_keys, &s->reload.keys))
        reload_keys(s);
}
