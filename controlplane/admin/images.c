/* SPDX-License-Identifier: Apache-2.0 */
/* Images of machines: what may be booted, and what may be no more. */
#include <string.h>

#include "controlplane/admin/call.h"
#include "controlplane/attest/image.h"

static int image_show(cJSON *o, const struct cp_image *i)
{
    struct cp_image_values v;

    cJSON_AddStringToObject(o, "image", i->name);
    cJSON_AddStringToObject(o, "version", i->version);
    cJSON_AddStringToObject(o, "state", i->revoked_us ? "revoked" : "valid");
    if (cp_image_values_read(i, &v) == 0)
        cJSON_AddBoolToObject(o, "debug", v.debug);
    cp_show_time(o, "registered_at", i->registered_us);
    cJSON_AddStringToObject(o, "registered_by", i->registered_by);
    cp_show_time(o, "revoked_at", i->revoked_us);
    return cJSON_AddRawToObject(o, "measurements", i->document) ? 0 : -ENOMEM;
}

static int image_row(const struct cp_image *i, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (!o)
        return r;
    snprintf(l->last, sizeof(l->last), "%s@%s", i->name, i->version);
    return image_show(o, i);
}

int cp_admin_image_list(struct cp_store *s, struct cp_call *c)
{
    const char *after = cp_query_text(c, "after"), *at = strchr(after, '@');
    char name[CP_IMAGE_NAME_MAX + 1] = "";
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after");

    if (r == 0 && *after && (!at || (size_t)(at - after) >= sizeof(name)))
        r = cp_refuse_body(c, "the parameter after is not what a page before had as next");
    if (r == 0)
        r = cp_listing_begin(c, "images", &l);
    if (r < 0)
        return r;
    if (at)
        memcpy(name, after, (size_t)(at - after));
    return cp_listing_end(&l, cp_store_page_images(s, name, at ? at + 1 : "", l.limit + 1, image_row, &l));
}

/* The same again is no error, whoever says it: a build that is run once more. */
static int image_register_again(struct cp_store *s, struct cp_call *c, const struct cp_image *i)
{
    struct cp_image was;
    int r = cp_store_get_image(s, i->name, i->version, &was);
    cJSON *o;

    if (r < 0)
        return r;
    if (was.revoked_us)
        return cp_refuse(c, 409, "image_revoked",
                         "image %s@%s was revoked, and stays so; give the image another version", i->name,
                         i->version);
    if (strcmp(was.document, i->document) != 0)
        return cp_refuse(c, 409, "image_exists",
                         "there is another image %s@%s; give this one another version", i->name, i->version);
    o = cp_say(c, 200);
    return image_show(o, &was);
}

int cp_admin_image_register(struct cp_store *s, struct cp_call *c)
{
    struct cp_image i = {.registered_us = c->now_us};
    struct cp_image_values values;
    char err[TB_JSON_ERR_MAX];
    cJSON *facts;
    int r;

    if (cp_image_read(c->body, &i, &values, err) < 0)
        return cp_refuse_body(c, "%s", err);
    snprintf(i.registered_by, sizeof(i.registered_by), "%s", c->who.actor);
    r = cp_store_put_image(s, &i);
    if (r == -EEXIST)
        return image_register_again(s, c, &i);
    if (r == 0)
        r = image_show(cp_say(c, 201), &i);
    if (r < 0)
        return r;
    facts = cJSON_CreateObject();
    (void)image_show(facts, &i);
    return cp_note(s, c, "image.register", i.name, NULL, facts);
}

int cp_admin_image_revoke(struct cp_store *s, struct cp_call *c)
{
    struct cp_image i;
    char reference[2 * sizeof(c->arg[0])];
    cJSON *facts;
    int r = cp_body_check(c, c->body, (const char *const[]){NULL});

    if (r < 0)
        return r;
    snprintf(reference, sizeof(reference), "%s@%s", c->arg[0], c->arg[1]);
    r = cp_store_revoke_image(s, c->arg[0], c->arg[1], c->now_us);
    if (r == 0)
        r = cp_store_get_image(s, c->arg[0], c->arg[1], &i);
    if (r == 0)
        r = image_show(cp_say(c, 200), &i);
    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "image", reference) : r;
    facts = cJSON_CreateObject();
    cJSON_AddStringToObject(facts, "version", i.version);
    cp_show_time(facts, "revoked_at", i.revoked_us);
    return cp_note(s, c, "image.revoke", i.name, NULL, facts);
}
