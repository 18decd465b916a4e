/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials, administrative routes, pages of other origins, and 10,000 keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <poll.h>
#include <string.h>
#include <cmocka.h>

/* A copy of the table whose steps are counted: a time would depend on the machine. */
static unsigned comparisons;
static int counting_memcmp(const void *a, const void *b, size_t n)
{
    comparisons++;
    return memcmp(a, b, n);
}
#define memcmp counting_memcmp
#define tb_api_keys_parse counted_keys_parse
#define tb_api_keys_clear counted_keys_clear
#define tb_api_keys_find counted_keys_find
#include "proxy/gate/keys.c"
#undef memcmp

#include "common/buf.h"
#include "common/io.h"
#include "proxy/gate/admin_routes.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/credentials.h"
#include "proxy/gate/key_store.h"
#include "proxy/gate/routes.h"

/* --- credentials ------------------------------------------------------------------------------------------------- */

/* The key of these fields, "conflict", or "none". */
static const char *key_of(const char *const *field)
{
    static char text[64];
    struct tb_credentials c = {0};

    for (; *field; field += 2)
        (void)tb_credentials_field(&c, field[0], field[1], strlen(field[1]));
    if (c.conflict)
        return "conflict";
    snprintf(text, sizeof(text), "%.*s", c.key ? (int)c.key_len : 4, c.key ? c.key : "none");
    return text;
}
#define KEY_OF(...) key_of((const char *[]){__VA_ARGS__, NULL})

static void test_three_fields_are_one_thing(void **unused)
{
    assert_string_equal(KEY_OF("Authorization", "Bearer k"), "k");
    assert_string_equal(KEY_OF("authorization", "bEARER   k "), "k");
    assert_string_equal(KEY_OF("X-Api-Key", "k"), "k");
    assert_string_equal(KEY_OF("API-KEY", " k"), "k");
    assert_string_equal(KEY_OF("api-key", "k", "Authorization", "Bearer k", "x-api-key", "k"), "k");
    assert_string_equal(KEY_OF("Authorization", "Basic abc", "x-api-key", "k"), "k");
    assert_string_equal(KEY_OF("Authorization", "Bearer ", "x-api-key", "k"), "k");
    assert_string_equal(KEY_OF("Authorization", "Bearerk"), "none");
    assert_string_equal(KEY_OF("Authorization", "Basic k", "x-api-key", ""), "none");
    assert_string_equal(KEY_OF("api-key", "k", "x-api-key", "K"), "conflict");
    assert_string_equal(KEY_OF("Authorization", "Bearer k", "Authorization", "Bearer kk"), "conflict");
}

static void test_none_of_them_is_for_the_runtime(void **unused)
{
    struct tb_credentials c = {0};

    assert_true(tb_credentials_field(&c, "Authorization", "Basic x", 7));
    assert_true(tb_credentials_field(&c, "x-api-key", "", 0));
    assert_true(tb_credentials_field(&c, "Api-Key", "x", 1));
    assert_false(tb_credentials_field(&c, "x-api-keys", "x", 1));
    assert_false(tb_credentials_field(&c, "api_key", "x", 1));
}

/* --- administrative routes --------------------------------------------------------------------------------------- */

static enum tb_route match(const char *globs, const char *path)
{
    return tb_route_match(globs, path, strlen(path));
}

static void test_routes_of_tuning(void **unused)
{
    static const struct {
        const char *path;
        enum tb_tuning want;
    } paths[] = {
        {"/v1/fine_tuning/jobs", TB_TUNING_TRAINS},
        {"/v1/fine_tuning/jobs/ftjob-1/cancel", TB_TUNING_TRAINS},
        {"/openai/v1/fine_tuning/jobs", TB_TUNING_TRAINS},
        {"/v1//Fine_Tuning/jobs/", TB_TUNING_TRAINS},
        {"/v1/fine_tuning", TB_TUNING_TRAINS},
        {"/v1/fine-tunes", TB_TUNING_TRAINS},
        {"/v1/fine-tunes/ft-1/events", TB_TUNING_TRAINS},
        {"/v1/finetune/jobs", TB_TUNING_TRAINS},
        {"/v1/adapters", TB_TUNING_TRAINS},
        {"/adapters/a", TB_TUNING_TRAINS},
        {"/v1/load_lora_adapter", TB_TUNING_ADAPTS},
        {"/v1/unload_lora_adapter", TB_TUNING_ADAPTS},
        {"/load_lora_adapter_from_tensors", TB_TUNING_ADAPTS},
        {"/lora-adapters", TB_TUNING_ADAPTS},
        {"/v1/models/fine_tuning_base", TB_TUNING_NONE},
        {"/v1/chat/completions", TB_TUNING_NONE},
        {"/v1/models/adapters", TB_TUNING_NONE},
        {"/v1/files", TB_TUNING_NONE},
        {"/", TB_TUNING_NONE},
    };

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (tb_tuning_route(paths[i].path, strlen(paths[i].path)) != paths[i].want)
            fail_msg("%s", paths[i].path);
}

