/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/versions.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/domain_file.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/range_map.h"
#include "hydrate/overlay.h"
#include "hydrate/partial.h"
#include "hydrate/target.h"
#include "hydrate/verified.h"
#include "tbenc/tbenc.h"

#define WISH_FILE "tb-update/wish.json"

static void place_manifest_freep(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

/* --- removing ------------------------------------------------------------------------------------------- */

/* A directory of ours has plain files in it, and one of such for what an overlay stands on. */
static void place_remove(const char *target_dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(target_dir, name);
    int r = -ENOMEM;

    if (path) {
        overlay_remove(path);
        r = partial_remove_dir(path);
    }
    if (r < 0)
        tb_warn("cannot remove %s, which holds a version that is not served any more: %s", name,
                strerror(-r));
    else if (r > 0)
        tb_info("removed %s: that version is not served any more", path);
}

static struct tbenc_manifest *place_manifest(const char *dir)
{
    _cleanup_free_ char *path = tb_path_join(dir, TARGET_MANIFEST_NAME), *text = NULL;
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e;
    size_t len;

    if (!path || tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len) < 0 ||
        tbenc_manifest_parse(text, len, TBENC_OVERLAY, &m, &e) < 0)
        return NULL;
    return m;
}

/* With what is left of a download of it, of which nothing comes any more for who reads it. */
static void place_remove_file(const char *dir, const char *name)
{
    static const char *const suffixes[] = {"", VERIFIED_SUFFIX};
    _cleanup_free_ char *final_path = tb_path_join(dir, name);
    int r = final_path ? partial_remove(final_path) : -ENOMEM;

    if (r < 0)
        tb_warn("cannot remove what came of %s: %s", final_path ? final_path : name, strerror(-r));
    for (size_t i = 0; final_path && i < ARRAY_SIZE(suffixes); i++) {
        _cleanup_free_ char *path = tb_strf("%s%s", final_path, suffixes[i]);

        if (path && unlink(path) < 0 && errno != ENOENT)
            tb_warn("cannot remove %s, which is not served any more: %s", path, strerror(errno));
    }
}

/* `name` is `file`, or one that belongs to it. */
static bool name_belongs_to(const char *name, const char *file)
{
    static const char *const suffixes[] = {"", VERIFIED_SUFFIX, PARTIAL_SUFFIX, PARTIAL_RECORD_SUFFIX,
                                           PARTIAL_LIVE_SUFFIX};
    size_t n = strlen(file);

    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
        if (strncmp(name, file, n) == 0 && strcmp(name + n, suffixes[i]) == 0)
            return true;
    return false;
}

void versions_end_former(const char *place, const struct tbenc_manifest *now)
{
    _cleanup_(place_manifest_freep) struct tbenc_manifest *m = place_manifest(place);
    _cleanup_free_ char *live = NULL;

    if (m && !name_belongs_to(m->weights_filename, now->weights_filename) &&
        (live = tb_strf("%s/%s" PARTIAL_LIVE_SUFFIX, place, m->weights_filename)))
        tb_range_map_end(live, TB_RANGE_MAP_ABANDONED);
}

/* Of a file with this suffix: is it what tb-hydrate keeps of a file of its own? What that is called. */
static char *place_brought(const char *place, const char *entry, const char *suffix)
{
    size_t n = strlen(entry), tail = strlen(suffix);
    _cleanup_free_ char *name = NULL, *path = NULL, *part = NULL;

    if (n <= tail || strcmp(entry + n - tail, suffix) != 0 || !(name = strndup(entry, n - tail)) ||
        !(path = tb_path_join(place, name)) || !(part = tb_strf("%s" PARTIAL_SUFFIX, path)))
        return NULL;
    if (strcmp(suffix, VERIFIED_SUFFIX) == 0 ? !verified_any(path) : access(part, F_OK) < 0)
        return NULL;
    return TAKE_PTR(name);
}

