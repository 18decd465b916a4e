/* SPDX-License-Identifier: Apache-2.0 */
/* restored: what must be done to a database that is an older one again. */
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "controlplane/cmd/cmd.h"

struct restored_job {
    const struct cp_options *o;
    uint64_t now_us;
    char line[1024]; /* the last change that it knows */
};

static int restored_see(const char *line, void *ctx)
{
    struct restored_job *j = ctx;

    snprintf(j->line, sizeof(j->line), "%s", line);
    return 0;
}

/* Codes that were used, or ended, since then are good again in it: all end. */
static int restored_store(struct cp_store *s, void *ctx)
{
    struct restored_job *j = ctx;
    char actor[64];
    int r;

    j->line[0] = '\0';
    r = cp_store_each_change(s, 1, restored_see, j);
    if (r == 0)
        r = cp_store_end_codes(s, NULL, INT64_MAX);
    return r < 0 ? r : cp_change(s, j->now_us, cp_actor(actor), "database.restored", "database", NULL);
}

int cp_run_restored(const struct cp_options *o)
{
    struct restored_job j = {.o = o, .now_us = tb_now_realtime_us()};
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_json_ cJSON *last = NULL;
    const char *ts = "the beginning";
    char err[TB_JSON_ERR_MAX];
    uint64_t seq = 0;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, restored_store, &j);
    if (r < 0)
        return cp_fail_store(o, s, r);
    if (*j.line && tb_json_parse(j.line, strlen(j.line), sizeof(j.line), &last, err) == 0) {
        (void)tb_json_get_uint(last, "seq", TB_JSON_INT_MAX, &seq, err);
        (void)tb_json_get_string(last, "ts", &ts, err);
    }
    printf(
        "The database knows what happened until change %llu, of %s.\n"
        "All enrolment codes are over. What was revoked, denied or expelled since then is not known here:\n"
        "compare with the lines behind %llu of a copy of `" CP_PROGRAM
        " changes`, and do it again before serving.\n",
        (unsigned long long)seq, ts, (unsigned long long)seq);
    return fflush(stdout) == 0 ? TB_EXIT_OK : cp_fail(o, TB_EXIT_IOERR, "cannot write");
}
