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

/* tb-verify: what this machine claims of itself, looked at and signed: the JSON of tb-verify(8) */
#define TB_EVENT_VERIFIED "d3b6a1f04e7c4d0f9a52c86e1b7f3d95"

/* tb-hydrate */
/* the model is damaged and is fetched again; TB_REASON */
#define TB_EVENT_REPAIR "c0ee35ea1a1a4cf5ba141de25043147e"

/* tb-decrypt */
/* a record of the model is damaged and is fetched once more; TB_RECORD, TB_REASON */
#define TB_EVENT_REPAIR_RECORD "9027a4a106b24d8b933edf191189815f"

/* tb-billing */
/* refused by the marketplace; TB_HOUR, TB_DIMENSION, TB_QUANTITY, TB_REASON */
#define TB_EVENT_BILLING_PARKED "a7c6a74afec44256ae825962a84eab01"
/* it has another quantity than we sent; the same fields */
#define TB_EVENT_BILLING_MISMATCH "cf19ce6b444045e0b2d48e8097e20b52"
/* not accepted for 20 h; TB_HOUR */
#define TB_EVENT_BILLING_LATE "1f7df3d53498445cb38fc0abaf1d96d8"
/* says the marketplace; TB_REASON */
#define TB_EVENT_SUBSCRIPTION_ENDED "60dc96856c86439fbb0fa8852d6a4f9d"

/* this machine's clock is not the time that usage is booked by; TB_CLOCK_OFF, in seconds */
#define TB_EVENT_CLOCK_STEPPED "e529765de8e34c30b0d2a49f0f48150b"
/* it is again; TB_CLOCK_OFF is 0 */
#define TB_EVENT_CLOCK_RIGHT "c08e796d98c448d086c055ecda76427a"

/* another version of the asset is downloaded, switched to, serves; TB_ASSET_VERSION */
#define TB_EVENT_UPDATE "4210036938e84d0e8ed6fa3abe36448c"
/* it did not serve, and the machine went back; TB_ASSET_VERSION, TB_REASON */
#define TB_EVENT_UPDATE_FAILED "4cd5bbeaaa004401bf0b1c58decb3e3a"

/* how a program ended, by its exit code: tb_outcome_log() */
#define TB_EVENT_ENDED_NOINPUT "61d269d37ea54ec986924288248d4a56"
#define TB_EVENT_ENDED_IOERR "0bb6c0068dc34cfc8a164c465a6eee44"
#define TB_EVENT_ENDED_TEMPFAIL "a1df52a480e14eaa8d693f941e8d72ad"
#define TB_EVENT_ENDED_DATAERR "3dac710350a24c78b452479c7e15c5c9"
#define TB_EVENT_ENDED_NOPERM "543fa42d09b448e7af6c002a9a7e87ee"
/* and any wrong or unknown setting */
#define TB_EVENT_ENDED_CONFIG "a1f10e9a14e24cc89b44aaa04276fcc3"

/* any other warning or error, by its program: log.c adds them */
#define TB_EVENT_FAULT_ATTEST "c1e5c3a2f0c14e5b9d1b7f6e2a9d4480"
#define TB_EVENT_FAULT_AUTHORIZE "a460a29cd1d4474e89cd9de05473619e"
#define TB_EVENT_FAULT_BILLING "ba61dc23542542ee89182b1ab38ce8df"
#define TB_EVENT_FAULT_DECRYPT "5807bf1c7eb942ea9dd777dd17162a2a"
#define TB_EVENT_FAULT_HYDRATE "a8036d000cc24f20a4d632849fecd41c"
#define TB_EVENT_FAULT_LOAD "16f5fb664c434ae5843633ea3ce41117"
#define TB_EVENT_FAULT_PROXY "2b8ef900274a4fdb93630d22b5eaa659"
#define TB_EVENT_FAULT_UPDATE "6db8e232d6d44b0b9b368275d5869d7f"
#define TB_EVENT_FAULT_VERIFY "a3f4c8d1b27e4f60b5d9e1c07a86342f"
/* whatever tb-scratch, tb-repair and tb-state say: their units name it, since a script has no other way that
 * keeps the message its unit's */
#define TB_EVENT_SCRATCH "f82f29dab7a94f71816b96d64fd128c6"
#define TB_EVENT_VOLUME "adfaec0472d2408787be913a034ed04f"
#define TB_EVENT_TRY_REPAIR "3267ab2ad0ee4382bdc37731fb38876f"

#endif
