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
