/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the runtime how many tokens its context has: max_model_len of /v1/models (vLLM, SGLang), meta.n_ctx
 * there or default_generation_settings.n_ctx of /props (llama-server). Only where a key has a budget; asked
 * again when the runtime was away. */
#ifndef TB_PROXY_RUNTIME_LIMITS_H
#define TB_PROXY_RUNTIME_LIMITS_H

#include <stdbool.h>

#include "proxy/http/upstream.h"
#include "proxy/usage/cost.h"
#include "proxy/usage/json_scan.h"

struct tb_limits_fetch {
    struct tb_upstream *upstream;
    struct tb_runtime_limits *limits; /* context is set */
    bool (*wanted)(void *arg);        /* some key has a budget */
    void (*finished)(void *arg);      /* called once for each start that returned true */
    void *wanted_arg, *finished_arg;
    /* private */
    struct tb_call *call;
    struct tb_json_scan scan;
    unsigned stage; /* the page that is asked for */
    bool done;
};

/* Starts to ask unless it is known, being asked or not wanted. True: ->finished will be called. */
bool tb_limits_fetch_start(struct tb_limits_fetch *f);
/* The runtime is away: what it said holds no longer. */
void tb_limits_fetch_reset(struct tb_limits_fetch *f);

#endif
