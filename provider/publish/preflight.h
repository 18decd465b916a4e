/* SPDX-License-Identifier: Apache-2.0 */
/* What publishing needs, looked at before the first byte is read: the credential and what it may do, the
 * container, the asset's name, the control plane, the token and its scopes, the registry and the tools of the
 * image. tbpkg publish and tbpkg doctor.
 *
 * Nothing is changed anywhere: the right to write is proved by a request that has to be refused for another
 * reason. Wrong would be proved by a run that passes and is then refused by a service that did not change. */
#ifndef TBPKG_PUBLISH_PREFLIGHT_H
#define TBPKG_PUBLISH_PREFLIGHT_H

#include "provider/cli/checklist.h"
#include "provider/publish/store.h"
#include "provider/remote/remote.h"

struct preflight {
    const struct cli *cli; /* for messages */
    const char *asset_id;  /* NULL: of no asset */
    /* "credential", "container", "asset id" */
    struct asset_store store;
    bool fresh; /* the asset is made by this run: nothing may be stored under its id */
    /* "control plane", "token", "registration" */
    struct remote remote;
    bool replace;        /* live contracts get another key */
    uint64_t seconds;    /* how long it takes until the token is needed; 0: not known */
    char sha256[64 + 1]; /* of the ciphertext that will be registered; "": a new one */
    /* "builder", "registry", "base image" */
    const char *target; /* oci, vm-qemu or vm-azure */
    const char *registry, *base;
    bool no_push, insecure_registry;
    /* what came of it */
    struct checklist list;
};
#define PREFLIGHT_INIT                                                                                       \
    {                                                                                                        \
        .store = ASSET_STORE_INIT                                                                            \
    }
void preflight_clear(struct preflight *p);
#define _cleanup_preflight_ _cleanup_(preflight_clear)

void preflight_storage(struct preflight *p);
/* remote has been checked by remote_check(). */
void preflight_control_plane(struct preflight *p);
void preflight_image(struct preflight *p);

#endif
