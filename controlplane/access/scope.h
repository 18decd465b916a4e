/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller may do, and which scopes each call asks for: docs/controlplane.openapi.yaml has the same
 * table as `x-scopes`, and a test compares them (`tb-controlplane token scopes`). */
#ifndef CP_SCOPE_H
#define CP_SCOPE_H

#include "controlplane/store/tokens.h"

enum cp_scope {
    CP_SCOPE_OWNER = 1 << 0,
    CP_SCOPE_PUBLISHER = 1 << 1,
    CP_SCOPE_SUPPORT = 1 << 2,
    CP_SCOPE_AUDITOR = 1 << 3,
    CP_SCOPE_REPLACE = 1 << 4, /* key or contents that live contracts use; beside publisher */
    CP_SCOPE_BILLING = 1 << 5, /* who pays for what: offers, purchases, terms, the submitter's events */
    CP_SCOPE_KEYS = 1 << 6,    /* key-encryption keys */
};
#define CP_SCOPES_N 7
#define CP_SCOPES_ALL ((1U << CP_SCOPES_N) - 1)
extern const char *const cp_scope_names[CP_SCOPES_N];
#define CP_SCOPES_WORDS "owner, publisher, support, auditor, replace, billing or keys"

/* Words with white space between. -EINVAL: one is no scope, or there is none. */
int cp_scopes_parse(const char *words, unsigned *ret);
const char *cp_scopes_text(unsigned scopes, char out[static CP_SCOPES_TEXT_MAX]);

#define CP_ADMIN "/api/v1/admin"
#define CP_CALL_SCOPES_WRITE (CP_SCOPE_OWNER | CP_SCOPE_SUPPORT)
#define CP_CALL_SCOPES_READ (CP_SCOPE_OWNER | CP_SCOPE_SUPPORT | CP_SCOPE_AUDITOR)
#define CP_CALL_SCOPES_ASSETS (CP_SCOPE_OWNER | CP_SCOPE_PUBLISHER)
#define CP_CALL_SCOPES_AUDIT (CP_SCOPE_OWNER | CP_SCOPE_AUDITOR)
#define CP_CALL_SCOPES_BILL (CP_SCOPE_OWNER | CP_SCOPE_BILLING)
#define CP_CALL_SCOPES_ACCOUNTS (CP_CALL_SCOPES_READ | CP_SCOPE_BILLING)

