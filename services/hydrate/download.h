/* SPDX-License-Identifier: Apache-2.0 */
/* Fetches the missing ranges of a partial file, several requests at once, on the calling thread and others
 * that end with it. Retries each request; stops at what a retry cannot help. What readers wish for comes
 * first: ranges that are missing, or a record once more that came and is not right. */
#ifndef TB_HYDRATE_DOWNLOAD_H
#define TB_HYDRATE_DOWNLOAD_H

#include "common/http.h"
#include "hydrate/hasher.h"
#include "hydrate/mirror.h"
#include "hydrate/partial.h"
#include "hydrate/outcome.h"
#include "hydrate/source.h"

/* Attempts at one range; together with DOWNLOAD_BACKOFF_* about 15 s of trying. */
#define DOWNLOAD_TRIES 6
#define DOWNLOAD_BACKOFF_BASE_MS 500
#define DOWNLOAD_BACKOFF_CAP_MS 30000
#define DOWNLOAD_REPAIR_CAP_MS 4000 /* for a record that is fetched once more, whatever Retry-After asks */
/* Wrong answers (a range ignored or mistaken) to one range: a proxy that does not do ranges will not learn
 * it. */
#define DOWNLOAD_PROTOCOL_TRIES 3
/* After a refusal, ranges already on their way may still arrive. */
#define DOWNLOAD_DRAIN_MS 5000
/* Connections for what somebody waits for: one for ranges, one for records. */
#define DOWNLOAD_URGENT 2

struct download_progress {
    uint64_t bytes;        /* that are there */
    uint64_t mirror_bytes; /* that the mirror gave, in this run, what is on its way included */
    const char *mirror;    /* its state; NULL: none */
    bool begun;            /* the first range is there */
};

struct download {
    const char *url; /* secret, borrowed */
    /* Of other places of the same, also secret and borrowed, for records that are fetched once more
     * (hydrate/turns.h). */
    const char *others[HYDRATE_PLACES_MAX - 1];
    unsigned n_others;
    struct mirror *mirror; /* asked for ranges first; NULL: none. Its own until the download ends */
    const struct tb_http_tls *tls;
    /* Of all threads together, at least 1; each has one request at a time. Where there are readers, there
     * are DOWNLOAD_URGENT more for what they wait for. */
    unsigned connections;
    uint64_t request_bytes; /* ranges in a row that are asked for at once; fewer near the end */
    unsigned threads;       /* DOWNLOAD_THREADS_MAX at most */
    struct partial *partial;
    struct hasher *hasher; /* told of the gapless prefix; NULL: nobody hashes */
    int stop_fd;           /* readable: stop */
    const char *run_dir;   /* TB_RUN_DIR, where readers leave their wishes (common/want.h); NULL: none do */
    unsigned linger_ms;    /* when all is there: so long further wishes are waited for. 0: something lacks */
    /* Called at least each half second, on the calling thread; nonzero stops, with the outcome that
     * download_run() was given set by then. */
    int (*progress)(void *ctx, const struct download_progress *p);
    void *ctx;
};

/* 0 when every range is there. Else the code of *o: TB_EXIT_TEMPFAIL (refused, or tries used up),
 * TB_EXIT_NOINPUT (404), TB_EXIT_DATAERR (wrong size, or answers that are not the range), TB_EXIT_IOERR,
 * HYDRATE_CHANGED, HYDRATE_STOPPED, or what progress set. What is finished is marked in the partial in
 * each case. */
int download_run(const struct download *d, struct tb_outcome *o);

#endif
