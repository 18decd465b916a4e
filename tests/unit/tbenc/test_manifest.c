/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest: what is taken, what is refused and for which reason, and where records lie. */
#include "tbenc_testing.h"

#define SHA "ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789"
#define V1(chunk, bytes)                                                                                     \
    "\"format\": \"tbenc/v1\", \"algo\": \"aes-256-gcm-chunked\", \"chunk_bytes\": " chunk                   \
    ", \"plaintext_bytes\": " bytes ", \"sha256_ciphertext\": \"" SHA "\", \"asset_id\": \"a_B-9\", "        \
    "\"weights_filename\": \"model.tbenc\""
#define FILE_(path, bytes, chunk)                                                                            \
    "{\"path\": \"" path "\", \"bytes\": " bytes ", \"mode\": \"0644\", \"chunk\": " chunk                   \
    ", \"sha256\": \"" SHA "\"}"

static struct tbenc_manifest *parse(const char *text, unsigned flags)
{
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};

    if (tbenc_manifest_parse(text, strlen(text), flags, &m, &e) < 0)
        fail_msg("%s\n%s", e.message, text);
    return m;
}

static void assert_taken(const char *text)
{
    tbenc_manifest_free(parse(text, 0));
}

/* Refused with this errno and a message that has `why` in it. */
static void assert_refused(const char *text, size_t len, int rc, const char *why)
{
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};
    int r = tbenc_manifest_parse(text, len, 0, &m, &e);

    if (r != rc || !strstr(e.message, why) || m)
        fail_msg("got %d \"%s\", want %d \"%s\" for\n%.300s", r, e.message, rc, why, text);
    assert_int_equal(tbenc_manifest_parse(text, len, 0, &m, NULL), rc);
}

#define REFUSED(text, why) assert_refused(text, strlen(text), -EBADMSG, why)

static void test_v1(void **state)
{
    struct tbenc_manifest *m =
        parse("{" V1("4194304", "9007199254740991") ", \"unknown\": {\"x\": [1]}}\n", 0);

    assert_int_equal(m->chunk_bytes, 4194304);
    assert_int_equal(m->plaintext_bytes, TBENC_PLAINTEXT_MAX);
    assert_int_equal(m->sha256_ciphertext[0], 0xab);
    assert_string_equal(m->asset_id, "a_B-9");
    assert_string_equal(m->weights_filename, "model.tbenc");
    assert_true(m->allow_finetune);
    assert_false(m->has_tags_sha256);
    assert_null(m->files);
    assert_int_equal(tbenc_manifest_records(m), 2147483648);
    tbenc_manifest_free(m);
    assert_null(tbenc_manifest_free(NULL));
}

static void test_required_members(void **state)
{
    static const char *const names[] = {
        "format",          "algo", "chunk_bytes", "plaintext_bytes", "sha256_ciphertext", "asset_id",
        "weights_filename"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char text[] = "{" V1("1024", "1") "}";

        *strstr(text, names[i]) = 'X';
        REFUSED(text, names[i]);
    }
}

static void test_numbers(void **state)
{
    REFUSED("{" V1("1023", "1") "}", "chunk_bytes");
    REFUSED("{" V1("67108865", "1") "}", "chunk_bytes");
    REFUSED("{" V1("-1", "1") "}", "chunk_bytes");
    REFUSED("{" V1("\"1024\"", "1") "}", "chunk_bytes");
    REFUSED("{" V1("1024", "9007199254740992") "}", "plaintext_bytes");
    REFUSED("{" V1("1024", "1e300") "}", "plaintext_bytes");
    REFUSED("{" V1("1024", "1e999") "}", "manifest");
    REFUSED("{" V1("1024", "0.5") "}", "plaintext_bytes");
    REFUSED("{" V1("1024", "-1") "}", "plaintext_bytes");
    REFUSED("{" V1("1024", "null") "}", "plaintext_bytes");
    assert_taken("{" V1("1024", "0") "}");
    assert_taken("{" V1("67108864", "1") "}");
    tbenc_manifest_free(parse("{" V1("1", "1") "}", TBENC_LENIENT));
}

