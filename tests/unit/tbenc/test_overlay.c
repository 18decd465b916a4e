/* SPDX-License-Identifier: Apache-2.0 */
/* Overlays: the files of two ciphertexts as one tree, and everything about a base that is not the one. */
#include "tbenc_testing.h"

#define N_BASE 4
static const char *const base_paths[N_BASE] = {"a/config.json", "empty", "tokenizer.json", "weights"};
static const size_t base_sizes[N_BASE] = {700, 0, 3000, 20000};

/* A base of four files, and an overlay that replaces the first, renames the third, and adds one. */
struct pair {
    struct tbenc_manifest *base, *m;
    char *base_text, *text;
    size_t base_len, len;
    int base_fd, fd;
};

static void pair_free(struct pair *p)
{
    tbenc_manifest_free(p->base);
    tbenc_manifest_free(p->m);
    free(p->base_text);
    free(p->text);
    tb_close(p->base_fd);
    tb_close(p->fd);
}
#define _cleanup_pair_ _cleanup_(pair_free)

static void seal(const struct tbenc_base *base, const char *const *paths, const size_t *sizes, uint32_t seed,
                 size_t n, int out_fd, struct tbenc_manifest **ret)
{
    struct tbenc_input in[8] = {0};
    struct tbenc_seal_params p = {.key = test_key,
                                  .chunk_bytes = 1024,
                                  .threads = 1,
                                  .nonce_prefix = test_prefix, /* the same: the keys of the records differ */
                                  .asset_id = "pair",
                                  .weights_filename = "model.tbenc",
                                  .base = base};
    struct tbenc_error e = {0};
    int r;

    for (size_t i = 0; i < n; i++) {
        _cleanup_blob_ struct blob b = blob_pattern(sizes[i], seed + (uint32_t)i);

        in[i] =
            (struct tbenc_input){.fd = memfd_of(b.p, b.n), .path = paths[i], .mode = 0644, .bytes = sizes[i]};
    }
    r = tbenc_seal(&p, in, n, true, out_fd, ret, &e);
    for (size_t i = 0; i < n; i++)
        tb_close(in[i].fd);
    if (r < 0)
        fail_msg("seal: %d %s", r, e.message);
}

static void reparse(struct pair *p)
{
    struct tbenc_error e = {0};

    free(p->text);
    assert_int_equal(tbenc_manifest_format(p->m, &p->text, &p->len), 0);
    p->m = tbenc_manifest_free(p->m);
    if (tbenc_manifest_parse(p->text, p->len, TBENC_OVERLAY, &p->m, &e) < 0)
        fail_msg("%s\n%s", e.message, p->text);
}

static struct pair pair_make_of(struct tbenc_file *taken, size_t n_taken, size_t n_own)
{
    static const char *const own_paths[] = {"a/config.json", "new"};
    static const size_t own_sizes[] = {1500, 10};
    struct pair p = {.base_fd = memfd_empty(), .fd = memfd_empty()};
    struct tbenc_base b = {.version = 3, .files = taken, .n_files = n_taken};

    seal(NULL, base_paths, base_sizes, 1, N_BASE, p.base_fd, &p.base);
    assert_int_equal(tbenc_manifest_format(p.base, &p.base_text, &p.base_len), 0);
    for (size_t i = 0; i < n_taken; i++) {
        size_t of = taken[i].chunk; /* which one, in the tests' words */

        taken[i] = (struct tbenc_file){.path = taken[i].path,
                                       .mode = taken[i].mode,
                                       .bytes = p.base->files[of].bytes,
                                       .chunk = p.base->files[of].chunk};
        memcpy(taken[i].sha256, p.base->files[of].sha256, TBENC_SHA256_BYTES);
    }
    SHA256((const uint8_t *)p.base_text, p.base_len, b.manifest_sha256);
    memcpy(b.sha256_ciphertext, p.base->sha256_ciphertext, TBENC_SHA256_BYTES);
    memcpy(b.tags_sha256, p.base->tags_sha256, TBENC_SHA256_BYTES);
    memset(b.salt, 7, sizeof(b.salt));
    seal(&b, own_paths, own_sizes, 100, n_own, p.fd, &p.m);
    reparse(&p);
    return p;
}

