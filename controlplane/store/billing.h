/* SPDX-License-Identifier: Apache-2.0 */
/* The submitter's ledger: usage that machines reported (usage.h) of contracts that the control plane bills,
 * and the metering events that it became. metering/event.h says what states an event has and what must
 * hold:
 *
 *   what was reported = what is not booked yet + the sum of all events, whatever their state
 *
 * A mark for each source (contract, machine, ledger), hour and counter says how much of it is booked. The
 * hour TOTAL stands for the all-time total, which alone decides how much there is to bill; hours only say
 * where it goes. An event is of one resource, dimension and hour.
 *
 * One submitter at a time writes events: whoever has the lock of the database (cp_sql_lock()) begins a term
 * with a number of its own, and every transaction of a term that is over is -ESTALE. So two that take each
 * other for dead cannot both act on an answer. docs/controlplane-design.md, "The submitter". */
#ifndef CP_BILLING_H
#define CP_BILLING_H

#include "controlplane/store/store.h"
#include "common/usage.h"
#include "metering/event.h"

#define CP_DIMENSIONS_MAX 400 /* text of a mapping */
#define CP_DIMENSIONS_WORDS                                                                                  \
    "requests,tokens=ktok of requests, prompt_tokens, completion_tokens, cached_tokens, tokens, bytes, "     \
    "gb_transferred"
#define CP_OWNER_MAX 100

/* How the control plane bills a contract. One without a row here is billed by its machines. */
struct cp_billing {
    char contract_id[TB_ID_MAX + 1];
    char resource[TB_METERING_RESOURCE_MAX]; /* "": not known yet; usage is held until it is */
    char plan[TB_METERING_NAME_MAX];
    char dimensions[CP_DIMENSIONS_MAX]; /* "requests, tokens=ktok" */
    uint64_t updated_us;
};

/* One dimension of a contract: what the offer calls it, and what of tb_usage_dimension it is. */
struct cp_dimension {
    char name[TB_METERING_NAME_MAX];
    const struct tb_usage_dimension *of;
};
/* Reads a mapping: QUANTITY or QUANTITY=NAME, with commas between; a quantity is one of tb_usage_dimension
 * and comes once, and so does a name. -EINVAL. */
int cp_dimensions_parse(const char *text, struct cp_dimension ret[static TB_USAGE_DIMENSIONS], size_t *ret_n);
/* A GUID or a path of Azure; printable, no quotes. */
bool cp_billing_resource_valid(const char *resource);

/* -- terms. In a transaction. */
/* Books what was reported by now by the terms so far, then sets these. What was reported before there were
 * any is somebody else's to bill. A resource that is known in another spelling, of upper and lower case,
 * keeps that. */
int cp_store_put_billing(struct cp_store *s, const struct cp_billing *b, uint64_t now_us);
/* -ENOENT: by its machines. May stand alone. */
int cp_store_get_billing(struct cp_store *s, const char *contract_id, struct cp_billing *ret);
/* Back to the machines. -ENOENT; -EBUSY: some of its usage is in events or waits to be. */
int cp_store_remove_billing(struct cp_store *s, const char *contract_id);
/* Whether the control plane bills it, and whether the marketplace says that its subscription has ended. */
int cp_store_billing_state(struct cp_store *s, const char *contract_id, bool *ret_here, bool *ret_ended);

/* -- terms of office */
/* Takes the lock, or keeps it: 1; 0: another has it. */
int cp_store_lock_submitter(struct cp_store *s);
/* Begins a term. In a transaction. */
int cp_store_begin_term(struct cp_store *s, const char *owner, uint64_t now_us, uint64_t *ret_term);

/* -- what a submitter does, each in one transaction of its own. -ESTALE: the term is over. */
/* A source with something to book. */
struct cp_source {
    char contract_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1], ledger[65];
};
/* The next source behind `after` (a zeroed one: the first) with usage that is not booked and can be.
 * -ENOENT. A read. */
int cp_store_next_source(struct cp_store *s, const struct cp_source *after, struct cp_source *ret);
/* Books it. *ret_booked: the sum of all increments. */
int cp_store_book_source(struct cp_store *s, uint64_t term, const struct cp_source *from, uint64_t now_us,
                         uint64_t *ret_booked);
/* Lets time pass, as tb_metering_advance() of tb-billing does: hours close grace_us after their end.
 * *ret_moved: events that had grown too old. */
int cp_store_advance_events(struct cp_store *s, uint64_t term, uint64_t now_us, uint64_t grace_us,
                            unsigned *ret_moved);
/* As in metering/schedule.h. */
int cp_store_events_due(struct cp_store *s, uint64_t now_us, bool parked, bool *ret);
int cp_store_take_events(struct cp_store *s, uint64_t term, uint64_t now_us, bool parked,
                         const struct tb_metering_event *after, unsigned most, struct tb_metering_batch *ret);
int cp_store_settle_events(struct cp_store *s, uint64_t term, const struct tb_metering_batch *b,
                           const struct tb_metering_verdict *v, uint64_t now_us);

/* -- for people */
/* PARKED, in doubt and too old to be sent: somebody looked at what the marketplace has. -ENOENT. In a
 * transaction. */
int cp_store_resolve_event(struct cp_store *s, const char *resource, const char *dimension, int64_t hour,
                           bool accepted);

struct cp_event_row {
    struct tb_metering_event e;
    char state[16], reason[TB_METERING_REASON_MAX];
    uint64_t tries;
    int64_t accepted; /* -1: not said */
};
struct cp_event_page {
    bool unaccepted; /* those that the marketplace has not accepted alone */
    int64_t after_hour;
    const char *after_resource, *after_dimension;
    uint64_t limit;
};
#define CP_EVENT_PAGE_FIRST .after_hour = -1, .after_resource = "", .after_dimension = ""
int cp_store_each_event(struct cp_store *s, const struct cp_event_page *p,
                        int (*fn)(const struct cp_event_row *, void *), void *ctx);

struct cp_billing_summary {
    char owner[CP_OWNER_MAX]; /* of the term; "": there was none yet */
    uint64_t term, since_us, seen_us;
    uint64_t open, frozen, sent, accepted, parked, doubt; /* events; doubt: of the parked */
    int64_t oldest;                                       /* hour of the oldest usage not accepted; -1 */
    uint64_t without_resource;                            /* sources that are held: no resource is known */
    uint64_t self_billing; /* sources whose machine bills by itself, though the contract says otherwise */
    uint64_t ended;        /* resources whose subscription has */
};
int cp_store_summarise_billing(struct cp_store *s, struct cp_billing_summary *ret);

#endif
