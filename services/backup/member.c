/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/member.h"

#include <string.h>

#include "common/secret.h"
#include "common/text.h"

const struct backup_program backup_programs[] = {
    {"tb-authorize", 0750},
    {"tb-billing", 0755},
    {"tb-proxy", 0750},
    {NULL, 0},
};

/* A plain file name: no path, nothing hidden, nothing that a shell or a terminal takes for something
 * else. */
static bool member_plain(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-@");

    return n > 0 && n <= 64 && s[n] == '\0' && s[0] != '.' && s[0] != '-';
}

/* What follows DIR/ in name, or NULL. */
static const char *member_below(const char *name, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(name, dir, n) == 0 && name[n] == '/' ? name + n + 1 : NULL;
}

static bool member_is_state(const char *name)
{
    const char *rest = member_below(name, "state"), *file;

    for (const struct backup_program *p = backup_programs; rest && p->name; p++)
        if ((file = member_below(rest, p->name)))
            return member_plain(file);
    return false;
}

/* units/tb-NAME.service.d/FILE.conf, and the same of the other types of unit. */
static bool member_is_drop_in(const char *name)
{
    const char *rest = member_below(name, "units"), *slash = rest ? strchr(rest, '/') : NULL;
    char unit[BACKUP_NAME_MAX];

    if (!slash || (strncmp(rest, "tb-", 3) != 0 && strncmp(rest, "trustbridge.", 12) != 0))
        return false;
    snprintf(unit, sizeof(unit), "%.*s", (int)(slash - rest), rest);
    return member_plain(unit) && tb_text_ends_with(unit, ".d") && member_plain(slash + 1) &&
           tb_text_ends_with(slash + 1, ".conf");
}

static bool member_is_credential(const char *name)
{
    const char *file = member_below(name, "credstore");

    if (!file)
        file = member_below(name, "credstore.encrypted");
    return file && strncmp(file, "trustbridge.", 12) == 0 && member_plain(file);
}

enum backup_kind backup_name_kind(const char *name, bool sealed)
{
    const char *file;

    if (strlen(name) >= BACKUP_NAME_MAX)
        return BACKUP_KIND_NONE;
    if (sealed) {
        if (member_is_credential(name))
            return BACKUP_KIND_CREDSTORE;
        if (member_is_drop_in(name))
            return BACKUP_KIND_DROP_IN;
        file = member_below(name, "etc");
        return file && member_plain(file) && strcmp(file, "trustbridge.env") != 0 ? BACKUP_KIND_ETC
                                                                                  : BACKUP_KIND_NONE;
    }
    if (strcmp(name, BACKUP_SETTINGS) == 0)
        return BACKUP_KIND_SETTINGS;
    if (strcmp(name, BACKUP_SEALED) == 0)
        return BACKUP_KIND_SEALED;
    return member_is_state(name) ? BACKUP_KIND_STATE : BACKUP_KIND_NONE;
}

static void member_wipe(const struct backup_set *s, char *data, size_t len)
{
    if (s->secret && data)
        tb_erase(data, len);
    free(data);
}

void backup_set_free(struct backup_set *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        member_wipe(s, s->v[i].data, s->v[i].len);
    free(s);
}

int backup_set_add(struct backup_set *s, const char *name, mode_t mode, char *data, size_t len)
{
    struct backup_member *m;

    if (s->n == BACKUP_MEMBERS_MAX || (!data && len > 0) || strlen(name) >= BACKUP_NAME_MAX) {
        member_wipe(s, data, len);
        return data ? -ENOSPC : -ENOMEM;
    }
    m = &s->v[s->n++];
    *m = (struct backup_member){.mode = mode & 0755, .data = data, .len = len};
    snprintf(m->name, sizeof(m->name), "%s", name);
    return 0;
}

const struct backup_member *backup_set_find(const struct backup_set *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->v[i].name, name) == 0)
            return &s->v[i];
    return NULL;
}
