/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/io.h"
#include "configure/configure.h"

int tb_settings_read(const char *path, struct tb_settings *ret)
{
    _cleanup_settings_ struct tb_settings s = {.path = path};
    int r = tb_read_file(path, TB_ENVFILE_MAX, &s.text, &s.len);

    if (r < 0)
        return r;
    r = tb_envfile_parse(s.text, s.len, &s.file);
    if (r < 0)
        return r;
    *ret = s;
    s = (struct tb_settings){0};
    return 0;
}

void tb_settings_clear(struct tb_settings *s)
{
    free(s->text);
    tb_envfile_clear(&s->file);
    *s = (struct tb_settings){0};
}

const char *tb_settings_get(const struct tb_settings *s, const char *name)
{
    const struct tb_envfile_entry *e = tb_envfile_find(&s->file, name);

    return e && e->value[0] ? e->value : NULL;
}