static struct pair pair_make(void)
{
    struct tbenc_file taken[] = {{.path = (char *)"tok2.json", .mode = 0600, .chunk = 2},
                                 {.path = (char *)"weights", .mode = 0644, .chunk = 3}};

    return pair_make_of(taken, 2, 2);
}

static void base_parse(const struct pair *p, int rc, const char *why)
{
    struct tbenc_manifest *base = NULL;
    struct tbenc_error e = {0};
    int r = tbenc_base_parse(p->m, p->base_text, p->base_len, &base, &e);

    if (r != rc || (rc < 0 && (base || !strstr(e.message, why))))
        fail_msg("got %d \"%s\", want %d \"%s\"", r, e.message, rc, why);
    tbenc_manifest_free(base);
}

static const struct {
    const char *path;
    size_t bytes;
    uint32_t seed, mode;
} tree_files[] = {
    {"a/config.json", 1500, 100, 0644},
    {"new", 10, 101, 0644},
    {"tok2.json", 3000, 3, 0600},
    {"weights", 20000, 4, 0644},
};

static void test_tree(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    struct tbenc_manifest *tree = NULL;
    int own[2], under[N_BASE], fds[] = {10, 11, 12, 13};

    base_parse(&p, 0, "");
    assert_int_equal(tbenc_manifest_tree(p.m, &tree), 0);
    assert_int_equal(tree->n_files, ARRAY_SIZE(tree_files));
    for (size_t i = 0; i < tree->n_files; i++) {
        assert_string_equal(tree->files[i].path, tree_files[i].path);
        assert_int_equal(tree->files[i].bytes, tree_files[i].bytes);
        assert_int_equal(tree->files[i].mode, tree_files[i].mode);
    }
    assert_int_equal(tree->plaintext_bytes, 1500 + 10 + 3000 + 20000);
    assert_int_equal(p.m->plaintext_bytes, 1510);
    assert_int_equal(tbenc_tree_deal(p.m, p.base, tree, fds, own, under), 0);
    assert_int_equal(own[0], 10);
    assert_int_equal(own[1], 11);
    assert_int_equal(under[0], -1);
    assert_int_equal(under[1], -1);
    assert_int_equal(under[2], 12);
    assert_int_equal(under[3], 13);
    tbenc_manifest_free(tree);
}

static void assert_contents(int fd, size_t at)
{
    _cleanup_blob_ struct blob want = blob_pattern(tree_files[at].bytes, tree_files[at].seed);
    _cleanup_blob_ struct blob got = memfd_bytes(fd);

    assert_blob_equal(&got, &want);
}

static void test_files(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    struct tbenc_open_params q = {.manifest = p.m, .key = test_key, .flags = TBENC_CHECK_SHA256};
    struct tbenc_manifest *tree = NULL;
    int own[2], under[N_BASE], fds[4];

    assert_int_equal(tbenc_manifest_tree(p.m, &tree), 0);
    for (size_t i = 0; i < 4; i++)
        fds[i] = memfd_empty();
    assert_int_equal(tbenc_tree_deal(p.m, p.base, tree, fds, own, under), 0);
    assert_int_equal(tbenc_open_files(&q, p.fd, own, 2, NULL), 0);
    q.manifest = p.base;
    assert_int_equal(tbenc_open_files(&q, p.base_fd, under, N_BASE, NULL), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_contents(fds[i], i);
        tb_close(fds[i]);
    }
    tbenc_manifest_free(tree);
}

