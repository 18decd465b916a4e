/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/admin/show.h"

#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "controlplane/access/caller.h"

void cp_show_time(cJSON *o, const char *name, uint64_t us)
{
    char text[TB_RFC3339_MAX];

    if (us)
        cJSON_AddStringToObject(o, name, tb_rfc3339_format(us, 0, text));
}

static void show_number(cJSON *o, const char *name, uint64_t n)
{
    if (n)
        tb_json_add_uint(o, name, n);
}

void cp_show_contract(cJSON *o, const struct cp_contract *c, uint64_t now_us, bool whole)
{
    cJSON_AddStringToObject(o, "contract_id", c->contract_id);
    cJSON_AddStringToObject(o, "asset_id", c->asset_id);
    show_number(o, "version", c->version);
    cJSON_AddStringToObject(o, "mode", cp_mode_names[c->mode]);
    cJSON_AddStringToObject(o, "state", cp_contract_state(c, now_us));
    cJSON_AddStringToObject(o, "reason", c->reason);
    cp_show_time(o, "expires_at", c->expires_us);
    tb_json_add_uint(o, "lease_seconds", c->lease_seconds);
    show_number(o, "max_hw", c->max_hw);
    tb_json_add_uint(o, "slot_ttl_seconds", c->slot_ttl_s);
    tb_json_add_uint(o, "machines", c->hw_used);
    if (whole && *c->client_ca)
        cJSON_AddStringToObject(o, "client_ca", c->client_ca);
    if (*c->attest)
        cJSON_AddRawToObject(o, "attest", c->attest);
    cp_show_time(o, "created_at", c->created_us);
    cp_show_time(o, "updated_at", c->updated_us);
}

static void show_attested(cJSON *o, const struct cp_machine *m)
{
    cJSON *a = *m->attested_level ? cJSON_AddObjectToObject(o, "attested") : NULL;

    if (!a)
        return;
    cJSON_AddStringToObject(a, "level", m->attested_level);
    if (*m->attested_image) {
        cJSON_AddStringToObject(a, "image", m->attested_image);
        cJSON_AddStringToObject(a, "version", m->attested_version);
    }
    cp_show_time(a, "at", m->attested_us);
}

static void show_proved(cJSON *o, const struct cp_machine *m)
{
    cJSON *p = m->proved_us ? cJSON_AddObjectToObject(o, "proved") : NULL;

    if (!p)
        return;
    cp_show_time(p, "at", m->proved_us);
    tb_json_add_uint(p, "holds", m->proved_holds);
    tb_json_add_uint(p, "broken", m->proved_broken);
    tb_json_add_uint(p, "not_checked", m->proved_not_checked);
    if (*m->proved_first_broken)
        cJSON_AddStringToObject(p, "first_broken", m->proved_first_broken);
}

void cp_show_machine(cJSON *o, const struct cp_machine *m, uint64_t now_us)
{
    cJSON_AddStringToObject(o, "contract_id", m->contract_id);
    cJSON_AddStringToObject(o, "hw_id", m->hw_id);
    cJSON_AddStringToObject(o, "state", cp_machine_state(m, now_us));
    cJSON_AddBoolToObject(o, "enrolled", *m->identity != '\0');
    cp_show_time(o, "first_seen", m->first_us);
    cp_show_time(o, "last_seen", m->last_us);
    cp_show_time(o, "slot_until", m->slot_until_us);
    cp_show_time(o, "expelled_at", m->expelled_us);
    show_attested(o, m);
    show_proved(o, m);
}

void cp_show_asset(cJSON *o, const struct cp_asset *a)
{
    char url[CP_URL_MAX + 1];

    cJSON_AddStringToObject(o, "asset_id", a->asset_id);
    tb_json_add_uint(o, "version", a->version);
    cJSON_AddBoolToObject(o, "current", a->current);
    cJSON_AddStringToObject(o, "ciphertext_url", tb_url_redact(a->ciphertext_url, url, sizeof(url)));
    cJSON_AddStringToObject(o, "manifest_url", tb_url_redact(a->manifest_url, url, sizeof(url)));
    tb_json_add_uint(o, "chunk_bytes", a->chunk_bytes);
    tb_json_add_uint(o, "plaintext_bytes", a->plaintext_bytes);
    cJSON_AddStringToObject(o, "sha256_ciphertext", a->sha256_ciphertext);
    if (*a->manifest_sha256)
        cJSON_AddStringToObject(o, "manifest_sha256", a->manifest_sha256);
    cJSON_AddStringToObject(o, "key_id", a->key_id);
    if (a->base_version)
        tb_json_add_uint(o, "base_version", a->base_version);
    cp_show_time(o, "registered_at", a->registered_us);
    cp_show_time(o, "updated_at", a->updated_us);
}

