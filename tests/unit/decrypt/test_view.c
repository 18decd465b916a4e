/* SPDX-License-Identifier: Apache-2.0 */
/* A view without a kernel: what it would have read is in a file. */
#include "tests/unit/tbenc/tbenc_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/macros.h"
#include "common/units.h"
#include "decrypt/view.h"

#define MIB (1024 * 1024ULL)

struct note {
    struct fuse_out_header h;
    struct fuse_notify_inval_inode_out o;
};

static struct tbenc_file files[] = {{.path = (char *)"large", .bytes = 3000 * MIB},
                                    {.path = (char *)"none", .bytes = 0},
                                    {.path = (char *)"small", .bytes = 2 * MIB + 1}};

#define PART (16 * MIB)
#define HANG_MAX 15 /* one thread less than there are */

static struct stuck { /* notifications that do not return: of this file, from these bytes on */
    size_t n;
    uint64_t node;
    int64_t off[HANG_MAX];
    bool part; /* those that are for more than a page */
    bool released;
    unsigned n_hung;
} stuck;
static pthread_mutex_t stuck_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stuck_changed = PTHREAD_COND_INITIALIZER;

static bool stuck_is(const struct fuse_notify_inval_inode_out *o)
{
    for (size_t i = 0; i < stuck.n; i++)
        if (o->ino == stuck.node && o->off == stuck.off[i] && stuck.part == (o->len != 1))
            return true;
    return false;
}

/* In place of libc's: as the kernel, which waits for a page that it is reading. */
ssize_t writev(int fd, const struct iovec *iov, int n)
{
    (void)pthread_mutex_lock(&stuck_lock);
    if (iov[n - 1].iov_len == sizeof(struct fuse_notify_inval_inode_out) && stuck_is(iov[n - 1].iov_base)) {
        stuck.n_hung++;
        while (!stuck.released)
            (void)pthread_cond_wait(&stuck_changed, &stuck_lock);
    }
    (void)pthread_mutex_unlock(&stuck_lock);
    return syscall(SYS_writev, fd, iov, n);
}

static unsigned stuck_hung(void)
{
    unsigned n;

    (void)pthread_mutex_lock(&stuck_lock);
    n = stuck.n_hung;
    (void)pthread_mutex_unlock(&stuck_lock);
    return n;
}

static void stuck_set(struct stuck to)
{
    (void)pthread_mutex_lock(&stuck_lock);
    stuck = to;
    (void)pthread_cond_broadcast(&stuck_changed);
    (void)pthread_mutex_unlock(&stuck_lock);
}

static _Atomic int read_errno; /* with which the kernel ends a read; 0: it does not */

/* In place of libc's, by the name for the linker alone: the headers have a body for read() of their own. */
ssize_t read_of_the_kernel(int fd, void *buf, size_t n) __asm__("read");
ssize_t read_of_the_kernel(int fd, void *buf, size_t n)
{
    if (read_errno != 0) {
        errno = read_errno;
        return -1;
    }
    return syscall(SYS_read, fd, buf, n);
}

struct rig {
    struct tbenc_manifest m;
    struct tb_weights w;
    struct tb_view v;
};

static void rig_make(struct rig *g)
{
    *g = (struct rig){.m = {.files = files, .n_files = ARRAY_SIZE(files)},
                      .w = {.files = &g->m, .event_fd = -1},
                      .v = {.fuse_fd = memfd_empty(), .weights = &g->w}};
    (void)pthread_mutex_init(&g->w.lock, NULL);
    (void)pthread_cond_init(&g->w.work, NULL);
    assert_int_equal(tb_view_init(&g->v, NULL), 0);
    /* else one thread writes over what another wrote */
    assert_int_equal(fcntl(g->v.fuse_fd, F_SETFL, O_APPEND), 0);
}

static void rig_clear(struct rig *g)
{
    fuse_tree_clear(&g->v.tree);
    (void)close(g->v.fuse_fd);
}

/* What the kernel was asked for until now. */
struct asked {
    unsigned pages[8], parts[8]; /* [inode] */
    bool end[8], page_after_a_part;
};

static void rig_asked(const struct rig *g, struct asked *ret)
{
    struct note n;

    *ret = (struct asked){0};
    for (off_t at = 0; pread(g->v.fuse_fd, &n, sizeof(n), at) == sizeof(n); at += (off_t)sizeof(n)) {
        assert_int_equal(n.h.error, FUSE_NOTIFY_INVAL_INODE);
        assert_in_range(n.o.ino, 1, g->v.tree.n);
        if (n.o.len == 1) {
            ret->pages[n.o.ino]++;
            for (size_t i = 0; i < ARRAY_SIZE(ret->parts); i++)
                ret->page_after_a_part |= ret->parts[i] > 0;
            continue;
        }
        assert_int_equal(n.o.off % (int64_t)PART, 0);
        ret->parts[n.o.ino]++;
        ret->end[n.o.ino] |= n.o.len == 0;
    }
}

