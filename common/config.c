/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "common/events.h"
#include "common/exit.h"
#include "common/inet.h"
#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "common/usage.h"
#include "common/version.h"

enum config_kind {
    KIND_ID,       /* ^[A-Za-z0-9_-]{1,100}$ */
    KIND_ASSET_ID, /* tb_asset_id_valid() */
    KIND_ENDPOINT, /* https:// (http:// with TB_INSECURE_HTTP) */
    KIND_RUNTIME,  /* http://loopback[:port] or unix:/path */
    KIND_TARGET,   /* of a request: a path and maybe a query */
    KIND_PATH,     /* absolute */
    KIND_TEXT,
    KIND_ADDR, /* host:port */
    KIND_BOOL,
    KIND_UINT, /* uint64_t, with k/M/G suffix not allowed: as the first TrustBridge */
    KIND_UINT32,
    KIND_DURATION,
    KIND_DELIVERY,
    KIND_DIMENSIONS, /* tb_usage_dimensions_parse() */
    KIND_RESOURCE,   /* an ARM id or a GUID */
    KIND_IMDS,       /* http://loopback or link-local address[:port] */
    KIND_LEVEL,
};

struct config_setting {
    const char *name;
    enum config_kind kind;
    size_t offset;
    const char *def; /* NULL: optional without default, "": required */
    uint64_t min, max;
};

