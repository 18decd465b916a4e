/* SPDX-License-Identifier: Apache-2.0 */
/* Remote administration at chosen times: tokens end, answers are kept for a day, edits are told apart. */
#include "store_testing.h"

#include "common/log.h"
#include "controlplane/admin/admin.h"

#define SECOND 1000000ULL
#define HOUR (3600 * SECOND)
#define KEY_1 "0123456789abcdef-1"

struct fixture {
    struct store_fixture db;
    char token[CP_TOKEN_CHARS + 1], authorization[CP_TOKEN_CHARS + 8];
    struct cp_api api;
};

static int put_token(struct cp_store *s, void *ctx)
{
    return cp_store_put_token(s, ctx);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct cp_token t = {.name = "o", .scopes = "owner", .created_us = NOW, .expires_us = NOW + 100 * HOUR};

    tb_log_set_level(TB_LOG_ERR);
    store_fixture_open(&f->db);
    assert_int_equal(cp_token_make(f->token), 0);
    assert_int_equal(cp_token_hash(f->token, t.token_sha256), 0);
    assert_int_equal(cp_store_transact(f->db.store, put_token, &t), 0);
    snprintf(f->authorization, sizeof(f->authorization), "Bearer %s", f->token);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_fixture_close(&f->db);
    free(f);
    return 0;
}

static void ask(struct fixture *f, struct cp_request rq, struct cp_reply *ret)
{
    rq.peer = "192.0.2.1";
    rq.body_len = rq.body ? strlen(rq.body) : 0;
    rq.authorization = rq.authorization ? rq.authorization : f->authorization;
    rq.now_us = rq.now_us ? rq.now_us : NOW;
    cp_admin_answer(&f->api, f->db.store, &rq, ret);
    assert_non_null(ret->body);
}

/* The answer, whose status is checked; the caller frees it. */
static char *expect(struct fixture *f, struct cp_request rq, unsigned status)
{
    _cleanup_reply_ struct cp_reply r = {0};
    char *body;

    ask(f, rq, &r);
    if (r.status != status)
        fail_msg("%s %s: %u %s; expected %u", rq.method, rq.path, r.status, r.body, status);
    body = r.body;
    r.body = NULL;
    return body;
}

static struct cp_request add(const char *id_body, const char *key, uint64_t now_us)
{
    return (struct cp_request){.method = "POST",
                               .path = "/api/v1/admin/contracts",
                               .body = id_body,
                               .idempotency_key = key,
                               .now_us = now_us};
}

#define ENROLLED "{\"contract_id\":\"c\",\"asset_id\":\"*\"}"

static void test_answers_are_kept_for_a_day(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *first = expect(f, add(ENROLLED, KEY_1, NOW), 201);
    _cleanup_free_ char *again = expect(f, add(ENROLLED, KEY_1, NOW + 24 * HOUR), 201);
    _cleanup_free_ char *late = expect(f, add(ENROLLED, KEY_1, NOW + 24 * HOUR + 1), 409);

    assert_string_equal(first, again);
    assert_non_null(strstr(first, "\"code\":\"tbe-"));
    assert_non_null(strstr(late, "contract_exists"));
}

/* What was forgotten makes room for the same key. */
static void test_a_key_of_long_ago_is_as_good_as_new(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *first = expect(f, add(ENROLLED, KEY_1, NOW), 201);
    _cleanup_free_ char *other =
        expect(f, add("{\"contract_id\":\"d\",\"asset_id\":\"*\"}", KEY_1, NOW + 25 * HOUR), 201);
    _cleanup_free_ char *again =
        expect(f, add("{\"contract_id\":\"d\",\"asset_id\":\"*\"}", KEY_1, NOW + 26 * HOUR), 201);

    assert_string_equal(other, again);
}

static void test_a_token_is_good_until_its_end(void **state)
{
    struct fixture *f = *state;
    struct cp_request rq = {.method = "GET", .path = "/api/v1/admin/whoami"};

    rq.now_us = NOW + 100 * HOUR - 1;
    free(expect(f, rq, 200));
    rq.now_us = NOW + 100 * HOUR;
    free(expect(f, rq, 401));
}

static int count_change(const char *line, void *ctx)
{
    ++*(int *)ctx;
    return 0;
}

static int changes(struct fixture *f)
{
    int n = 0;

    assert_int_equal(cp_store_each_change(f->db.store, 1, count_change, &n), 0);
    return n;
}

/* Two edits of the same microsecond, and one by a clock that went back, are three versions of the contract. */
static void test_each_edit_has_a_tag_of_its_own(void **state)
{
    struct fixture *f = *state;
    char tags[3][32];

    free(expect(f, add(ENROLLED, NULL, NOW), 201));
    for (int i = 0; i < 3; i++) {
        _cleanup_reply_ struct cp_reply r = {0};

        ask(f,
            (struct cp_request){.method = "PATCH",
                                .path = "/api/v1/admin/contracts/c",
                                .body = "{\"max_hw\":2}",
                                .now_us = i < 2 ? NOW : NOW - HOUR},
            &r);
        assert_int_equal(r.status, 200);
        strcpy(tags[i], r.etag);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(tags[k], tags[i]);
    }
}

