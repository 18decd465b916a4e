/* SPDX-License-Identifier: Apache-2.0 */
/* An audit record and its line of JSON. Design section 4, "Audit record"; docs/contracts.md, "Audit
 * chain". Contains no bodies, keys or tokens, and at most TB_AUDIT_PATH_MAX bytes of what a stranger wrote
 * into the path. */
#ifndef TB_PROXY_AUDIT_RECORD_H
#define TB_PROXY_AUDIT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

#define TB_AUDIT_PATH_MAX 256 /* bytes of a path in a record, escaped */

struct tb_audit_record {
    /* Given by the writer: common/chain.h. */
    uint64_t seq;
    char prev[65];
    bool after_stop;
    uint64_t lost_max, unsure;

    uint64_t start_realtime_us; /* when the request's head had arrived */
    char method[16];
    char path[TB_AUDIT_PATH_MAX + 1]; /* without query, escaped; tb_audit_record_set_path() */
    char path_sha256[65];             /* of the path as it came, when it is cut above; else "" */
    char req_sha256[65];
    bool req_complete; /* false: the digest covers only what arrived */
    int status;        /* what the client was sent; 499 when it went away first */
    uint64_t latency_ms, bytes_in, bytes_out;
    bool has_tokens, estimated; /* estimated: the runtime's own count never came */
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
    char request_id[65], client[64], key_name[65], error[64]; /* "" when not there */

    /* No valid key came with it, and the runtime saw nothing of it: many of these may become one record
     * (refusals.h). */
    bool unidentified;
    uint64_t count;            /* 0: a request of its own; else how many this stands for */
    uint64_t last_realtime_us; /* when the last of them came */

    char *report; /* what tb-verify saw of this machine, with its signature, heap; NULL: it is of a request */
    struct tb_audit_record *next; /* the queue's */
};

/* Escapes once: what is no printable ASCII, or would need an escape in JSON, becomes %XX. What does not
 * fit is cut, and hashed. */
void tb_audit_record_set_path(struct tb_audit_record *r, const char *path, size_t len);
/* Appends the JSON line (ts, contract_id, asset_id, method, path, req_sha256, status, latency_ms, then
 * extras) without a line end. 0 or the buffer's error. */
int tb_audit_format(const struct tb_audit_record *r, const char *contract_id, const char *asset_id,
                    struct tb_buf *out);

void tb_audit_free_record(struct tb_audit_record *r);
/* Frees a list of records. */
void tb_audit_free_records(struct tb_audit_record *r);

#endif
