/* SPDX-License-Identifier: Apache-2.0 */
/* One record per request: a bounded queue and the thread that writes it as a hash chain. Design section 4,
 * "Audit record"; docs/contracts.md, "Audit chain". record.h has the format, refusals.h what many refusals
 * become, sink.h where the lines go, writer.c the chain, recover.c how it goes on after a kill. Fail
 * closed: when records cannot be written, or too many wait, new requests are refused; a record is never
 * dropped to let a request through. */
#ifndef TB_PROXY_AUDIT_AUDIT_H
#define TB_PROXY_AUDIT_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/audit/record.h"

/* Half a second of the fastest load measured, so that a slow fdatasync does not refuse requests; about 16
 * MB when full. */
#define TB_AUDIT_QUEUE 16384
#define TB_AUDIT_TROUBLE_MAX 224 /* bytes of a reason, its NUL included */

enum tb_admission {
    TB_ADMIT,        /* go on; a slot is taken */
    TB_ADMIT_REFUSE, /* answer 503; a slot is taken for the refusal's record */
    TB_ADMIT_DROP,   /* no slot is left even for refusals: close the connection without an answer */
};

struct tb_audit;
struct tb_audit_config {
    const char *contract_id, *asset_id;
    const char *file;      /* TB_AUDIT_FILE or NULL */
    const char *head_file; /* remembers the end of the chain across restarts (common/chain_head.h), or NULL */
    size_t queue;          /* slots for requests; as many again for refusals */
    bool journal;          /* send to the journal; else, without a file, lines go to stderr */
};

/* Opens the sinks and starts the writer. Strings are copied. -errno of opening the file. */
int tb_audit_open(const struct tb_audit_config *config, struct tb_audit **ret);
/* Takes a slot for one request. Each slot is given back by one tb_audit_submit(). */
enum tb_admission tb_audit_admit(struct tb_audit *a);
/* A record with nothing in it, for tb_audit_submit(). On the thread that submits. */
struct tb_audit_record *tb_audit_record_new(struct tb_audit *a);
/* Queues the record, from malloc(), which it then owns; or counts it, when it is an unidentified one too
 * many. */
void tb_audit_submit(struct tb_audit *a, struct tb_audit_record *r);
/* Asks the writer to open TB_AUDIT_FILE again (rotation). */
void tb_audit_reopen(struct tb_audit *a);
/* Sees that the files of the audit still have their names; what was removed is made again: the head of the
 * chain as it is, the file of records anew, in which the chain goes on. Returns how often that was so;
 * *ret_error: a negative errno while the head cannot be made, else 0. */
uint64_t tb_audit_keep(struct tb_audit *a, int *ret_error);
/* Writes what is queued, for at most timeout_ms, and frees everything. Returns how many records were not
 * written. */
size_t tb_audit_close(struct tb_audit *a, unsigned timeout_ms);

struct tb_audit_stats {
    uint64_t written, refused, dropped; /* refused, dropped: answers of tb_audit_admit() */
    uint64_t aggregated;                /* requests that share a record */
    size_t unsynced;                    /* records a power failure would take */
    size_t slots, limit; /* requests in flight and records waiting; from limit on they are refused */
    bool broken;         /* it cannot take records, as tb_audit_trouble() explains */
    uint64_t seq;        /* of the last record written, and its hash */
    char head[65];
};
/* Why a request that came now would be refused for want of a record, in words; false and "" when it would
 * not. It is what tb_audit_admit() goes by. */
bool tb_audit_trouble(struct tb_audit *a, char out[static TB_AUDIT_TROUBLE_MAX]);
/* Refuses requests from now on for a reason that no write has met yet, as a full disk; "": no longer. */
void tb_audit_bar(struct tb_audit *a, const char *why);
void tb_audit_get_stats(struct tb_audit *a, struct tb_audit_stats *ret);

#endif
