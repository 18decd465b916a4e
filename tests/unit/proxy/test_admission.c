/* SPDX-License-Identifier: Apache-2.0 */
/* Routes, keys, admission. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/gate/admission.h"
#include "proxy/gate/routes.h"

static bool allowed(const char *globs, const char *path)
{
    return tb_route_match(globs, path, strlen(path)) == TB_ROUTE_ALLOWED;
}

static void test_routes(void **unused)
{
    assert_true(allowed("/v1/*", "/v1/chat/completions"));
    assert_false(allowed("/v1/*", "/v1"));
    assert_false(allowed("/v1/*", "/v1x/y"));
    assert_false(allowed("/v1/*", "/V1/x"));
    assert_true(allowed("/a, /b/*/c", "/b/x/y/c"));
    assert_false(allowed("/a, /b/*/c", "/b/x/y/cd"));
    assert_true(allowed("/a, /b/*/c", "/a"));
    assert_false(allowed("", "/a"));
    assert_null(tb_routes_check("/v1/*,/x"));
    assert_non_null(tb_routes_check("v1/*"));
    assert_non_null(tb_routes_check(" , "));
}

/* The memory says what the match says, whatever was asked before. */
static void test_route_memory(void **unused)
{
    struct tb_route_cache cache = {0};
    char path[80];

    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 500; i++) {
            size_t len =
                (size_t)snprintf(path, sizeof(path), "%s%.*d", i % 3 ? "/v1/" : "/x/", 1 + i % 70, i);

            assert_int_equal(tb_route_look_up(&cache, "/v1/*", path, len),
                             tb_route_match("/v1/*", path, len));
        }
    assert_int_equal(tb_route_tuning(&cache, "/v1/load_lora_adapter", 21),
                     TB_TUNING_ADAPTS); /* not asked yet */
    assert_int_equal(tb_route_look_up(&cache, "/v1/*", "/v1/load_lora_adapter", 21), TB_ROUTE_ADMIN);
    assert_int_equal(tb_route_tuning(&cache, "/v1/load_lora_adapter", 21), TB_TUNING_ADAPTS);
    assert_int_equal(tb_route_tuning(&cache, "", 0), TB_TUNING_NONE);
    assert_int_equal(tb_route_look_up(&cache, "/v1/*", "/v1/load_lora_adapter", 21), TB_ROUTE_ADMIN);
}

/* SHA-256 of "abc" */
#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define NOBODY "0000000000000000000000000000000000000000000000000000000000000000"

static void test_keys(void **unused)
{
    const char *text = "# c\n\nalice:" ABC "\r\nbob:" NOBODY "  ";
    struct tb_api_keys k = {0};
    char err[TB_API_KEYS_ERR_MAX];

    assert_int_equal(tb_api_keys_parse(text, strlen(text), &k, err), 0);
    assert_int_equal(k.n, 2);
    assert_non_null(tb_api_keys_find(&k, "abc", 3));
    assert_null(tb_api_keys_find(&k, "abcd", 4));
    assert_null(tb_api_keys_find(&k, "", 0));
    tb_api_keys_clear(&k);
    assert_int_equal(tb_api_keys_parse("a:" ABC "\nx:secret", 3 + 64 + 8, &k, err), -EINVAL);
    assert_string_equal(
        err, "line 2 is not name:sha256 with 64 hex digits; make them with: printf %s KEY | sha256sum");
    assert_int_equal(tb_api_keys_parse("a b:" ABC, 68, &k, err), -EINVAL);
}

static int admitted(struct tb_admit_request rq, const char *code)
{
    struct tb_admit_result r;

    tb_admit(&rq, &r);
    assert_string_equal(r.error.code, code);
    return r.error.status;
}