void cp_show_scopes(cJSON *o, const char *scopes)
{
    cJSON *a = cJSON_AddArrayToObject(o, "scopes");

    for (scopes += strspn(scopes, " "); *scopes; scopes += strspn(scopes, " ")) {
        size_t n = strcspn(scopes, " ");
        char word[CP_SCOPES_TEXT_MAX];

        snprintf(word, sizeof(word), "%.*s", (int)n, scopes);
        cJSON_AddItemToArray(a, cJSON_CreateString(word));
        scopes += n;
    }
}

void cp_show_token(cJSON *o, const struct cp_token *t, uint64_t now_us)
{
    cJSON_AddStringToObject(o, "name", t->name);
    cp_show_scopes(o, t->scopes);
    cJSON_AddStringToObject(o, "state", cp_token_state(t, now_us));
    cp_show_time(o, "created_at", t->created_us);
    cJSON_AddStringToObject(o, "created_by", t->created_by);
    cp_show_time(o, "expires_at", t->expires_us);
    cp_show_time(o, "last_used_at", t->last_used_us);
    cp_show_time(o, "revoked_at", t->revoked_us);
}

void cp_show_code(cJSON *o, const struct cp_code *k)
{
    char id[CP_CODE_ID_CHARS + 1];

    snprintf(id, sizeof(id), "%.*s", CP_CODE_ID_CHARS, k->code_sha256);
    cJSON_AddStringToObject(o, "code_id", id);
    cJSON_AddStringToObject(o, "contract_id", k->contract_id);
    tb_json_add_uint(o, "uses_left", k->uses_left);
    cp_show_time(o, "expires_at", k->expires_us);
    cp_show_time(o, "created_at", k->created_us);
}

void cp_show_verdict(cJSON *o, const struct cp_log_entry *e)
{
    char at[TB_RFC3339_MAX];

    cJSON_AddStringToObject(o, "at", tb_rfc3339_format(e->at_us, 1, at));
    cJSON_AddStringToObject(o, "status", e->authorized ? "authorized" : "denied");
    cJSON_AddStringToObject(o, "reason", e->reason);
    cJSON_AddStringToObject(o, "contract_id", e->contract_id);
    cJSON_AddStringToObject(o, "asset_id", e->asset_id);
    show_number(o, "version", e->version);
    cJSON_AddStringToObject(o, "hw_id", e->hw_id);
    cJSON_AddStringToObject(o, "peer", e->peer);
    cJSON_AddStringToObject(o, "client_name", e->client_name);
}

/* -- who pays for what -------------------------------------------------------------------------- */
static void show_text(cJSON *o, const char *name, const char *text)
{
    if (*text)
        cJSON_AddStringToObject(o, name, text);
}

void cp_show_billing(cJSON *o, const char *contract_id, const struct cp_billing *b)
{
    cJSON_AddStringToObject(o, "contract_id", contract_id);
    cJSON_AddStringToObject(o, "by", b ? "control_plane" : "machines");
    if (!b)
        return;
    show_text(o, "resource", b->resource);
    cJSON_AddStringToObject(o, "plan", b->plan);
    cJSON_AddStringToObject(o, "dimensions", b->dimensions);
    cp_show_time(o, "updated_at", b->updated_us);
}