/* X(NAME, operation, method, path, scopes). In a path {} is one component. */
#define CP_CALLS(X)                                                                                          \
    X(REGISTER, "registerAsset", "POST", "/api/v1/assets/register", CP_CALL_SCOPES_ASSETS)                   \
    X(WHOAMI, "whoami", "GET", CP_ADMIN "/whoami", CP_SCOPES_ALL)                                            \
    X(CONTRACT_LIST, "listContracts", "GET", CP_ADMIN "/contracts", CP_CALL_SCOPES_ACCOUNTS)                 \
    X(CONTRACT_ADD, "addContract", "POST", CP_ADMIN "/contracts", CP_CALL_SCOPES_WRITE)                      \
    X(CONTRACT_SHOW, "showContract", "GET", CP_ADMIN "/contracts/{}", CP_CALL_SCOPES_ACCOUNTS)               \
    X(CONTRACT_EDIT, "editContract", "PATCH", CP_ADMIN "/contracts/{}", CP_CALL_SCOPES_WRITE)                \
    X(CONTRACT_REVOKE, "revokeContract", "POST", CP_ADMIN "/contracts/{}/revoke", CP_CALL_SCOPES_WRITE)      \
    X(CONTRACT_ALLOW, "allowContract", "POST", CP_ADMIN "/contracts/{}/allow", CP_CALL_SCOPES_WRITE)         \
    X(CODE_CREATE, "createCode", "POST", CP_ADMIN "/contracts/{}/codes", CP_CALL_SCOPES_WRITE)               \
    X(CODE_LIST, "listCodes", "GET", CP_ADMIN "/codes", CP_CALL_SCOPES_READ)                                 \
    X(CODE_REVOKE, "revokeCode", "DELETE", CP_ADMIN "/codes/{}", CP_CALL_SCOPES_WRITE)                       \
    X(MACHINE_LIST, "listMachines", "GET", CP_ADMIN "/machines", CP_CALL_SCOPES_READ)                        \
    X(MACHINE_REMOVE, "removeMachine", "POST", CP_ADMIN "/machines/remove", CP_CALL_SCOPES_WRITE)            \
    X(MACHINE_EXPEL, "expelMachine", "POST", CP_ADMIN "/machines/expel", CP_CALL_SCOPES_WRITE)               \
    X(ASSET_LIST, "listAssets", "GET", CP_ADMIN "/assets", CP_CALL_SCOPES_READ | CP_SCOPE_PUBLISHER)         \
    X(ASSET_SHOW, "showAsset", "GET", CP_ADMIN "/assets/{}", CP_CALL_SCOPES_READ | CP_SCOPE_PUBLISHER)       \
    X(ASSET_DELETE, "deleteAsset", "DELETE", CP_ADMIN "/assets/{}", CP_CALL_SCOPES_ASSETS)                   \
    X(ASSET_PROMOTE, "promoteAsset", "POST", CP_ADMIN "/assets/{}/promote", CP_CALL_SCOPES_ASSETS)           \
    X(VERSION_DELETE, "deleteAssetVersion", "DELETE", CP_ADMIN "/assets/{}/versions/{}",                     \
      CP_CALL_SCOPES_ASSETS)                                                                                 \
    X(BILLING_SHOW, "showBilling", "GET", CP_ADMIN "/contracts/{}/billing", CP_CALL_SCOPES_ACCOUNTS)         \
    X(BILLING_SET, "setBilling", "PUT", CP_ADMIN "/contracts/{}/billing", CP_CALL_SCOPES_BILL)               \
    X(BILLING_END, "endBilling", "DELETE", CP_ADMIN "/contracts/{}/billing", CP_CALL_SCOPES_BILL)            \
    X(CONTRACT_AWAIT, "awaitPurchase", "POST", CP_ADMIN "/contracts/{}/await", CP_CALL_SCOPES_BILL)          \
    X(OFFER_LIST, "listOffers", "GET", CP_ADMIN "/offers", CP_CALL_SCOPES_ACCOUNTS)                          \
    X(OFFER_SHOW, "showOffer", "GET", CP_ADMIN "/offers/{}", CP_CALL_SCOPES_ACCOUNTS)                        \
    X(OFFER_PUT, "putOffer", "PUT", CP_ADMIN "/offers/{}", CP_CALL_SCOPES_BILL)                              \
    X(OFFER_REMOVE, "removeOffer", "DELETE", CP_ADMIN "/offers/{}", CP_CALL_SCOPES_BILL)                     \
    X(PURCHASE_LIST, "listPurchases", "GET", CP_ADMIN "/purchases", CP_CALL_SCOPES_ACCOUNTS)                 \
    X(PURCHASE_SHOW, "showPurchase", "GET", CP_ADMIN "/purchases/{}", CP_CALL_SCOPES_ACCOUNTS)               \
    X(SUBMITTER_SHOW, "showSubmitter", "GET", CP_ADMIN "/submitter", CP_CALL_SCOPES_ACCOUNTS)                \
    X(EVENT_LIST, "listEvents", "GET", CP_ADMIN "/submitter/events", CP_CALL_SCOPES_ACCOUNTS)                \
    X(EVENT_RESOLVE, "resolveEvent", "POST", CP_ADMIN "/submitter/resolve", CP_CALL_SCOPES_BILL)             \
    X(KEK_LIST, "listKeks", "GET", CP_ADMIN "/keks", CP_CALL_SCOPES_AUDIT | CP_SCOPE_KEYS)                   \
    X(KEK_REWRAP, "rewrapKeys", "POST", CP_ADMIN "/keks/rewrap", CP_SCOPE_OWNER | CP_SCOPE_KEYS)             \
    X(IMAGE_LIST, "listImages", "GET", CP_ADMIN "/images", CP_CALL_SCOPES_READ | CP_SCOPE_PUBLISHER)         \
    X(IMAGE_REGISTER, "registerImage", "POST", CP_ADMIN "/images", CP_CALL_SCOPES_ASSETS)                    \
    X(IMAGE_REVOKE, "revokeImage", "POST", CP_ADMIN "/images/{}/versions/{}/revoke", CP_CALL_SCOPES_ASSETS)  \
    X(USAGE, "usage", "GET", CP_ADMIN "/usage", CP_CALL_SCOPES_ACCOUNTS)                                     \
    X(TOKEN_LIST, "listTokens", "GET", CP_ADMIN "/tokens", CP_CALL_SCOPES_AUDIT)                             \
    X(TOKEN_CREATE, "createToken", "POST", CP_ADMIN "/tokens", CP_SCOPE_OWNER)                               \
    X(TOKEN_REVOKE, "revokeToken", "DELETE", CP_ADMIN "/tokens/{}", CP_SCOPE_OWNER)                          \
    X(LOG_LIST, "listLog", "GET", CP_ADMIN "/log", CP_CALL_SCOPES_READ)                                      \
    X(CHANGE_LIST, "listChanges", "GET", CP_ADMIN "/changes", CP_CALL_SCOPES_AUDIT)                          \
    X(CHANGE_EXPORT, "exportChanges", "GET", CP_ADMIN "/changes/export", CP_CALL_SCOPES_AUDIT)

#define CP_CALL_ENUM(name, operation, method, path, scopes) CP_CALL_##name,
enum cp_call_name { CP_CALLS(CP_CALL_ENUM) _CP_CALL_MAX };

struct cp_call_row {
    const char *operation, *method, *path;
    unsigned scopes; /* one of them is enough */
};
extern const struct cp_call_row cp_calls[_CP_CALL_MAX];

#endif
