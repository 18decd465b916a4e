/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/http/server.h"

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/inet.h"
#include "common/log.h"
#include "common/units.h"
#include "controlplane/admin/admin.h"
#include "controlplane/api/metrics.h"

/* A body that is refused is still read to its end, up to this: many clients look for the answer only when
 * they have sent everything, and would see a reset instead of the 401 or 413. */
#define DISCARD_MAX (4 * 1024 * 1024)
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct cp_server {
    struct MHD_Daemon *daemon, *metrics;
    const struct cp_api *api;
    struct cp_workers *workers;
    bool require_client_cert;  /* of --client-ca; else contracts say what they want */
    gnutls_datum_t ticket_key; /* of this process: a session of another one is not resumed */
};

/* One request, between the callbacks of libmicrohttpd. While a worker has it the connection is suspended, and
 * nobody else touches either. */
struct cp_exchange {
    struct cp_job job;
    struct cp_server *server;
    struct MHD_Connection *connection;
    struct cp_request rq;
    struct cp_query query;
    char peer[64], client_name[101];
    struct cp_peer *client; /* NULL: it showed no certificate */
    char *body; /* secret memory of CP_BODY_MAX, made with the first byte: a registration carries a key */
    size_t len;
    uint64_t total, started_us, whole_us;
    bool answered; /* reply is there. Decided before the body: that is read and dropped first */
    struct cp_reply reply;
};

/* -- who is there ------------------------------------------------------------------------------ */
static void server_peer_name(struct MHD_Connection *c, char out[static 64])
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *sa = i ? i->client_addr : NULL;

    strcpy(out, "unknown");
    if (sa && sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, out, 64);
    else if (sa && sa->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, out, 64);
}

static void server_common_name(const gnutls_datum_t *der, char *out, size_t out_len)
{
    gnutls_x509_crt_t crt;

    if (gnutls_x509_crt_init(&crt) < 0)
        return;
    if (gnutls_x509_crt_import(crt, der, GNUTLS_X509_FMT_DER) < 0 ||
        gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, out, &out_len) < 0)
        out[0] = '\0';
    gnutls_x509_crt_deinit(crt);
    for (; *out; out++) /* it goes to logs and terminals */
        if (*out < ' ' || *out >= 0x7f)
            *out = '?';
}

/* libmicrohttpd asks for a certificate but judges none; name gets its common name when it is good. */
static enum cp_client_auth server_client_auth(const struct cp_server *s, struct MHD_Connection *c,
                                              char name[static 101])
{
    char purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
    gnutls_typed_vdata_st want = {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)purpose};
    const union MHD_ConnectionInfo *i;
    const gnutls_datum_t *chain;
    unsigned n = 0, status = 0;

    name[0] = '\0';
    if (!s->require_client_cert)
        return CP_CLIENT_NOT_ASKED;
    i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    chain = i ? gnutls_certificate_get_peers(i->tls_session, &n) : NULL;
    if (!chain || n == 0)
        return CP_CLIENT_NO_CERT;
    if (gnutls_certificate_verify_peers(i->tls_session, &want, 1, &status) < 0 || status != 0)
        return CP_CLIENT_UNTRUSTED;
    server_common_name(&chain[0], name, 101);
    return CP_CLIENT_VERIFIED;
}

/* Its chain, as it came: what it is worth is said by the contract that it asks for. */
static struct cp_peer *server_client_chain(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    unsigned n = 0;
    const gnutls_datum_t *chain = i ? gnutls_certificate_get_peers(i->tls_session, &n) : NULL;
    struct cp_peer *p = chain && n ? calloc(1, sizeof(*p)) : NULL;

    for (unsigned k = 0; p && k < n && k < CP_PEER_CERTS_MAX && chain[k].size <= CP_PEER_DER_MAX; k++) {
        memcpy(p->cert[k].der, chain[k].data, chain[k].size);
        p->cert[k].len = chain[k].size;
        p->n = k + 1;
    }
    return p;
}

/* -- requests ---------------------------------------------------------------------------------- */
static void server_free_body(void *p)
{
    tb_erase_string(p);
}

static enum MHD_Result server_send_reply(struct MHD_Connection *c, struct cp_reply *r)
{
    struct MHD_Response *m;
    enum MHD_Result ok;
    char seconds[16];

