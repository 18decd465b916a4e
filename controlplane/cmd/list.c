/* SPDX-License-Identifier: Apache-2.0 */
/* contract list, machine list, asset list, usage, log, changes: for people as columns, for programs with
 * --json. No key is ever printed. */
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "controlplane/admin/show.h"
#include "controlplane/cmd/cmd.h"
#include "controlplane/store/usage.h"

#define PROVED_TEXT_MAX 200
#define LOG_LIMIT_DEFAULT 50

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_log_options[] = {
    CP_JSON_ROW,
    TB_OPTION(0, "limit", "N", TB_OPTION_UINT, limit, "the last N entries (default 50)", .min = 1,
              .max = CP_STORE_LOG_MAX),
    CP_COMMON_ROWS,
};
const struct tb_option cp_changes_options[] = {
    TB_OPTION(0, "from", "N", TB_OPTION_UINT, from, "from change number N on (default 1)", .min = 1,
              .max = INT64_MAX),
    CP_COMMON_ROWS,
};

/* NULL: print columns. */
struct listing {
    cJSON *array;
};

static const char *list_when(uint64_t us, char out[static TB_RFC3339_MAX])
{
    return us ? tb_rfc3339_format(us, 0, out) : "never";
}

static cJSON *list_add_row(struct listing *l)
{
    cJSON *o = cJSON_CreateObject();

    if (o && !cJSON_AddItemToArray(l->array, o)) {
        cJSON_Delete(o);
        o = NULL;
    }
    return o;
}

static int list_show_contract(const struct cp_contract *c, void *ctx)
{
    const char *state = cp_contract_state(c, tb_now_realtime_us());
    struct listing *l = ctx;
    char end[TB_RFC3339_MAX], max[24] = "any";
    cJSON *o;

    if (c->max_hw)
        snprintf(max, sizeof(max), "%llu", (unsigned long long)c->max_hw);
    if (!l->array) {
        printf("%-30s %-8s %-24s %-30s %-20s %8llu %llu/%s\n", c->contract_id, state,
               c->active ? "-" : c->reason, c->asset_id, list_when(c->expires_us, end),
               (unsigned long long)c->lease_seconds, (unsigned long long)c->hw_used, max);
        return 0;
    }
    o = list_add_row(l);
    if (!o)
        return -ENOMEM;
    cJSON_AddStringToObject(o, "contract_id", c->contract_id);
    cJSON_AddStringToObject(o, "asset_id", c->asset_id);
    cJSON_AddStringToObject(o, "mode", cp_mode_names[c->mode]);
    if (c->version)
        tb_json_add_uint(o, "version", c->version);
    cJSON_AddStringToObject(o, "state", state);
    cJSON_AddStringToObject(o, "reason", c->reason);
    if (c->expires_us)
        cJSON_AddStringToObject(o, "expires_at", list_when(c->expires_us, end));
    tb_json_add_uint(o, "lease_seconds", c->lease_seconds);
    if (c->max_hw)
        tb_json_add_uint(o, "max_hw", c->max_hw);
    tb_json_add_uint(o, "hw_used", c->hw_used);
    return 0;
}

static int list_show_asset(const struct cp_asset *a, void *ctx)
{
    char url[CP_URL_MAX + 1], at[TB_RFC3339_MAX], size[32];
    struct listing *l = ctx;
    cJSON *o;

    if (!l->array) {
        printf("%-30s %7llu %-10s %-20s %s\n", a->asset_id, (unsigned long long)a->version,
               tb_bytes_format(a->plaintext_bytes, size, sizeof(size)), list_when(a->updated_us, at),
               tb_url_redact(a->ciphertext_url, url, sizeof(url)));
        return 0;
    }
    o = list_add_row(l);
    if (!o)
        return -ENOMEM;
    cp_show_asset(o, a);
    return 0;
}

static unsigned long long list_number(const cJSON *o, const char *member, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    (void)tb_json_get_uint(member ? tb_json_member(o, member) : o, name, TB_JSON_INT_MAX, &v, err);
    return v;
}

static unsigned long long list_counter(const struct cp_usage *u, const char *name)
{
    for (size_t i = 0; i < u->used.n; i++)
        if (strcmp(u->used.v[i].name, name) == 0)
            return u->used.v[i].total;
    return 0;
}

static void list_add_used(const struct cp_usage *u, cJSON *o)
{
    for (size_t i = 0; i < u->used.n; i++)
        tb_json_add_uint(o, u->used.v[i].name, u->used.v[i].total);
}

