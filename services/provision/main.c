/* SPDX-License-Identifier: Apache-2.0 */
/* tb-provision: the settings of a machine whose image is closed, from what its deployment says. The image
 * has a file of settings of its own; a few more may be said by whoever deploys it, in the user data of the
 * instance or on a disk. See tb-provision(8). */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "common/base64.h"
#include "common/envfile.h"
#include "common/exit.h"
#include "common/http.h"
#include "common/io.h"
#include "common/option.h"
#include "common/secret.h"
#include "common/version.h"
#include "provision/document.h"
#include "provision/report.h"

#define IMDS_DEFAULT "http://169.254.169.254"
#define IMDS_PATH "/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
#define WIRE_DEFAULT "http://168.63.129.16"
#define TIMEOUT_MS 5000
#define PROVISIONED "provisioned-credentials"
#define KEPT ".image" /* behind the name of a credential of the image that a document took the place of */

static const char help_before[] =
    "Usage: tb-provision [OPTION]...\n"
    "Take the settings and credentials that this machine's deployment says, as far as a closed image lets it "
    "say\n"
    "any, and write them where the programs of TrustBridge look. See tb-provision(8).\n"
    "\n";
static const char help_after[] = "\nExit status: 0 done; 64 usage; 66 this image is none that is closed; 74 "
                                 "I/O; 75 try again; 77 what may "
                                 "not be\n"
                                 "said was said; 78 it makes no sense.\n";

struct provision {
    const char *image, *media, *wire, *out, *credstore;
    bool ready, help, version;
};

