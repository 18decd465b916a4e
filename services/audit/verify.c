/* SPDX-License-Identifier: Apache-2.0 */
#include "audit/verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/json.h"

const char *tb_audit_problem_name(enum tb_audit_problem_kind k)
{
    static const char *const name[_TB_AUDIT_PROBLEM_MAX] = {"damaged", "changed",   "missing",
                                                            "order",   "duplicate", "cut"};

    return name[k];
}

void tb_verify_problem(struct tb_verify *v, enum tb_audit_problem_kind kind, const char *source,
                       uint64_t line, uint64_t seq, const char *fmt, ...)
{
    struct tb_audit_problem *p;
    va_list ap;

    if (v->n_problems++ >= TB_VERIFY_PROBLEMS_MAX)
        return;
    p = &v->problem[v->n_problems - 1];
    *p = (struct tb_audit_problem){.kind = kind, .source = source, .line = line, .seq = seq};
    va_start(ap, fmt);
    vsnprintf(p->text, sizeof(p->text), fmt, ap);
    va_end(ap);
}

int tb_verify_add_anchor(struct tb_verify *v, const struct tb_chain_point *p, const char *name)
{
    if (v->n_anchors == TB_VERIFY_ANCHORS_MAX)
        return -ENOSPC;
    v->anchor[v->n_anchors++] = (struct tb_anchor){.point = *p, .name = name};
    return 0;
}

struct record_position {
    const char *source;
    uint64_t line;
};

static void say_missing(struct tb_verify *v, const struct record_position *at, uint64_t from, uint64_t to)
{
    if (from == to)
        tb_verify_problem(v, TB_AUDIT_PROBLEM_MISSING, at->source, at->line, from,
                          "record %" PRIu64 " is missing", from);
    else
        tb_verify_problem(v, TB_AUDIT_PROBLEM_MISSING, at->source, at->line, from,
                          "records %" PRIu64 " to %" PRIu64 " are missing", from, to);
}

static void verify_check_first(struct tb_verify *v, const struct record_position *at,
                               const struct tb_chain_entry *e)
{
    static const uint8_t zeros[TB_CHAIN_HASH_BYTES];

    v->first_seq = e->seq;
    memcpy(v->first_ts, e->ts, sizeof(v->first_ts));
    if (e->seq == 1 && !tb_chain_hash_equal(e->prev, zeros))
        tb_verify_problem(v, TB_AUDIT_PROBLEM_CHANGED, at->source, at->line, 1,
                          "record 1 names a record before it");
    if (v->first_wanted > 0 && e->seq > v->first_wanted && e->seq - v->first_wanted != v->damaged)
        say_missing(v, at, v->first_wanted, e->seq - 1);
}

/* How e stands to the highest record before it. */
static void verify_check_link(struct tb_verify *v, const struct record_position *at,
                              const struct tb_chain_entry *e, const uint8_t *hash)
{
    const struct tb_chain_point *last = &v->last;
    uint64_t gap;

    if (e->seq == last->seq && tb_chain_hash_equal(hash, last->hash)) {
        tb_verify_problem(v, TB_AUDIT_PROBLEM_DUPLICATE, at->source, at->line, e->seq,
                          "record %" PRIu64 " is there twice", e->seq);
    } else if (e->seq <= last->seq) {
        tb_verify_problem(v, TB_AUDIT_PROBLEM_ORDER, at->source, at->line, e->seq,
                          "record %" PRIu64 " comes after record %" PRIu64 ": moved, or from elsewhere",
                          e->seq, last->seq);
    } else if (e->seq == last->seq + 1) {
        if (!tb_chain_hash_equal(e->prev, last->hash))
            tb_verify_problem(v, TB_AUDIT_PROBLEM_CHANGED, at->source, at->line, last->seq,
                              "record %" PRIu64 " is not the one that record %" PRIu64
                              " follows: one of them was changed",
                              last->seq, e->seq);
    } else {
        gap = e->seq - last->seq - 1;
        if (e->after_stop && gap <= e->unsure)
            v->excused += gap;
        else if (gap != v->damaged) /* those were reported already */
            say_missing(v, at, last->seq + 1, e->seq - 1);
    }
}

static void verify_check_anchors(struct tb_verify *v, const struct record_position *at, uint64_t seq,
                                 const uint8_t *hash)
{
    for (size_t i = 0; i < v->n_anchors; i++) {
        struct tb_anchor *a = &v->anchor[i];

        if (a->point.seq != seq || a->seen)
            continue;
        a->seen = true;
        if (!tb_chain_hash_equal(a->point.hash, hash))
            tb_verify_problem(v, TB_AUDIT_PROBLEM_CHANGED, at->source, at->line, seq,
                              "record %" PRIu64 " is not the one that %s knows: it was changed", seq,
                              a->name);
    }
}

int tb_verify_line(struct tb_verify *v, const char *source, uint64_t line, const char *text, size_t len,
                   struct tb_chain_entry *ret_entry)
{
    const struct record_position at = {source, line};
    uint8_t hash[TB_CHAIN_HASH_BYTES];
    struct tb_chain_entry e;
    char err[TB_CHAIN_ERR_MAX];
    int r = tb_chain_parse(text, len, &e, err);

    if (r == -EBADMSG)
        e = (struct tb_chain_entry){0};
    else if (r >= 0)
        r = tb_chain_hash(text, len, hash);
    if (ret_entry)
        *ret_entry = e;
    if (r == -EBADMSG) {
        tb_verify_problem(v, TB_AUDIT_PROBLEM_DAMAGED, source, line, 0, "not a record: %s", err);
        v->damaged++;
        return 0;
    }
    if (r < 0)
        return r;
    v->records++;
    v->requests = MIN(v->requests + e.count, (uint64_t)TB_JSON_INT_MAX);
    if (v->first_seq == 0)
        verify_check_first(v, &at, &e);
    else
        verify_check_link(v, &at, &e, hash);
    verify_check_anchors(v, &at, e.seq, hash);
    v->damaged = 0;
    v->stops += e.after_stop;
    v->lost_max += e.lost_max;
    if (e.seq > v->last.seq) {
        v->last.seq = e.seq;
        memcpy(v->last.hash, hash, sizeof(hash));
        memcpy(v->last_ts, e.ts, sizeof(v->last_ts));
    }
    return 0;
}

bool tb_verify_wants_more(const struct tb_verify *v)
{
    for (size_t i = 0; i < v->n_anchors; i++)
        if (v->last.seq < v->anchor[i].point.seq)
            return true;
    return false;
}

void tb_verify_end(struct tb_verify *v)
{
    for (size_t i = 0; i < v->n_anchors; i++) {
        const struct tb_anchor *a = &v->anchor[i];

        if (a->point.seq > v->last.seq)
            tb_verify_problem(v, TB_AUDIT_PROBLEM_CUT, NULL, 0, v->last.seq + 1,
                              "the end is missing: %s knows record %" PRIu64
                              ", the last one here is %" PRIu64,
                              a->name, a->point.seq, v->last.seq);
        else if (a->point.seq > 0 && a->point.seq < v->first_seq)
            tb_verify_problem(v, TB_AUDIT_PROBLEM_MISSING, NULL, 0, a->point.seq,
                              "record %" PRIu64
                              ", which %s knows, is not among these: they begin with %" PRIu64,
                              a->point.seq, a->name, v->first_seq);
    }
}
