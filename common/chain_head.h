/* SPDX-License-Identifier: Apache-2.0 */
/* Where the audit chain stands, kept beside it: STATE/tb-proxy/audit-head. A shared mapping of a small file,
 * so that a change costs no system call and survives SIGKILL at any instruction. One writer (tb-proxy holds
 * the lock of its state directory); tb-audit reads it to notice that the end of the records was cut off.
 * docs/contracts.md, "Audit chain". */
#ifndef TB_CHAIN_HEAD_H
#define TB_CHAIN_HEAD_H

#include "common/chain.h"

struct tb_chain_head;

/* Opens or creates path (0640); NULL: memory only. A file that is not one is set aside as path.corrupt-<time>
 * and a new one begun: *ret_set_aside. 0 or -errno. */
int tb_chain_head_open(const char *path, struct tb_chain_head **ret, bool *ret_set_aside);
/* Writes to the disk and frees. */
void tb_chain_head_close(struct tb_chain_head *h);
void tb_chain_head_sync(struct tb_chain_head *h);
/* False when path does not name its file any more. */
bool tb_chain_head_in_place(const struct tb_chain_head *h, const char *path);
/* Sees that path still names its file, and makes a new one if not: tb_mapfile_keep(). */
int tb_chain_head_keep(struct tb_chain_head *h, const char *path);

struct tb_chain_state {
    struct tb_chain_point committed; /* the last record that was written: a kill cannot take it back */
    struct tb_chain_point pending;   /* the last that was about to be; the same when nothing was */
    struct tb_chain_point synced;    /* the last that a power failure cannot take back */
    uint64_t journal_seq;            /* the last that the journal has */
    uint64_t slots;                  /* requests in flight and records waiting */
    uint64_t lost_max, unsure;       /* to be declared by the next record */
};
/* While no other thread sets anything: what the points are is copied at leisure. */
void tb_chain_head_get(const struct tb_chain_head *h, struct tb_chain_state *ret);
/* What the next record has to declare, at any time. */
void tb_chain_head_get_stop(const struct tb_chain_head *h, uint64_t *ret_lost_max, uint64_t *ret_unsure);

/* Before records are written, the last of them is `last`; after that, commit. */
void tb_chain_head_begin(struct tb_chain_head *h, const struct tb_chain_point *last);
void tb_chain_head_commit(struct tb_chain_head *h);
/* By one thread, not necessarily that of the others. */
void tb_chain_head_set_synced(struct tb_chain_head *h, const struct tb_chain_point *p);
void tb_chain_head_set_journal(struct tb_chain_head *h, uint64_t seq);
void tb_chain_head_set_slots(struct tb_chain_head *h, uint64_t slots);
/* What the next record has to declare; (0, 0) once it is written. */
void tb_chain_head_set_stop(struct tb_chain_head *h, uint64_t lost_max, uint64_t unsure);

/* Reader: what is committed now. -ENOENT when there is none; -EBADMSG when it is not one. */
int tb_chain_head_read(const char *path, struct tb_chain_point *ret);

/* Reader: the whole file (TB_CHAIN_HEAD_BYTES) as a kill of its writer would leave it now, for a copy. */
#define TB_CHAIN_HEAD_BYTES 4096
int tb_chain_head_copy(const char *path, void *ret);
/* Number of the last record that such a copy says was written; 0: none, or it is no such copy. */
uint64_t tb_chain_head_seq(const void *copy);

#endif
