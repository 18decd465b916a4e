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
    cp_show_time(o, "created_at", c->created_us);
    cp_show_time(o, "updated_at", c->updated_us);
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
