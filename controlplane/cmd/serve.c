/* SPDX-License-Identifier: Apache-2.0 */
/* serve and issue-client. */
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>

#include "common/fdpass.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/signals.h"
#include "common/units.h"
#include "controlplane/cmd/cmd.h"
#include "controlplane/cmd/storage.h"
#include "controlplane/identity/pki.h"
#include "controlplane/http/server.h"
#include "controlplane/submitter/submitter.h"

#define LISTEN_DEFAULT "127.0.0.1:8080"
#define PEM_MAX (256 * 1024)
#define PURCHASE_SIG_FILE_MAX 4096

static int serve_set_log_level(const struct tb_option *o, void *var, char *value,
                               char err[static TB_OPTION_ERR_MAX])
{
    enum tb_log_level level = tb_log_level_from_string(value);

    if (level == _TB_LOG_LEVEL_INVALID)
        return -EINVAL;
    tb_log_set_level(level);
    return 0;
}

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_serve_options[] = {
    TB_OPTION(0, "listen", "HOST:PORT", TB_OPTION_STRING, listen,
              "address (default 127.0.0.1:8080); port 0 picks a free one", .setting = "TBCP_LISTEN"),
    TB_OPTION(0, "metrics-listen", "HOST:PORT", TB_OPTION_STRING, metrics_listen,
              "serve /metrics here, over plain HTTP (default: nowhere)", .setting = "TBCP_METRICS_LISTEN"),
    TB_OPTION(0, "tls-auto", NULL, TB_OPTION_FLAG, tls_auto,
              "TLS with a CA of its own, made at the first start: DIR/ca.crt (default)"),
    TB_OPTION(0, "name", "NAME", TB_OPTION_LIST, names,
              "a further host name or address for the server certificate; may be repeated"),
    TB_OPTION(0, "tls-cert", "FILE", TB_OPTION_STRING, tls_cert, "TLS with this certificate chain (PEM)",
              .setting = "TBCP_TLS_CERT"),
    TB_OPTION(0, "tls-key", "FILE", TB_OPTION_STRING, tls_key, "and this key", .setting = "TBCP_TLS_KEY"),
    TB_OPTION(0, "http", NULL, TB_OPTION_FLAG, http, "no TLS: keys cross the network in the clear",
              .setting = "TBCP_HTTP"),
    TB_OPTION(0, "client-auth", NULL, TB_OPTION_FLAG, client_auth,
              "authorize requires a client certificate of DIR/ca.crt (see issue-client)",
              .setting = "TBCP_CLIENT_AUTH"),
    TB_OPTION(0, "client-ca", "FILE", TB_OPTION_STRING, client_ca,
              "authorize requires a client certificate of these CAs", .setting = "TBCP_CLIENT_CA"),
    TB_OPTION(0, "storage-account", "NAME", TB_OPTION_LIST, storage_accounts,
              "sign the blob URLs of this storage account; may be repeated",
              .setting = "TBCP_STORAGE_ACCOUNT"),
    TB_OPTION(0, "storage-key-file", "FILE", TB_OPTION_LIST, storage_key_files,
              "with the account key in this file (base64), one for each account",
              .setting = "TBCP_STORAGE_KEY_FILE"),
    TB_OPTION(0, "storage-identity", NULL, TB_OPTION_FLAG, storage_identity,
              "or by the managed identity of this machine (user delegation SAS), without a key",
              .setting = "TBCP_STORAGE_IDENTITY"),
    TB_OPTION(0, "storage-endpoint", "URL", TB_OPTION_LIST, storage_endpoints,
              "where it gets its keys, one for each account (default https://ACCOUNT.blob.core.windows.net)",
              .setting = "TBCP_STORAGE_ENDPOINT"),
    TB_OPTION(0, "storage-ca", "FILE", TB_OPTION_STRING, storage_ca,
              "trust these CAs (PEM) when blobs are read; default: the system's",
              .setting = "TBCP_STORAGE_CA"),
    TB_OPTION(0, "sas-seconds", "N", TB_OPTION_UINT, sas_seconds, "life of a SAS (default 3600)", .min = 1,
              .max = CP_SAS_SECONDS_MAX, .setting = "TBCP_SAS_SECONDS"),
    TB_OPTION(0, "sas-ip", "ADDRESS", TB_OPTION_STRING, sas_ip,
              "limit the SAS to an IPv4 address or range A-B", .setting = "TBCP_SAS_IP"),
    TB_OPTION(0, "seed", NULL, TB_OPTION_FLAG, seed,
              "reset contract-allow and contract-deny to their first state"),
    TB_OPTION(0, "workers", "N", TB_OPTION_UINT, workers,
              "threads that answer, each with a connection to the database (default 8)", .min = 1,
              .max = CP_WORKERS_MAX, .setting = "TBCP_WORKERS"),
    TB_OPTION(0, "machine-ca", "FILE", TB_OPTION_STRING, machine_ca,
              "CA that gives enrolled machines their certificates (default DIR/ca.crt)",
              .setting = "TBCP_MACHINE_CA"),
    TB_OPTION(0, "machine-ca-key", "FILE", TB_OPTION_STRING, machine_ca_key, "and its key",
              .setting = "TBCP_MACHINE_CA_KEY"),
    TB_OPTION(0, "certificate-seconds", "N", TB_OPTION_UINT, certificate_s,
              "life of a machine's certificate, which it renews by itself (default 604800)", .min = 60,
              .max = 397 * 86400, .setting = "TBCP_CERTIFICATE_SECONDS"),
    TB_OPTION(0, "client-rate", "N", TB_OPTION_UINT, client_rate,
              "requests a second of one client address (default 50); off: 4294967295, behind a balancer",
              .min = 1, .max = UINT32_MAX, .setting = "TBCP_CLIENT_RATE"),
    TB_OPTION(0, "contract-rate", "N", TB_OPTION_UINT, contract_rate,
              "requests a second of all machines of one contract (default 50)", .min = 1, .max = UINT32_MAX,
              .setting = "TBCP_CONTRACT_RATE"),
    TB_OPTION(0, "purchase-sig-file", "FILE", TB_OPTION_STRING, purchase_sig_file,
              "take notifications of managed applications whose parameter sig is a line of this file",
              .setting = "TBCP_PURCHASE_SIG_FILE"),
    TB_OPTION(0, "purchase-verify", "BOOL", TB_OPTION_STRING, purchase_verify,
              "false: believe them; true (default): ask Azure Resource Manager, by the managed identity",
              .setting = "TBCP_PURCHASE_VERIFY"),
    TB_OPTION(0, "arm", "URL", TB_OPTION_STRING, arm, "which is here (default " CP_ARM_DEFAULT ")",
              .setting = "TBCP_ARM"),
    TB_OPTION(0, "identity-client-id", "ID", TB_OPTION_STRING, identity_client_id,
              "user-assigned managed identity of this machine, for storage and Resource Manager",
              .setting = "TBCP_IDENTITY_CLIENT_ID"),
    TB_OPTION(0, "attest-ca", "FILE", TB_OPTION_STRING, attest_ca,
              "CAs (PEM) of TPMs' attestation keys, for contracts with --ak own",
              .setting = "TBCP_ATTEST_CA"),
    TB_OPTION(0, "snp-roots", "FILE", TB_OPTION_STRING, snp_roots,
              "further roots (PEM) of processors' certificates, for contracts with --attest cvm",
              .setting = "TBCP_SNP_ROOTS"),
    TB_OPTION(
        0, "maa-jwks", "FILE", TB_OPTION_STRING, maa_jwks,
        "keys (JWKS) of Azure Attestation, for contracts with --maa (default: each instance's own, from "
        "URL/certs)",
        .setting = "TBCP_MAA_JWKS"),
    TB_OPTION(0, "maa-ca", "FILE", TB_OPTION_STRING, maa_ca,
              "CAs by which they are fetched (default: the system's)", .setting = "TBCP_MAA_CA"),
    TB_OPTION(0, "oidc-issuer", "URL", TB_OPTION_STRING, oidc_issuer,
              "tokens of this OpenID provider are good, too (iss)", .setting = "TBCP_OIDC_ISSUER"),
    TB_OPTION(0, "oidc-audience", "NAME", TB_OPTION_STRING, oidc_audience, "that are for this audience (aud)",
              .setting = "TBCP_OIDC_AUDIENCE"),
    TB_OPTION(0, "oidc-claim", "CLAIM", TB_OPTION_STRING, oidc_claim,
              "claim that says what its owner may do (default roles); a.b is b in a",
              .setting = "TBCP_OIDC_CLAIM"),
    TB_OPTION(0, "oidc-scope", "VALUE=SCOPE", TB_OPTION_LIST, oidc_scopes,
              "a value of the claim, and the scope that it gives; may be repeated",
              .setting = "TBCP_OIDC_SCOPES"),
    TB_OPTION(0, "oidc-ca", "FILE", TB_OPTION_STRING, oidc_ca, "CAs of the provider (default: the system's)",
              .setting = "TBCP_OIDC_CA"),
    CP_KEK_ROWS,
    CP_SUBMIT_ROWS,
    TB_OPTION(0, "log-level", "LEVEL", TB_OPTION_CALL, seed, "debug, info (default), warn or error",
              .set = serve_set_log_level, .want = "debug, info, warn or error", .setting = "TBCP_LOG_LEVEL"),
    CP_COMMON_ROWS,
};