/* What is refused leaves nothing behind: no change, no kept answer. */
static void test_refusals_change_nothing(void **state)
{
    static const struct {
        const char *method, *path, *body;
        unsigned status;
    } cases[] = {
        {"POST", "/api/v1/admin/contracts", "{\"contract_id\":\"x\",\"asset_id\":\"none\"}", 422},
        {"POST", "/api/v1/admin/contracts",
         "{\"contract_id\":\"x\",\"asset_id\":\"*\",\"code\":{\"uses\":0}}", 400},
        {"POST", "/api/v1/admin/contracts/x/revoke", NULL, 404},
        {"DELETE", "/api/v1/admin/tokens/x", NULL, 404},
        {"DELETE", "/api/v1/admin/assets/x", NULL, 404},
        {"DELETE", "/api/v1/admin/assets/x/versions/1", NULL, 404},
        {"DELETE", "/api/v1/admin/assets/x/versions/none", NULL, 404},
        {"POST", "/api/v1/admin/assets/x/promote", "{\"version\":1}", 404},
        {"POST", "/api/v1/admin/tokens", "{\"name\":\"o\",\"scopes\":[\"owner\"]}", 409},
    };
    struct fixture *f = *state;
    int before = changes(f);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cp_request rq = {.method = cases[i].method,
                                .path = cases[i].path,
                                .body = cases[i].body,
                                .idempotency_key = KEY_1};

        free(expect(f, rq, cases[i].status));
        free(expect(f, rq, cases[i].status)); /* and with the same key it is judged anew */
    }
    assert_int_equal(changes(f), before);
}

static void test_paths(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *method, *path;
        unsigned status;
        const char *allow;
    } cases[] = {
        {"GET", "/api/v1/admin", 404, NULL},
        {"GET", "/api/v1/admin/", 404, NULL},
        {"GET", "/api/v1/admin/contracts/", 404, NULL},
        {"GET", "/api/v1/admin/contracts/c/", 404, NULL},
        {"GET", "/api/v1/admin//contracts", 404, NULL},
        {"GET", "/api/v1/admin/contracts/a b", 404, NULL},
        {"HEAD", "/api/v1/admin/contracts", 200, NULL},
        {"PUT", "/api/v1/admin/contracts", 405, "GET, HEAD, POST"},
        {"POST", "/api/v1/admin/contracts/c", 405, "GET, HEAD, PATCH"},
        {"PATCH", "/api/v1/admin/assets/a", 405, "GET, HEAD, DELETE"},
        {"GET", "/api/v1/admin/machines/remove", 405, "POST"},
        {"GET", "/api/v1/admin/codes/0123456789abcdef", 405, "DELETE"},
        {"POST", "/api/v1/admin/log", 405, "GET, HEAD"},
    };

    assert_true(cp_admin_path("/api/v1/admin/x"));
    assert_false(cp_admin_path("/api/v1/administer"));
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_reply_ struct cp_reply r = {0};

        ask(f, (struct cp_request){.method = cases[i].method, .path = cases[i].path}, &r);
        if (r.status != cases[i].status)
            fail_msg("%s %s: %u %s", cases[i].method, cases[i].path, r.status, r.body);
        if (cases[i].allow)
            assert_string_equal(r.allow, cases[i].allow);
    }
}

static void test_scopes(void **state)
{
    char text[CP_SCOPES_TEXT_MAX];
    unsigned scopes = 0;

    assert_int_equal(cp_scopes_parse("  replace\towner owner ", &scopes), 0);
    assert_int_equal(scopes, CP_SCOPE_OWNER | CP_SCOPE_REPLACE);
    assert_string_equal(cp_scopes_text(scopes, text), "owner replace");
    assert_string_equal(cp_scopes_text(CP_SCOPES_ALL, text),
                        "owner publisher support auditor replace billing keys");
    assert_string_equal(cp_scopes_text(0, text), "");
    assert_int_equal(cp_scopes_parse("", &scopes), -EINVAL);
    assert_int_equal(cp_scopes_parse("owners", &scopes), -EINVAL);
    assert_int_equal(cp_scopes_parse("owner,support", &scopes), -EINVAL);
    for (int i = 0; i < _CP_CALL_MAX; i++) /* nothing is out of the owner's reach */
        assert_true(cp_calls[i].scopes & CP_SCOPE_OWNER);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_answers_are_kept_for_a_day),    T(test_a_key_of_long_ago_is_as_good_as_new),
        T(test_a_token_is_good_until_its_end), T(test_each_edit_has_a_tag_of_its_own),
        T(test_refusals_change_nothing),       T(test_paths),
        cmocka_unit_test(test_scopes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
