/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/macros.h"
#include "decrypt/fuse_tree.h"

/* -- requests -------------------------------------------------------------------------------------------- */
struct message {
    struct fuse_in_header h;
    uint8_t body[2048];
};

static struct message message(uint32_t opcode, uint64_t node, const void *body, size_t n)
{
    struct message m = {
        .h = {.len = (uint32_t)(sizeof(m.h) + n), .opcode = opcode, .unique = 9, .nodeid = node}};

    memcpy(m.body, body, n);
    return m;
}

static void test_requests_are_understood(void **state)
{
    struct fuse_init_in init = {.major = 7, .minor = 38, .max_readahead = 131072, .flags = 5};
    struct fuse_read_in read = {.offset = 1 << 30, .size = FUSE_READ_MAX, .flags = 040000};
    struct fuse_interrupt_in interrupt = {.unique = 77};
    struct message m = message(FUSE_INIT, 0, &init, sizeof(init));
    struct fuse_request q;

    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), 0);
    assert_int_equal(q.unique, 9);
    assert_int_equal(q.init.minor, 38);
    m = message(FUSE_READ, 3, &read, sizeof(read));
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), 0);
    assert_int_equal(q.node, 3);
    assert_int_equal(q.read.offset, 1 << 30);
    assert_int_equal(q.read.size, FUSE_READ_MAX);
    m = message(FUSE_LOOKUP, 1, "name", 5);
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), 0);
    assert_string_equal(q.name, "name");
    m = message(FUSE_INTERRUPT, 0, &interrupt, sizeof(interrupt));
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), 0);
    assert_int_equal(q.interrupted, 77);
}

static void test_what_is_no_request_is_refused(void **state)
{
    struct fuse_read_in large = {.size = FUSE_READ_MAX + 1}, far = {.offset = UINT64_MAX, .size = 1};
    static const uint32_t with_body[] = {FUSE_INIT,        FUSE_READ,   FUSE_READDIR,
                                         FUSE_READDIRPLUS, FUSE_LOOKUP, FUSE_INTERRUPT};
    struct message m = message(FUSE_LOOKUP, 1, "no end", 6);
    struct fuse_request q;

    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
    for (size_t n = 0; n < sizeof(m.h); n++)
        assert_int_equal(fuse_request_parse(&m, n, &q), -EBADMSG);
    assert_int_equal(fuse_request_parse(&m, m.h.len + 1, &q), -EBADMSG);
    for (size_t i = 0; i < ARRAY_SIZE(with_body); i++) {
        m = message(with_body[i], 1, "", 0);
        assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
    }
    m = message(FUSE_LOOKUP, 1, "a/b", 4);
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
    m = message(FUSE_LOOKUP, 1, "", 1);
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
    m = message(FUSE_READ, 1, &large, sizeof(large));
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
    m = message(FUSE_READ, 1, &far, sizeof(far));
    assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -EBADMSG);
}

static void test_what_a_read_only_file_system_lacks_is_told_apart(void **state)
{
    static const uint32_t none[] = {FUSE_WRITE, FUSE_MKDIR, FUSE_UNLINK,   FUSE_SETATTR,
                                    FUSE_LSEEK, FUSE_IOCTL, FUSE_GETXATTR, FUSE_READLINK,
                                    0,          UINT32_MAX};
    struct fuse_request q;

    for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
        struct message m = message(none[i], 1, "", 0);

        assert_int_equal(fuse_request_parse(&m, m.h.len, &q), -ENOSYS);
        assert_int_equal(q.unique, 9);
    }
}

/* -- the tree -------------------------------------------------------------------------------------------- */
static struct tbenc_manifest forest(struct tbenc_file *files, size_t n)
{
    return (struct tbenc_manifest){.files = files, .n_files = n};
}

static uint64_t walk(const struct fuse_tree *t, const char *path)
{
    uint64_t id = 1;
    char name[TBENC_PATH_MAX + 1];

    for (const char *p = path; *p; p += strcspn(p, "/") + (p[strcspn(p, "/")] == '/')) {
        const struct fuse_node *node;

        snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, "/"), p);
        node = fuse_tree_lookup(t, id, name);
        if (!node)
            return 0;
        id = fuse_tree_id(t, node);
    }
    return id;
}

/* Sorted bytewise, as manifests are: '-' and '.' come before '/', digits and letters after it. */
static struct tbenc_file paths[] = {
    {.path = (char[]){"a"}, .bytes = 1, .mode = 0755}, {.path = (char[]){"a-b"}, .bytes = 2},
    {.path = (char[]){"a.d/x"}, .bytes = 3},           {.path = (char[]){"ab/a/one"}, .bytes = 4},
    {.path = (char[]){"ab/a/two"}, .bytes = 5},        {.path = (char[]){"ab/b"}, .bytes = 6},
    {.path = (char[]){"ab/c/a/x"}, .bytes = 7},        {.path = (char[]){"ab/c/b/x"}, .bytes = 8},
    {.path = (char[]){"abc/c/b/x"}, .bytes = 9},
};

