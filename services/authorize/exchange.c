/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/exchange.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/fdpass.h"
#include "common/http.h"
#include "authorize/hwid.h"
#include "authorize/identity.h"
#include "authorize/proof.h"
#include "common/io.h"
#include "common/log.h"
#include "common/usage_report.h"
#include "authorize/request.h"
#include "common/units.h"

#define EXCHANGE_TIMEOUT_MS 30000
#define LOOK_TIMEOUT_MS 5000
#define HWID_SHOWN 8

struct authorize_exchange {
    const struct tb_config *cfg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    bool want, look, quit; /* under lock */
    bool done;             /* under lock: verdict is there */
    bool busy;             /* the owner's own: started and not yet taken */
    int event_fd;
    struct authorize_verdict verdict;
    uint64_t held_version; /* the thread's own while busy, as the report */
    char *report;
    char hmac[TB_REPORT_MAC_HEX + 1];
    char hw_id[TB_HWID_MAX];              /* the thread's own, as what follows */
    struct authorize_challenge challenge; /* that came with the last grant */
    struct authorize_proof proof;
};

static bool hwid_known(struct authorize_exchange *x)
{
    char hostname[256] = "";
    struct tb_hwid_sources sources = {
        .credential = "product-uuid",
        .dmi_path = TB_HWID_DMI_PATH,
        .imds_url = TB_HWID_IMDS_URL,
        .net_path = TB_HWID_NET_PATH,
        .hostname = hostname,
    };
    const char *source;

    if (x->hw_id[0])
        return true;
    (void)gethostname(hostname, sizeof(hostname) - 1);
    source = tb_hwid_find(&sources, x->hw_id);
    if (!source) {
        x->hw_id[0] = '\0';
        return false;
    }
    tb_info("hardware id %.*s... from %s", HWID_SHOWN, x->hw_id, source);
    return true;
}

/* The path of a credential when there is one. Heap or NULL. */
static char *credential_path(const char *name)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    _cleanup_free_ char *path = dir && *dir ? tb_path_join(dir, name) : NULL;

    return path && access(path, F_OK) == 0 ? TAKE_PTR(path) : NULL;
}

int authorize_client_key_check(const struct tb_config *cfg)
{
    _cleanup_free_ char *credential = cfg->client_key_path ? NULL : credential_path("client-key");
    const char *path = cfg->client_key_path ? cfg->client_key_path : credential;
    char err[TB_HTTP_ERR_MAX];

    if (!path || tb_http_key_check(path, err) == 0)
        return 0;
    tb_error("%s %s: %s", cfg->client_key_path ? "TB_CLIENT_KEY_PATH" : "credential client-key", path, err);
    return -EINVAL;
}

/* With what the control plane is asked: settings, or the operator's credentials. */
struct exchange_identity {
    struct tb_http_tls tls;
    char *cert, *key;
    bool own; /* the machine's, by enrolment: it sees to it by itself */
};

static void exchange_identity_clear(struct exchange_identity *id)
{
    free(id->cert);
    free(id->key);
}

/* Looked up each time: files and credentials may be replaced. */
static void exchange_identify(const struct authorize_exchange *x, struct exchange_identity *id)
{
    *id = (struct exchange_identity){.tls = {.ca_file = x->cfg->ca_file,
                                             .client_cert = x->cfg->client_cert_path,
                                             .client_key = x->cfg->client_key_path,
                                             .allow_http = x->cfg->insecure_http}};
    if (id->tls.client_cert)
        return;
    id->cert = credential_path("client-cert");
    id->key = credential_path("client-key");
    if (id->cert && id->key) {
        id->tls.client_cert = id->cert;
        id->tls.client_key = id->key;
        return;
    }
    free(id->cert);
    id->cert = authorize_identity_path(x->cfg);
    id->own = true;
    id->tls.client_cert = id->tls.client_key = id->cert;
}

/* The machine's own identity, when the operator gave it none. False: *v says why it cannot ask. */
static bool exchange_enrol(const struct authorize_exchange *x, struct exchange_identity *id, bool renew,
                           struct authorize_verdict *v)
{
    const struct tb_http_tls tls = {.ca_file = x->cfg->ca_file, .allow_http = x->cfg->insecure_http};
    _cleanup_free_ char *code = credential_path("enrolment-code");

    if (!id->own)
        return true;
    if (!authorize_identity_prepare(x->cfg, &tls, code, renew, v))
        return false;
    exchange_identity_clear(id);
    exchange_identify(x, id);
    return true;
}

/* libcurl says that some certificate does not do, not which file. False: *v says which and why. */
static bool exchange_check_files(const struct authorize_exchange *x, const struct exchange_identity *id,
                                 struct authorize_verdict *v)
{
    uint64_t now = tb_now_realtime_us();
    char err[TB_CERTIFICATE_ERR_MAX];
    const char *cert = x->cfg->client_cert_path ? "TB_CLIENT_CERT_PATH" : "credential client-cert";
    const char *key = x->cfg->client_key_path ? "TB_CLIENT_KEY_PATH" : "credential client-key";

