/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/chain.h"
#include "common/chain_head.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"

#define N 5

static char text[N * 200];
static size_t start[N + 1]; /* of each line */
static struct tb_chain_point point[N + 1];

static int make_chain(void **state)
{
    memset(point, 0, sizeof(point));
    for (unsigned i = 0; i < N; i++) {
        char prev[65];
        int n;

        tb_hex_encode(point[i].hash, 32, prev);
        n = sprintf(
            text + start[i],
            "{\"ts\":\"2026-01-08T12:00:0%uZ\",\"path\":\"/\\\"seq\\\":9\",\"seq\":%u,\"prev\":\"%s\"}\n", i,
            i + 1, prev);
        start[i + 1] = start[i] + (size_t)n;
        point[i + 1].seq = i + 1;
        assert_int_equal(tb_chain_hash(text + start[i], (size_t)n - 1, point[i + 1].hash), 0);
    }
    return 0;
}

static void test_a_record_is_read(void **state)
{
    static const char *const bad[] = {"",
                                      "{}",
                                      "[1]",
                                      "{\"seq\":1,\"prev\":\"\",\"ts\":\"x\"}",
                                      "{\"seq\":0,\"prev\":\"%s\",\"ts\":\"x\"}",
                                      "{\"seq\":-1,\"prev\":\"%s\",\"ts\":\"x\"}",
                                      "{\"seq\":1,\"seq\":2,\"prev\":\"%s\",\"ts\":\"x\"}",
                                      "{\"seq\":1,\"prev\":\"%s0\",\"ts\":\"x\"}",
                                      "{\"seq\":1,\"prev\":\"%s\",\"ts\":\"x\",\"lost_max\":1}",
                                      "{\"seq\":1,\"prev\":\"%s\",\"ts\":\"x\"} ."};
    char err[TB_CHAIN_ERR_MAX], prev[65], line[300];
    struct tb_chain_entry e;

    memset(prev, '0', 64);
    prev[64] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        const char *s = bad[i], *at = strstr(s, "%s");

        snprintf(line, sizeof(line), "%.*s%s%s", at ? (int)(at - s) : (int)strlen(s), s, at ? prev : "",
                 at ? at + 2 : "");
        *err = '\0';
        assert_int_equal(tb_chain_parse(line, strlen(line), &e, err), -EBADMSG);
        assert_true(*err);
    }
    assert_int_equal(tb_chain_parse(text + start[2], start[3] - start[2] - 1, &e, err), 0);
    assert_int_equal(e.seq, 3);
    assert_memory_equal(e.prev, point[2].hash, 32);
    assert_string_equal(e.ts, "2026-01-08T12:00:02Z");
    assert_false(e.after_stop);
    snprintf(line, sizeof(line), "{\"seq\":7,\"prev\":\"%s\",\"ts\":\"x\",\"lost_max\":3,\"unsure\":1}",
             prev);
    assert_int_equal(tb_chain_parse(line, strlen(line), &e, err), 0);
    assert_true(e.after_stop && e.lost_max == 3 && e.unsure == 1);
}

static int follow(const char *s, size_t len, const struct tb_chain_point *from, struct tb_chain_point *ret)
{
    size_t whole;

    return tb_chain_follow(s, len, from, ret, &whole);
}

static void test_a_tail_is_followed_from_any_point(void **state)
{
    struct tb_chain_point p;
    size_t whole;

    for (unsigned i = 0; i <= N; i++) {
        assert_int_equal(follow(text, start[N], &point[i], &p), TB_CHAIN_TAIL_LEADS);
        assert_memory_equal(&p, &point[N], sizeof(p));
    }
    for (size_t cut = 0; cut < start[N]; cut++) { /* killed in the middle of a write */
        unsigned lines = 0;
        int r = tb_chain_follow(text, cut, &point[2], &p, &whole);

        while (start[lines + 1] <= cut)
            lines++;
        assert_int_equal(whole, start[lines]);
        assert_int_equal(r, lines == 0  ? TB_CHAIN_TAIL_EMPTY
                            : lines < 2 ? TB_CHAIN_TAIL_FOREIGN
                                        : TB_CHAIN_TAIL_LEADS);
        assert_int_equal(p.seq, lines < 2 ? 2 : lines);
    }
}

