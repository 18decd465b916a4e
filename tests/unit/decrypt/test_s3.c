/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "common/macros.h"
#include "decrypt/s3_answer.h"

#define LINE(target) "GET " target " HTTP/1.1\r\nHost: h\r\n"

static struct s3_request q;

static enum s3_error parse(const char *text)
{
    enum s3_error e = S3_ERRORS;
    size_t n = 0;

    assert_int_equal(s3_request_parse(text, strlen(text), &n, &q, &e), 0);
    assert_int_equal(n, strlen(text));
    return e;
}

static void test_takes_an_address_apart(void **state)
{
    assert_int_equal(parse(LINE("/b/a%20b/c+d%26?x-id=GetObject") "\r\n"), S3_OK);
    assert_string_equal(q.bucket, "b");
    assert_string_equal(q.key, "a b/c+d&");
    assert_false(q.head || q.close);
    assert_int_equal(
        parse(LINE("/b?list-type=2&prefix=a+b%2Fc&delimiter=%2F&max-keys=7&encoding-type=url") "\r\n"),
        S3_OK);
    assert_null(q.key);
    assert_true(q.list_v2 && q.encode);
    assert_string_equal(q.prefix, "a b/c");
    assert_string_equal(q.delimiter, "/");
    assert_int_equal(q.max_keys, 7);
    assert_int_equal(parse(LINE("/b/?list-type=2&continuation-token=612f&start-after=x") "\r\n"), S3_OK);
    assert_string_equal(q.after, "a/");
    assert_int_equal(parse(LINE("/b/?max-keys=5000&marker=m") "\r\n"), S3_OK);
    assert_int_equal(q.max_keys, S3_KEYS_MAX);
    assert_string_equal(q.after, "m");
    assert_int_equal(parse("HEAD / HTTP/1.0\r\n\r\n"), S3_OK);
    assert_true(q.head && q.close);
    assert_string_equal(q.bucket, "");
}

static void test_ranges(void **state)
{
    static const struct {
        const char *value;
        enum s3_range range;
        uint64_t from, to;
    } cases[] = {
        {"bytes=0-9", S3_RANGE_FROM, 0, 9},
        {"bytes=5-", S3_RANGE_FROM, 5, UINT64_MAX},
        {"BYTES= 5-7 ", S3_RANGE_FROM, 5, 7},
        {"bytes=-5", S3_RANGE_LAST, 0, 5},
        {"bytes=99999999999999999999999-", S3_RANGE_FROM, UINT64_MAX, UINT64_MAX},
        {"bytes=1-99999999999999999999999", S3_RANGE_FROM, 1, UINT64_MAX},
        {"bytes=5-4", S3_RANGE_NONE, 0, 0},
        {"bytes=", S3_RANGE_NONE, 0, 0},
        {"bytes=-", S3_RANGE_NONE, 0, 0},
        {"bytes=5", S3_RANGE_NONE, 0, 0},
        {"bytes=1-2,4-5", S3_RANGE_NONE, 0, 0},
        {"bytes=+1-2", S3_RANGE_NONE, 0, 0},
        {"bytes=1--2", S3_RANGE_NONE, 0, 0},
        {"bits=1-2", S3_RANGE_NONE, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[200];

        snprintf(text, sizeof(text), LINE("/b/k") "Range: %s\r\n\r\n", cases[i].value);
        assert_int_equal(parse(text), S3_OK);
        assert_int_equal(q.range, cases[i].range);
        if (q.range == S3_RANGE_FROM)
            assert_true(q.from == cases[i].from);
        if (q.range != S3_RANGE_NONE)
            assert_true(q.to == cases[i].to);
    }
}

static void test_refuses(void **state)
{
    static const struct {
        const char *text;
        enum s3_error error;
    } cases[] = {
        {"GET /b/k HTTP/1.1\r\n\r\n", S3_BAD_REQUEST},
        {"GET b HTTP/1.1\r\nHost: h\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/%0") "\r\n", S3_BAD_REQUEST},
        {LINE("/b/%00") "\r\n", S3_BAD_REQUEST},
        {LINE("/b/%ff") "\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "Host: h\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "Range: bytes=1-2\r\nrange: bytes=1-2\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "Content-Length: 1\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "Content-Length: -0\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "Transfer-Encoding: identity\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") " folded\r\n\r\n", S3_BAD_REQUEST},
        {LINE("/b/k") "A: b\rc\r\n\r\n", S3_BAD_REQUEST},
        {"GET /b/k HTTP/1.2\r\nHost: h\r\n\r\n", S3_BAD_VERSION},
        {"PUT /b/k HTTP/1.1\r\nHost: h\r\n\r\n", S3_BAD_METHOD},
        {LINE("/b?acl") "\r\n", S3_NOT_IMPLEMENTED},
        {LINE("/b/k?partNumber=2") "\r\n", S3_BAD_PART},
        {LINE("/b/k?partNumber=10001") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b/k?partNumber=x") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b/k?partNumber=1") "Range: bytes=1-2\r\n\r\n", S3_BAD_ARGUMENT},
        {LINE("/b?list-type=1") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b?max-keys=-1") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b?prefix=a&prefix=a") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b?list-type=2&continuation-token=6") "\r\n", S3_BAD_ARGUMENT},
        {LINE("/b?list-type=2&continuation-token=00") "\r\n", S3_BAD_ARGUMENT},
    };
    char longer[S3_HEAD_MAX + 1];
    enum s3_error e;
    size_t n;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse(cases[i].text), cases[i].error);
        assert_true(q.close);
    }
    memset(longer, 'a', S3_HEAD_MAX);
    assert_int_equal(s3_request_parse(longer, S3_HEAD_MAX - 1, &n, &q, &e), -EAGAIN);
    assert_int_equal(s3_request_parse(longer, S3_HEAD_MAX, &n, &q, &e), 0);
    assert_int_equal(e, S3_HEAD_TOO_LARGE);
    assert_int_equal(s3_request_parse("", 0, &n, &q, &e), -EAGAIN);
}

