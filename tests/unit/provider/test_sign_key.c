/* SPDX-License-Identifier: Apache-2.0 */
/* The signing key in minisign's files: those that minisign made are read, what is signed verifies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <openssl/evp.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"
#include "provider/asset/blake2b.h"
#include "provider/asset/sign_key.h"

#define DIR "tests/vectors/minisign/"
#define LITTLE 32768U, (UINT64_C(1) << 20) /* what libsodium takes at least */

static int open_text(const char *text, const char *passphrase, struct sign_key *ret, char *err)
{
    struct sign_file f;
    int r = sign_file_parse(text, strlen(text), &f, err);

    return r < 0 ? r : sign_file_open(&f, passphrase, ret, err);
}

static char *vector_text(const char *name)
{
    _cleanup_free_ char *path = tb_strf(DIR "%s", name);
    char *text = NULL;
    size_t len;

    if (tb_read_file(path, 65536, &text, &len) < 0)
        fail_msg("cannot read %s", path);
    return text;
}

/* The public half is that of the file beside it, and it signs for it. */
static void check_key(const struct sign_key *k, const char *pub)
{
    _cleanup_free_ char *text = vector_text(pub), *sig = NULL;
    char err[TB_MINISIGN_ERR_MAX] = "", line[TB_MINISIGN_KEY_CHARS + 1];
    struct tb_minisign_keys keys;
    struct tb_minisign_key own;
    struct tb_minisign_sig s;

    assert_int_equal(tb_minisign_keys_parse(text, strlen(text), &keys, err), 0);
    sign_key_public(k, &own);
    assert_memory_equal(&own, &keys.v[0], sizeof(own));
    sign_public_format(&own, line);
    assert_non_null(strstr(text, line));
    assert_int_equal(sign_message(k, "abc", 3, "timestamp:1", &sig), 0);
    assert_int_equal(tb_minisign_sig_parse(sig, strlen(sig), &s, err), 0);
    assert_int_equal(tb_minisign_verify(&keys, &s, "abc", 3, NULL, err), 0);
    assert_int_equal(tb_minisign_verify(&keys, &s, "abd", 3, NULL, err), -EBADMSG);
}

static void test_secret_keys_of_minisign_are_read(void **state)
{
    _cleanup_free_ char *one = vector_text("one.key"), *locked = vector_text("locked.key");
    char err[TB_MINISIGN_ERR_MAX] = "";
    struct sign_key k;

    assert_int_equal(open_text(one, NULL, &k, err), 0);
    check_key(&k, "one.pub");
    if (open_text(locked, "correct horse", &k, err) != 0)
        fail_msg("%s", err);
    check_key(&k, "locked.pub");
}

/* Ed25519 has no chance in it: the same key, message and comment make minisign's bytes. */
static void test_signatures_are_those_of_minisign(void **state)
{
    _cleanup_free_ char *key = vector_text("one.key"), *want = vector_text("message.minisig"), *sig = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    struct sign_key k;

    assert_int_equal(open_text(key, NULL, &k, err), 0);
    assert_int_equal(sign_message(&k, "the message\n", 12, "timestamp:1764130000\tasset:a", &sig), 0);
    assert_string_equal(strchr(sig, '\n'), strchr(want, '\n'));
}

