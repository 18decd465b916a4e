/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "common/fdpass.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/domain_file.h"
#include "common/usage.h"

static char dir[] = "/tmp/tb-io-XXXXXX";

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

static void test_a_new_file_appears_only_when_committed(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "out"), *text = NULL;
    struct tb_newfile f = TB_NEWFILE_INIT;
    struct stat st;
    size_t n;

    assert_int_equal(tb_newfile_open(&f, path, 0600), 0);
    assert_int_equal(tb_write_full(f.fd, "whole", 5), 0);
    assert_int_equal(access(path, F_OK), -1);
    tb_newfile_abort(&f);
    assert_int_equal(access(path, F_OK), -1);

    assert_int_equal(tb_newfile_open(&f, path, 0600), 0);
    assert_int_equal(tb_write_full(f.fd, "whole", 5), 0);
    assert_int_equal(tb_newfile_commit(&f, false), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(tb_read_file(path, 5, &text, &n), 0);
    assert_string_equal(text, "whole");
    tb_freep(&text);
    assert_int_equal(tb_read_file(path, 4, &text, &n), -EFBIG);

    assert_int_equal(tb_newfile_open(&f, path, 0600), 0);
    assert_int_equal(tb_newfile_commit(&f, false), -EEXIST);
    tb_newfile_abort(&f);
    assert_int_equal(tb_write_file_atomic(path, "new", 3, 0644), 0);
    assert_int_equal(tb_read_file(dir, 4, &text, &n), -EISDIR);
}

static void test_directories_are_made_with_their_parents(void **state)
{
    _cleanup_free_ char *deep = tb_strf("%s/a/b/c", dir);
    struct stat st;

    assert_int_equal(tb_mkdir_p(deep, 0755), 0);
    assert_int_equal(tb_mkdir_p(deep, 0755), 0);
    assert_int_equal(stat(deep, &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    assert_int_equal(tb_mkdir_p("/proc/x/y", 0755), -ENOENT);
}

static void test_descriptors_travel_whole_or_not_at_all(void **state)
{
    int pair[2], many[TB_FDPASS_MAX], got[TB_FDPASS_MAX];
    size_t n = TB_FDPASS_MAX;
    char buf[8];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    for (size_t i = 0; i < TB_FDPASS_MAX; i++)
        many[i] = STDERR_FILENO;
    assert_int_equal(tb_fd_send(pair[0], "hello", 5, many, TB_FDPASS_MAX), 0);
    assert_int_equal(tb_fd_recv(pair[1], buf, sizeof(buf), got, &n), 5);
    assert_int_equal(n, TB_FDPASS_MAX);
    for (size_t i = 0; i < n; i++)
        close(got[i]);
    n = 1; /* room for one, two come: all are closed */
    assert_int_equal(tb_fd_send(pair[0], "x", 1, many, 2), 0);
    assert_int_equal(tb_fd_recv(pair[1], buf, sizeof(buf), got, &n), -EMSGSIZE);
    n = 1;
    assert_int_equal(tb_fd_send(pair[0], "longer than eight", 17, NULL, 0), 0);
    assert_int_equal(tb_fd_recv(pair[1], buf, sizeof(buf), got, &n), -EMSGSIZE);
    close(pair[0]);
    n = 1;
    assert_int_equal(tb_fd_recv(pair[1], buf, sizeof(buf), got, &n), 0);
    close(pair[1]);
}

static void test_credentials(void **state)
{
    _cleanup_free_ char *full = tb_path_join(dir, "full"), *empty = tb_path_join(dir, "empty");
    char *v = NULL;
    size_t n;

    unsetenv("CREDENTIALS_DIRECTORY");
    assert_int_equal(tb_credential_read("full", &v, &n), -ENXIO);
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    assert_int_equal(tb_credential_read("full", &v, &n), -ENOENT);
    assert_int_equal(tb_write_file_atomic(full, "abc", 3, 0400), 0);
    assert_int_equal(tb_write_file_atomic(empty, "", 0, 0400), 0);
    assert_int_equal(tb_credential_read("empty", &v, &n), -EACCES);
    assert_int_equal(tb_credential_read("full", &v, &n), 0);
    assert_int_equal(n, 3);
    assert_string_equal(v, "abc");
    tb_secret_free(v);
}

static void test_descriptors_are_allowed_up_to_the_hard_limit(void **state)
{
    struct rlimit was, now;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    now = (struct rlimit){.rlim_cur = 64, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
    tb_allow_descriptors(100);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 100);
    tb_allow_descriptors(70); /* never fewer */
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 100);
    tb_allow_descriptors(UINT64_MAX);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, was.rlim_max);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

static int sync_error;
int fdatasync(int fd)
{
    errno = sync_error;
    return sync_error ? -1 : fsync(fd);
}

/* A snapshot that a power failure could take back must not be booked. */
static void test_usage_is_durable_before_it_is_read(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "usage-durable");
    struct tb_usage_snapshot s;
    struct tb_usage *u;

    assert_int_equal(tb_usage_open(path, &u), 0);
    tb_usage_add(u, TB_USAGE_REQUESTS, 1);
    sync_error = EIO;
    assert_int_equal(tb_usage_read(path, &s), -EIO);
    sync_error = 0;
    assert_int_equal(tb_usage_read(path, &s), 0);
    assert_int_equal(s.value[TB_USAGE_REQUESTS], 1);
    tb_usage_close(u);
    unlink(path);
}

