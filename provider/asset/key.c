/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/tool.h"

#define ENCRYPTED_KEY_MAX (64 * 1024)
#define KEY_FILE_PROBE 64 /* bytes that tell what a file is */

/* -- ids --------------------------------------------------------------------------------------- */

int asset_key_id(const struct tb_key *key, char out[static ASSET_KEY_ID_HEX + 1])
{
    uint8_t id[TBENC_KEY_ID_BYTES];
    int r = tbenc_key_id(key->b, id);

    if (r < 0)
        return tbpkg_fail_errno("id of the key", r);
    tb_hex_encode(id, sizeof(id), out);
    return CLI_OK;
}

const char *asset_key_id_wanted(const struct tbenc_manifest *m, char out[static ASSET_KEY_ID_HEX + 1])
{
    out[0] = '\0';
    if (m->has_key_id)
        tb_hex_encode(m->key_id, sizeof(m->key_id), out);
    return out;
}

void asset_key_id_in(const char *path, char out[static ASSET_KEY_ID_HEX + 1])
{
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    _cleanup_free_ char *text = NULL;
    struct tbenc_manifest *m = NULL;
    size_t len;

    out[0] = '\0';
    if (tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len) == 0 &&
        tbenc_manifest_parse(text, len, TBENC_OVERLAY, &m, &e) == 0)
        (void)asset_key_id_wanted(m, out);
    (void)tbenc_manifest_free(m);
}

int asset_key_check(const struct tbenc_manifest *m, const struct tb_key *key, const char *where)
{
    char id[ASSET_KEY_ID_HEX + 1], wanted[ASSET_KEY_ID_HEX + 1];

    if (asset_key_id(key, id) != CLI_OK)
        return CLI_FAILED;
    if (!*asset_key_id_wanted(m, wanted) || strcmp(id, wanted) == 0)
        return CLI_OK;
    return tbpkg_failf(where, "holds key %s, and asset '%s' was encrypted with key %s; find that one", id,
                       m->asset_id, wanted);
}

char *asset_key_name(const char *dir, const char *asset_id, const char *key_id)
{
    size_t n = strlen(dir);

    return tb_strf("%s%s%s-%s.key", dir, n > 0 && dir[n - 1] != '/' ? "/" : "", asset_id, key_id);
}

bool asset_key_is_file(const char *path)
{
    static const char *const begins[] = {"age-encryption.org/", "-----BEGIN AGE ENCRYPTED",
                                         "-----BEGIN PGP MESSAGE"};
    const char *name = strrchr(path, '/');
    _cleanup_close_ int fd = -1;
    _cleanup_key_ struct tb_key key;
    char head[KEY_FILE_PROBE + 1];
    struct stat st;
    ssize_t n;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > ENCRYPTED_KEY_MAX)
        return false;
    n = tb_pread_full(fd, head, KEY_FILE_PROBE, 0);
    head[MAX(n, 0)] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(begins); i++)
        if (strncmp(head, begins[i], strlen(begins[i])) == 0)
            return true;
    n = st.st_size == TB_KEY_BYTES && !strstr(name ? name : path, ".key") ? -1 : tb_key_read_file(path, &key);
    tb_erase(head, sizeof(head));
    return n == 0;
}

/* -- where a new key goes ---------------------------------------------------------------------- */

static const char *key_recipient(const char *text, enum key_target *ret)
{
    if (strncmp(text, "age:", 4) == 0)
        *ret = KEY_TO_AGE;
    else if (strncmp(text, "gpg:", 4) == 0)
        *ret = KEY_TO_GPG;
    else if (strncmp(text, "akv:", 4) == 0)
        *ret = KEY_TO_VAULT;
    else
        return NULL;
    return text + 4;
}

int key_out_check(const struct cli *c, const char *text)
{
    enum key_target target = KEY_TO_FILE;
    const char *recipient = key_recipient(text, &target);
    char err[TB_AZURE_ERR_MAX];
    struct key_vault vault = {0};

    if (!*text)
        return cli_usage(c, "--key-out: name a file, a directory or a recipient");
    if (recipient && (!*recipient || *recipient == '-'))
        return cli_usage(c, "--key-out: %.4s needs a %s", text,
                         target == KEY_TO_VAULT ? "vault" : "recipient");
    if (recipient && target == KEY_TO_VAULT && key_vault_parse(recipient, &vault, err) < 0)
        return cli_usage(c, "--key-out: %s", err);
    key_vault_clear(&vault);
    return CLI_OK;
}

static char *key_dir_of(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;

    return slash ? strndup(path, (size_t)(slash + 1 - path)) : strdup("");
}

static int key_out_name_secret(struct key_out *o, const char *asset_id)
{
    char err[TB_AZURE_ERR_MAX];

    if (key_vault_parse(o->recipient, &o->vault, err) < 0)
        return tbpkg_fail("--key-out", err, NULL);
    o->recipient = NULL; /* whoever may read the vault has it */
    if (!o->vault.secret)
        o->vault.secret = key_vault_secret_name(asset_id, o->id);
    o->path = o->vault.secret ? tb_strf("%s/secrets/%s", o->vault.url, o->vault.secret) : NULL;
    return o->path ? CLI_OK : tbpkg_fail_errno("--key-out", -ENOMEM);
}