static void test_stream(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    struct tbenc_open_params q = {.manifest = p.m, .key = test_key};
    _cleanup_close_ int out = memfd_empty(), again = memfd_empty();
    _cleanup_blob_ struct blob got = {0};
    struct tbenc_error e = {0};
    size_t at = 0;

    assert_int_equal(tbenc_open_overlay(&q, p.base, p.fd, p.base_fd, out, &e), 0);
    got = memfd_bytes(out);
    for (size_t i = 0; i < ARRAY_SIZE(tree_files); i++) {
        _cleanup_blob_ struct blob want = blob_pattern(tree_files[i].bytes, tree_files[i].seed);

        assert_memory_equal(got.p + at, want.p, want.n);
        at += want.n;
    }
    assert_int_equal(got.n, at);
    /* the tag of a record that nobody takes: of the file that the overlay replaces */
    assert_int_equal(tb_pwrite_full(p.base_fd, "x", 1, TBENC_HEADER_BYTES + TBENC_LEN_BYTES + 700), 0);
    assert_int_equal(tbenc_open_overlay(&q, p.base, p.fd, p.base_fd, again, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "tags_sha256"));
}

/* One key, one prefix, one position, one plaintext: other bytes, because the key of the records differs. And
 * what is sealed for one place does not open in the other. */
static void test_key_of_records(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    struct tbenc_open_params q = {.manifest = p.m, .key = test_key};
    struct tbenc_base *base = p.m->base;
    struct tbenc_error e = {0};
    uint8_t id[TBENC_KEY_ID_BYTES];

    assert_int_equal(tbenc_key_id(test_key, id), 0);
    assert_memory_equal(p.m->key_id, id, sizeof(id));
    assert_int_equal(tbenc_verify(&q, p.fd, &e), 0);
    base->salt[31] ^= 1;
    assert_int_equal(tbenc_verify(&q, p.fd, &e), -EBADMSG);
    base->salt[31] ^= 1;
    p.m->base = NULL;
    assert_int_equal(tbenc_verify(&q, p.fd, &e), -EBADMSG);
    p.m->base = base;
    assert_int_equal(tbenc_verify(&q, p.fd, &e), 0);
}

/* The reader of before says why, and so does one of today that brings no base. */
static void test_not_asked_for(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};

    assert_non_null(strstr(p.text, "\"format\": \"tbenc/v1-overlay\""));
    assert_int_equal(tbenc_manifest_parse(p.text, p.len, 0, &m, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "tbenc/v1-overlay"));
    assert_null(m);
}

static void test_other_base(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    char *of = p.base_text, *at;

    at = strstr(of, "\"mode\": \"0644\"");
    at[strlen("\"mode\": \"0644") - 1] = '0'; /* another text, and nothing else */
    base_parse(&p, -EBADMSG, "not the one that the overlay was made for");
    SHA256((const uint8_t *)p.base_text, p.base_len, p.m->base->manifest_sha256);
    base_parse(&p, 0, "");
    p.m->base->sha256_ciphertext[0] ^= 1;
    base_parse(&p, -EBADMSG, "key and hashes");
    p.m->base->sha256_ciphertext[0] ^= 1;
    p.m->base->tags_sha256[0] ^= 1;
    base_parse(&p, -EBADMSG, "key and hashes");
    p.m->base->tags_sha256[0] ^= 1;
    p.m->key_id[0] ^= 1;
    base_parse(&p, -EBADMSG, "key and hashes");
    p.m->key_id[0] ^= 1;
    p.m->base->files[1].sha256[0] ^= 1;
    base_parse(&p, -EBADMSG, "no such file as \"weights\"");
    p.m->base->files[1].sha256[0] ^= 1;
    p.m->base->files[1].chunk++;
    base_parse(&p, -EBADMSG, "no such file as \"weights\"");
    p.m->base->files[1].chunk--;
    p.m->base->files[1].bytes--;
    base_parse(&p, -EBADMSG, "no such file as \"weights\"");
    p.m->base->files[1].bytes++;
    base_parse(&p, 0, "");
}

static void test_base_that_cannot_be_one(void **state)
{
    _cleanup_pair_ struct pair p = pair_make();
    _cleanup_sample_ struct sample one = sample_seal(10, 1024, 1);
    struct tbenc_error e = {0};
    const uint8_t *sha = p.m->base->manifest_sha256;

    assert_int_equal(tbenc_base_check(p.m, p.m, sha, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "an overlay itself"));
    assert_int_equal(tbenc_base_check(p.m, one.m, sha, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "without a file table"));
    p.base->has_key_id = false;
    assert_int_equal(tbenc_base_check(p.m, p.base, sha, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "another writer"));
    assert_int_equal(tbenc_base_check(p.base, p.base, sha, &e), -EINVAL);
}

