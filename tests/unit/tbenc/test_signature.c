/* SPDX-License-Identifier: Apache-2.0 */
/* The signature within a manifest: joined, split to the byte, and used only as it was signed. */
#include "tbenc_testing.h"

#include "tbenc/signature.h"

#define DIR "tests/vectors/minisign/"

static char *vector_text(const char *name)
{
    _cleanup_free_ char *path = tb_strf(DIR "%s", name);
    char *text = NULL;
    size_t len;

    if (tb_read_file(path, 65536, &text, &len) < 0)
        fail_msg("cannot read %s", path);
    return text;
}

static struct tb_minisign_keys keys_of(const char *name)
{
    _cleanup_free_ char *text = vector_text(name);
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_keys k;

    assert_int_equal(tb_minisign_keys_parse(text, strlen(text), &k, err), 0);
    return k;
}

static char *signed_manifest(void)
{
    _cleanup_free_ char *text = vector_text("manifest.json"), *sig = vector_text("manifest.json.minisig");
    char *joined = NULL;
    size_t len;

    assert_int_equal(tbenc_signature_join(text, strlen(text), sig, &joined, &len), 0);
    assert_int_equal(len, strlen(joined));
    return joined;
}

static int parse(const char *text, size_t len, const struct tb_minisign_keys *k, bool *ret_finetune,
                 struct tbenc_error *e)
{
    struct tbenc_manifest *m = NULL;
    int r = tbenc_manifest_parse_signed(text, len, 0, k, &m, e);

    if (r == 0 && ret_finetune)
        *ret_finetune = m->allow_finetune;
    assert_true((r == 0) == (m != NULL));
    tbenc_manifest_free(m);
    return r;
}

static void assert_refused(const char *text, const struct tb_minisign_keys *k, int rc, const char *why)
{
    struct tbenc_error e = {0};
    int r = parse(text, strlen(text), k, NULL, &e);

    if (r != rc || !strstr(e.message, why))
        fail_msg("got %d \"%s\", want %d \"%s\" for\n%s", r, e.message, rc, why, text);
}

static void test_a_signed_manifest_is_taken_and_old_readers_take_it_too(void **state)
{
    struct tb_minisign_keys one = keys_of("one.pub"), none = {.n = 0};
    _cleanup_free_ char *text = signed_manifest();
    struct tbenc_error e = {0};
    bool finetune = true;

    assert_int_equal(parse(text, strlen(text), &one, &finetune, &e), 0);
    assert_false(finetune);
    assert_int_equal(parse(text, strlen(text), &none, NULL, &e), 0);
    assert_int_equal(parse(text, strlen(text), NULL, NULL, &e), 0);
}

static void test_what_is_signed_is_the_text_before_to_the_byte(void **state)
{
    _cleanup_free_ char *text = signed_manifest(), *before = vector_text("manifest.json"), *part = NULL;
    _cleanup_free_ char *sig = NULL, *minisig = vector_text("manifest.json.minisig"), *again = NULL;
    struct tbenc_error e = {0};
    size_t len;

    assert_int_equal(tbenc_signature_split(text, strlen(text), &part, &len, &sig, &e), 0);
    assert_string_equal(part, before);
    assert_int_equal(len, strlen(before));
    assert_string_equal(sig, minisig);
    assert_int_equal(tbenc_signature_join(text, strlen(text), sig, &again, &len),
                     -EINVAL); /* signed already */
}

static void test_unsigned_foreign_and_changed_manifests_are_refused(void **state)
{
    struct tb_minisign_keys one = keys_of("one.pub"), two = keys_of("two.pub");
    _cleanup_free_ char *text = signed_manifest(), *bare = vector_text("manifest.json");
    _cleanup_free_ char *other = vector_text("another.minisig"), *changed = strdup(text), *wrong = NULL;
    size_t len;

    assert_refused(bare, &one, -ENOKEY, "not signed");
    assert_refused(text, &two, -ENOKEY, "is not trusted here");
    memcpy(strstr(changed, "\"allow_finetune\": false"), "\"allow_finetune\": true ", 23);
    assert_refused(changed, &one, -EBADMSG, "does not belong to it");
    assert_int_equal(tbenc_signature_join(bare, strlen(bare), other, &wrong, &len), 0);
    assert_refused(wrong, &one, -EBADMSG, "does not belong to it");
}

