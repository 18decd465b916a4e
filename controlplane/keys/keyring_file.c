/* SPDX-License-Identifier: Apache-2.0 */
/* The keyring of development: the KEK is a file beside the database. */
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/keys/wrap.h"

#define KEK_ID_BYTES 8

struct keyring_file {
    struct tb_key master; /* the structure is secret memory */
    char kek_id[CP_KEK_ID_MAX + 1];
};

/* Tells one master key from another and says nothing about it. */
static void keyring_file_name(struct keyring_file *f)
{
    static const char label[] = "trustbridge kek id v1";
    uint8_t text[sizeof(label) - 1 + TB_KEY_BYTES], sum[SHA256_DIGEST_LENGTH];
    char hex[2 * KEK_ID_BYTES + 1];

    memcpy(text, label, sizeof(label) - 1);
    memcpy(text + sizeof(label) - 1, f->master.b, TB_KEY_BYTES);
    SHA256(text, sizeof(text), sum);
    tb_erase(text, sizeof(text));
    tb_hex_encode(sum, KEK_ID_BYTES, hex);
    snprintf(f->kek_id, sizeof(f->kek_id), "file:%s", hex);
}

static int keyring_file_wrap(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret)
{
    const struct keyring_file *f = me;
    struct cp_wrapped w = {.len = CP_WRAPPED_KEY_BYTES};
    int r = cp_key_wrap(&f->master, asset_id, key, w.b);

    if (r < 0)
        return r;
    strcpy(w.kek_id, f->kek_id);
    *ret = w;
    return 0;
}

static int keyring_file_unwrap(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret)
{
    const struct keyring_file *f = me;

    if (*w->kek_id && strcmp(w->kek_id, f->kek_id) != 0)
        return -ENOKEY;
    return w->len == CP_WRAPPED_KEY_BYTES ? cp_key_unwrap(&f->master, asset_id, w->b, ret) : -EBADMSG;
}

static const struct cp_keyring_ops keyring_file_ops = {
    .wrap = keyring_file_wrap,
    .unwrap = keyring_file_unwrap,
    .close = tb_secret_free,
};

int cp_keyring_open_file(const struct tb_key *master, struct cp_keyring **ret)
{
    _cleanup_secret_ struct keyring_file *f = tb_secret_alloc(sizeof(*f));
    int r;

    if (!f)
        return -ENOMEM;
    f->master = *master;
    keyring_file_name(f);
    r = cp_keyring_new(&keyring_file_ops, f, ret);
    if (r == 0)
        f = NULL;
    return r;
}