static int list_show_usage(const struct cp_usage *u, void *ctx)
{
    char at[TB_RFC3339_MAX], err[TB_JSON_ERR_MAX];
    _cleanup_json_ cJSON *report = NULL;
    struct listing *l = ctx;
    cJSON *o;

    if (tb_json_parse(u->report, strlen(u->report), TB_REPORT_MAX, &report, err) < 0)
        return 0;
    if (!l->array) {
        printf("%-30s %-36s %-20s %12llu %14llu %14llu %8llu %6llu %s\n", u->contract_id, u->hw_id,
               list_when(u->at_us, at), list_counter(u, "requests"), list_counter(u, "prompt_tokens"),
               list_counter(u, "completion_tokens"), list_number(report, "events", "parked"),
               list_number(report, NULL, "late_seconds"), u->flagged ? u->last_flags : "-");
        return 0;
    }
    o = list_add_row(l);
    if (!o)
        return -ENOMEM;
    cJSON_AddStringToObject(o, "contract_id", u->contract_id);
    cJSON_AddStringToObject(o, "asset_id", u->asset_id);
    cJSON_AddStringToObject(o, "hw_id", u->hw_id);
    cJSON_AddStringToObject(o, "ledger", u->ledger);
    cJSON_AddStringToObject(o, "first_seen", list_when(u->first_us, at));
    cJSON_AddStringToObject(o, "last_seen", list_when(u->last_us, at));
    list_add_used(u, cJSON_AddObjectToObject(o, "used"));
    tb_json_add_uint(o, "flagged", u->flagged);
    if (u->flagged)
        cJSON_AddStringToObject(o, "flags", u->last_flags);
    cJSON_AddItemToObject(o, "report", TAKE_PTR(report));
    return 0;
}

/* " proved 2026-11-26T10:00:00Z: 11 hold, 1 broken (no-swap), 0 not checked"; "": it reported nothing. */
static const char *list_proved(const struct cp_machine *m, char out[static PROVED_TEXT_MAX])
{
    char at[TB_RFC3339_MAX];

    out[0] = '\0';
    if (m->proved_us)
        snprintf(out, PROVED_TEXT_MAX, " proved %s: %u hold, %u broken%s%s%s, %u not checked",
                 list_when(m->proved_us, at), m->proved_holds, m->proved_broken,
                 *m->proved_first_broken ? " (" : "", m->proved_first_broken,
                 *m->proved_first_broken ? ")" : "", m->proved_not_checked);
    return out;
}

static void list_add_proved(cJSON *o, const struct cp_machine *m)
{
    cJSON *p = m->proved_us ? cJSON_AddObjectToObject(o, "proved") : NULL;
    char at[TB_RFC3339_MAX];

    if (!p)
        return;
    cJSON_AddStringToObject(p, "at", list_when(m->proved_us, at));
    tb_json_add_uint(p, "holds", m->proved_holds);
    tb_json_add_uint(p, "broken", m->proved_broken);
    tb_json_add_uint(p, "not_checked", m->proved_not_checked);
    if (*m->proved_first_broken)
        cJSON_AddStringToObject(p, "first_broken", m->proved_first_broken);
}

static int list_show_machine(const struct cp_machine *m, void *ctx)
{
    const char *state = cp_machine_state(m, tb_now_realtime_us());
    char first[TB_RFC3339_MAX], last[TB_RFC3339_MAX], attested[TB_RFC3339_MAX], proved[PROVED_TEXT_MAX];
    struct listing *l = ctx;
    cJSON *o;

    list_when(m->first_us, first);
    list_when(m->last_us, last);
    list_when(m->attested_us, attested);
    if (!l->array) {
        printf("%-30s %-36s %-8s %-20s %-20s %-8s %-20s %s%s%s%s\n", m->contract_id, m->hw_id, state, first,
               last, *m->attested_level ? m->attested_level : "-", *m->attested_level ? attested : "-",
               *m->attested_image ? m->attested_image : "-", *m->attested_image ? "@" : "",
               m->attested_version, list_proved(m, proved));
        return 0;
    }
    o = list_add_row(l);
    if (!o)
        return -ENOMEM;
    cJSON_AddStringToObject(o, "contract_id", m->contract_id);
    cJSON_AddStringToObject(o, "hw_id", m->hw_id);
    cJSON_AddStringToObject(o, "state", state);
    cJSON_AddStringToObject(o, "first_seen", first);
    cJSON_AddStringToObject(o, "last_seen", last);
    cJSON_AddStringToObject(o, "slot_until", list_when(m->slot_until_us, last));
    list_add_proved(o, m);
    if (!*m->attested_level)
        return 0;
    o = cJSON_AddObjectToObject(o, "attested");
    cJSON_AddStringToObject(o, "level", m->attested_level);
    if (*m->attested_image) {
        cJSON_AddStringToObject(o, "image", m->attested_image);
        cJSON_AddStringToObject(o, "version", m->attested_version);
    }
    cJSON_AddStringToObject(o, "at", attested);
    return 0;
}

static int list_show_change(const char *line, void *ctx)
{
    puts(line);
    return 0;
}

