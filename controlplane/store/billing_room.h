/* SPDX-License-Identifier: Apache-2.0 */
/* For the files of the submitter's ledger. In a transaction. */
#ifndef CP_BILLING_ROOM_H
#define CP_BILLING_ROOM_H

#include "controlplane/store/billing.h"
#include "controlplane/store/store_room.h"

#define CP_MARK_TOTAL INT64_C(-1) /* in the place of an hour: of the all-time total */

/* What an event is of; several of a resource and dimension differ in their hour. */
struct cp_account {
    const char *resource, *plan, *dimension;
    uint64_t unit;
};

/* -ESTALE when another term has begun; tells that this one is alive. */
int cp_billing_fence(struct cp_store *s, uint64_t term, uint64_t now_us);
/* Adds to the account's event of this hour, or, when that has left OPEN or the marketplace would not take
 * it, of the open hour: the first one from now on that takes usage. since: the hour it is from. */
int cp_billing_add(struct cp_store *s, const struct cp_account *a, int64_t hour, int64_t quantity,
                   int64_t since, uint64_t now_us);
/* The open hour. */
int cp_billing_open_hour(struct cp_store *s, const struct cp_account *a, uint64_t now_us, int64_t *ret);
/* Books all that a source has, by the contract's terms. */
int cp_billing_book(struct cp_store *s, const struct cp_billing *terms, const struct cp_source *from,
                    uint64_t now_us, uint64_t *ret_booked);

#endif