static void test_a_changed_tail_is_not_followed(void **state)
{
    char copy[sizeof(text)];
    struct tb_chain_point p, other = point[2];

    other.hash[31] ^= 1;
    assert_int_equal(follow(text, start[N], &other, &p), TB_CHAIN_TAIL_FOREIGN);
    other = (struct tb_chain_point){.seq = N + 1};
    assert_int_equal(follow(text, start[N], &other, &p), TB_CHAIN_TAIL_FOREIGN);
    for (size_t i = start[1]; i < start[N - 1]; i++) { /* the last line's own bytes nobody has vouched for */
        memcpy(copy, text, start[N]);
        copy[i] ^= 1;
        assert_int_equal(follow(copy, start[N], &point[2], &p), TB_CHAIN_TAIL_FOREIGN);
        assert_memory_equal(&p, &point[2], sizeof(p));
    }
}

/* The head is what it was before or after each step, wherever a kill comes. */
static void test_head_survives_a_kill(void **state)
{
    char dir[] = "/tmp/tb-head-XXXXXX";
    _cleanup_free_ char *path = NULL;
    struct tb_chain_head *h;
    struct tb_chain_point p;
    struct tb_chain_state st = {0};
    bool aside;

    assert_non_null(mkdtemp(dir));
    path = tb_path_join(dir, "head");
    assert_int_equal(tb_chain_head_read(path, &p), -ENOENT);
    /* Longer where the machine is too busy for one to come to anything. */
    for (unsigned round = 0; round < 20 || (st.committed.seq == 0 && round < 200); round++) {
        pid_t pid = fork();

        if (pid == 0) {
            if (tb_chain_head_open(path, &h, &aside) < 0)
                _exit(1);
            tb_chain_head_get(h, &st);
            for (p = st.committed;;) {
                memset(p.hash, (int)(++p.seq & 0xff), sizeof(p.hash));
                tb_chain_head_begin(h, &p);
                tb_chain_head_set_slots(h, p.seq);
                tb_chain_head_commit(h);
            }
        }
        usleep(2000 + 500 * round);
        for (int i = 0; i < 500 && tb_chain_head_read(path, &p) == 0; i++)
            for (int k = 0; k < 32; k++)
                assert_int_equal(p.hash[k], p.seq & 0xff);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        if (access(path, F_OK) < 0)
            continue;
        assert_int_equal(tb_chain_head_open(path, &h, &aside), 0);
        assert_false(aside);
        tb_chain_head_get(h, &st);
        tb_chain_head_close(h);
        for (int k = 0; k < 32; k++) {
            assert_int_equal(st.committed.hash[k], st.committed.seq & 0xff);
            assert_int_equal(st.pending.hash[k], st.pending.seq & 0xff);
        }
        assert_in_range(st.pending.seq, st.committed.seq, st.committed.seq + 1);
    }
    assert_true(st.committed.seq > 0);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(tb_chain_head_read(path, &p), -EBADMSG);
    assert_int_equal(tb_chain_head_open(path, &h, &aside), 0);
    assert_true(aside);
    tb_chain_head_close(h);
    assert_int_equal(tb_chain_head_read(path, &p), 0);
    assert_int_equal(p.seq, 0);
    path = (free(path), tb_strf("rm -r %s", dir));
    assert_int_equal(system(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_is_read),
        cmocka_unit_test(test_a_tail_is_followed_from_any_point),
        cmocka_unit_test(test_a_changed_tail_is_not_followed),
        cmocka_unit_test(test_head_survives_a_kill),
    };
    return cmocka_run_group_tests(tests, make_chain, NULL);
}
