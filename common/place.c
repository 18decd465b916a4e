/* SPDX-License-Identifier: Apache-2.0 */
#include "common/place.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/macros.h"

#define JOURNAL "/var/log/journal"

static const char *const place_names[_TB_PLACE_MAX] = {
    [TB_PLACE_AUDIT] = "audit", [TB_PLACE_JOURNAL] = "journal",       [TB_PLACE_STATE] = "state",
    [TB_PLACE_RUN] = "run",     [TB_PLACE_CIPHERTEXT] = "ciphertext",
};

const char *tb_place_name(enum tb_place_id id)
{
    return place_names[id];
}

static void place_set(struct tb_place *p, const char *path)
{
    *p = (struct tb_place){0};
    snprintf(p->path, sizeof(p->path), "%s", path);
}

/* Up to where something exists: what is to be made there has that room. */
static void place_parent(char *path)
{
    char *slash = strrchr(path, '/');

    if (slash)
        slash[slash == path] = '\0';
}

void tb_places_init(struct tb_place places[static _TB_PLACE_MAX], const struct tb_config *c)
{
    place_set(&places[TB_PLACE_STATE], c->state_dir);
    place_set(&places[TB_PLACE_RUN], c->run_dir);
    place_set(&places[TB_PLACE_CIPHERTEXT], c->target_dir);
    place_set(&places[TB_PLACE_JOURNAL], access(JOURNAL, F_OK) == 0 ? JOURNAL : "");
    place_set(&places[TB_PLACE_AUDIT],
              c->audit_file && strncmp(c->audit_file, "/dev/", 5) != 0 ? c->audit_file : "");
    place_parent(places[TB_PLACE_AUDIT].path);
}

static void place_measure(struct tb_place *p, uint64_t low_bytes)
{
    char at[TB_PLACE_PATH_MAX];
    struct statvfs v;
    struct stat st;

    p->known = false;
    if (!p->path[0])
        return;
    memcpy(at, p->path, sizeof(at));
    while (stat(at, &st) < 0 && strcmp(at, "/") != 0 && strchr(at, '/'))
        place_parent(at);
    if (statvfs(at, &v) < 0 || stat(at, &st) < 0)
        return;
    p->known = true;
    p->device = st.st_dev;
    p->size_bytes = (uint64_t)v.f_blocks * v.f_frsize;
    p->free_bytes = (uint64_t)(geteuid() == 0 ? v.f_bfree : v.f_bavail) * v.f_frsize;
    p->files = v.f_files;
    p->free_files = geteuid() == 0 ? v.f_ffree : v.f_favail;
    p->read_only = v.f_flag & ST_RDONLY;
    p->low_bytes = MIN(low_bytes, p->size_bytes / 10);
}

bool tb_place_read_only(const char *path)
{
    struct tb_place p;

    place_set(&p, path);
    place_measure(&p, 0);
    return p.known && p.read_only;
}

void tb_places_measure(struct tb_place places[static _TB_PLACE_MAX], uint64_t low_bytes)
{
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        place_measure(&places[i], low_bytes);
}

bool tb_place_is_full(const struct tb_place *p)
{
    return p->known && p->size_bytes > 0 &&
           (p->free_bytes < TB_PLACE_FULL_BYTES || (p->files > 0 && p->free_files == 0));
}

bool tb_place_is_low(const struct tb_place *p)
{
    return p->known && p->size_bytes > 0 &&
           (tb_place_is_full(p) || p->free_bytes < p->low_bytes ||
            (p->files > 0 && p->low_bytes > 0 && p->free_files < p->files / 50));
}