static void test_no_wildcard_opens_administration(void **unused)
{
    static const char *const closed[] = {
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/load_lora_adapter",
        "/root/v1/load_lora_adapter",
        "/v1//load_lora_adapter",
        "/V1/Load_Lora_Adapter",
        "/v1/load_lora_adapter/",
        "/sleep",
        "/v1/sleep",
        "/wake_up",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/update_weights",
        "/start_profile",
        "/pause",
        "/flush_cache",
        "/update_weights_from_disk",
        "/update_weights_from_tensor",
        "/release_memory_occupation",
        "/v2/repository/index",
        "/v2/repository/models/m/load",
        "/v2/trace/setting",
        "/v2/models/m/trace/setting",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/logging",
        "/slots",
        "/slots/0",
        "/props",
        "/v1/props",
        "/lora-adapters",
        "/models/load",
        "/v1/models/unload",
        "/v1/chat/completions/control",
    };
    static const char *const open[] = {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/org/sleep",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses/resp_1/cancel",
        "/v1/messages/count_tokens",
        "/v2/models/sleep/infer",
        "/v2/models/m/generate",
        "/v2/health/ready",
        "/v1/stream",
        "/v1/audio/transcriptions",
        "/tokenize",
        "/v1/rerank",
        "/v1/sleeping",
        "/v1",
        "/",
        "/v1/fine_tuning/jobs",
        "/v1/files",
        "/generate",
        "/invocations",
        "/v2/models/m/versions/1/config",
    };

    for (size_t i = 0; i < ARRAY_SIZE(closed); i++) {
        assert_int_equal(match("/*", closed[i]), TB_ROUTE_ADMIN);
        assert_int_equal(match("/v1/*, *", closed[i]), TB_ROUTE_ADMIN);
        assert_int_equal(match(closed[i], closed[i]), TB_ROUTE_ALLOWED);
    }
    assert_int_equal(match("/*,/v1/load_lora_adapter", "/v1/load_lora_adapter"), TB_ROUTE_ALLOWED);
    assert_int_equal(match("/*,/v1/load_lora_adapter", "/v1/unload_lora_adapter"), TB_ROUTE_ADMIN);
    assert_int_equal(match("/v1/load_lora_adapte*", "/v1/load_lora_adapter"), TB_ROUTE_ADMIN);
    for (size_t i = 0; i < ARRAY_SIZE(open); i++)
        assert_int_equal(match("/*", open[i]), TB_ROUTE_ALLOWED);
}

static void test_the_end_of_a_long_path_is_seen(void **unused)
{
    char path[4096];

    memset(path, '/', sizeof(path));
    memcpy(path + 1, "root", 4);
    memset(path + 8, 'a', 3000);
    strcpy(path + 3010, "load_lora_adapter");
    assert_int_equal(match("/*", path), TB_ROUTE_ADMIN);
}

/* --- pages of other origins -------------------------------------------------------------------------------------- */

static const char *value_of(const struct tb_cors_field *f, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(f[i].name, name) == 0)
            return f[i].value;
    return NULL;
}

