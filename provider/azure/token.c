/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/token.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>

#include "provider/azure/blob.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

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

int azure_token_principal(const char *service, const char *tenant, const char *client_id,
                          const char *client_secret, const struct tb_http_tls *tls,
                          struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX])
{
    const char *host = getenv("AZURE_AUTHORITY_HOST");
    struct tb_http_tls with_http = tls ? *tls : (struct tb_http_tls){0};
    char why[TB_HTTP_ERR_MAX], scope[AZURE_SCOPE_MAX];

    snprintf(scope, sizeof(scope), "https://%s/.default", service);
    host = host && *host ? host : "https://login.microsoftonline.com";
    if (!tb_azure_tenant_valid(tenant))
        return token_fail(err, -EINVAL, "AZURE_TENANT_ID is not a tenant id or domain");
    if (blob_base_url_check("AZURE_AUTHORITY_HOST", host, false, why) < 0)
        return token_fail(err, -EINVAL, "%s", why);
    with_http.allow_http = blob_url_is_loopback(host);
    return tb_azure_principal_token(&(struct tb_azure_principal){host, tenant, client_id, client_secret},
                                    scope, &with_http, ret, err);
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
static _Noreturn void token_exec_az(const char *service, int out)
{
    char resource[AZURE_SCOPE_MAX];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(null, STDERR_FILENO) < 0)
        _exit(126);
    snprintf(resource, sizeof(resource), "https://%s/", service);
    execlp("az", "az", "account", "get-access-token", "--resource", resource, "-o", "json", (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

int azure_token_cli(const char *service, struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX])
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
        token_exec_az(service, pipefd[1]);
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
