/* SPDX-License-Identifier: Apache-2.0 */
/* One run of tb-hydrate, as its steps share it: hydrate.c (what is done, in which order), present.c (what is
 * there already), fetch.c (the download). */
#ifndef TB_HYDRATE_JOB_H
#define TB_HYDRATE_JOB_H

#include "common/config.h"
#include "common/http.h"
#include "hydrate/download.h"
#include "hydrate/outcome.h"
#include "hydrate/partial.h"
#include "hydrate/repair.h"
#include "hydrate/report.h"
#include "hydrate/source.h"
#include "hydrate/versions.h"

struct hydrate {
    const struct tb_config *cfg; /* with the place of the version as its target_dir */
    struct tb_config here;
    struct versions versions;
    struct tb_http_tls tls;
    int signal_fd;
    struct hydrate_source source;
    struct manifest manifest;
    char *final_path, *manifest_path;
    uint64_t size;
    struct report report;
    struct repair repair;
    bool place_failed; /* what the attempt ended with is of the place, and another may do better */
    bool header_seen;
    uint64_t extended_us;    /* when systemd was last asked for time, while records are mended */
    enum repair_cause fault; /* of HYDRATE_DAMAGED */
    bool worthless;          /* what was downloaded cannot become the file */
    struct partial *partial; /* while downloading, borrowed */
    bool is_base;            /* what an overlay stands on, not what is delivered */
    struct tb_outcome *o;
};

/* fetch.c */
/* Waits for the digest while showing progress. 0 with *ret_good: it is the manifest's. HYDRATE_DAMAGED: the
 * disk does not give the file back. */
int hydrate_wait_digest(struct hydrate *h, struct hasher *hasher, const char *path, bool *ret_good);
/* Takes a file as complete: writes record, manifest and final name, in the order hydrate.h gives. What is
 * there as it should be is not written again. etag: of its blob; NULL: as the record has it. */
int hydrate_publish(struct hydrate *h, const char *path, const char *etag);
/* Connections and threads, by the settings or as this machine is. */
void hydrate_set_width(const struct hydrate *h, struct download *d);
/* One download from open to publish. Data that proved wrong or outdated does not stay. */
int hydrate_download(struct hydrate *h);

/* mend.c */
/* Fetches what readers of the complete file found bad in it, if anybody asks. What cannot be fetched is no
 * failure: the file is as it was. 0; HYDRATE_STOPPED; TB_EXIT_IOERR. */
int hydrate_mend(struct hydrate *h);

/* present.c */
/* Looks for a file that needs no download: the final one, or a .part whose hash was right when a crash came
 * before its rename. 0 with *ret_found. */
int hydrate_find_complete(struct hydrate *h, bool *ret_found);

#endif
