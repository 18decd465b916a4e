/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a request may go to the runtime, and what it is told if not. A pure decision. */
#ifndef TB_PROXY_GATE_ADMISSION_H
#define TB_PROXY_GATE_ADMISSION_H

#include "proxy/audit/audit.h"
#include "proxy/http/request.h"
#include "proxy/http/target.h"
#include "proxy/http/error.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/credentials.h"
#include "proxy/gate/keys.h"
#include "proxy/gate/routes.h"
#include "common/service_state.h"

struct tb_admit_request {
    const char *method, *path; /* normalised; not terminated at its end */
    size_t path_len;
    enum tb_target_form form;
    const struct tb_target_refusal *bad_target; /* status 0: the target is fine */
    const struct tb_request *head;
    const struct tb_credentials *credentials;
    const struct tb_cors_request *cors;
    const struct tb_cors_policy *cors_policy;
    enum tb_admission audit;
    const struct tb_verdict *verdict;
    bool lease_over;                /* asked of the clock now, not a quarter of a second ago */
    const struct tb_api_keys *keys; /* NULL: none are needed */
    const char *routes;
    struct tb_route_cache *route_cache;
    enum tb_finetune finetune;
    uint64_t max_body;
};
/* What came of it. error.status 0: go on. */
struct tb_admit_result {
    struct tb_http_error error;
    bool must_close; /* the body's end is uncertain: nothing after this head may be read */
    bool preflight;  /* answer 204 with the fields of tb_cors_fields() */
    const struct tb_api_key *key;
};
void tb_admit(const struct tb_admit_request *rq, struct tb_admit_result *ret);
/* True when no key is needed, or the request has a valid one. */
bool tb_admit_identified(const struct tb_api_keys *keys, const struct tb_credentials *c);
/* True when the service is suspended or its lease over; *ret is then the 403 that says why. */
bool tb_admit_suspended(const struct tb_verdict *v, bool lease_over, struct tb_http_error *ret);

#endif
