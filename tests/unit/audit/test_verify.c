/* SPDX-License-Identifier: Apache-2.0 */
/* Every way to tamper with a chain is noticed: exhaustively, over a small one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/secret.h"
#include "audit/verify.h"
#include "common/hex.h"

#define N 6

struct chain {
    char text[N * 200];
    size_t start[N + 1]; /* of each line */
    struct tb_chain_point point[N + 1];
};

static struct tb_verify v;

/* more: what stands behind prev in line i, or NULL. */
static void make_chain(struct chain *c, uint64_t first, const char *name, const char *const *more)
{
    memset(c, 0, sizeof(*c));
    for (unsigned i = 0; i < N; i++) {
        char prev[65];
        int n;

        tb_hex_encode(c->point[i].hash, 32, prev);
        n = sprintf(c->text + c->start[i], "{\"ts\":\"%u\",\"path\":\"/%s\",\"seq\":%u,\"prev\":\"%s\"%s}\n",
                    i, name, (unsigned)first + i, prev, more && more[i] ? more[i] : "");
        c->start[i + 1] = c->start[i] + (size_t)n;
        c->point[i + 1].seq = first + i;
        tb_chain_hash(c->text + c->start[i], (size_t)n - 1, c->point[i + 1].hash);
    }
}

/* As files.c reads. */
static void feed(const char *text, size_t len)
{
    uint64_t line = 1;

    while (len > 0) {
        const char *nl = memchr(text, '\n', len);
        size_t n = nl ? (size_t)(nl - text) : len;

        if (nl)
            assert_int_equal(tb_verify_line(&v, "f", line++, text, n, NULL), 0);
        else
            tb_verify_problem(&v, TB_AUDIT_PROBLEM_DAMAGED, "f", line++, 0, "cut");
        text += n + (nl != NULL);
        len -= n + (nl != NULL);
    }
    tb_verify_end(&v);
}

static void start(const struct chain *c)
{
    memset(&v, 0, sizeof(v));
    v.first_wanted = 1;
    assert_int_equal(tb_verify_add_anchor(&v, &c->point[N], "the head"), 0);
}

static uint64_t problems(const struct chain *c, const char *text, size_t len)
{
    start(c);
    feed(text, len);
    return v.n_problems;
}

static bool found(enum tb_audit_problem_kind k, uint64_t seq)
{
    for (size_t i = 0; i < v.n_problems && i < TB_VERIFY_PROBLEMS_MAX; i++)
        if (v.problem[i].kind == k && v.problem[i].seq == seq)
            return true;
    return false;
}

static void test_an_intact_chain_is_intact(void **unused)
{
    struct chain c;

    make_chain(&c, 1, "x", NULL);
    assert_int_equal(problems(&c, c.text, c.start[N]), 0);
    assert_int_equal(v.records, N);
    assert_int_equal(v.first_seq, 1);
    assert_int_equal(v.last.seq, N);
    assert_string_equal(v.last_ts, "5");
}

static void test_a_flipped_bit_anywhere(void **unused)
{
    struct chain c, bad;

    make_chain(&c, 1, "x", NULL);
    for (size_t i = 0; i < c.start[N]; i++)
        for (int bit = 0; bit < 8; bit++) {
            bad = c;
            bad.text[i] = (char)(bad.text[i] ^ (1 << bit));
            assert_true(problems(&c, bad.text, c.start[N]) > 0);
        }
    bad = c;
    bad.text[c.start[2] + 7] = '9'; /* in ts: still a record */
    assert_int_equal(problems(&c, bad.text, c.start[N]), 1);
    assert_true(found(TB_AUDIT_PROBLEM_CHANGED, 3));
    bad = c;
    bad.text[c.start[5] + 7] = '9'; /* the last one: only the head knows */
    assert_int_equal(problems(&c, bad.text, c.start[N]), 1);
    assert_true(found(TB_AUDIT_PROBLEM_CHANGED, 6));
}

static void test_a_cut_at_any_byte(void **unused)
{
    struct chain c;

    make_chain(&c, 1, "x", NULL);
    for (size_t cut = 0; cut < c.start[N]; cut++)
        assert_true(problems(&c, c.text, cut) > 0);
    assert_int_equal(problems(&c, c.text, c.start[4]), 1);
    assert_true(found(TB_AUDIT_PROBLEM_CUT, 5));
}

/* Copies the lines named in order, -1 ends. */
static size_t arrange(const struct chain *c, const int *order, char *out)
{
    size_t len = 0;

    for (; *order >= 0; order++) {
        size_t n = c->start[*order + 1] - c->start[*order];

        memcpy(out + len, c->text + c->start[*order], n);
        len += n;
    }
    return len;
}

