/* SPDX-License-Identifier: Apache-2.0 */
/* Every file of tests/vectors opens to the hash stated for it, in each of the ways the library can open. */
#include "tbenc_testing.h"

#include "json.h"

#define DIR "tests/vectors/"

static char *path_of(const char *name)
{
    char *p = tb_strf(DIR "%s", name);

    assert_non_null(p);
    return p;
}

static struct tbenc_manifest *load_manifest(const char *name)
{
    _cleanup_free_ char *path = path_of(name), *text = NULL;
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};
    size_t n;

    assert_int_equal(tb_read_file(path, TBENC_MANIFEST_MAX, &text, &n), 0);
    if (tbenc_manifest_parse(text, n, 0, &m, &e) < 0)
        fail_msg("%s: %s", name, e.message);
    return m;
}

static void assert_sha256(const struct blob *b, const char *want)
{
    uint8_t digest[TBENC_SHA256_BYTES];
    char hex[2 * sizeof(digest) + 1];

    SHA256(b->p, b->n, digest);
    tb_hex_encode(digest, sizeof(digest), hex);
    assert_string_equal(hex, want);
}

static void check_reader(const struct tbenc_open_params *p, int fd, const struct blob *pt)
{
    struct tbenc_reader *rd;
    uint8_t got[700];

    assert_int_equal(tbenc_reader_new(p, fd, &rd, NULL), 0);
    for (uint64_t off = 0; off <= pt->n; off += 333) {
        ssize_t k = tbenc_reader_pread(rd, got, sizeof(got), off, NULL);

        assert_int_equal(k, MIN(sizeof(got), pt->n - off));
        assert_memory_equal(got, pt->p + off, (size_t)k);
    }
    tbenc_reader_free(rd);
}

/* All ways but the table's own: as one stream, whatever the manifest says of files. */
static void check_vector(const cJSON *v)
{
    char err[TB_JSON_ERR_MAX];
    const char *file, *manifest, *key_hex, *want;
    uint8_t key[TBENC_KEY_BYTES];
    struct tbenc_error e = {0};

    assert_int_equal(tb_json_get_string(v, "file", &file, err), 0);
    assert_int_equal(tb_json_get_string(v, "manifest", &manifest, err), 0);
    assert_int_equal(tb_json_get_string(v, "key_hex", &key_hex, err), 0);
    assert_int_equal(tb_json_get_string(v, "plaintext_sha256", &want, err), 0);
    assert_int_equal(tb_hex_decode(key_hex, strlen(key_hex), key, sizeof(key)), 0);

    struct tbenc_manifest *m = load_manifest(manifest);
    _cleanup_free_ char *path = path_of(file);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC), out = memfd_empty();
    struct tbenc_open_params p = {.manifest = m, .key = key, .threads = 2, .flags = TBENC_CHECK_SHA256};

    assert_true(fd >= 0);
    if (tbenc_open_stream(&p, fd, out, &e) < 0)
        fail_msg("%s: %s", file, e.message);
    _cleanup_blob_ struct blob pt = memfd_bytes(out);
    assert_sha256(&pt, want);
    assert_int_equal(tbenc_verify(&p, fd, &e), 0);
    p.key = NULL;
    assert_int_equal(tbenc_verify(&p, fd, &e), 0);
    p.key = key;
    check_reader(&p, fd, &pt);
    tbenc_manifest_free(m);
}

static void test_vectors(void **state)
{
    _cleanup_free_ char *path = path_of("vectors.json"), *text = NULL;
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    size_t n;

    assert_int_equal(tb_read_file(path, 1 << 20, &text, &n), 0);
    assert_int_equal(tb_json_parse(text, n, 1 << 20, &j, err), 0);
    assert_true(cJSON_GetArraySize(j) >= 14);
    cJSON_ArrayForEach (v, j)
        check_vector(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
