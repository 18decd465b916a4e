/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <sys/stat.h>

#include "common/application.h"
#include "common/io.h"
#include "configure/configure.h"

#define DROPIN_NAME "50-trustbridge-env.conf"
#define DROPIN_MAX 8192
#define TARGET_DIR "/mnt/resource/trustbridge"
#define TARGET_MOUNT "/mnt/resource/" /* tb-scratch itself asks for this mount; it must not wait for it */

enum {
    DROPIN_PUBLIC,
    DROPIN_HEALTH,
    DROPIN_SCRATCH,
    DROPIN_HYDRATE, /* and those that write there beside it */
    DROPIN_NEXT,
    DROPIN_SWITCH,
    DROPIN_BOOT,
    DROPIN_PURCHASE
};

bool tb_target_dir_plain(const char *dir)
{
    static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._@+-";
    size_t len = strlen(dir);

    return *dir == '/' && strspn(dir, chars) == len && !strstr(dir, "/../") &&
           !(len >= 3 && strcmp(dir + len - 3, "/..") == 0);
}

static char *dropin_text(const struct tb_settings *s, const char *body)
{
    return tb_strf("# From %s by trustbridge-generator.\n%s\n", s->path, body);
}

static int dropin_listen(const struct tb_settings *s, size_t i, struct tb_dropin *d, struct tb_findings *f)
{
    const char *v = tb_settings_get(s, tb_listens[i].setting);
    _cleanup_free_ char *body = NULL;
    struct sockaddr_in6 address;
    char listen[64];

    d->unit = tb_listens[i].unit;
    if (!v)
        return 0;
    if (tb_listen_parse(v, listen, &address) == 0) {
        body = tb_strf("[Socket]\nListenStream=\nListenStream=%s", listen);
    } else {
        tb_findings_add(f, TB_FINDING_ERROR, 0, tb_listens[i].setting,
                        "'%.80s' is not IPV4:PORT, [IPV6]:PORT or :PORT; %s will not listen", v, d->unit);
        body = tb_strf("[Socket]\nListenStream=\n");
    }
    d->text = body ? dropin_text(s, body) : NULL;
    return d->text ? 0 : -ENOMEM;
}

static int dropin_target_dir(const struct tb_settings *s, struct tb_dropin *v, struct tb_findings *f)
{
    static const char *const units[TB_DROPINS] = {[DROPIN_HYDRATE] = "tb-hydrate.service",
                                                  [DROPIN_NEXT] = "tb-next.service",
                                                  [DROPIN_SWITCH] = "tb-switch.service"};
    struct tb_dropin *scratch = &v[DROPIN_SCRATCH];
    const char *set = tb_settings_get(s, "TB_TARGET_DIR"), *dir = set ? set : TARGET_DIR;
    _cleanup_free_ char *below = tb_strf("%s/", dir), *wait = NULL, *body = NULL;
    bool waits;

    scratch->unit = "tb-scratch.service";
    for (int i = DROPIN_HYDRATE; i <= DROPIN_SWITCH; i++)
        v[i].unit = units[i];
    if (!tb_target_dir_plain(dir)) {
        tb_findings_add(
            f, TB_FINDING_ERROR, 0, "TB_TARGET_DIR",
            "'%.80s' is not an absolute path of letters, digits and /._@+-; tb-hydrate may not write "
            "there",
            dir);
        return 0;
    }
    waits = below && strncmp(below, TARGET_MOUNT, strlen(TARGET_MOUNT)) != 0;
    wait = waits ? tb_strf("[Unit]\nRequiresMountsFor=%s", dir) : strdup("");
    body = wait ? tb_strf("%s\n[Service]\nReadWritePaths=%s", wait, dir) : NULL;
    if (!body)
        return -ENOMEM;
    scratch->text = waits ? dropin_text(s, wait) : NULL;
    for (int i = DROPIN_HYDRATE; i <= DROPIN_SWITCH; i++)
        if (!(v[i].text = dropin_text(s, body)))
            return -ENOMEM;
    return scratch->text || !waits ? 0 : -ENOMEM;
}

/* The boot applies the file. As a dependency of another unit of ours tb-configure.service would run again,
 * and fail again, with each restart of a program. */
static int dropin_boot(const struct tb_settings *s, struct tb_dropin *d)
{
    d->unit = "sockets.target";
    d->text = dropin_text(s, "[Unit]\nWants=tb-configure.service");
    return d->text ? 0 : -ENOMEM;
}

/* The machine of a purchase enrols by its managed identity, which the instance metadata service gives. On no
 * other machine does tb-authorize reach that. */
static int dropin_purchase(const struct tb_settings *s, struct tb_dropin *d)
{
    const char *contract = tb_settings_get(s, "TB_CONTRACT_ID");

    d->unit = "tb-authorize.service";
    if (!contract || strcmp(contract, TB_APPLICATION_CONTRACT) != 0)
        return 0;
    d->text = dropin_text(s, "[Service]\nIPAddressAllow=169.254.169.254");
    return d->text ? 0 : -ENOMEM;
}

int tb_dropins_make(const struct tb_settings *s, struct tb_dropins *ret, struct tb_findings *f)
{
    _cleanup_dropins_ struct tb_dropins d = {0};
    int r = dropin_listen(s, 0, &d.v[DROPIN_PUBLIC], f);

    if (r == 0)
        r = dropin_listen(s, 1, &d.v[DROPIN_HEALTH], f);
    if (r == 0)
        r = dropin_target_dir(s, d.v, f);
    if (r == 0)
        r = dropin_boot(s, &d.v[DROPIN_BOOT]);
    if (r == 0)
        r = dropin_purchase(s, &d.v[DROPIN_PURCHASE]);
    if (r < 0)
        return r;
    *ret = d;
    d = (struct tb_dropins){0};
    return 0;
}

void tb_dropins_clear(struct tb_dropins *d)
{
    for (size_t i = 0; i < TB_DROPINS; i++)
        tb_freep(&d->v[i].text);
}

int tb_dropins_write(const struct tb_dropins *d, const char *dir)
{
    for (size_t i = 0; i < TB_DROPINS; i++) {
        _cleanup_free_ char *sub = tb_strf("%s/%s.d", dir, d->v[i].unit), *path = NULL;
        _cleanup_fclose_ FILE *out = NULL;

        if (!d->v[i].text)
            continue;
        path = sub ? tb_path_join(sub, DROPIN_NAME) : NULL;
        if (!path)
            return -ENOMEM;
        if (mkdir(sub, 0755) < 0 && errno != EEXIST)
            return -errno;
        out = fopen(path, "we");
        if (!out || fputs(d->v[i].text, out) < 0 || fflush(out) != 0)
            return -errno;
    }
    return 0;
}

bool tb_dropins_equal(const struct tb_dropins *d, const char *dir)
{
    for (size_t i = 0; i < TB_DROPINS; i++) {
        _cleanup_free_ char *path = tb_strf("%s/%s.d/" DROPIN_NAME, dir, d->v[i].unit), *text = NULL;
        int r = path ? tb_read_file(path, DROPIN_MAX, &text, NULL) : -ENOMEM;

        if (d->v[i].text ? r < 0 || strcmp(text, d->v[i].text) != 0 : r != -ENOENT)
            return false;
    }
    return true;
}