    if (!r->body)
        return MHD_NO;
    m = MHD_create_response_from_buffer_with_free_callback(strlen(r->body), r->body, server_free_body);
    if (!m)
        return MHD_NO;
    r->body = NULL; /* now the response's */
    MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_TYPE,
                            r->content_type ? r->content_type : "application/json");
    MHD_add_response_header(m, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (*r->allow)
        MHD_add_response_header(m, MHD_HTTP_HEADER_ALLOW, r->allow);
    if (r->challenge)
        MHD_add_response_header(m, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer realm=\"trustbridge\"");
    if (*r->etag)
        MHD_add_response_header(m, MHD_HTTP_HEADER_ETAG, r->etag);
    if (r->replayed)
        MHD_add_response_header(m, "Idempotent-Replay", "true");
    snprintf(seconds, sizeof(seconds), "%u", r->retry_s);
    if (r->retry_s)
        MHD_add_response_header(m, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    ok = MHD_queue_response(c, r->status, m);
    MHD_destroy_response(m);
    return ok;
}

/* MHD_NO ends the connection. */
static enum MHD_Result server_take_body(struct cp_exchange *x, const char *data, size_t *n)
{
    x->total += *n;
    if (x->total > DISCARD_MAX || tb_now_monotonic_us() - x->started_us > CP_REQUEST_US_MAX)
        return MHD_NO;
    if (!x->answered && x->total <= CP_BODY_MAX) {
        if (!x->body)
            x->body = tb_secret_alloc(CP_BODY_MAX);
        if (!x->body)
            return MHD_NO;
        memcpy(x->body + x->len, data, *n);
        x->len += *n;
    }
    *n = 0;
    return MHD_YES;
}

static uint64_t server_declared_length(struct MHD_Connection *c)
{
    const char *v = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t n;

    return v && tb_uint_parse(v, 0, UINT64_MAX, &n) == 0 ? n : 0;
}

/* Headers are there. Sends a refusal at once when the client waits for a sign or has too much to drop. */
static enum MHD_Result server_on_headers(struct cp_server *s, struct MHD_Connection *c, struct cp_exchange *x)
{
    uint64_t n = server_declared_length(c);

    x->started_us = tb_now_monotonic_us();
    x->answered = cp_api_limit(s->api, &x->rq, &x->reply) ||
                  (cp_admin_path(x->rq.path) ? cp_admin_refuse(s->api, &x->rq, &x->reply)
                                             : cp_api_refuse(s->api, &x->rq, &x->reply));
    if (!x->answered && n > CP_BODY_MAX) {
        cp_api_too_large(&x->reply);
        x->answered = true;
    }
    if (!x->answered)
        return MHD_YES;
    if (n <= DISCARD_MAX && !MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT))
        return MHD_YES;
    return server_send_reply(c, &x->reply);
}

static enum MHD_Result server_add_argument(void *cls, enum MHD_ValueKind kind, const char *name,
                                           const char *value)
{
    struct cp_query *q = cls;

    if (q->n < CP_QUERY_MAX) {
        q->v[q->n].name = name;
        q->v[q->n].value = value;
    }
    q->n++;
    return MHD_YES;
}

static const char *server_header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static struct cp_exchange *server_make_exchange(struct cp_server *s, struct MHD_Connection *c,
                                                const char *url, const char *method)
{
    struct cp_exchange *x = calloc(1, sizeof(*x));

    if (!x)
        return NULL;
    x->server = s;
    x->connection = c;
    server_peer_name(c, x->peer);
    x->rq =
        (struct cp_request){.method = method, .path = url, .peer = x->peer, .client_name = x->client_name};
    x->rq.authorization = server_header(c, MHD_HTTP_HEADER_AUTHORIZATION);
    x->rq.sig = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "sig");
    x->rq.idempotency_key = server_header(c, "Idempotency-Key");
    x->rq.if_match = server_header(c, MHD_HTTP_HEADER_IF_MATCH);
    MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, server_add_argument, &x->query);
    x->rq.query = &x->query;
    x->rq.client_auth = server_client_auth(s, c, x->client_name);
    x->rq.client = x->client = server_client_chain(c);
    return x;
}

static void server_work(struct cp_job *j, struct cp_store *store, const char *why)
{
    struct cp_exchange *x = container_of(j, struct cp_exchange, job);

    x->rq.body = x->body;
    x->rq.body_len = x->len;
    x->rq.now_us = tb_now_realtime_us();
    if (store && cp_admin_path(x->rq.path)) {
        cp_admin_answer(x->server->api, store, &x->rq, &x->reply);
    } else if (store) {
        cp_api_answer(x->server->api, store, &x->rq, &x->reply);
    } else {
        tb_error("%s", why);
        cp_api_unavailable(&x->reply, "the database does not answer; try again");
    }
    cp_metric_answered(x->reply.status, tb_now_monotonic_us() - x->whole_us);
    x->answered = true;
    MHD_resume_connection(x->connection);
}

