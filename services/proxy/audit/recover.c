/* SPDX-License-Identifier: Apache-2.0 */
#include "common/chain_head.h"
#include "common/log.h"
#include "proxy/audit/state.h"

/* How much of the file's end is looked at for the record the chain stands at: more than a power failure
 * leaves unsaid. */
#define TAIL_MAX (64UL * 1024 * 1024)

/* Where the file's end leads from what was written: *ret_end. >0: there; 0: the file does not say; -errno. */
static int recover_from_file(struct tb_audit *a, const struct tb_chain_state *st,
                             struct tb_chain_point *ret_end)
{
    _cleanup_free_ char *text = NULL;
    size_t len, whole;
    int r = tb_audit_sink_tail(&a->sink, TAIL_MAX, &text, &len), e;

    if (r < 0 || !text)
        return r;
    r = tb_chain_follow(text, len, &st->committed, ret_end, &whole);
    if (r == TB_CHAIN_TAIL_FOREIGN) /* a power failure may have taken what was not synced */
        r = tb_chain_follow(text, len, &st->synced, ret_end, &whole);
    if (r < 0)
        return r;
    if (whole < len) { /* of a line that was being written */
        e = tb_audit_sink_trim(&a->sink, len - whole);
        if (e < 0)
            return e;
    }
    if (r == TB_CHAIN_TAIL_FOREIGN)
        tb_warn("audit: %s does not end with record %llu, the last one written; tb-audit verify tells more",
                a->sink.file, (unsigned long long)st->committed.seq);
    return r == TB_CHAIN_TAIL_LEADS;
}

int tb_audit_recover(struct tb_audit *a)
{
    struct tb_chain_point end = {0};
    struct tb_chain_state st;
    uint64_t saved = 0;
    int r;

    tb_chain_head_get(a->head_file, &st);
    r = recover_from_file(a, &st, &end);
    if (r < 0)
        return r;
    a->at = r > 0 && end.seq >= st.committed.seq ? end : st.pending;
    if (r == 0) {
        st.unsure = MAX(st.unsure, st.pending.seq - st.committed.seq);
    } else if (end.seq < st.committed.seq) {
        st.unsure = MAX(st.unsure, st.pending.seq - end.seq);
    } else if (end.seq > st.committed.seq) { /* the first of these has declared what there was */
        saved = end.seq - st.committed.seq;
        st.lost_max = st.unsure = 0;
    }
    if (a->sink.journal && st.journal_seq > 0 && st.journal_seq < a->at.seq)
        st.unsure = MAX(st.unsure, a->at.seq - st.journal_seq);
    tb_chain_head_begin(a->head_file, &a->at);
    tb_chain_head_commit(a->head_file);
    tb_chain_head_set_stop(a->head_file, st.lost_max + st.slots - MIN(st.slots, saved), st.unsure);
    tb_chain_head_set_slots(a->head_file, 0);
    a->reported = a->at;
    a->synced = a->at.seq;
    return 0;
}