/* All that lives while serving. */
struct serve {
    const struct cp_options *o;
    struct cp_place place;
    struct cp_keyring *keyring;
    struct cp_authority *machines;
    struct tb_key *token; /* secret memory */
    struct cp_storage storage;
    struct cp_server_tls tls;
    struct cp_api api;
    struct cp_oidc *oidc;
    struct cp_attest_roots *attest_roots;
    int fd, metrics_fd;
    struct cp_submitter *submitter;
    char *submitter_secret;
};

static void serve_clear(struct serve *v)
{
    v->submitter = cp_submitter_stop(v->submitter);
    tb_secret_freep(&v->submitter_secret);
    v->keyring = cp_keyring_close(v->keyring);
    v->machines = cp_authority_close(v->machines);
    v->api.purchases = cp_purchases_stop(v->api.purchases);
    v->oidc = cp_oidc_free(v->oidc);
    cp_attest_roots_free(v->attest_roots);
    v->api.maa_keys = cp_maa_keys_free(v->api.maa_keys);
    tb_erase(v->api.challenge_secret, sizeof(v->api.challenge_secret));
    v->api.limits = cp_limits_free(v->api.limits);
    v->api.peers = cp_peers_free(v->api.peers);
    v->api.report_keys = cp_report_keys_free(v->api.report_keys);
    tb_secret_freep(&v->token);
    cp_storage_close(&v->storage);
    tb_erase_stringp(&v->tls.key);
    tb_freep(&v->tls.cert);
    tb_freep(&v->tls.client_ca);
    v->fd = tb_close(v->fd);
    v->metrics_fd = tb_close(v->metrics_fd);
}

