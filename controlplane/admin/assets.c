/* SPDX-License-Identifier: Apache-2.0 */
/* assets and their versions */
#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "controlplane/admin/call.h"
#include "controlplane/store/places.h"

static int asset_row(const struct cp_asset *a, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_asset(o, a);
        snprintf(l->last, sizeof(l->last), "%s", a->asset_id);
    }
    return r;
}

int cp_admin_asset_list(struct cp_store *s, struct cp_call *c)
{
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after");

    if (r == 0)
        r = cp_listing_begin(c, "assets", &l);
    return r < 0 ? r
                 : cp_listing_end(
                       &l, cp_store_page_assets(s, cp_query_text(c, "after"), l.limit + 1, asset_row, &l));
}

struct asset_picture {
    cJSON *versions;
    uint64_t current;
};

/* The newest first. */
static int asset_add_version(const struct cp_asset *a, void *ctx)
{
    struct asset_picture *p = ctx;
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_InsertItemInArray(p->versions, 0, o))
        return -ENOMEM;
    cp_show_asset(o, a);
    if (a->current)
        p->current = a->version;
    return 0;
}

/* Where else it lies, for the version of that number. */
static int asset_add_copy(uint64_t version, const char *url, void *ctx)
{
    const struct asset_picture *p = ctx;
    char shown[CP_URL_MAX + 1], number[24];
    cJSON *v, *copies;

    snprintf(number, sizeof(number), "%llu", (unsigned long long)version);
    cJSON_ArrayForEach (v, p->versions) {
        if (strcmp(tb_json_member(v, "version")->valuestring, number) != 0) /* as tb_json_add_uint() has it */
            continue;
        copies = cJSON_GetObjectItemCaseSensitive(v, "copies");
        if (!copies)
            copies = cJSON_AddArrayToObject(v, "copies");
        cJSON_AddItemToArray(copies, cJSON_CreateString(tb_url_redact(url, shown, sizeof(shown))));
    }
    return 0;
}

/* The asset as it is now, into o. */
static int asset_show(struct cp_store *s, struct cp_call *c, cJSON *o, uint64_t *ret_current,
                      uint64_t *ret_followers)
{
    struct asset_picture p = {.versions = cJSON_CreateArray()};
    int r = p.versions ? cp_store_each_asset(s, c->arg[0], asset_add_version, &p) : -ENOMEM;

    if (r == 0 && !p.current)
        r = -ENOENT;
    if (r == 0)
        r = cp_store_each_place(s, c->arg[0], asset_add_copy, &p);
    if (r == 0)
        r = cp_store_count_followers(s, c->arg[0], c->now_us, ret_followers);
    if (r < 0) {
        cJSON_Delete(p.versions);
        return r == -ENOENT ? cp_refuse_unknown(c, "asset", c->arg[0]) : r;
    }
    cJSON_AddStringToObject(o, "asset_id", c->arg[0]);
    tb_json_add_uint(o, "current_version", p.current);
    tb_json_add_uint(o, "live_contracts", *ret_followers);
    *ret_current = p.current;
    if (!cJSON_AddItemToObject(o, "versions", p.versions)) {
        cJSON_Delete(p.versions);
        return -ENOMEM;
    }
    return 0;
}

static int asset_answer(struct cp_store *s, struct cp_call *c, uint64_t *ret_current, uint64_t *ret_followers)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    int r;

    if (!tb_asset_id_valid(c->arg[0]))
        return cp_refuse_unknown(c, "asset", c->arg[0]);
    r = asset_show(s, c, o, ret_current, ret_followers);
    if (r < 0)
        return r;
    tb_json_freep(&c->answer);
    c->answer = TAKE_PTR(o);
    c->status = 200;
    return 0;
}

int cp_admin_asset_show(struct cp_store *s, struct cp_call *c)
{
    uint64_t current = 0, followers = 0;
    int r = cp_query_check(c, (const char *const[]){NULL});

    return r < 0 ? r : asset_answer(s, c, &current, &followers);
}

static cJSON *asset_version_fact(uint64_t version)
{
    cJSON *o = cJSON_CreateObject();

    tb_json_add_uint(o, "version", version);
    return o;
}

int cp_admin_asset_promote(struct cp_store *s, struct cp_call *c)
{
    uint64_t version = 0, current, followers;
    int r = cp_body_only(c, "version");

    if (r == 0)
        r = cp_body_uint(c, c->body, "version", 1, TB_JSON_INT_MAX, false, &version);
    if (r == 0 && !version)
        r = cp_refuse_body(c, "member \"version\" is missing");
    if (r == 0)
        r = asset_answer(s, c, &current, &followers);
    if (r < 0)
        return r;
    if (version != current && followers > 0 && !(c->who.scopes & (CP_SCOPE_OWNER | CP_SCOPE_REPLACE))) {
        c->scope_missing = true;
        c->wanted = CP_SCOPE_OWNER | CP_SCOPE_REPLACE;
        return -ECANCELED;
    }
    r = cp_store_promote_asset(s, c->arg[0], version);
    if (r == -ENOENT)
        return cp_refuse(c, 404, "asset_unknown", "asset %s has no version %llu; show it to see them",
                         c->arg[0], (unsigned long long)version);
    if (r == 0)
        r = cp_note(s, c, "asset.promote", c->arg[0], asset_version_fact(current),
                    asset_version_fact(version));
    return r < 0 ? r : asset_answer(s, c, &current, &followers);
}

