/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/settings.h"

#include "provider/cli/output.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

/* Names of the environment: those of the first TrustBridge first. */
const struct tbpkg_setting settings[] = {
    {"azure.storage_account", "AZURE_STORAGE_ACCOUNT", "storage account", NULL},
    {"azure.container", "AZURE_STORAGE_CONTAINER", "container of the storage account", "models"},
    {"azure.endpoint", NULL, "blob endpoint, when it is not Azure's own",
     "https://ACCOUNT.blob.core.windows.net"},
    {"controlplane.endpoint", "TB_EDC_ENDPOINT", "URL of the control plane", NULL},
    {"controlplane.token_file", "TB_EDC_TOKEN_FILE", "file of its bearer token", "what tbpkg login keeps"},
    {"controlplane.client_cert", "TB_CLIENT_CERT_PATH", "client certificate for it", NULL},
    {"controlplane.client_key", "TB_CLIENT_KEY_PATH", "private key of that certificate", NULL},
    {"tls.ca_file", "TB_CA_FILE", "certificate authorities to trust", "the system's"},
    {"docker.registry", "DOCKER_REGISTRY AZURE_CONTAINER_REGISTRY", "registry for container images", NULL},
    {"docker.image_name", "DOCKER_IMAGE_NAME", "name of the container image", "trustbridge-runtime"},
    {"docker.base_image", "DOCKER_BASE_IMAGE", "image to build on", NULL},
    {"build.deb_dir", NULL, "directory of the packages that go into an image", NULL},
    {"build.template_dir", NULL, "directory of the Packer templates", "/usr/share/trustbridge/packer"},
    {"package.vm_image", NULL, "image of the machines in a package", NULL},
    {"package.template_dir", NULL, "directory of the templates of a package",
     "/usr/share/trustbridge/managed-app"},
    {"encryption.chunk_bytes", "TB_CHUNK_BYTES", "plaintext bytes in a record", "1M"},
    {"signing.key", NULL, "secret key that manifests are signed with", NULL},
    {"signing.passphrase_file", NULL, "file of its passphrase", NULL},
    {"signing.provider_key", "TB_PROVIDER_KEY", "public keys that manifests must be signed with", NULL},
};
const size_t n_settings = ARRAY_SIZE(settings);

static size_t settings_index_of(const char *name, size_t n)
{
    for (size_t i = 0; i < n_settings; i++)
        if (strncmp(settings[i].name, name, n) == 0 && settings[i].name[n] == '\0')
            return i;
    return n_settings;
}

/* -- the grammar ------------------------------------------------------------------------------- */

struct parse {
    int (*set)(void *ctx, size_t index, const char *value);
    void *ctx;
    bool seen[ARRAY_SIZE(settings)];
    int r; /* of the first bad line */
    char reason[SETTINGS_ERR_MAX - 32];
};

static int settings_on_pair(void *user, const char *section, const char *name, const char *value)
{
    struct parse *p = user;
    char full[128];
    size_t i;

    if (p->r < 0)
        return 1; /* the library goes on to the end; the first error counts */
    snprintf(full, sizeof(full), "%s.%s", section, name);
    i = settings_index_of(full, strlen(full));
    p->r = -EINVAL;
    if (i == n_settings)
        snprintf(p->reason, sizeof(p->reason), "unknown setting '%.60s' in [%.60s]", name, section);
    else if (p->seen[i])
        snprintf(p->reason, sizeof(p->reason), "'%s' is set twice", settings[i].name);
    else if (!*value)
        snprintf(p->reason, sizeof(p->reason), "'%s' has no value", settings[i].name);
    else {
        p->seen[i] = true;
        p->r = p->set(p->ctx, i, value);
        snprintf(p->reason, sizeof(p->reason), "%s", strerror(-p->r));
    }
    return p->r == 0;
}

/* The library's lines are short, and an indented one would continue the value before it: neither is meant. */
static int settings_copy_lines(const char *buf, size_t len, char *out, char err[static SETTINGS_ERR_MAX])
{
    unsigned line = 0;

    while (len > 0) {
        const char *nl = memchr(buf, '\n', len);
        size_t n = nl ? (size_t)(nl - buf) : len, all = nl ? n + 1 : n;

        line++;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)buf[i] < 0x20 && buf[i] != '\t' && buf[i] != '\r') {
                snprintf(err, SETTINGS_ERR_MAX, "line %u: holds a control character", line);
                return -EINVAL;
            }
        for (; n > 0 && isspace((unsigned char)*buf); n--, all--)
            buf++, len--;
        if (n > SETTINGS_LINE_MAX) {
            snprintf(err, SETTINGS_ERR_MAX, "line %u: is longer than %d bytes", line, SETTINGS_LINE_MAX);
            return -EINVAL;
        }
        memcpy(out, buf, n);
        out += n;
        *out++ = '\n';
        buf += all;
        len -= all;
    }
    *out = '\0';
    return 0;
}