#define TB_OPTION_TARGET struct provision
static const struct tb_option options[] = {
    TB_OPTION(0, "image", "FILE", TB_OPTION_STRING, image,
              "the image's own settings (/etc/trustbridge/image.env)"),
    TB_OPTION(0, "media", "FILE", TB_OPTION_STRING, media,
              "where there is such a disk, what it holds instead of the user data "
              "(/dev/disk/by-id/virtio-tb-settings)"),
    TB_OPTION(0, "wire-server", "URL", TB_OPTION_STRING, wire, "whom to tell (" WIRE_DEFAULT ")"),
    TB_OPTION(0, "settings", "FILE", TB_OPTION_STRING, out,
              "what is written (/etc/trustbridge/trustbridge.env)"),
    TB_OPTION(0, "credentials", "DIR", TB_OPTION_STRING, credstore, "where credentials go (/etc/credstore)"),
    TB_OPTION(0, "ready", NULL, TB_OPTION_FLAG, ready, "tell Azure that this machine is ready, and no more"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    TB_OPTION_END,
};

static _printf_(2, 3) int provision_fail(int rc, const char *fmt, ...)
{
    va_list ap;

    fputs(getenv("JOURNAL_STREAM") ? "<3>tb-provision: " : "tb-provision: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return rc;
}

/* -- what the deployment says ------------------------------------------------------------------ */
static const struct tb_http_tls plain = {.allow_http = true};

/* A disk holds the document and then zeros. */
static int provision_read_media(const char *path, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *buf = calloc(1, PROVISION_DOCUMENT_MAX + 1);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -errno : !buf ? -ENOMEM : tb_read_full(fd, buf, PROVISION_DOCUMENT_MAX);

    if (n < 0)
        return (int)n;
    *ret_len = strnlen(buf, (size_t)n);
    *ret = buf;
    buf = NULL;
    return 0;
}

/* The image names the service, or it is Azure's. */
static int provision_imds_url(const char *image, size_t len, char *url, size_t size)
{
    _cleanup_envfile_ struct tb_envfile e = {0};
    const struct tb_envfile_entry *v;
    int r = tb_envfile_parse(image, len, &e);

    if (r < 0)
        return r;
    v = tb_envfile_find(&e, "TB_IMDS_ENDPOINT");
    r = snprintf(url, size, "%s" IMDS_PATH, v && v->value ? v->value : IMDS_DEFAULT);
    return r < 0 || (size_t)r >= size ? -EINVAL : 0;
}

static int provision_read_imds(const char *image, size_t image_len, char **ret, size_t *ret_len)
{
    static const char *const headers[] = {"Metadata: true", NULL};
    _cleanup_http_response_ struct tb_http_response resp = {0};
    char url[512], err[TB_HTTP_ERR_MAX];
    struct tb_http_request rq = {.url = url,
                                 .headers = headers,
                                 .timeout_ms = TIMEOUT_MS,
                                 .connect_timeout_ms = TIMEOUT_MS,
                                 .max_response = 2 * PROVISION_DOCUMENT_MAX,
                                 .tls = &plain,
                                 .direct = true};
    ssize_t n;

    if (provision_imds_url(image, image_len, url, sizeof(url)) < 0)
        return provision_fail(TB_EXIT_CONFIG, "TB_IMDS_ENDPOINT of the image is no URL");
    if (tb_http_do(&rq, &resp, err) < 0)
        return provision_fail(TB_EXIT_TEMPFAIL, "the instance metadata service does not answer: %s", err);
    if (resp.status != 200)
        return provision_fail(TB_EXIT_TEMPFAIL, "the instance metadata service answers with status %ld",
                              resp.status);
    *ret = calloc(1, resp.len + 1);
    if (!*ret)
        return provision_fail(TB_EXIT_IOERR, "not enough memory");
    n = tb_base64_decode(resp.body, resp.len, (uint8_t *)*ret);
    if (n < 0)
        return provision_fail(TB_EXIT_CONFIG, "the user data of this instance is not base64");
    *ret_len = (size_t)n;
    return TB_EXIT_OK;
}

/* -- Azure ------------------------------------------------------------------------------------- */
static int provision_exchange(const struct provision *p, const char *what, const struct tb_buf *body,
                              struct tb_http_response *ret)
{
    static const char *const headers[] = {"x-ms-version: 2012-11-30", "Content-Type: text/xml;charset=utf-8",
                                          NULL};
    _cleanup_free_ char *url = tb_strf("%s/machine/?comp=%s", p->wire, what);
    char err[TB_HTTP_ERR_MAX];
    struct tb_http_request rq = {.method = body ? "POST" : NULL,
                                 .url = url,
                                 .headers = headers,
                                 .body = body ? body->data : NULL,
                                 .body_len = body ? body->len : 0,
                                 .timeout_ms = TIMEOUT_MS,
                                 .connect_timeout_ms = TIMEOUT_MS,
                                 .tls = &plain,
                                 .direct = true};

    if (!url || tb_http_do(&rq, ret, err) < 0)
        return provision_fail(TB_EXIT_TEMPFAIL, "Azure cannot be told how this machine is: %s",
                              url ? err : "not enough memory");
    if (ret->status < 200 || ret->status > 299)
        return provision_fail(TB_EXIT_TEMPFAIL, "Azure cannot be told how this machine is: status %ld",
                              ret->status);
    return TB_EXIT_OK;
}

/* why NULL: it is ready. Machines that have a disk of settings are none of Azure's. */
static int provision_report(const struct provision *p, const char *why)
{
    _cleanup_http_response_ struct tb_http_response goal = {0}, done = {0};
    _cleanup_buf_ struct tb_buf body = {0};
    struct provision_goal g;
    int rc;

    if (access(p->media, F_OK) == 0)
        return TB_EXIT_OK;
    rc = provision_exchange(p, "goalstate", NULL, &goal);
    if (rc != TB_EXIT_OK)
        return rc;
    if (provision_goal_parse(goal.body, goal.len, &g) < 0)
        return provision_fail(TB_EXIT_TEMPFAIL, "Azure's goal state of this machine cannot be read");
    if (provision_health(&g, why, &body) < 0)
        return provision_fail(TB_EXIT_IOERR, "not enough memory");
    return provision_exchange(p, "health", &body, &done);
}

/* -- what becomes of it ------------------------------------------------------------------------ */

/* Which credentials are the deployment's stands in a file beside the settings, before the first of them is
 * written: what a later document no longer has is removed then, whenever this program ended in between, and
 * what the image itself has there stays. */
static char *provision_list_path(const struct provision *p)
{
    const char *slash = strrchr(p->out, '/');

    return tb_strf("%.*s" PROVISIONED, slash ? (int)(slash - p->out + 1) : 0, p->out);
}

static int provision_read_list(const char *path, bool own[static PROVISION_CREDENTIALS])
{
    _cleanup_free_ char *text = NULL;
    char *line, *rest;
    int r = tb_read_file(path, PROVISION_DOCUMENT_MAX, &text, NULL);

    if (r < 0)
        return r == -ENOENT ? 0 : r;
    rest = text;
    while ((line = strsep(&rest, "\n")))
        for (size_t i = 0; i < PROVISION_CREDENTIALS; i++)
            own[i] |= strcmp(line, provision_credential(i)) == 0;
    return 0;
}

static int provision_write_list(const char *path, const bool own[static PROVISION_CREDENTIALS])
{
    _cleanup_buf_ struct tb_buf text = {0};
    int r = tb_buf_puts(&text, "# Credentials of the instance metadata, by tb-provision.\n");

    for (size_t i = 0; r == 0 && i < PROVISION_CREDENTIALS; i++)
        if (own[i])
            r = tb_buf_printf(&text, "%s\n", provision_credential(i));
    return r < 0 ? r : tb_write_file_atomic(path, text.data, text.len, 0640);
}

static int provision_fail_path(const char *path, int r)
{
    return provision_fail(TB_EXIT_IOERR, "%s: %s", path ? path : "a path", strerror(-r));
}

static char *provision_credential_path(const struct provision *p, const char *name, const char *suffix)
{
    return tb_strf("%s/trustbridge.%s%s", p->credstore, name, suffix);
}

/* What the image itself has under a name that a document takes gets a second name, before the list says that
 * it is the deployment's: with the document's it comes back. */
static int provision_keep_images(const struct provision *p, const struct provision_document *d,
                                 const bool own[static PROVISION_CREDENTIALS])
{
    for (size_t i = 0; i < PROVISION_CREDENTIALS; i++) {
        const char *name = provision_credential(i);
        _cleanup_free_ char *path = provision_credential_path(p, name, ""),
                            *kept = provision_credential_path(p, name, KEPT);

        if (own[i] || !tb_json_member(d->credentials, name))
            continue;
        if (!path || !kept || (link(path, kept) < 0 && errno != ENOENT && errno != EEXIST))
            return provision_fail_path(path, path && kept ? -errno : -ENOMEM);
    }
    return TB_EXIT_OK;
}

/* The image's own comes back, or nothing is there. It keeps its second name until the list is written: else
 * who is stopped in between would take it for the deployment's. */
static int provision_remove_credential(const struct provision *p, const char *name)
{
    _cleanup_free_ char *path = provision_credential_path(p, name, ""),
                        *kept = provision_credential_path(p, name, KEPT),
                        *new = provision_credential_path(p, name, ".new");

    if (!path || !kept || !new)
        return provision_fail_path(path, -ENOMEM);
    (void)unlink(new);
    if (link(kept, new) == 0) {
        if (rename(new, path) < 0)
            return provision_fail_path(path, -errno);
        (void)unlink(new); /* the same file already: nothing was renamed */
        return TB_EXIT_OK;
    }
    if (errno != ENOENT || (unlink(path) < 0 && errno != ENOENT))
        return provision_fail_path(path, -errno);
    return TB_EXIT_OK;
}

static void provision_forget_images(const struct provision *p, const bool own[static PROVISION_CREDENTIALS])
{
    for (size_t i = 0; i < PROVISION_CREDENTIALS; i++) {
        _cleanup_free_ char *kept = provision_credential_path(p, provision_credential(i), KEPT);

        if (!own[i] && kept)
            (void)unlink(kept);
    }
}

static int provision_write_credentials(const struct provision *p, const struct provision_document *d)
{
    const cJSON *m;

    cJSON_ArrayForEach (m, d->credentials) {
        _cleanup_free_ char *path = provision_credential_path(p, m->string, "");
        int r = path ? tb_write_file_atomic(path, m->valuestring, strlen(m->valuestring), 0600) : -ENOMEM;

        if (r < 0)
            return provision_fail_path(path, r);
    }
    return TB_EXIT_OK;
}

/* Those of an earlier document: nobody names them any more. */
static int provision_remove_credentials(const struct provision *p, const struct provision_document *d,
                                        bool own[static PROVISION_CREDENTIALS])
{
    for (size_t i = 0; i < PROVISION_CREDENTIALS; i++) {
        int rc;

        if (!own[i] || tb_json_member(d->credentials, provision_credential(i)))
            continue;
        rc = provision_remove_credential(p, provision_credential(i));
        if (rc != TB_EXIT_OK)
            return rc;
        own[i] = false;
    }
    return TB_EXIT_OK;
}

/* New credentials, the settings that name them, and then the old ones go. */
static int provision_exchange_files(const struct provision *p, const struct provision_document *d,
                                    const struct tb_buf *settings, const char *list)
{
    bool own[PROVISION_CREDENTIALS] = {false};
    int rc, r = provision_read_list(list, own);

    if (r < 0)
        return provision_fail_path(list, r);
    rc = provision_keep_images(p, d, own);
    if (rc != TB_EXIT_OK)
        return rc;
    for (size_t i = 0; i < PROVISION_CREDENTIALS; i++)
        own[i] |= tb_json_member(d->credentials, provision_credential(i)) != NULL;
    r = provision_write_list(list, own);
    if (r < 0)
        return provision_fail_path(list, r);
    rc = provision_write_credentials(p, d);
    if (rc != TB_EXIT_OK)
        return rc;
    r = tb_write_file_atomic(p->out, settings->data, settings->len, 0640);
    if (r < 0)
        return provision_fail_path(p->out, r);
    rc = provision_remove_credentials(p, d, own);
    if (rc != TB_EXIT_OK)
        return rc;
    r = provision_write_list(list, own);
    if (r < 0)
        return provision_fail_path(list, r);
    provision_forget_images(p, own);
    return TB_EXIT_OK;
}

static int provision_write(const struct provision *p, const char *image, size_t len,
                           const struct provision_document *d)
{
    _cleanup_buf_ struct tb_buf text = {0};
    _cleanup_free_ char *list = provision_list_path(p);
    int r = list ? provision_settings(image, len, d, &text) : -ENOMEM;

    if (r == -EINVAL)
        return provision_fail(TB_EXIT_CONFIG,
                              "%s: a line that is no setting, or a quote that stays open; make the image "
                              "with another",
                              p->image);
    return r < 0 ? provision_fail(TB_EXIT_IOERR, "%s", strerror(-r))
                 : provision_exchange_files(p, d, &text, list);
}

static int provision_take(const struct provision *p, const char *image, size_t image_len)
{
    _cleanup_(provision_document_clear) struct provision_document d = {0};
    _cleanup_free_ char *text = NULL;
    char err[PROVISION_ERR_MAX], why[PROVISION_ERR_MAX + 80];
    size_t len = 0;
    bool disk = access(p->media, F_OK) == 0;
    int rc = TB_EXIT_OK, r = disk ? provision_read_media(p->media, &text, &len) : 0;

    if (r < 0)
        return provision_fail(TB_EXIT_TEMPFAIL, "%s: %s", p->media, strerror(-r));
    if (!disk)
        rc = provision_read_imds(image, image_len, &text, &len);
    if (rc != TB_EXIT_OK)
        return rc;
    r = provision_parse(text, len, &d, err);
    tb_erase(text, len);
    if (r == 0)
        r = provision_check_image(image, image_len, &d, err);
    if (r == 0)
        return provision_write(p, image, image_len, &d);
    snprintf(why, sizeof(why), "%s: %s", disk ? p->media : "the user data of this instance", err);
    (void)provision_report(p, why);
    return provision_fail(r == -EPERM ? TB_EXIT_NOPERM : TB_EXIT_CONFIG, "%s", why);
}

int main(int argc, char **argv)
{
    struct provision p = {.image = "/etc/trustbridge/image.env",
                          .media = "/dev/disk/by-id/virtio-tb-settings",
                          .wire = WIRE_DEFAULT,
                          .out = "/etc/trustbridge/trustbridge.env",
                          .credstore = "/etc/credstore"};
    struct tb_options parsed = {.rows = options};
    _cleanup_free_ char *image = NULL;
    size_t len;
    int r;

    if (tb_options_parse(&parsed, &p, argc, argv) < 0)
        return provision_fail(TB_EXIT_USAGE, "%s; see tb-provision --help", parsed.error);
    if (optind < argc)
        return provision_fail(TB_EXIT_USAGE, "unexpected argument '%s'", argv[optind]);
    if (p.help) {
        fputs(help_before, stdout);
        tb_options_help(options, stdout, NULL);
        fputs(help_after, stdout);
        return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    }
    if (p.version) {
        puts("tb-provision " TB_VERSION);
        return TB_EXIT_OK;
    }
    if (p.ready)
        return provision_report(&p, NULL);
    r = tb_read_file(p.image, TB_ENVFILE_MAX, &image, &len);
    if (r < 0)
        return provision_fail(r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR,
                              "%s: %s; an image that is closed has its settings there", p.image,
                              strerror(-r));
    return provision_take(&p, image, len);
}
