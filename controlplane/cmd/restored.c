/* SPDX-License-Identifier: Apache-2.0 */
/* restored: what must be done to a database that is an older one again. */
#include "common/units.h"
#include "controlplane/cmd/cmd.h"

struct restored_job {
    uint64_t now_us;
    uint64_t seq, at_us; /* the last change that it knows; 0: none */
};

/* Codes that were used, or ended, since then are good again in it: all end. */
static int restored_store(struct cp_store *s, void *ctx)
{
    struct restored_job *j = ctx;
    char actor[64];
    int r;

    j->seq = 0;
    r = cp_store_last_change(s, &j->seq, &j->at_us);
    if (r == 0 || r == -ENOENT)
        r = cp_store_end_codes(s, NULL, INT64_MAX);
    return r < 0 ? r : cp_change(s, j->now_us, cp_actor(actor), "database.restored", "database", NULL);
}

int cp_run_restored(const struct cp_options *o)
{
    struct restored_job j = {.now_us = tb_now_realtime_us()};
    _cleanup_store_ struct cp_store *s = NULL;
    char at[TB_RFC3339_MAX];
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, restored_store, &j);
    if (r < 0)
        return cp_fail_store(o, s, r);
    printf(
        "The database knows what happened until change %llu, of %s.\n"
        "All enrolment codes are over. What was revoked, denied or expelled since then is not known here:\n"
        "compare with the lines behind %llu of a copy of `" CP_PROGRAM
        " changes`, and do it again before serving.\n",
        (unsigned long long)j.seq, j.seq ? tb_rfc3339_format(j.at_us, 1, at) : "the beginning",
        (unsigned long long)j.seq);
    return fflush(stdout) == 0 ? TB_EXIT_OK : cp_fail(o, TB_EXIT_IOERR, "cannot write");
}
