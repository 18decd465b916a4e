/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/source.h"

#include <openssl/sha.h>
#include <string.h>

#include "common/backoff.h"
#include "common/fdpass.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/provider_key.h"
#include "hydrate/partial.h"
#include "common/secret.h"
#include "common/serving.h"
#include "common/text.h"
#include "hydrate/target.h"
#include "common/units.h"
#include "hydrate/verified.h"

#define MANIFEST_TRIES 6
#define MANIFEST_TRIES_OF_MORE 2 /* while there is another place */
#define MANIFEST_TIMEOUT_MS 30000

static int source_load_credential(const char *name, char **ret, size_t *ret_len, struct tb_outcome *o)
{
    _cleanup_secret_ char *value = NULL;
    size_t len;
    int r;

    r = tb_credential_read(name, &value, &len);
    if (r == -EACCES)
        return tb_outcome_set(o, TB_EXIT_NOPERM,
                              "tb-authorize refused the credential %s: the contract is denied or not "
                              "for this unit; its reason is in the log of tb-authorize",
                              name);
    if (r == -ENXIO)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "CREDENTIALS_DIRECTORY is not set; run tb-hydrate from its unit, or set it "
                              "to a directory with sas-url, manifest-url and manifest-sha256");
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "credential %s: %s; the unit needs LoadCredential=%s:/run/tb-keys.sock", name,
                              strerror(-r), name);
    while (len > 0 && (value[len - 1] == '\n' || value[len - 1] == '\r' || value[len - 1] == ' '))
        value[--len] = '\0';
    *ret = TAKE_PTR(value);
    *ret_len = len;
    return 0;
}

/* A URL on each line. *ret_n: how many there are, HYDRATE_PLACES_MAX at most. */
static int source_load_urls(const char *name, char **ret, const char *urls[static HYDRATE_PLACES_MAX],
                            unsigned *ret_n, struct tb_outcome *o)
{
    _cleanup_secret_ char *lines = NULL;
    char *rest = NULL;
    size_t len;
    int r;

    *ret_n = 0;
    r = source_load_credential(name, &lines, &len, o);
    if (r != 0)
        return r;
    if (strlen(lines) != len)
        *lines = '\0'; /* no URL */
    for (char *url = strtok_r(lines, "\r\n", &rest); url && *ret_n < HYDRATE_PLACES_MAX;
         url = strtok_r(NULL, "\r\n", &rest)) {
        if (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0) {
            *ret_n = 0;
            break;
        }
        urls[(*ret_n)++] = url;
    }
    if (*ret_n == 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "credential %s is no URL of http or https; see what the control plane "
                              "answers",
                              name);
    *ret = TAKE_PTR(lines);
    return 0;
}

static void source_use(struct hydrate_source *s, unsigned place)
{
    s->place = place;
    s->sas_url = s->sas_urls[place];
    s->manifest_url = s->manifest_urls[place];
}

unsigned source_others(const struct hydrate_source *s, const char *ret[static HYDRATE_PLACES_MAX - 1])
{
    unsigned n = 0;

    for (unsigned i = 1; i < s->n_places; i++) {
        const char *url = s->sas_urls[(s->place + i) % s->n_places];

        if (strcmp(url, s->sas_url) != 0)
            ret[n++] = url;
    }
    return n;
}

void source_next(struct hydrate_source *s)
{
    source_use(s, (s->place + 1) % s->n_places);
}

static int source_load_places(struct hydrate_source *s, struct tb_outcome *o)
{
    unsigned n = 0;
    int r = source_load_urls("sas-url", &s->sas_lines, s->sas_urls, &s->n_places, o);

    if (r == 0)
        r = source_load_urls("manifest-url", &s->manifest_lines, s->manifest_urls, &n, o);
    if (r != 0)
        return r;
    s->n_places = MIN(s->n_places, n);
    source_use(s, 0);
    return 0;
}

/* A unit from before there were versions has no such credential. */
static void source_load_version(struct hydrate_source *s)
{
    _cleanup_secret_ char *text = NULL;
    uint64_t version;
    size_t len;

    if (tb_credential_read("asset-version", &text, &len) == 0 && len > 0 && strlen(text) == len &&
        tb_uint_parse(text, 1, TB_JSON_INT_MAX, &version) == 0)
        s->version = version;
}