#define AT(member) offsetof(struct tb_config, member)
static const struct config_setting config_settings[] = {
    {"TB_INSECURE_HTTP", KIND_BOOL, AT(insecure_http), "false", 0, 0}, /* first: others depend on it */
    {"TB_CONTRACT_ID", KIND_ID, AT(contract_id), "", 0, 0},
    {"TB_ASSET_ID", KIND_ASSET_ID, AT(asset_id), "", 0, 0},
    {"TB_EDC_ENDPOINT", KIND_ENDPOINT, AT(edc_endpoint), "", 0, 0},
    {"TB_CA_FILE", KIND_PATH, AT(ca_file), NULL, 0, 0},
    {"TB_CLIENT_CERT_PATH", KIND_PATH, AT(client_cert_path), NULL, 0, 0},
    {"TB_CLIENT_KEY_PATH", KIND_PATH, AT(client_key_path), NULL, 0, 0},
    {"TB_LEASE_GRACE", KIND_DURATION, AT(lease_grace_us), "24h", 0, 0},
    {"TB_TARGET_DIR", KIND_PATH, AT(target_dir), "/mnt/resource/trustbridge", 0, 0},
    {"TB_DOWNLOAD_CONCURRENCY", KIND_UINT32, AT(download_concurrency), "4", 1, 32},
    {"TB_DOWNLOAD_CHUNK_BYTES", KIND_UINT, AT(download_chunk_bytes), "8388608", 1024, 67108864},
    {"TB_DELIVERY", KIND_DELIVERY, AT(delivery), "dir", 0, 0},
    {"TB_PIPE_PATH", KIND_PATH, AT(pipe_path), "/dev/shm/model-pipe", 0, 0},
    {"TB_READY_SIGNAL", KIND_PATH, AT(ready_signal), "/dev/shm/weights/ready.signal", 0, 0},
    {"TB_MODEL_DIR", KIND_PATH, AT(model_dir), "/dev/shm/trustbridge-model", 0, 0},
    {"TB_RUNTIME_EXEC", KIND_TEXT, AT(runtime_exec), NULL, 0, 0},
    {"TB_RUNTIME_ENGINE", KIND_BOOL, AT(runtime_engine), "false", 0, 0},
    {"TB_RUNTIME_URL", KIND_RUNTIME, AT(runtime_url), "http://127.0.0.1:8081", 0, 0},
    {"TB_RUNTIME_HEALTH", KIND_TARGET, AT(runtime_health), "/health", 0, 0},
    {"TB_PUBLIC_ADDR", KIND_ADDR, AT(public_addr), "0.0.0.0:8000", 0, 0},
    {"TB_HEALTH_ADDR", KIND_ADDR, AT(health_addr), "0.0.0.0:8001", 0, 0},
    {"TB_TLS_CERT", KIND_PATH, AT(tls_cert), NULL, 0, 0},
    {"TB_TLS_KEY", KIND_PATH, AT(tls_key), NULL, 0, 0},
    {"TB_API_KEYS", KIND_PATH, AT(api_keys), NULL, 0, 0},
    {"TB_CORS_ORIGINS", KIND_TEXT, AT(cors_origins), NULL, 0, 0},
    {"TB_ROUTES", KIND_TEXT, AT(routes), "/v1/*", 0, 0},
    {"TB_MAX_BODY_BYTES", KIND_UINT, AT(max_body_bytes), "4294967296", 1, UINT64_MAX / 2},
    {"TB_DEFAULT_MAX_TOKENS", KIND_UINT, AT(default_max_tokens), "4096", 1, 1000000000},
    {"TB_CONNECTIONS_PER_ADDRESS", KIND_UINT32, AT(connections_per_address), "1024", 0, 65536},
    {"TB_AUDIT_FILE", KIND_PATH, AT(audit_file), NULL, 0, 0},
    {"TB_BILLING_ENABLED", KIND_BOOL, AT(billing_enabled), "false", 0, 0},
    {"TB_BILLING_INTERVAL", KIND_DURATION, AT(billing_interval_us), "60s", 1000000, UINT64_MAX},
    {"TB_BILLING_DIMENSION", KIND_DIMENSIONS, AT(billing_dimensions), "requests", 0, 0},
    {"TB_BILLING_RESOURCE_ID", KIND_RESOURCE, AT(billing_resource_id), NULL, 0, 0},
    {"TB_BILLING_PLAN_ID", KIND_TEXT, AT(billing_plan_id), NULL, 0, 0},
    {"TB_METERING_ENDPOINT", KIND_ENDPOINT, AT(metering_endpoint), "https://marketplaceapi.microsoft.com", 0,
     0},
    {"TB_IMDS_ENDPOINT", KIND_IMDS, AT(imds_endpoint), "http://169.254.169.254", 0, 0},
    {"TB_ARM_ENDPOINT", KIND_ENDPOINT, AT(arm_endpoint), "https://management.azure.com", 0, 0},
    {"TB_RUN_DIR", KIND_PATH, AT(run_dir), "/run", 0, 0},
    {"TB_STATE_DIR", KIND_PATH, AT(state_dir), "/var/lib", 0, 0},
    {"TB_DISK_LOW_BYTES", KIND_UINT, AT(disk_low_bytes), "1073741824", 0, UINT64_MAX / 2},
    {"TB_LOG_LEVEL", KIND_LEVEL, AT(log_level), "info", 0, 0},
};

/* Names that belong to others (the runtime, tbpkg, the build) and are not ours to warn about. */
static const char *const foreign[] = {"TB_RUNTIME_HOST", "TB_RUNTIME_PORT",  "TB_STARTUP_TIMEOUT",
                                      "TB_MAX_LORAS",    "TB_MAX_LORA_RANK", "TB_EDC_TOKEN_FILE",
                                      "TB_BUILD"};

struct config_problems {
    char *text;
    size_t len;
    unsigned count;
};

static void config_problem(struct config_problems *p, const char *fmt, ...) _printf_(2, 3);
static void config_problem(struct config_problems *p, const char *fmt, ...)
{
    _cleanup_free_ char *line = NULL;
    char *grown;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&line, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    grown = realloc(p->text, p->len + (size_t)n + 4);
    if (!grown)
        return;
    p->text = grown;
    p->len += (size_t)sprintf(p->text + p->len, "%s  %s", p->len ? "\n" : "", line);
    p->count++;
}

static bool config_printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

/* Length of "scheme://" when s starts with it and a host follows, without userinfo, query or fragment; else
 * 0. */
