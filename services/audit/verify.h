/* SPDX-License-Identifier: Apache-2.0 */
/* Checks audit records, one after the other, as a chain (common/chain.h; docs/contracts.md, "Audit chain").
 * No I/O here: files.c and journal.c bring the lines, report.c prints what was found. */
#ifndef TB_AUDIT_VERIFY_H
#define TB_AUDIT_VERIFY_H

#include "common/chain.h"

#define TB_VERIFY_PROBLEMS_MAX 100 /* kept; all are counted */
#define TB_VERIFY_ANCHORS_MAX 8

enum tb_audit_problem_kind {
    TB_AUDIT_PROBLEM_DAMAGED,   /* not a record */
    TB_AUDIT_PROBLEM_CHANGED,   /* a record that is not the one its neighbour, or an anchor, knows */
    TB_AUDIT_PROBLEM_MISSING,   /* numbers left out */
    TB_AUDIT_PROBLEM_ORDER,     /* a number that came before */
    TB_AUDIT_PROBLEM_DUPLICATE, /* the same record again */
    TB_AUDIT_PROBLEM_CUT,       /* the end is missing */
    _TB_AUDIT_PROBLEM_MAX,
};
const char *tb_audit_problem_name(enum tb_audit_problem_kind k);

struct tb_audit_problem {
    enum tb_audit_problem_kind kind;
    const char *source; /* borrowed: a file's name; or NULL */
    uint64_t line, seq; /* 0: does not apply */
    char text[TB_CHAIN_ERR_MAX + 100];
};

/* A record known from elsewhere: the head, or one that somebody wrote down. */
struct tb_anchor {
    struct tb_chain_point point;
    const char *name; /* borrowed */
    bool seen;        /* a record of that number was there, right or not */
};

struct tb_verify {
    uint64_t first_wanted; /* 0: the records may begin anywhere */
    struct tb_anchor anchor[TB_VERIFY_ANCHORS_MAX];
    size_t n_anchors;

    uint64_t records;           /* readable ones */
    uint64_t requests;          /* that they stand for */
    uint64_t first_seq;         /* 0: none yet */
    struct tb_chain_point last; /* the highest */
    char first_ts[TB_RFC3339_MAX], last_ts[TB_RFC3339_MAX];
    uint64_t stops, lost_max; /* declared by the writer */
    uint64_t excused;         /* missing records that the writer had declared doubtful */
    uint64_t foreign;         /* journal entries of other programs */
    uint64_t damaged;         /* since the last readable record */
    uint64_t n_problems;
    struct tb_audit_problem problem[TB_VERIFY_PROBLEMS_MAX];
};

/* 0 or -ENOSPC. */
int tb_verify_add_anchor(struct tb_verify *v, const struct tb_chain_point *p, const char *name);
/* The next record, without line end. ret_entry (may be NULL): what was read, seq 0 when nothing. 0 or
 * -ENOMEM. */
int tb_verify_line(struct tb_verify *v, const char *source, uint64_t line, const char *text, size_t len,
                   struct tb_chain_entry *ret_entry);
void tb_verify_problem(struct tb_verify *v, enum tb_audit_problem_kind kind, const char *source,
                       uint64_t line, uint64_t seq, const char *fmt, ...) _printf_(6, 7);
/* True when there must be more records than were seen so far. */
bool tb_verify_wants_more(const struct tb_verify *v);
/* After the last record. */
void tb_verify_end(struct tb_verify *v);

#endif
