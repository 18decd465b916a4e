/* SPDX-License-Identifier: Apache-2.0 */
/* The service's state as a pure function of what the other programs left in their domain files
 * (docs/contracts.md), of the runtime's health and of the clock. Design section 3, "State". No I/O here:
 * facts.c gathers the facts. */
#ifndef TB_SERVICE_STATE_H
#define TB_SERVICE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/contact.h"
#include "common/lease_state.h"
#include "common/repairs.h"
#include "common/units.h"
#include "common/update_state.h"

enum tb_state {
    TB_STATE_BOOT,
    TB_STATE_AUTHORIZE,
    TB_STATE_HYDRATE,
    TB_STATE_DECRYPT,
    TB_STATE_READY,
    TB_STATE_SUSPENDED,
    TB_STATE_DOWN, /* everything is loaded, but a request would be refused: the reason says why */
    _TB_STATE_MAX,
};

enum tb_work { TB_WORK_ABSENT, TB_WORK_RUNNING, TB_WORK_COMPLETE, TB_WORK_FAILED };

/* What the signed manifest says of the model that was decrypted. */
enum tb_finetune { TB_FINETUNE_UNSIGNED, TB_FINETUNE_FORBIDDEN, TB_FINETUNE_ALLOWED };

/* Progress of hydrate, decrypt or delivery. */
struct tb_step {
    enum tb_work work;
    char phase[32]; /* the writer's own word: "downloading", "verifying" */
    uint64_t bytes_done, bytes_total;
    bool has_rate;             /* bytes are counted now: */
    uint64_t bytes_per_second; /* over the last seconds before it was written */
    char reason[TB_REASON_MAX];
    char mode[8];                 /* of the delivery: "view", "dir", "s3", "fifo", "auto" */
    uint64_t version;             /* of the asset; 0: the file does not say */
    enum tb_finetune finetune;    /* of decrypt */
    uint64_t written_realtime_us; /* when its writer last wrote the file; 0 when absent */
    /* By the boot clock, 0 when the file does not say: when the run began, and when the file was last
     * written. */
    uint64_t started_boottime_us, written_boottime_us;
};

/* What tb-decrypt says of a model that is read while it is delivered. */
struct tb_reading {
    bool known;
    uint64_t read_bytes;   /* of the model: readers have got them, in whole blocks */
    uint64_t served_bytes; /* that readers have got, however often */
    uint64_t cached_bytes, cache_bytes;
};

/* Where the bytes of a download come from, with TB_BLOB_MIRROR. */
struct tb_download_source {
    char mirror[16]; /* "used", "fails", "distrusted", "left_out"; "": there is no mirror */
    uint64_t mirror_bytes, storage_bytes; /* of this run */
};

struct tb_facts {
    bool suspended_flag;
    char suspended_reason[TB_REASON_MAX], suspended_since[TB_RFC3339_MAX];
    enum tb_lease_state lease;
    char lease_reason[TB_REASON_MAX];
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1];
    char expires_at[TB_RFC3339_MAX]; /* "" when the lease has none */
    char renewed_at[TB_RFC3339_MAX];
    bool has_deadline;
    uint64_t deadline_boottime_us; /* end of grace */
    struct tb_attested attested;
    char volume[16],
        volume_text[TB_REASON_MAX]; /* the state of a measured machine: tb-state(8); "" without */
    struct tb_step hydrate, decrypt, delivery;
    struct tb_download_source source; /* of hydrate */
    char no_view[TB_REASON_MAX];      /* why the delivery is no view, where it was to be one; else "" */
    struct tb_reading reading;        /* of the decryption, as are the repairs */
    struct tb_repairs repairs;
    struct tb_step next;       /* the download of another version beside the one that is served */
    struct tb_update update;   /* and what becomes of it */
    struct tb_contact contact; /* with the control plane */
    int64_t clock_off_s;       /* of this machine's clock, as tb-billing knows; 0: within its tolerance */
    const char *broken;        /* a domain file below TB_RUN_DIR that is not what it should be; a constant */
    int broken_error;          /* negative errno */
    const char *lost;          /* one that was removed, as tb_facts_lost() says; a constant */
    bool runtime_healthy;      /* its health endpoint answered 200 at the last probe */
    char audit_trouble[TB_REASON_MAX]; /* why no record of a request could be kept now; "" when it could */
};

struct tb_verdict {
    enum tb_state state;
    char reason[TB_REASON_MAX]; /* "" when there is nothing to explain */
    bool failed;                /* the step that the state waits for has failed: waiting does not help */
};

/* Derives the state: the one judgement of whether a request would be served now, and why not. The request
 * path, /health, /readiness, /status, the page, the metrics and tb-status all go by it. Suspension wins over
 * everything; Ready needs a valid lease, delivered weights, a healthy runtime and an audit that can take the
 * request's record. */
void tb_state_derive(const struct tb_facts *f, uint64_t now_boottime_us, struct tb_verdict *ret);
/* True when the lease's deadline has passed: asked at every request, between two looks at the files. */
bool tb_lease_over(const struct tb_facts *f, uint64_t now_boottime_us);

/* How far the download of the next version is, in percent; -1: not known. */
int tb_next_percent(const struct tb_facts *f);

const char *tb_state_name(enum tb_state s); /* "Boot", ... as the first TrustBridge spelled them */
/* The word of a progress file; an unknown one is work in progress. */
enum tb_work tb_work_from_string(const char *s);

#endif
