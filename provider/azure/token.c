/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/token.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>

#include "common/backoff.h"
#include "provider/azure/blob.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define RESOURCE "https://storage.azure.com/"

#define PRINCIPAL_TRIES 4
#define AZ_TIMEOUT_MS 60000

static int token_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int token_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TB_AZURE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

/* -- service principal ------------------------------------------------------------------------- */

/* Appends name=value, form-encoded, at p; returns the new end. Room: 3 bytes for each of value. */
static char *token_put_form(char *p, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";

    p = stpcpy(p, name);
    *p++ = '=';
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;

        if (isalnum(c) || strchr("-._~", c)) {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p++ = '&';
    *p = '\0';
    return p;
}

static bool token_tenant_valid(const char *s)
{
    return *s && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == strlen(s);
}

/* Posts the form, again when the service is busy or away. 0 with an answer of any status. */
static int token_post_form(const char *url, const char *form, const struct tb_http_tls *tls,
                           struct tb_http_response *ret, char err[static TB_HTTP_ERR_MAX])
{
    static const char *const headers[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
    const struct tb_http_request rq = {
        .method = "POST", .url = url, .headers = headers, .body = form, .body_len = strlen(form), .tls = tls};
    struct tb_backoff backoff = {.base_ms = 1000, .cap_ms = 10000};

    for (;;) {
        int r = tb_http_do(&rq, ret, err);
        bool again = r < 0 ? r == -ETIMEDOUT || r == -ECONNREFUSED : tb_http_status_retryable(ret->status);

        if (!again || backoff.attempt + 1 >= PRINCIPAL_TRIES)
            return r;
        tb_sleep_ms(tb_backoff_next_ms(&backoff, r < 0 ? -1 : ret->retry_after_ms));
        if (r == 0)
            tb_http_response_clear(ret);
    }
}

int azure_token_principal(const char *tenant, const char *client_id, const char *client_secret,
                          const struct tb_http_tls *tls, struct tb_azure_token *ret,
                          char err[static TB_AZURE_ERR_MAX])
{
    const char *host = getenv("AZURE_AUTHORITY_HOST");
    _cleanup_http_response_ struct tb_http_response rs = {0};
    struct tb_http_tls with_http = tls ? *tls : (struct tb_http_tls){0};
    _cleanup_secret_ char *form = NULL;
    _cleanup_free_ char *url = NULL;
    char why[TB_HTTP_ERR_MAX], *p;
    int r;

    host = host && *host ? host : "https://login.microsoftonline.com";
    if (!token_tenant_valid(tenant))
        return token_fail(err, -EINVAL, "AZURE_TENANT_ID is not a tenant id or domain");
    if (blob_base_url_check("AZURE_AUTHORITY_HOST", host, false, why) < 0)
        return token_fail(err, -EINVAL, "%s", why);
    with_http.allow_http = blob_url_is_loopback(host);
    url = tb_strf("%s%s%s/oauth2/v2.0/token", host, host[strlen(host) - 1] == '/' ? "" : "/", tenant);
    form = tb_secret_alloc(3 * (strlen(client_id) + strlen(client_secret)) + 256);
    if (!url || !form)
        return token_fail(err, -ENOMEM, "out of memory");
    p = token_put_form(form, "grant_type", "client_credentials");
    p = token_put_form(p, "client_id", client_id);
    p = token_put_form(p, "client_secret", client_secret);
    p = token_put_form(p, "scope", RESOURCE ".default");
    p[-1] = '\0';
    r = token_post_form(url, form, &with_http, &rs, why);
    if (r < 0)
        return token_fail(err, r, "%s", why);
    if (rs.status != 200) {
        tb_azure_refusal(&rs, why, sizeof(why));
        return token_fail(err, -EACCES, "%s refused the service principal: %s", host, why);
    }
    return tb_azure_token_parse(rs.body, rs.len, tb_now_realtime_us() / TB_USEC_PER_SEC, ret, err);
}

/* -- Azure CLI --------------------------------------------------------------------------------- */

/* Reads to the end of fd, at most len - 1 bytes, within the time. Bytes or -errno. */
static ssize_t token_read_until_eof(int fd, char *buf, size_t len, uint64_t timeout_ms)
{
    uint64_t deadline = tb_now_monotonic_us() + timeout_ms * 1000;
    size_t n = 0;

    for (;;) {
        uint64_t now = tb_now_monotonic_us();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t k;

        if (now >= deadline)
            return -ETIMEDOUT;
        if (poll(&p, 1, (int)((deadline - now) / 1000) + 1) < 0 && errno != EINTR)
            return -errno;
        if (p.revents == 0)
            continue;
        k = read(fd, buf + n, len - 1 - n);
        if (k < 0 && errno != EINTR)
            return -errno;
        if (k == 0)
            return (ssize_t)n;
        if (k > 0)
            n += (size_t)k;
        if (n == len - 1)
            return -EFBIG;
    }
}

/* The child: stdout to the pipe, stderr discarded (az repeats what it was told there). */
static _Noreturn void token_exec_az(int out)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(null, STDERR_FILENO) < 0)
        _exit(126);
    execlp("az", "az", "account", "get-access-token", "--resource", RESOURCE, "-o", "json", (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

int azure_token_cli(struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX])
{
    _cleanup_secret_ char *buf = tb_secret_alloc(4 * TB_AZURE_TOKEN_MAX);
    _cleanup_close_ int in = -1;
    int pipefd[2], status = 0;
    ssize_t n;
    pid_t pid;

    if (!buf)
        return token_fail(err, -ENOMEM, "out of memory");
    if (pipe2(pipefd, O_CLOEXEC) < 0)
        return token_fail(err, -errno, "pipe: %s", strerror(errno));
    in = pipefd[0];
    pid = fork();
    if (pid == 0)
        token_exec_az(pipefd[1]);
    close(pipefd[1]);
    if (pid < 0)
        return token_fail(err, -EAGAIN, "fork: %s", strerror(errno));
    n = token_read_until_eof(in, buf, 4 * TB_AZURE_TOKEN_MAX, AZ_TIMEOUT_MS);
    if (n < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return token_fail(err, -ENOENT, "the Azure CLI (az) is not installed");
    if (n < 0)
        return token_fail(err, (int)n, "az account get-access-token: %s", strerror((int)-n));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return token_fail(err, -EACCES, "az account get-access-token failed: log in with 'az login'");
    return tb_azure_token_parse(buf, (size_t)n, tb_now_realtime_us() / TB_USEC_PER_SEC, ret, err);
}
