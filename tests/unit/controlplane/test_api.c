/* SPDX-License-Identifier: Apache-2.0 */
/* The API's verdicts, at chosen times and with a chosen state of the store. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "controlplane/api/api.h"

#define NOW_US 1767873600000000ULL /* 2026-01-08T12:00:00Z */
#define TOKEN "0100000000000000000000000000000000000000000000000000000000000000"
#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define SHA "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define REGISTER(id, extra)                                                                                  \
    "{\"asset_id\":\"" id                                                                                    \
    "\",\"blob_urls\":{\"ciphertext\":\"https://s/c/a/model.tbenc\",\"manifest\":\"https://s/c/a/m\"},"      \
    "\"metadata\":{\"format\":\"tbenc/"                                                                      \
    "v1\",\"algo\":\"aes-256-gcm-chunked\",\"chunk_bytes\":1024,\"plaintext_bytes\":5,"                      \
    "\"sha256_ciphertext\":\"" SHA "\"}," extra "\"decryption_key_hex\":\"" KEY "\"}"
#define AUTHORIZE(contract, asset, hw)                                                                       \
    "{\"contract_id\":\"" contract "\",\"asset_id\":\"" asset "\",\"hw_id\":\"" hw                           \
    "\",\"client_version\":\"sentinel/0.1.0\"}"

static const struct tb_key master = {{7}}, token = {{1}};

struct fixture {
    char dir[32];
    struct cp_api api;
    struct cp_store *store;
};

static enum cp_proof proof;

static enum cp_proof prove(const struct cp_claim *c, const struct tb_http_tls *tls,
                           char err[static CP_PROOF_ERR_MAX])
{
    assert_string_equal(c->ciphertext_url, "https://s/c/a/model.tbenc");
    assert_string_equal(c->sha256_ciphertext, SHA);
    assert_int_equal(c->key->b[1], 0x11);
    strcpy(err, "for a reason");
    return proof;
}

static enum cp_proof prove_anything(const struct cp_claim *c, const struct tb_http_tls *tls,
                                    char err[static CP_PROOF_ERR_MAX])
{
    return CP_PROOF_GOOD;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    _cleanup_free_ char *path = NULL;
    char err[TB_DB_ERR_MAX];

    tb_log_set_level(TB_LOG_ERR);
    strcpy(f->dir, "/tmp/cp-api-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    path = tb_path_join(f->dir, "db");
    assert_int_equal(cp_keyring_open_file(&master, &f->api.keyring), 0);
    f->api.access.provider_token = &token;
    f->api.prove = prove;
    proof = CP_PROOF_GOOD;
    assert_int_equal(cp_store_open(path, true, &f->store, err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", f->dir);

    cp_store_close(f->store);
    cp_keyring_close(f->api.keyring);
    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
}

static void ask(struct fixture *f, struct cp_request rq, struct cp_reply *ret)
{
    rq.peer = "192.0.2.1";
    rq.body_len = rq.body ? strlen(rq.body) : 0;
    if (!rq.now_us)
        rq.now_us = NOW_US;
    cp_api_answer(&f->api, f->store, &rq, ret);
    assert_non_null(ret->body);
}

/* Asks and checks status and that the body has a text. */
static void expect(struct fixture *f, struct cp_request rq, unsigned status, const char *text)
{
    _cleanup_reply_ struct cp_reply r = {0};

    ask(f, rq, &r);
    if (r.status != status || !strstr(r.body, text))
        fail_msg("%s %s: %u %s; expected %u %s", rq.method, rq.path, r.status, r.body, status, text);
}

static struct cp_request post(const char *path, const char *body)
{
    return (struct cp_request){
        .method = "POST", .path = path, .authorization = "Bearer " TOKEN, .body = body};
}

static struct cp_request authorize(const char *body)
{
    return (struct cp_request){.method = "POST", .path = "/api/v1/license/authorize", .body = body};
}

static void register_asset(struct fixture *f)
{
    expect(f, post("/api/v1/assets/register", REGISTER("a", "")), 201,
           "\"status\":\"registered\",\"asset_id\":\"a\"");
}

static int put_contract(struct cp_store *s, void *ctx)
{
    return cp_store_put_contract(s, ctx, true);
}

static void put(struct fixture *f, struct cp_contract c)
{
    strcpy(c.contract_id, "c");
    c.lease_seconds = c.lease_seconds ? c.lease_seconds : 3600;
    assert_int_equal(cp_store_transact(f->store, put_contract, &c), 0);
}

static void test_plain_calls(void **state)
{
    struct fixture *f = *state;

    expect(f, (struct cp_request){.method = "GET", .path = "/api/v1/health"}, 200, "{\"status\":\"ok\"}");
    expect(f, (struct cp_request){.method = "HEAD", .path = "/health"}, 200, "{\"status\":\"healthy\"}");
    expect(f, (struct cp_request){.method = "GET", .path = "/api/v1/"}, 404, "\"not_found\"");
    expect(f, (struct cp_request){.method = "POST", .path = "/health"}, 405, "\"method_not_allowed\"");
    expect(f, (struct cp_request){.method = "GET", .path = "/api/v1/license/authorize"}, 405, "use POST");
    expect(f, (struct cp_request){.method = "DELETE", .path = "/api/v1/assets/register"}, 405, "use POST");
}

static void test_register_wants_the_token(void **state)
{
    static const char *const wrong[] = {
        NULL,           "",
        "Bearer",       "Bearer ",
        "Basic " TOKEN, "Bearer " TOKEN "0",
        TOKEN,          "Bearer 0200000000000000000000000000000000000000000000000000000000000000"};
    struct fixture *f = *state;
    struct cp_request rq = post("/api/v1/assets/register", REGISTER("a", ""));
    struct cp_asset a;

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        rq.authorization = wrong[i];
        expect(f, rq, 401, "\"unauthorized\"");
    }
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &a), -ENOENT);
    rq.authorization = "bearer  " TOKEN;
    expect(f, rq, 201, "registered");
}

