/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg keygen: a pair of keys that manifests are signed with; tbpkg sign: signs one that was not, or not
 * with this key. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "provider/asset/asset.h"
#include "provider/asset/signer.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/passphrase.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"

#define DEFAULT_SECRET "provider.key"
#define PUBLIC_SUFFIX ".pub"

/* -- keygen ------------------------------------------------------------------------------------ */

struct keygen_job {
    struct cli cli;
    const char *secret_file, *public_file, *passphrase_file;
    bool open;
    char *beside; /* the public file's name, from the secret's */
    struct sign_key *key;
    struct tb_newfile secret, public;
};

static void keygen_job_clear(struct keygen_job *j)
{
    tb_freep(&j->beside);
    tb_secret_freep(&j->key);
    tb_newfile_abort(&j->secret);
    tb_newfile_abort(&j->public);
    cli_temp_forget_all();
}

#define TB_OPTION_TARGET struct keygen_job
static const struct tb_option keygen_options[] = {
    TB_OPTION('s', "sign-key", "FILE", TB_OPTION_STRING, secret_file,
              "the secret key goes here, 0600 [" DEFAULT_SECRET "]; nothing is replaced"),
    TB_OPTION('p', "public-key", "FILE", TB_OPTION_STRING, public_file,
              "the public key goes here [beside the other: NAME" PUBLIC_SUFFIX "]"),
    TB_OPTION(0, "passphrase-file", "FILE", TB_OPTION_STRING, passphrase_file,
              "the passphrase that locks the secret key is in FILE, '-' is standard input [ask]"),
    TB_OPTION('W', "no-passphrase", NULL, TB_OPTION_FLAG, open,
              "do not lock it: whoever reads the file signs in your name"),
    CLI_COMMON_ROWS,
};

static int keygen_check_options(void *job)
{
    struct keygen_job *j = job;
    size_t n = strlen(j->secret_file);

    if (j->open && j->passphrase_file)
        return cli_usage(&j->cli, "--no-passphrase and --passphrase-file exclude each other");
    if (n > 4 && strcmp(j->secret_file + n - 4, ".key") == 0)
        n -= 4;
    j->beside = tb_strf("%.*s" PUBLIC_SUFFIX, (int)n, j->secret_file);
    if (!j->beside)
        return tbpkg_fail_errno("keygen", -ENOMEM);
    if (!j->public_file)
        j->public_file = j->beside;
    if (strcmp(j->public_file, j->secret_file) == 0)
        return cli_usage(&j->cli, "--sign-key and --public-key must be different files");
    return CLI_OK;
}

/* Before a passphrase is asked for. */
static int keygen_check_free(const char *path)
{
    struct stat st;

    if (lstat(path, &st) == 0)
        return tbpkg_fail(path, "exists already, and a key is never replaced", "choose another name");
    return errno == ENOENT ? CLI_OK : tbpkg_fail_errno(path, -errno);
}

