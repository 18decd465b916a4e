/* SPDX-License-Identifier: Apache-2.0 */
/* A KEK in a PKCS #11 token: an AES-256 key that never leaves it. The token seals asset keys itself
 * (CKM_AES_GCM, the asset's id as additional data); what is kept is nonce(12) | ciphertext(32) | tag(16),
 * as by a file's key. A KEK's id is its token's label and CKA_ID, so that a key of the same name made
 * later is another one. */
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/keys/token_pkcs11.h"
#include "controlplane/keys/wrap.h"

#define P11_ID_MAX 32

struct keyring_p11 {
    struct cp_p11_token t;
    char kek_id[CP_KEK_ID_MAX + 1]; /* current */
    CK_BYTE id[P11_ID_MAX];         /* its CKA_ID */
    CK_ULONG id_len;
};

/* -- keys -------------------------------------------------------------------------------------- */

/* The AES key of that id; CK_INVALID_HANDLE: there is none. */
static CK_RV p11_find_by_id(struct keyring_p11 *p, CK_SESSION_HANDLE s, const CK_BYTE *id, CK_ULONG len,
                            CK_OBJECT_HANDLE *ret)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE t[] = {{CKA_CLASS, &class, sizeof(class)},
                        {CKA_KEY_TYPE, &type, sizeof(type)},
                        {CKA_ID, (CK_BYTE *)id, len}};
    CK_ULONG n = 0;
    CK_RV rv = p->t.module->C_FindObjectsInit(s, t, ARRAY_SIZE(t));

    *ret = CK_INVALID_HANDLE;
    if (rv == CKR_OK)
        rv = p->t.module->C_FindObjects(s, ret, 1, &n);
    if (rv == CKR_OK || !cp_p11_gone(rv))
        p->t.module->C_FindObjectsFinal(s);
    if (n == 0)
        *ret = CK_INVALID_HANDLE;
    return rv;
}

struct p11_op {
    bool seal;
    const char *asset_id;
    CK_BYTE id[P11_ID_MAX];
    CK_ULONG id_len;
    uint8_t *nonce;
    const uint8_t *in;
    CK_ULONG in_len;
    uint8_t *out;
    CK_ULONG out_len; /* in: room */
    bool no_key;
};

static CK_RV p11_op_in_session(struct keyring_p11 *p, CK_SESSION_HANDLE s, struct p11_op *op)
{
    /* By position: nonce, its length in bytes and bits, additional data and its length, tag's bits. Names of
     * the members changed between p11-kit 0.24 and 0.25. */
    CK_GCM_PARAMS gcm = {op->nonce,
                         CP_WRAP_NONCE_BYTES,
                         8 * CP_WRAP_NONCE_BYTES,
                         (CK_BYTE *)op->asset_id,
                         strlen(op->asset_id),
                         8 * CP_WRAP_TAG_BYTES};
    CK_MECHANISM m = {CKM_AES_GCM, &gcm, sizeof(gcm)};
    CK_OBJECT_HANDLE key;
    CK_RV rv = p11_find_by_id(p, s, op->id, op->id_len, &key);

    op->no_key = false;
    if (rv == CKR_OK &&
        key == CK_INVALID_HANDLE) { /* without its current key too it is another token, or none */
        rv = p11_find_by_id(p, s, p->id, p->id_len, &key);
        op->no_key = rv == CKR_OK && key != CK_INVALID_HANDLE;
        return rv == CKR_OK && !op->no_key ? CKR_TOKEN_NOT_PRESENT : rv;
    }
    if (rv != CKR_OK)
        return rv;
    if (op->seal) {
        rv = p->t.module->C_EncryptInit(s, &m, key);
        return rv == CKR_OK ? p->t.module->C_Encrypt(s, (CK_BYTE *)op->in, op->in_len, op->out, &op->out_len)
                            : rv;
    }
    rv = p->t.module->C_DecryptInit(s, &m, key);
    if (rv != CKR_OK)
        return rv;
    rv = p->t.module->C_Decrypt(s, (CK_BYTE *)op->in, op->in_len, op->out, &op->out_len);
    /* tokens do not agree on what a wrong tag is called */
    return rv == CKR_OK || cp_p11_gone(rv) || rv == CKR_HOST_MEMORY ? rv : CKR_ENCRYPTED_DATA_INVALID;
}