/* A member before or behind, another form of the same JSON: what is used must be what was signed. */
static void test_members_around_the_signature_are_refused(void **state)
{
    struct tb_minisign_keys one = keys_of("one.pub");
    _cleanup_free_ char *text = signed_manifest(), *before = NULL, *behind = NULL, *line = NULL;
    size_t len = strlen(text);

    before = tb_strf("{\n  \"allow_finetune\": true,%s", text + 1);
    assert_refused(before, &one, -EBADMSG, "does not belong to it");
    behind = tb_strf("%.*s,\n  \"x\": 1\n}", (int)len - 2, text);
    assert_refused(behind, &one, -EBADMSG, "wrote the manifest anew");
    line = tb_strf("%s\n", text);
    assert_refused(line, &one, -EBADMSG, "wrote the manifest anew");
}

static void test_each_bit_of_a_signed_manifest_counts(void **state)
{
    struct tb_minisign_keys one = keys_of("one.pub");
    _cleanup_free_ char *text = signed_manifest();
    const char *untrusted = strstr(text, "untrusted comment:");
    size_t free_from = (size_t)(untrusted - text) + strlen("untrusted comment:");
    size_t free_until = (size_t)(strstr(untrusted, "\\n") - text), len = strlen(text);
    struct tbenc_error e;

    for (size_t i = 0; i < len * 8; i++) {
        bool is_free = i / 8 >= free_from && i / 8 < free_until; /* nobody signs that comment */

        text[i / 8] ^= (char)(1 << (i % 8));
        if (!is_free && parse(text, len, &one, NULL, &e) == 0)
            fail_msg("bit %zu of byte %zu is not looked at", i % 8, i / 8);
        text[i / 8] ^= (char)(1 << (i % 8));
    }
    for (size_t n = 0; n < len; n++)
        if (parse(text, n, &one, NULL, &e) == 0)
            fail_msg("%zu of %zu bytes are enough", n, len);
}

static void test_what_a_signature_says_of_itself(void **state)
{
    _cleanup_free_ char *text = signed_manifest(), *bare = vector_text("manifest.json"), *bad = NULL;
    struct tbenc_signature s;
    struct tbenc_error e = {0};
    size_t len;

    assert_int_equal(tbenc_signature_look(text, strlen(text), &s, &e), 0);
    assert_true(s.present);
    assert_string_equal(s.key_id, "194A5E619EDC57D7");
    assert_string_equal(s.comment, "timestamp:1764130000\tfile:manifest.json\thashed\tasset:x");
    assert_int_equal(tbenc_signature_look(bare, strlen(bare), &s, &e), 0);
    assert_false(s.present);
    assert_int_equal(tbenc_signature_join(bare, strlen(bare), "nonsense", &bad, &len), 0);
    assert_int_equal(tbenc_signature_look(bad, strlen(bad), &s, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "four lines"));
}

static void test_a_manifest_that_would_be_too_long_is_not_made(void **state)
{
    _cleanup_free_ char *big = malloc(TBENC_MANIFEST_MAX), *ret = NULL;
    size_t len;

    memset(big, ' ', TBENC_MANIFEST_MAX);
    memcpy(big + TBENC_MANIFEST_MAX - 2, "\n}", 2);
    assert_int_equal(tbenc_signature_join(big, TBENC_MANIFEST_MAX, "s", &ret, &len), -EFBIG);
    assert_null(ret);
    assert_int_equal(tbenc_signature_join("{}", 2, "s", &ret, &len), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_signed_manifest_is_taken_and_old_readers_take_it_too),
        cmocka_unit_test(test_what_is_signed_is_the_text_before_to_the_byte),
        cmocka_unit_test(test_unsigned_foreign_and_changed_manifests_are_refused),
        cmocka_unit_test(test_members_around_the_signature_are_refused),
        cmocka_unit_test(test_each_bit_of_a_signed_manifest_counts),
        cmocka_unit_test(test_what_a_signature_says_of_itself),
        cmocka_unit_test(test_a_manifest_that_would_be_too_long_is_not_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