static void test_register_replaces(void **state)
{
    struct fixture *f = *state;

    register_asset(f);
    expect(f, post("/api/v1/assets/register", REGISTER("a", "\"manifest_sha256\":\"" SHA "\",")), 200,
           "registered");
    expect(f, authorize(AUTHORIZE("contract-allow", "a", "h")), 200, "\"manifest_sha256\":\"" SHA "\"");
    expect(f, post("/api/v1/assets/register", "{}"), 400, "\"error\":\"invalid_request\",\"message\":");
    expect(f, post("/api/v1/assets/register", NULL), 400, "\"details\":\"the body is empty");
}

/* Nothing is kept that was not proved. */
static void test_register_wants_proof(void **state)
{
    static const struct {
        enum cp_proof proof;
        unsigned status;
        const char *error;
    } cases[] = {
        {CP_PROOF_WRONG_KEY, 422, "\"error\":\"wrong_key\""},
        {CP_PROOF_WRONG_BLOB, 422, "\"error\":\"wrong_blob\""},
        {CP_PROOF_WRONG_MANIFEST, 422, "\"error\":\"wrong_manifest\""},
        {CP_PROOF_MISSING, 422, "\"error\":\"blob_missing\""},
        {CP_PROOF_UNAVAILABLE, 503, "\"error\":\"storage_unavailable\""},
    };
    struct fixture *f = *state;
    struct cp_asset a;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        proof = cases[i].proof;
        expect(f, post("/api/v1/assets/register", REGISTER("a", "")), cases[i].status, cases[i].error);
        expect(f, post("/api/v1/assets/register", REGISTER("a", "")), cases[i].status, "for a reason");
        assert_int_equal(cp_store_get_asset(f->store, "a", 0, &a), -ENOENT);
    }
}

static struct cp_store *revokes;

static int revoke_token(struct cp_store *s, void *ctx)
{
    return cp_store_revoke_token(s, "early", NOW_US);
}

static enum cp_proof prove_while_it_is_revoked(const struct cp_claim *c, const struct tb_http_tls *tls,
                                               char err[static CP_PROOF_ERR_MAX])
{
    assert_int_equal(cp_store_transact(revokes, revoke_token, NULL), 0);
    return CP_PROOF_GOOD;
}

static int put_token(struct cp_store *s, void *ctx)
{
    return cp_store_put_token(s, ctx);
}

/* Fetching and opening the asset takes its time. */
static void test_a_token_that_ends_during_the_proof_registers_nothing(void **state)
{
    struct cp_token t = {.name = "early", .scopes = "publisher", .expires_us = NOW_US + 1000000};
    struct cp_request rq = post("/api/v1/assets/register", REGISTER("a", ""));
    char text[CP_TOKEN_CHARS + 1], bearer[CP_TOKEN_CHARS + 10];
    struct fixture *f = *state;
    struct cp_asset a;

    assert_int_equal(cp_token_make(text), 0);
    assert_int_equal(cp_token_hash(text, t.token_sha256), 0);
    assert_int_equal(cp_store_transact(f->store, put_token, &t), 0);
    snprintf(bearer, sizeof(bearer), "Bearer %s", text);
    rq.authorization = bearer;
    revokes = f->store;
    f->api.prove = prove_while_it_is_revoked;
    expect(f, rq, 401, "the token was revoked");
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &a), -ENOENT);
}

static const char other_sha[] = "0000000000000000000000000000000000000000000000000000000000000001";