/* The connection must sleep before a worker can wake it. */
static enum MHD_Result server_hand_over(struct cp_server *s, struct cp_exchange *x)
{
    if (x->total > CP_BODY_MAX) {
        cp_api_too_large(&x->reply);
        x->answered = true;
        return server_send_reply(x->connection, &x->reply);
    }
    x->job.run = server_work;
    x->whole_us = tb_now_monotonic_us();
    MHD_suspend_connection(x->connection);
    if (!cp_workers_give(s->workers, &x->job)) {
        cp_metric_add(CP_METRIC_LIMITED_QUEUE);
        tb_warn("overloaded: %u requests wait for an answer already", CP_JOBS_MAX);
        cp_api_unavailable(&x->reply, "too many requests at once; try again");
        x->answered = true;
        MHD_resume_connection(x->connection);
    }
    return MHD_YES;
}

/* A path that is another one than it looks like: whoever guards a path before this server, as a proxy that
 * lets nobody from outside to /api/v1/admin, guards what he sees. In a name behind that anything but a slash
 * may be encoded. */
static bool server_path_disguised(const char *uri)
{
    const char *end = uri + strcspn(uri, "?"), *p = memchr(uri, '%', (size_t)(end - uri));

    if (p && p < uri + strlen(CP_ADMIN "/"))
        return true;
    for (; p && p < end; p++)
        if (strncasecmp(p, "%2f", 3) == 0 || strncmp(p, "%00", 3) == 0)
            return true;
    return false;
}

/* The state of a request whose path is disguised, until it has one. */
static struct cp_exchange disguised;

static void *server_on_uri(void *cls, const char *uri, struct MHD_Connection *c)
{
    return server_path_disguised(uri) ? &disguised : NULL;
}

static enum MHD_Result server_on_request(void *cls, struct MHD_Connection *c, const char *url,
                                         const char *method, const char *version, const char *data, size_t *n,
                                         void **state)
{
    struct cp_server *s = cls;
    struct cp_exchange *x = *state;

    if (x == &disguised) {
        url = ""; /* there is none of that name */
        x = NULL;
    }
    if (x && *n > 0)
        return server_take_body(x, data, n);
    if (x && x->answered)
        return server_send_reply(c, &x->reply);
    if (x)
        return server_hand_over(s, x);
    x = *state = server_make_exchange(s, c, url, method);
    return x ? server_on_headers(s, c, x) : MHD_NO;
}

static void server_on_completed(void *cls, struct MHD_Connection *c, void **state,
                                enum MHD_RequestTerminationCode why)
{
    struct cp_exchange *x = *state;

    *state = NULL;
    if (x == &disguised)
        return;
    if (x) {
        tb_secret_free(x->body);
        free(x->client);
        cp_reply_clear(&x->reply);
    }
    free(x);
}

/* Clients come again each half lease: resumed, the handshake has no signatures. A ticket is good for what
 * gnutls has as a session's life; the client's certificate is in it, and is judged with each request. */
static void server_on_connection(void *cls, struct MHD_Connection *c, void **context,
                                 enum MHD_ConnectionNotificationCode code)
{
    struct cp_server *s = cls;
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);

    if (code == MHD_CONNECTION_NOTIFY_STARTED && i && i->tls_session && s->ticket_key.data)
        (void)gnutls_session_ticket_enable_server(i->tls_session, &s->ticket_key);
}

/* libmicrohttpd's own complaints are about single connections: nothing an operator must act on. */
static void server_on_log(void *cls, const char *fmt, va_list ap)
{
    char line[256];
    int n = vsnprintf(line, sizeof(line), fmt, ap);

    if (n > 0)
        tb_debug("http: %.*s", (int)strcspn(line, "\n"), line);
}

