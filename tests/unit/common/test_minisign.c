/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures made by minisign are taken, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base64.h"
#include "common/io.h"
#include "common/minisign.h"

#define DIR "tests/vectors/minisign/"
#define MESSAGE "the message\n"

static char *vector_read(const char *name, size_t *ret_len)
{
    _cleanup_free_ char *path = tb_strf(DIR "%s", name);
    char *text = NULL;
    size_t len;

    if (tb_read_file(path, 65536, &text, &len) < 0)
        fail_msg("cannot read %s", path);
    if (ret_len)
        *ret_len = len;
    return text;
}

static struct tb_minisign_keys keys_of(const char *name)
{
    _cleanup_free_ char *text = vector_read(name, NULL);
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_keys k;

    if (tb_minisign_keys_parse(text, strlen(text), &k, err) < 0)
        fail_msg("%s: %s", name, err);
    return k;
}

static int verify(const struct tb_minisign_keys *k, const char *sig_text, const char *message, char *err)
{
    struct tb_minisign_sig sig;
    int r = tb_minisign_sig_parse(sig_text, strlen(sig_text), &sig, err);

    return r < 0 ? r : tb_minisign_verify(k, &sig, message, strlen(message), NULL, err);
}

static void assert_refused(const struct tb_minisign_keys *k, const char *sig, const char *message, int rc,
                           const char *why)
{
    char err[TB_MINISIGN_ERR_MAX] = "";
    int r = verify(k, sig, message, err);

    if (r != rc || !strstr(err, why))
        fail_msg("got %d \"%s\", want %d \"%s\" for\n%s", r, err, rc, why, sig);
}

static void test_what_minisign_signed_is_taken(void **state)
{
    static const char *const pairs[][2] = {
        {"one.pub", "message.minisig"}, {"two.pub", "two.minisig"}, {"locked.pub", "locked.minisig"}};
    char err[TB_MINISIGN_ERR_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        _cleanup_free_ char *sig = vector_read(pairs[i][1], NULL);
        struct tb_minisign_keys k = keys_of(pairs[i][0]);

        if (verify(&k, sig, MESSAGE, err) != 0)
            fail_msg("%s: %s", pairs[i][1], err);
    }
}

static void test_the_trusted_comment_is_what_was_signed(void **state)
{
    _cleanup_free_ char *text = vector_read("message.minisig", NULL);
    struct tb_minisign_sig sig;
    char err[TB_MINISIGN_ERR_MAX], id[TB_MINISIGN_ID_HEX + 1];

    assert_int_equal(tb_minisign_sig_parse(text, strlen(text), &sig, err), 0);
    assert_int_equal(sig.comment_len, strlen("timestamp:1764130000\tasset:a"));
    assert_memory_equal(sig.comment, "timestamp:1764130000\tasset:a", sig.comment_len);
    tb_minisign_id_format(sig.key_id, id);
    assert_string_equal(id, "194A5E619EDC57D7"); /* as minisign wrote it into one.pub */
}

static void test_another_key_another_message_and_the_legacy_form_are_refused(void **state)
{
    struct tb_minisign_keys one = keys_of("one.pub"), two = keys_of("two.pub");
    _cleanup_free_ char *sig = vector_read("message.minisig", NULL),
                        *other = vector_read("another.minisig", NULL);
    _cleanup_free_ char *legacy = vector_read("legacy.minisig", NULL);

    assert_refused(&two, sig, MESSAGE, -ENOKEY, "signed with key 194A5E619EDC57D7");
    assert_refused(&one, other, MESSAGE, -EBADMSG, "does not belong to it");
    assert_refused(&one, sig, "the message", -EBADMSG, "does not belong to it");
    assert_refused(&one, sig, "", -EBADMSG, "does not belong to it");
    assert_refused(&one, legacy, MESSAGE, -EBADMSG, "legacy");
    /* the id is of one key, the key of another */
    memcpy(two.v[0].id, one.v[0].id, sizeof(two.v[0].id));
    assert_refused(&two, sig, MESSAGE, -EBADMSG, "does not belong to it");
    /* two keys of one id: the other is tried too */
    two.v[two.n++] = one.v[0];
    assert_int_equal(verify(&two, sig, MESSAGE, (char[TB_MINISIGN_ERR_MAX]){""}), 0);
}

