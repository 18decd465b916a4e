/* SPDX-License-Identifier: Apache-2.0 */
/* Every file of tests/vectors opens to the hash stated for it, in each of the ways the library can open.
 * Where the nonce prefix is stated too, sealing the plaintext again gives the same bytes and the same
 * manifest. */
#include "tbenc_testing.h"

#include "common/hex.h"
#include "common/json.h"

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

struct vector {
    const char *file;
    struct tbenc_manifest *m;
    uint8_t key[TBENC_KEY_BYTES], prefix[4];
    bool has_prefix;
    int fd;
};

static const char *member(const cJSON *v, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = NULL;

    assert_int_equal(tb_json_get_string(v, name, &s, err), 0);
    return s;
}

static struct vector vector_load(const cJSON *v)
{
    struct vector x = {.file = member(v, "file"), .m = load_manifest(member(v, "manifest"))};
    _cleanup_free_ char *path = path_of(x.file);
    const char *key = member(v, "key_hex");

    assert_int_equal(tb_hex_decode(key, strlen(key), x.key, sizeof(x.key)), 0);
    x.has_prefix = tb_json_member(v, "nonce_prefix");
    if (x.has_prefix)
        assert_int_equal(tb_hex_decode(member(v, "nonce_prefix"), 8, x.prefix, sizeof(x.prefix)), 0);
    x.fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(x.fd >= 0);
    return x;
}

static void vector_free(struct vector *x)
{
    x->m = tbenc_manifest_free(x->m);
    x->fd = tb_close(x->fd);
}

static void check_open(const struct vector *x, const char *want)
{
    struct tbenc_open_params p = {.manifest = x->m, .key = x->key, .threads = 2, .flags = TBENC_CHECK_SHA256};
    _cleanup_close_ int out = memfd_empty();
    struct tbenc_error e = {0};

    if (tbenc_open_stream(&p, x->fd, out, &e) < 0)
        fail_msg("%s: %s", x->file, e.message);
    _cleanup_blob_ struct blob pt = memfd_bytes(out);
    assert_sha256(&pt, want);
    assert_int_equal(tbenc_verify(&p, x->fd, &e), 0);
    check_reader(&p, x->fd, &pt);
    p.key = NULL;
    assert_int_equal(tbenc_verify(&p, x->fd, &e), 0);
}

/* Opens into files and seals these again. */
static void check_reseal(const struct vector *x)
{
    size_t n = x->m->files ? x->m->n_files : 1;
    struct tbenc_open_params o = {.manifest = x->m, .key = x->key};
    struct tbenc_seal_params p = {.key = x->key,
                                  .chunk_bytes = x->m->chunk_bytes,
                                  .nonce_prefix = x->prefix,
                                  .asset_id = x->m->asset_id,
                                  .weights_filename = x->m->weights_filename,
                                  .allow_finetune = x->m->allow_finetune};
    struct tbenc_input in[16] = {0};
    struct tbenc_manifest *m = NULL;
    _cleanup_free_ char *want = NULL, *got = NULL;
    _cleanup_close_ int out = memfd_empty();
    int fds[16];

    assert_true(n <= ARRAY_SIZE(fds));
    for (size_t i = 0; i < n; i++)
        fds[i] = memfd_empty();
    assert_int_equal(tbenc_open_files(&o, x->fd, fds, n, NULL), 0);
    for (size_t i = 0; i < n; i++)
        in[i] = (struct tbenc_input){.fd = fds[i],
                                     .path = x->m->files ? x->m->files[i].path : NULL,
                                     .mode = x->m->files ? x->m->files[i].mode : 0,
                                     .bytes = UINT64_MAX};
    assert_int_equal(tbenc_seal(&p, in, n, x->m->files, out, &m, NULL), 0);
    _cleanup_blob_ struct blob a = memfd_bytes(x->fd), b = memfd_bytes(out);
    assert_blob_equal(&a, &b);
    assert_int_equal(tbenc_manifest_format(x->m, &want, NULL), 0);
    assert_int_equal(tbenc_manifest_format(m, &got, NULL), 0);
    assert_string_equal(got, want);
    tbenc_manifest_free(m);
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
}

/* The text in the file is the text the library writes. */
static void check_text(const struct vector *x, const char *manifest)
{
    _cleanup_free_ char *path = path_of(manifest), *want = NULL, *got = NULL;

    assert_int_equal(tb_read_file(path, TBENC_MANIFEST_MAX, &want, &(size_t){0}), 0);
    assert_int_equal(tbenc_manifest_format(x->m, &got, NULL), 0);
    assert_string_equal(got, want);
}

static void check_list(const char *list, int at_least)
{
    _cleanup_free_ char *path = path_of(list), *text = NULL;
    _cleanup_json_ cJSON *j = NULL;
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    size_t n;

    assert_int_equal(tb_read_file(path, 1 << 20, &text, &n), 0);
    assert_int_equal(tb_json_parse(text, n, 1 << 20, &j, err), 0);
    assert_true(cJSON_GetArraySize(j) >= at_least);
    cJSON_ArrayForEach (v, j) {
        _cleanup_(vector_free) struct vector x = vector_load(v);

        check_open(&x, member(v, "plaintext_sha256"));
        if (x.has_prefix) {
            check_reseal(&x);
            check_text(&x, member(v, "manifest"));
        }
    }
}

static void test_foreign_vectors(void **state)
{
    check_list("vectors.json", 14);
}

static void test_own_vectors(void **state)
{
    check_list("tb-vectors.json", 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_foreign_vectors),
                                       cmocka_unit_test(test_own_vectors)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
