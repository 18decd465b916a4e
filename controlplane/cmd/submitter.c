/* SPDX-License-Identifier: Apache-2.0 */
/* contract bill; submitter status, events, resolve; and what serve --submit starts. */
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/admin/show.h"
#include "controlplane/cmd/cmd.h"
#include "controlplane/store/billing.h"
#include "controlplane/submitter/ledger.h"
#include "controlplane/submitter/submitter.h"

#define SECRET_MAX 4096

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_contract_bill_options[] = {
    TB_OPTION(0, "resource", "ID", TB_OPTION_STRING, resource,
              "resourceUsageId or ARM id of the customer's managed application"),
    TB_OPTION(0, "plan", "PLAN", TB_OPTION_STRING, plan, "the offer's plan"),
    TB_OPTION(0, "dimensions", "LIST", TB_OPTION_STRING, dimensions,
              "what is billed, and what the offer calls it: requests,tokens=ktok"),
    TB_OPTION(0, "by-machines", NULL, TB_OPTION_FLAG, by_machines,
              "by its machines again; only before any usage was reported"),
    CP_COMMON_ROWS,
};
const struct tb_option cp_submitter_events_options[] = {
    TB_OPTION(0, "all", NULL, TB_OPTION_FLAG, replace, "those that it has accepted, too"),
    CP_JSON_ROW,
    CP_COMMON_ROWS,
};
const struct tb_option cp_submitter_resolve_options[] = {
    TB_OPTION(0, "resource", "ID", TB_OPTION_STRING, resource,
              "of the event, as `submitter events` prints it"),
    TB_OPTION(0, "dimension", "NAME", TB_OPTION_STRING, dimension, "of the event"),
    TB_OPTION(0, "hour", "TIME", TB_OPTION_CALL, hour_us, "of the event", .set = cp_option_time,
              .want = "a time like 2026-12-31T07:00:00Z"),
    TB_OPTION(0, "verdict", "WORD", TB_OPTION_STRING, verdict,
              "accepted: the marketplace has it; missing: it has not, and is told again"),
    CP_COMMON_ROWS,
};

/* -- terms ------------------------------------------------------------------------------------- */
struct bill {
    const struct cp_options *o;
    struct cp_billing b;
};

static int bill_put(struct cp_store *s, void *ctx)
{
    struct bill *x = ctx;
    struct cp_contract c;
    char actor[64];
    uint64_t now = tb_now_realtime_us();
    int r = cp_store_get_contract(s, x->o->operand, now, &c);

    if (r == 0)
        r = x->o->by_machines ? cp_store_remove_billing(s, x->o->operand)
                              : cp_store_put_billing(s, &x->b, now);
    if (r < 0)
        return r;
    return cp_change(s, now, cp_actor(actor), "contract.bill", x->o->operand, "by",
                     x->o->by_machines ? "machines" : "control_plane", "resource",
                     *x->b.resource ? x->b.resource : NULL, "plan", *x->b.plan ? x->b.plan : NULL,
                     "dimensions", *x->b.dimensions ? x->b.dimensions : NULL);
}

static int bill_check(const struct cp_options *o, struct cp_billing *b)
{
    struct cp_dimension d[TB_USAGE_DIMENSIONS];
    size_t n;

    if (o->by_machines)
        return o->resource || o->plan || o->dimensions
                   ? cp_fail(o, TB_EXIT_USAGE, "--by-machines stands alone")
                   : 0;
    if (!o->plan || !o->dimensions)
        return cp_fail(o, TB_EXIT_USAGE, "--plan and --dimensions are missing");
    if (!tb_id_valid(o->plan))
        return cp_fail(o, TB_EXIT_USAGE, "--plan \"%s\" is not the id of a plan", o->plan);
    if (o->resource && !cp_billing_resource_valid(o->resource))
        return cp_fail(o, TB_EXIT_USAGE, "--resource \"%s\" is neither a resourceUsageId nor an ARM id",
                       o->resource);
    if (cp_dimensions_parse(o->dimensions, d, &n) < 0)
        return cp_fail(
            o, TB_EXIT_USAGE,
            "--dimensions \"%s\" is not a list like requests,tokens=ktok of requests, prompt_tokens, "
            "completion_tokens, cached_tokens, tokens, bytes, gb_transferred",
            o->dimensions);
    snprintf(b->contract_id, sizeof(b->contract_id), "%s", o->operand);
    snprintf(b->resource, sizeof(b->resource), "%s", o->resource ? o->resource : "");
    snprintf(b->plan, sizeof(b->plan), "%s", o->plan);
    snprintf(b->dimensions, sizeof(b->dimensions), "%s", o->dimensions);
    return 0;
}