static void test_cors_settings(void **unused)
{
    static const char *const bad[] = {"",
                                      " , ",
                                      "example.com",
                                      "https://a.example/",
                                      "https://a.example/x",
                                      "https://*.example",
                                      "https://",
                                      "*,https://a.example",
                                      "none *",
                                      "https://a b"};
    struct tb_cors_policy p;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_non_null(tb_cors_parse(bad[i], true, &p));
    assert_null(tb_cors_parse(NULL, true, &p));
    assert_int_equal(p.mode, TB_CORS_ANY);
    assert_null(tb_cors_parse(NULL, false, &p));
    assert_int_equal(p.mode, TB_CORS_RUNTIME);
    assert_null(tb_cors_parse(" none", true, &p));
    assert_int_equal(p.mode, TB_CORS_NONE);
    assert_null(tb_cors_parse("*", false, &p));
    assert_int_equal(p.mode, TB_CORS_ANY);
    assert_null(tb_cors_parse("https://a.example, http://b.example:8080 app://x,null", false, &p));
    assert_int_equal(p.mode, TB_CORS_LIST);
}

static void test_preflight(void **unused)
{
    struct tb_cors_policy any = {TB_CORS_ANY, NULL}, none = {TB_CORS_NONE, NULL},
                          runtime = {TB_CORS_RUNTIME, NULL};
    struct tb_cors_field f[TB_CORS_FIELDS_MAX];
    struct tb_cors_request rq = {0};
    size_t n;

    tb_cors_field(&rq, "ORIGIN", "https://page.example");
    assert_int_equal(tb_cors_judge(&any, &rq, "OPTIONS"), TB_CORS_PASS); /* no preflight without the method */
    tb_cors_field(&rq, "access-control-request-method", "POST");
    tb_cors_field(&rq, "Access-Control-Request-Headers", "authorization,content-type,x-stainless-os");
    assert_int_equal(tb_cors_judge(&any, &rq, "OPTIONS"), TB_CORS_PREFLIGHT);
    assert_int_equal(tb_cors_judge(&any, &rq, "POST"), TB_CORS_PASS);
    assert_int_equal(tb_cors_judge(&none, &rq, "OPTIONS"), TB_CORS_REFUSE);
    assert_int_equal(tb_cors_judge(&runtime, &rq, "OPTIONS"), TB_CORS_PASS);
    n = tb_cors_fields(&any, &rq, true, f);
    assert_string_equal(value_of(f, n, "Access-Control-Allow-Origin"), "*");
    assert_string_equal(value_of(f, n, "Access-Control-Allow-Headers"),
                        "authorization,content-type,x-stainless-os");
    assert_non_null(strstr(value_of(f, n, "Access-Control-Allow-Methods"), "POST"));
    assert_non_null(value_of(f, n, "Access-Control-Max-Age"));
    assert_null(value_of(f, n, "Access-Control-Allow-Credentials"));
    assert_int_equal(tb_cors_fields(&none, &rq, true, f), 0);
    assert_int_equal(tb_cors_fields(&runtime, &rq, true, f), 0);
}

static void test_answers_for_pages(void **unused)
{
    struct tb_cors_policy p = {TB_CORS_LIST, "https://a.example,https://b.example"};
    struct tb_cors_request rq = {.origin = "https://b.example"};
    struct tb_cors_field f[TB_CORS_FIELDS_MAX];
    size_t n = tb_cors_fields(&p, &rq, false, f);

    assert_string_equal(value_of(f, n, "Access-Control-Allow-Origin"), "https://b.example");
    assert_string_equal(value_of(f, n, "Vary"), "Origin");
    assert_non_null(strstr(value_of(f, n, "Access-Control-Expose-Headers"), "X-Request-Id"));
    assert_non_null(strstr(value_of(f, n, "Access-Control-Expose-Headers"), "Retry-After"));
    rq.origin = "https://b.example.evil";
    n = tb_cors_fields(&p, &rq, false, f);
    assert_null(value_of(f, n, "Access-Control-Allow-Origin"));
    assert_string_equal(value_of(f, n, "Vary"), "Origin"); /* a cache must keep this one apart too */
    rq.origin = NULL;
    n = tb_cors_fields(&p, &rq, false, f);
    assert_null(value_of(f, n, "Access-Control-Allow-Origin"));
    assert_true(tb_cors_replaces(&p, "access-control-allow-origin"));
    assert_false(tb_cors_replaces(&p, "Content-Type"));
    p.mode = TB_CORS_RUNTIME;
    assert_false(tb_cors_replaces(&p, "Access-Control-Allow-Origin"));
}

