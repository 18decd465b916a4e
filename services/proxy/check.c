/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/check.h"

#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_check.h"
#include "common/io.h"
#include "common/pem_check.h"
#include "common/secret.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/keys.h"
#include "proxy/gate/routes.h"
#include "proxy/http/tls.h"

#define CHECK_USER "tb-proxy"
#define CHECK_LOGS_DIR "/var/log/trustbridge/"

/* What OpenSSL finds when it uses the pair, a key that is too short for one. */
static void check_tls_use(const struct tb_config *c, struct tb_findings *f)
{
    struct tb_tls_file cert = {"TB_TLS_CERT", c->tls_cert, NULL, 0},
                       key = {"TB_TLS_KEY", c->tls_key, NULL, 0};
    _cleanup_free_ char *cert_text = NULL;
    _cleanup_erase_string_ char *key_text = NULL;
    _cleanup_(tb_tls_done) struct tb_tls tls = {0};
    char err[TB_TLS_ERR_MAX], warning[TB_TLS_ERR_MAX];

    if (tb_read_file(cert.path, TB_PEM_MAX, &cert_text, &cert.len) < 0 ||
        tb_read_file(key.path, TB_PEM_MAX, &key_text, &key.len) < 0)
        return; /* it was said */
    cert.text = cert_text;
    key.text = key_text;
    if (tb_tls_use(&tls, &cert, &key, err, warning) < 0)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_TLS_CERT", "%s",
                        strncmp(err, "TB_TLS_CERT: ", 13) == 0 ? err + 13 : err);
}

static void check_tls(const struct tb_config *c, struct tb_findings *f)
{
    const struct tb_pem_pair pair = {"TB_TLS_CERT", c->tls_cert, "TB_TLS_KEY", c->tls_key, CHECK_USER};
    unsigned before = f->errors;

    tb_pem_check_pair(&pair, f);
    if (f->errors > before || !c->tls_cert || !c->tls_key)
        return;
    check_tls_use(c, f);
    tb_pem_note_names("TB_TLS_CERT", c->tls_cert, f);
}

static void check_api_keys(const struct tb_config *c, struct tb_findings *f)
{
    _cleanup_(tb_api_keys_clear) struct tb_api_keys keys = {0};
    _cleanup_free_ char *text = NULL;
    char err[TB_API_KEYS_ERR_MAX] = "out of memory";
    size_t len;

    if (!tb_file_check("TB_API_KEYS", c->api_keys, CHECK_USER, f))
        return;
    if (tb_read_file(c->api_keys, TB_API_KEYS_BYTES_MAX, &text, &len) < 0)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_API_KEYS", "%s cannot be read", c->api_keys);
    else if (tb_api_keys_parse(text, len, &keys, err) < 0)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_API_KEYS", "%s: %s", c->api_keys, err);
    else if (keys.n == 0)
        tb_findings_add(f, TB_FINDING_WARNING, 0, "TB_API_KEYS",
                        "%s holds no key, so every request will get 401; add lines name:sha256", c->api_keys);
}

/* LogsDirectory= of tb-proxy.service: when that starts, systemd makes the directory, or gives the one that is
 * there to the user, with all that is in it. A file system mounted there is root's until then. */
static bool check_made_by_unit(const char *path)
{
    const struct passwd *pw = getpwnam(CHECK_USER);
    struct stat st;

    if (strncmp(path, CHECK_LOGS_DIR, strlen(CHECK_LOGS_DIR)) != 0 ||
        strchr(path + strlen(CHECK_LOGS_DIR), '/'))
        return false;
    if (stat(CHECK_LOGS_DIR, &st) < 0)
        return errno == ENOENT;
    return S_ISDIR(st.st_mode) && pw && st.st_uid != pw->pw_uid &&
           (stat(path, &st) < 0 || S_ISREG(st.st_mode));
}

void tb_proxy_check(const struct tb_config *c, struct tb_findings *f)
{
    struct tb_cors_policy cors;
    const char *why = tb_routes_check(c->routes);

    if (why)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_ROUTES", "%s", why);
    why = tb_cors_parse(c->cors_origins, c->api_keys != NULL, &cors);
    if (why)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_CORS_ORIGINS", "%s", why);
    check_tls(c, f);
    if (c->api_keys)
        check_api_keys(c, f);
    if (c->audit_file && !check_made_by_unit(c->audit_file))
        tb_file_check_writable("TB_AUDIT_FILE", c->audit_file, CHECK_USER, f);
}
