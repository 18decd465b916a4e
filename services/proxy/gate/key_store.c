/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/key_store.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"

#define KEPT "api-keys" /* name for systemd */

struct tb_key_store {
    char *path;
    struct tb_key_accounts *book;
    struct tb_api_keys keys;           /* in force */
    char trouble[TB_API_KEYS_ERR_MAX]; /* of the last reading */
    int event_fd;
    bool reading, again; /* a thread was started and not joined; the file changed meanwhile */
    pthread_t thread;
    /* the thread's until event_fd is readable */
    struct tb_api_keys next;
    int result;
    char err[TB_API_KEYS_ERR_MAX];
};

/* Parses and binds: s->next, or s->result and s->err. */
static void store_parse(struct tb_key_store *s, const char *text, size_t len)
{
    _cleanup_(tb_api_keys_clear) struct tb_api_keys keys = {0};
    int r;

    snprintf(s->err, sizeof(s->err), "out of memory");
    r = tb_api_keys_parse(text, len, &keys, s->err);
    if (r >= 0) {
        r = tb_key_accounts_bind(s->book, &keys);
        snprintf(s->err, sizeof(s->err), "no room for another name in the usage by key; free disk space");
    }
    s->result = r;
    if (r < 0)
        return;
    s->next = keys;
    keys = (struct tb_api_keys){0};
}

/* The same of the file. What is good is also kept by systemd, hashes as it is: the next start may meet what
 * is not. */
static void store_read(struct tb_key_store *s)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    s->result = tb_read_file(s->path, TB_API_KEYS_BYTES_MAX, &text, &len);
    snprintf(s->err, sizeof(s->err), "%s", strerror(-s->result));
    if (s->result >= 0)
        store_parse(s, text, len);
    if (s->result >= 0)
        tb_notify_keep(KEPT, text, len);
}

static void *store_thread(void *arg)
{
    struct tb_key_store *s = arg;

    store_read(s);
    (void)eventfd_write(s->event_fd, 1);
    return NULL;
}

/* A name with two keys is how a key is changed, and how two people come to share one by a slip. */
static void store_warn(const struct tb_key_store *s)
{
    const struct tb_api_key_pair *names = &s->keys.same_name, *keys = &s->keys.same_key;

    if (s->keys.n == 0)
        tb_warn("TB_API_KEYS: %s holds no key; every request will get 401", s->path);
    if (keys->n > 0)
        tb_warn("TB_API_KEYS: line %u of %s has the same key as line %u; remove one of them", keys->second,
                s->path, keys->first);
    if (names->n > keys->n)
        tb_warn(
            "TB_API_KEYS: line %u of %s has the same name as line %u: their keys share what they use. If a "
            "key is being changed, remove the old one when it is no longer used (%zu such lines)",
            names->second, s->path, names->first, names->n);
}

/* What was read comes into force. */
static int store_swap(struct tb_key_store *s)
{
    snprintf(s->trouble, sizeof(s->trouble), "%s", s->result < 0 ? s->err : "");
    if (s->result < 0) {
        tb_error("TB_API_KEYS: cannot use %s: %s", s->path, s->err);
        return s->result;
    }
    tb_api_keys_clear(&s->keys);
    s->keys = s->next;
    s->next = (struct tb_api_keys){0};
    store_warn(s);
    return 0;
}

/* A slip in the file locks out nobody at a restart either: the keys before stay. */
static int store_use_kept(struct tb_key_store *s)
{
    _cleanup_free_ char *text = NULL;
    char trouble[TB_API_KEYS_ERR_MAX];
    size_t len;
    int r = tb_notify_kept(KEPT, TB_API_KEYS_BYTES_MAX, &text, &len);

    if (r < 0)
        return r;
    memcpy(trouble, s->trouble, sizeof(trouble));
    store_parse(s, text, len);
    r = store_swap(s);
    memcpy(s->trouble, trouble, sizeof(trouble));
    if (r >= 0)
        tb_warn("TB_API_KEYS: the keys of before this restart stay in force");
    return r;
}

static int store_open_accounts(struct tb_key_store *s, const char *accounts)
{
    int r = tb_key_accounts_open(accounts, &s->book);

    if (r == -EBADMSG)
        tb_error(
            "%s is not a record of usage by key; move it away to begin a new one, in which nothing is spent",
            accounts);
    else if (r < 0)
        tb_error("cannot open %s: %s", accounts, strerror(-r));
    return r;
}

int tb_key_store_open(const char *path, const char *accounts, struct tb_key_store **ret)
{
    struct tb_key_store *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->path = strdup(path);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = s->event_fd < 0 ? -errno : s->path ? store_open_accounts(s, accounts) : -ENOMEM;
    if (r >= 0) {
        store_read(s);
        r = store_swap(s);
        r = r < 0 && store_use_kept(s) == 0 ? 0 : r;
    }
    if (r < 0) {
        tb_key_store_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

void tb_key_store_close(struct tb_key_store *s)
{
    if (!s)
        return;
    if (s->reading)
        pthread_join(s->thread, NULL);
    tb_api_keys_clear(&s->next);
    tb_api_keys_clear(&s->keys);
    tb_key_accounts_close(s->book);
    tb_close(s->event_fd);
    free(s->path);
    free(s);
}

void tb_key_store_reload(struct tb_key_store *s)
{
    int r;

    if (s->reading) {
        s->again = true;
        return;
    }
    r = pthread_create(&s->thread, NULL, store_thread, s);
    if (r > 0)
        tb_error("TB_API_KEYS: cannot read %s again: %s; the keys read before stay in force", s->path,
                 strerror(r));
    s->reading = r == 0;
}

int tb_key_store_fd(const struct tb_key_store *s)
{
    return s->event_fd;
}

void tb_key_store_finish(struct tb_key_store *s)
{
    eventfd_t n;

    if (!s->reading || eventfd_read(s->event_fd, &n) < 0)
        return;
    pthread_join(s->thread, NULL);
    s->reading = false;
    if (store_swap(s) < 0)
        tb_warn("TB_API_KEYS: the keys read before stay in force");
    else
        tb_info("TB_API_KEYS: read again, %zu keys", s->keys.n);
    if (s->again) {
        s->again = false;
        tb_key_store_reload(s);
    }
}

int tb_key_store_keep(struct tb_key_store *s, const char *path)
{
    return s->reading ? 0 : tb_key_accounts_keep(s->book, path);
}

const char *tb_key_store_trouble(const struct tb_key_store *s)
{
    return s->trouble;
}

const struct tb_api_keys *tb_key_store_keys(const struct tb_key_store *s)
{
    return &s->keys;
}

struct tb_key_accounts *tb_key_store_accounts(const struct tb_key_store *s)
{
    return s->book;
}
