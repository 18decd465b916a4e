/* SPDX-License-Identifier: Apache-2.0 */
/* What is sold in the marketplace, who bought it, and which contract that became. An application is what a
 * customer deployed; each time that it is bought is a purchase, whose usage is billed to its own
 * resourceUsageId. All in a transaction, but for those that say otherwise. */
#ifndef CP_PURCHASES_H
#define CP_PURCHASES_H

#include "common/application.h"
#include "controlplane/store/billing.h"
#include "controlplane/store/store.h"

#define CP_SOURCE_MAX 360 /* PUBLISHER/PRODUCT/PLAN, or the id of an application definition */
#define CP_USAGE_ID_MAX 64
#define CP_EVENT_MAX 48
#define CP_PROBLEM_MAX 240

/* Terms of the contracts that a plan is sold with. */
struct cp_offer {
    char offer_id[TB_ID_MAX + 1];
    char source[CP_SOURCE_MAX + 1]; /* lower case */
    char asset_id[TB_ID_MAX + 1];
    uint64_t version;
    enum cp_mode mode;
    uint64_t lease_seconds, max_hw, slot_ttl_s, created_us;
    char dimensions[CP_DIMENSIONS_MAX]; /* that the control plane bills; "": it does not */
};

enum cp_application_state {
    CP_APPLICATION_NEW,     /* nothing is decided */
    CP_APPLICATION_GRANTED, /* it has its contract */
    CP_APPLICATION_ENDED,   /* deleted, or its deployment failed */
    CP_APPLICATION_HELD,    /* the provider must do something: `problem` says what */
    _CP_APPLICATION_STATE_MAX
};
extern const char *const cp_application_state_names[_CP_APPLICATION_STATE_MAX];

struct cp_application {
    char application_id[TB_APPLICATION_MAX + 1]; /* lower case, with the slash before it */
    char contract_id[TB_ID_MAX + 1];             /* "": none */
    char source[CP_SOURCE_MAX + 1];
    char resource_usage_id[CP_USAGE_ID_MAX + 1];
    char managed_group[TB_APPLICATION_MAX + 1]; /* where its machines are; "": not known */
    enum cp_application_state state;
    bool succeeded;               /* it was deployed at some time */
    char event[CP_EVENT_MAX + 1]; /* the newest: "PUT Accepted" */
    uint64_t event_us;
    uint64_t check_us; /* when it is to be looked at; 0: not by itself */
    uint64_t tries, missing_us;
    char problem[CP_PROBLEM_MAX + 1];
    uint64_t created_us, updated_us;
};

struct cp_notice {
    char application_id[TB_APPLICATION_MAX + 1];
    char event[CP_EVENT_MAX + 1];
    uint64_t event_us;
    char source[CP_SOURCE_MAX + 1], resource_usage_id[CP_USAGE_ID_MAX + 1]; /* "": it does not say */
    char detail[CP_PROBLEM_MAX + 1];                                        /* of a failure */
};

struct cp_purchase {
    char application_id[TB_APPLICATION_MAX + 1];
    uint64_t number; /* from 1 */
    char contract_id[TB_ID_MAX + 1], source[CP_SOURCE_MAX + 1], resource_usage_id[CP_USAGE_ID_MAX + 1];
    uint64_t from_us, to_us; /* to_us 0: it goes on */
};

/* -EEXIST: another offer has this source. One of the same id is replaced. Applications that waited for it are
 * due. */
int cp_store_put_offer(struct cp_store *s, const struct cp_offer *o, uint64_t now_us);
int cp_store_find_offer(struct cp_store *s, const char *source, struct cp_offer *ret);  /* -ENOENT */
int cp_store_get_offer(struct cp_store *s, const char *offer_id, struct cp_offer *ret); /* -ENOENT */
int cp_store_remove_offer(struct cp_store *s, const char *offer_id);                    /* -ENOENT */
/* At most `limit`, by id, those behind `after`. May stand alone. */
int cp_store_each_offer(struct cp_store *s, const char *after, uint64_t limit,
                        int (*fn)(const struct cp_offer *, void *), void *ctx);

/* Keeps it and makes its application due. One that was here before is counted. *ret_new: it was not. */
int cp_store_take_notice(struct cp_store *s, const struct cp_notice *n, uint64_t now_us, bool *ret_new);
/* The application that is due for the longest time, and makes it due again at again_us, for whoever looks
 * when this one does not come back. -ENOENT: none. */
int cp_store_claim_application(struct cp_store *s, uint64_t now_us, uint64_t again_us,
                               struct cp_application *ret);
int cp_store_get_application(struct cp_store *s, const char *application_id, struct cp_application *ret);
int cp_store_put_application(struct cp_store *s, const struct cp_application *a);
/* The one whose contract this is; when it is nobody's now, the last that had it. -ENOENT. */
int cp_store_get_application_of(struct cp_store *s, const char *contract_id, struct cp_application *ret);
struct cp_application_page {
    const char *contract_id, *state; /* of that one, in that one alone; "": any */
    uint64_t after_us;               /* behind this time of creation and id */
    const char *after;
    uint64_t limit;
};
/* By time of creation. May stand alone. */
int cp_store_each_application(struct cp_store *s, const struct cp_application_page *p,
                              int (*fn)(const struct cp_application *, void *), void *ctx);

/* -ENOENT: it was never bought. */
int cp_store_last_purchase(struct cp_store *s, const char *application_id, struct cp_purchase *ret);
/* From now on usage of the application's contract is of this source and usage id, and is billed to it where
 * the offer says what is billed: a purchase that goes on with the same stays, another ends. */
int cp_store_begin_purchase(struct cp_store *s, const struct cp_application *a, uint64_t now_us);
int cp_store_end_purchase(struct cp_store *s, const char *application_id, uint64_t now_us);
/* Oldest first. May stand alone. */
int cp_store_each_purchase(struct cp_store *s, const char *application_id,
                           int (*fn)(const struct cp_purchase *, void *), void *ctx);

/* The contract waits for the purchase of somebody with this Azure subscription; NULL: for none. Applications
 * that were held are due. */
int cp_store_await_purchase(struct cp_store *s, const char *contract_id, const char *subscription,
                            uint64_t now_us);
/* "" when it waits for none. */
int cp_store_awaited_purchase(struct cp_store *s, const char *contract_id, char ret[static 37]);

#endif