static size_t url_scheme(const char *s, const char *scheme)
{
    size_t n = strlen(scheme);

    if (strncasecmp(s, scheme, n) != 0 || s[n] == '\0' || strchr("/:?#", s[n]) || strpbrk(s, "@?# \\"))
        return 0;
    return n;
}

static bool addr_valid(const char *s)
{
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];

    return tb_inet_split(s, host, port) == 0;
}

/* http:// on a loopback address, or one of link_local, with nothing after the port. */
static bool config_local_url(const char *s, bool link_local)
{
    size_t n = url_scheme(s, "http://"), host;
    const char *end;

    if (n == 0)
        return false;
    s += n;
    end = s + strcspn(s, "/");
    if (end[0] == '/' && end[1] != '\0')
        return false;
    host = *s == '[' ? strcspn(s, "]") + 1 : strcspn(s, ":/");
    if (s[host] == ':') {
        char port[8];
        uint64_t v;

        snprintf(port, sizeof(port), "%.*s", (int)MIN(end - s - (long)host - 1, 7L), s + host + 1);
        if (tb_uint_parse(port, 1, 65535, &v) < 0)
            return false;
    }
    if (link_local && strncmp(s, "169.254.", 8) == 0 && strspn(s, "0123456789.") == host)
        return true;
    return (host == 9 && strncasecmp(s, "localhost", 9) == 0) || (host == 5 && strncmp(s, "[::1]", 5) == 0) ||
           (host >= 7 && strncmp(s, "127.", 4) == 0 && strspn(s, "0123456789.") == host);
}

static bool config_runtime_url(const char *s)
{
    return strncmp(s, "unix:/", 6) == 0 ? s[6] != '\0' : config_local_url(s, false);
}

static bool config_target_valid(const char *s)
{
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '#')
            return false;
    return *s == '/';
}

/* An ARM id, or a GUID. */
static bool config_resource_id(const char *s)
{
    if (*s == '/')
        return strncasecmp(s, "/subscriptions/", 15) == 0 && s[15] && !strpbrk(s, " ?#\"\\");
    for (size_t i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-'
                                                    : !s[i] || !strchr("0123456789abcdefABCDEF", s[i]))
            return false;
    return s[36] == '\0';
}

static const char *config_check_text(const struct config_setting *s, const char *v, const struct tb_config *c)
{
    switch (s->kind) {
    case KIND_ID:
        return tb_id_valid(v) ? NULL : "must be 1 to 100 of A-Z a-z 0-9 _ -";
    case KIND_ASSET_ID:
        return tb_asset_id_valid(v) ? NULL : "must be " TB_ASSET_ID_WORDS ", as Llama-3.1-8B";
    case KIND_ENDPOINT:
        if (url_scheme(v, "https://") || (c->insecure_http && url_scheme(v, "http://")))
            return NULL;
        return url_scheme(v, "http://")
                   ? "must be https://; for a test set TB_INSECURE_HTTP=true"
                   : "must be an https:// URL with a host and without user, query or fragment";
    case KIND_RUNTIME:
        return config_runtime_url(v) ? NULL
                                     : "must be http:// on 127.0.0.0/8, [::1] or localhost, or unix:/path";
    case KIND_TARGET:
        return config_target_valid(v) ? NULL
                                      : "must be the path of a URL, as /health, without spaces or a fragment";
    case KIND_IMDS:
        return config_local_url(v, true)
                   ? NULL
                   : "must be http:// on 169.254.0.0/16, 127.0.0.0/8, [::1] or localhost";
    case KIND_RESOURCE:
        return config_resource_id(v) ? NULL
                                     : "must be the managed application's id, /subscriptions/..., or its "
                                       "resourceUsageId, a GUID";
    case KIND_PATH:
        return *v == '/' ? NULL : "must be an absolute path";
    case KIND_ADDR:
        return addr_valid(v) ? NULL : "must be host:port, [v6]:port or :port, the port 0 to 65535";
    default:
        return NULL;
    }
}

