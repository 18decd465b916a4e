/* SPDX-License-Identifier: Apache-2.0 */
/* A view without a kernel: what it would have read is in a file. */
#include "tests/unit/tbenc/tbenc_testing.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "decrypt/view.h"

#define MIB (1024 * 1024ULL)

struct note {
    struct fuse_out_header h;
    struct fuse_notify_inval_inode_out o;
};

static struct tbenc_file files[] = {{.path = (char *)"large", .bytes = 3000 * MIB},
                                    {.path = (char *)"none", .bytes = 0},
                                    {.path = (char *)"small", .bytes = 2 * MIB + 1}};

/* A runtime goes on by mapped pages that the kernel has not come to yet: so none of a large file is without a gap near
 * it, of no file, before the kernel is asked for the whole of any. */
static void test_a_page_here_and_there_of_every_file_goes_first(void **state)
{
    struct tbenc_manifest m = {.files = files, .n_files = ARRAY_SIZE(files)};
    struct tb_weights w = {.files = &m, .event_fd = -1};
    _cleanup_close_ int kernel = memfd_empty();
    struct tb_view v = {.fuse_fd = kernel, .weights = &w};
    uint64_t next[8] = {0};
    bool whole[8] = {false}, began = false;
    struct note n;

    (void)pthread_mutex_init(&w.lock, NULL);
    (void)pthread_cond_init(&w.work, NULL);
    assert_int_equal(tb_view_init(&v, NULL), 0);
    v.n_each = 3;
    assert_int_equal(fcntl(kernel, F_SETFL, O_APPEND),
                     0); /* else one thread writes over what another wrote */
    tb_view_revoke(&v);
    assert_int_equal(lseek(kernel, 0, SEEK_SET), 0);
    while (read(kernel, &n, sizeof(n)) == sizeof(n)) {
        assert_int_equal(n.h.error, FUSE_NOTIFY_INVAL_INODE);
        assert_in_range(n.o.ino, 1, v.tree.n);
        if (n.o.len == 0) {
            assert_false(whole[n.o.ino]);
            assert_int_equal(n.o.off, 0);
            whole[n.o.ino] = began = true;
            continue;
        }
        assert_false(began);
        assert_int_equal(n.o.off, next[n.o.ino]);
        next[n.o.ino] = (uint64_t)n.o.off + 3000 * MIB / 1024;
        if (v.tree.nodes[n.o.ino - 1].bytes < 1024 * MIB)
            next[n.o.ino] = (uint64_t)n.o.off + MIB;
    }
    for (size_t i = 0; i < v.tree.n; i++) {
        assert_true(whole[i + 1]);
        assert_true(next[i + 1] >= v.tree.nodes[i].bytes);
    }
    fuse_tree_clear(&v.tree);
}

/* udev may have set the readahead before the kernel asks: the answer only bounds it. */
static void test_the_kernel_may_read_ahead_by_more_than_it_asked_for(void **state)
{
    struct tb_weights w = {.event_fd = -1};
    _cleanup_close_ int kernel = memfd_empty();
    struct tb_view v = {.fuse_fd = kernel, .weights = &w};
    struct fuse_request q = {
        .opcode = FUSE_INIT, .unique = 1, .init = {FUSE_KERNEL_VERSION, FUSE_KERNEL_MINOR_VERSION, 0}};
    struct {
        struct fuse_out_header h;
        struct fuse_init_out o;
    } said;

    view_answer(&v, &q);
    assert_int_equal(lseek(kernel, 0, SEEK_SET), 0);
    assert_int_equal(read(kernel, &said, sizeof(said)), sizeof(said));
    assert_int_equal(said.h.error, 0);
    assert_in_range(said.o.max_readahead, 2 * MIB, UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_page_here_and_there_of_every_file_goes_first),
        cmocka_unit_test(test_the_kernel_may_read_ahead_by_more_than_it_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