static void test_values(void **state)
{
    static const struct {
        const char *from, *to, *why;
    } cases[] = {
        {"tbenc/v1", "tbenc/v2", "format"},
        {"aes-256-gcm-chunked", "aes-256-gcm", "algo"},
        {"ABCDEF", "ABCDEG", "sha256_ciphertext"},
        {"ABCDEF", "ABCDE", "sha256_ciphertext"},
        {"a_B-9", "", "asset_id"},
        {"a_B-9", "a..b", "asset_id"},
        {"a_B-9", "a\\n", "asset_id"},
        {"model.tbenc", "../model.tbenc", "weights_filename"},
        {"model.tbenc", "/model", "weights_filename"},
        {"model.tbenc", "a/b", "weights_filename"},
        {"model.tbenc", "..", "weights_filename"},
        {"model.tbenc", ".", "weights_filename"},
        {"model.tbenc", "", "weights_filename"},
        {"model.tbenc", "a\\u0007b", "weights_filename"},
        {"model.tbenc", "a\\nb", "weights_filename"},
        {"model.tbenc", "a\xff", "weights_filename"},
        {"model.tbenc", "a\\u0000/../b", "escaped NUL"},
    };
    static const char base[] = "{" V1("1024", "1") "}";

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *at = strstr(base, cases[i].from);
        _cleanup_free_ char *text =
            tb_strf("%.*s%s%s", (int)(at - base), base, cases[i].to, at + strlen(cases[i].from));

        REFUSED(text, cases[i].why);
    }
}

static void test_text(void **state)
{
    static const char v1[] = "{" V1("1024", "1");
    char *big = malloc(TBENC_MANIFEST_MAX + 2);
    size_t n = strlen(v1);

    REFUSED("", "manifest");
    REFUSED("[]", "manifest");
    REFUSED("{", "manifest");
    REFUSED("{" V1("1024", "1") "} x", "manifest");
    REFUSED("{" V1("1024", "1") ", \"asset_id\": \"b\"}", "twice");
    REFUSED("{" V1("1024", "1") ", \"x\": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}", "nested");
    assert_refused("{" V1("1024", "1") "}\0", strlen("{" V1("1024", "1") "}") + 1, -EBADMSG, "NUL");
    assert_taken(" \t\r\n{" V1("1024", "1") "}\r\n \t");

    assert_non_null(big);
    memcpy(big, v1, n);
    memset(big + n, ' ', TBENC_MANIFEST_MAX + 1 - n);
    big[TBENC_MANIFEST_MAX - 1] = '}';
    big[TBENC_MANIFEST_MAX] = ' ';
    big[TBENC_MANIFEST_MAX + 1] = '\0';
    assert_refused(big, TBENC_MANIFEST_MAX + 1, -EFBIG, "limit");
    big[TBENC_MANIFEST_MAX] = '\0';
    assert_taken(big);
    free(big);
}

static void test_additions(void **state)
{
    struct tbenc_manifest *m =
        parse("{" V1("1024", "1") ", \"allow_finetune\": false, \"tags_sha256\": \"" SHA "\"}", 0);

    assert_false(m->allow_finetune);
    assert_true(m->has_tags_sha256);
    assert_int_equal(m->tags_sha256[1], 0xcd);
    assert_false(m->has_key_id);
    tbenc_manifest_free(m);
    m = parse("{" V1("1024", "1") ", \"key_id\": \"00112233445566Aa\"}", 0);
    assert_true(m->has_key_id);
    assert_memory_equal(m->key_id, "\x00\x11\x22\x33\x44\x55\x66\xaa", TBENC_KEY_ID_BYTES);
    tbenc_manifest_free(m);
    REFUSED("{" V1("1024", "1") ", \"key_id\": \"0011\"}", "key_id");
    REFUSED("{" V1("1024", "1") ", \"key_id\": 7}", "key_id");
    REFUSED("{" V1("1024", "1") ", \"allow_finetune\": 1}", "allow_finetune");
    REFUSED("{" V1("1024", "1") ", \"tags_sha256\": \"00\"}", "tags_sha256");
    REFUSED("{" V1("1024", "1") ", \"tags_sha256\": null}", "tags_sha256");
}