/* For the log of changes: what tells the versions apart, in lines of so many. */
#define DELETE_LINE_VERSIONS 200

struct asset_obituary {
    struct cp_store *s;
    struct cp_call *c;
    cJSON *versions; /* of the line that is written */
};

static int asset_close_line(struct asset_obituary *o)
{
    cJSON *before = cJSON_CreateObject();

    if (!before || !cJSON_AddItemToObject(before, "versions", o->versions)) {
        cJSON_Delete(before);
        return -ENOMEM;
    }
    o->versions = NULL;
    return cp_note(o->s, o->c, "asset.delete", o->c->arg[0], before, NULL);
}

static int asset_note_deletion(struct asset_obituary *o, const cJSON *versions)
{
    static const char *const facts[] = {"version", "key_id", "sha256_ciphertext"};
    const cJSON *v;
    int r = 0;

    cJSON_ArrayForEach (v, versions) {
        cJSON *row = cJSON_CreateObject();

        if (!o->versions)
            o->versions = cJSON_CreateArray();
        if (!row || !cJSON_AddItemToArray(o->versions, row))
            return -ENOMEM;
        for (size_t i = 0; i < ARRAY_SIZE(facts); i++)
            cJSON_AddItemToObject(row, facts[i], cJSON_Duplicate(tb_json_member(v, facts[i]), true));
        if (cJSON_GetArraySize(o->versions) == DELETE_LINE_VERSIONS)
            r = asset_close_line(o);
        if (r < 0)
            return r;
    }
    return o->versions ? asset_close_line(o) : 0;
}

int cp_admin_asset_delete(struct cp_store *s, struct cp_call *c)
{
    struct asset_obituary o = {.s = s, .c = c};
    uint64_t current = 0, followers = 0;
    int r = asset_answer(s, c, &current, &followers);

    if (r == 0)
        r = cp_store_delete_asset(s, c->arg[0], 0, c->now_us);
    if (r == 0)
        r = asset_note_deletion(&o, tb_json_member(c->answer, "versions"));
    cJSON_Delete(o.versions);
    if (r == -EADDRINUSE)
        return cp_refuse(
            c, 409, "asset_in_use",
            "a contract names asset %s or every asset, or a machine serves it; edit the contract to another "
            "asset first, one that is over too",
            c->arg[0]);
    return r;
}

static int version_refuse_base(struct cp_store *s, struct cp_call *c, uint64_t version)
{
    uint64_t overlay;
    int r = cp_store_find_overlay(s, c->arg[0], version, &overlay);

    return r < 0
               ? r
               : cp_refuse(c, 409, "base_in_use",
                           "version %llu of %s is the base of version %llu, which would not open without it; "
                           "delete that first",
                           (unsigned long long)version, c->arg[0], (unsigned long long)overlay);
}

int cp_admin_version_delete(struct cp_store *s, struct cp_call *c)
{
    uint64_t version, current, followers;
    struct cp_asset a;
    cJSON *before;
    int r;

    if (!tb_asset_id_valid(c->arg[0]) || tb_uint_parse(c->arg[1], 1, TB_JSON_INT_MAX, &version) < 0)
        return cp_refuse_unknown(c, "asset", c->arg[0]);
    r = cp_store_get_asset(s, c->arg[0], version, &a);
    if (r == -ENOENT)
        return cp_refuse(c, 404, "asset_unknown", "asset %s has no version %llu; show it to see them",
                         c->arg[0], (unsigned long long)version);
    if (r == 0)
        r = cp_store_delete_asset(s, c->arg[0], version, c->now_us);
    if (r == -EADDRINUSE)
        return cp_refuse(c, 409, "version_in_use",
                         "version %llu of %s is current, or a contract or machine uses it; promote another, "
                         "or edit the contract",
                         (unsigned long long)version, c->arg[0]);
    if (r == -ENOTEMPTY)
        return version_refuse_base(s, c, version);
    if (r < 0)
        return r;
    before = cJSON_CreateObject();
    cp_show_asset(before, &a);
    r = cp_note(s, c, "asset.delete_version", c->arg[0], before, NULL);
    return r < 0 ? r : asset_answer(s, c, &current, &followers);
}
