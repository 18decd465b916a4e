/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/admin_routes.h"

#include <string.h>

#include "common/macros.h"
#include "proxy/gate/glob.h"

/* The runtimes' own lists, by which each row can be checked:
 *   vLLM          docs/usage/security.md; vllm/entrypoints/serve/ (lora, dev, elastic_ep, disagg, profile)
 *   SGLang        python/sglang/srt/entrypoints/http_server.py
 *   Triton        docs/protocol/extension_{model_repository,shared_memory,trace,logging}.md
 *   llama-server  tools/server/README.md, tools/server/server.cpp
 * `*` matches any run of characters, slashes too. A row that begins with `/` also matches behind a
 * version, as in /v1/sleep; one that begins with a star has a name that nothing else has, wherever the
 * runtime's root is. */
static const char *const vllm[] = {
    "*/load_lora_adapter",
    "*/unload_lora_adapter",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/pause",
    "/resume",
    "/is_paused",
    "*/reset_prefix_cache",
    "*/reset_mm_cache",
    "*/reset_encoder_cache",
    "*/collective_rpc",
    "*/scale_elastic_ep",
    "*/is_scaling_elastic_ep",
    "*/init_weight_transfer_engine",
    "*/start_weight_update",
    "*/start_draft_weight_update",
    "*/update_weights",
    "*/finish_weight_update",
    "*/weight_checker",
    "*/weight_info",
    "*/get_world_size",
    "*/abort_requests",
    "*/start_profile",
    "*/stop_profile",
    "/server_info",
    "/fault_tolerance/*",
};
static const char *const sglang[] = {
    "*/flush_cache",
    "*/clear_hicache_storage_backend",
    "/hicache/*",
    "*/update_weights_from_*",
    "*/update_weight_version",
    "*/init_weights_*",
    "*/destroy_weights_*",
    "*/send_weights_to_remote_instance",
    "*/get_weights_by_name",
    "*/get_weight_version",
    "*/post_process_weights",
    "*/weights_checker",
    "*/release_memory_occupation",
    "*/resume_memory_occupation",
    "*/pause_generation",
    "*/continue_generation",
    "*/load_lora_adapter_from_*",
    "*/set_internal_state",
    "*/get_server_info",
    "*/get_internal_state",
    "*/slow_down",
    "*/freeze_gc",
    "*/configure_logging",
    "*/set_trace_level",
    "*/abort_request",
    "*/open_session",
    "*/close_session",
    "*/start_expert_distribution_record",
    "*/stop_expert_distribution_record",
    "*/dump_expert_distribution_record",
    "/dumper/*",
    "/add_external_corpus",
    "/remove_external_corpus",
};
static const char *const triton[] = {
    "/v2/repository/*", "/v2/systemsharedmemory/*", "/v2/cudasharedmemory/*",
    "/v2/logging",      "/v2/trace/setting",        "/v2/models/*/trace/setting",
};
static const char *const llama_server[] = {
    "/slots",
    "/slots/*",
    "/props",
    "/lora-adapters",
    "/cvectors",
    "/cvectors/*",
    "/models/load",
    "/models/unload",
    "/models/sse",
    "/models/download",
    "/tools",
    "/cors-proxy",
    "/chat/completions/control",
};
/* Training, in the words of OpenAI and of those who imitate it. */
static const char *const tuning[] = {
    "*/fine_tuning", "*/fine_tuning/*", "/fine-tunes", "/fine-tunes/*", "/fine_tunes",
    "/fine_tunes/*", "/finetune",       "/finetune/*", "/finetunes",    "/finetunes/*",
    "/fine-tuning",  "/fine-tuning/*",  "/adapters",   "/adapters/*",
};
/* What was trained, put into the runtime: administration, too. */
static const char *const adapters[] = {
    "*/load_lora_adapter",
    "*/unload_lora_adapter",
    "*/load_lora_adapter_from_*",
    "/lora-adapters",
};
static const struct {
    const char *runtime;
    const char *const *glob;
    size_t n;
} table[] = {
    {"vLLM", vllm, ARRAY_SIZE(vllm)},
    {"SGLang", sglang, ARRAY_SIZE(sglang)},
    {"Triton", triton, ARRAY_SIZE(triton)},
    {"llama-server", llama_server, ARRAY_SIZE(llama_server)},
};

/* Longer than any row: what does not fit is compared by its end, which is where the names are. */
#define PATH_MAX_COMPARED 512

/* Lower case, each run of slashes as one, none at the end. */
static size_t admin_canonical(const char *path, size_t len, char out[static PATH_MAX_COMPARED])
{
    size_t n = 0, from = len > PATH_MAX_COMPARED ? len - PATH_MAX_COMPARED : 0;

    for (size_t i = from; i < len; i++) {
        char c = path[i];

        if (c == '/' && n > 0 && out[n - 1] == '/')
            continue;
        out[n++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    }
    while (n > 1 && out[n - 1] == '/')
        n--;
    return n;
}

/* Length of "/v1" and the like at the start of a path that goes on, else 0. */
static size_t admin_version(const char *path, size_t len)
{
    size_t n = 2;

    if (len < 3 || path[0] != '/' || path[1] != 'v')
        return 0;
    while (n < len && path[n] >= '0' && path[n] <= '9')
        n++;
    return n > 2 && n < len && path[n] == '/' ? n : 0;
}

static bool admin_matches(const char *const *globs, size_t n_globs, const char *path, size_t n)
{
    size_t version = admin_version(path, n);

    for (size_t k = 0; k < n_globs; k++)
        if (tb_glob_match(globs[k], strlen(globs[k]), path, n) ||
            (version && tb_glob_match(globs[k], strlen(globs[k]), path + version, n - version)))
            return true;
    return false;
}

bool tb_admin_route(const char *path, size_t len)
{
    char canonical[PATH_MAX_COMPARED];
    size_t n = admin_canonical(path, len, canonical);

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (admin_matches(table[i].glob, table[i].n, canonical, n))
            return true;
    return false;
}

enum tb_tuning tb_tuning_route(const char *path, size_t len)
{
    char canonical[PATH_MAX_COMPARED];
    size_t n = admin_canonical(path, len, canonical);

    if (admin_matches(tuning, ARRAY_SIZE(tuning), canonical, n))
        return TB_TUNING_TRAINS;
    return admin_matches(adapters, ARRAY_SIZE(adapters), canonical, n) ? TB_TUNING_ADAPTS : TB_TUNING_NONE;
}
