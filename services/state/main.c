/* SPDX-License-Identifier: Apache-2.0 */
/* tb-statekey: what the volume of a measured machine's state is opened with, from the TPM: tb-state(8). */
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "common/exit.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/option.h"
#include "common/secret.h"
#include "common/tpm_approval.h"
#include "common/version.h"

#define SIGNER "/etc/trustbridge/state-signer.pem"
#define SIGNER_MAX 4096
#define NONCE_DIGITS 32
#define KEY_BYTES (2 * TB_TPM_DIGEST_BYTES)

static const char help_before[] =
    "Usage: tb-statekey [OPTION]... mark|cipher|integrity NONCE\n"
    "Print the key of this machine's state for that purpose, 64 bytes: the TPM gives it in boots that the\n"
    "image's maker approved, and in no other. NONCE: the volume's, 32 hex digits. For tb-state(8).\n"
    "\n";
static const char help_after[] =
    "\nExit status: 0 done; 64 usage; 66 no key that signs, or nothing that it signed; 74 I/O; 75 the TPM "
    "has\n"
    "no time; 76 what was signed makes no sense; 77 this boot is none that was approved.\n";

struct statekey_options {
    const char *tpm, *signer, *approvals;
    bool hex, help, version;
};

#define TB_OPTION_TARGET struct statekey_options
static const struct tb_option rows[] = {
    TB_OPTION(0, "tpm", "PATH", TB_OPTION_STRING, tpm, "the TPM (" TB_TPM_DEVICE ")"),
    TB_OPTION(0, "signer", "FILE", TB_OPTION_STRING, signer,
              "the public key of who approves boots (" SIGNER ")"),
    TB_OPTION(0, "approvals", "FILE", TB_OPTION_STRING, approvals, "what he signed; a partition may hold it"),
    TB_OPTION(0, "hex", NULL, TB_OPTION_FLAG, hex, "print 128 hex digits instead"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    TB_OPTION_END,
};

struct statekey {
    struct tb_tpm_signer signer;
    struct tb_tpm_approvals approvals;
};

static int statekey_fail(int rc, const char *what, const char *why)
{
    fprintf(stderr, "tb-statekey: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return rc;
}

static int statekey_read_signer(const char *path, struct tb_tpm_signer *ret)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = tb_read_file(path, SIGNER_MAX, &text, &len);

    if (r < 0)
        return statekey_fail(TB_EXIT_NOINPUT, path, strerror(-r));
    return tb_tpm_signer_parse(text, len, ret) < 0
               ? statekey_fail(TB_EXIT_DATAERR, path, "not a public key of RSA with 2048 bits, in PEM")
               : TB_EXIT_OK;
}

/* A file, or a partition that holds it with zeros behind. */
static int statekey_read_approvals(const char *path, struct tb_tpm_approvals *ret)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char buf[TB_APPROVAL_DOCUMENT_MAX + 1], err[TB_JSON_ERR_MAX];
    ssize_t n = fd < 0 ? -errno : tb_read_full(fd, buf, TB_APPROVAL_DOCUMENT_MAX);

    if (n < 0)
        return statekey_fail(TB_EXIT_NOINPUT, path, strerror((int)-n));
    return tb_tpm_approvals_parse(buf, (size_t)n, ret, err) < 0 ? statekey_fail(TB_EXIT_DATAERR, path, err)
                                                                : TB_EXIT_OK;
}

static int statekey_tpm_status(const struct tb_tpm *t, int r)
{
    return statekey_fail(r == -EPERM   ? TB_EXIT_NOPERM
                         : r == -EBUSY ? TB_EXIT_TEMPFAIL
                                       : TB_EXIT_IOERR,
                         *t->err ? t->err : strerror(-r), NULL);
}