    if (id->tls.ca_file)
        (void)tb_certificate_read(id->tls.ca_file, true, now, &v->ca);
    if (v->ca.error[0])
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "TB_CA_FILE %s: %s", v->ca.path, v->ca.error) ==
               0;
    if (!id->tls.client_cert || id->own)
        return true;
    if (tb_certificate_read(id->tls.client_cert, false, now, &v->client) < 0)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "%s %s: %s", cert, v->client.path,
                              v->client.error) == 0;
    if (tb_certificate_match(id->tls.client_cert, id->tls.client_key, err) < 0)
        return tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "%s %s: %s", key, id->tls.client_key, err) == 0;
    return true;
}

/* What the request says of this machine's TPM: evidence for a challenge, else an offer. NULL: *v says why
 * there is no evidence; a request without it would be a refusal. */
static char *exchange_attestation(const struct authorize_exchange *x, const struct authorize_challenge *c,
                                  struct authorize_verdict *v)
{
    char err[AUTHORIZE_ATTEST_ERR_MAX], *text = NULL;

    if (!*c->hex)
        text = authorize_attest_offer(x->cfg);
    else if (authorize_attest_evidence(x->cfg, x->hw_id, c, &text, err) < 0)
        authorize_verdict_set(v, AUTHORIZE_RETRY, err);
    if (!text && !*c->hex)
        authorize_verdict_set(v, AUTHORIZE_RETRY, "out of memory");
    return text;
}

static int exchange_request_body(struct authorize_exchange *x, const struct authorize_challenge *c,
                                 char **ret, struct authorize_verdict *v)
{
    _cleanup_free_ char *proof = *c->hex ? authorize_proof_next(x->cfg, &x->proof) : NULL,
                        *attestation = exchange_attestation(x, c, v);
    const struct authorize_question q = {.contract_id = x->cfg->contract_id,
                                         .asset_id = x->cfg->asset_id,
                                         .hw_id = x->hw_id,
                                         .attestation = attestation,
                                         .machine_report = proof,
                                         .held_version = x->held_version,
                                         .report = x->report,
                                         .hmac = x->hmac};

    if (!attestation)
        return -EAGAIN;
    *ret = authorize_request_body(&q);
    return *ret ? 0 : authorize_verdict_set(v, AUTHORIZE_RETRY, "out of memory");
}

static void exchange_question(struct authorize_exchange *x, bool renew, const struct authorize_challenge *c,
                              struct authorize_verdict *v)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    _cleanup_(exchange_identity_clear) struct exchange_identity id;
    _cleanup_free_ char *url = authorize_request_url(x->cfg->edc_endpoint), *body = NULL;
    _cleanup_http_response_ struct tb_http_response resp = {0};
    struct tb_http_request rq = {
        .method = "POST", .url = url, .headers = headers, .timeout_ms = EXCHANGE_TIMEOUT_MS, .tls = &id.tls};
    struct tb_certificate client, ca;
    char err[TB_HTTP_ERR_MAX];

    exchange_identify(x, &id);
    if (!url) {
        authorize_verdict_set(v, AUTHORIZE_RETRY, "out of memory");
        return;
    }
    if (!exchange_check_files(x, &id, v) || !exchange_enrol(x, &id, renew, v) ||
        exchange_request_body(x, c, &body, v) != 0)
        return;
    rq.body = body;
    rq.body_len = strlen(body);
    client = v->client;
    ca = v->ca;
    if (tb_http_do(&rq, &resp, err) < 0)
        authorize_verdict_set(v, AUTHORIZE_RETRY, err);
    else
        authorize_response_judge(&resp, x->cfg->insecure_http, tb_now_realtime_us(), v);
    v->client = client;
    v->ca = ca;
    v->date_real_us = resp.date_real_us;
    v->date_boot_us = resp.date_boot_us;
}

static void exchange_again(struct authorize_verdict *v)
{
    authorize_verdict_clear(v);
    *v = (struct authorize_verdict){.retry_after_ms = -1};
}

/* A refusal with a challenge is a question: it is answered at once, once. */
static void exchange_attested(struct authorize_exchange *x, bool renew, struct authorize_verdict *v)
{
    struct authorize_challenge asked = x->challenge;

    exchange_question(x, renew, &asked, v);
    if (v->outcome.code == AUTHORIZE_DENIED && *v->challenge.hex) {
        asked = v->challenge;
        exchange_again(v);
        exchange_question(x, renew, &asked, v);
    }
    if (v->outcome.code == AUTHORIZE_GRANTED)
        authorize_proof_answered(&x->proof, v->machine_report);
    if (v->outcome.code != AUTHORIZE_RETRY)
        x->challenge = v->outcome.code == AUTHORIZE_GRANTED ? v->challenge : (struct authorize_challenge){0};
}

/* By a clock that is behind, a certificate that has ended is still good: the control plane says so, and it is
 * renewed by that, once for each question. */