static int serve_check_options(const struct cp_options *o)
{
    if (o->http + o->tls_auto + (o->tls_cert || o->tls_key) > 1)
        return cp_fail(o, TB_EXIT_USAGE, "--http, --tls-auto and --tls-cert exclude each other");
    if (!o->tls_cert != !o->tls_key)
        return cp_fail(o, TB_EXIT_USAGE, "--tls-cert and --tls-key go together");
    if (o->http && (o->client_auth || o->client_ca))
        return cp_fail(o, TB_EXIT_USAGE, "client certificates need TLS; remove --http");
    if (o->client_auth && o->client_ca)
        return cp_fail(o, TB_EXIT_USAGE, "--client-auth and --client-ca exclude each other");
    if (o->names.n && (o->http || o->tls_cert))
        return cp_fail(o, TB_EXIT_USAGE, "--name is for the certificate that --tls-auto makes");
    if (!o->machine_ca != !o->machine_ca_key)
        return cp_fail(o, TB_EXIT_USAGE, "--machine-ca and --machine-ca-key go together");
    return cp_storage_check(o);
}

static int serve_read_pem(const struct cp_options *o, const char *path, char **ret)
{
    int r;

    r = tb_read_file(path, PEM_MAX, ret, NULL);
    return r < 0 ? cp_fail(o, TB_EXIT_CONFIG, "cannot read %s: %s", path, strerror(-r)) : 0;
}

