/* SPDX-License-Identifier: Apache-2.0 */
/* Any manifest that is taken has safe names, a layout without gaps, and survives being written and read
 * again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tbenc/tbenc.h"

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_record(const struct tbenc_manifest *m, uint64_t index)
{
    uint64_t n = tbenc_manifest_records(m);
    struct tbenc_record r;

    if (index >= n) {
        CHECK(tbenc_manifest_record(m, index, &r) < 0);
        return;
    }
    CHECK(tbenc_manifest_record(m, index, &r) == 0);
    CHECK(r.index == index && r.pt_len >= 1 && r.pt_len <= m->chunk_bytes);
    CHECK(r.pt_off + r.pt_len <= m->plaintext_bytes);
    CHECK(r.ct_off + r.pt_len + TBENC_RECORD_OVERHEAD <= tbenc_manifest_ciphertext_bytes(m));
    if (m->files)
        CHECK(r.file < m->n_files && r.file_off + r.pt_len <= m->files[r.file].bytes);
}

/* An overlay's tree is a table that holds by itself, and takes from a base that has exactly what it names. */
static void check_overlay(const struct tbenc_manifest *m)
{
    struct tbenc_manifest *tree = NULL, base = *m;
    struct tbenc_error e = {.message = ""};
    char *text = NULL;

    if (tbenc_manifest_tree(m, &tree) < 0)
        abort();
    CHECK(!tree->base && tree->n_files == m->n_files + m->base->n_files && tree->n_files > 0);
    for (size_t i = 1; i < tree->n_files; i++)
        CHECK(strcmp(tree->files[i - 1].path, tree->files[i].path) < 0);
    CHECK(tbenc_manifest_format(tree, &text, NULL) != -EINVAL);
    base.base = NULL;
    CHECK(tbenc_base_check(m, &base, m->sha256_ciphertext, &e) <= 0);
    CHECK(tbenc_base_check(m, &base, m->base->manifest_sha256, &e) <= 0);
    free(text);
    tbenc_manifest_free(tree);
}

static void check(const struct tbenc_manifest *m, unsigned flags)
{
    uint64_t n = tbenc_manifest_records(m);
    struct tbenc_manifest *again = NULL;
    char *text = NULL;
    size_t len;

    CHECK(!strchr(m->weights_filename, '/') && strcmp(m->weights_filename, "..") != 0);
    for (size_t i = 0; i < m->n_files; i++) {
        CHECK(tbenc_path_valid(m->files[i].path));
        check_record(m, m->files[i].chunk);
    }
    check_record(m, 0);
    check_record(m, n / 2);
    check_record(m, n - 1);
    check_record(m, n);
    if (m->base)
        check_overlay(m);
    if (tbenc_manifest_format(m, &text, &len) == 0) { /* -EFBIG: ours is longer than theirs was */
        CHECK(tbenc_manifest_parse(text, len, flags, &again, NULL) == 0);
        CHECK(again->plaintext_bytes == m->plaintext_bytes && again->n_files == m->n_files);
        CHECK(tbenc_manifest_records(again) == n);
    }
    tbenc_manifest_free(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned all[] = {0, TBENC_LENIENT, TBENC_OVERLAY};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        unsigned flags = all[i];
        struct tbenc_manifest *m = NULL;
        struct tbenc_error e = {.message = ""};

        if (tbenc_manifest_parse((const char *)data, size, flags, &m, &e) == 0)
            check(m, flags);
        else
            CHECK(!m && e.message[0]);
        tbenc_manifest_free(m);
    }
    return 0;
}
