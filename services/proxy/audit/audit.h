/* SPDX-License-Identifier: Apache-2.0 */
/* One record per request: formatting, a bounded queue and the thread that writes them as a hash chain. Design section 4, "Audit
 * record"; docs/contracts.md, "Audit chain".
 * Fail closed: when records cannot be written, or too many wait, new requests are refused; a record is never dropped to
 * let a request through. Contains no bodies, keys or tokens. */
#ifndef TB_PROXY_AUDIT_AUDIT_H
#define TB_PROXY_AUDIT_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* Half a second of the fastest load measured, so that a slow fdatasync does not refuse requests; about 16 MB when full. */
#define TB_AUDIT_QUEUE 16384

struct tb_audit_record {
    uint64_t seq; /* this and the next line are given by the writer: common/chain.h */
    char prev[65];
    bool after_stop;
    uint64_t lost_max, unsure;
    uint64_t start_realtime_us; /* when the request's head had arrived */
    char method[16];
    char *path; /* without query, heap */
    char req_sha256[65];
    bool req_complete; /* false: the digest covers only what arrived */
    int status;        /* what the client was sent; 499 when it went away first */
    uint64_t latency_ms, bytes_in, bytes_out;
    bool has_tokens, estimated; /* estimated: the runtime's own count never came */
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
    char request_id[65], client[64], key_name[65], error[64]; /* "" when not there */
    struct tb_audit_record *next;                             /* the queue's */
};
/* Frees the record. */
void tb_audit_record_free(struct tb_audit_record *r);
/* Appends the JSON line (ts, contract_id, asset_id, method, path, req_sha256, status, latency_ms, then extras) without a line
 * end. 0 or -ENOMEM. */
int tb_audit_format(const struct tb_audit_record *r, const char *contract_id, const char *asset_id,
                    struct tb_buf *out);

enum tb_admission {
    TB_ADMIT,        /* go on; a slot is taken */
    TB_ADMIT_REFUSE, /* answer 503; a slot is taken for the refusal's record */
    TB_ADMIT_DROP,   /* no slot is left even for refusals: close the connection without an answer */
};

struct tb_audit;
struct tb_audit_config {
    const char *contract_id, *asset_id;
    const char *file; /* TB_AUDIT_FILE or NULL */
    const char
        *head_file; /* remembers across restarts where the chain stands (common/chain_head.h), or NULL */
    size_t queue;   /* slots for requests; as many again for refusals */
    bool journal;   /* send to the journal; else, without a file, lines go to stderr */
};

/* Opens the sinks and starts the writer. Strings are copied. -errno of opening the file. */
int tb_audit_open(const struct tb_audit_config *config, struct tb_audit **ret);
/* Takes a slot for one request. Each slot is given back by one tb_audit_submit(). */
enum tb_admission tb_audit_admit(struct tb_audit *a);
/* Queues the record, which it then owns. */
void tb_audit_submit(struct tb_audit *a, struct tb_audit_record *r);
/* Asks the writer to open TB_AUDIT_FILE again (rotation). */
void tb_audit_reopen(struct tb_audit *a);
/* Writes what is queued, for at most timeout_ms, and frees everything. Returns how many records were not written. */
size_t tb_audit_close(struct tb_audit *a, unsigned timeout_ms);

struct tb_audit_stats {
    uint64_t written, refused, dropped; /* refused, dropped: answers of tb_audit_admit() */
    size_t unsynced;                    /* records a power failure would take */
    size_t slots, limit; /* requests in flight and records waiting; from limit on they are refused */
    bool broken;
    uint64_t seq; /* of the last record written, and its hash */
    char head[65];
};
void tb_audit_get_stats(struct tb_audit *a, struct tb_audit_stats *ret);

#endif