/* SHA-256("tbenc key id v1\0" + 00 01 ... 1f), by Python's hashlib. */
static void test_key_id(void **state)
{
    uint8_t key[TBENC_KEY_BYTES], id[TBENC_KEY_ID_BYTES];

    for (unsigned i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    assert_int_equal(tbenc_key_id(key, id), 0);
    assert_memory_equal(id, "\x69\xbd\x42\xdd\x44\x5b\x48\x27", sizeof(id));
}

#define TABLE(bytes, files) "{" V1("1024", bytes) ", \"files\": [" files "]}"

static void test_table_refused(void **state)
{
    REFUSED("{" V1("1024", "1") ", \"files\": {}}", "files");
    REFUSED(TABLE("0", ""), "files");
    REFUSED(TABLE("1", "1"), "files[0]");
    REFUSED(TABLE("2", FILE_("a", "1", "0")), "add up to 1");
    REFUSED(TABLE("1", FILE_("a", "1", "1")), "chunk");
    REFUSED(TABLE("2", FILE_("b", "1", "0") "," FILE_("a", "1", "1")), "sorted");
    REFUSED(TABLE("2", FILE_("a", "1", "0") "," FILE_("a", "1", "1")), "unique");
    REFUSED(TABLE("2", FILE_("a", "1", "0") "," FILE_("b", "1", "0")), "files[1]");
    REFUSED(TABLE("2", FILE_("a", "1", "0") "," FILE_("a/b", "1", "1")), "directory");
    REFUSED(TABLE("3", FILE_("a", "1", "0") "," FILE_("a-b", "1", "1") "," FILE_("a/b", "1", "2")),
            "directory");
    REFUSED(TABLE("3", FILE_("d/a", "1", "0") "," FILE_("d/a.x", "1", "1") "," FILE_("d/a/b/c", "1", "2")),
            "directory");
    REFUSED(
        TABLE("0", FILE_("a", "9007199254740991", "0") "," FILE_("b", "9007199254740991", "8796093022208")),
        "add up");
    REFUSED(TABLE("1", "{\"path\": \"a\", \"bytes\": 1, \"mode\": \"0644\", \"chunk\": 0}"), "files[0]");
    REFUSED(
        TABLE("1", "{\"path\": \"a\", \"bytes\": 1, \"mode\": 420, \"chunk\": 0, \"sha256\": \"" SHA "\"}"),
        "mode");
    REFUSED(TABLE("1", "{\"path\": \"a\", \"bytes\": 1, \"mode\": \"4755\", \"chunk\": 0, \"sha256\": \"" SHA
                       "\"}"),
            "mode");
    REFUSED(TABLE("1", "{\"path\": \"a\", \"bytes\": 1, \"mode\": \"+644\", \"chunk\": 0, \"sha256\": \"" SHA
                       "\"}"),
            "mode");
}

/* Enough files for their sizes to add up past 2^64, to a sum that looks right. */
static void test_table_overflow(void **state)
{
    enum { N = 2049 };
    _cleanup_free_ char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    assert_non_null(f);
    fputs("{" V1("67108864", "9007199254738943") ", \"files\": [", f);
    for (uint64_t i = 0; i < N; i++)
        fprintf(f,
                "%s{\"path\": \"f%04u\", \"bytes\": 9007199254740991, \"mode\": \"0644\", \"chunk\": %llu, "
                "\"sha256\": \"" SHA "\"}",
                i ? "," : "", (unsigned)i, (unsigned long long)(i << 27));
    fputs("]}", f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(N * TBENC_PLAINTEXT_MAX, 9007199254738943); /* mod 2^64 */
    REFUSED(text, "add up to more");
}

static void test_paths(void **state)
{
    static const char *const bad[] = {
        "",        "/a",       "a/",       "a//b",         ".",    "..",
        "./a",     "a/../b",   "a/..",     "../a",         "a\nb", "\x7f",
        "\xff",    "\xc0\xaf", "\xc2\x85", "\xed\xa0\x80", "a/.",  "\xf5\x80\x80\x80",
        "\xe2\x82"};
    static const char *const good[] = {"a",         "a/b", "...",          "..a",  "a..",
                                       ".hidden/x", "a b", "\xe2\x82\xac", "a\\b", "\""};
    char longest[TBENC_PATH_MAX + 2];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tbenc_path_valid(bad[i]))
            fail_msg("\"%s\" was taken", bad[i]);
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        if (!tbenc_path_valid(good[i]))
            fail_msg("\"%s\" was refused", good[i]);
    assert_false(tbenc_path_valid(NULL));
    for (size_t i = 0; i < sizeof(longest); i++)
        longest[i] = i % 200 == 199 ? '/' : 'x';
    longest[TBENC_PATH_MAX] = '\0';
    assert_true(tbenc_path_valid(longest));
    longest[TBENC_PATH_MAX] = 'x';
    longest[TBENC_PATH_MAX + 1] = '\0';
    assert_false(tbenc_path_valid(longest));
}

/* Walks all records by both functions and compares them with the definition. */
static void check_layout(const struct tbenc_manifest *m)
{
    uint64_t n = tbenc_manifest_records(m), ct = TBENC_HEADER_BYTES, pt = 0;
    struct tbenc_record r, step = {0};

    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(tbenc_manifest_record(m, i, &r), 0);
        if (i > 0)
            tbenc_layout_next(m, &step);
        else
            step = r;
        assert_memory_equal(&step, &r, sizeof(r));
        assert_int_equal(r.index, i);
        assert_int_equal(r.ct_off, ct);
        assert_int_equal(r.pt_off, pt);
        assert_in_range(r.pt_len, 1, m->chunk_bytes);
        ct += r.pt_len + TBENC_RECORD_OVERHEAD;
        pt += r.pt_len;
        if (r.pt_len < m->chunk_bytes) /* the last of its file */
            assert_int_equal(r.file_off + r.pt_len, m->files ? m->files[r.file].bytes : m->plaintext_bytes);
    }
    assert_int_equal(pt, m->plaintext_bytes);
    assert_int_equal(ct, tbenc_manifest_ciphertext_bytes(m));
    assert_int_equal(tbenc_manifest_record(m, n, &r), -ERANGE);
}

