/* SPDX-License-Identifier: Apache-2.0 */
/* tb-vcek: on a confidential VM, the certificate of the processor that signs its report, from the cloud's
 * metadata service to a file that tb-attest reads. Public data; tb-attest itself has no network. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>

#include "common/attest.h"
#include "common/config.h"
#include "common/exit.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"

#define VCEK_PATH "/metadata/THIM/amd/certification"
#define VCEK_TIMEOUT_MS 10000

static const char help[] =
    "Usage: tb-vcek [--help | --version | --check]\n"
    "\n"
    "Fetches the certificate of this machine's processor (SEV-SNP) from the cloud's metadata service\n"
    "($TB_IMDS_ENDPOINT), writes it to $TB_RUN_DIR/tb-vcek (vcek.der for tb-attest, chain.pem with its "
    "chain), and exits.\n"
    "Settings come from the environment.\n"
    "\n"
    "Exit status: 0 done, or the service has none for this machine; 64 usage, 74 I/O, 75 try again, 78\n"
    "configuration. See tb-vcek(8).\n";

static void vcek_x509_freep(X509 **x)
{
    X509_free(*x);
}

static void vcek_bio_freep(BIO **b)
{
    BIO_free(*b);
}

/* The first certificate of the text, DER. Bytes; 0: it is none, or one that is too long. */
static size_t vcek_der(const char *pem, uint8_t ret[static TB_TPM_CERT_MAX])
{
    _cleanup_(vcek_bio_freep) BIO *b = BIO_new_mem_buf(pem, -1);
    _cleanup_(vcek_x509_freep) X509 *x = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
    int n = x ? i2d_X509(x, NULL) : 0;

    ERR_clear_error();
    if (n <= 0 || n > TB_TPM_CERT_MAX || i2d_X509(x, &ret) != n)
        return 0;
    return (size_t)n;
}

static int vcek_write(const char *dir, const char *name, const void *buf, size_t n)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    int r = path ? tb_write_file_atomic(path, buf, n, 0644) : -ENOMEM;

    if (r < 0) {
        tb_error("cannot write %s: %s", path ? path : name, strerror(-r));
        return TB_EXIT_IOERR;
    }
    tb_info("the processor's certificate is in %s", path);
    return TB_EXIT_OK;
}

/* The chain first: who finds the certificate finds the chain. */
static int vcek_write_both(const struct tb_config *c, const uint8_t *der, size_t n, const char *chain)
{
    _cleanup_free_ char *dir = tb_path_join(c->run_dir, TB_VCEK_DIR);
    int rc = TB_EXIT_OK;

    if (!dir || (mkdir(dir, 0755) < 0 && errno != EEXIST)) {
        tb_error("cannot make %s: %s", dir ? dir : TB_VCEK_DIR, strerror(dir ? errno : ENOMEM));
        return TB_EXIT_IOERR;
    }
    if (chain)
        rc = vcek_write(dir, TB_VCEK_CHAIN, chain, strlen(chain));
    return rc == TB_EXIT_OK ? vcek_write(dir, TB_VCEK_FILE, der, n) : rc;
}

/* Certificate and intermediates, as the service has them. NULL: it has no chain, or out of memory. */
static char *vcek_chain(const cJSON *o, const char *pem)
{
    char why[TB_JSON_ERR_MAX];
    const char *above;

    if (tb_json_get_string(o, "certificateChain", &above, why) < 0 ||
        strlen(pem) + strlen(above) >= TB_VCEK_CHAIN_MAX)
        return NULL;
    return tb_strf("%s%s%s", pem, *pem && pem[strlen(pem) - 1] == '\n' ? "" : "\n", above);
}

static int vcek_take(const struct tb_config *c, const struct tb_http_response *rs)
{
    _cleanup_json_ cJSON *o = NULL;
    _cleanup_free_ char *chain = NULL;
    uint8_t der[TB_TPM_CERT_MAX];
    char why[TB_JSON_ERR_MAX];
    const char *pem;
    size_t n = 0;

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, why) == 0 &&
        tb_json_get_string(o, "vcekCert", &pem, why) == 0)
        n = vcek_der(pem, der);
    if (n == 0) {
        tb_error("%s" VCEK_PATH ": the answer has no certificate (vcekCert); trying again", c->imds_endpoint);
        return TB_EXIT_TEMPFAIL;
    }
    chain = vcek_chain(o, pem);
    return vcek_write_both(c, der, n, chain);
}

static int vcek_run(const struct tb_config *c)
{
    static const struct tb_http_tls tls = {.allow_http = true};
    static const char *const headers[] = {"Metadata: true", NULL};
    _cleanup_free_ char *url = tb_strf("%s" VCEK_PATH, c->imds_endpoint);
    struct tb_http_request rq = {
        .url = url, .headers = headers, .tls = &tls, .timeout_ms = VCEK_TIMEOUT_MS, .direct = true};
    _cleanup_http_response_ struct tb_http_response rs = {0};
    char err[TB_HTTP_ERR_MAX] = "out of memory";

    if (!url || tb_http_do(&rq, &rs, err) < 0) {
        tb_error("no certificate of the processor: %s; trying again", err);
        return TB_EXIT_TEMPFAIL;
    }
    if (rs.status == 200)
        return vcek_take(c, &rs);
    if (tb_http_status_retryable(rs.status)) {
        tb_error("no certificate of the processor: %s answers %ld; trying again", url, rs.status);
        return TB_EXIT_TEMPFAIL;
    }
    tb_info("%s answers %ld: this machine is no confidential VM with SEV-SNP", url, rs.status);
    return TB_EXIT_OK;
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config config = {0};

    tb_config_main(argc, argv, &(struct tb_program){"tb-vcek", help, NULL}, &config);
    return vcek_run(&config);
}