static int key_out_name(struct key_out *o, const char *text, const char *beside, const char *asset_id)
{
    _cleanup_free_ char *dir = NULL, *plain = NULL;
    struct stat st;

    if (o->target == KEY_TO_VAULT)
        return key_out_name_secret(o, asset_id);
    if (o->recipient) {
        dir = key_dir_of(beside);
        plain = dir ? asset_key_name(dir, asset_id, o->id) : NULL;
        o->path = plain ? tb_strf("%s.%s", plain, o->target == KEY_TO_AGE ? "age" : "gpg") : NULL;
    } else if (text[strlen(text) - 1] == '/' || (stat(text, &st) == 0 && S_ISDIR(st.st_mode))) {
        o->path = asset_key_name(text, asset_id, o->id);
    } else {
        o->path = strdup(text);
    }
    return o->path ? CLI_OK : tbpkg_fail_errno("--key-out", -ENOMEM);
}

int key_out_prepare(struct key_out *o, const char *text, const char *beside, const char *asset_id,
                    const struct tb_key *key)
{
    struct stat st;
    int rc = asset_key_id(key, o->id);

    if (rc != CLI_OK || !text || strcmp(text, "-") == 0)
        return rc;
    o->target = KEY_TO_FILE;
    o->asset_id = asset_id;
    o->recipient = key_recipient(text, &o->target);
    rc = key_out_name(o, text, beside, asset_id);
    if (rc == CLI_OK && key_out_is_file(o) && lstat(o->path, &st) == 0)
        return tbpkg_fail(o->path, "exists already",
                          "keep it, it may be the only copy of a key, and choose another name");
    return rc;
}

int key_out_create(struct key_out *o)
{
    int r = key_out_is_file(o) ? cli_newfile_open(&o->file, o->path, 0600) : 0;

    return r < 0 ? tbpkg_fail_errno(o->path, r) : CLI_OK;
}

static int key_out_encrypt(struct key_out *o, const char *line, size_t len)
{
    bool age = o->target == KEY_TO_AGE;
    _cleanup_tool_ struct tool t = {0};
    struct stat st;
    int rc;

    tool_add(&t, age ? "age" : "gpg");
    if (age) {
        tool_add(&t, "--encrypt");
    } else {
        tool_add(&t, "--batch");
        tool_add(&t, "--no-tty");
        tool_add(&t, "--armor");
        tool_add(&t, "--encrypt");
    }
    tool_add(&t, "--recipient");
    tool_add(&t, "%s", o->recipient);
    rc = tool_run_filter(&t, age ? "age" : "gnupg", line, len, o->file.fd);
    if (rc == CLI_OK && (fstat(o->file.fd, &st) < 0 || (size_t)st.st_size <= len))
        return tbpkg_fail(o->path, "the encrypted key is not there", NULL);
    return rc;
}

/* What is stored there under the name stays, as an earlier version. */
static int key_out_store(struct key_out *o, const struct tb_key *key)
{
    char err[TB_AZURE_ERR_MAX], *id = NULL;

    if (key_vault_put(&o->vault, o->asset_id, o->id, key, &id, err) < 0)
        return tbpkg_fail(o->path, err, NULL);
    tb_freep(&o->path);
    o->path = id;
    return CLI_OK;
}

int asset_key_read(const char *place, struct tb_key *ret)
{
    char err[TB_AZURE_ERR_MAX];
    int r;

    if (key_vault_is_id(place)) {
        r = key_vault_get(place, ret, err);
        if (r < 0 && r != -ENOENT)
            tbpkg_fail(place, err, NULL);
        return r;
    }
    r = tb_key_read_file(place, ret);
    if (r == -ENOTDIR || r == -EISDIR || r == -EINVAL)
        return -ENOENT;
    if (r < 0 && r != -ENOENT)
        tbpkg_fail_errno(place, r);
    return r;
}

int key_out_write(struct key_out *o, const struct tb_key *key)
{
    char line[TB_KEY_HEX_CHARS + 2];
    int r = 0, rc = CLI_OK;

    if (o->target == KEY_TO_VAULT)
        return key_out_store(o, key);
    tb_hex_encode(key->b, TB_KEY_BYTES, line);
    line[TB_KEY_HEX_CHARS] = '\n';
    if (o->recipient)
        rc = key_out_encrypt(o, line, TB_KEY_HEX_CHARS + 1);
    else /* not into a stdio buffer */
        r = tb_write_full(o->path ? o->file.fd : STDOUT_FILENO, line, TB_KEY_HEX_CHARS + 1);
    tb_erase(line, sizeof(line));
    if (rc != CLI_OK)
        return rc;
    if (r == 0 && o->path && fsync(o->file.fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno(o->path ? o->path : "key on standard output", r) : CLI_OK;
}

int key_out_commit(struct key_out *o)
{
    int r = key_out_is_file(o) ? tb_newfile_commit(&o->file, false) : 0;

    if (r == -EEXIST)
        return tbpkg_fail(o->path, "was created by another process meanwhile", "choose another name");
    return r < 0 ? tbpkg_fail_errno(o->path, r) : CLI_OK;
}

void key_out_clear(struct key_out *o)
{
    tb_newfile_abort(&o->file);
    key_vault_clear(&o->vault);
    tb_freep(&o->path);
}
