/* SPDX-License-Identifier: Apache-2.0 */
/* The one reader of the TB_* environment (/etc/trustbridge/trustbridge.env under systemd). Design section 4
 * and docs/configuration.md. All errors are reported together; unknown TB_ names are warned about. */
#ifndef TB_CONFIG_H
#define TB_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/findings.h"
#include "common/id.h"
#include "common/macros.h"

/* What systemd passes on to the programs. */
#define TB_CONFIG_FILE "/etc/trustbridge/trustbridge.env"

enum tb_delivery { TB_DELIVERY_DIR, TB_DELIVERY_FIFO, TB_DELIVERY_VIEW, TB_DELIVERY_S3, TB_DELIVERY_AUTO };

/* A host:port or a unix socket to listen on or connect to. */
/* "dir", "fifo", "view", "auto". */
const char *tb_delivery_name(enum tb_delivery d);

struct tb_config {
    /* which asset, under which contract, from whom */
    char *contract_id, *asset_id, *edc_endpoint;
    bool insecure_http;
    char *provider_key;                                 /* NULL: none is pinned; common/provider_key.h */
    char *ca_file, *client_cert_path, *client_key_path; /* NULL: unset */
    uint64_t lease_grace_us;
    char *tpm; /* device, or the socket of a software TPM */
    /* download */
    char *target_dir;
    unsigned download_concurrency, download_threads; /* 0: unset, as the machine is */
    uint64_t download_chunk_bytes;
    char *blob_mirror; /* NULL: none */
    bool blob_mirror_sas;
    /* another version of the asset */
    char *update;               /* when it is switched to: tb_update_policy_parse() */
    uint64_t switch_drain_us;   /* so long requests that are being served are waited for */
    uint64_t switch_hold_us;    /* so long requests wait during a switch; 0: none does */
    uint64_t switch_timeout_us; /* until then it must serve */
    /* delivery */
    enum tb_delivery delivery;
    bool view_close; /* the view ends when the runtime is ready, which has a copy of its own then */
    char *pipe_path, *ready_signal, *model_dir;
    char *runtime_exec, *runtime_url, *runtime_health; /* runtime_exec NULL: unset */
    bool runtime_engine;                               /* runtime_exec is a container engine */
    /* serving */
    char *public_addr, *health_addr; /* "host:port" */
    char *routes;
    char *tls_cert, *tls_key, *api_keys, *cors_origins, *audit_file; /* NULL: unset */
    uint64_t max_body_bytes;
    uint64_t default_max_tokens;
    unsigned connections_per_address; /* 0: any number */
    /* billing */
    bool billing_enabled;
    uint64_t billing_interval_us;
    uint32_t billing_dimensions; /* bits, 1 << row of tb_usage_dimension */
    char *billing_resource_id;   /* NULL: to be asked of ARM */
    char *billing_plan_id, *metering_endpoint, *imds_endpoint, *arm_endpoint;
    /* everywhere */
    uint64_t disk_low_bytes;   /* free space below which a warning is given; 0: never */
    char *run_dir, *state_dir; /* parents of the programs' directories: /run, /var/lib */
    int log_level;             /* enum tb_log_level */
};

#define TB_CONFIG_REQUIRED "required, not set" /* the text of such a finding */

/* Reads environ into *ret, which is zero-initialised, and adds what is wrong to f. A setting with a wrong
 * value has its default, or is unset: ret can be looked at for further faults, but not be run with. */
void tb_config_read(char *const *env, struct tb_config *ret, struct tb_findings *f);
/* The same for running. On success 0. Else -EINVAL and *ret_errors is a heap string: "N configuration
 * errors:\n" and one "  TB_NAME: reason; remedy" line each. *ret_warnings (heap, or NULL when none) lists
 * unknown TB_ names, one a line. */
int tb_config_load(char *const *env, struct tb_config *ret, char **ret_errors, char **ret_warnings);
void tb_config_clear(struct tb_config *c);
#define _cleanup_config_ _cleanup_(tb_config_clear)

/* true when name is a setting, or one of somebody else's beside ours. Else false, and a finding when it
 * begins as ours do or is almost one of ours. */
bool tb_config_check_name(const char *name, unsigned line, enum tb_finding_level level,
                          struct tb_findings *f);
/* May the value of this setting be shown, whatever was written there? */
bool tb_config_shows_value(const char *name);

struct tb_program {
    const char *name, *help;
    /* What the program would refuse of settings whose form is right, files that they name included; NULL:
     * nothing. */
    void (*check)(const struct tb_config *c, struct tb_findings *f);
};
/* What every daemon's main() does first: handles --help (prints help to stdout, exits 0), --version, --check
 * (prints findings to stdout, exits 0 or 78) and unknown options (exit 64), sets up the log, loads the
 * environment, logs warnings and errors (exit 78). */
void tb_config_main(int argc, char **argv, const struct tb_program *p, struct tb_config *ret);

#endif