static int keygen_put(struct tb_newfile *f, const char *path, mode_t mode, const char *text)
{
    int r = cli_newfile_open(f, path, mode);

    if (r == 0)
        r = tb_write_full(f->fd, text, strlen(text));
    if (r == 0 && fsync(f->fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno(path, r) : CLI_OK;
}

static int keygen_commit(struct keygen_job *j)
{
    int r;

    cli_signals_block();
    r = tb_newfile_commit(&j->secret, false);
    if (r < 0)
        (void)tbpkg_fail_errno(j->secret_file, r);
    if (r == 0 && (r = tb_newfile_commit(&j->public, false)) < 0) {
        (void)tbpkg_fail_errno(j->public_file, r);
        (void)unlink(j->secret_file);
    }
    cli_temp_forget_all();
    cli_signals_unblock();
    return r < 0 ? CLI_FAILED : CLI_OK;
}

static int keygen_make(struct keygen_job *j, char public[static TB_MINISIGN_KEY_CHARS + 1],
                       char id[static TB_MINISIGN_ID_HEX + 1])
{
    _cleanup_secret_ char *passphrase = NULL, *text = NULL;
    _cleanup_free_ char *line = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_key pub;
    int rc = CLI_OK;

    if (!j->open)
        rc = cli_passphrase_read(j->passphrase_file, j->secret_file,
                                 "--passphrase-file, or use --no-passphrase",
                                 "New passphrase of the signing key: ", true, &passphrase);
    if (rc != CLI_OK)
        return rc;
    j->key = tb_secret_alloc(sizeof(*j->key));
    if (!j->key || sign_key_make(j->key) < 0)
        return tbpkg_fail_errno("signing key", j->key ? -EIO : -ENOMEM);
    if (sign_key_format(j->key, passphrase, SIGN_OPSLIMIT, SIGN_MEMLIMIT, &text, err) < 0)
        return tbpkg_fail(j->secret_file, err, NULL);
    sign_key_public(j->key, &pub);
    sign_public_format(&pub, public);
    tb_minisign_id_format(pub.id, id);
    line = tb_strf("untrusted comment: minisign public key %s\n%s\n", id, public);
    if (!line)
        return tbpkg_fail_errno(j->public_file, -ENOMEM);
    rc = keygen_put(&j->secret, j->secret_file, 0600, text);
    if (rc == CLI_OK)
        rc = keygen_put(&j->public, j->public_file, 0666, line);
    return rc == CLI_OK ? keygen_commit(j) : rc;
}

static int keygen_report(const struct keygen_job *j, const char *public, const char *id)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (j->open)
        tbpkg_warn("%s is not locked: whoever reads it signs in your name", j->secret_file);
    if (!j->cli.json) {
        tbpkg_note(j->cli.quiet, "secret key: %s (0600%s; keep it, and a copy of it elsewhere)",
                   j->secret_file, j->open ? "" : ", locked");
        tbpkg_note(j->cli.quiet, "public key: %s, id %s", j->public_file, id);
        printf("%s\n", public);
        return cli_flush_stdout();
    }
    cJSON_AddStringToObject(o, "sign_key", j->secret_file);
    cJSON_AddStringToObject(o, "public_key", j->public_file);
    cJSON_AddStringToObject(o, "key_id", id);
    cJSON_AddStringToObject(o, "provider_key", public);
    cJSON_AddBoolToObject(o, "locked", !j->open);
    return cli_print_json(o);
}

static int keygen_main(int argc, char **argv)
{
    _cleanup_(keygen_job_clear) struct keygen_job j = {.cli = {.command = &tbpkg_keygen},
                                                       .secret_file = DEFAULT_SECRET,
                                                       .secret = TB_NEWFILE_INIT,
                                                       .public = TB_NEWFILE_INIT};
    char public[TB_MINISIGN_KEY_CHARS + 1], id[TB_MINISIGN_ID_HEX + 1];
    int rc;

    tb_secret_init();
    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, keygen_check_options) != CLI_OK)
        return j.cli.rc;
    rc = keygen_check_free(j.secret_file);
    if (rc == CLI_OK)
        rc = keygen_check_free(j.public_file);
    if (rc == CLI_OK)
        rc = keygen_make(&j, public, id);
    return rc == CLI_OK ? keygen_report(&j, public, id) : rc;
}

const struct tbpkg_command tbpkg_keygen = {
    .name = "keygen",
    .summary = "make the key that manifests are signed with",
    .synopsis = "[OPTION]...",
    .about =
        "Make a pair of keys, in minisign's files: --sign-key of tbpkg publish, encrypt and sign takes the\n"
        "secret one; the public one, which is printed, is what machines are told to trust (TB_PROVIDER_KEY)\n"
        "and what verify and inspect check with.\n",
    .options = keygen_options,
    .run = keygen_main,
};

/* -- sign -------------------------------------------------------------------------------------- */