/* One that only takes: files were left out, or got another name. And one that takes nothing. */
static void test_ends(void **state)
{
    struct tbenc_file one[] = {{.path = (char *)"moved/weights", .mode = 0444, .chunk = 3}};
    _cleanup_pair_ struct pair p = pair_make_of(one, 1, 0), q = pair_make_of(NULL, 0, 2);
    struct tbenc_open_params o = {.manifest = p.m, .key = test_key};
    _cleanup_close_ int out = memfd_empty(), out2 = memfd_empty();

    assert_int_equal(tbenc_manifest_ciphertext_bytes(p.m), TBENC_HEADER_BYTES);
    assert_int_equal(tbenc_manifest_records(p.m), 0);
    assert_non_null(strstr(p.text, "\"files\": []"));
    assert_int_equal(tbenc_verify(&o, p.fd, NULL), 0);
    assert_int_equal(tbenc_open_files(&o, p.fd, NULL, 0, NULL), 0);
    assert_int_equal(tbenc_open_overlay(&o, p.base, p.fd, p.base_fd, out, NULL), 0);
    assert_contents(out, 3);
    base_parse(&q, 0, "");
    o.manifest = q.m;
    assert_int_equal(tbenc_open_overlay(&o, q.base, q.fd, q.base_fd, out2, NULL), 0);
}

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);

    assert_non_null(at);
    return tb_strf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void test_refused_texts(void **state)
{
    static const struct {
        const char *from, *to, *why;
    } cases[] = {
        {"\"base\"", "\"bass\"", "without an object base"},
        {"\"tags_sha256\"", "\"tags\"", "without tags_sha256"},
        {"\"key_id\"", "\"id\"", "without key_id"},
        {"\"version\": 3", "\"version\": 0", "base: version is 0"},
        {"\"version\": 3", "\"version\": \"3\"", "base: "},
        {"\"manifest_sha256\"", "\"manifest\"", "base: "},
        {"\"salt\": \"07", "\"salt\": \"0", "base: salt is not"},
        {"\"path\": \"weights\"", "\"path\": \"new\"", "base.files[1]: paths are not sorted"},
        {"\"path\": \"tok2.json\"", "\"path\": \"new\"", "paths are not sorted and unique"},
        {"\"path\": \"tok2.json\"", "\"path\": \"a\"", "is itself a file"},
        {"\"path\": \"tok2.json\"", "\"path\": \"new/x\"", "is itself a file"},
        {"\"path\": \"tok2.json\"", "\"path\": \"../x\"", "plain relative path"},
        {"\"bytes\": 3000", "\"bytes\": 0", "an empty file"},
        {"\"bytes\": 3000", "\"bytes\": 30000", "share records"},
        {"\"bytes\": 20000", "\"bytes\": 9007199254740991", "add up to more"},
        {"\"chunk\": 4,", "\"chunk\": 3,", "share records"},
        {"\"mode\": \"0600\"", "\"mode\": \"1600\"", "base.files[0]: mode"},
    };
    _cleanup_pair_ struct pair p = pair_make();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *text = replaced(p.text, cases[i].from, cases[i].to);
        struct tbenc_manifest *m = NULL;
        struct tbenc_error e = {0};
        int r = tbenc_manifest_parse(text, strlen(text), TBENC_OVERLAY, &m, &e);

        if (r != -EBADMSG || m || !strstr(e.message, cases[i].why))
            fail_msg("case %zu: %d \"%s\"\n%s", i, r, e.message, text);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_key_of_records),
        cmocka_unit_test(test_not_asked_for),
        cmocka_unit_test(test_other_base),
        cmocka_unit_test(test_base_that_cannot_be_one),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_refused_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
