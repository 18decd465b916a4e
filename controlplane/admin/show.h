/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as JSON, for the API and for the listings of the command line. No key, no token, no code. */
#ifndef CP_SHOW_H
#define CP_SHOW_H

#include "common/json.h"
#include "controlplane/store/billing.h"
#include "controlplane/store/purchases.h"
#include "controlplane/store/store.h"
#include "controlplane/store/tokens.h"

/* Their members are added to o. */
void cp_show_time(cJSON *o, const char *name, uint64_t us); /* 0: left out */
void cp_show_contract(cJSON *o, const struct cp_contract *c, uint64_t now_us, bool whole);
void cp_show_machine(cJSON *o, const struct cp_machine *m, uint64_t now_us);
void cp_show_asset(cJSON *o, const struct cp_asset *a);
void cp_show_token(cJSON *o, const struct cp_token *t, uint64_t now_us);
void cp_show_code(cJSON *o, const struct cp_code *k);
void cp_show_scopes(cJSON *o, const char *scopes);
void cp_show_verdict(cJSON *o, const struct cp_log_entry *e);
void cp_show_billing(cJSON *o, const char *contract_id, const struct cp_billing *b); /* NULL: by machines */
void cp_show_offer(cJSON *o, const struct cp_offer *f);
void cp_show_application(cJSON *o, const struct cp_application *a);
void cp_show_purchase(cJSON *o, const struct cp_purchase *p);
void cp_show_event(cJSON *o, const struct cp_event_row *w);
void cp_show_submitter(cJSON *o, const struct cp_billing_summary *u, uint64_t now_us);

#endif