static int serve_read_own_pem(const struct cp_options *o, const char *name, char **ret)
{
    _cleanup_free_ char *path = tb_path_join(o->data, name);

    return path ? serve_read_pem(o, path, ret) : cp_fail(o, TB_EXIT_IOERR, "out of memory");
}

/* Whoever gives the machines their certificates. Clients are asked for one at least for its sake. */
static int serve_load_machine_ca(struct serve *v)
{
    const struct cp_options *o = v->o;
    _cleanup_free_ char *cert = o->machine_ca ? strdup(o->machine_ca) : tb_path_join(o->data, CP_CA_CERT);
    _cleanup_free_ char *key = o->machine_ca ? strdup(o->machine_ca_key) : tb_path_join(o->data, CP_CA_KEY);
    char err[CP_AUTHORITY_ERR_MAX];

    if (!cert || !key)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    if (cp_authority_open(cert, key, &v->machines, err) < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "%s", err);
    v->api.machines = v->machines;
    v->api.certificate_s = o->certificate_s;
    if (!v->tls.client_ca)
        v->tls.client_ca = strdup(cp_authority_pem(v->machines));
    return v->tls.client_ca ? 0 : cp_fail(o, TB_EXIT_IOERR, "out of memory");
}

static int serve_load_tls(struct serve *v)
{
    const struct cp_options *o = v->o;
    char err[CP_ERR_MAX] = "out of memory";
    int r;

    if (o->http)
        return 0;
    /* with a given server certificate the own CA is still there for the clients */
    if (!o->tls_cert || o->client_auth || !o->machine_ca) {
        r = o->tls_cert ? cp_pki_ca(o->data, err) : cp_pki_server(o->data, o->names.v, o->names.n, err);
        if (r < 0)
            return cp_fail(o, r == -EINVAL ? TB_EXIT_USAGE : TB_EXIT_CONFIG, "%s", err);
    }
    r = o->tls_cert ? serve_read_pem(o, o->tls_cert, &v->tls.cert)
                    : serve_read_own_pem(o, CP_SERVER_CERT, &v->tls.cert);
    if (r == 0)
        r = o->tls_key ? serve_read_pem(o, o->tls_key, &v->tls.key)
                       : serve_read_own_pem(o, CP_SERVER_KEY, &v->tls.key);
    if (r == 0 && o->client_auth)
        r = serve_read_own_pem(o, CP_CA_CERT, &v->tls.client_ca);
    if (r == 0 && o->client_ca)
        r = serve_read_pem(o, o->client_ca, &v->tls.client_ca);
    v->tls.require_client_cert = v->tls.client_ca;
    v->api.client_ca = v->tls.client_ca;
    return r == 0 ? serve_load_machine_ca(v) : r;
}

