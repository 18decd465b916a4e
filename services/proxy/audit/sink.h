/* SPDX-License-Identifier: Apache-2.0 */
/* Where audit records go: TB_AUDIT_FILE, the journal, or standard error when there is neither. Used by the
 * audit's writer; only tb_audit_sink_sync() may run beside it. */
#ifndef TB_PROXY_AUDIT_SINK_H
#define TB_PROXY_AUDIT_SINK_H

#include <pthread.h>

#include "common/chain.h"
#include "proxy/audit/record.h"

struct tb_audit_sink {
    char *contract_id, *asset_id, *file;
    int fd;       /* -1: none */
    bool regular; /* fd is a regular file, locked by us */
    bool journal;
    pthread_mutex_t sync_lock; /* fd is not replaced while it is synced */
};

/* file may be NULL. Strings are copied. -EWOULDBLOCK: another process writes the file. */
int tb_audit_sink_open(struct tb_audit_sink *s, const char *contract_id, const char *asset_id,
                       const char *file, bool journal);
void tb_audit_sink_close(struct tb_audit_sink *s);
const char *tb_audit_sink_name(const struct tb_audit_sink *s);

/* The end of the file: up to max bytes, heap, from the start of a line. *ret NULL when there is no regular
 * file. */
int tb_audit_sink_tail(const struct tb_audit_sink *s, size_t max, char **ret, size_t *ret_len);
/* Takes n bytes, a line that was cut in the middle by a kill, off the end of the file. */
int tb_audit_sink_trim(const struct tb_audit_sink *s, size_t n);

/* Appends whole lines to the file, or writes them to standard error. All or nothing. */
int tb_audit_sink_append(struct tb_audit_sink *s, const char *lines, size_t len);
/* Until a power failure cannot take back what was appended before. */
int tb_audit_sink_sync(struct tb_audit_sink *s);
/* One record to the journal. line has no line end. */
int tb_audit_sink_journal(const struct tb_audit_sink *s, const struct tb_audit_record *r, const char *line,
                          size_t len);

/* The file was removed: renamed, as for a rotation, it would still have a name. */
bool tb_audit_sink_is_removed(struct tb_audit_sink *s);
/* Opens the file again if another one, or none, has its name by now: it was rotated. -errno: still the old
 * one. */
int tb_audit_sink_reopen(struct tb_audit_sink *s);

#endif