static void test_every_path_is_found_and_nothing_else(void **state)
{
    struct tbenc_manifest m = forest(paths, ARRAY_SIZE(paths));
    static const char *const none[] = {"b",        "a/x",  "ab/",  "ab/a/three", "ab/d",
                                       "ab/c/a/y", "a.d/", "abcd", "aa"};
    struct fuse_tree t;

    assert_int_equal(fuse_tree_init(&t, &m, 1), 0);
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        const struct fuse_node *node = fuse_tree_node(&t, walk(&t, paths[i].path));

        assert_non_null(node);
        assert_int_equal(node->file, i);
        assert_int_equal(node->bytes, paths[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(none); i++)
        if (none[i][strlen(none[i]) - 1] != '/')
            assert_int_equal(walk(&t, none[i]), 0);
    assert_null(fuse_tree_node(&t, 0));
    assert_null(fuse_tree_node(&t, t.n + 1));
    assert_int_equal(t.n, 1 + 9 + 9); /* root, files, directories */
    fuse_tree_clear(&t);
}

static size_t list_all(const struct fuse_tree *t, uint64_t dir, uint32_t opcode, uint32_t size, char *out)
{
    struct fuse_request q = {.opcode = opcode, .node = dir, .read = {.size = size}};
    size_t count = 0, n;
    uint8_t buf[4096];

    out[0] = '\0';
    while ((n = fuse_tree_list(t, &q, buf)) > 0)
        for (size_t at = 0; at < n; count++) {
            size_t head = opcode == FUSE_READDIRPLUS ? sizeof(struct fuse_entry_out) : 0;
            struct fuse_dirent d;

            memcpy(&d, buf + at + head, FUSE_NAME_OFFSET);
            snprintf(out + strlen(out), 200, "%.*s%s ", (int)d.namelen,
                     (char *)buf + at + head + FUSE_NAME_OFFSET, d.type == S_IFDIR >> 12 ? "/" : "");
            at += FUSE_DIRENT_ALIGN(head + FUSE_NAME_OFFSET + d.namelen);
            q.read.offset = d.off;
        }
    return count;
}

static void test_directories_are_listed_in_any_steps(void **state)
{
    struct tbenc_manifest m = forest(paths, ARRAY_SIZE(paths));
    struct fuse_tree t;
    char out[2000];

    assert_int_equal(fuse_tree_init(&t, &m, 1), 0);
    for (uint32_t size = 200; size < 1000; size += 50) {
        assert_int_equal(list_all(&t, 1, FUSE_READDIR, size, out), 7);
        assert_string_equal(out, "./ ../ a a-b a.d/ ab/ abc/ ");
        assert_int_equal(list_all(&t, walk(&t, "ab"), FUSE_READDIRPLUS, size, out), 5);
        assert_string_equal(out, "./ ../ a/ b c/ ");
    }
    assert_int_equal(list_all(&t, 1, FUSE_READDIR, 10, out), 0); /* too small for any */
    fuse_tree_clear(&t);
}

static void test_an_asset_of_one_file(void **state)
{
    struct tbenc_manifest m = {.weights_filename = "model.gguf.tbenc", .plaintext_bytes = 12345};
    struct fuse_request q = {.uid = 7, .gid = 8};
    struct fuse_entry_out e;
    struct fuse_tree t;

    assert_int_equal(fuse_tree_init(&t, &m, 99), 0);
    assert_int_equal(walk(&t, "model.gguf.tbenc"), 0);
    fuse_tree_entry(&t, fuse_tree_node(&t, walk(&t, "model.gguf")), &q, &e);
    assert_int_equal(e.attr.size, 12345);
    assert_int_equal(e.attr.mode, S_IFREG | 0444);
    assert_int_equal(e.attr.uid, 7);
    assert_int_equal(e.attr.gid, 8);
    assert_int_equal(e.attr.mtime, 99);
    fuse_tree_clear(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_are_understood),
        cmocka_unit_test(test_what_is_no_request_is_refused),
        cmocka_unit_test(test_what_a_read_only_file_system_lacks_is_told_apart),
        cmocka_unit_test(test_every_path_is_found_and_nothing_else),
        cmocka_unit_test(test_directories_are_listed_in_any_steps),
        cmocka_unit_test(test_an_asset_of_one_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
