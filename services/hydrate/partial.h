/* SPDX-License-Identifier: Apache-2.0 */
/* A download that is not complete: NAME.part beside its record, made so that a start after SIGKILL or a power
 * cut fetches as little as possible again.
 *
 * NAME.part.json is the durable record: identity of the download and the ranges that were on disk (fdatasync)
 * when it was written, at most once a second, by a thread of its own. A power cut loses what finished since.
 * NAME.part.live is the map (common/range_map.h), marked as each range finishes, and followed by who reads
 * what came so far. It is trusted only while the machine has not rebooted since (boot id), because then the
 * page cache holds every finished range whatever happened to the process: SIGKILL loses the open ranges only,
 * without a sync for each range.
 *
 * Nothing here vouches for the bytes: the whole file's SHA-256 does, later. */
#ifndef TB_HYDRATE_PARTIAL_H
#define TB_HYDRATE_PARTIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "hydrate/record.h"

#define PARTIAL_SUFFIX ".part"
#define PARTIAL_RECORD_SUFFIX ".part.json"
#define PARTIAL_LIVE_SUFFIX ".part.live"

struct partial;

/* Of a range, where the settings do not ask for less at once: so soon what came can be read. */
#define PARTIAL_RANGE_BYTES (1024 * 1024)

/* Opens what an earlier run left for the same sha256 and size, which keeps its own chunk and etag; else
 * removes it and begins anew with `want`. 0 or -errno. */
int partial_open(const char *final_path, const struct partial_identity *want, struct partial **ret);
/* The complete file at final_path, records of which are to come once more: with a map, so that who waits sees
 * them come. It is not removed or renamed by any of the functions here. */
int partial_open_complete(const char *final_path, const struct partial_identity *id, struct partial **ret);
/* Saves and closes; the files stay. Accepts NULL, returns NULL. */
struct partial *partial_close(struct partial *p);
static inline void partial_closep(struct partial **p)
{
    *p = partial_close(*p);
}
#define _cleanup_partial_ _cleanup_(partial_closep)

int partial_fd(const struct partial *p);
const char *partial_path(const struct partial *p);
const struct partial_identity *partial_identity(const struct partial *p);
/* Only the thread that calls partial_mark() may look: that one alone changes the set. */
const struct ranges *partial_ranges(const struct partial *p);

/* Others can see what came. */
bool partial_has_map(const struct partial *p);

/* The blob's entity tag, once known. Written with the next record. */
void partial_set_etag(struct partial *p, const char *etag);
/* Range i is written. Also reports a failure of the saving thread. 0 or -errno. */
int partial_mark(struct partial *p, uint64_t i);
/* Who follows found these bytes bad when the map had `seen` of them, and they did not come again since. */
bool partial_wants_again(const struct partial *p, uint64_t off, uint64_t len, uint32_t seen);
/* These bytes came once more. */
void partial_renew(struct partial *p, uint64_t off, uint64_t len);
/* Everything marked is on disk and in the record when this returns 0. */
int partial_sync(struct partial *p);
/* Removes the files of this or an earlier download of final_path, which did not become it. Missing ones are
 * fine. */
int partial_remove(const char *final_path);
/* The same, but for the map: the next download begins at once, and who looks meanwhile is to come again. */
int partial_abandon(const char *final_path);
/* The same when it did: NAME.part has its final name. */
int partial_finish(const char *final_path);
/* Removes the plain files of a directory of ours, and itself. Who follows a download that is in it hears that
 * nothing comes any more. 0: there was none; 1: removed; a negative errno. */
int partial_remove_dir(const char *dir);

#endif
