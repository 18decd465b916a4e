/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/signer.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/io.h"
#include "common/secret.h"
#include "provider/cli/passphrase.h"

/* The key that stayed open, and the file it is of. */
static struct {
    char *file;
    struct sign_key *key;
} signer_held;

void signer_forget(void)
{
    tb_secret_freep(&signer_held.key);
    tb_freep(&signer_held.file);
}

void signer_clear(struct signer *s)
{
    tb_secret_freep(&s->key);
}

/* -- the key ----------------------------------------------------------------------------------- */

static void signer_warn_mode(const char *path)
{
    struct stat st;

    if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077))
        tbpkg_warn("%s: other users may read the signing key; run chmod 600", path);
}

static int signer_unlock(const struct sign_file *f, const struct signer_options *o, struct sign_key *ret)
{
    _cleanup_secret_ char *passphrase = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    int rc = CLI_OK;

    if (f->locked)
        rc = cli_passphrase_read(o->passphrase_file, o->key_file, "--sign-passphrase-file",
                                 "Passphrase of the signing key: ", false, &passphrase);
    if (rc == CLI_OK && sign_file_open(f, passphrase, ret, err) < 0)
        return tbpkg_fail(o->key_file, err, NULL);
    return rc;
}

static int signer_read(const struct signer_options *o, struct sign_key *ret)
{
    _cleanup_erase_string_ char *text = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    struct sign_file *f = tb_secret_alloc(sizeof(*f));
    size_t len;
    int r = f ? tb_read_file(o->key_file, SIGN_FILE_MAX, &text, &len) : -ENOMEM, rc;

    if (r == -ENOENT)
        rc = tbpkg_fail(o->key_file, "no such signing key", "make one with tbpkg keygen");
    else if (r == -EFBIG)
        rc = tbpkg_fail(o->key_file, "is no secret key of minisign", "make one with tbpkg keygen");
    else if (r < 0)
        rc = tbpkg_fail_errno(o->key_file, r);
    else if (sign_file_parse(text, len, f, err) < 0)
        rc = tbpkg_fail(o->key_file, err, "give the secret key that tbpkg keygen made");
    else {
        signer_warn_mode(o->key_file);
        rc = signer_unlock(f, o, ret);
    }
    tb_secret_free(f);
    return rc;
}

int signer_open(struct signer *s, const struct signer_options *o)
{
    _cleanup_secret_ struct sign_key *key = NULL;
    int rc = CLI_OK;

    if (!o->key_file)
        return CLI_OK;
    key = tb_secret_alloc(sizeof(*key));
    if (!key)
        return tbpkg_fail_errno(o->key_file, -ENOMEM);
    if (signer_held.key && strcmp(signer_held.file, o->key_file) == 0)
        *key = *signer_held.key;
    else
        rc = signer_read(o, key);
    if (rc != CLI_OK)
        return rc;
    if (!signer_held.key) {
        signer_held.key = tb_secret_alloc(sizeof(*key));
        signer_held.file = strdup(o->key_file);
        if (signer_held.key && signer_held.file)
            *signer_held.key = *key;
        else
            signer_forget();
    }
    s->public.n = 1;
    sign_key_public(key, &s->public.v[0]);
    sign_public_format(&s->public.v[0], s->text);
    s->key = TAKE_PTR(key);
    return CLI_OK;
}

/* -- signing ----------------------------------------------------------------------------------- */

static int signer_make(const struct signer *s, const char *asset_id, const char *path, const char *text,
                       size_t len, char **ret)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *comment = tb_strf("timestamp:%lld\tfile:%.255s\thashed\tasset:%s",
                                           (long long)time(NULL), slash ? slash + 1 : path, asset_id);
    int r = comment ? 0 : -ENOMEM;

    for (char *p = comment; p && *p; p++)
        if ((unsigned char)*p < 0x20 && *p != '\t') /* a file may have any name */
            *p = '?';
    if (r == 0)
        r = sign_message(s->key, text, len, comment, ret);
    return r < 0 ? tbpkg_fail_errno("signature", r) : CLI_OK;
}

int signer_sign(const struct signer *s, const char *asset_id, const char *path, char **text, size_t *len)
{
    _cleanup_free_ char *sig = NULL;
    char *joined;
    int rc, r;

    if (!s->key)
        return CLI_OK;
    rc = signer_make(s, asset_id, path, *text, *len, &sig);
    if (rc != CLI_OK)
        return rc;
    r = tbenc_signature_join(*text, *len, sig, &joined, len);
    if (r < 0)
        return r == -EFBIG ? tbpkg_fail(path, "has no room for a signature: a manifest has 1 MiB at most",
                                        "publish fewer files")
                           : tbpkg_fail_errno(path, r);
    free(*text);
    *text = joined;
    return CLI_OK;
}

bool signer_signed(const struct signer *s, const char *text, size_t len)
{
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e;
    int r = tbenc_manifest_parse_signed(text, len, TBENC_LENIENT | TBENC_OVERLAY, &s->public, &m, &e);

    tbenc_manifest_free(m);
    return r == 0;
}

int signer_put_detached(const struct signer *s, const char *asset_id, const char *path, const char *text,
                        size_t len)
{
    _cleanup_free_ char *name = tb_strf("%s" SIGNER_SUFFIX, path), *sig = NULL;
    int rc = CLI_OK, r;

    if (!name)
        return tbpkg_fail_errno(path, -ENOMEM);
    if (!s->key) {
        r = unlink(name) < 0 && errno != ENOENT ? -errno : 0;
        return r < 0 ? tbpkg_fail_errno(name, r) : CLI_OK;
    }
    rc = signer_make(s, asset_id, path, text, len, &sig);
    if (rc != CLI_OK)
        return rc;
    tb_newfile_sweep(name); /* of a run that was killed */
    r = tb_write_file_atomic(name, sig, strlen(sig), 0644);
    return r < 0 ? tbpkg_fail_errno(name, r) : CLI_OK;
}

/* -- the keys that are trusted ----------------------------------------------------------------- */

int provider_keys_read(const char *value, struct tb_minisign_keys *ret)
{
    _cleanup_free_ char *text = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    size_t len = strlen(value);
    int r;

    if (access(value, F_OK) < 0 && tb_minisign_keys_parse(value, len, ret, err) == 0)
        return CLI_OK;
    r = tb_read_file(value, TB_MINISIGN_KEYS_FILE_MAX, &text, &len);
    if (r == -ENOENT)
        return tbpkg_fail(value, "is neither a public key of minisign nor a file",
                          "give the .pub that tbpkg keygen made, or its second line");
    if (r < 0)
        return tbpkg_fail_errno(value, r);
    if (tb_minisign_keys_parse(text, len, ret, err) < 0)
        return tbpkg_fail(value, err, "give the .pub that tbpkg keygen made");
    return CLI_OK;
}

char *provider_keys_setting(const char *value)
{
    char text[TB_MINISIGN_KEYS_MAX * (TB_MINISIGN_KEY_CHARS + 1) + 1], *p = text;
    struct tb_minisign_keys keys;
    char *r;

    if (provider_keys_read(value, &keys) != CLI_OK)
        return NULL;
    for (size_t i = 0; i < keys.n; i++) {
        sign_public_format(&keys.v[i], p);
        p += TB_MINISIGN_KEY_CHARS;
        *p++ = ',';
    }
    p[-1] = '\0';
    r = strdup(text);
    if (!r)
        (void)tbpkg_fail_errno("--provider-key", -ENOMEM);
    return r;
}
