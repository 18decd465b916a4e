/* SPDX-License-Identifier: Apache-2.0 */
#include "common/facts.h"

#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/json.h"
#include "common/domain_file.h"

#define HYDRATE_FILE "tb-hydrate/progress.json"
#define VOLUME_FILE "tb-state/state.json"
#define DELIVERY_FILE "tb-runtime/delivery.json"
#define LOST_US (5 * TB_USEC_PER_SEC) /* so long is a unit up before its file counts as lost */

static void facts_copy_string(const cJSON *doc, const char *name, char *out, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    if (doc)
        (void)tb_json_get_string(doc, name, &s, err);
    snprintf(out, size, "%s", s);
}

static uint64_t facts_uint(const cJSON *doc, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    (void)tb_json_get_uint(doc, name, TB_JSON_INT_MAX, &v, err);
    return v;
}

static void facts_note_broken(struct tb_facts *f, const char *name, int error)
{
    if (error == -ENOENT)
        return;
    f->broken = name;
    f->broken_error = error;
}

static cJSON *facts_read_domain(const char *run_dir, const char *name, struct tb_facts *f)
{
    cJSON *doc = NULL;
    int r = tb_state_read_at(run_dir, name, &doc);

    if (r < 0)
        facts_note_broken(f, name, r);
    return doc;
}

static void facts_read_contact(const char *run_dir, struct tb_facts *f)
{
    int r = tb_contact_read(run_dir, TB_CONTACT_FILE, &f->contact);

    if (r < 0)
        facts_note_broken(f, TB_CONTACT_FILE, r);
}

static void facts_read_volume(const char *run_dir, struct tb_facts *f)
{
    _cleanup_json_ cJSON *doc = facts_read_domain(run_dir, VOLUME_FILE, f);

    facts_copy_string(doc, "state", f->volume, sizeof(f->volume));
    facts_copy_string(doc, "text", f->volume_text, sizeof(f->volume_text));
}

static void facts_read_clock(const char *run_dir, struct tb_facts *f)
{
    _cleanup_json_ cJSON *doc = facts_read_domain(run_dir, "tb-billing/clock.json", f);
    const cJSON *off = doc ? tb_json_member(doc, "off_seconds") : NULL;

    if (cJSON_IsNumber(off) && off->valuedouble > -(double)TB_JSON_INT_MAX &&
        off->valuedouble < (double)TB_JSON_INT_MAX)
        f->clock_off_s = (int64_t)off->valuedouble;
}

static void facts_format_time(uint64_t real_us, char out[static TB_RFC3339_MAX])
{
    out[0] = '\0';
    if (real_us > 0)
        tb_rfc3339_format(real_us, 0, out);
}

static void facts_read_lease(const char *run_dir, struct tb_facts *f)
{
    struct tb_lease_record l;
    int r = tb_lease_record_read(run_dir, TB_LEASE_FILE, &l);

    if (r < 0)
        return facts_note_broken(f, TB_LEASE_FILE, r);
    f->lease = l.state;
    snprintf(f->lease_reason, sizeof(f->lease_reason), "%s", l.reason);
    snprintf(f->contract_id, sizeof(f->contract_id), "%s", l.contract_id);
    snprintf(f->asset_id, sizeof(f->asset_id), "%s", l.asset_id);
    facts_format_time(l.expires_real_us, f->expires_at);
    facts_format_time(l.renewed_real_us, f->renewed_at);
    f->attested = l.attested;
    f->has_deadline = l.has_deadline;
    f->deadline_boottime_us = l.deadline_boot_us;
}

static uint64_t facts_written_us(const char *run_dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(run_dir, name);
    struct stat st;

    if (!path || stat(path, &st) < 0)
        return 0;
    return (uint64_t)st.st_mtim.tv_sec * TB_USEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec / 1000;
}

/* The document is the caller's to free; NULL: there is none. */
static cJSON *facts_read_step(const char *run_dir, const char *name, struct tb_facts *f, struct tb_step *s)
{
    cJSON *doc = facts_read_domain(run_dir, name, f);
    char err[TB_JSON_ERR_MAX];
    bool finetune;

    if (!doc)
        return NULL;
    facts_copy_string(doc, "state", s->phase, sizeof(s->phase));
    s->work = tb_work_from_string(s->phase);
    s->bytes_done = facts_uint(doc, "bytes_done");
    s->bytes_total = facts_uint(doc, "bytes_total");
    s->has_rate = tb_json_member(doc, "bytes_per_second");
    s->bytes_per_second = facts_uint(doc, "bytes_per_second");
    facts_copy_string(doc, "reason", s->reason, sizeof(s->reason));
    facts_copy_string(doc, "mode", s->mode, sizeof(s->mode));
    s->version = facts_uint(doc, "asset_version");
    if (tb_json_get_bool(doc, "allow_finetune", &finetune, err) == 0)
        s->finetune = finetune ? TB_FINETUNE_ALLOWED : TB_FINETUNE_FORBIDDEN;
    s->written_realtime_us = facts_written_us(run_dir, name);
    s->started_boottime_us = facts_uint(doc, "started_boottime_us");
    s->written_boottime_us = facts_uint(doc, "written_boottime_us");
    return doc;
}

static void facts_read_download(const char *run_dir, struct tb_facts *f)
{
    _cleanup_json_ cJSON *doc = facts_read_step(run_dir, HYDRATE_FILE, f, &f->hydrate);

    if (!doc)
        return;
    facts_copy_string(doc, "mirror", f->source.mirror, sizeof(f->source.mirror));
    f->source.mirror_bytes = facts_uint(doc, "mirror_bytes");
    f->source.storage_bytes = facts_uint(doc, "storage_bytes");
}

