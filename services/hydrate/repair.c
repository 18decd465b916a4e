/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/repair.h"

#include <string.h>

#include "common/domain_file.h"
#include "common/events.h"
#include "common/file_mark.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"

#define RECORD_NAME "repair.json"

static const char *const cause_names[_REPAIR_CAUSE_MAX] = {
    [REPAIR_SOURCE] = "source", [REPAIR_DISK] = "disk", [REPAIR_KEY] = "key"};

static const char *repair_string(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    (void)tb_json_get_string(o, name, &s, err);
    return s;
}

static uint64_t repair_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    (void)tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err);
    return v;
}

static enum repair_cause repair_cause_named(const char *name)
{
    for (int c = 0; c < _REPAIR_CAUSE_MAX; c++)
        if (strcmp(name, cause_names[c]) == 0)
            return (enum repair_cause)c;
    return REPAIR_DISK;
}

/* The word of tb-decrypt, in this boot. NULL: none. */
static cJSON *repair_read_decryption(const char *run_dir)
{
    cJSON *o = NULL;

    return tb_state_read_at(run_dir, "tb-decrypt/progress.json", &o) == 0 ? o : NULL;
}

static void repair_forget(struct repair *r)
{
    _cleanup_free_ char *path = r->dir ? tb_path_join(r->dir, RECORD_NAME) : NULL;

    r->tries = 0;
    r->refused = false;
    r->noted_us = 0;
    if (path)
        (void)unlink(path);
}

/* The model was delivered whole after the last try. */
static bool repair_delivered_since(const char *run_dir, const cJSON *record)
{
    _cleanup_json_ cJSON *o = repair_read_decryption(run_dir);
    char id[TB_BOOT_ID_MAX] = "";
    uint64_t us = o ? repair_uint(o, "delivered_boottime_us") : 0;

    (void)tb_boot_id(id);
    return us > 0 &&
           (strcmp(id, repair_string(record, "boot_id")) != 0 || us > repair_uint(record, "boottime_us"));
}

static void repair_read_record(struct repair *r, const cJSON *o)
{
    if (strcmp(repair_string(o, "target"), r->target) != 0 ||
        strcmp(repair_string(o, "sha256"), r->sha256) != 0)
        return;
    r->tries = (unsigned)MIN(repair_uint(o, "tries"), (uint64_t)REPAIR_TRIES);
    r->refused = cJSON_IsTrue(tb_json_member(o, "refused"));
    r->noted_us = repair_uint(o, "noted_us");
    r->cause = repair_cause_named(repair_string(o, "cause"));
    snprintf(r->reason, sizeof(r->reason), "%s", repair_string(o, "reason"));
}

void repair_load(struct repair *r, const struct tb_config *cfg, const char *program,
                 const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_json_ cJSON *o = NULL;
    int e;

    repair_clear(r);
    r->program = program;
    r->target = cfg->target_dir;
    tb_hex_encode(sha256, SHA256_BYTES, r->sha256);
    e = tb_state_dir(cfg->state_dir, program, &r->dir);
    if (e < 0) {
        tb_warn("cannot make %s/%s: %s; the tries to repair a damaged model are not counted over restarts",
                cfg->state_dir, program, strerror(-e));
        return;
    }
    e = tb_state_read_at(r->dir, RECORD_NAME, &o);
    if (e == 0 && repair_delivered_since(cfg->run_dir, o))
        repair_forget(r);
    else if (e == 0)
        repair_read_record(r, o);
    else if (e != -ENOENT) /* the count is what rotted: one more try, not three, and not none */
        *r = (struct repair){.program = program,
                             .dir = r->dir,
                             .target = r->target,
                             .tries = REPAIR_TRIES - 1,
                             .cause = REPAIR_DISK};
    tb_hex_encode(sha256, SHA256_BYTES, r->sha256);
}

void repair_settle(const char *state_dir, const char *run_dir)
{
    struct repair r = {0};
    _cleanup_json_ cJSON *o = NULL;

    if (tb_state_dir(state_dir, "tb-hydrate", &r.dir) == 0 && tb_state_read_at(r.dir, RECORD_NAME, &o) == 0 &&
        repair_delivered_since(run_dir, o))
        repair_forget(&r);
    repair_clear(&r);
}

