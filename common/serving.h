/* SPDX-License-Identifier: Apache-2.0 */
/* Which version of the asset the runtime is to serve at its next start: TB_TARGET_DIR/serving.json, which
 * tb-hydrate alone writes, and replaces at one instant. The version lies in TB_TARGET_DIR itself, as the
 * first one of a machine does, or beside it in TB_TARGET_DIR/ASSET@VERSION. docs/versions.md. */
#ifndef TB_SERVING_H
#define TB_SERVING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"

#define TB_SERVING_NAME "serving.json"
/* In the place of a version that is an overlay: the place of what it stands on. */
#define TB_SERVING_BASE_NAME ".base"

struct tb_serving {
    char asset_id[TB_ID_MAX + 1];
    uint64_t version;
    bool beside;
    /* Served before, and kept until this one has served: to go back to. 0: none. */
    uint64_t previous;
    bool previous_beside;
};

/* -ENOENT when there is none, or it is of another asset; -EBADMSG when it is not what it should be. */
int tb_serving_read(const char *target_dir, const char *asset_id, struct tb_serving *ret);
/* The version alone; 0: none that is known. */
uint64_t tb_serving_version(const char *target_dir, const char *asset_id);
/* The version whose key is wanted beside that of `current`, which the control plane gives anyway: the one to
 * go back to when current is on trial, else the one that is served. 0: none that is known. */
uint64_t tb_serving_held(const char *target_dir, const char *asset_id, uint64_t current);
/* Durable. 0 or -errno. */
int tb_serving_write(const char *target_dir, const struct tb_serving *s);

/* Where a version lies. Heap, NULL on ENOMEM. */
char *tb_serving_place(const char *target_dir, const char *asset_id, uint64_t version, bool beside);
/* Where what is to be served lies: TB_TARGET_DIR itself without serving.json. Heap, NULL on ENOMEM. */
char *tb_serving_dir(const char *target_dir, const char *asset_id);
/* Is this the name of a directory that tb_serving_place() gives to a version of some asset? */
bool tb_serving_is_place(const char *name);

#endif