/* --- many keys --------------------------------------------------------------------------------------------------- */

/* Keys "key-0" to "key-N", in no order that helps; two of a name. */
static char *keys_text(unsigned n, const char *limits)
{
    struct tb_buf b = {0};

    for (unsigned i = 0; i < n; i++) {
        char key[32], hex[65];
        uint8_t sha[32];

        snprintf(key, sizeof(key), "key-%u", i);
        assert_int_equal(EVP_Digest(key, strlen(key), sha, NULL, EVP_sha256(), NULL), 1);
        tb_hex_encode(sha, sizeof(sha), hex);
        assert_int_equal(tb_buf_printf(&b, "name-%u:%s %s\n", i / 2, hex, limits), 0);
    }
    assert_int_equal(tb_buf_append(&b, "", 1), 0);
    return b.data;
}

static const struct tb_api_key *find(const struct tb_api_keys *k, unsigned i)
{
    char key[32];

    snprintf(key, sizeof(key), "key-%u", i);
    return tb_api_keys_find(k, key, strlen(key));
}

static void test_a_lookup_is_a_binary_search(void **unused)
{
    _cleanup_free_ char *text = keys_text(TB_API_KEYS_MAX, "rpm=5");
    _cleanup_(tb_api_keys_clear) struct tb_api_keys k = {0};
    char err[TB_API_KEYS_ERR_MAX];

    comparisons = 0;
    assert_int_equal(tb_api_keys_parse(text, strlen(text), &k, err), 0);
    assert_int_equal(k.n, TB_API_KEYS_MAX);
    assert_true(comparisons <
                TB_API_KEYS_MAX * 40); /* sorting, limits of each name, four names of limits a line */
    for (unsigned i = 0; i < TB_API_KEYS_MAX + 100; i++) {
        const struct tb_api_key *found;
        char name[32];

        comparisons = 0;
        found = find(&k, i);
        assert_true(comparisons <= 15);
        snprintf(name, sizeof(name), "name-%u", i / 2);
        if (i < TB_API_KEYS_MAX)
            assert_string_equal(found->name, name);
        else
            assert_null(found);
    }
}

static void test_limits_of_a_name_agree_wherever_its_lines_are(void **unused)
{
    _cleanup_free_ char *text = keys_text(200, "rpm=5");
    struct tb_api_keys k = {0};
    char err[TB_API_KEYS_ERR_MAX], *line = text;

    for (int i = 0; i < 101; i++)
        line = strchr(line, '\n') + 1;
    *(strchr(line, '\n') - 1) = '6'; /* line 102, the second of name-50 */
    assert_int_equal(tb_api_keys_parse(text, strlen(text), &k, err), -EINVAL);
    assert_non_null(strstr(err, "line 102 gives its name other limits than line 101"));
}

static char *hash_of_line(char *text, int line)
{
    for (int i = 1; i < line; i++)
        text = strchr(text, '\n') + 1;
    return strchr(text, ':') + 1;
}

/* Who a key is must not depend on the order of lines. Both lines are named, and no key. */
static void test_a_key_has_one_name(void **unused)
{
    _cleanup_free_ char *text = keys_text(200, "rpm=5");
    struct tb_api_keys k = {0};
    char err[TB_API_KEYS_ERR_MAX], *one = hash_of_line(text, 4), *two = hash_of_line(text, 156);

    for (int i = 0; i < 64; i++)
        two[i] = (char)toupper(one[i]);
    assert_int_equal(tb_api_keys_parse(text, strlen(text), &k, err), -EINVAL);
    assert_non_null(strstr(err, "line 4 and line 156 give one key two names"));
    one[64] = '\0';
    assert_null(strcasestr(err, one));
}

static void check_pair(struct tb_api_key_pair p, size_t n, unsigned first, unsigned second)
{
    assert_int_equal(p.n, n);
    assert_int_equal(p.first, first);
    assert_int_equal(p.second, second);
}