static int serve_load_storage(struct serve *v)
{
    const struct cp_options *o = v->o;

    /* blobs of development are at http:// too; a URL says so itself */
    v->api.storage_tls = (struct tb_http_tls){.ca_file = o->storage_ca, .allow_http = true};
    v->api.prove = cp_proof_check;
    if (o->storage_ca && access(o->storage_ca, R_OK) < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read %s: %s", o->storage_ca, strerror(errno));
    return cp_storage_open(o, &v->storage, &v->api.sas);
}

static int serve_seed(struct cp_store *store, void *ctx)
{
    return cp_store_seed(store, tb_now_realtime_us());
}

static int serve_take_secret(struct cp_store *store, void *ctx)
{
    struct serve *v = ctx;

    return cp_store_secret(store, "challenge", v->api.challenge_secret);
}

/* Opened once here, so that a database that cannot be used is said at the start. */
static int serve_check_store(struct serve *v)
{
    _cleanup_store_ struct cp_store *store = NULL;
    const struct cp_options *o = v->o;
    int r = cp_place(o, &v->place);

    if (r == 0)
        r = cp_open(o, &store);
    if (r != 0)
        return r;
    r = o->seed ? cp_store_transact(store, serve_seed, NULL) : 0;
    if (r == 0)
        r = cp_store_transact(store, serve_take_secret, v);
    return r < 0 ? cp_fail_store(o, store, r) : 0;
}

static int serve_add_roots(struct serve *v, const char *option, const char *path,
                           int (*add)(struct cp_attest_roots *, const char *, char *))
{
    _cleanup_free_ char *pem = NULL;
    char err[CP_ERR_MAX];
    int r = path ? serve_read_pem(v->o, path, &pem) : 0;

    if (r == 0 && path && add(v->attest_roots, pem, err) < 0)
        r = cp_fail(v->o, TB_EXIT_CONFIG, "%s %s: %s", option, path, err);
    return r;
}

static int serve_load_maa(struct serve *v)
{
    _cleanup_free_ char *text = NULL;
    char err[CP_JWT_ERR_MAX];
    int r = v->o->maa_jwks ? serve_read_pem(v->o, v->o->maa_jwks, &text) : 0;

    if (r != 0)
        return r;
    if (v->o->maa_ca && access(v->o->maa_ca, R_OK) < 0)
        return cp_fail(v->o, TB_EXIT_CONFIG, "cannot read %s: %s", v->o->maa_ca, strerror(errno));
    if (cp_maa_keys_new(text, v->o->maa_ca, &v->api.maa_keys, err) < 0)
        return cp_fail(v->o, TB_EXIT_CONFIG, "--maa-jwks %s: %s", text ? v->o->maa_jwks : "", err);
    return 0;
}

/* Who may certify the TPMs and the processors of machines. */
static int serve_load_attest(struct serve *v)
{
    char err[CP_ERR_MAX];
    int r;

    if (cp_attest_roots_new(&v->attest_roots, err) < 0)
        return cp_fail(v->o, TB_EXIT_IOERR, "%s", err);
    r = serve_add_roots(v, "--attest-ca", v->o->attest_ca, cp_attest_roots_add_own);
    if (r == 0)
        r = serve_add_roots(v, "--snp-roots", v->o->snp_roots, cp_attest_roots_add_amd);
    v->api.attest_roots = v->attest_roots;
    return r == 0 ? serve_load_maa(v) : r;
}

/* Some workers are left for those who need no key. */
static unsigned serve_key_places(const struct cp_options *o)
{
    unsigned workers = (unsigned)(o->workers ? o->workers : CP_WORKERS_DEFAULT);

    return MAX(workers - (workers + 3) / 4, 1U);
}

static int serve_load_keys(struct serve *v)
{
    const struct cp_options *o = v->o;
    char err[CP_ERR_MAX] = "out of memory";
    int r;

    r = cp_open_keyring(o, &v->keyring);
    if (r != 0)
        return r;
    v->api.keyring = v->keyring;
    cp_keyring_limit(v->keyring, serve_key_places(o));
    v->token = tb_secret_alloc(sizeof(*v->token));
    if (!v->token)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    r = cp_data_secret(o->data, CP_TOKEN_FILE, v->token, err);
    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "%s", err);
    v->api.access.provider_token = v->token;
    return 0;
}