/* In the base64 of line 2 and 4, bit by bit: never taken, whichever field it is in. */
static void check_line_flips(const char *text, const struct tb_minisign_keys *k, int line)
{
    const char *at = text;

    for (int i = 1; i < line; i++)
        at = strchr(at, '\n') + 1;
    for (size_t n = strcspn(at, "\n"), i = 0; i < n * 6; i++) {
        _cleanup_free_ char *copy = strdup(text);
        char *base64 = copy + (at - text), err[TB_MINISIGN_ERR_MAX];
        uint8_t raw[128];
        ssize_t bytes = tb_base64_decode(base64, n, raw);

        if (i >= (size_t)bytes * 8)
            break;
        raw[i / 8] ^= (uint8_t)(1 << (i % 8));
        tb_base64_encode(raw, (size_t)bytes, base64);
        base64[n] = '\n';
        if (verify(k, copy, MESSAGE, err) == 0)
            fail_msg("bit %zu of line %d is not looked at", i, line);
    }
}

static void test_each_bit_of_a_signature_counts(void **state)
{
    _cleanup_free_ char *text = vector_read("message.minisig", NULL);
    struct tb_minisign_keys k = keys_of("one.pub");

    check_line_flips(text, &k, 2);
    check_line_flips(text, &k, 4);
}

static void test_each_bit_of_message_and_trusted_comment_counts(void **state)
{
    _cleanup_free_ char *text = vector_read("message.minisig", NULL);
    struct tb_minisign_keys k = keys_of("one.pub");
    size_t comment = (size_t)(strstr(text, "timestamp:") - text);
    char err[TB_MINISIGN_ERR_MAX];

    for (size_t i = 0; i < strlen(MESSAGE) * 8; i++) {
        char message[] = MESSAGE;

        message[i / 8] ^= (char)(1 << (i % 8));
        if (message[i / 8])
            assert_refused(&k, text, message, -EBADMSG, "does not belong to it");
    }
    for (size_t i = 0; i < strlen("timestamp:1764130000\tasset:a") * 7; i++) {
        _cleanup_free_ char *copy = strdup(text);

        copy[comment + i / 7] ^= (char)(1 << (i % 7));
        if (copy[comment + i / 7] && verify(&k, copy, MESSAGE, err) == 0)
            fail_msg("bit %zu of the trusted comment is not looked at", i);
    }
}

static void test_a_signature_that_was_cut_is_refused(void **state)
{
    _cleanup_free_ char *text = vector_read("message.minisig", NULL);
    struct tb_minisign_keys k = keys_of("one.pub");
    char err[TB_MINISIGN_ERR_MAX];

    for (size_t n = 0; n < strlen(text) - 1; n++) { /* the last line needs no end */
        _cleanup_free_ char *cut = strndup(text, n);

        if (verify(&k, cut, MESSAGE, err) == 0)
            fail_msg("%zu of %zu bytes are enough", n, strlen(text));
    }
}

static void test_line_ends_of_windows_are_taken(void **state)
{
    _cleanup_free_ char *text = vector_read("message.minisig", NULL), *keys = vector_read("one.pub", NULL);
    char crlf[1024], err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_keys k;
    size_t n = 0;

    for (const char *p = keys; *p; p++) {
        if (*p == '\n')
            crlf[n++] = '\r';
        crlf[n++] = *p;
    }
    assert_int_equal(tb_minisign_keys_parse(crlf, n, &k, err), 0);
    n = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            crlf[n++] = '\r';
        crlf[n++] = *p;
    }
    crlf[n] = '\0';
    assert_int_equal(verify(&k, crlf, MESSAGE, err), 0);
}

