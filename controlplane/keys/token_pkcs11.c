/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/token_pkcs11.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"

#define P11_SLOTS_MAX 64
#define P11_PIN_MAX 256
#define P11_RESTART_US TB_USEC_PER_SEC /* libraries are not started anew more often */

/* Held for reading by whoever is in a library, for writing by who starts them anew. Libraries are shared by
 * tokens, and p11-kit ends one when its last user ends it: all are. */
static pthread_rwlock_t p11_use = PTHREAD_RWLOCK_INITIALIZER;
static struct cp_p11_token *p11_tokens;
static uint64_t p11_restarted_us;

int cp_p11_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, P11_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

const char *cp_p11_text(CK_RV rv)
{
    const char *s = p11_kit_strerror(rv);

    return s ? s : "unknown error";
}

bool cp_p11_gone(CK_RV rv)
{
    return rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED || rv == CKR_USER_NOT_LOGGED_IN ||
           rv == CKR_DEVICE_REMOVED || rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_DEVICE_ERROR ||
           rv == CKR_CRYPTOKI_NOT_INITIALIZED;
}

int cp_p11_errno(CK_RV rv)
{
    if (rv == CKR_HOST_MEMORY || rv == CKR_DEVICE_MEMORY)
        return -ENOMEM;
    if (cp_p11_gone(rv) || rv == CKR_SESSION_COUNT || rv == CKR_FUNCTION_CANCELED)
        return -EAGAIN;
    if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LOCKED || rv == CKR_PIN_EXPIRED)
        return -EACCES;
    return -EIO;
}

/* -- token and sessions ------------------------------------------------------------------------ */

static int p11_find_slot(struct cp_p11_token *p, char *err)
{
    CK_SLOT_ID slots[P11_SLOTS_MAX];
    CK_ULONG n = P11_SLOTS_MAX;
    CK_TOKEN_INFO info;
    unsigned found = 0;
    CK_RV rv = p->module->C_GetSlotList(CK_TRUE, slots, &n);

    if (rv != CKR_OK)
        return cp_p11_fail(err, cp_p11_errno(rv), "the PKCS #11 module lists no slots: %s", cp_p11_text(rv));
    for (CK_ULONG i = 0; i < n; i++) {
        if (p->module->C_GetTokenInfo(slots[i], &info) != CKR_OK ||
            !p11_kit_uri_match_token_info(p->uri, &info))
            continue;
        if (found++ == 0) {
            size_t len = P11_LABEL_BYTES;

            p->slot = slots[i];
            memcpy(p->label, info.label, P11_LABEL_BYTES);
            while (len && p->label[len - 1] == ' ')
                len--;
            p->label[len] = '\0';
        }
    }
    if (found == 1)
        return 0;
    return cp_p11_fail(err, found ? -ENOTUNIQ : -ENODEV,
                       found ? "%u tokens are like the URI's; add token= or serial="
                             : "no token is like the URI's (%u); is it plugged in, is token= its label?",
                       found);
}

/* Holding the lock, or alone. */
static CK_RV p11_login(struct cp_p11_token *p, CK_SESSION_HANDLE s)
{
    CK_RV rv = CKR_PIN_INCORRECT;

    if (!p->pin_refused)
        rv = p->module->C_Login(s, CKU_USER, (CK_BYTE *)p->pin, p->pin ? strlen(p->pin) : 0);
    p->pin_refused = rv == CKR_PIN_INCORRECT;
    return rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
}

static CK_RV p11_session_open(struct cp_p11_token *p, bool rw, CK_SESSION_HANDLE *ret)
{
    CK_RV rv =
        p->module->C_OpenSession(p->slot, CKF_SERIAL_SESSION | (rw ? CKF_RW_SESSION : 0), NULL, NULL, ret);

    if (rv != CKR_OK)
        return rv;
    rv = p11_login(p, *ret);
    if (rv != CKR_OK)
        p->module->C_CloseSession(*ret);
    return rv;
}

CK_RV cp_p11_take(struct cp_p11_token *p, CK_SESSION_HANDLE *ret, unsigned *ret_epoch)
{
    CK_RV rv = CKR_OK;

    pthread_mutex_lock(&p->lock);
    *ret_epoch = p->epoch;
    if (!p->started)
        rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    else if (p->n_idle)
        *ret = p->idle[--p->n_idle];
    else
        rv = p11_session_open(p, false, ret);
    pthread_mutex_unlock(&p->lock);
    return rv;
}

void cp_p11_give(struct cp_p11_token *p, CK_SESSION_HANDLE s, unsigned epoch)
{
    pthread_mutex_lock(&p->lock);
    if (epoch == p->epoch && p->n_idle < P11_IDLE_MAX) {
        p->idle[p->n_idle++] = s;
        s = CK_INVALID_HANDLE;
    }
    pthread_mutex_unlock(&p->lock);
    if (s != CK_INVALID_HANDLE)
        p->module->C_CloseSession(s);
}

void cp_p11_enter(void)
{
    pthread_rwlock_rdlock(&p11_use);
}

void cp_p11_leave(void)
{
    pthread_rwlock_unlock(&p11_use);
}