static int server_start_daemon(struct cp_server *s, const struct cp_server_tls *tls, int listen_fd)
{
    struct MHD_OptionItem tls_options[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, tls->cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, tls->key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
        {tls->client_ca ? MHD_OPTION_HTTPS_MEM_TRUST : MHD_OPTION_END, 0, tls->client_ca},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem no_options[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ERROR_LOG | MHD_ALLOW_SUSPEND_RESUME |
                     (tls->cert ? MHD_USE_TLS : 0);

    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, server_on_request, s, MHD_OPTION_EXTERNAL_LOGGER, server_on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, server_on_completed, NULL,
        MHD_OPTION_URI_LOG_CALLBACK, server_on_uri, NULL, MHD_OPTION_NOTIFY_CONNECTION, server_on_connection,
        s, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)CP_IO_THREADS, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CP_CONNECTIONS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)CP_CONNECTIONS_OF_ONE,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CP_IDLE_SECONDS, MHD_OPTION_ARRAY,
        tls->cert ? tls_options : no_options, MHD_OPTION_END);
    return s->daemon ? 0 : -EINVAL;
}

int cp_server_start(const struct cp_api *api, const struct cp_place *place, unsigned n_workers,
                    const struct cp_server_tls *tls, int listen_fd, struct cp_server **ret,
                    char err[static CP_ERR_MAX])
{
    struct cp_server *s = calloc(1, sizeof(*s));
    int r = s ? cp_workers_start(place, n_workers, &s->workers) : -ENOMEM;

    if (r < 0) {
        snprintf(err, CP_ERR_MAX, "cannot start the workers: %s", strerror(-r));
        tb_close(listen_fd);
        free(s);
        return r;
    }
    s->api = api;
    s->require_client_cert = tls->cert && tls->client_ca && tls->require_client_cert;
    if (tls->cert && gnutls_session_ticket_key_generate(&s->ticket_key) < 0)
        s->ticket_key = (gnutls_datum_t){0};
    if (server_start_daemon(s, tls, listen_fd) < 0) {
        snprintf(err, CP_ERR_MAX,
                 "cannot start the HTTP server; with --tls-cert, check that certificate and key are PEM and "
                 "belong together (--log-level debug says more)");
        cp_server_stop(s);
        return -EINVAL;
    }
    *ret = s;
    return 0;
}

/* A connection that is suspended must not be there any more when the daemon stops. */
struct cp_server *cp_server_stop(struct cp_server *s)
{
    if (!s)
        return NULL;
    if (s->daemon)
        tb_close(MHD_quiesce_daemon(s->daemon));
    s->workers = cp_workers_stop(s->workers);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    if (s->metrics)
        MHD_stop_daemon(s->metrics);
    if (s->ticket_key.data)
        tb_erase(s->ticket_key.data, s->ticket_key.size);
    gnutls_free(s->ticket_key.data);
    free(s);
    return NULL;
}

/* -- metrics: a port of their own ---------------------------------------------------------------- */
static enum MHD_Result server_on_metrics(void *cls, struct MHD_Connection *c, const char *url,
                                         const char *method, const char *version, const char *data, size_t *n,
                                         void **state)
{
    bool found = strcmp(url, "/metrics") == 0;
    char *text = found ? cp_metrics_text() : strdup("there is /metrics\n");
    struct MHD_Response *m;
    enum MHD_Result ok;

    if (!text)
        return MHD_NO;
    m = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!m)
        return MHD_NO;
    MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; version=0.0.4");
    ok = MHD_queue_response(c, found ? 200 : 404, m);
    MHD_destroy_response(m);
    return ok;
}

int cp_server_add_metrics(struct cp_server *s, int listen_fd)
{
    s->metrics = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL,
                                  server_on_metrics, NULL, MHD_OPTION_EXTERNAL_LOGGER, server_on_log, NULL,
                                  MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT, 16U,
                                  MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CP_IDLE_SECONDS, MHD_OPTION_END);
    if (!s->metrics)
        tb_close(listen_fd);
    return s->metrics ? 0 : -EINVAL;
}

/* -- the listener ------------------------------------------------------------------------------ */
int cp_listen(const char *addr, char err[static CP_ERR_MAX])
{
    char why[TB_INET_ERR_MAX];
    _cleanup_close_ int fd = tb_inet_listen(addr, CP_CONNECTIONS_MAX, why);

    if (fd < 0) {
        if (fd == -EINVAL)
            snprintf(err, CP_ERR_MAX, "--listen %s is not HOST:PORT", addr);
        else
            snprintf(err, CP_ERR_MAX, "--listen: %s", why);
        return fd;
    }
    return fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : TAKE_FD(fd);
}

int cp_listen_name(int fd, char *out, size_t out_len)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof(sa);
    char host[64], port[8];

    if (getsockname(fd, (struct sockaddr *)&sa, &n) < 0)
        return -errno;
    if (getnameinfo((struct sockaddr *)&sa, n, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EAFNOSUPPORT;
    snprintf(out, out_len, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return 0;
}
