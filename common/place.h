/* SPDX-License-Identifier: Apache-2.0 */
/* The places where the programs put things, and how much room is left there: low is told before full stops
 * something. */
#ifndef TB_PLACE_H
#define TB_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"

#define TB_PLACE_PATH_MAX 256
#define TB_PLACE_FULL_BYTES 65536 /* file systems stop a little before nothing is left */

enum tb_place_id {
    TB_PLACE_AUDIT,      /* directory of TB_AUDIT_FILE */
    TB_PLACE_JOURNAL,    /* where journald keeps it */
    TB_PLACE_STATE,      /* TB_STATE_DIR: ledger, counters, the chain's head */
    TB_PLACE_RUN,        /* TB_RUN_DIR: a memory file system */
    TB_PLACE_CIPHERTEXT, /* TB_TARGET_DIR */
    _TB_PLACE_MAX,
};

struct tb_place {
    char path[TB_PLACE_PATH_MAX]; /* "": there is no such place here */
    bool known;                   /* the rest is */
    uint64_t device;              /* the same for places that share their room */
    uint64_t size_bytes, free_bytes, low_bytes;
    uint64_t files, free_files; /* files 0: as many as there is room for */
    bool read_only;
};

const char *tb_place_name(enum tb_place_id id); /* "audit", ... */
/* The paths, by the settings. */
void tb_places_init(struct tb_place places[static _TB_PLACE_MAX], const struct tb_config *c);
/* Looks at each, or at what of its path exists. low_bytes: TB_DISK_LOW_BYTES; of a small file system a tenth
 * is enough. */
void tb_places_measure(struct tb_place places[static _TB_PLACE_MAX], uint64_t low_bytes);
/* The file system of path, or of what of it exists, is read-only. */
bool tb_place_read_only(const char *path);
/* Nothing more fits, neither bytes nor files. */
bool tb_place_is_full(const struct tb_place *p);
bool tb_place_is_low(const struct tb_place *p);

#endif