static void test_a_key_is_locked_and_unlocked(void **state)
{
    char err[TB_MINISIGN_ERR_MAX] = "";
    _cleanup_secret_ char *text = NULL, *open = NULL;
    struct sign_key a, b;

    assert_int_equal(sign_key_make(&a), 0);
    assert_int_equal(sign_key_format(&a, "pass phrase", LITTLE, &text, err), 0);
    assert_int_equal(open_text(text, "pass phrase", &b, err), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_int_equal(open_text(text, "pass phrasE", &b, err), -EACCES);
    assert_int_equal(open_text(text, "", &b, err), -EACCES);
    assert_int_equal(sign_key_format(&a, NULL, 0, 0, &open, err), 0);
    assert_int_equal(open_text(open, NULL, &b, err), 0);
    assert_memory_equal(&a, &b, sizeof(a));
}

/* Flips in what is checked: algorithm, limits, salt, body. Those in the id of an unlocked key make another id. */
static void test_each_bit_of_a_locked_file_counts(void **state)
{
    char err[TB_MINISIGN_ERR_MAX];
    _cleanup_secret_ char *text = NULL;
    struct sign_key a, b;
    uint8_t raw[512];
    ssize_t n;
    char *line;

    assert_int_equal(sign_key_make(&a), 0);
    assert_int_equal(sign_key_format(&a, "x", LITTLE, &text, err), 0);
    line = strchr(text, '\n') + 1;
    n = tb_base64_decode(line, strlen(line) - 1, raw);
    assert_int_equal(n, 158);
    for (size_t i = 0; i < (size_t)n * 8; i += 5) {
        bool limit = i / 8 >= 38 && i / 8 < 54; /* some make the same parameters */

        raw[i / 8] ^= (uint8_t)(1 << (i % 8));
        tb_base64_encode(raw, (size_t)n, line);
        strcat(line, "\n");
        if (!limit && open_text(text, "x", &b, err) == 0)
            fail_msg("bit %zu of byte %zu is not looked at", i % 8, i / 8);
        raw[i / 8] ^= (uint8_t)(1 << (i % 8));
    }
}

static void test_what_is_no_secret_key_is_refused(void **state)
{
    _cleanup_free_ char *one = vector_text("one.key"), *pub = vector_text("one.pub"), *twice = NULL,
                        *cut = NULL;
    char err[TB_MINISIGN_ERR_MAX];
    struct sign_key k;

    twice = tb_strf("%s%s", one, one);
    cut = strndup(one, strlen(one) - 3);
    assert_int_equal(open_text(pub, NULL, &k, err), -EBADMSG);
    assert_int_equal(open_text(twice, NULL, &k, err), -EBADMSG);
    assert_int_equal(open_text(cut, NULL, &k, err), -EBADMSG);
    assert_int_equal(open_text("", NULL, &k, err), -EBADMSG);
    assert_non_null(strstr(err, "is no secret key of minisign"));
}

static void test_work_without_bounds_is_refused(void **state)
{
    struct sign_file f = {.locked = true, .opslimit = UINT64_MAX, .memlimit = UINT64_MAX};
    char err[TB_MINISIGN_ERR_MAX];
    struct sign_key k;

    assert_int_equal(sign_file_open(&f, "x", &k, err), -EBADMSG);
    assert_non_null(strstr(err, "more work"));
    f.memlimit = 1 << 20; /* little memory, many rounds */
    assert_int_equal(sign_file_open(&f, "x", &k, err), -EBADMSG);
    f.memlimit = 0;
    assert_int_equal(sign_file_open(&f, "x", &k, err), -EBADMSG);
}

static void test_halves_of_two_keys_are_refused(void **state)
{
    char err[TB_MINISIGN_ERR_MAX];
    _cleanup_secret_ char *text = NULL;
    struct sign_key a, b;

    assert_int_equal(sign_key_make(&a), 0);
    assert_int_equal(sign_key_make(&b), 0);
    memcpy(a.secret + 32, b.secret + 32, 32);
    assert_int_equal(sign_key_format(&a, NULL, 0, 0, &text, err), 0);
    assert_int_equal(open_text(text, NULL, &b, err), -EBADMSG);
    assert_non_null(strstr(err, "do not belong together"));
}

static void test_blake2b(void **state)
{
    uint8_t in[300], own[64], theirs[64];
    char hex[65];
    unsigned n = 64;

    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(i * 7);
    for (size_t len = 0; len <= sizeof(in); len++) {
        blake2b(in, len, own, 64);
        assert_int_equal(EVP_Digest(in, len, theirs, &n, EVP_blake2b512(), NULL), 1);
        assert_memory_equal(own, theirs, 64);
    }
    blake2b("abc", 3, own, 32); /* as Python's hashlib.blake2b(b"abc", digest_size=32) */
    tb_hex_encode(own, 32, hex);
    assert_string_equal(hex, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secret_keys_of_minisign_are_read),
        cmocka_unit_test(test_signatures_are_those_of_minisign),
        cmocka_unit_test(test_a_key_is_locked_and_unlocked),
        cmocka_unit_test(test_each_bit_of_a_locked_file_counts),
        cmocka_unit_test(test_what_is_no_secret_key_is_refused),
        cmocka_unit_test(test_work_without_bounds_is_refused),
        cmocka_unit_test(test_halves_of_two_keys_are_refused),
        cmocka_unit_test(test_blake2b),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