static int statekey_derive(struct tb_tpm *t, const struct statekey *k, const struct tb_tpm_approval *a,
                           char *const *words, uint8_t ret[static KEY_BYTES])
{
    char text[128];
    uint32_t handle;
    int n, r = tb_tpm_state_key(t, &k->signer, &handle);

    for (unsigned i = 0; r == 0 && i < KEY_BYTES / TB_TPM_DIGEST_BYTES; i++) {
        n = snprintf(text, sizeof(text), "trustbridge state v1 %s %s %u", words[0], words[1], i);
        r = tb_tpm_state_hmac(t, handle, &k->signer, a, text, (size_t)n,
                              ret + (size_t)i * TB_TPM_DIGEST_BYTES);
        if (r < 0)
            tb_tpm_flush(t, handle);
    }
    if (r == 0)
        tb_tpm_flush(t, handle);
    return r;
}

static int statekey_print(const struct statekey_options *o, const uint8_t key[static KEY_BYTES])
{
    char hex[2 * KEY_BYTES + 2];
    int r;

    if (o->hex) {
        tb_hex_encode(key, KEY_BYTES, hex);
        strcat(hex, "\n");
        r = tb_write_full(STDOUT_FILENO, hex, strlen(hex));
    } else {
        r = tb_write_full(STDOUT_FILENO, key, KEY_BYTES);
    }
    tb_erase(hex, sizeof(hex));
    return r < 0 ? statekey_fail(TB_EXIT_IOERR, "standard output", strerror(-r)) : TB_EXIT_OK;
}

static int statekey_run(const struct statekey_options *o, char *const *words)
{
    _cleanup_tpm_ struct tb_tpm t = {.fd = -1};
    const struct tb_tpm_approval *a;
    struct statekey k;
    struct tb_tpm_pcrs pcrs = {0};
    uint8_t key[KEY_BYTES];
    int rc = statekey_read_signer(o->signer, &k.signer), r;

    if (rc == TB_EXIT_OK)
        rc = statekey_read_approvals(o->approvals, &k.approvals);
    if (rc != TB_EXIT_OK)
        return rc;
    r = tb_tpm_open(o->tpm, &t);
    if (r == 0)
        r = tb_tpm_read_pcrs(&t, k.approvals.v[0].mask, &pcrs);
    if (r < 0)
        return statekey_tpm_status(&t, r);
    a = tb_tpm_approval_find(&k.approvals, &pcrs);
    if (!a)
        return statekey_fail(TB_EXIT_NOPERM, o->approvals,
                             "the image's maker approved no boot with these measurements");
    r = statekey_derive(&t, &k, a, words, key);
    rc = r < 0 ? statekey_tpm_status(&t, r) : statekey_print(o, key);
    tb_erase(key, sizeof(key));
    return rc;
}

static bool statekey_words_valid(int n, char *const *words)
{
    static const char *const purposes[] = {"mark", "cipher", "integrity"};

    if (n != 2 || strlen(words[1]) != NONCE_DIGITS || strspn(words[1], "0123456789abcdef") != NONCE_DIGITS)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(purposes); i++)
        if (strcmp(words[0], purposes[i]) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    struct statekey_options o = {.tpm = TB_TPM_DEVICE, .signer = SIGNER};
    struct tb_options t = {.rows = rows};

    if (tb_options_parse(&t, &o, argc, argv) < 0)
        return statekey_fail(TB_EXIT_USAGE, t.error, "see tb-statekey --help");
    if (o.help) {
        fputs(help_before, stdout);
        tb_options_help(rows, stdout, NULL);
        fputs(help_after, stdout);
        return TB_EXIT_OK;
    }
    if (o.version) {
        puts("tb-statekey " TB_VERSION);
        return TB_EXIT_OK;
    }
    if (!statekey_words_valid(argc - optind, argv + optind))
        return statekey_fail(TB_EXIT_USAGE, "give a purpose and the volume's nonce",
                             "see tb-statekey --help");
    if (!o.approvals)
        return statekey_fail(TB_EXIT_USAGE, "give --approvals", "see tb-statekey --help");
    return statekey_run(&o, argv + optind);
}