void versions_sweep_former(const char *place, const struct tbenc_manifest *now)
{
    static const char *const suffixes[] = {VERIFIED_SUFFIX, PARTIAL_RECORD_SUFFIX};
    _cleanup_closedir_ DIR *d = opendir(place);
    struct dirent *e;

    while (d && (e = readdir(d)))
        for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
            _cleanup_free_ char *name = place_brought(place, e->d_name, suffixes[i]);

            if (!name || name_belongs_to(name, now->weights_filename))
                continue;
            tb_info("%s took the place of %s in %s, which is removed", now->weights_filename, name, place);
            place_remove_file(place, name);
        }
}

/* TB_TARGET_DIR itself stays, with what is somebody else's. The manifest goes last: it names the rest. */
static void target_remove_files(const char *target_dir)
{
    _cleanup_(place_manifest_freep) struct tbenc_manifest *m = place_manifest(target_dir);
    _cleanup_free_ char *manifest = tb_path_join(target_dir, TARGET_MANIFEST_NAME);

    if (!m || !manifest)
        return;
    overlay_remove(target_dir);
    place_remove_file(target_dir, m->weights_filename);
    if (unlink(manifest) == 0)
        tb_info("removed %s from %s: that version is not served any more", m->weights_filename, target_dir);
}

static bool place_is(const char *name, const char *asset_id, uint64_t version, bool beside)
{
    char own[TB_ID_MAX + 24];

    snprintf(own, sizeof(own), "%s@%llu", asset_id, (unsigned long long)version);
    return beside && strcmp(name, own) == 0;
}

/* All versions but the one that is to be served, the one to go back to, and `coming` (0: none). */
static void target_sweep(const char *target_dir, const struct tb_serving *s, uint64_t coming)
{
    _cleanup_closedir_ DIR *d = opendir(target_dir);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (tb_serving_is_place(e->d_name) && !place_is(e->d_name, s->asset_id, s->version, s->beside) &&
            !place_is(e->d_name, s->asset_id, s->previous, s->previous_beside) &&
            !place_is(e->d_name, s->asset_id, coming, coming != 0))
            place_remove(target_dir, e->d_name);
    if (s->beside && (!s->previous || s->previous_beside))
        target_remove_files(target_dir);
}

/* --- which version serves ------------------------------------------------------------------------------- */

/* Complete, and as it was when it was verified. */
static bool place_is_whole(const char *dir)
{
    _cleanup_(place_manifest_freep) struct tbenc_manifest *m = place_manifest(dir);
    _cleanup_free_ char *path = m ? tb_path_join(dir, m->weights_filename) : NULL;
    struct stat st;

    return path && lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
           verified_matches(path, &st, m->sha256_ciphertext) && overlay_is_whole(dir, m);
}

/* Where a second copy is kept, in case that the first is lost: one, as whichever unit tb-hydrate runs. */
static char *serving_copy_dir(const struct tb_config *cfg)
{
    return tb_path_join(cfg->state_dir, "tb-hydrate");
}

static bool serving_equal(const struct tb_serving *a, const struct tb_serving *b)
{
    return a->version == b->version && a->beside == b->beside && a->previous == b->previous &&
           a->previous_beside == b->previous_beside;
}

static void serving_copy(const struct tb_config *cfg, const struct tb_serving *s)
{
    _cleanup_free_ char *dir = serving_copy_dir(cfg);
    struct tb_serving kept;
    int r = dir ? tb_mkdir_p(dir, 0755) : -ENOMEM;

    if (r == 0 && tb_serving_read(dir, s->asset_id, &kept) == 0 && serving_equal(&kept, s))
        return;
    if (r == 0)
        r = tb_serving_write(dir, s);
    if (r < 0)
        tb_warn("cannot write %s/tb-hydrate/" TB_SERVING_NAME ", the copy of the one beside the model: %s",
                cfg->state_dir, strerror(-r));
}

static int serving_decide(const struct tb_config *cfg, const struct tb_serving *s)
{
    int r = tb_serving_write(cfg->target_dir, s);

    if (r == 0)
        serving_copy(cfg, s);
    return r;
}