/* VALUE=SCOPE; a value may have an = of its own. */
static int serve_add_oidc_scope(const struct cp_options *o, const char *text, struct cp_oidc_settings *s)
{
    const char *equals = strrchr(text, '=');
    struct cp_oidc_map *m = &s->map[s->n_maps];

    if (s->n_maps == CP_OIDC_MAPS_MAX)
        return cp_fail(o, TB_EXIT_USAGE, "--oidc-scope: at most %d", CP_OIDC_MAPS_MAX);
    if (!equals || equals == text || cp_scopes_parse(equals + 1, &m->scopes) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--oidc-scope %s: not VALUE=SCOPE with " CP_SCOPES_WORDS, text);
    if (equals - text > CP_OIDC_VALUE_MAX)
        return cp_fail(o, TB_EXIT_USAGE, "--oidc-scope: a value is longer than %d characters",
                       CP_OIDC_VALUE_MAX);
    memcpy(m->value, text, (size_t)(equals - text));
    s->n_maps++;
    return 0;
}

static int serve_load_oidc(struct serve *v)
{
    const struct cp_options *o = v->o;
    struct cp_oidc_settings s = {.issuer = o->oidc_issuer,
                                 .audience = o->oidc_audience,
                                 .claim = o->oidc_claim ? o->oidc_claim : "roles",
                                 .ca_file = o->oidc_ca};
    char err[CP_JWT_ERR_MAX];
    int r = 0;

    if (!o->oidc_issuer && !o->oidc_audience && !o->oidc_scopes.n)
        return 0;
    if (!o->oidc_issuer || !o->oidc_audience || !o->oidc_scopes.n)
        return cp_fail(o, TB_EXIT_USAGE, "--oidc-issuer, --oidc-audience and --oidc-scope go together");
    if (o->oidc_ca && access(o->oidc_ca, R_OK) < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read %s: %s", o->oidc_ca, strerror(errno));
    for (size_t i = 0; r == 0 && i < o->oidc_scopes.n; i++)
        r = serve_add_oidc_scope(o, o->oidc_scopes.v[i], &s);
    if (r == 0 && cp_oidc_new(&s, &v->oidc, err) < 0)
        r = cp_fail(o, TB_EXIT_USAGE, "--oidc-issuer: %s", err);
    v->api.access.oidc = v->oidc;
    return r;
}

/* The largest rate is none. */
static int serve_make_tables(struct serve *v)
{
    uint64_t client = v->o->client_rate ? v->o->client_rate : CP_CLIENT_RATE_DEFAULT;
    uint64_t contract = v->o->contract_rate ? v->o->contract_rate : CP_CONTRACT_RATE_DEFAULT;

    v->api.limits = cp_limits_new(client == UINT32_MAX ? 0 : client, contract == UINT32_MAX ? 0 : contract);
    v->api.peers = cp_peers_new();
    v->api.report_keys = cp_report_keys_new();
    return v->api.limits && v->api.peers && v->api.report_keys
               ? 0
               : cp_fail(v->o, TB_EXIT_IOERR, "out of memory");
}

/* Last of all: it is at work from here on. */
static int serve_start_purchases(struct serve *v)
{
    const struct cp_options *o = v->o;
    bool verify = !o->purchase_verify || strcmp(o->purchase_verify, "true") == 0;
    _cleanup_erase_string_ char *sigs = NULL;
    char err[MAX(CP_ERR_MAX, CP_ARM_ERR_MAX)];
    struct cp_arm *arm = NULL;
    int r;

    if (!o->purchase_sig_file)
        return 0;
    if (!verify && strcmp(o->purchase_verify, "false") != 0)
        return cp_fail(o, TB_EXIT_USAGE, "--purchase-verify: true or false, not '%s'", o->purchase_verify);
    r = tb_read_file(o->purchase_sig_file, PURCHASE_SIG_FILE_MAX, &sigs, NULL);
    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read the purchase sig file %s: %s", o->purchase_sig_file,
                       strerror(-r));
    if (verify && cp_arm_new(o->arm ? o->arm : CP_ARM_DEFAULT, o->identity_client_id, NULL, &arm, err) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--arm: %s", err);
    if (cp_purchases_start(&v->place, sigs, arm, &v->api.purchases, err) < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "the purchase sig file %s: %s", o->purchase_sig_file, err);
    return 0;
}

static int serve_open_listener(struct serve *v)
{
    char err[CP_ERR_MAX];

    if (tb_listen_fd_count() > 0) {
        v->fd = tb_listen_fd("http");
        return v->fd < 0 ? cp_fail(v->o, TB_EXIT_CONFIG, "no inherited listener is named \"http\"") : 0;
    }
    v->fd = cp_listen(v->o->listen ? v->o->listen : LISTEN_DEFAULT, err);
    if (v->fd < 0)
        return cp_fail(v->o, v->fd == -EINVAL ? TB_EXIT_USAGE : TB_EXIT_CONFIG, "%s", err);
    return 0;
}

static int serve_open_metrics(struct serve *v)
{
    char err[CP_ERR_MAX];

    if (!v->o->metrics_listen)
        return 0;
    v->metrics_fd = cp_listen(v->o->metrics_listen, err);
    return v->metrics_fd < 0 ? cp_fail(v->o, TB_EXIT_CONFIG, "--metrics-listen: %s", err) : 0;
}

static void serve_announce(const struct serve *v, const char *addr)
{
    const char *scheme = v->tls.cert ? "https" : "http";

    if (v->o->http)
        tb_warn("no TLS: keys cross the network in the clear; use this on loopback and in tests only");
    printf(CP_PROGRAM ": ready on %s://%s%s\n", scheme, addr, v->place.seed ? " (development only)" : "");
    fflush(stdout);
    tb_notify_ready("Serving %s://%s", scheme, addr);
}

int cp_run_serve(const struct cp_options *o)
{
    _cleanup_(serve_clear) struct serve v = {.o = o, .fd = -1, .metrics_fd = -1};
    struct cp_server *server = NULL;
    char err[CP_ERR_MAX], addr[80];
    _cleanup_close_ int signals = -1;
    int r;

    r = serve_check_options(o);
    if (r == 0)
        r = serve_check_store(&v);
    if (r == 0)
        r = serve_load_keys(&v);
    if (r == 0)
        r = serve_load_tls(&v);
    if (r == 0)
        r = serve_load_storage(&v);
    if (r == 0)
        r = serve_load_attest(&v);
    if (r == 0)
        r = serve_load_oidc(&v);
    if (r == 0)
        r = serve_make_tables(&v);
    if (r == 0)
        r = serve_open_listener(&v);
    if (r == 0)
        r = serve_open_metrics(&v);
    if (r != 0)
        return r;
    if (cp_listen_name(v.fd, addr, sizeof(addr)) < 0)
        snprintf(addr, sizeof(addr), "an inherited socket");
    signals = tb_signals_open(NULL); /* before the server starts its threads */
    if (signals < 0)
        return cp_fail(o, TB_EXIT_IOERR, "cannot wait for signals: %s", strerror(-signals));
    r = serve_start_purchases(&v);
    if (r == 0)
        r = cp_start_submitter(o, &v.place, &v.submitter_secret, &v.submitter);
    if (r != 0)
        return r;
    r = cp_server_start(&v.api, &v.place, (unsigned)(o->workers ? o->workers : CP_WORKERS_DEFAULT), &v.tls,
                        TAKE_FD(v.fd), &server, err);
    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "%s", err);
    if (v.metrics_fd >= 0 && cp_server_add_metrics(server, TAKE_FD(v.metrics_fd)) < 0)
        tb_warn("cannot serve metrics");
    serve_announce(&v, addr);
    while (tb_signals_next(signals) == 0)
        (void)poll(&(struct pollfd){.fd = signals, .events = POLLIN}, 1, -1);
    tb_notify_stopping();
    server = cp_server_stop(server);
    return TB_EXIT_OK;
}

int cp_run_issue_client(const struct cp_options *o)
{
    char err[CP_ERR_MAX] = "out of memory";
    int r;

    r = cp_pki_client(o->data, o->operand, err);
    if (r < 0)
        return cp_fail(o, r == -EINVAL ? TB_EXIT_USAGE : TB_EXIT_CONFIG, "%s", err);
    printf("%s/client-%s.crt\n%s/client-%s.key\n", o->data, o->operand, o->data, o->operand);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}