static int config_parse_bool(const char *v, bool *ret)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};

    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcasecmp(v, yes[i]) == 0) {
            *ret = true;
            return 0;
        }
        if (strcasecmp(v, no[i]) == 0) {
            *ret = false;
            return 0;
        }
    }
    return -EINVAL;
}

static void config_set_number(const struct config_setting *s, const char *v, void *field,
                              struct config_problems *p)
{
    uint64_t n;

    if (tb_uint_parse(v, s->min, s->max, &n) < 0)
        config_problem(p, "%s: \"%.40s\" must be a whole number from %llu to %llu", s->name, v,
                       (unsigned long long)s->min, (unsigned long long)s->max);
    else if (s->kind == KIND_UINT32)
        *(unsigned *)field = (unsigned)n;
    else
        *(uint64_t *)field = n;
}

static void config_set_duration(const struct config_setting *s, const char *v, uint64_t *field,
                                struct config_problems *p)
{
    if (tb_duration_parse(v, field) < 0)
        config_problem(p, "%s: \"%.40s\" must be a duration such as 90s, 10m or 24h", s->name, v);
    else if (*field < s->min)
        config_problem(p, "%s: \"%.40s\" is too short; at least %llus", s->name, v,
                       (unsigned long long)(s->min / 1000000));
}

static void config_set_dimensions(const struct config_setting *s, const char *v, uint32_t *field,
                                  struct config_problems *p)
{
    _cleanup_free_ char *known = NULL;

    if (tb_usage_dimensions_parse(v, field) == 0)
        return;
    for (int i = 0; i < TB_USAGE_DIMENSIONS; i++) {
        char *more = tb_strf("%s%s%s", known ? known : "", known ? ", " : "", tb_usage_dimension[i].name);

        free(known);
        known = more;
    }
    config_problem(p, "%s: \"%.80s\" must be one or several of %s, separated by commas", s->name, v,
                   known ? known : "");
}

static void config_set_text(const struct config_setting *s, const char *v, struct tb_config *c,
                            struct config_problems *p)
{
    const char *why =
        config_printable(v) ? config_check_text(s, v, c) : "must not contain control characters";
    char shown[80];

    if (why) {
        config_problem(p, "%s: \"%s\" %s", s->name,
                       config_printable(v) ? tb_url_redact(v, shown, sizeof(shown)) : "...", why);
        return;
    }
    *(char **)((char *)c + s->offset) = strdup(v);
}

static void config_set_one(const struct config_setting *s, const char *v, struct tb_config *c,
                           struct config_problems *p)
{
    void *field = (char *)c + s->offset;
    int level;

    switch (s->kind) {
    case KIND_BOOL:
        if (config_parse_bool(v, field) < 0)
            config_problem(p, "%s: \"%.40s\" must be true or false (1, yes, on; 0, no, off)", s->name, v);
        break;
    case KIND_UINT:
    case KIND_UINT32:
        config_set_number(s, v, field, p);
        break;
    case KIND_DURATION:
        config_set_duration(s, v, field, p);
        break;
    case KIND_DELIVERY:
        if (strcmp(v, "dir") != 0 && strcmp(v, "fifo") != 0)
            config_problem(p, "%s: \"%.40s\" must be dir or fifo", s->name, v);
        c->delivery = strcmp(v, "fifo") == 0 ? TB_DELIVERY_FIFO : TB_DELIVERY_DIR;
        break;
    case KIND_DIMENSIONS:
        config_set_dimensions(s, v, field, p);
        break;
    case KIND_LEVEL:
        level = tb_log_level_from_string(v);
        if (level < 0)
            config_problem(p, "%s: \"%.40s\" must be debug, info, warn or error", s->name, v);
        c->log_level = level;
        break;
    default:
        config_set_text(s, v, c, p);
    }
}

