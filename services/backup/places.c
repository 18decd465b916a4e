/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/places.h"

#include <openssl/sha.h>
#include <string.h>

#include "common/hex.h"
#include "common/io.h"

/* A hash of the machine's id: that itself is not to be shown (machine-id(5)). */
static void places_read_machine(struct backup_places *p)
{
    _cleanup_free_ char *path = tb_strf("%s/etc/machine-id", p->root), *id = NULL, *text = NULL;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    size_t n;

    if (!path || tb_read_file(path, 64, &id, &n) < 0 || strcspn(id, "\n") != 32)
        return;
    text = tb_strf("trustbridge backup %.32s", id);
    if (!text)
        return;
    SHA256((const uint8_t *)text, strlen(text), digest);
    tb_hex_encode(digest, 16, p->machine);
}

int backup_places_init(struct backup_places *p, const char *root)
{
    const char *state = getenv("TB_STATE_DIR");

    *p = (struct backup_places){.elsewhere = root || (state && *state)};
    p->root = strdup(root && strcmp(root, "/") != 0 ? root : "");
    p->state = root || !state || !*state ? tb_strf("%s/var/lib", p->root ? p->root : "") : strdup(state);
    p->etc = tb_strf("%s/etc/trustbridge", p->root ? p->root : "");
    p->own = p->state ? tb_path_join(p->state, "tb-restore") : NULL;
    if (!p->root || !p->state || !p->etc || !p->own) {
        backup_places_clear(p);
        return -ENOMEM;
    }
    places_read_machine(p);
    return 0;
}

void backup_places_clear(struct backup_places *p)
{
    tb_freep(&p->root);
    tb_freep(&p->state);
    tb_freep(&p->etc);
    tb_freep(&p->own);
}

char *backup_place_of(const struct backup_places *p, const char *name, enum backup_kind kind)
{
    const char *rest = strchr(name, '/');

    switch (kind) {
    case BACKUP_KIND_SETTINGS:
    case BACKUP_KIND_ETC:
        return tb_strf("%s%s", p->etc, rest);
    case BACKUP_KIND_STATE:
        return tb_strf("%s%s", p->state, rest);
    case BACKUP_KIND_CREDSTORE:
        return tb_strf("%s/etc/%s", p->root, name);
    case BACKUP_KIND_DROP_IN:
        return tb_strf("%s/etc/systemd/system%s", p->root, rest);
    case BACKUP_KIND_SEALED:
    case BACKUP_KIND_NONE:
        break;
    }
    return NULL;
}
