/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "controlplane/admin/call.h"

static int machine_row(const struct cp_machine *m, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_machine(o, m, l->c->now_us);
        snprintf(l->last, sizeof(l->last), "%s:%s", m->contract_id, m->hw_id);
    }
    return r;
}

int cp_admin_machine_list(struct cp_store *s, struct cp_call *c)
{
    static const char *const states[] = {"active", "gone", "expelled", NULL};
    const char *after = cp_query_text(c, "after"), *colon = strchr(after, ':');
    struct cp_machine_page page = {.after_machine = ""};
    char contract[TB_ID_MAX + 1] = "";
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after", "contract_id", "state");

    if (r == 0)
        r = cp_query_contract(c, &page.contract_id);
    if (r == 0)
        r = cp_query_word(c, "state", states, &page.state);
    if (r == 0 && *after && (!colon || (size_t)(colon - after) > TB_ID_MAX))
        r = cp_refuse_body(c, "the parameter after is not what a page before had as next");
    if (r == 0)
        r = cp_listing_begin(c, "machines", &l);
    if (r < 0)
        return r;
    if (colon) {
        memcpy(contract, after, (size_t)(colon - after));
        page.after_machine = colon + 1;
    }
    page.after = contract;
    page.limit = l.limit + 1;
    return cp_listing_end(&l, cp_store_page_machines(s, c->now_us, &page, machine_row, &l));
}

/* The machine that the body names. */
static int machine_find(struct cp_store *s, struct cp_call *c, struct cp_machine *ret)
{
    char contract[TB_ID_MAX + 1], hw[CP_HW_ID_MAX + 1];
    int r = cp_body_only(c, "contract_id", "hw_id");

    if (r == 0)
        r = cp_body_id(c, "contract_id", &cp_plain_id, NULL, contract, sizeof(contract));
    if (r == 0)
        r = cp_body_id(c, "hw_id", &cp_hw_id, NULL, hw, sizeof(hw));
    if (r == 0)
        r = cp_store_get_machine(s, contract, hw, ret);
    return r == -ENOENT ? cp_refuse(c, 404, "machine_unknown",
                                    "contract %s has no machine %s; list the machines to see their names",
                                    contract, hw)
                        : r;
}

static int machine_answer(struct cp_store *s, struct cp_call *c, const char *action,
                          const struct cp_machine *was, const struct cp_machine *is)
{
    cJSON *before = cJSON_CreateObject(), *o = cp_say(c, 200);

    cp_show_machine(before, was, c->now_us);
    cp_show_machine(o, is, c->now_us);
    return cp_note(s, c, action, was->contract_id, before, NULL);
}

int cp_admin_machine_remove(struct cp_store *s, struct cp_call *c)
{
    struct cp_machine m;
    int r = machine_find(s, c, &m);

    if (r == 0 && m.expelled_us)
        r = cp_refuse(c, 409, "machine_expelled", "machine %s is expelled from contract %s, and stays so",
                      m.hw_id, m.contract_id);
    if (r == 0)
        r = cp_store_forget_machines(s, m.contract_id, m.hw_id);
    return r < 0 ? r : machine_answer(s, c, "machine.remove", &m, &m);
}

int cp_admin_machine_expel(struct cp_store *s, struct cp_call *c)
{
    struct cp_machine was, is;
    int r = machine_find(s, c, &was);

    if (r == 0)
        r = cp_store_expel_machine(s, was.contract_id, was.hw_id, c->now_us);
    if (r == 0)
        r = cp_store_get_machine(s, was.contract_id, was.hw_id, &is);
    return r < 0 ? r : machine_answer(s, c, "machine.expel", &was, &is);
}