static void test_what_may_be_a_slip_is_told(void **unused)
{
#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
    static const struct {
        const char *text;
        struct tb_api_key_pair name, key;
    } rows[] = {
        {"a:" A "\nb:" B "\n", {0, 0, 0}, {0, 0, 0}},
        {"# x\na:" A "\nb:" B "\na:" C "\n", {1, 2, 4}, {0, 0, 0}},
        {"a:" A "\nb:" B "\na:" A "\n", {1, 1, 3}, {1, 1, 3}},
        {"a:" A "\nb:" B "\n\na:" A "\nb:" C "\n", {2, 1, 4}, {1, 1, 4}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct tb_api_keys k = {0};
        char err[TB_API_KEYS_ERR_MAX];

        assert_int_equal(tb_api_keys_parse(rows[i].text, strlen(rows[i].text), &k, err), 0);
        check_pair(k.same_name, rows[i].name.n, rows[i].name.first, rows[i].name.second);
        check_pair(k.same_key, rows[i].key.n, rows[i].key.first, rows[i].key.second);
        tb_api_keys_clear(&k);
    }
}

static void wait_and_finish(struct tb_key_store *s)
{
    struct pollfd p = {.fd = tb_key_store_fd(s), .events = POLLIN};

    assert_int_equal(poll(&p, 1, 60000), 1);
    tb_key_store_finish(s);
}

/* What is in force stays so until a whole new table is there, and the calls on the loop's side do no reading. */
static void test_reading_again_is_a_swap(void **unused)
{
    char dir[] = "/tmp/tb-keys-XXXXXX";
    _cleanup_free_ char *file = NULL, *accounts = NULL, *old = keys_text(2, "rpm=5 budget=10"),
                        *new = keys_text(TB_API_KEYS_MAX, "rpm=7");
    struct tb_tokens t = {.prompt = 3};
    struct tb_key_store *s;
    struct tb_key_account *a;

    assert_non_null(mkdtemp(dir));
    file = tb_path_join(dir, "keys");
    accounts = tb_path_join(dir, "accounts");
    assert_int_equal(tb_write_file_atomic(file, old, strlen(old), 0600), 0);
    assert_int_equal(tb_key_store_open(file, accounts, &s), 0);
    a = tb_key_account_use(find(tb_key_store_keys(s), 0));
    tb_key_add_tokens(a, &t);
    assert_int_equal(tb_write_file_atomic(file, new, strlen(new), 0600), 0);
    tb_key_store_reload(s);
    tb_key_store_reload(s); /* while it is being read: once more afterwards */
    assert_int_equal(tb_key_store_keys(s)->n, 2);
    assert_int_equal(a->limiter.limits.rpm, 5);
    wait_and_finish(s);
    assert_int_equal(tb_key_store_keys(s)->n, TB_API_KEYS_MAX);
    assert_ptr_equal(tb_key_account_use(find(tb_key_store_keys(s), 1)),
                     a); /* the account is the same, its limits are new */
    assert_int_equal(a->limiter.limits.rpm, 7);
    assert_int_equal(a->limiter.limits.budget, 0);
    assert_int_equal(tb_key_spent(a), 3);
    assert_int_equal(tb_write_file_atomic(file, "x\n", 2, 0600), 0);
    wait_and_finish(s);
    tb_key_store_reload(s);
    wait_and_finish(s);
    assert_int_equal(tb_key_store_keys(s)->n, TB_API_KEYS_MAX); /* nonsense: the old stay */
    tb_key_store_close(s);
    assert_int_equal(tb_key_store_open(file, accounts, &s), -EINVAL);
    unlink(file);
    unlink(accounts);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_fields_are_one_thing),
        cmocka_unit_test(test_none_of_them_is_for_the_runtime),
        cmocka_unit_test(test_no_wildcard_opens_administration),
        cmocka_unit_test(test_routes_of_tuning),
        cmocka_unit_test(test_the_end_of_a_long_path_is_seen),
        cmocka_unit_test(test_cors_settings),
        cmocka_unit_test(test_preflight),
        cmocka_unit_test(test_answers_for_pages),
        cmocka_unit_test(test_a_lookup_is_a_binary_search),
        cmocka_unit_test(test_limits_of_a_name_agree_wherever_its_lines_are),
        cmocka_unit_test(test_a_key_has_one_name),
        cmocka_unit_test(test_what_may_be_a_slip_is_told),
        cmocka_unit_test(test_reading_again_is_a_swap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