static void exchange_once(struct authorize_exchange *x, struct authorize_verdict *v)
{
    _cleanup_free_ char *own = authorize_identity_path(x->cfg);

    exchange_attested(x, false, v);
    if (!own || v->outcome.code != AUTHORIZE_DENIED ||
        strcmp(v->outcome.reason, "client_certificate_expired") != 0)
        return;
    tb_warn("The machine's certificate has ended by the control plane's clock and not by this machine's, "
            "which is "
            "behind; it is renewed. Let the machine keep time (chrony, systemd-timesyncd)");
    exchange_again(v);
    exchange_attested(x, true, v);
}

/* Any answer shows that it is there; that it is well is for the exchange to find out, which is asked for
 * sooner when this fails. */
static void exchange_look(const struct authorize_exchange *x, struct authorize_verdict *v)
{
    _cleanup_(exchange_identity_clear) struct exchange_identity id;
    _cleanup_free_ char *url = authorize_health_url(x->cfg->edc_endpoint);
    _cleanup_http_response_ struct tb_http_response resp = {0};
    struct tb_http_request rq = {
        .url = url, .timeout_ms = LOOK_TIMEOUT_MS, .connect_timeout_ms = LOOK_TIMEOUT_MS, .tls = &id.tls};
    char err[TB_HTTP_ERR_MAX];

    exchange_identify(x, &id);
    v->look = true;
    if (!url || !exchange_check_files(x, &id, v))
        return;
    if (tb_http_do(&rq, &resp, err) < 0)
        authorize_verdict_set(v, AUTHORIZE_RETRY, err);
    else if (resp.status >= 500 && tb_http_status_retryable(resp.status))
        tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "the control plane answered HTTP %ld", resp.status);
    v->date_real_us = resp.date_real_us;
    v->date_boot_us = resp.date_boot_us;
}

static void exchange_run(struct authorize_exchange *x, bool look, struct authorize_verdict *v)
{
    *v = (struct authorize_verdict){.retry_after_ms = -1};
    if (look)
        exchange_look(x, v);
    else if (hwid_known(x))
        exchange_once(x, v);
    else
        authorize_verdict_set(v, AUTHORIZE_RETRY,
                              "this machine has no product UUID, hostname or network device to identify it; "
                              "provide the credential product-uuid");
}

static void *exchange_thread(void *arg)
{
    struct authorize_exchange *x = arg;

    pthread_mutex_lock(&x->lock);
    for (;;) {
        struct authorize_verdict v;
        uint64_t one = 1;
        bool look;

        while (!x->want && !x->quit)
            pthread_cond_wait(&x->wanted, &x->lock);
        if (x->quit)
            break;
        x->want = false;
        look = x->look;
        pthread_mutex_unlock(&x->lock);
        exchange_run(x, look, &v);
        pthread_mutex_lock(&x->lock);
        x->verdict = v;
        x->done = true;
        (void)tb_write_full(x->event_fd, &one, sizeof(one));
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

int authorize_exchange_new(const struct tb_config *cfg, struct authorize_exchange **ret)
{
    struct authorize_exchange *x = calloc(1, sizeof(*x));
    int r;

    if (!x)
        return -ENOMEM;
    x->cfg = cfg;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wanted, NULL);
    x->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = x->event_fd < 0 ? -errno : -pthread_create(&x->thread, NULL, exchange_thread, x);
    if (r < 0) {
        tb_close(x->event_fd);
        free(x);
        return r;
    }
    *ret = x;
    return 0;
}

int authorize_exchange_fd(const struct authorize_exchange *x)
{
    return x->event_fd;
}

bool authorize_exchange_busy(const struct authorize_exchange *x)
{
    return x->busy;
}

static void exchange_want(struct authorize_exchange *x, bool look)
{
    pthread_mutex_lock(&x->lock);
    x->want = x->busy = true;
    x->look = look;
    pthread_cond_signal(&x->wanted);
    pthread_mutex_unlock(&x->lock);
}

void authorize_exchange_start(struct authorize_exchange *x, uint64_t held_version, const char *report,
                              const struct tb_key *report_key)
{
    assert(!x->busy);
    x->held_version = held_version;
    tb_freep(&x->report);
    if (report && tb_report_sign(report_key, report, strlen(report), x->hmac) == 0)
        x->report = strdup(report);
    exchange_want(x, false);
}

void authorize_exchange_look(struct authorize_exchange *x)
{
    assert(!x->busy);
    exchange_want(x, true);
}

bool authorize_exchange_take(struct authorize_exchange *x, struct authorize_verdict *ret)
{
    uint64_t count;
    bool done;

    (void)!read(x->event_fd, &count, sizeof(count));
    pthread_mutex_lock(&x->lock);
    done = x->done;
    x->done = false;
    if (done) {
        *ret = x->verdict;
        x->verdict.grant = x->verdict.held = NULL;
        x->busy = false;
    }
    pthread_mutex_unlock(&x->lock);
    return done;
}

void authorize_exchange_free(struct authorize_exchange *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&x->lock);
    x->quit = true;
    pthread_cond_signal(&x->wanted);
    pthread_mutex_unlock(&x->lock);
    pthread_join(x->thread, NULL);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->wanted);
    tb_close(x->event_fd);
    free(x->report);
    free(x);
}