/* Holding p11_use for writing. */
static void p11_restart(void)
{
    char err[P11_ERR_MAX];

    for (struct cp_p11_token *t = p11_tokens; t; t = t->next) {
        t->epoch++;
        t->n_idle = 0;
        if (!t->started) /* p11-kit aborts */
            continue;
        t->module->C_CloseAllSessions(t->slot);
        p11_kit_module_finalize(t->module);
        t->started = false;
    }
    for (struct cp_p11_token *t = p11_tokens; t; t = t->next) {
        CK_RV rv = p11_kit_module_initialize(t->module);

        t->started = rv == CKR_OK;
        if (rv != CKR_OK)
            tb_warn("The library of token '%s' does not start: %s", t->label, cp_p11_text(rv));
        else if (p11_find_slot(t, err) < 0)
            tb_warn("The token of the key-encryption keys is away: %s", err);
    }
    p11_restarted_us = tb_now_monotonic_us();
}

void cp_p11_reopen(struct cp_p11_token *p, unsigned epoch)
{
    pthread_rwlock_wrlock(&p11_use);
    if (epoch == p->epoch && tb_now_monotonic_us() - p11_restarted_us >= P11_RESTART_US)
        p11_restart();
    pthread_rwlock_unlock(&p11_use);
}

/* A PIN in the URI would be read by anybody who may list processes or read the settings. */
static int p11_read_pin(struct cp_p11_token *p, char *err)
{
    const char *from = p11_kit_uri_get_pin_source(p->uri);
    _cleanup_erase_string_ char *text = NULL;
    size_t n;
    int r;

    if (p11_kit_uri_get_pin_value(p->uri))
        return cp_p11_fail(err, -EINVAL,
                           "a PIN must not stand in the URI; write it to a file of mode 0600 and "
                           "name that by pin-source=");
    if (!from)
        return 0;
    from += strncmp(from, "file:", 5) == 0 ? 5 : 0;
    r = tb_read_file(from, P11_PIN_MAX, &text, NULL);
    if (r < 0)
        return cp_p11_fail(err, r, "pin-source %s: %s", from, strerror(-r));
    n = strcspn(text, "\r\n");
    if (n == 0)
        return cp_p11_fail(err, -EINVAL, "pin-source %s has no PIN in its first line", from);
    p->pin = tb_secret_alloc(n + 1);
    if (!p->pin)
        return cp_p11_fail(err, -ENOMEM, "out of memory");
    memcpy(p->pin, text, n);
    return 0;
}

static int p11_load(struct cp_p11_token *p, char *err)
{
    const char *path = p11_kit_uri_get_module_path(p->uri);
    CK_RV rv;

    if (!path || *path != '/')
        return cp_p11_fail(err, -EINVAL,
                           "the URI needs ?module-path= with the path of the token's PKCS #11 library");
    p->module = p11_kit_module_load(path, 0);
    if (!p->module) {
        const char *why = p11_kit_message();

        return cp_p11_fail(err, -ELIBACC, "%s cannot be loaded: %s", path,
                           why ? why : "not a PKCS #11 library");
    }
    rv = p11_kit_module_initialize(p->module);
    if (rv != CKR_OK) {
        p11_kit_module_release(p->module);
        p->module = NULL;
        return cp_p11_fail(err, cp_p11_errno(rv), "%s does not start: %s", path, cp_p11_text(rv));
    }
    p->started = true;
    return 0;
}

int cp_p11_open(const char *text, bool rw, struct cp_p11_token *p, CK_SESSION_HANDLE *ret, char *err)
{
    CK_RV rv;
    int r;

    pthread_mutex_init(&p->lock, NULL);
    p->uri = p11_kit_uri_new();
    if (!p->uri)
        return cp_p11_fail(err, -ENOMEM, "out of memory");
    r = p11_kit_uri_parse(text, P11_KIT_URI_FOR_OBJECT_ON_TOKEN_AND_MODULE, p->uri);
    if (r != P11_KIT_URI_OK || p11_kit_uri_any_unrecognized(p->uri))
        return cp_p11_fail(err, -EINVAL, "not a PKCS #11 URI (RFC 7512): %s",
                           r != P11_KIT_URI_OK ? p11_kit_uri_message(r)
                                               : "it has attributes that are unknown");
    r = p11_read_pin(p, err);
    if (r == 0)
        r = p11_load(p, err);
    if (r == 0)
        r = p11_find_slot(p, err);
    if (r < 0)
        return r;
    pthread_rwlock_wrlock(&p11_use);
    p->next = p11_tokens;
    p11_tokens = p;
    rv = p11_session_open(p, rw, ret);
    pthread_rwlock_unlock(&p11_use);
    if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LOCKED)
        return cp_p11_fail(err, -EACCES, "token '%s' refuses the PIN of pin-source: %s", p->label,
                           cp_p11_text(rv));
    if (rv != CKR_OK)
        return cp_p11_fail(err, cp_p11_errno(rv), "token '%s' cannot be logged in to: %s%s", p->label,
                           cp_p11_text(rv), p->pin ? "" : "; add pin-source=");
    return 0;
}

void cp_p11_close(struct cp_p11_token *p)
{
    pthread_rwlock_wrlock(&p11_use);
    for (struct cp_p11_token **at = &p11_tokens; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    pthread_rwlock_unlock(&p11_use);
    if (p->module && p->started) {
        for (size_t i = 0; i < p->n_idle; i++)
            p->module->C_CloseSession(p->idle[i]);
        p11_kit_module_finalize(p->module);
    }
    if (p->module)
        p11_kit_module_release(p->module);
    if (p->uri)
        p11_kit_uri_free(p->uri);
    tb_secret_free(p->pin);
    pthread_mutex_destroy(&p->lock);
}