/* The promise billing rests on: what was added before SIGKILL is there afterwards, in the same epoch. */
static void test_usage_survives_sigkill(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "usage");
    struct tb_usage_snapshot before, after;
    struct tb_usage *u;
    int status;
    pid_t pid;

    assert_int_equal(tb_usage_read(path, &before), -ENOENT);
    pid = fork();
    if (pid == 0) {
        if (tb_usage_open(path, &u) < 0)
            _exit(1);
        tb_usage_add(u, TB_USAGE_REQUESTS, 41);
        tb_usage_add(u, TB_USAGE_BYTES_OUT, 1ULL << 40);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(tb_usage_read(path, &before), 0);
    assert_int_equal(before.value[TB_USAGE_REQUESTS], 41);
    assert_true(before.value[TB_USAGE_BYTES_OUT] == 1ULL << 40);
    assert_int_equal(tb_usage_open(path, &u), 0);
    tb_usage_add(u, TB_USAGE_REQUESTS, 1);
    assert_int_equal(tb_usage_read(path, &after), 0);
    assert_int_equal(after.value[TB_USAGE_REQUESTS], 42);
    assert_string_equal(after.epoch, before.epoch);
    {
        struct tb_usage *second;

        assert_int_equal(tb_usage_open(path, &second), -EWOULDBLOCK);
    }
    tb_usage_close(u);
}

/* Written as the file of a version with three counters: places are the format. */
static void test_usage_of_an_older_version_goes_on(void **state)
{
    static const char *const name[_TB_USAGE_MAX] = {"requests",        "bytes_in",          "bytes_out",
                                                    "prompt_tokens",   "completion_tokens", "cached_tokens",
                                                    "estimated_tokens"};
    _cleanup_free_ char *path = tb_path_join(dir, "usage-old");
    struct {
        char magic[8];
        uint8_t epoch[16];
        uint64_t value[509];
    } old = {.magic = "TBUSAGE1", .epoch = {0xab}, .value = {7, 8, 9}};
    struct tb_usage_snapshot s;
    struct tb_usage *u;

    assert_int_equal(sizeof(old), 4096);
    assert_int_equal(tb_write_file_atomic(path, &old, sizeof(old), 0640), 0);
    assert_int_equal(tb_usage_open(path, &u), 0);
    tb_usage_add(u, TB_USAGE_CACHED_TOKENS, 5);
    tb_usage_add(u, TB_USAGE_REQUESTS, 1);
    assert_int_equal(tb_usage_read(path, &s), 0);
    assert_memory_equal(s.epoch, "ab00", 4);
    assert_int_equal(s.value[TB_USAGE_REQUESTS], 8);
    assert_int_equal(s.value[TB_USAGE_BYTES_IN], 8);
    assert_int_equal(s.value[TB_USAGE_BYTES_OUT], 9);
    assert_int_equal(s.value[TB_USAGE_PROMPT_TOKENS], 0);
    assert_int_equal(s.value[TB_USAGE_CACHED_TOKENS], 5);
    assert_int_equal(s.value[TB_USAGE_ESTIMATED_TOKENS], 0);
    tb_usage_close(u);
    for (int i = 0; i < _TB_USAGE_MAX; i++)
        assert_string_equal(tb_usage_name((enum tb_usage_counter)i), name[i]);
    assert_null(tb_usage_name(_TB_USAGE_MAX));
}

static void test_damaged_usage_is_set_aside(void **state)
{
    _cleanup_free_ char *path = tb_path_join(dir, "usage-bad");
    struct tb_usage_snapshot s;
    struct tb_usage *u;

    assert_int_equal(tb_write_file_atomic(path, "rubbish", 7, 0640), 0);
    assert_int_equal(tb_usage_read(path, &s), -EBADMSG);
    assert_int_equal(tb_usage_open(path, &u), 0);
    assert_int_equal(tb_usage_get(u, TB_USAGE_REQUESTS), 0);
    tb_usage_close(u);
    assert_int_equal(tb_usage_read(path, &s), 0);
}

static void runtime_dir_is(char *list, char *want)
{
    _cleanup_free_ char *base = tb_path_join(dir, "base"), *got = NULL, *l = list, *w = want;

    setenv("RUNTIME_DIRECTORY", l, 1);
    assert_int_equal(tb_runtime_dir(base, "tb-x", &got), 0);
    assert_string_equal(got, w);
    unsetenv("RUNTIME_DIRECTORY");
}

/* systemd sorts what it lists: a drop-in that adds a directory may put it before ours. */
static void test_our_directory_is_found_in_systemds_list(void **state)
{
    runtime_dir_is(tb_strf("%s/tb-x", dir), tb_strf("%s/tb-x", dir));
    runtime_dir_is(tb_strf("%s/a:%s/tb-x:%s/z", dir, dir, dir), tb_strf("%s/tb-x", dir));
    runtime_dir_is(tb_strf("%s/a:%s/not-tb-x", dir, dir), tb_strf("%s/a", dir));
    runtime_dir_is(tb_strf("%s/tb-x/inner:%s/b", dir, dir), tb_strf("%s/tb-x/inner", dir));
    runtime_dir_is(strdup(""), tb_strf("%s/base/tb-x", dir));
    runtime_dir_is(strdup("relative"), tb_strf("%s/base/tb-x", dir));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_file_appears_only_when_committed),
        cmocka_unit_test(test_our_directory_is_found_in_systemds_list),
        cmocka_unit_test(test_directories_are_made_with_their_parents),
        cmocka_unit_test(test_descriptors_travel_whole_or_not_at_all),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_descriptors_are_allowed_up_to_the_hard_limit),
        cmocka_unit_test(test_usage_is_durable_before_it_is_read),
        cmocka_unit_test(test_usage_survives_sigkill),
        cmocka_unit_test(test_usage_of_an_older_version_goes_on),
        cmocka_unit_test(test_damaged_usage_is_set_aside),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