static void test_takes_one_request_at_a_time(void **state)
{
    static const char two[] = LINE("/b/k") "\r\n" LINE("/b/l") "\r\n";
    enum s3_error e;
    size_t n;

    assert_int_equal(s3_request_parse(two, strlen(two), &n, &q, &e), 0);
    assert_int_equal(e, S3_OK);
    assert_int_equal(n, strlen(two) / 2);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(s3_request_parse(two, i, &n, &q, &e), -EAGAIN);
}

static void test_names_entity_tags(void **state)
{
    assert_true(s3_request_names("*", "t"));
    assert_true(s3_request_names("\"a\" , \"t\"", "t"));
    assert_true(s3_request_names("t", "t"));
    assert_false(s3_request_names("W/\"t\"", "t"));
    assert_false(s3_request_names("", "t"));
    assert_false(s3_request_names("\"", "t"));
}

static void test_only_the_name_opens_the_bucket(void **state)
{
    static char path[] = "f";
    struct tbenc_file f = {.path = path, .bytes = 3};
    struct tbenc_manifest m = {.files = &f, .n_files = 1, .weights_filename = "w", .plaintext_bytes = 3};
    static const uint8_t sha256[TBENC_SHA256_BYTES];
    char name[S3_BUCKET_CHARS + 2], text[200];
    struct s3_bucket a, b;
    struct s3_body body;

    assert_int_equal(s3_bucket_init(&a, &m, sha256, 0), 0);
    assert_int_equal(s3_bucket_init(&b, &m, sha256, 0), 0);
    assert_true(s3_bucket_opens(&a, a.name));
    assert_false(s3_bucket_opens(&a, b.name) || s3_bucket_opens(&a, ""));
    snprintf(name, sizeof(name), "%sx", a.name);
    assert_false(s3_bucket_opens(&a, name));
    name[S3_BUCKET_CHARS - 1] = '\0';
    assert_false(s3_bucket_opens(&a, name));
    for (int right = 0; right < 2; right++) {
        _cleanup_buf_ struct tb_buf out = {0};

        snprintf(text, sizeof(text), LINE("/%s/f") "Range: bytes=1-\r\n\r\n", right ? a.name : b.name);
        assert_int_equal(s3_answer(&a, &q, parse(text), &out, &body), right ? S3_OK : S3_DENIED);
        assert_int_equal(body.end - body.from, right ? 2 : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_an_address_apart),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_takes_one_request_at_a_time),
        cmocka_unit_test(test_names_entity_tags),
        cmocka_unit_test(test_only_the_name_opens_the_bucket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
