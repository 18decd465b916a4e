/* SPDX-License-Identifier: Apache-2.0 */
/* The network side of the submitter: a token, and the metering API of the marketplace. One exchange a call,
 * each within 15 s. One thread. */
#ifndef CP_MARKETPLACE_H
#define CP_MARKETPLACE_H

#include "common/azure_token.h"
#include "common/http.h"

#define CP_MARKETPLACE_DEFAULT "https://marketplaceapi.microsoft.com"
#define CP_MARKETPLACE_ERR_MAX 512

/* Whose token it is: a service principal, or, tenant NULL, the machine's managed identity. What it points to
 * must outlive the marketplace. */
struct cp_marketplace_settings {
    const char *url;
    struct tb_http_tls tls;
    const char *authority, *tenant, *client_id; /* client_id NULL: the system-assigned identity */
    const char *secret;
};

struct cp_marketplace {
    struct cp_marketplace_settings set;
    char *bearer; /* header; secret memory; NULL: none */
    uint64_t renew_us;
};

/* https, or http to loopback for tests; no query. Sets m->set.tls.allow_http for the latter. -EINVAL with
 * words. */
int cp_marketplace_init(struct cp_marketplace *m, const struct cp_marketplace_settings *s,
                        char err[static CP_MARKETPLACE_ERR_MAX]);
void cp_marketplace_clear(struct cp_marketplace *m);
/* Makes sure that there is a token that holds for some minutes. */
int cp_marketplace_authenticate(struct cp_marketplace *m, char err[static CP_MARKETPLACE_ERR_MAX]);
void cp_marketplace_drop_token(struct cp_marketplace *m);
/* POST /api/batchUsageEvent. 0 with an answer of any status. *ret_reached is false when nothing can have
 * arrived. */
int cp_marketplace_post(struct cp_marketplace *m, const char *body, const char *request_id,
                        struct tb_http_response *ret, bool *ret_reached, char err[static TB_HTTP_ERR_MAX]);

#endif
