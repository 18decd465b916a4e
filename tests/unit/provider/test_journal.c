/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/io.h"
#include "provider/publish/journal.h"

#define BLOCKS 5

struct journal_place {
    char dir[32], *path;
};

static int journal_setup(void **state)
{
    struct journal_place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    strcpy(p->dir, "/tmp/journal.XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    p->path = tb_path_join(p->dir, "j");
    *state = p;
    return 0;
}

static int journal_teardown(void **state)
{
    struct journal_place *p = *state;

    (void)unlink(p->path);
    (void)rmdir(p->dir);
    free(p->path);
    free(p);
    return 0;
}

static void journal_begin(const struct journal_place *p, struct journal *j)
{
    assert_int_equal(journal_open(p->path, j), CLI_OK);
    strcpy(j->asset_id, "a.b-c");
    strcpy(j->key_id, "0123456789abcdef");
    strcpy(j->layout, "l");
    tb_freep(&j->key_file);
    j->key_file = strdup("/k/\"\n\xc3\xbc");
    tb_freep(&j->destination);
    j->destination = strdup("https://x/y");
    memcpy(j->nonce_prefix, "\x01\x02\x03\x04", 4);
    j->chunk_bytes = 4096;
    j->block_bytes = BLOB_BLOCK_BYTES_MIN;
    j->size = BLOCKS * (uint64_t)BLOB_BLOCK_BYTES_MIN - 1;
    assert_int_equal(journal_create(j), CLI_OK);
}

static struct blob_block journal_block_of(size_t index, uint8_t value)
{
    struct blob_block b = {.index = index, .len = BLOB_BLOCK_BYTES_MIN};

    memset(b.sha256, value, sizeof(b.sha256));
    memset(b.md5, value + 1, sizeof(b.md5));
    return b;
}

static int journal_admit_one(struct journal *j, size_t index, uint8_t value)
{
    struct blob_block b = journal_block_of(index, value);
    const struct blob_block *one = &b;
    size_t at = 99;
    int r = journal_admit(j, &one, 1, &at);

    assert_true(r == 0 || at == index);
    return r;
}

static void test_what_was_recorded_is_found(void **state)
{
    _cleanup_journal_ struct journal j = JOURNAL_INIT, k = JOURNAL_INIT;
    struct stat st;

    journal_begin(*state, &j);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_int_equal(journal_admit_one(&j, BLOCKS - 1 - i, (uint8_t)i), 0);
    assert_int_equal(journal_sealed(&j, "{\n \"m\": 1}", "source"), CLI_OK);
    assert_int_equal(journal_commit(&j), CLI_OK);
    assert_int_equal(journal_open(j.path, &k), CLI_FAILED); /* locked */
    assert_int_equal(fstat(j.fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal((uint64_t)st.st_size, j.len);
    journal_clear(&j);
    assert_int_equal(journal_open(((struct journal_place *)*state)->path, &k), CLI_OK);
    assert_true(k.valid && k.commit_begun);
    assert_string_equal(k.key_file, "/k/\"\n\xc3\xbc");
    assert_string_equal(k.manifest, "{\n \"m\": 1}");
    assert_string_equal(k.source, "source");
    assert_memory_equal(k.nonce_prefix, "\x01\x02\x03\x04", 4);
    assert_int_equal(k.n_blocks, BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(journal_admit_one(&k, BLOCKS - 1 - i, (uint8_t)i), 0);
        assert_int_equal(journal_admit_one(&k, BLOCKS - 1 - i, (uint8_t)(i + 1)), -ESTALE);
    }
}

/* Of a batch with one that differs, nothing is recorded. */
static void test_a_batch_is_taken_whole_or_not(void **state)
{
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    struct blob_block b[3] = {journal_block_of(0, 1), journal_block_of(1, 9), journal_block_of(2, 1)};
    const struct blob_block *batch[3] = {&b[0], &b[1], &b[2]};
    size_t at = 0;
    uint64_t len;

    journal_begin(*state, &j);
    assert_int_equal(journal_admit_one(&j, 1, 1), 0);
    len = j.len;
    assert_int_equal(journal_admit(&j, batch, 3, &at), -ESTALE);
    assert_int_equal(at, 1);
    assert_int_equal(j.len, len);
    assert_false(j.blocks[0].there || j.blocks[2].there);
}

/* Cut anywhere, and with any byte changed: never is a block there with a value that was not recorded, but
 * for one that the change itself made; and what is cut off was the end. */
static void test_any_damage(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_free_ char *text = NULL;
    size_t len, good, header;
    struct journal j = JOURNAL_INIT;

    journal_begin(p, &j);
    header = (size_t)j.len;
    for (size_t i = 0; i < BLOCKS; i++)
        assert_int_equal(journal_admit_one(&j, i, (uint8_t)i), 0);
    assert_int_equal(journal_sealed(&j, "{}", "source"), CLI_OK);
    assert_int_equal(journal_commit(&j), CLI_OK);
    journal_clear(&j);
    assert_int_equal(tb_read_file(p->path, JOURNAL_MAX, &text, &len), 0);
    for (size_t n = 0; n <= len; n++) {
        _cleanup_journal_ struct journal k = JOURNAL_INIT;
        int r = journal_parse(text, n, &k, &good);

        assert_int_equal(r, n < header ? -EBADMSG : 0);
        if (r < 0)
            continue;
        assert_true(good <= n && text[good - 1] == '\n' && !memchr(text + good, '\n', n - good));
        for (size_t i = 1; i < BLOCKS; i++)
            assert_true(k.blocks[i - 1].there || !k.blocks[i].there);
    }
    for (size_t n = 0; n < len; n++)
        for (unsigned bit = 0; bit < 8; bit++) {
            _cleanup_journal_ struct journal k = JOURNAL_INIT;
            unsigned there = 0;

            text[n] ^= (char)(1 << bit);
            if (journal_parse(text, len, &k, &good) == 0) {
                for (size_t i = 0; i < k.n_blocks && i < BLOCKS; i++)
                    there += k.blocks[i].there;
                /* a newline that became something else joins two lines, which is damage; the last one's is
                 * an end */
                assert_true(there >= BLOCKS || k.n_blocks != BLOCKS);
            }
            text[n] ^= (char)(1 << bit);
        }
}

static void test_a_last_line_without_an_end(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_journal_ struct journal k = JOURNAL_INIT;
    struct journal j = JOURNAL_INIT;
    uint64_t len;

    journal_begin(p, &j);
    assert_int_equal(journal_admit_one(&j, 3, 7), 0);
    len = j.len;
    assert_int_equal(tb_pwrite_full(j.fd, "B 4 0123", 8, j.len), 0);
    journal_clear(&j);
    assert_int_equal(journal_open(p->path, &k), CLI_OK);
    assert_true(k.valid && k.blocks[3].there && !k.blocks[4].there);
    assert_int_equal(k.len, len);
    assert_int_equal(journal_admit_one(&k, 4, 1), 0);
    journal_clear(&k);
    assert_int_equal(journal_open(p->path, &k), CLI_OK);
    assert_true(k.blocks[4].there);
}

static void test_one_that_is_none_is_replaced(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_journal_ struct journal j = JOURNAL_INIT;

    assert_int_equal(tb_write_file_atomic(p->path, "tbpkg-upload-1 {\n", 17, 0600), 0);
    assert_int_equal(journal_open(p->path, &j), CLI_OK);
    assert_false(j.valid);
    journal_clear(&j);
    journal_begin(p, &j);
    assert_true(j.valid);
    journal_clear(&j);
    assert_int_equal(journal_open(p->path, &j), CLI_OK);
    assert_true(j.valid);
}

static void test_a_manifest_is_written_once(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    char source[65];
    uint64_t len;

    memset(source, 'a', 64);
    source[64] = '\0';
    journal_begin(p, &j);
    assert_int_equal(journal_sealed(&j, "{}", "first"), CLI_OK);
    len = j.len;
    for (int i = 0; i < 3; i++)
        assert_int_equal(journal_sealed_again(&j, source), CLI_OK);
    assert_int_equal(j.len, len + 3 * strlen("S \n") + 3 * 64);
    journal_clear(&j);
    assert_int_equal(journal_open(p->path, &j), CLI_OK);
    assert_true(j.valid);
    assert_string_equal(j.source, source);
    assert_string_equal(j.manifest, "{}");
}

/* It may be a key. */
static void test_another_file_is_not_replaced(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    _cleanup_free_ char *text = NULL;

    assert_int_equal(tb_write_file_atomic(p->path, "zeros\n", 6, 0600), 0);
    assert_int_equal(journal_open(p->path, &j), CLI_FAILED);
    assert_int_equal(tb_read_file(p->path, JOURNAL_MAX, &text, NULL), 0);
    assert_string_equal(text, "zeros\n");
}

/* One with gaps is continued only as the file that it was, and to where it went. */
static void test_a_copy_is_not_the_last_word(void **state)
{
    const struct journal_place *p = *state;
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    _cleanup_free_ char *text = NULL;
    size_t len;

    for (size_t n = BLOCKS - 1; n <= BLOCKS; n++) {
        journal_begin(p, &j);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(journal_admit_one(&j, i, (uint8_t)i), 0);
        journal_clear(&j);
        assert_int_equal(journal_open(p->path, &j), CLI_OK);
        assert_true(journal_is_last_word(&j, "https://x/y"));
        assert_int_equal(journal_is_last_word(&j, "https://x/z"), n == BLOCKS);
        journal_clear(&j);
        tb_freep(&text);
        assert_int_equal(tb_read_file(p->path, JOURNAL_MAX, &text, &len), 0);
        assert_int_equal(tb_write_file_atomic(p->path, text, len, 0600), 0);
        assert_int_equal(journal_open(p->path, &j), CLI_OK);
        assert_true(j.valid && j.is_copy);
        assert_int_equal(journal_is_last_word(&j, "https://x/y"), n == BLOCKS);
        journal_clear(&j);
    }
}

int main(void)
{
#define JOURNAL_TEST(f) cmocka_unit_test_setup_teardown(f, journal_setup, journal_teardown)
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(test_what_was_recorded_is_found),  JOURNAL_TEST(test_a_batch_is_taken_whole_or_not),
        JOURNAL_TEST(test_a_manifest_is_written_once),  JOURNAL_TEST(test_another_file_is_not_replaced),
        JOURNAL_TEST(test_a_copy_is_not_the_last_word), JOURNAL_TEST(test_any_damage),
        JOURNAL_TEST(test_a_last_line_without_an_end),  JOURNAL_TEST(test_one_that_is_none_is_replaced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