static void test_live_contracts_are_not_given_another_key(void **state)
{
    struct fixture *f = *state;
    char body[] = REGISTER("a", "\"replace\":false,");

    register_asset(f);
    put(f, (struct cp_contract){.asset_id = "a", .active = true});
    memcpy(strstr(body, SHA), other_sha, 64);
    proof = CP_PROOF_GOOD;
    f->api.prove = prove_anything;
    expect(f, post("/api/v1/assets/register", body), 409, "\"asset_in_use\"");
    expect(f, post("/api/v1/assets/register", body), 409,
           "2 live contracts use this asset"); /* and contract-allow */
    memcpy(strstr(body, "false"), "true ", 5);
    expect(f, post("/api/v1/assets/register", body), 200, "registered");
    expect(f, post("/api/v1/assets/register", REGISTER("a", "\"replace\":7,")), 400, "replace");
}

static void test_authorized_shape(void **state)
{
    struct fixture *f = *state;

    register_asset(f);
    expect(f, authorize(AUTHORIZE("contract-allow", "a", "h")), 200,
           "{\"status\":\"authorized\",\"sas_url\":\"https://s/c/a/model.tbenc\",\"manifest_url\":\"https://"
           "s/c/a/m\","
           "\"decryption_key_hex\":\"" KEY "\",\"expires_at\":\"2026-01-08T13:00:00Z\",\"asset_version\":1}");
}

static void test_denials(void **state)
{
    struct fixture *f = *state;

    register_asset(f);
    expect(f, authorize(AUTHORIZE("nobody", "a", "h")), 200,
           "{\"status\":\"denied\",\"reason\":\"contract_invalid\"}");
    expect(f, authorize(AUTHORIZE("contract-deny", "a", "h")), 200, "\"reason\":\"contract_invalid\"}");
    expect(f, authorize(AUTHORIZE("contract-allow", "b", "h")), 200, "\"reason\":\"asset_unknown\"}");
    put(f, (struct cp_contract){.asset_id = "b", .active = true});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"reason\":\"asset_mismatch\"}");
    put(f, (struct cp_contract){.asset_id = "a", .active = false});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"reason\":\"contract_inactive\"}");
    put(f, (struct cp_contract){.asset_id = "a", .active = false, .reason = "unpaid"});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"reason\":\"unpaid\"}");
    put(f, (struct cp_contract){.asset_id = "a", .active = true, .expires_us = NOW_US});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"reason\":\"contract_expired\"}");
    expect(f, authorize("{}"), 400, "{\"status\":\"denied\",\"reason\":\"invalid_request\"");
    expect(f, authorize(NULL), 400, "\"reason\":\"invalid_request\"");
}

static void test_lease_ends_with_the_contract(void **state)
{
    struct fixture *f = *state;

    register_asset(f);
    put(f, (struct cp_contract){.asset_id = "a", .active = true, .lease_seconds = 90});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"expires_at\":\"2026-01-08T12:01:30Z\"");
    put(f,
        (struct cp_contract){.asset_id = "a", .active = true, .expires_us = NOW_US + 1, .lease_seconds = 90});
    expect(f, authorize(AUTHORIZE("c", "a", "h")), 200, "\"expires_at\":\"2026-01-08T12:00:00Z\"");
}

static void test_machines_are_limited(void **state)
{
    struct fixture *f = *state;

    register_asset(f);
    put(f, (struct cp_contract){.asset_id = "a", .active = true, .max_hw = 1});
    expect(f, authorize(AUTHORIZE("c", "a", "h1")), 200, "\"authorized\"");
    expect(f, authorize(AUTHORIZE("c", "a", "h2")), 200, "\"reason\":\"hw_limit_reached\"}");
    expect(f, authorize(AUTHORIZE("c", "a", "h1")), 200, "\"authorized\"");
}

/* A machine that is turned away for another reason takes no place. */
static void test_denied_machines_do_not_count(void **state)
{
    struct fixture *f = *state;

    put(f, (struct cp_contract){.asset_id = "*", .active = true, .max_hw = 1});
    expect(f, authorize(AUTHORIZE("c", "a", "h1")), 200, "\"reason\":\"asset_unknown\"}");
    register_asset(f);
    expect(f, authorize(AUTHORIZE("c", "a", "h2")), 200, "\"authorized\"");
}