static void test_lines_dropped_swapped_repeated(void **unused)
{
    char text[(N + 1) * 200];
    struct chain c;

    make_chain(&c, 1, "x", NULL);
    for (int i = 0; i < N; i++) {
        int drop[N + 2], n = 0;

        for (int k = 0; k < N; k++)
            if (k != i)
                drop[n++] = k;
        drop[n] = -1;
        assert_int_equal(problems(&c, text, arrange(&c, drop, text)), 1);
        assert_true(found(i == N - 1 ? TB_AUDIT_PROBLEM_CUT : TB_AUDIT_PROBLEM_MISSING, (uint64_t)i + 1));
        for (int k = i + 1; k < N; k++) {
            int swap[] = {0, 1, 2, 3, 4, 5, -1};

            swap[i] = k;
            swap[k] = i;
            assert_true(problems(&c, text, arrange(&c, swap, text)) > 0);
        }
        for (int at = 0; at <= N; at++) { /* line i once more, before line at */
            int twice[N + 2];

            for (int k = 0; k <= N; k++)
                twice[k] = k < at ? k : k == at ? i : k - 1;
            twice[N + 1] = -1;
            assert_true(problems(&c, text, arrange(&c, twice, text)) > 0);
            assert_true(at != i + 1 || found(TB_AUDIT_PROBLEM_DUPLICATE, (uint64_t)i + 1));
        }
    }
}

static void test_foreign_lines_put_in(void **unused)
{
    static const char *const junk[] = {"\n", "{}\n", "x\n", "{\"seq\":3}\n"};
    struct chain c, other;
    char text[(N + 1) * 200];

    make_chain(&c, 1, "x", NULL);
    make_chain(&other, 1, "y", NULL);
    for (int at = 0; at <= N; at++) {
        for (size_t i = 0; i < N + ARRAY_SIZE(junk); i++) {
            const char *line = i < N ? other.text + other.start[i] : junk[i - N];
            size_t n = i < N ? other.start[i + 1] - other.start[i] : strlen(line);

            memcpy(text, c.text, c.start[at]);
            memcpy(text + c.start[at], line, n);
            memcpy(text + c.start[at] + n, c.text + c.start[at], c.start[N] - c.start[at]);
            assert_true(problems(&c, text, c.start[N] + n) > 0);
        }
    }
    assert_true(problems(&c, other.text, other.start[N]) > 0); /* another chain altogether */
}

static void test_anchors(void **unused)
{
    struct chain c;

    make_chain(&c, 5, "x", NULL); /* the first ones were rotated away */
    start(&c);
    v.first_wanted = 0;
    tb_verify_add_anchor(&v, &c.point[3], "--expect");
    feed(c.text, c.start[N]);
    assert_int_equal(v.n_problems, 0);
    start(&c);
    feed(c.text, c.start[N]);
    assert_int_equal(v.n_problems, 1); /* --first 1 */
    assert_true(found(TB_AUDIT_PROBLEM_MISSING, 1));
    start(&c);
    v.first_wanted = 0;
    tb_verify_add_anchor(&v, &(struct tb_chain_point){.seq = 4}, "--expect");
    tb_verify_add_anchor(&v, &(struct tb_chain_point){.seq = 7}, "--expect");
    feed(c.text, c.start[N]);
    assert_int_equal(v.n_problems, 2);
    assert_true(found(TB_AUDIT_PROBLEM_MISSING, 4) && found(TB_AUDIT_PROBLEM_CHANGED, 7));
}

static void test_declared_doubt_excuses_so_many_and_no_more(void **unused)
{
    static const char *const more[N] = {[4] = ",\"lost_max\":7,\"unsure\":2"};
    static const int without[][N + 1] = {
        {0, 1, 2, 3, 4, 5, -1}, {0, 1, 2, 4, 5, -1}, {0, 1, 4, 5, -1}, {0, 4, 5, -1}, {0, 2, 3, 4, 5, -1}};
    static const uint64_t excused[] = {0, 1, 2, 0, 0}, bad[] = {0, 0, 0, 1, 1};
    char text[(N + 1) * 200];
    struct chain c;

    make_chain(&c, 1, "x", more);
    for (size_t i = 0; i < ARRAY_SIZE(without); i++) {
        assert_int_equal(problems(&c, text, arrange(&c, without[i], text)), bad[i]);
        assert_int_equal(v.excused, excused[i]);
        assert_int_equal(v.lost_max, 7);
        assert_int_equal(v.stops, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_intact_chain_is_intact),
        cmocka_unit_test(test_a_flipped_bit_anywhere),
        cmocka_unit_test(test_a_cut_at_any_byte),
        cmocka_unit_test(test_lines_dropped_swapped_repeated),
        cmocka_unit_test(test_foreign_lines_put_in),
        cmocka_unit_test(test_anchors),
        cmocka_unit_test(test_declared_doubt_excuses_so_many_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