static int bill_show(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct cp_billing b = {0};
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_get_billing(s, o->operand, &b);
    if (r < 0 && r != -ENOENT)
        return cp_fail_store(o, s, r);
    if (r == -ENOENT)
        printf("%s is billed by its machines, if at all\n", o->operand);
    else
        printf("%s is billed here: resource %s, plan %s, dimensions %s\n", o->operand,
               *b.resource ? b.resource : "not known yet", b.plan, b.dimensions);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

int cp_run_contract_bill(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct bill x = {.o = o};
    int r;

    if (!o->by_machines && !o->resource && !o->plan && !o->dimensions)
        return bill_show(o);
    r = bill_check(o, &x.b);

    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, bill_put, &x);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no contract %s%s", o->operand,
                       o->by_machines ? " that is billed here" : "; `contract list` names them");
    if (r == -EBUSY && o->by_machines)
        return cp_fail(o, TB_EXIT_USAGE, "usage of %s was reported already; make a new contract", o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

/* -- how it goes ------------------------------------------------------------------------------- */
static int status_print_json(const struct cp_billing_summary *u, uint64_t now)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;

    cp_show_submitter(o, u, now);
    text = cJSON_PrintUnformatted(o);
    return text && puts(text) >= 0 && fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

static int status_print(const struct cp_billing_summary *u, uint64_t now)
{
    char when[TB_RFC3339_MAX], span[TB_SPAN_MAX];

    if (!u->term) {
        printf("No server has reported usage yet; start one with --submit.\n");
    } else {
        printf("Server     %s, since %s (term %llu)\n", u->owner, tb_rfc3339_format(u->since_us, 0, when),
               (unsigned long long)u->term);
        printf("Last seen  %s ago\n", tb_span_format(now > u->seen_us ? now - u->seen_us : 0, span));
    }
    printf(
        "Events     %llu open, %llu to send, %llu sent and not answered, %llu accepted, %llu parked (%llu in "
        "doubt)\n",
        (unsigned long long)u->open, (unsigned long long)u->frozen, (unsigned long long)u->sent,
        (unsigned long long)u->accepted, (unsigned long long)u->parked, (unsigned long long)u->doubt);
    if (u->oldest >= 0)
        printf("Oldest     usage of %s is not accepted yet\n", tb_metering_hour_text(u->oldest, when));
    if (u->without_resource)
        printf("Held       usage of %llu machines: the resource of their contracts is not known\n",
               (unsigned long long)u->without_resource);
    if (u->self_billing)
        printf("Attention  %llu machines bill by themselves though their contracts are billed here\n",
               (unsigned long long)u->self_billing);
    if (u->ended)
        printf("Ended      the subscriptions of %llu resources\n", (unsigned long long)u->ended);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

int cp_run_submitter_status(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct cp_billing_summary u;
    uint64_t now = tb_now_realtime_us();
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_summarise_billing(s, &u);
    if (r < 0)
        return cp_fail_store(o, s, r);
    return o->json ? status_print_json(&u, now) : status_print(&u, now);
}

/* -- events ------------------------------------------------------------------------------------ */
static int event_add_json(const struct cp_event_row *w, void *ctx)
{
    cJSON *o = cJSON_CreateObject();

    cp_show_event(o, w);
    return cJSON_AddItemToArray(ctx, o) ? 0 : -ENOMEM;
}

static int event_print(const struct cp_event_row *w, void *ctx)
{
    bool doubt = w->e.parked && w->e.doubt;
    char text[TB_RFC3339_MAX];

    printf("%-20s  %-18s %20lld  %-8s  %s%s%s%s\n", tb_metering_hour_text(w->e.hour, text), w->e.dimension,
           (long long)w->e.quantity, w->state, w->e.resource, *w->reason || doubt ? "  " : "",
           doubt ? "IN DOUBT: " : "", w->reason);
    return 0;
}

int cp_run_submitter_events(const struct cp_options *o)
{
    struct cp_event_page page = {CP_EVENT_PAGE_FIRST, .limit = CP_STORE_LOG_MAX};
    _cleanup_json_ cJSON *list = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_free_ char *text = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    if (!list)
        printf("%-20s  %-18s %20s  %-8s  %s\n", "HOUR (UTC)", "DIMENSION", "QUANTITY", "STATE", "RESOURCE");
    page.unaccepted = !o->replace;
    r = cp_store_each_event(s, &page, list ? event_add_json : event_print, list);
    if (r < 0)
        return cp_fail_store(o, s, r);
    text = list ? cJSON_PrintUnformatted(list) : NULL;
    if (list && (!text || puts(text) < 0))
        return TB_EXIT_IOERR;
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

static int event_resolve(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    int64_t hour = tb_metering_hour(o->hour_us);
    char actor[64], text[TB_RFC3339_MAX];
    int r = cp_store_resolve_event(s, o->resource, o->dimension, hour, strcmp(o->verdict, "accepted") == 0);

    return r < 0 ? r
                 : cp_change(s, tb_now_realtime_us(), cp_actor(actor), "submitter.resolve", o->resource,
                             "dimension", o->dimension, "hour", tb_metering_hour_text(hour, text), "verdict",
                             o->verdict);
}

int cp_run_submitter_resolve(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r;

    if (!o->resource || !o->dimension || !o->hour_us || !o->verdict)
        return cp_fail(o, TB_EXIT_USAGE, "--resource, --dimension, --hour and --verdict are needed");
    if (strcmp(o->verdict, "accepted") != 0 && strcmp(o->verdict, "missing") != 0)
        return cp_fail(o, TB_EXIT_USAGE, "--verdict: accepted or missing, not '%s'", o->verdict);
    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, event_resolve, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT,
                       "there is no parked event in doubt of this resource, dimension and hour; `submitter "
                       "events` prints them");
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

/* -- serve ------------------------------------------------------------------------------------- */
static int submit_read_secret(const struct cp_options *o, char **ret)
{
    _cleanup_erase_string_ char *text = NULL;
    int r = tb_read_file(o->metering_secret_file, SECRET_MAX, &text, NULL);

    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read the metering secret file %s: %s",
                       o->metering_secret_file, strerror(-r));
    text[strcspn(text, "\r\n")] = '\0';
    *ret = tb_secret_alloc(strlen(text) + 1);
    if (!*ret)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    strcpy(*ret, text);
    return **ret
               ? 0
               : cp_fail(o, TB_EXIT_CONFIG, "the metering secret file %s is empty", o->metering_secret_file);
}

int cp_start_submitter(const struct cp_options *o, const struct cp_place *place, char **ret_secret,
                       struct cp_submitter **ret)
{
    const char *authority = getenv("AZURE_AUTHORITY_HOST");
    struct cp_submitter_settings s = {
        .marketplace = {.url = o->metering ? o->metering : CP_MARKETPLACE_DEFAULT,
                        .authority = authority && *authority ? authority : TB_AZURE_AUTHORITY,
                        .tenant = o->metering_tenant,
                        .client_id = o->metering_client_id},
        .interval_us =
            (o->submit_interval_s ? o->submit_interval_s : CP_SUBMITTER_INTERVAL_S) * TB_USEC_PER_SEC,
        .grace_us = o->submit_after_s ? o->submit_after_s * TB_USEC_PER_SEC : CP_SUBMITTER_GRACE_US};
    char err[CP_MARKETPLACE_ERR_MAX];
    int r;

    if (!o->submit)
        return 0;
    if (!o->metering_tenant != !o->metering_secret_file || (o->metering_tenant && !o->metering_client_id))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--metering-tenant, --metering-client-id and --metering-secret-file go together");
    r = o->metering_secret_file ? submit_read_secret(o, ret_secret) : 0;
    if (r != 0)
        return r;
    s.marketplace.secret = *ret_secret;
    r = cp_submitter_start(place, &s, ret, err);
    return r < 0 ? cp_fail(o, r == -EINVAL ? TB_EXIT_USAGE : TB_EXIT_CONFIG, "--metering: %s", err) : 0;
}
