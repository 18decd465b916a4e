/* SPDX-License-Identifier: Apache-2.0 */
/* For config.c: what a value of each kind must be, and what to say of one that is not. */
#ifndef TB_CONFIG_RULES_H
#define TB_CONFIG_RULES_H

#include "common/config.h"

enum config_kind {
    KIND_ID,       /* ^[A-Za-z0-9_-]{1,100}$ */
    KIND_ASSET_ID, /* tb_asset_id_valid() */
    KIND_ENDPOINT, /* https:// (http:// with TB_INSECURE_HTTP) */
    KIND_RUNTIME,  /* http://loopback[:port] or unix:/path */
    KIND_TARGET,   /* of a request: a path and maybe a query */
    KIND_PATH,     /* absolute */
    KIND_SECRET,   /* the same; what is no path may be the secret itself, and is never shown */
    KIND_COMMAND,  /* text that is never shown: keys are passed in options */
    KIND_TEXT,
    KIND_UPDATE,       /* tb_update_policy_parse() */
    KIND_PROVIDER_KEY, /* tb_provider_key_rule() */
    KIND_ADDR,         /* host:port */
    KIND_BOOL,
    KIND_UINT, /* uint64_t, with k/M/G suffix not allowed: as the first TrustBridge */
    KIND_UINT32,
    KIND_DURATION,
    KIND_DELIVERY,
    KIND_AFTER_READY, /* keep or close */
    KIND_DIMENSIONS,  /* tb_usage_dimensions_parse() */
    KIND_RESOURCE,    /* an ARM id or a GUID */
    KIND_IMDS,        /* http://loopback or link-local address[:port] */
    KIND_LEVEL,
};

struct config_setting {
    const char *name;
    enum config_kind kind;
    size_t offset;
    const char *def; /* NULL: optional without default, "": required */
    uint64_t min, max;
};

static inline bool config_kind_is_string(enum config_kind k)
{
    return k < KIND_BOOL || k == KIND_RESOURCE || k == KIND_IMDS;
}

/* Puts the value v into its member of c, or a finding into f and leaves the member as it is. */
void config_rule_apply(const struct config_setting *s, const char *v, struct tb_config *c,
                       struct tb_findings *f);

#endif