static void test_layout(void **state)
{
    static const char table[] =
        TABLE("5121", FILE_("a", "0", "0") "," FILE_("b", "2049", "0") "," FILE_("c", "0", "3") "," FILE_(
                          "d", "0", "3") "," FILE_("e/f", "1024",
                                                   "3") "," FILE_("g", "2048", "4") "," FILE_("h", "0", "6"));
    struct tbenc_manifest *m = parse(table, 0);
    struct tbenc_record r;

    assert_int_equal(tbenc_manifest_records(m), 6);
    check_layout(m);
    assert_int_equal(tbenc_manifest_record(m, 2, &r), 0);
    assert_int_equal(r.file, 1);
    assert_int_equal(r.pt_len, 1);
    assert_int_equal(tbenc_manifest_record(m, 3, &r), 0);
    assert_int_equal(r.file, 4);
    tbenc_manifest_free(m);
    for (unsigned bytes = 0; bytes < 4100; bytes += 41) {
        _cleanup_free_ char *text = tb_strf("{" V1("1024", "%u") "}", bytes);

        m = parse(text, 0);
        check_layout(m);
        tbenc_manifest_free(m);
    }
}

static void test_format(void **state)
{
    static const char want[] =
        "{\n"
        "  \"format\": \"tbenc/v1\",\n"
        "  \"algo\": \"aes-256-gcm-chunked\",\n"
        "  \"chunk_bytes\": 1024,\n"
        "  \"plaintext_bytes\": 1025,\n"
        "  \"sha256_ciphertext\": "
        "\"abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789\",\n"
        "  \"asset_id\": \"a_B-9\",\n"
        "  \"weights_filename\": \"model.tbenc\",\n"
        "  \"allow_finetune\": true,\n"
        "  \"files\": [\n"
        "    {\"path\": \"a\\\"\\\\\", \"bytes\": 1025, \"mode\": \"0644\", \"chunk\": 0, \"sha256\": "
        "\"abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789\"}\n"
        "  ]\n"
        "}";
    struct tbenc_manifest *m = parse(TABLE("1025", FILE_("a\\\"\\\\", "1025", "0")), 0);
    _cleanup_free_ char *text = NULL;
    size_t n;

    assert_int_equal(tbenc_manifest_format(m, &text, &n), 0);
    assert_string_equal(text, want);
    assert_int_equal(n, strlen(want));
    assert_taken(text);
    m->files[0].bytes = 7;
    assert_int_equal(tbenc_manifest_format(m, &text, &n), -EINVAL);
    tbenc_manifest_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v1),
        cmocka_unit_test(test_required_members),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_additions),
        cmocka_unit_test(test_key_id),
        cmocka_unit_test(test_table_refused),
        cmocka_unit_test(test_table_overflow),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
