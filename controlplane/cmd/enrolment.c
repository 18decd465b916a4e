/* SPDX-License-Identifier: Apache-2.0 */
/* contract code, machine expel. */
#include "controlplane/cmd/enrolment.h"

#include <string.h>

#include "common/units.h"

#define CODE_LIFE_US (7ULL * 86400 * TB_USEC_PER_SEC)

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_code_options[] = {CP_CODE_ROWS, CP_COMMON_ROWS};

int cp_new_code_make(const struct cp_options *o, const char *contract_id, struct cp_new_code *ret)
{
    uint64_t now = tb_now_realtime_us();

    *ret = (struct cp_new_code){
        .code = {.uses_left = o->codes ? o->codes : 1,
                 .expires_us = o->code_expires_us ? o->code_expires_us : now + CODE_LIFE_US,
                 .created_us = now}};
    strcpy(ret->code.contract_id, contract_id);
    if (cp_code_make(ret->text) < 0 || cp_code_hash(ret->text, ret->code.code_sha256) < 0)
        return cp_fail(o, TB_EXIT_IOERR, "no random numbers for a code");
    return 0;
}

int cp_new_code_put(struct cp_store *s, const struct cp_new_code *c)
{
    char actor[64], end[TB_RFC3339_MAX], uses[24];
    int r = cp_store_put_code(s, &c->code);

    snprintf(uses, sizeof(uses), "%llu", (unsigned long long)c->code.uses_left);
    return r < 0 ? r
                 : cp_change(s, c->code.created_us, cp_actor(actor), "contract.code", c->code.contract_id,
                             "uses", uses, "expires_at", tb_rfc3339_format(c->code.expires_us, 0, end));
}

int cp_new_code_show(const struct cp_options *o, const struct cp_new_code *c)
{
    puts(c->text);
    return fflush(stdout) == 0 ? TB_EXIT_OK : cp_fail(o, TB_EXIT_IOERR, "cannot write the code");
}

struct code_job {
    const struct cp_options *o;
    struct cp_new_code code;
    enum cp_mode mode;
};

static int code_store(struct cp_store *s, void *ctx)
{
    struct code_job *j = ctx;
    struct cp_contract c;
    int r = cp_store_get_contract(s, j->o->operand, tb_now_realtime_us(), &c);

    if (r < 0)
        return r;
    j->mode = c.mode;
    return c.mode == CP_MODE_ENROLLED ? cp_new_code_put(s, &j->code) : -EMEDIUMTYPE;
}

int cp_run_contract_code(const struct cp_options *o)
{
    struct code_job j = {.o = o};
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_new_code_make(o, o->operand, &j.code);

    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, code_store, &j);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no contract %s; `contract list` names them", o->operand);
    if (r == -EMEDIUMTYPE)
        return cp_fail(o, TB_EXIT_USAGE, "contract %s is of mode %s: its machines do not enrol", o->operand,
                       cp_mode_names[j.mode]);
    return r < 0 ? cp_fail_store(o, s, r) : cp_new_code_show(o, &j.code);
}

static int machine_expel(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    uint64_t now = tb_now_realtime_us();
    char actor[64];
    int r = cp_store_expel_machine(s, o->operand, o->machine, now);

    return r < 0 ? r : cp_change(s, now, cp_actor(actor), "machine.expel", o->operand, "machine", o->machine);
}

int cp_run_machine_expel(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r;

    if (!o->machine)
        return cp_fail(o, TB_EXIT_USAGE, "--machine HW_ID is missing");
    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, machine_expel, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "contract %s has no machine %s; `machine list` names them",
                       o->operand, o->machine);
    if (r < 0)
        return cp_fail_store(o, s, r);
    fprintf(stderr, CP_PROGRAM ": the enrolment codes of %s are over; `contract code` makes another\n",
            o->operand);
    return TB_EXIT_OK;
}
