/* SPDX-License-Identifier: Apache-2.0 */
#include "common/application.h"
#include "common/config.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/buf.h"
#include "common/config_rules.h"
#include "common/io.h"
#include "common/provider_key.h"

#define CONFIG_NAME_MAX 64

#define AT(member) offsetof(struct tb_config, member)
static const struct config_setting config_settings[] = {
    {"TB_INSECURE_HTTP", KIND_BOOL, AT(insecure_http), "false", 0, 0}, /* first: others depend on it */
    {"TB_CONTRACT_ID", KIND_ID, AT(contract_id), "", 0, 0},
    {"TB_ASSET_ID", KIND_ASSET_ID, AT(asset_id), "", 0, 0},
    {"TB_EDC_ENDPOINT", KIND_ENDPOINT, AT(edc_endpoint), "", 0, 0},
    {"TB_PROVIDER_KEY", KIND_PROVIDER_KEY, AT(provider_key), NULL, 0, 0},
    {"TB_CA_FILE", KIND_PATH, AT(ca_file), NULL, 0, 0},
    {"TB_CLIENT_CERT_PATH", KIND_PATH, AT(client_cert_path), NULL, 0, 0},
    {"TB_CLIENT_KEY_PATH", KIND_SECRET, AT(client_key_path), NULL, 0, 0},
    {"TB_TPM", KIND_PATH, AT(tpm), "/dev/tpmrm0", 0, 0},
    {"TB_LEASE_GRACE", KIND_DURATION, AT(lease_grace_us), "24h", 0, 0},
    {"TB_TARGET_DIR", KIND_PATH, AT(target_dir), "/mnt/resource/trustbridge", 0, 0},
    {"TB_DOWNLOAD_CONCURRENCY", KIND_UINT32, AT(download_concurrency), NULL, 1, 32},
    {"TB_DOWNLOAD_THREADS", KIND_UINT32, AT(download_threads), NULL, 1, 16},
    {"TB_DOWNLOAD_CHUNK_BYTES", KIND_UINT, AT(download_chunk_bytes), "8388608", 1024, 67108864},
    {"TB_BLOB_MIRROR", KIND_ENDPOINT, AT(blob_mirror), NULL, 0, 0},
    {"TB_BLOB_MIRROR_SAS", KIND_BOOL, AT(blob_mirror_sas), "true", 0, 0},
    {"TB_UPDATE", KIND_UPDATE, AT(update), "restart", 0, 0},
    {"TB_SWITCH_DRAIN", KIND_DURATION, AT(switch_drain_us), "30s", 0, UINT64_MAX},
    {"TB_SWITCH_HOLD", KIND_DURATION, AT(switch_hold_us), "60s", 0, UINT64_MAX},
    {"TB_SWITCH_TIMEOUT", KIND_DURATION, AT(switch_timeout_us), "30m", 1000000, UINT64_MAX},
    {"TB_DELIVERY", KIND_DELIVERY, AT(delivery), "auto", 0, 0},
    {"TB_VIEW_AFTER_READY", KIND_AFTER_READY, AT(view_close), "keep", 0, 0},
    {"TB_PIPE_PATH", KIND_PATH, AT(pipe_path), "/dev/shm/model-pipe", 0, 0},
    {"TB_READY_SIGNAL", KIND_PATH, AT(ready_signal), "/dev/shm/weights/ready.signal", 0, 0},
    {"TB_MODEL_DIR", KIND_PATH, AT(model_dir), "/dev/shm/trustbridge-model", 0, 0},
    {"TB_RUNTIME_EXEC", KIND_COMMAND, AT(runtime_exec), NULL, 0, 0},
    {"TB_RUNTIME_ENGINE", KIND_BOOL, AT(runtime_engine), "false", 0, 0},
    {"TB_RUNTIME_URL", KIND_RUNTIME, AT(runtime_url), "http://127.0.0.1:8081", 0, 0},
    {"TB_RUNTIME_HEALTH", KIND_TARGET, AT(runtime_health), "/health", 0, 0},
    {"TB_PUBLIC_ADDR", KIND_ADDR, AT(public_addr), "0.0.0.0:8000", 0, 0},
    {"TB_HEALTH_ADDR", KIND_ADDR, AT(health_addr), "0.0.0.0:8001", 0, 0},
    {"TB_TLS_CERT", KIND_PATH, AT(tls_cert), NULL, 0, 0},
    {"TB_TLS_KEY", KIND_SECRET, AT(tls_key), NULL, 0, 0},
    {"TB_API_KEYS", KIND_SECRET, AT(api_keys), NULL, 0, 0},
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

#define config_wrong(f, name, text) tb_findings_add(f, TB_FINDING_ERROR, 0, name, "%s", text)

/* --- names ---------------------------------------------------------------------------------------------- */

static bool config_name_known(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++)
        if (strcmp(config_settings[i].name, name) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
        if (strcmp(foreign[i], name) == 0)
            return true;
    return false;
}

/* How many letters must be added, left out, replaced or swapped with the next to make b of a, which has any
 * case and '-' for '_'. */
static unsigned config_name_distance(const char *a, const char *b)
{
    unsigned row[3][CONFIG_NAME_MAX + 1];
    size_t n = strlen(a), m = strlen(b);

    for (size_t j = 0; j <= m; j++)
        row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *now = row[i % 3], *last = row[(i - 1) % 3], *before = row[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            char c = a[i - 1] == '-' ? '_' : (char)toupper((unsigned char)a[i - 1]);
            char c1 = i > 1 ? (char)toupper((unsigned char)a[i - 2]) : '\0';
            unsigned best = MIN(MIN(now[j - 1], last[j]) + 1, last[j - 1] + (c != b[j - 1]));

            if (i > 1 && j > 1 && c == b[j - 2] && c1 == b[j - 1])
                best = MIN(best, before[j - 2] + 1);
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

/* The setting that was probably meant, or NULL. */
static const char *config_name_guess(const char *name)
{
    unsigned best = strncasecmp(name, "TB", 2) == 0 ? 4 : 2; /* the first distance that is too far */
    const char *found = NULL;

    if (strlen(name) > CONFIG_NAME_MAX || strlen(name) < 4)
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++) {
        const char *known = config_settings[i].name;
        unsigned d = strcasecmp(name, known + 3) == 0 ? 1 : config_name_distance(name, known);

        if (d < best) {
            best = d;
            found = known;
        }
    }
    return found;
}

/* A name that does not begin as ours do belongs to somebody else, the inference server for one, unless it is
 * almost one of ours. */
bool tb_config_check_name(const char *name, unsigned line, enum tb_finding_level level, struct tb_findings *f)
{
    const char *guess;

    if (config_name_known(name))
        return true;
    guess = config_name_guess(name);
    if (guess)
        tb_findings_add(f, level, line, name, "unknown setting, ignored; did you mean %s?", guess);
    else if (strncasecmp(name, "TB_", 3) == 0)
        tb_findings_add(f, level, line, name, "unknown setting, ignored; see trustbridge.env(5)");
    return false;
}

bool tb_config_shows_value(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++)
        if (strcmp(config_settings[i].name, name) == 0)
            return config_settings[i].kind != KIND_SECRET && config_settings[i].kind != KIND_COMMAND;
    return false;
}

static const char *env_get(char *const *env, const char *name)
{
    size_t n = strlen(name);

    for (; *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return (*env)[n + 1] ? *env + n + 1 : NULL; /* empty is unset */
    return NULL;
}

/* --- the whole ------------------------------------------------------------------------------------------ */

/* The contract that the purchase of this managed application made. */
static void config_resolve_contract(struct tb_config *c, struct tb_findings *f)
{
    char contract[TB_APPLICATION_CONTRACT_MAX + 1];

    if (!c->contract_id || strcmp(c->contract_id, TB_APPLICATION_CONTRACT) != 0)
        return;
    if (!c->billing_resource_id || tb_application_contract(c->billing_resource_id, contract) < 0) {
        config_wrong(f, "TB_CONTRACT_ID",
                     "\"" TB_APPLICATION_CONTRACT "\" is the contract of a purchase, and needs the managed "
                     "application's id in TB_BILLING_RESOURCE_ID");
        return;
    }
    free(c->contract_id);
    c->contract_id = strdup(contract);
    if (!c->contract_id)
        config_wrong(f, "TB_CONTRACT_ID", "out of memory");
}

/* What an image pins stays in force, whatever the settings of a deployment say. */
static void config_resolve_provider_key(struct tb_config *c, struct tb_findings *f)
{
    if (!tb_provider_key_pinned(TB_PROVIDER_KEY_IMAGE))
        return;
    if (tb_provider_key_contradicts(TB_PROVIDER_KEY_IMAGE, c->provider_key))
        config_wrong(f, "TB_PROVIDER_KEY",
                     "this image pins other keys, those in " TB_PROVIDER_KEY_IMAGE "; remove the line");
    free(c->provider_key);
    c->provider_key = strdup(TB_PROVIDER_KEY_IMAGE);
    if (!c->provider_key)
        config_wrong(f, "TB_PROVIDER_KEY", "out of memory");
}

static void config_check_together(struct tb_config *c, struct tb_findings *f)
{
    static const char client[] =
        "must be set too; a client certificate needs both TB_CLIENT_CERT_PATH and TB_CLIENT_KEY_PATH";
    static const char tls[] = "must be set too; TLS needs both TB_TLS_CERT and TB_TLS_KEY";

    if (!c->client_cert_path != !c->client_key_path)
        config_wrong(f, c->client_cert_path ? "TB_CLIENT_KEY_PATH" : "TB_CLIENT_CERT_PATH", client);
    if (!c->tls_cert != !c->tls_key)
        config_wrong(f, c->tls_cert ? "TB_TLS_KEY" : "TB_TLS_CERT", tls);
    if (c->billing_enabled && !c->billing_plan_id)
        config_wrong(f, "TB_BILLING_PLAN_ID", "required when TB_BILLING_ENABLED is true");
    config_resolve_contract(c, f);
    config_resolve_provider_key(c, f);
}

/* A setting whose value is wrong has its default, or is unset: what else is wrong can still be found. */
void tb_config_read(char *const *env, struct tb_config *ret, struct tb_findings *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(config_settings); i++) {
        const struct config_setting *s = &config_settings[i];
        const char *v = env_get(env, s->name);

        if (s->def && *s->def)
            config_rule_apply(s, s->def, ret, f);
        if (v)
            config_rule_apply(s, v, ret, f);
        else if (s->def && *s->def == '\0')
            config_wrong(f, s->name, TB_CONFIG_REQUIRED);
    }
    config_check_together(ret, f);
}

/* "NAME: text", one a line. */
static char *config_text(const struct tb_findings *f)
{
    _cleanup_buf_ struct tb_buf b = {0};

    for (size_t i = 0; i < f->n; i++) {
        tb_buf_puts(&b, i ? "\n  " : "  ");
        tb_buf_puts(&b, f->v[i].name);
        tb_buf_puts(&b, ": ");
        tb_buf_puts(&b, f->v[i].text);
    }
    tb_buf_append(&b, "", 1);
    return f->n > 0 && b.error == 0 ? TAKE_PTR(b.data) : NULL;
}

static char *config_unknown_names(char *const *env)
{
    _cleanup_findings_ struct tb_findings f = {0};

    for (; *env; env++) {
        _cleanup_free_ char *name = strndup(*env, strcspn(*env, "="));

        if (name && strncmp(name, "TB_", 3) == 0)
            (void)tb_config_check_name(name, 0, TB_FINDING_WARNING, &f);
    }
    return config_text(&f);
}

int tb_config_load(char *const *env, struct tb_config *ret, char **ret_errors, char **ret_warnings)
{
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_findings_ struct tb_findings f = {0};

    tb_config_read(env, &c, &f);
    *ret_warnings = config_unknown_names(env);
    if (f.errors > 0) {
        _cleanup_free_ char *text = config_text(&f);

        *ret_errors = tb_strf("%u configuration error%s:\n%s", f.errors, f.errors > 1 ? "s" : "",
                              text ? text : "  out of memory");
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
        if (config_kind_is_string(config_settings[i].kind))
            tb_freep((char *)c + config_settings[i].offset);
}