int source_load(struct hydrate_source *s, const struct tb_config *cfg, struct tb_outcome *o)
{
    char err[TB_MINISIGN_ERR_MAX];
    _cleanup_secret_ char *hex = NULL;
    size_t len;
    int r;

    r = source_load_places(s, o);
    if (r == 0)
        r = source_load_credential("manifest-sha256", &hex, &len, o);
    if (r != 0)
        return r;
    if (tb_provider_key_load(cfg->provider_key, &s->keys, err) < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG, "TB_PROVIDER_KEY: %s", err);
    source_load_version(s);
    s->bound = strcmp(hex, "none") != 0;
    if (s->bound && tb_hex_decode(hex, len, s->manifest_sha256, SHA256_BYTES) < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "credential manifest-sha256 is neither 64 hex digits nor \"none\"");
    return 0;
}

/* Two lines for each place. A unit from before there were overlays has no such credential. */
int source_load_base(const struct tbenc_base *b, struct hydrate_source *ret, struct tb_outcome *o)
{
    _cleanup_secret_ char *lines = NULL;
    const char *urls[2];
    char *rest = NULL;
    unsigned n = 0;
    size_t len;

    *ret = (struct hydrate_source){.version = b->version, .bound = true};
    memcpy(ret->manifest_sha256, b->manifest_sha256, sizeof(ret->manifest_sha256));
    if (tb_credential_read("base-urls", &lines, &len) < 0 || strlen(lines) != len)
        return 0;
    for (char *url = strtok_r(lines, "\r\n", &rest); url; url = strtok_r(NULL, "\r\n", &rest)) {
        if (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0)
            break;
        urls[n++] = url;
        if (n < ARRAY_SIZE(urls) || ret->n_places == HYDRATE_PLACES_MAX)
            continue;
        ret->sas_urls[ret->n_places] = urls[0];
        ret->manifest_urls[ret->n_places++] = urls[1];
        n = 0;
    }
    if (ret->n_places == 0 && strcmp(lines, "none") != 0)
        return tb_outcome_set(
            o, TB_EXIT_CONFIG,
            "credential base-urls is no pair of URLs of http or https; see what the control "
            "plane answers");
    ret->sas_lines = TAKE_PTR(lines);
    if (ret->n_places)
        source_use(ret, 0);
    return 0;
}

void source_clear(struct hydrate_source *s)
{
    tb_secret_free(s->sas_lines);
    tb_secret_free(s->manifest_lines);
    *s = (struct hydrate_source){0};
}

void manifest_clear(struct manifest *m)
{
    free(m->text);
    m->m = tbenc_manifest_free(m->m);
    *m = (struct manifest){0};
}

bool weights_name_free(const char *name)
{
    static const char *const suffixes[] = {PARTIAL_SUFFIX, PARTIAL_RECORD_SUFFIX, PARTIAL_LIVE_SUFFIX,
                                           VERIFIED_SUFFIX};

    if (name[0] == '.' || strcmp(name, TARGET_MANIFEST_NAME) == 0 || strcmp(name, TB_SERVING_NAME) == 0 ||
        tb_serving_is_place(name))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
        if (tb_text_ends_with(name, suffixes[i]))
            return false;
    return strlen(name) + strlen(VERIFIED_SUFFIX) + strlen(".XXXXXX.") <= TBENC_NAME_MAX;
}

int manifest_check(const struct hydrate_source *s, const char *asset_id, const char *text, size_t len,
                   struct tbenc_manifest **ret, struct tb_outcome *o)
{
    struct tbenc_error e = {0};
    struct tbenc_manifest *m;
    uint8_t sha[SHA256_BYTES];
    int r;

    SHA256((const uint8_t *)text, len, sha);
    if (s->bound && !tb_mem_equal(sha, s->manifest_sha256, sizeof(sha)))
        return tb_outcome_set(o, TB_EXIT_DATAERR,
                              "the manifest is not the one the contract names (SHA-256 differs); register "
                              "the manifest that was uploaded");
    r = tbenc_manifest_parse_signed(text, len, TBENC_OVERLAY, &s->keys, &m, &e);
    if (r == -ENOKEY)
        return tb_outcome_set(
            o, TB_EXIT_DATAERR,
            "%s; TB_PROVIDER_KEY pins whose signature counts: have the provider sign the manifest "
            "of %s (tbpkg sign), or pin the provider's new key",
            e.message, asset_id);
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_DATAERR, "bad manifest: %s", e.message);
    if (strcmp(m->asset_id, asset_id) != 0)
        tb_outcome_set(o, TB_EXIT_DATAERR,
                       "the manifest is of asset %s, TB_ASSET_ID is %s; check both and the blob URL",
                       m->asset_id, asset_id);
    else if (!weights_name_free(m->weights_filename))
        tb_outcome_set(o, TB_EXIT_DATAERR,
                       "bad manifest: weights_filename \"%s\" is a name tb-hydrate uses itself, or too "
                       "long; encrypt to another name",
                       m->weights_filename);
    else
        o->code = 0;
    if (o->code != 0)
        tbenc_manifest_free(m);
    else
        *ret = m;
    return o->code;
}