static int p11_op_run(struct keyring_p11 *p, struct p11_op *op)
{
    CK_ULONG room = op->out_len;
    CK_SESSION_HANDLE s;
    unsigned epoch;
    CK_RV rv;

    for (int try = 0;; try++) {
        op->out_len = room;
        cp_p11_enter();
        rv = cp_p11_take(&p->t, &s, &epoch);
        if (rv == CKR_OK) {
            rv = p11_op_in_session(p, s, op);
            if (rv == CKR_OK) /* else an operation may be left in it */
                cp_p11_give(&p->t, s, epoch);
            else
                p->t.module->C_CloseSession(s);
        }
        cp_p11_leave();
        if (!cp_p11_gone(rv) || try == 1)
            break;
        cp_p11_reopen(&p->t, epoch);
    }
    if (rv == CKR_OK)
        return op->no_key ? -ENOKEY : 0;
    if (rv == CKR_ENCRYPTED_DATA_INVALID)
        return -EBADMSG;
    return tb_warn_errno(cp_p11_errno(rv), "Token '%s' of the key-encryption keys: %s", p->t.label,
                         cp_p11_text(rv));
}

/* -- ids --------------------------------------------------------------------------------------- */

/* "pkcs11:token=LABEL;id=%01%02": what RFC 7512 would find the key by. */
static bool p11_id_format(const char *label, const CK_BYTE *id, CK_ULONG len,
                          char out[static CP_KEK_ID_MAX + 1])
{
    P11KitUri *uri = p11_kit_uri_new();
    CK_ATTRIBUTE a = {CKA_ID, (CK_BYTE *)id, len};
    char *text = NULL;
    bool ok = false;

    if (!uri)
        return false;
    memset(p11_kit_uri_get_token_info(uri)->label, ' ', P11_LABEL_BYTES);
    memcpy(p11_kit_uri_get_token_info(uri)->label, label, strlen(label));
    if (p11_kit_uri_set_attribute(uri, &a) == P11_KIT_URI_OK &&
        p11_kit_uri_format(uri, P11_KIT_URI_FOR_OBJECT_ON_TOKEN, &text) == P11_KIT_URI_OK &&
        strlen(text) <= CP_KEK_ID_MAX) {
        strcpy(out, text);
        ok = true;
    }
    free(text);
    p11_kit_uri_free(uri);
    return ok;
}

/* Takes the CKA_ID out of a kek_id of this token. */
static bool p11_id_parse(const struct keyring_p11 *p, const char *kek_id, struct p11_op *op)
{
    P11KitUri *uri = p11_kit_uri_new();
    char again[CP_KEK_ID_MAX + 1];
    CK_ATTRIBUTE *a;
    bool ok = false;

    if (uri && p11_kit_uri_parse(kek_id, P11_KIT_URI_FOR_OBJECT_ON_TOKEN, uri) == P11_KIT_URI_OK) {
        a = p11_kit_uri_get_attribute(uri, CKA_ID);
        if (a && a->ulValueLen && a->ulValueLen <= sizeof(op->id)) {
            memcpy(op->id, a->pValue, a->ulValueLen);
            op->id_len = a->ulValueLen;
            ok = p11_id_format(p->t.label, op->id, op->id_len, again) && strcmp(again, kek_id) == 0;
        }
    }
    if (uri)
        p11_kit_uri_free(uri);
    return ok;
}

/* -- the keyring's calls ----------------------------------------------------------------------- */

static int p11_wrap(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret)
{
    struct keyring_p11 *p = me;
    struct cp_wrapped w = {.len = CP_WRAPPED_KEY_BYTES};
    struct p11_op op = {.seal = true,
                        .asset_id = asset_id,
                        .id_len = p->id_len,
                        .nonce = w.b,
                        .in = key->b,
                        .in_len = TB_KEY_BYTES,
                        .out = w.b + CP_WRAP_NONCE_BYTES,
                        .out_len = TB_KEY_BYTES + CP_WRAP_TAG_BYTES};
    int r = tb_random(w.b, CP_WRAP_NONCE_BYTES);

    memcpy(op.id, p->id, p->id_len);
    if (r == 0)
        r = p11_op_run(p, &op);
    if (r == 0 && op.out_len != TB_KEY_BYTES + CP_WRAP_TAG_BYTES)
        r = -EIO;
    if (r < 0)
        return r;
    strcpy(w.kek_id, p->kek_id);
    *ret = w;
    return 0;
}

