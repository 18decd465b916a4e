/* SPDX-License-Identifier: Apache-2.0 */
/* MESSAGE_ID of each kind of event in the journal, one random 128-bit id each (journalctl --new-id128), never
 * reused. The message catalog explains them to operators: `journalctl -x`. */
#ifndef TB_EVENTS_H
#define TB_EVENTS_H

/* tb-proxy */
/* the state derived by the proxy changed; TB_STATE, TB_REASON */
#define TB_EVENT_STATE "5b0c6f0e3a2f4a6c9d8be41c7d2f9a11"
/* audit record of one request */
#define TB_EVENT_AUDIT "c1d7f3a95e1b4d3f8a60b7a2e94c5d12"
/* audit cannot be written; requests are refused */
#define TB_EVENT_AUDIT_BROKEN "0f7d1b6c2e8a4c55b3d94a7be16f2c13"
/* SIGTERM: finishing requests in flight */
#define TB_EVENT_DRAIN "8e2a4b7d91c34f0e86d5f3b2a7c09e14"

/* tb-authorize */
/* a credential went to its unit; TB_UNIT, TB_CREDENTIAL */
#define TB_EVENT_RELEASED "275fbab5f58c481f95aad858a612e078"
/* a credential was refused; TB_UNIT, TB_CREDENTIAL, TB_REASON */
#define TB_EVENT_REFUSED "77803f06d92b407bbeb7665fb7646f44"
/* the machine may not serve; TB_REASON */
#define TB_EVENT_SUSPENDED "103c1813f5e9401aa7ff36c5704fc5fa"
/* it may again */
#define TB_EVENT_RESUMED "9329247da0004ba699e590a66ddcd8e3"

/* tb-billing */
/* refused by the marketplace; TB_HOUR, TB_DIMENSION, TB_QUANTITY, TB_REASON */
#define TB_EVENT_BILLING_PARKED "a7c6a74afec44256ae825962a84eab01"
/* it has another quantity than we sent; the same fields */
#define TB_EVENT_BILLING_MISMATCH "cf19ce6b444045e0b2d48e8097e20b52"
/* not accepted for 20 h; TB_HOUR */
#define TB_EVENT_BILLING_LATE "1f7df3d53498445cb38fc0abaf1d96d8"
/* says the marketplace; TB_REASON */
#define TB_EVENT_SUBSCRIPTION_ENDED "60dc96856c86439fbb0fa8852d6a4f9d"

#endif