bool manifest_keep(const struct hydrate_source *s, const char *asset_id, const char *path,
                   struct manifest *ret)
{
    _cleanup_manifest_ struct manifest m = {0};
    struct tb_outcome ignored = {0};

    if (!s->bound || tb_read_file(path, TBENC_MANIFEST_MAX, &m.text, &m.len) < 0 ||
        manifest_check(s, asset_id, m.text, m.len, &m.m, &ignored) != 0)
        return false;
    *ret = m;
    m = (struct manifest){0};
    return true;
}

/* A response that is no manifest. */
static int manifest_judge_status(const struct tb_http_response *rs, const char *where, struct tb_outcome *o)
{
    long status = rs->status;
    char to[128], text[TB_OUTCOME_REASON_MAX];

    if (status >= 300 && status < 400) {
        tb_http_origin(rs->location ? rs->location : "", to, sizeof(to));
        return tb_outcome_set(o, TB_EXIT_CONFIG, "%s", hydrate_redirect_text(where, status, to, text));
    }
    if (status == 401 || status == 403)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL,
                              "%s refused access: status %ld; a restart asks for a fresh SAS URL", where,
                              status);
    if (status == 404 || status == 410)
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "%s: status %ld; upload the asset with tbpkg upload", where,
                              status);
    return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s: unexpected status %ld", where, status);
}

/* One attempt. -EAGAIN: worth another one; else 0 or a verdict. */
static int manifest_fetch_once(const struct hydrate_source *s, const struct tb_http_tls *tls,
                               struct tb_http_response *ret, struct tb_outcome *o)
{
    static const char *const headers[] = {"Accept: application/json", "x-ms-version: 2024-11-04", NULL};
    struct tb_http_request rq = {.url = s->manifest_url,
                                 .headers = headers,
                                 .max_response = TBENC_MANIFEST_MAX,
                                 .timeout_ms = MANIFEST_TIMEOUT_MS,
                                 .tls = tls};
    char err[TB_HTTP_ERR_MAX], where[256];
    int r;

    tb_url_redact(s->manifest_url, where, sizeof(where));
    ret->retry_after_ms = -1;
    r = tb_http_do(&rq, ret, err);
    if (r == -EFBIG)
        return tb_outcome_set(o, TB_EXIT_DATAERR, "bad manifest: %s", err);
    if (r < 0) {
        tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s", err);
        return r == -EKEYREJECTED || r == -EINVAL || r == -ENOMEM ? TB_EXIT_TEMPFAIL : -EAGAIN;
    }
    if (ret->status == 200)
        return 0;
    manifest_judge_status(ret, where, o);
    return tb_http_status_retryable(ret->status) ? -EAGAIN : o->code;
}

int manifest_fetch(const struct hydrate_source *s, const struct tb_config *cfg, const struct tb_http_tls *tls,
                   struct manifest *ret, struct tb_outcome *o)
{
    _cleanup_manifest_ struct manifest m = {0};
    struct tb_backoff backoff = {.base_ms = 500, .cap_ms = 30000};
    unsigned tries = s->place + 1 < s->n_places ? MANIFEST_TRIES_OF_MORE : MANIFEST_TRIES;
    int r;

    for (;;) {
        _cleanup_http_response_ struct tb_http_response rs = {0};
        uint64_t delay_ms;

        r = manifest_fetch_once(s, tls, &rs, o);
        if (r == 0) {
            m.len = rs.len;
            m.text = TAKE_PTR(rs.body);
            break;
        }
        if (r != -EAGAIN || backoff.attempt + 1 >= tries)
            return o->code;
        delay_ms = tb_backoff_next_ms(&backoff, rs.retry_after_ms);
        tb_info("manifest: %s; again in %llu ms", o->reason, (unsigned long long)delay_ms);
        tb_sleep_ms(delay_ms);
    }
    r = manifest_check(s, cfg->asset_id, m.text, m.len, &m.m, o);
    if (r != 0)
        return r;
    *ret = m;
    m = (struct manifest){0};
    return 0;
}