static const char *env_get(char *const *env, const char *name)
{
    size_t n = strlen(name);

    for (; *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return (*env)[n + 1] ? *env + n + 1 : NULL; /* empty is unset */
    return NULL;
}

static void config_check_together(const struct tb_config *c, struct config_problems *p)
{
    if (!c->client_cert_path != !c->client_key_path)
        config_problem(
            p,
            "%s: must be set too; a client certificate needs both TB_CLIENT_CERT_PATH and TB_CLIENT_KEY_PATH",
            c->client_cert_path ? "TB_CLIENT_KEY_PATH" : "TB_CLIENT_CERT_PATH");
    if (!c->tls_cert != !c->tls_key)
        config_problem(p, "%s: must be set too; TLS needs both TB_TLS_CERT and TB_TLS_KEY",
                       c->tls_cert ? "TB_TLS_KEY" : "TB_TLS_CERT");
    if (c->billing_enabled && !c->billing_plan_id)
        config_problem(p, "TB_BILLING_PLAN_ID: required when TB_BILLING_ENABLED is true");
}

static bool config_name_known(const char *entry, size_t n)
{
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++)
        if (strlen(config_settings[i].name) == n && memcmp(config_settings[i].name, entry, n) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
        if (strlen(foreign[i]) == n && memcmp(foreign[i], entry, n) == 0)
            return true;
    return false;
}

static char *config_unknown_names(char *const *env)
{
    struct config_problems w = {0};

    for (; *env; env++) {
        size_t n = strcspn(*env, "=");

        if (strncmp(*env, "TB_", 3) == 0 && !config_name_known(*env, n))
            config_problem(&w, "%.*s: unknown setting, ignored; see trustbridge.env(5)", (int)n, *env);
    }
    return w.text;
}

int tb_config_load(char *const *env, struct tb_config *ret, char **ret_errors, char **ret_warnings)
{
    _cleanup_config_ struct tb_config c = {0};
    struct config_problems p = {0};

    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++) {
        const struct config_setting *s = &config_settings[i];
        const char *v = env_get(env, s->name);

        if (!v)
            v = s->def;
        if (v && *v == '\0')
            config_problem(&p, "%s: required, not set", s->name);
        else if (v)
            config_set_one(s, v, &c, &p);
    }
    config_check_together(&c, &p);
    *ret_warnings = config_unknown_names(env);
    if (p.count > 0) {
        *ret_errors = tb_strf("%u configuration error%s:\n%s", p.count, p.count > 1 ? "s" : "", p.text);
        free(p.text);
        return -EINVAL;
    }
    *ret_errors = NULL;
    *ret = c;
    c = (struct tb_config){0};
    return 0;
}

void tb_config_clear(struct tb_config *c)
{
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++)
        switch (config_settings[i].kind) {
        case KIND_ID:
        case KIND_ASSET_ID:
        case KIND_ENDPOINT:
        case KIND_RUNTIME:
        case KIND_TARGET:
        case KIND_PATH:
        case KIND_TEXT:
        case KIND_ADDR:
        case KIND_RESOURCE:
        case KIND_IMDS:
            tb_freep((char *)c + config_settings[i].offset);
            break;
        default:
            break;
        }
}

static void config_log_lines(enum tb_log_level level, char *text)
{
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        tb_log_full(level, TB_EVENT_ENDED_CONFIG, NULL, "%s", line + strspn(line, " "));
}

extern char **environ;

void tb_config_main(int argc, char **argv, const char *program, const char *help, struct tb_config *ret)
{
    _cleanup_free_ char *errors = NULL, *warnings = NULL;
    int r;

    tb_log_init(program);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            exit(fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR);
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s %s\n", program, TB_VERSION);
            exit(TB_EXIT_OK);
        }
        fprintf(stderr, "%s: unknown argument \"%s\"; settings come from the environment, see %s --help\n",
                program, argv[i], program);
        exit(TB_EXIT_USAGE);
    }
    r = tb_config_load(environ, ret, &errors, &warnings);
    if (warnings)
        config_log_lines(TB_LOG_WARN, warnings);
    if (r < 0) {
        config_log_lines(TB_LOG_ERR, errors);
        exit(TB_EXIT_CONFIG);
    }
    tb_log_set_level(ret->log_level);
}