static void test_client_certificates(void **state)
{
    struct fixture *f = *state;
    struct cp_request rq = authorize(AUTHORIZE("contract-allow", "a", "h"));

    register_asset(f);
    rq.client_auth = CP_CLIENT_NO_CERT;
    expect(f, rq, 401, "\"reason\":\"client_certificate_required\"");
    rq.client_auth = CP_CLIENT_UNTRUSTED;
    expect(f, rq, 403, "\"reason\":\"client_certificate_untrusted\"");
    rq.client_auth = CP_CLIENT_VERIFIED;
    expect(f, rq, 200, "\"authorized\"");
    expect(f, (struct cp_request){.method = "GET", .path = "/health", .client_auth = CP_CLIENT_NO_CERT}, 200,
           "healthy");
}

static void test_another_master_key_is_a_server_error(void **state)
{
    static const struct tb_key other = {{8}};
    struct fixture *f = *state;

    register_asset(f);
    cp_keyring_close(f->api.keyring);
    assert_int_equal(cp_keyring_open_file(&other, &f->api.keyring), 0);
    tb_log_set_level(TB_LOG_ERR);
    expect(f, authorize(AUTHORIZE("contract-allow", "a", "h")), 500,
           "\"reason\":\"server_configuration_error\"");
}

static int see(const struct cp_log_entry *e, void *ctx)
{
    int *n = ctx;

    assert_string_equal(e->hw_id, "machine-7");
    assert_string_equal(e->client_name, "gpu-1");
    assert_string_equal(e->peer, "192.0.2.1");
    assert_int_equal(e->at_us, NOW_US);
    if (++*n == 1)
        assert_true(e->authorized);
    else
        assert_string_equal(e->reason, "contract_invalid");
    return 0;
}

static void test_verdicts_are_logged(void **state)
{
    struct fixture *f = *state;
    struct cp_request rq = authorize(AUTHORIZE("contract-allow", "a", "machine-7"));
    int n = 0;

    register_asset(f);
    rq.client_name = "gpu-1";
    expect(f, rq, 200, "\"authorized\"");
    rq.body = AUTHORIZE("contract-deny", "a", "machine-7");
    expect(f, rq, 200, "\"denied\"");
    assert_int_equal(cp_store_each_log(f->store, 10, see, &n), 0);
    assert_int_equal(n, 2);
}

static int see_version(const struct cp_log_entry *e, void *ctx)
{
    char *versions = ctx;

    assert_true(e->authorized);
    snprintf(versions + strlen(versions), 4, "%llu ", (unsigned long long)e->version);
    return 0;
}

/* A machine that still serves the version before gets two keys, and the log has both. */
static void test_every_key_that_goes_out_is_logged(void **state)
{
    struct fixture *f = *state;
    char body[] = REGISTER("a", "\"replace\":true,"), versions[20] = "";

    register_asset(f);
    expect(f, authorize(AUTHORIZE("contract-allow", "a", "h")), 200, "\"asset_version\":1");
    memcpy(strstr(body, SHA), other_sha, 64);
    f->api.prove = prove_anything;
    expect(f, post("/api/v1/assets/register", body), 200, "\"version\":2");
    expect(f,
           authorize("{\"contract_id\":\"contract-allow\",\"asset_id\":\"a\",\"hw_id\":\"h\","
                     "\"held_version\":1}"),
           200, "\"held\":{");
    assert_int_equal(cp_store_each_log(f->store, 10, see_version, versions), 0);
    assert_string_equal(versions, "1 2 1 ");
}

/* No entry in the log, no key: the verdict and its entry are one transaction. */
static void test_no_key_without_a_log_entry(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("echo 'DROP TABLE log' | sqlite3 %s/db", f->dir);
    _cleanup_reply_ struct cp_reply r = {0};
    struct cp_contract c;

    register_asset(f);
    assert_int_equal(system(cmd), 0);
    ask(f, authorize(AUTHORIZE("contract-allow", "a", "h")), &r);
    assert_int_equal(r.status, 500);
    assert_null(strstr(r.body, KEY));
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW_US, &c), 0);
    assert_int_equal(c.hw_used, 0);
}

static void test_too_large(void **state)
{
    _cleanup_reply_ struct cp_reply r = {0};

    cp_api_too_large(&r);
    assert_int_equal(r.status, 413);
    assert_non_null(strstr(r.body, "64 KiB"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_plain_calls),
        T(test_register_wants_the_token),
        T(test_register_replaces),
        T(test_register_wants_proof),
        T(test_a_token_that_ends_during_the_proof_registers_nothing),
        T(test_live_contracts_are_not_given_another_key),
        T(test_authorized_shape),
        T(test_denials),
        T(test_lease_ends_with_the_contract),
        T(test_machines_are_limited),
        T(test_denied_machines_do_not_count),
        T(test_client_certificates),
        T(test_another_master_key_is_a_server_error),
        T(test_verdicts_are_logged),
        T(test_every_key_that_goes_out_is_logged),
        T(test_no_key_without_a_log_entry),
        cmocka_unit_test(test_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