/* serving.json was lost, and the disk was not: what served goes on, and none that waits beside it. */
static bool serving_restore(const struct tb_config *cfg, struct tb_serving *ret)
{
    _cleanup_free_ char *dir = serving_copy_dir(cfg), *place = NULL;
    struct tb_serving s;

    if (!dir || tb_serving_read(dir, cfg->asset_id, &s) < 0)
        return false;
    place = tb_serving_place(cfg->target_dir, s.asset_id, s.version, s.beside);
    if (!place || !place_is_whole(place) || tb_serving_write(cfg->target_dir, &s) < 0)
        return false;
    tb_warn("%s/" TB_SERVING_NAME " was lost, and is written again: %s@%" PRIu64 " is what served",
            cfg->target_dir, s.asset_id, s.version);
    *ret = s;
    return true;
}

/* --- a download ----------------------------------------------------------------------------------------- */

static bool version_is_beside(const struct versions *v)
{
    _cleanup_free_ char *place = tb_serving_place(v->cfg->target_dir, v->cfg->asset_id, v->version, true);
    struct stat st;

    return v->version && place && lstat(place, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The one to go back to may be wanted anew, and is where it was. Without serving.json, which was lost or
 * is of another asset, what is there is not fetched again: there may be no room for two. */
static bool version_lies_beside(const struct versions *v)
{
    const struct tb_serving *s = &v->serving;

    if (!v->has_serving)
        return version_is_beside(v);
    if (v->version == 0 || v->version == s->version)
        return s->beside;
    return v->version != s->previous || s->previous_beside;
}

int versions_begin(struct versions *v, struct tb_outcome *o)
{
    const char *target = v->cfg->target_dir;
    uint64_t version;
    int r;

    v->has_serving = tb_serving_read(target, v->cfg->asset_id, &v->serving) == 0;
    if (v->has_serving)
        serving_copy(v->cfg, &v->serving);
    else if (serving_restore(v->cfg, &v->serving)) {
        if (!v->next && v->version != v->serving.version) /* what we were given is of another version */
            return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s@%" PRIu64 " is what serves: once more, for that",
                                  v->cfg->asset_id, v->serving.version);
        v->has_serving = true;
    }
    version = v->version ? v->version : v->serving.version;
    v->adopts = v->next && v->version && !v->has_serving;
    if (v->next && !v->adopts && (!v->version || v->version == v->serving.version)) {
        if (v->has_serving)
            target_sweep(target, &v->serving, 0);
        return tb_outcome_set(o, HYDRATE_NOTHING, "there is no other version to download");
    }
    if (v->next && !v->adopts)
        target_sweep(target, &v->serving, v->version);
    v->beside = version_lies_beside(v);
    v->place = tb_serving_place(target, v->cfg->asset_id, version, v->beside);
    if (!v->place)
        return hydrate_outcome_io(o, -ENOMEM, "cannot name a directory in", target);
    r = tb_mkdir_p(v->place, 0755);
    return r < 0 ? hydrate_outcome_io(o, r, "cannot create", v->place) : 0;
}

int versions_complete(struct versions *v, struct tb_outcome *o)
{
    struct tb_serving s = {.version = v->version, .beside = v->beside};
    int r;

    if (v->next || !v->version || (v->has_serving && v->serving.version == v->version))
        return 0;
    snprintf(s.asset_id, sizeof(s.asset_id), "%s", v->cfg->asset_id);
    r = serving_decide(v->cfg, &s);
    if (r < 0)
        return hydrate_outcome_io(o, r, "cannot write " TB_SERVING_NAME " in", v->cfg->target_dir);
    target_sweep(v->cfg->target_dir, &s, 0);
    return 0;
}

int versions_adopt(const struct versions *v, bool same, struct tb_outcome *o)
{
    struct tb_serving s = {.version = v->version, .beside = v->beside};
    int r;

    if (!same)
        return tb_outcome_set(o, HYDRATE_NOTHING,
                              "what is in %s is of an older version, whose number is not known: version "
                              "%" PRIu64 " is downloaded when tb-hydrate.service next starts",
                              v->place, v->version);
    snprintf(s.asset_id, sizeof(s.asset_id), "%s", v->cfg->asset_id);
    r = serving_decide(v->cfg, &s);
    return r < 0 ? hydrate_outcome_io(o, r, "cannot write " TB_SERVING_NAME " in", v->cfg->target_dir)
                 : tb_outcome_set(o, HYDRATE_NOTHING, "what is in %s is version %" PRIu64, v->place,
                                  v->version);
}

void versions_clear(struct versions *v)
{
    tb_freep(&v->place);
}

/* --- deciding ------------------------------------------------------------------------------------------- */

static int switch_take(const struct tb_config *cfg, struct tb_serving *s, uint64_t version,
                       struct tb_outcome *o)
{
    _cleanup_free_ char *place = NULL;
    bool beside = version != s->previous || s->previous_beside;

    if (version == s->version)
        return 0;
    place = tb_serving_place(cfg->target_dir, s->asset_id, version, beside);
    if (!place || !place_is_whole(place))
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "%s@%" PRIu64 " is not complete in %s", s->asset_id,
                              version, place ? place : cfg->target_dir);
    /* One on trial has not served: the one before it stays what is gone back to. */
    if (!s->previous) {
        s->previous = s->version;
        s->previous_beside = s->beside;
    } else if (s->previous == version) {
        s->previous = 0;
    }
    s->version = version;
    s->beside = beside;
    return 0;
}

