/* SPDX-License-Identifier: Apache-2.0 */
/* One call of the administration API on its way. */
#ifndef CP_CALL_H
#define CP_CALL_H

#include "common/buf.h"
#include "common/json.h"
#include "controlplane/access/caller.h"
#include "controlplane/admin/show.h"
#include "controlplane/api/api.h"
#include "controlplane/store/tokens.h"
#include "controlplane/store/usage.h"

#define CP_CALL_ARGS_MAX 2
#define CP_PAGE_DEFAULT 100
#define CP_PAGE_MAX 1000

struct cp_call {
    const struct cp_api *api;
    const struct cp_request *rq;
    enum cp_call_name name;
    char arg[CP_CALL_ARGS_MAX][CP_HW_ID_MAX + 1]; /* the {} of its path */
    struct cp_caller who;
    cJSON *body;               /* an object; an empty one when there was none */
    uint64_t now_us;           /* of the first try */
    struct cp_rewrap *rewraps; /* of kek rewrap, made before the transaction */
    size_t n_rewraps;
    char kek_id[CP_KEK_ID_MAX + 1]; /* the current one; "": the key service does not say */
    /* what is made anew at each try */
    unsigned status;
    cJSON *answer; /* or text, of content_type */
    struct tb_buf text;
    const char *content_type;
    char etag[32];
    bool refused;       /* by call_refuse(): nothing is kept */
    bool scope_missing; /* wanted: these */
    unsigned wanted;
    char why[CP_JWT_ERR_MAX]; /* who calls is not good any more */
    bool replayed;
};

/* Refuses with status, {"error", "message"}. -ECANCELED, which the function of the call returns. */
int cp_refuse(struct cp_call *c, unsigned status, const char *error, const char *fmt, ...) _printf_(4, 5);
/* 400 invalid_request */
#define cp_refuse_body(c, ...) cp_refuse(c, 400, "invalid_request", __VA_ARGS__)
/* 404 of an object. */
int cp_refuse_unknown(struct cp_call *c, const char *noun, const char *id);

/* Whether it is UTF-8. A database may refuse what is not, which would look like its failure. */
bool cp_is_text(const char *s);

/* -- query: 0 or what cp_refuse() said -- */
/* Only these are known. */
#define cp_query_only(c, ...) cp_query_check(c, (const char *const[]){__VA_ARGS__, NULL})
int cp_query_check(struct cp_call *c, const char *const *names);
/* "": it is not there */
const char *cp_query_text(const struct cp_call *c, const char *name);
int cp_query_uint(struct cp_call *c, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                  uint64_t *ret);
/* One of the words, NULL at the end, or "". */
int cp_query_word(struct cp_call *c, const char *name, const char *const *words, const char **ret);
int cp_query_contract(struct cp_call *c, const char **ret);
int cp_query_limit(struct cp_call *c, uint64_t *ret);

/* -- body -- */
#define cp_body_only(c, ...) cp_body_check(c, (c)->body, (const char *const[]){__VA_ARGS__, NULL})
int cp_body_check(struct cp_call *c, const cJSON *o, const char *const *names);
/* *ret stays what it is when the member is not there; null is `none` where that is allowed. */
int cp_body_uint(struct cp_call *c, const cJSON *o, const char *name, uint64_t min, uint64_t max, bool null,
                 uint64_t *ret);
int cp_body_time(struct cp_call *c, const cJSON *o, const char *name, bool null, uint64_t *ret);
/* Strings that name something: what is one, and the words for a message about one that is not. */
struct cp_id_kind {
    bool (*valid)(const char *);
    const char *words;
};
extern const struct cp_id_kind cp_plain_id, cp_asset_ref_id, cp_asset_id, cp_hw_id, cp_any_text;
/* Required unless there is a fallback. */
int cp_body_id(struct cp_call *c, const char *name, const struct cp_id_kind *kind, const char *fallback,
               char *out, size_t room);
/* `mode` of a contract; stays what it is without. */
int cp_body_mode(struct cp_call *c, enum cp_mode *ret);

/* -- answers -- */
/* The object of a 200, or another status. NULL on ENOMEM, which is told at the end. */
cJSON *cp_say(struct cp_call *c, unsigned status);
/* A listing: rows in an array of that name, of which the `limit` + 1st row makes `next`. */
struct cp_listing {
    struct cp_call *c;
    cJSON *array;
    uint64_t limit, n;
    bool more;
    char last[1200]; /* cursor behind the row before */
};
int cp_listing_begin(struct cp_call *c, const char *name, struct cp_listing *ret);
/* The row, or NULL when there is no room for it: the listing stops with *ret. */
cJSON *cp_listing_row(struct cp_listing *l, int *ret);
/* After the rows. r: what the store said. */
int cp_listing_end(struct cp_listing *l, int r);

/* The line of the chain for what was done, in its transaction. before, after: are taken; NULL: none. */
int cp_note(struct cp_store *s, struct cp_call *c, const char *action, const char *object, cJSON *before,
            cJSON *after);

/* -- idempotency.c: answers that were given -- */
/* In the transaction. 1: *c has the answer of then; 0: it is new; -EEXIST: the key was another request's. */
int cp_replay(struct cp_store *s, struct cp_call *c);
int cp_keep(struct cp_store *s, const struct cp_call *c, const char *body);
/* SHA-256 of the key. */
void cp_idempotency_hash(const struct cp_call *c, char out[static CP_SHA256_HEX + 1]);

/* -- keks.c: what takes its time in the key service, before the transaction -- */
/* 0, what cp_refuse() said, or a failure of the store. */
int cp_kek_prepare(struct cp_store *s, struct cp_call *c);
void cp_kek_release(struct cp_call *c);

/* The calls, by cp_calls. 0, what cp_refuse() said, or a failure of the store. */
typedef int cp_call_fn(struct cp_store *s, struct cp_call *c);
cp_call_fn cp_admin_whoami, cp_admin_contract_list, cp_admin_contract_add, cp_admin_contract_show,
    cp_admin_contract_edit, cp_admin_contract_revoke, cp_admin_contract_allow, cp_admin_code_create,
    cp_admin_code_list, cp_admin_code_revoke, cp_admin_machine_list, cp_admin_machine_remove,
    cp_admin_machine_expel, cp_admin_asset_list, cp_admin_asset_show, cp_admin_asset_delete,
    cp_admin_asset_promote, cp_admin_version_delete, cp_admin_billing_show, cp_admin_billing_set,
    cp_admin_billing_end, cp_admin_contract_await, cp_admin_offer_list, cp_admin_offer_show,
    cp_admin_offer_put, cp_admin_offer_remove, cp_admin_purchase_list, cp_admin_purchase_show,
    cp_admin_submitter_show, cp_admin_event_list, cp_admin_event_resolve, cp_admin_usage, cp_admin_kek_list,
    cp_admin_kek_rewrap, cp_admin_token_list, cp_admin_token_create, cp_admin_token_revoke, cp_admin_log_list,
    cp_admin_change_list, cp_admin_change_export, cp_admin_image_list, cp_admin_image_register,
    cp_admin_image_revoke;

#endif
