/* SPDX-License-Identifier: Apache-2.0 */
/* The key of the asset that a run of tbpkg publish is about: where it is, what to say when it is not there,
 * and when its file may go. A key's id is part of its file's name, so that no run can put another key in its
 * place. */
#include "provider/asset/key.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/json.h"
#include "provider/asset/asset.h"
#include "provider/cli/key_arg.h"
#include "provider/publish/publish.h"

#define OLD_KEY_NAME "model.key" /* of earlier versions */

static const char *key_recorded(const struct publish *p, const char *name)
{
    const cJSON *r = publish_state_result(&p->state, "encrypt");
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r, name);

    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* The id that the manifest names, else the one that was recorded; "" when neither is there. */
static const char *key_id_of(const struct publish *p, char out[static ASSET_KEY_ID_HEX + 1])
{
    const char *recorded = key_recorded(p, "key_id");
    struct tbenc_manifest *m = NULL;

    out[0] = '\0';
    if (access(p->manifest, F_OK) == 0 && asset_manifest_read(p->manifest, 0, &m) == CLI_OK)
        asset_key_id_wanted(m, out);
    (void)tbenc_manifest_free(m);
    if (!*out && recorded)
        snprintf(out, ASSET_KEY_ID_HEX + 1, "%s", recorded);
    return out;
}

static bool key_is_clear(const char *path, const char *id)
{
    char found[ASSET_KEY_ID_HEX + 1];
    _cleanup_key_ struct tb_key key;

    return tb_key_read_file(path, &key) == 0 &&
           (!*id || (asset_key_id(&key, found) == CLI_OK && strcmp(found, id) == 0));
}

void publish_key_find(struct publish *p)
{
    char id[ASSET_KEY_ID_HEX + 1];
    _cleanup_free_ char *named = NULL, *given = NULL, *old = tb_path_join(p->dir, OLD_KEY_NAME);
    const char *recorded = key_recorded(p, "key_file");
    const char *places[5] = {recorded, p->key_out, NULL, NULL, old};

    key_id_of(p, id);
    if (*id) {
        places[2] = named = asset_key_name(p->dir, p->asset_id, id);
        places[3] = given = p->key_out ? asset_key_name(p->key_out, p->asset_id, id) : NULL;
    }
    tb_freep(&p->key);
    if (!*id && access(p->manifest, F_OK) < 0) /* any key would do: which one is in the journal */
        return;
    for (size_t i = 0; i < ARRAY_SIZE(places) && !p->key; i++)
        if (places[i] && key_is_clear(places[i], id))
            p->key = strdup(places[i]);
}

int publish_key_missing(const struct publish *p)
{
    const char *file = key_recorded(p, "key_file"), *recipient = key_recorded(p, "key_recipient");
    const char *with = NULL, *at = NULL;
    char id[ASSET_KEY_ID_HEX + 1];

    key_id_of(p, id);
    if (file && key_vault_is_id(file))
        return tbpkg_failf(
            p->asset_id,
            "key %s is needed; it is in %s; give it with --key-file: az keyvault secret show --id %s "
            "--query value --output tsv",
            id, file, file);
    if (publish_state_forgotten(&p->state, &with, &at))
        return tbpkg_failf(
            p->asset_id,
            "key %s is needed, and --forget-key removed it at %s, after %s had confirmed it; give "
            "it with --key-file",
            *id ? id : "of this asset", at, with);
    if (recipient)
        return tbpkg_failf(
            p->asset_id,
            "key %s is needed; it is in %s, which only %s can decrypt; do that and give it with "
            "--key-file",
            id, file, recipient);
    return tbpkg_failf(
        p->asset_id,
        "key %s is needed, and it is not in %s, where it was last; give it with --key-file, or move "
        "it back",
        *id ? id : "of this asset", file ? file : p->dir);
}

int publish_key_forget(struct publish *p)
{
    char id[ASSET_KEY_ID_HEX + 1];
    bool registered;
    int rc;

    (void)publish_state_inputs(&p->state, "register", &registered);
    publish_key_find(p);
    if (!p->forget_key || !registered || p->skip[STEP_REGISTER] || !p->key)
        return CLI_OK;
    rc = publish_state_forget(&p->state, key_id_of(p, id), p->edc_endpoint);
    if (rc != CLI_OK)
        return rc;
    if (unlink(p->key) < 0)
        return tbpkg_fail_errno(p->key, -errno);
    tbpkg_note(p->cli.quiet, "%s is removed; only the control plane has the key now.", p->key);
    tb_freep(&p->key);
    return CLI_OK;
}

/* ".ASSET-ID.key.XXXXXX", also with ".age" or ".gpg": written by an encryption that was killed before
 * anything had its name. */
static void key_sweep_dir(const struct publish *p, const char *dir)
{
    size_t n = strlen(p->asset_id);
    DIR *d = opendir(dir);
    const struct dirent *e;

    while (d && (e = readdir(d))) {
        const char *rest = e->d_name + 1 + n;
        _cleanup_free_ char *name = NULL, *path = NULL;

        if (e->d_name[0] != '.' || strncmp(e->d_name + 1, p->asset_id, n) != 0 || *rest != '-' ||
            strlen(rest) < 1 + ASSET_KEY_ID_HEX + 4 + 7 ||
            strncmp(rest + 1 + ASSET_KEY_ID_HEX, ".key", 4) != 0)
            continue;
        name = strndup(e->d_name + 1, strlen(e->d_name) - 1 - 7);
        path = name ? tb_path_join(dir, name) : NULL;
        if (path)
            tb_newfile_sweep(path);
    }
    if (d)
        closedir(d);
}

void publish_key_sweep(const struct publish *p)
{
    key_sweep_dir(p, p->dir);
    key_sweep_dir(p, p->encrypted);
}