/* Some tokens want room for the tag too. */
struct p11_plain {
    uint8_t b[TB_KEY_BYTES + CP_WRAP_TAG_BYTES];
};

static void p11_plain_erase(struct p11_plain *p)
{
    tb_erase(p, sizeof(*p));
}

static int p11_unwrap(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret)
{
    struct keyring_p11 *p = me;
    uint8_t nonce[CP_WRAP_NONCE_BYTES];
    _cleanup_(p11_plain_erase) struct p11_plain plain;
    struct p11_op op = {.asset_id = asset_id,
                        .nonce = nonce,
                        .in = w->b + CP_WRAP_NONCE_BYTES,
                        .in_len = TB_KEY_BYTES + CP_WRAP_TAG_BYTES,
                        .out = plain.b,
                        .out_len = sizeof(plain.b)};
    int r;

    if (!p11_id_parse(p, w->kek_id, &op))
        return -ENOKEY;
    if (w->len != CP_WRAPPED_KEY_BYTES)
        return -EBADMSG;
    memcpy(nonce, w->b, sizeof(nonce));
    r = p11_op_run(p, &op);
    if (r == 0 && op.out_len != TB_KEY_BYTES)
        r = -EBADMSG;
    if (r == 0)
        memcpy(ret->b, plain.b, TB_KEY_BYTES);
    return r;
}

static void p11_close(void *me)
{
    struct keyring_p11 *p = me;

    cp_p11_close(&p->t);
    free(p);
}

static const struct cp_keyring_ops p11_ops = {.wrap = p11_wrap, .unwrap = p11_unwrap, .close = p11_close};

/* -- opening ----------------------------------------------------------------------------------- */

/* The key that the URI names: exactly one, of this kind. */
static int p11_find_current(struct keyring_p11 *p, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *ret, char *err)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE t[4] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_KEY_TYPE, &type, sizeof(type)}};
    CK_ATTRIBUTE *label = p11_kit_uri_get_attribute(p->t.uri, CKA_LABEL);
    CK_ATTRIBUTE *id = p11_kit_uri_get_attribute(p->t.uri, CKA_ID);
    CK_OBJECT_HANDLE found[2];
    CK_ULONG n = 2, got = 0;
    CK_RV rv;

    if (!label && !id)
        return cp_p11_fail(err, -EINVAL, "the URI names no key; add object= or id=");
    if (label)
        t[n++] = *label;
    if (id)
        t[n++] = *id;
    rv = p->t.module->C_FindObjectsInit(s, t, n);
    if (rv == CKR_OK) {
        rv = p->t.module->C_FindObjects(s, found, 2, &got);
        p->t.module->C_FindObjectsFinal(s);
    }
    if (rv != CKR_OK)
        return cp_p11_fail(err, cp_p11_errno(rv), "token '%s' cannot be searched: %s", p->t.label,
                           cp_p11_text(rv));
    if (got != 1)
        return cp_p11_fail(err, got ? -ENOTUNIQ : -ENOKEY,
                           got ? "token '%s' has more than one such AES key; add id="
                               : "token '%s' has no such AES key; make one with tb-controlplane kek create",
                           p->t.label);
    *ret = found[0];
    return 0;
}