int settings_parse(const char *buf, size_t len, int (*set)(void *ctx, size_t index, const char *value),
                   void *ctx, char err[static SETTINGS_ERR_MAX])
{
    struct parse p = {.set = set, .ctx = ctx};
    _cleanup_free_ char *text = malloc(len + 2);
    int line;

    if (!text) {
        snprintf(err, SETTINGS_ERR_MAX, "%s", strerror(ENOMEM));
        return -ENOMEM;
    }
    if (settings_copy_lines(buf, len, text, err) < 0)
        return -EINVAL;
    line = ini_parse_string(text, settings_on_pair, &p);
    if (line == 0 && p.r == 0)
        return 0;
    snprintf(err, SETTINGS_ERR_MAX, "line %d: %s", line,
             p.r < 0 ? p.reason : "is neither [SECTION] nor KEY = VALUE");
    return p.r < 0 ? p.r : -EINVAL;
}

/* -- the file ---------------------------------------------------------------------------------- */

static char *values[ARRAY_SIZE(settings)]; /* of the file */
static char *file_path;
static bool file_read;

static int settings_keep(void *ctx, size_t index, const char *value)
{
    free(values[index]);
    values[index] = strdup(value);
    return values[index] ? 0 : -ENOMEM;
}

static char *settings_default_path(void)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (xdg && *xdg == '/')
        return tb_strf("%s/trustbridge/tbpkg.ini", xdg);
    return home && *home ? tb_strf("%s/.config/trustbridge/tbpkg.ini", home) : NULL;
}

/* Whoever can write it can name another control plane, which would be given the keys. */
static int settings_check_owner(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && (st.st_mode & S_IWOTH) && S_ISREG(st.st_mode))
        return tbpkg_fail(path, "is writable by everyone", "run chmod o-w");
    return CLI_OK;
}

int settings_load(const char *path)
{
    _cleanup_free_ char *text = NULL, *name = path ? strdup(path) : settings_default_path();
    char err[SETTINGS_ERR_MAX];
    size_t len;
    int r;

    if (!name)
        return path ? tbpkg_fail_errno(path, -ENOMEM) : CLI_OK;
    if (file_path && strcmp(file_path, name) == 0)
        return CLI_OK;
    for (size_t i = 0; i < n_settings; i++)
        tb_freep(&values[i]);
    tb_freep(&file_path);
    file_read = false;
    r = tb_read_file(name, SETTINGS_FILE_MAX, &text, &len);
    if (r == -ENOENT && !path) {
        file_path = TAKE_PTR(name);
        return CLI_OK;
    }
    if (r < 0)
        return tbpkg_fail_errno(name, r);
    if (settings_check_owner(name) != CLI_OK)
        return CLI_FAILED;
    r = settings_parse(text, len, settings_keep, NULL, err);
    if (r < 0)
        return tbpkg_fail(name, err, "tbpkg config show lists the settings there are");
    file_read = true;
    file_path = TAKE_PTR(name);
    return CLI_OK;
}

const char *settings_path(bool *ret_read)
{
    *ret_read = file_read;
    return file_path;
}

/* -- values ------------------------------------------------------------------------------------ */

const char *setting_env(const char *name)
{
    size_t i = settings_index_of(name, strlen(name));

    assert(i < n_settings);
    return settings[i].env;
}

static char *settings_from_environment(const char *names, char *ret_name, size_t size)
{
    while (names && *names) {
        size_t n = strcspn(names, " ");
        char *v;

        snprintf(ret_name, size, "%.*s", (int)n, names);
        v = getenv(ret_name);
        if (v && *v)
            return v;
        names += n + (names[n] == ' ');
    }
    return NULL;
}

bool setting_get(const char *name, struct setting_value *ret)
{
    size_t i = settings_index_of(name, strlen(name));

    assert(i < n_settings); /* tables of options name only what there is */
    ret->value = settings_from_environment(settings[i].env, ret->source, sizeof(ret->source));
    if (ret->value)
        return true;
    ret->value = values[i];
    snprintf(ret->source, sizeof(ret->source), "%.200s: %s", file_path ? file_path : "", settings[i].name);
    return ret->value;
}