struct sign_job {
    struct cli cli;
    const char *manifest;
    struct signer_options sign;
    struct signer signer;
};

static void sign_job_clear(struct sign_job *j)
{
    signer_clear(&j->signer);
    signer_forget();
}

#undef TB_OPTION_TARGET
#define TB_OPTION_TARGET struct sign_job
static const struct tb_option sign_options[] = {
    ROWS_SIGN(sign),
    CLI_COMMON_ROWS,
};

static int sign_check_options(void *job)
{
    const struct sign_job *j = job;

    return j->sign.key_file ? CLI_OK : cli_usage(&j->cli, "--sign-key is missing: tbpkg keygen makes one");
}

static int sign_read(const struct sign_job *j, char **ret, size_t *ret_len, struct tbenc_manifest **ret_m)
{
    _cleanup_free_ char *text = NULL, *sig = NULL;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    size_t len;
    int rc = asset_manifest_read(j->manifest, TBENC_LENIENT | TBENC_OVERLAY, ret_m), r;

    if (rc != CLI_OK)
        return rc;
    r = tb_read_file(j->manifest, TBENC_MANIFEST_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest, r);
    if (tbenc_signature_split(text, len, ret, ret_len, &sig, &e) < 0)
        return tbpkg_fail(j->manifest, e.message, NULL);
    if (*ret_len < 2 || strcmp(*ret + *ret_len - 2, "\n}") != 0)
        return tbpkg_fail(j->manifest,
                          "has not the form that tbpkg writes, so that a signature has no place in it",
                          "encrypt the model anew, with --sign-key");
    return CLI_OK;
}

static int sign_manifest(struct sign_job *j)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_manifest *m = NULL;
    size_t len;
    int rc = sign_read(j, &text, &len, &m), r;

    if (rc == CLI_OK)
        rc = signer_sign(&j->signer, m->asset_id, j->manifest, &text, &len);
    if (rc == CLI_OK && (r = tb_write_file_atomic(j->manifest, text, len, 0644)) < 0)
        rc = tbpkg_fail_errno(j->manifest, r);
    if (rc == CLI_OK)
        rc = signer_put_detached(&j->signer, m->asset_id, j->manifest, text, len);
    tbenc_manifest_free(m);
    return rc;
}

static int sign_report(const struct sign_job *j)
{
    _cleanup_json_ cJSON *o = NULL;

    tbpkg_note(j->cli.quiet || j->cli.json,
               "%s is signed by %s. Its SHA-256 is another one now: upload it and register it again.",
               j->manifest, j->signer.text);
    if (!j->cli.json)
        return CLI_OK;
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "manifest", j->manifest);
    cJSON_AddStringToObject(o, "provider_key", j->signer.text);
    return cli_print_json(o);
}

static int sign_main(int argc, char **argv)
{
    _cleanup_(sign_job_clear) struct sign_job j = {.cli = {.command = &tbpkg_sign}};
    int rc;

    tb_secret_init();
    if (cli_parse(&j.cli, &j, argc, argv, CLI_ONE_INPUT, &j.manifest, sign_check_options) != CLI_OK)
        return j.cli.rc;
    if (!j.manifest)
        j.manifest = ASSET_DEFAULT_MANIFEST;
    rc = signer_open(&j.signer, &j.sign);
    if (rc == CLI_OK)
        rc = sign_manifest(&j);
    return rc == CLI_OK ? sign_report(&j) : rc;
}

const struct tbpkg_command tbpkg_sign = {
    .name = "sign",
    .summary = "sign a manifest that is not signed, or with another key",
    .synopsis = "--sign-key FILE [OPTION]... [MANIFEST]",
    .about =
        "Sign the manifest of an asset that is encrypted already, in its file; a signature that it has is\n"
        "replaced. MANIFEST.minisig beside it is for minisign -Vm.\n",
    .options = sign_options,
    .run = sign_main,
};