static unsigned parts_of(const struct rig *g, size_t i)
{
    return (unsigned)MAX((g->v.tree.nodes[i].bytes + PART - 1) / PART, 1ULL);
}

/* Each file in parts, the last one to its end; but for what hangs. */
static bool is_taken_back(const struct rig *g, const struct asked *a, unsigned hang)
{
    bool all = true;

    for (size_t i = 0; i < g->v.tree.n; i++) {
        all &= a->parts[i + 1] == parts_of(g, i) - (i + 1 == stuck.node && stuck.part ? hang : 0);
        all &= a->end[i + 1];
    }
    return all;
}

/* A runtime goes on by mapped pages that the kernel has not come to yet: so none of a large file is without a gap near
 * it, of no file, before the kernel is asked for the whole of any. */
static void test_a_page_here_and_there_of_every_file_goes_first(void **state)
{
    uint64_t begin = tb_now_monotonic_us();
    struct asked a;
    struct rig g;

    rig_make(&g);
    tb_view_revoke(&g.v);
    rig_asked(&g, &a);
    assert_true(is_taken_back(&g, &a, 0));
    if (tb_now_monotonic_us() - begin < 100000) /* else it went on without the rest of the pages */
        assert_false(a.page_after_a_part);
    for (size_t i = 0; i < g.v.tree.n; i++) {
        uint64_t bytes = g.v.tree.nodes[i].bytes;

        assert_int_equal(a.pages[i + 1], bytes > 1024 * MIB ? 1024 : (bytes + MIB - 1) / MIB);
    }
    rig_clear(&g);
}

static void *run_revoke(void *arg)
{
    tb_view_revoke(arg);
    return NULL;
}

/* The kernel waits for pages that it is reading, from a disk that does not answer: what is not behind them goes. */
static void test_pages_that_hang_hold_up_no_others(void **state)
{
    for (int part = 0; part < 2; part++) {
        struct stuck s = {.n = HANG_MAX, .part = part};
        bool all = false;
        struct asked a;
        struct rig g;
        pthread_t t;

        rig_make(&g);
        for (size_t i = 0; i < g.v.tree.n; i++)
            if (g.v.tree.nodes[i].bytes == files[0].bytes)
                s.node = i + 1;
        for (size_t i = 0; i < s.n; i++)
            s.off[i] = (int64_t)((part ? PART : files[0].bytes / 1024) * 7 * i);
        stuck_set(s);
        assert_int_equal(pthread_create(&t, NULL, run_revoke, &g.v), 0);
        for (unsigned ms = 0; ms < 60000 && !all; ms += 20) {
            tb_sleep_ms(20);
            rig_asked(&g, &a);
            all = is_taken_back(&g, &a, HANG_MAX) && stuck_hung() == HANG_MAX &&
                  a.pages[s.node] == 1024 - (part ? 0 : HANG_MAX);
        }
        assert_true(all);
        s.released = true;
        stuck_set(s);
        assert_int_equal(pthread_join(t, NULL), 0);
        rig_asked(&g, &a);
        assert_true(is_taken_back(&g, &a, 0));
        stuck_set((struct stuck){0});
        rig_clear(&g);
    }
}

/* With the mount gone between two requests the kernel says ENODEV, and in one ECONNABORTED. Another error is of the
 * thread that met it: it ends the view, but nobody may wait for threads that wait for requests. */
static void test_the_end_of_the_mount_is_no_failure(void **state)
{
    const int ends[] = {ENODEV, ECONNABORTED, EBADF};

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        const struct weights_layer *at_fault;
        bool fails = ends[i] == EBADF;
        struct tbenc_error e = {0};
        struct rig g;

        rig_make(&g);
        read_errno = ends[i];
        assert_int_equal(tb_view_start(&g.v), 0);
        for (unsigned ms = 0; ms < 60000 && !tb_view_over(&g.v) && tb_weights_error(&g.w, &at_fault, &e) == 0;
             ms += 10)
            tb_sleep_ms(10);
        assert_int_equal(tb_view_over(&g.v), !fails);
        atomic_store(&g.v.ended, true); /* for here none waits */
        tb_view_leave(&g.v);
        read_errno = 0;
        assert_int_equal(tb_weights_error(&g.w, &at_fault, &e), fails ? -EBADF : 0);
        rig_clear(&g);
    }
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
        cmocka_unit_test(test_pages_that_hang_hold_up_no_others),
        cmocka_unit_test(test_the_end_of_the_mount_is_no_failure),
        cmocka_unit_test(test_the_kernel_may_read_ahead_by_more_than_it_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