void cp_show_offer(cJSON *o, const struct cp_offer *f)
{
    cJSON_AddStringToObject(o, "offer_id", f->offer_id);
    cJSON_AddStringToObject(o, "source", f->source);
    cJSON_AddStringToObject(o, "asset_id", f->asset_id);
    show_number(o, "version", f->version);
    cJSON_AddStringToObject(o, "mode", cp_mode_names[f->mode]);
    tb_json_add_uint(o, "lease_seconds", f->lease_seconds);
    show_number(o, "max_hw", f->max_hw);
    tb_json_add_uint(o, "slot_ttl_seconds", f->slot_ttl_s);
    show_text(o, "dimensions", f->dimensions);
    cp_show_time(o, "created_at", f->created_us);
}

void cp_show_application(cJSON *o, const struct cp_application *a)
{
    char own[TB_APPLICATION_CONTRACT_MAX + 1] = "";

    (void)tb_application_contract(a->application_id, own);
    cJSON_AddStringToObject(o, "purchase_id", own);
    cJSON_AddStringToObject(o, "application_id", a->application_id);
    cJSON_AddStringToObject(o, "state", cp_application_state_names[a->state]);
    cJSON_AddStringToObject(o, "contract_id", a->contract_id);
    cJSON_AddStringToObject(o, "source", a->source);
    cJSON_AddStringToObject(o, "resource_usage_id", a->resource_usage_id);
    cJSON_AddStringToObject(o, "managed_group", a->managed_group);
    cJSON_AddStringToObject(o, "event", a->event);
    show_text(o, "problem", a->problem);
    cp_show_time(o, "created_at", a->created_us);
    cp_show_time(o, "updated_at", a->updated_us);
}

void cp_show_purchase(cJSON *o, const struct cp_purchase *p)
{
    tb_json_add_uint(o, "number", p->number);
    cJSON_AddStringToObject(o, "contract_id", p->contract_id);
    cJSON_AddStringToObject(o, "source", p->source);
    cJSON_AddStringToObject(o, "resource_usage_id", p->resource_usage_id);
    cp_show_time(o, "from", p->from_us);
    cp_show_time(o, "to", p->to_us);
}

void cp_show_event(cJSON *o, const struct cp_event_row *w)
{
    char text[TB_RFC3339_MAX];

    cJSON_AddStringToObject(o, "resource", w->e.resource);
    cJSON_AddStringToObject(o, "plan", w->e.plan);
    cJSON_AddStringToObject(o, "dimension", w->e.dimension);
    cJSON_AddStringToObject(o, "hour", tb_metering_hour_text(w->e.hour, text));
    tb_json_add_uint(o, "quantity", (uint64_t)w->e.quantity);
    tb_json_add_uint(o, "unit", w->e.unit);
    cJSON_AddStringToObject(o, "state", w->state);
    cJSON_AddBoolToObject(o, "doubt", w->e.doubt);
    cJSON_AddStringToObject(o, "since", tb_metering_hour_text(w->e.since, text));
    tb_json_add_uint(o, "tries", w->tries);
    if (w->accepted >= 0)
        tb_json_add_uint(o, "accepted", (uint64_t)w->accepted);
    show_text(o, "reason", w->reason);
}

void cp_show_submitter(cJSON *o, const struct cp_billing_summary *u, uint64_t now_us)
{
    char when[TB_RFC3339_MAX];

    if (u->term) {
        cJSON_AddStringToObject(o, "server", u->owner);
        cp_show_time(o, "since", u->since_us);
        cp_show_time(o, "seen_at", u->seen_us);
    }
    tb_json_add_uint(o, "term", u->term);
    tb_json_add_uint(o, "open", u->open);
    tb_json_add_uint(o, "frozen", u->frozen);
    tb_json_add_uint(o, "sent", u->sent);
    tb_json_add_uint(o, "accepted", u->accepted);
    tb_json_add_uint(o, "parked", u->parked);
    tb_json_add_uint(o, "in_doubt", u->doubt);
    if (u->oldest >= 0)
        cJSON_AddStringToObject(o, "oldest_unaccepted", tb_metering_hour_text(u->oldest, when));
    tb_json_add_uint(o, "late_seconds", tb_metering_age_us(u->oldest, now_us) / TB_USEC_PER_SEC);
    tb_json_add_uint(o, "held_without_resource", u->without_resource);
    tb_json_add_uint(o, "self_billing", u->self_billing);
    tb_json_add_uint(o, "ended_resources", u->ended);
}