static void facts_read_delivery(const char *run_dir, struct tb_facts *f)
{
    _cleanup_json_ cJSON *doc = facts_read_step(run_dir, DELIVERY_FILE, f, &f->delivery);

    if (doc)
        facts_copy_string(doc, "no_view", f->no_view, sizeof(f->no_view));
}

static void facts_read_decryption(const char *run_dir, struct tb_facts *f)
{
    _cleanup_json_ cJSON *doc = facts_read_step(run_dir, "tb-decrypt/progress.json", f, &f->decrypt);

    if (!doc)
        return;
    f->reading = (struct tb_reading){.known = tb_json_member(doc, "served_bytes"),
                                     .read_bytes = facts_uint(doc, "read_bytes"),
                                     .served_bytes = facts_uint(doc, "served_bytes"),
                                     .cached_bytes = facts_uint(doc, "cached_bytes"),
                                     .cache_bytes = facts_uint(doc, "cache_bytes")};
    tb_repairs_read(doc, &f->repairs);
}

static void facts_read_update(const char *run_dir, struct tb_facts *f)
{
    int r = tb_update_read(run_dir, &f->update);

    if (r < 0)
        facts_note_broken(f, TB_UPDATE_FILE, r);
}

/* The flag's existence is what counts, readable or not. */
static void facts_read_flag(const char *run_dir, struct tb_facts *f)
{
    static const char name[] = "tb-authorize/suspended";
    _cleanup_free_ char *path = tb_path_join(run_dir, name);
    _cleanup_json_ cJSON *doc = NULL;

    f->suspended_flag = path && access(path, F_OK) == 0;
    if (!f->suspended_flag)
        return;
    doc = facts_read_domain(run_dir, name, f);
    facts_copy_string(doc, "reason", f->suspended_reason, sizeof(f->suspended_reason));
    facts_copy_string(doc, "since", f->suspended_since, sizeof(f->suspended_since));
}

/* A view can be read before all of it was verified, and is delivered when tb-decrypt says so: tb-load has
 * become the runtime by then. */
static void facts_finish_view(struct tb_facts *f)
{
    if (strcmp(f->delivery.phase, "streaming") == 0 && f->decrypt.work == TB_WORK_COMPLETE &&
        f->decrypt.started_boottime_us >= f->delivery.started_boottime_us)
        f->delivery.work = TB_WORK_COMPLETE;
}

static void facts_forget_decryption(struct tb_facts *f)
{
    f->decrypt = (struct tb_step){0};
    f->reading = (struct tb_reading){0};
    f->repairs = (struct tb_repairs){0};
}

/* The process that wrote the decryption's file has ended with it. What began before the delivery of now is of
 * an earlier run; so is what began before the download of now, unless a delivery follows that download, which
 * may be started again meanwhile. And of a delivery that has gone nothing is left in memory that could be
 * complete. */
static void facts_drop_leftovers(struct tb_facts *f)
{
    const struct tb_step *d = &f->decrypt;
    uint64_t began = f->delivery.started_boottime_us;

    if (f->delivery.work == TB_WORK_COMPLETE)
        return;
    if (f->delivery.work != TB_WORK_RUNNING)
        began = MAX(began, f->hydrate.started_boottime_us);
    if (d->started_boottime_us < began || (f->delivery.work == TB_WORK_ABSENT && d->work == TB_WORK_COMPLETE))
        facts_forget_decryption(f);
}

const char *tb_facts_lost(const struct tb_facts *f, const struct tb_unit *units, size_t n,
                          uint64_t realtime_us)
{
    const struct {
        const char *unit, *file;
        bool absent;
    } files[] = {
        {"tb-authorize.service", TB_LEASE_FILE, f->lease == TB_LEASE_ABSENT},
        /* Nobody needs it any more when the model is delivered. */
        {"tb-hydrate.service", HYDRATE_FILE,
         f->hydrate.work == TB_WORK_ABSENT && f->delivery.work == TB_WORK_ABSENT},
        {"tb-runtime.service", DELIVERY_FILE, f->delivery.work == TB_WORK_ABSENT},
    };

    for (size_t k = 0; k < ARRAY_SIZE(files); k++)
        for (size_t i = 0; files[k].absent && i < n; i++)
            if (strcmp(units[i].name, files[k].unit) == 0 && strcmp(units[i].active, "active") == 0 &&
                units[i].since_realtime_us > 0 && units[i].since_realtime_us + LOST_US < realtime_us &&
                (!f->broken || strcmp(f->broken, files[k].file) != 0))
                return files[k].file;
    return NULL;
}

void tb_facts_read(const char *run_dir, struct tb_facts *ret)
{
    struct tb_facts f = {.runtime_healthy = ret->runtime_healthy};

    memcpy(f.audit_trouble, ret->audit_trouble, sizeof(f.audit_trouble));
    facts_read_flag(run_dir, &f);
    facts_read_lease(run_dir, &f);
    facts_read_contact(run_dir, &f);
    facts_read_volume(run_dir, &f);
    facts_read_clock(run_dir, &f);
    facts_read_download(run_dir, &f);
    facts_read_delivery(run_dir, &f);
    cJSON_Delete(facts_read_step(run_dir, "tb-next/progress.json", &f, &f.next));
    facts_read_decryption(run_dir, &f);
    facts_read_update(run_dir, &f);
    facts_finish_view(&f);
    facts_drop_leftovers(&f);
    *ret = f;
}