static void test_admission_order(void **unused)
{
    static struct tb_request head = {0};
    struct tb_verdict v = {.state = TB_STATE_READY};
    struct tb_api_keys none = {0};
    struct tb_credentials credentials = {0};
    struct tb_cors_request cors = {0};
    struct tb_route_cache cache = {0};
    struct tb_target_refusal fine = {0}, bad = {400, "bad"}, nothing = {404, "nothing"};
    struct tb_cors_policy policy = {TB_CORS_ANY, NULL};
    struct tb_admit_request rq = {.method = "POST",
                                  .path = "/v1/x",
                                  .path_len = 5,
                                  .bad_target = &fine,
                                  .head = &head,
                                  .credentials = &credentials,
                                  .cors = &cors,
                                  .cors_policy = &policy,
                                  .verdict = &v,
                                  .routes = "/v1/*",
                                  .route_cache = &cache,
                                  .max_body = 10};

    assert_int_equal(admitted(rq, ""), 0);
    rq.path = "/v1/fine_tuning/jobs";
    rq.path_len = 20;
    assert_int_equal(admitted(rq, "finetuning_not_allowed"), 403);
    rq.finetune = TB_FINETUNE_FORBIDDEN;
    assert_int_equal(admitted(rq, "finetuning_not_allowed"), 403);
    rq.finetune = TB_FINETUNE_ALLOWED;
    assert_int_equal(admitted(rq, ""), 0);
    rq.path = "/v1/load_lora_adapter";
    rq.path_len = 21;
    assert_int_equal(admitted(rq, "not_found"), 404); /* no wildcard opens it */
    rq.routes = "/v1/load_lora_adapter";
    cache = (struct tb_route_cache){0};
    assert_int_equal(admitted(rq, ""), 0);
    rq.finetune = TB_FINETUNE_UNSIGNED;
    assert_int_equal(admitted(rq, ""), 0);
    rq.finetune = TB_FINETUNE_FORBIDDEN;
    assert_int_equal(admitted(rq, "finetuning_not_allowed"), 403);
    rq.routes = "/v1/*";
    cache = (struct tb_route_cache){0};
    rq.path = "/v1/x";
    rq.path_len = 5;
    assert_int_equal(admitted(rq, ""), 0);
    head.has_length = true;
    head.length = 11;
    assert_int_equal(admitted(rq, "body_too_large"), 413);
    rq.path = "/x";
    rq.path_len = 2;
    assert_int_equal(admitted(rq, "not_found"), 404);
    rq.keys = &none;
    assert_int_equal(admitted(rq, "invalid_api_key"), 401);
    credentials.conflict = true;
    assert_int_equal(admitted(rq, "conflicting_api_keys"), 400);
    v.state = TB_STATE_DECRYPT;
    assert_int_equal(admitted(rq, "not_ready"), 503);
    rq.lease_over = true;
    assert_int_equal(admitted(rq, "lease_expired"), 403);
    v = (struct tb_verdict){.state = TB_STATE_SUSPENDED, .reason = "Contract revoked\""};
    assert_int_equal(admitted(rq, "contract_revoked_"), 403);
    /* A browser's question is answered in each of these states. */
    rq.method = "OPTIONS";
    cors = (struct tb_cors_request){"https://page.example", "POST", NULL};
    assert_int_equal(admitted(rq, ""), 0);
    policy.mode = TB_CORS_NONE;
    assert_int_equal(admitted(rq, "origin_not_allowed"), 403);
    rq.audit = TB_ADMIT_REFUSE;
    assert_int_equal(admitted(rq, "audit_unavailable"), 503);
    rq.method = "CONNECT";
    assert_int_equal(admitted(rq, "method_not_allowed"), 405);
    rq.form = TB_TARGET_ASTERISK;
    assert_int_equal(admitted(rq, "bad_path"), 400);
    rq.bad_target = &nothing;
    assert_int_equal(admitted(rq, "not_found"), 404);
    rq.bad_target = &bad;
    assert_int_equal(admitted(rq, "bad_path"), 400);
    head.websocket = true;
    assert_int_equal(admitted(rq, "websocket_not_supported"), 400);
    head.n_lengths = 2;
    head.websocket = false;
    assert_int_equal(admitted(rq, "bad_request"), 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_route_memory),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_admission_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