/* A key that could be read out of its token would be no better than a file. */
static int p11_check_key(struct keyring_p11 *p, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, char *err)
{
    CK_BBOOL extractable = CK_TRUE, sensitive = CK_FALSE;
    CK_ULONG bytes = 0;
    CK_ATTRIBUTE t[] = {{CKA_ID, p->id, sizeof(p->id)},
                        {CKA_EXTRACTABLE, &extractable, sizeof(extractable)},
                        {CKA_SENSITIVE, &sensitive, sizeof(sensitive)},
                        {CKA_VALUE_LEN, &bytes, sizeof(bytes)}};
    CK_RV rv = p->t.module->C_GetAttributeValue(s, key, t, ARRAY_SIZE(t));

    if (rv != CKR_OK)
        return cp_p11_fail(err, cp_p11_errno(rv), "the key in token '%s' does not say what it is: %s",
                           p->t.label, cp_p11_text(rv));
    p->id_len = t[0].ulValueLen;
    if (extractable || !sensitive)
        return cp_p11_fail(err, -EPERM,
                           "the key in token '%s' may be read out of it; make one that may not with "
                           "tb-controlplane kek create",
                           p->t.label);
    if (bytes != TB_KEY_BYTES)
        return cp_p11_fail(err, -EINVAL, "the key in token '%s' has %lu bits; 256 are needed", p->t.label,
                           8 * bytes);
    if (!p->id_len || !p11_id_format(p->t.label, p->id, p->id_len, p->kek_id))
        return cp_p11_fail(err, -EINVAL, "the key in token '%s' has no usable id (CKA_ID, 1 to %d bytes)",
                           p->t.label, P11_ID_MAX);
    return 0;
}

int cp_keyring_open_pkcs11(const char *uri, struct cp_keyring **ret, char err[static CP_KEYRING_ERR_MAX])
{
    struct keyring_p11 *p = calloc(1, sizeof(*p));
    CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
    CK_SESSION_HANDLE s;
    int r;

    if (!p)
        return cp_p11_fail(err, -ENOMEM, "out of memory");
    r = cp_p11_open(uri, false, &p->t, &s, err);
    if (r == 0) {
        r = p11_find_current(p, s, &key, err);
        if (r == 0)
            r = p11_check_key(p, s, key, err);
        cp_p11_give(&p->t, s, p->t.epoch);
    }
    if (r == 0)
        r = cp_keyring_new(&p11_ops, p, ret);
    if (r < 0)
        p11_close(p);
    return r;
}

static CK_RV p11_generate(struct keyring_p11 *p, CK_SESSION_HANDLE s, const CK_ATTRIBUTE *label)
{
    CK_MECHANISM m = {CKM_AES_KEY_GEN, NULL, 0};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ULONG bytes = TB_KEY_BYTES;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE t[] = {{CKA_CLASS, &class, sizeof(class)},
                        {CKA_KEY_TYPE, &type, sizeof(type)},
                        {CKA_TOKEN, &yes, sizeof(yes)},
                        {CKA_PRIVATE, &yes, sizeof(yes)},
                        {CKA_SENSITIVE, &yes, sizeof(yes)},
                        {CKA_EXTRACTABLE, &no, sizeof(no)},
                        {CKA_ENCRYPT, &yes, sizeof(yes)},
                        {CKA_DECRYPT, &yes, sizeof(yes)},
                        {CKA_VALUE_LEN, &bytes, sizeof(bytes)},
                        {CKA_ID, p->id, p->id_len},
                        *label};

    return p->t.module->C_GenerateKey(s, &m, t, ARRAY_SIZE(t), &key);
}

int cp_kek_create_pkcs11(const char *uri, char id[static CP_KEK_ID_MAX + 1],
                         char err[static CP_KEYRING_ERR_MAX])
{
    struct keyring_p11 *p = calloc(1, sizeof(*p));
    const CK_ATTRIBUTE *label;
    CK_SESSION_HANDLE s;
    CK_RV rv;
    int r;

    if (!p)
        return cp_p11_fail(err, -ENOMEM, "out of memory");
    r = cp_p11_open(uri, true, &p->t, &s, err);
    if (r < 0) {
        p11_close(p);
        return r;
    }
    label = p11_kit_uri_get_attribute(p->t.uri, CKA_LABEL);
    p->id_len = 8;
    if (!label)
        r = cp_p11_fail(err, -EINVAL, "the URI gives the new key no name; add object=");
    else if (tb_random(p->id, p->id_len) < 0 || !p11_id_format(p->t.label, p->id, p->id_len, id))
        r = cp_p11_fail(err, -EIO, "no id could be made for the new key");
    if (r == 0) {
        rv = p11_generate(p, s, label);
        if (rv != CKR_OK)
            r = cp_p11_fail(err, cp_p11_errno(rv), "token '%s' made no key: %s", p->t.label, cp_p11_text(rv));
    }
    p->t.module->C_CloseSession(s);
    p11_close(p);
    return r;
}