/* S + L is the same scalar: a second signature of the same message, which nobody made. */
static void test_a_signature_whose_s_is_not_canonical_is_refused(void **state)
{
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                      0xa2, 0xde, 0xf9, 0xde, 0x14, 0,    0,    0,    0,    0,    0,
                                      0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};
    _cleanup_free_ char *text = vector_read("message.minisig", NULL);
    struct tb_minisign_keys k = keys_of("one.pub");
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_sig sig;
    unsigned carry = 0;

    assert_int_equal(tb_minisign_sig_parse(text, strlen(text), &sig, err), 0);
    assert_int_equal(tb_minisign_verify(&k, &sig, MESSAGE, strlen(MESSAGE), NULL, err), 0);
    for (size_t i = 0; i < sizeof(order); i++) {
        carry += sig.sig[32 + i] + order[i];
        sig.sig[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    assert_int_equal(carry, 0);
    assert_int_equal(tb_minisign_verify(&k, &sig, MESSAGE, strlen(MESSAGE), NULL, err), -EBADMSG);
}

static void check_keys(const char *text, size_t n, const char *why)
{
    char err[TB_MINISIGN_ERR_MAX] = "";
    struct tb_minisign_keys k = {.n = 0};
    int r = tb_minisign_keys_parse(text, strlen(text), &k, err);

    if (why ? r != -EBADMSG || !strstr(err, why) : r != 0 || k.n != n)
        fail_msg("got %d, %zu keys, \"%s\"; want %zu, \"%s\" for\n%s", r, k.n, err, n, why ? why : "", text);
}

static void test_a_list_of_keys(void **state)
{
    _cleanup_free_ char *one = vector_read("one.pub", NULL), *two = vector_read("two.pub", NULL);
    _cleanup_free_ char *both = tb_strf("%s\n# the next\n%s\n\n", one, two), *line = NULL, *many = NULL;
    const char *a = strchr(one, '\n') + 1, *b = strchr(two, '\n') + 1;

    check_keys(both, 2, NULL);
    line = tb_strf("%.56s, %.56s", a, b);
    check_keys(line, 2, NULL);
    check_keys(a, 1, NULL);
    many = tb_strf("%.56s,%.56s,%.56s", a, b, a);
    check_keys(many, 2, NULL);
    check_keys("", 0, "no key");
    check_keys("untrusted comment: minisign public key\n", 0, "no key");
    check_keys(" ,\r\n", 0, "no key");
    check_keys("hello", 0, "no public key");
    free(line);
    line = tb_strf("%.55s", a);
    check_keys(line, 0, "no public key");
    free(line);
    line = tb_strf("%.56s%.56s", a, b);
    check_keys(line, 0, "no public key");
    free(line);
    line = tb_strf("RX%.54s", a + 2);
    check_keys(line, 0, "another kind");
}

static void test_too_many_keys_are_refused(void **state)
{
    char text[(TB_MINISIGN_KEYS_MAX + 1) * (TB_MINISIGN_KEY_CHARS + 1) + 1], *p = text;
    struct tb_minisign_keys k = keys_of("one.pub");
    uint8_t raw[TB_MINISIGN_KEY_BYTES] = "Ed";

    memcpy(raw + 10, k.v[0].public, sizeof(k.v[0].public));
    for (int i = 0; i <= TB_MINISIGN_KEYS_MAX; i++) {
        raw[2] = (uint8_t)i;
        tb_base64_encode(raw, sizeof(raw), p);
        p += TB_MINISIGN_KEY_CHARS;
        *p++ = '\n';
        *p = '\0';
    }
    check_keys(text, 0, "more than 16");
    text[TB_MINISIGN_KEYS_MAX * (TB_MINISIGN_KEY_CHARS + 1)] = '\0';
    check_keys(text, TB_MINISIGN_KEYS_MAX, NULL);
}

static void test_a_weak_key_is_refused(void **state)
{
    static const char *const weak[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* 0 and 1 once more */
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    };

    for (size_t i = 0; i < ARRAY_SIZE(weak); i++) {
        uint8_t raw[TB_MINISIGN_KEY_BYTES] = "Ed";
        char text[TB_MINISIGN_KEY_CHARS + 1];

        for (size_t j = 0; j < 32; j++)
            assert_int_equal(sscanf(weak[i] + 2 * j, "%2hhx", &raw[10 + j]), 1);
        tb_base64_encode(raw, sizeof(raw), text);
        check_keys(text, 0, "weak key");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_minisign_signed_is_taken),
        cmocka_unit_test(test_the_trusted_comment_is_what_was_signed),
        cmocka_unit_test(test_another_key_another_message_and_the_legacy_form_are_refused),
        cmocka_unit_test(test_each_bit_of_a_signature_counts),
        cmocka_unit_test(test_each_bit_of_message_and_trusted_comment_counts),
        cmocka_unit_test(test_a_signature_that_was_cut_is_refused),
        cmocka_unit_test(test_line_ends_of_windows_are_taken),
        cmocka_unit_test(test_a_signature_whose_s_is_not_canonical_is_refused),
        cmocka_unit_test(test_a_list_of_keys),
        cmocka_unit_test(test_too_many_keys_are_refused),
        cmocka_unit_test(test_a_weak_key_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
