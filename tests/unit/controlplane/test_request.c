/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "common/io.h"
#include "controlplane/api/request.h"

#define HEX64 "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define GOOD                                                                                                 \
    "{\"asset_id\":\"a-1\",\"blob_urls\":{\"ciphertext\":\"https://s/c/a/"                                   \
    "model.tbenc\",\"manifest\":\"https://s/c/a/m\"},"                                                       \
    "\"metadata\":{\"format\":\"tbenc/"                                                                      \
    "v1\",\"algo\":\"aes-256-gcm-chunked\",\"chunk_bytes\":4194304,\"plaintext_bytes\":0,"                   \
    "\"sha256_ciphertext\":\"" HEX64 "\"},\"decryption_key_hex\":\"" HEX64 "\"}"

/* GOOD with the first `from` replaced by `to`. */
static char *variant(const char *from, const char *to)
{
    const char *at = strstr(GOOD, from);

    assert_non_null(at);
    return tb_strf("%.*s%s%s", (int)(at - GOOD), GOOD, to, at + strlen(from));
}

static void test_register_good(void **state)
{
    char err[TB_JSON_ERR_MAX];
    struct cp_asset a;
    struct tb_key k;
    struct cp_put_how how;

    assert_int_equal(cp_register_parse(GOOD, strlen(GOOD), &a, &how, &k, err), 0);
    assert_string_equal(a.asset_id, "a-1");
    assert_string_equal(a.ciphertext_url, "https://s/c/a/model.tbenc");
    assert_string_equal(a.manifest_url, "https://s/c/a/m");
    assert_int_equal(a.chunk_bytes, 4194304);
    assert_int_equal(a.plaintext_bytes, 0);
    assert_string_equal(a.sha256_ciphertext,
                        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    assert_string_equal(a.manifest_sha256, "");
    assert_int_equal(k.b[0], 0);
    assert_int_equal(k.b[31], 0xff);
    assert_false(how.replace);
    assert_false(how.beside);
}

static void test_register_says_how(void **state)
{
    static const struct {
        const char *members;
        bool replace, beside;
    } cases[] = {
        {"\"replace\":true,", true, false},
        {"\"replace\":false,\"promote\":true,", false, false},
        {"\"promote\":false,", false, true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *with = tb_strf("%s\"decryption_key_hex\"", cases[i].members);
        _cleanup_free_ char *body = variant("\"decryption_key_hex\"", with);
        char err[TB_JSON_ERR_MAX];
        struct cp_asset a;
        struct tb_key k;
        struct cp_put_how how;

        assert_int_equal(cp_register_parse(body, strlen(body), &a, &how, &k, err), 0);
        assert_int_equal(how.replace, cases[i].replace);
        assert_int_equal(how.beside, cases[i].beside);
    }
}

static void test_register_damages(void **state)
{
    /* what is replaced, by what, and a word the message must have: it names the member */
    static const char *const cases[][3] = {
        {"\"a-1\"", "\"a/1\"", "asset_id"},
        {"\"a-1\"", "\"\"", "asset_id"},
        {"\"a-1\"", "7", "asset_id"},
        {"\"asset_id\":\"a-1\",", "", "asset_id"},
        {"\"asset_id\":", "\"asset_id\":\"b\",\"asset_id\":", "asset_id"},
        {"\"blob_urls\"", "\"blob_url\"", "blob_urls"},
        {"{\"ciphertext\"", "7,\"x\":{\"ciphertext\"", "blob_urls"},
        {"https://s/c/a/model.tbenc", "https://s/c/a/model.tbenc?sig=SECRETSAS", "blob_urls.ciphertext"},
        {"https://s/c/a/model.tbenc", "file:///etc/passwd", "blob_urls.ciphertext"},
        {"https://s/c/a/m\"", "https://u:p@s/c/a/m\"", "blob_urls.manifest"},
        {"tbenc/v1", "tbenc/v2", "metadata.format"},
        {"aes-256-gcm-chunked", "rot13", "metadata.algo"},
        {"4194304", "1023", "chunk_bytes"},
        {"4194304", "67108865", "chunk_bytes"},
        {"4194304", "4194304.5", "chunk_bytes"},
        {"4194304", "\"4194304\"", "chunk_bytes"},
        {"\"plaintext_bytes\":0", "\"plaintext_bytes\":-1", "plaintext_bytes"},
        {"\"plaintext_bytes\":0", "\"plaintext_bytes\":9007199254740993", "plaintext_bytes"},
        {"ciphertext\":\"" HEX64, "ciphertext\":\"" HEX64 "0", "sha256_ciphertext"},
        {"ciphertext\":\"0", "ciphertext\":\"g", "sha256_ciphertext"},
        {"key_hex\":\"0", "key_hex\":\"z", "decryption_key_hex"},
        {"key_hex\":\"00", "key_hex\":\"", "decryption_key_hex"},
        {"key_hex\":\"", "key_hex\":7,\"x\":\"", "decryption_key_hex"},
        {"\"decryption_key_hex\"", "\"manifest_sha256\":\"77\",\"decryption_key_hex\"", "manifest_sha256"},
        {"{\"asset_id\"", "[{\"asset_id\"", "JSON"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *body = variant(cases[i][0], cases[i][1]);
        char err[TB_JSON_ERR_MAX] = "";
        struct cp_asset a = {.asset_id = "untouched"};
        struct tb_key k = {{42}};
        struct cp_put_how how;

        if (cp_register_parse(body, strlen(body), &a, &how, &k, err) >= 0)
            fail_msg("accepted: %s", body);
        if (!strstr(err, cases[i][2]))
            fail_msg("\"%s\" does not name %s", err, cases[i][2]);
        assert_null(strstr(err, "SECRETSAS"));
        assert_null(strstr(err, "2233445566"));
        assert_string_equal(a.asset_id, "untouched");
        assert_int_equal(k.b[0], 42);
    }
}

static void test_register_manifest_hash_in_either_place(void **state)
{
    static const char *const where[][2] = {
        {"\"decryption_key_hex\"", "\"manifest_sha256\":\"" HEX64 "\",\"decryption_key_hex\""},
        {"\"metadata\":{", "\"metadata\":{\"manifest_sha256\":\"" HEX64 "\","},
    };

    for (size_t i = 0; i < ARRAY_SIZE(where); i++) {
        _cleanup_free_ char *body = variant(where[i][0], where[i][1]);
        char err[TB_JSON_ERR_MAX];
        struct cp_asset a;
        struct tb_key k;
        struct cp_put_how how;

        assert_int_equal(cp_register_parse(body, strlen(body), &a, &how, &k, err), 0);
        assert_int_equal(strlen(a.manifest_sha256), 64);
    }
}

static void test_authorize_good(void **state)
{
    static const char body[] =
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"4c4c-1\",\"attestation\":\"\","
        "\"client_version\":\"sentinel/0.1.0\",\"later\":{\"x\":[1]}}";
    char err[TB_JSON_ERR_MAX];
    struct cp_authorize q;

    assert_int_equal(cp_authorize_parse(body, strlen(body), &q, err), 0);
    assert_string_equal(q.contract_id, "c");
    assert_string_equal(q.asset_id, "a");
    assert_string_equal(q.hw_id, "4c4c-1");
}

static void test_authorize_bad(void **state)
{
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{}",
        "{",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\"}",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"\"}",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"a b\"}",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"a\\nb\"}",
        "{\"contract_id\":\"c\",\"asset_id\":\"*\",\"hw_id\":\"h\"}",
        "{\"contract_id\":\"c d\",\"asset_id\":\"a\",\"hw_id\":\"h\"}",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":\"h\"} x",
        "{\"contract_id\":\"c\",\"asset_id\":\"a\",\"hw_id\":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}",
    };
    char err[TB_JSON_ERR_MAX];
    struct cp_authorize q;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (cp_authorize_parse(bad[i], strlen(bad[i]), &q, err) >= 0)
            fail_msg("accepted: %s", bad[i]);
}

/* A name from outside reaches the log only in printable form. */
static void test_messages_are_printable(void **state)
{
    static const char body[] = "{\"a\\u001b[31m\\n\":1,\"a\\u001b[31m\\n\":2}";
    char err[TB_JSON_ERR_MAX];
    struct cp_authorize q;

    assert_int_equal(cp_authorize_parse(body, strlen(body), &q, err), -EBADMSG);
    for (const char *s = err; *s; s++)
        assert_true(*s >= ' ' && *s < 0x7f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_register_good),
        cmocka_unit_test(test_register_says_how),
        cmocka_unit_test(test_register_damages),
        cmocka_unit_test(test_register_manifest_hash_in_either_place),
        cmocka_unit_test(test_authorize_good),
        cmocka_unit_test(test_authorize_bad),
        cmocka_unit_test(test_messages_are_printable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