static void switch_back(struct tb_serving *s)
{
    if (!s->previous)
        return;
    s->version = s->previous;
    s->beside = s->previous_beside;
    s->previous = 0;
    s->previous_beside = false;
}

int versions_forsake(const struct versions *v, const char *why, struct tb_outcome *o)
{
    struct tb_serving s = v->serving;

    if (v->next || !v->has_serving || !s.previous)
        return 0;
    switch_back(&s);
    if (serving_decide(v->cfg, &s) < 0)
        return 0;
    return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s@%" PRIu64 " is damaged (%s): back to version %" PRIu64,
                          s.asset_id, v->serving.version, why, s.version);
}

static int switch_do(const struct tb_config *cfg, const cJSON *wish, struct tb_serving *s,
                     struct tb_outcome *o)
{
    char err[TB_JSON_ERR_MAX];
    const char *action = "";
    uint64_t version = 0;

    (void)tb_json_get_string(wish, "action", &action, err);
    (void)tb_json_get_uint(wish, "version", TB_JSON_INT_MAX, &version, err);
    if (strcmp(action, "take") == 0 && version)
        return switch_take(cfg, s, version, o);
    if (strcmp(action, "back") == 0)
        switch_back(s);
    else if (strcmp(action, "keep") == 0)
        s->previous = 0;
    else
        return tb_outcome_set(o, TB_EXIT_USAGE, "%s/" WISH_FILE " says nothing that can be done",
                              cfg->run_dir);
    return 0;
}

int versions_switch(const struct tb_config *cfg, struct tb_outcome *o)
{
    _cleanup_json_ cJSON *wish = NULL;
    struct tb_serving before, s;
    char err[TB_JSON_ERR_MAX];
    uint64_t coming = 0;
    int r = tb_state_read_at(cfg->run_dir, WISH_FILE, &wish);

    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_USAGE, "cannot read %s/" WISH_FILE ": %s; it is tb-update's to ask",
                              cfg->run_dir, strerror(-r));
    r = tb_serving_read(cfg->target_dir, cfg->asset_id, &s);
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "cannot read %s/" TB_SERVING_NAME ": %s", cfg->target_dir,
                              strerror(-r));
    before = s;
    r = switch_do(cfg, wish, &s, o);
    if (r != 0)
        return r;
    if (s.version != before.version || s.previous != before.previous) {
        r = serving_decide(cfg, &s);
        if (r < 0)
            return hydrate_outcome_io(o, r, "cannot write " TB_SERVING_NAME " in", cfg->target_dir);
        tb_info("the runtime's next start takes %s@%" PRIu64 "%s", s.asset_id, s.version,
                s.previous ? "; the version before stays until it has served" : "");
    }
    /* What failed stays, so that it can be tried again without a download; so does what is on its way. */
    if (!s.previous && before.previous && s.version == before.version) {
        (void)tb_json_get_uint(wish, "version", TB_JSON_INT_MAX, &coming, err);
        target_sweep(cfg->target_dir, &s, coming);
    }
    return 0;
}