static int list_show_log(const struct cp_log_entry *e, void *ctx)
{
    struct listing *l = ctx;
    char at[TB_RFC3339_MAX];
    cJSON *o;

    if (!l->array) {
        printf("%-24s %-10s %-20s %-30s %-30s %-36s %s%s%s\n", tb_rfc3339_format(e->at_us, 1, at),
               e->authorized ? "authorized" : "denied", e->authorized ? "-" : e->reason, e->contract_id,
               e->asset_id, e->hw_id, e->peer, *e->client_name ? " " : "", e->client_name);
        return 0;
    }
    o = list_add_row(l);
    if (!o)
        return -ENOMEM;
    cp_show_verdict(o, e);
    return 0;
}

/* Runs `each` and ends the listing: prints the array and checks that stdout took it all. */
static int list_run(const struct cp_options *o,
                    int (*each)(const struct cp_options *, struct cp_store *, struct listing *))
{
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_free_ char *text = NULL;
    struct listing l = {.array = array};
    int r;

    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = o->json && !array ? -ENOMEM : each(o, s, &l);
    if (r == 0 && array) {
        text = cJSON_Print(array);
        r = text ? 0 : -ENOMEM;
    }
    if (r == -ENOMEM)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    if (r < 0)
        return cp_fail_store(o, s, r);
    if (text)
        puts(text);
    return fflush(stdout) == 0 ? TB_EXIT_OK
                               : cp_fail(o, TB_EXIT_IOERR, "cannot write to stdout: %s", strerror(errno));
}

static int list_each_contract(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    if (!l->array)
        printf("%-30s %-8s %-24s %-30s %-20s %8s %s\n", "CONTRACT", "STATE", "REASON", "ASSET", "EXPIRES",
               "LEASE/s", "MACHINES");
    return cp_store_each_contract(s, tb_now_realtime_us(), list_show_contract, l);
}

static int list_each_asset(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    if (!l->array)
        printf("%-30s %7s %-10s %-20s %s\n", "ASSET", "VERSION", "PLAINTEXT", "UPDATED", "CIPHERTEXT");
    return cp_store_each_asset(s, NULL, list_show_asset, l);
}

static int list_each_usage(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    if (!l->array)
        printf("%-30s %-36s %-20s %12s %14s %14s %8s %6s %s\n", "CONTRACT", "MACHINE", "AT", "REQUESTS",
               "PROMPT", "COMPLETION", "PARKED", "LATE/s", "FLAGS");
    return cp_store_each_usage(s, list_show_usage, l);
}

static int list_each_log(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    if (!l->array)
        printf("%-24s %-10s %-20s %-30s %-30s %-36s %s\n", "AT", "STATUS", "REASON", "CONTRACT", "ASSET",
               "MACHINE", "PEER");
    return cp_store_each_log(s, o->limit ? o->limit : LOG_LIMIT_DEFAULT, list_show_log, l);
}

static int list_each_machine(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    if (!l->array)
        printf("%-30s %-36s %-8s %-20s %-20s %-8s %-20s %s\n", "CONTRACT", "MACHINE", "STATE", "FIRST",
               "LAST", "LEVEL", "ATTESTED", "IMAGE");
    return cp_store_each_machine(s, NULL, list_show_machine, l);
}

static int list_each_change(const struct cp_options *o, struct cp_store *s, struct listing *l)
{
    return cp_store_each_change(s, o->from, list_show_change, NULL);
}

int cp_run_machine_list(const struct cp_options *o)
{
    return list_run(o, list_each_machine);
}

/* As it came, so that anybody can look at the signature: tb-verify(8). */
int cp_run_machine_report(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_free_ char *text = NULL;
    int r = o->machine ? cp_open(o, &s) : cp_fail(o, TB_EXIT_USAGE, "--machine is missing");

    if (r != 0)
        return r;
    r = cp_store_get_report(s, o->operand, o->machine, &text);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "machine %s of contract %s has reported nothing of itself",
                       o->machine, o->operand);
    if (r < 0)
        return cp_fail_store(o, s, r);
    return puts(text) >= 0 && fflush(stdout) == 0
               ? TB_EXIT_OK
               : cp_fail(o, TB_EXIT_IOERR, "cannot write to stdout: %s", strerror(errno));
}

int cp_run_changes(const struct cp_options *o)
{
    return list_run(o, list_each_change);
}

int cp_run_contract_list(const struct cp_options *o)
{
    return list_run(o, list_each_contract);
}

int cp_run_asset_list(const struct cp_options *o)
{
    return list_run(o, list_each_asset);
}

int cp_run_usage(const struct cp_options *o)
{
    return list_run(o, list_each_usage);
}

int cp_run_log(const struct cp_options *o)
{
    return list_run(o, list_each_log);
}
