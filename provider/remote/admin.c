/* SPDX-License-Identifier: Apache-2.0 */
/* The admin API: paths, listings with their pages, changes. */
#include <errno.h>
#include <string.h>

#include "common/buf.h"
#include "common/io.h"
#include "common/json.h"
#include "common/percent.h"
#include "common/near.h"
#include "provider/remote/remote.h"

#define PAGES_MAX 10000 /* a server whose pages do not end */

static void admin_put_encoded(struct tb_buf *b, const char *s)
{
    for (; *s; s++) {
        char out[TB_PERCENT_CHAR_MAX];

        tb_buf_append(b, out, tb_percent_encode_char(*s, "", out));
    }
}

static char *admin_take_text(struct tb_buf *b)
{
    char *s;

    tb_buf_append(b, "", 1);
    if (tb_buf_error(b) < 0)
        return NULL;
    s = b->data;
    *b = (struct tb_buf){0};
    return s;
}

char *remote_path_of(const char *const *segments)
{
    _cleanup_buf_ struct tb_buf b = {0};

    for (size_t i = 0; segments[i]; i++) {
        tb_buf_puts(&b, i > 0 ? "/" : "");
        admin_put_encoded(&b, segments[i]);
    }
    return admin_take_text(&b);
}

char *remote_query(char *path, const char *name, const char *value)
{
    _cleanup_free_ char *old = path;
    _cleanup_buf_ struct tb_buf b = {0};

    if (!path || !value)
        return TAKE_PTR(old);
    tb_buf_puts(&b, path);
    tb_buf_puts(&b, strchr(path, '?') ? "&" : "?");
    tb_buf_puts(&b, name);
    tb_buf_puts(&b, "=");
    admin_put_encoded(&b, value);
    return admin_take_text(&b);
}

/* -- calls ------------------------------------------------------------------------------------- */

int remote_no_token(const struct remote *r)
{
    return tbpkg_fail_as(CLI_DENIED, r->base, "there is no token for it",
                         "run tbpkg login, or give --token-file; an owner makes tokens by tbpkg token add");
}

static int admin_exchange(const struct remote *r, const char *method, const char *path, const char *body,
                          struct tb_http_response *ret)
{
    _cleanup_free_ char *full = path ? tb_strf(REMOTE_ADMIN "%s", path) : NULL;
    const struct remote_call call = {.method = method,
                                     .path = full,
                                     .body = body,
                                     .body_len = body ? strlen(body) : 0,
                                     .answer_max = REMOTE_ANSWER_MAX,
                                     .change = method};

    if (!full)
        return tbpkg_fail_errno(r->base, -ENOMEM);
    if (!r->authorization && !r->cert)
        return remote_no_token(r);
    return remote_exchange(r, &call, ret);
}

static bool admin_succeeded(const struct tb_http_response *rs)
{
    return rs->status == 200 || rs->status == 201;
}

static int admin_parse(const struct remote *r, const struct remote_object *object,
                       const struct tb_http_response *rs, cJSON **ret)
{
    char why[TB_JSON_ERR_MAX];

    if (!admin_succeeded(rs))
        return remote_refused(r, object, rs);
    if (tb_json_parse(rs->body, rs->len, REMOTE_ANSWER_MAX, ret, why) < 0)
        return tbpkg_failf(r->base,
                           "answered %ld, but not with JSON (%s); is --edc-endpoint a control plane?",
                           rs->status, why);
    return CLI_OK;
}

int remote_get(const struct remote *r, const char *path, const struct remote_object *object, cJSON **ret)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    int rc = admin_exchange(r, NULL, path, NULL, &rs);

    return rc == CLI_OK ? admin_parse(r, object, &rs, ret) : rc;
}

int remote_get_text(const struct remote *r, const char *path, struct tb_http_response *ret)
{
    int rc = admin_exchange(r, NULL, path, NULL, ret);

    if (rc == CLI_OK && !admin_succeeded(ret))
        rc = remote_refused(r, &(struct remote_object){0}, ret);
    return rc;
}

