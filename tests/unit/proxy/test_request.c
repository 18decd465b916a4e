/* SPDX-License-Identifier: Apache-2.0 */
/* Targets, routes, header fields, keys, admission. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/gate/admission.h"
#include "proxy/gate/routes.h"

static void test_targets(void **unused)
{
    static const char *const good[] = {
        "/", "/v1/x", "/v1/x?a=../b&c=%2f", "/v1/...", "/v1/..x", "/v1/.x/y.", "/v1/%41", "//"};
    static const char *const bad[] = {"",         "v1",      "http://h/v1", "*",         "/v1/..",
                                      "/v1/../x", "/./x",    "/v1/%2e%2e",  "/v1/.%2E/", "/v1/%2f",
                                      "/v1/%5c",  "/v1/\\x", "/v1/%00",     "/v1/%",     "/v1/%4",
                                      "/v1/%zz",  "/v1/x#y", "/v1/ x",      "/v1/\x80",  "/v1/x?\t"};
    size_t n;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_null(tb_target_check(good[i], &n));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_non_null(tb_target_check(bad[i], &n));
    assert_null(tb_target_check("/v1/x?a=b", &n));
    assert_int_equal(n, 5);
}

static bool allowed(const char *globs, const char *path)
{
    return tb_route_match_encoded(globs, path, strlen(path)) == TB_ROUTE_ALLOWED;
}

static void test_routes(void **unused)
{
    assert_true(allowed("/v1/*", "/v1/chat/completions"));
    assert_true(allowed("/v1/*", "/%761/chat"));
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

static void feed(struct tb_request_head *h, const char *name, const char *value)
{
    assert_int_equal(tb_request_field(h, name, strlen(name), value, strlen(value)), 0);
}

static const char *verdict(const char *const *fields)
{
    struct tb_request_head h = {0};
    const char *why;

    for (; *fields; fields += 2)
        feed(&h, fields[0], fields[1]);
    why = tb_request_check(&h);
    tb_request_head_clear(&h);
    return why;
}

static void test_fields(void **unused)
{
    struct tb_request_head h = {0};

    assert_null(verdict((const char *[]){"Host", "x", "Content-Length", "5", NULL}));
    assert_null(verdict((const char *[]){"Host", "x", "Transfer-Encoding", "chunked", NULL}));
    assert_non_null(verdict((const char *[]){"Content-Length", "5", "content-length", "5", NULL}));
    assert_non_null(verdict((const char *[]){"Content-Length", "5", "Transfer-Encoding", "chunked", NULL}));
    assert_non_null(verdict((const char *[]){"Transfer-Encoding", "chunked, identity", NULL}));
    assert_non_null(
        verdict((const char *[]){"Transfer-Encoding", "chunked", "Transfer-Encoding", "chunked", NULL}));
    assert_non_null(verdict((const char *[]){"Content-Length", "0x5", NULL}));
    assert_non_null(verdict((const char *[]){"Bad Name", "x", NULL}));
    assert_non_null(verdict((const char *[]){"X", "a\rb", NULL}));
    assert_non_null(verdict((const char *[]){"Host", "a", "Host", "b", NULL}));
    assert_non_null(verdict((const char *[]){"Upgrade", "WebSocket", NULL}));
    assert_int_equal(tb_request_field(&h, "X", 1, "a\0b", 3), 0);
    assert_non_null(tb_request_check(&h));
    h = (struct tb_request_head){0};
    tb_request_connection(&h, "close, X-Hop");
    feed(&h, "x-hop", "1");
    feed(&h, "X-Keep", "2");
    assert_int_equal(h.lines.len, strlen("X-Keep: 2\r\n"));
    assert_memory_equal(h.lines.data, "X-Keep: 2\r\n", h.lines.len);
    tb_request_head_clear(&h);
}

/* SHA-256 of "abc" */
#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static void test_keys(void **unused)
{
    const char *text = "# c\n\nalice:" ABC "\r\nbob:" ABC "  ";
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
    struct tb_request_head head = {0};
    struct tb_verdict v = {.state = TB_STATE_READY};
    struct tb_api_keys none = {0};
    struct tb_credentials credentials = {0};
    struct tb_cors_request cors = {0};
    struct tb_cors_policy policy = {TB_CORS_ANY, NULL};
    struct tb_admit_request rq = {.method = "POST",
                                  .target = "/v1/x",
                                  .head = &head,
                                  .credentials = &credentials,
                                  .cors = &cors,
                                  .cors_policy = &policy,
                                  .verdict = &v,
                                  .routes = "/v1/*",
                                  .max_body = 10};

    assert_int_equal(admitted(rq, ""), 0);
    head.has_length = true;
    head.length = 11;
    assert_int_equal(admitted(rq, "body_too_large"), 413);
    rq.target = "/x";
    assert_int_equal(admitted(rq, "not_found"), 404);
    rq.keys = &none;
    assert_int_equal(admitted(rq, "invalid_api_key"), 401);
    credentials.conflict = true;
    assert_int_equal(admitted(rq, "conflicting_api_keys"), 400);
    v.state = TB_STATE_DECRYPT;
    assert_int_equal(admitted(rq, "not_ready"), 503);
    rq.lease_over = true;
    assert_int_equal(admitted(rq, "lease_expired"), 403);
    v = (struct tb_verdict){TB_STATE_SUSPENDED, "Contract revoked\""};
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
    head.bad = true;
    assert_int_equal(admitted(rq, "bad_request"), 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets), cmocka_unit_test(test_routes),          cmocka_unit_test(test_fields),
        cmocka_unit_test(test_keys),    cmocka_unit_test(test_admission_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
