/* SPDX-License-Identifier: Apache-2.0 */
/* A PKCS #11 token that is logged in to, and its sessions: each belongs to one thread at a time and is
 * kept for the next. After an error that a token gives when it was away (session or login gone, the key not
 * to be seen), cp_p11_reopen() starts anew, and the token's library with it: some never see a token again
 * that was away. Nobody may be in the library then: its users are between cp_p11_enter() and
 * cp_p11_leave(). */
#ifndef CP_TOKEN_PKCS11_H
#define CP_TOKEN_PKCS11_H

#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/macros.h"

#define P11_IDLE_MAX 32
#define P11_LABEL_BYTES 32
#define P11_ERR_MAX 512

struct cp_p11_token {
    P11KitUri *uri;
    CK_FUNCTION_LIST *module;
    char *pin; /* secret memory, or NULL: the token wants none */
    char label[P11_LABEL_BYTES + 1];
    pthread_mutex_t lock; /* of what follows */
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE idle[P11_IDLE_MAX];
    size_t n_idle;
    unsigned epoch;            /* sessions of an older one are not put back */
    bool started;              /* its library */
    bool pin_refused;          /* not tried again: tokens lock themselves after a few wrong ones */
    struct cp_p11_token *next; /* of all that are open */
};

/* Opens the token that uri (RFC 7512, with module-path and, where it wants a PIN, pin-source) names, and a
 * first session, with rw one that may write. 0, or a negative errno with a reason in err. cp_p11_close()
 * in any case. */
int cp_p11_open(const char *uri, bool rw, struct cp_p11_token *p, CK_SESSION_HANDLE *ret, char *err);
void cp_p11_close(struct cp_p11_token *p);

void cp_p11_enter(void);
void cp_p11_leave(void);
CK_RV cp_p11_take(struct cp_p11_token *p, CK_SESSION_HANDLE *ret, unsigned *ret_epoch);
void cp_p11_give(struct cp_p11_token *p, CK_SESSION_HANDLE s, unsigned epoch);
/* The token was away: whatever is open of it is nothing any more. The slot is looked for again, as a token
 * that is back may be in another. One thread does it; the others, whose epoch is older, find it done. Outside
 * of cp_p11_enter(). */
void cp_p11_reopen(struct cp_p11_token *p, unsigned epoch);

/* What a token answers when it was taken away, put back, or restarted. */
bool cp_p11_gone(CK_RV rv);
/* -ENOMEM, -EAGAIN, -EACCES or -EIO. */
int cp_p11_errno(CK_RV rv);
const char *cp_p11_text(CK_RV rv);
/* Writes the reason into err (P11_ERR_MAX), returns r. */
int cp_p11_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);

#endif