int remote_change(const struct remote *r, const char *method, const char *path, const cJSON *body,
                  const struct remote_object *object, cJSON **ret)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_free_ char *text = body ? cJSON_PrintUnformatted(body) : NULL;
    int rc;

    if (body && !text)
        return tbpkg_fail_errno(r->base, -ENOMEM);
    rc = admin_exchange(r, method, path, text, &rs);
    return rc == CLI_OK ? admin_parse(r, object, &rs, ret) : rc;
}

/* Moves the rows of a page behind those that are there. */
static int admin_add_page(cJSON *all, cJSON *page, const char *member, char **ret_next)
{
    cJSON *rows = (cJSON *)tb_json_member(page, member), *row;
    const cJSON *next = tb_json_member(page, "next");

    if (!cJSON_IsArray(rows))
        return -EBADMSG;
    while ((row = cJSON_DetachItemFromArray(rows, 0)))
        if (!cJSON_AddItemToArray(all, row)) {
            cJSON_Delete(row);
            return -ENOMEM;
        }
    tb_freep(ret_next);
    if (!cJSON_IsString(next) || !*next->valuestring)
        return 0;
    *ret_next = strdup(next->valuestring);
    return *ret_next ? 0 : -ENOMEM;
}

int remote_list(const struct remote *r, const char *path, const char *member, cJSON **ret)
{
    _cleanup_json_ cJSON *all = cJSON_CreateObject();
    _cleanup_free_ char *next = NULL;
    cJSON *rows = cJSON_AddArrayToObject(all, member);

    for (unsigned i = 0; i < PAGES_MAX && (i == 0 || next); i++) {
        _cleanup_free_ char *page_path = remote_query(path ? strdup(path) : NULL, "limit", "1000");
        _cleanup_json_ cJSON *page = NULL;
        int rc, e;

        page_path = remote_query(page_path, "after", next);
        rc = remote_get(r, page_path, &(struct remote_object){0}, &page);
        if (rc != CLI_OK)
            return rc;
        e = admin_add_page(rows, page, member, &next);
        if (e == -EBADMSG)
            return tbpkg_failf(r->base, "answered without '%s'; is --edc-endpoint a control plane?", member);
        if (e < 0)
            return tbpkg_fail_errno(r->base, e);
    }
    *ret = TAKE_PTR(all);
    return CLI_OK;
}

/* -- near names -------------------------------------------------------------------------------- */

static const struct {
    const char *kind, *path, *member, *id;
} admin_kinds[] = {
    {"contract", "contracts", "contracts", "contract_id"},
    {"machine", "machines", "machines", "hw_id"},
    {"asset", "assets", "assets", "asset_id"},
    {"token", "tokens", "tokens", "name"},
    {"offer", "offers", "offers", "offer_id"},
    {"purchase", "purchases", "purchases", "purchase_id"},
};

/* One page is enough for a hint, and nothing is said when it may not be read. */
char *remote_near(const struct remote *r, const struct remote_object *object)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_json_ cJSON *page = NULL;
    _cleanup_free_ char *path = NULL;
    char why[TB_JSON_ERR_MAX];
    const cJSON *row;
    size_t k = 0;

    while (k < ARRAY_SIZE(admin_kinds) && (!object->kind || strcmp(admin_kinds[k].kind, object->kind) != 0))
        k++;
    if (k == ARRAY_SIZE(admin_kinds) || !object->name)
        return NULL;
    path = remote_query(strdup(admin_kinds[k].path), "limit", "1000");
    path = remote_query(path, "contract_id", object->contract);
    if (admin_exchange(r, NULL, path, NULL, &rs) != CLI_OK || !admin_succeeded(&rs) ||
        tb_json_parse(rs.body, rs.len, REMOTE_ANSWER_MAX, &page, why) < 0)
        return NULL;
    cJSON_ArrayForEach (row, tb_json_member(page, admin_kinds[k].member)) {
        const char *name = NULL;

        if (tb_json_get_string(row, admin_kinds[k].id, &name, why) == 0 && tb_near(object->name, name))
            return strdup(name);
    }
    return NULL;
}