void repair_clear(struct repair *r)
{
    free(r->dir);
    *r = (struct repair){0};
}

bool repair_noted(const struct repair *r, const char *run_dir, const struct stat *st, uint64_t *ret_us,
                  char ret_reason[static REPAIR_REASON_MAX])
{
    _cleanup_json_ cJSON *o = repair_read_decryption(run_dir);
    const cJSON *damaged = o ? tb_json_member(o, "damaged") : NULL;
    uint64_t us = o ? repair_uint(o, "started_boottime_us") : 0;

    if (!damaged || !tb_file_mark_matches(damaged, st) || us == r->noted_us)
        return false;
    *ret_us = us;
    snprintf(ret_reason, REPAIR_REASON_MAX, "%s", repair_string(o, "reason"));
    return true;
}

bool repair_exhausted(const struct repair *r)
{
    return r->tries >= REPAIR_TRIES;
}

static void repair_save(const struct repair *r)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char id[TB_BOOT_ID_MAX] = "";
    int e = 0;

    (void)tb_boot_id(id);
    if (!o || !cJSON_AddStringToObject(o, "target", r->target) ||
        !cJSON_AddStringToObject(o, "sha256", r->sha256) || tb_json_add_uint(o, "tries", r->tries) < 0 ||
        !cJSON_AddBoolToObject(o, "refused", r->refused) ||
        !cJSON_AddStringToObject(o, "cause", cause_names[r->cause]) ||
        !cJSON_AddStringToObject(o, "reason", r->reason) ||
        tb_json_add_uint(o, "noted_us", r->noted_us) < 0 || !cJSON_AddStringToObject(o, "boot_id", id) ||
        tb_json_add_uint(o, "boottime_us", tb_now_boottime_us()) < 0)
        e = -ENOMEM;
    if (e == 0 && r->dir)
        e = tb_state_write(r->dir, RECORD_NAME, o, 1);
    if (e < 0)
        tb_warn("cannot write %s/" RECORD_NAME ": %s; this try is not counted over a restart", r->dir,
                strerror(-e));
}

void repair_count(struct repair *r, const char *path, enum repair_cause cause, const char *reason,
                  uint64_t noted_us)
{
    char text[REPAIR_REASON_MAX + 16];
    const char *const fields[] = {text, NULL};

    r->tries++;
    r->cause = cause;
    r->noted_us = noted_us ? noted_us : r->noted_us;
    snprintf(r->reason, sizeof(r->reason), "%s", reason);
    repair_save(r);
    if (cause == REPAIR_SOURCE && repair_exhausted(r))
        return; /* the refusal follows */
    snprintf(text, sizeof(text), "TB_REASON=%s", r->reason);
    tb_log_full(TB_LOG_WARN, TB_EVENT_REPAIR, fields, "%s is damaged: %s; %s, try %u of %d", path, reason,
                cause == REPAIR_KEY ? "its hash is right, so it is decrypted once more" : "fetching it again",
                r->tries, REPAIR_TRIES);
}

int repair_refuse(struct repair *r, const char *path, struct tb_outcome *o)
{
    static const char *const remedy[_REPAIR_CAUSE_MAX] = {
        [REPAIR_SOURCE] = "is damaged at its source: have the provider upload it again (tbpkg upload)",
        [REPAIR_DISK] = "was fetched again and again, and the disk damages it: see journalctl -k",
        [REPAIR_KEY] = "does not go with its key: have the provider publish it again (tbpkg publish)",
    };
    const char *name = strrchr(path, '/');
    _cleanup_free_ char *record = r->dir ? tb_path_join(r->dir, RECORD_NAME) : NULL;

    r->refused = true;
    repair_save(r);
    /* The cure stands before the cause: /status shows the first 255 bytes. */
    return tb_outcome_set(o, TB_EXIT_DATAERR, "%s %s; then: %s%s%ssystemctl restart %s.service (%s)",
                          name ? name + 1 : path, remedy[r->cause], record ? "rm " : "", record ? record : "",
                          record ? "; " : "", r->program, r->reason);
}
