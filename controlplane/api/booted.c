/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/booted.h"

#include <string.h>

#include "common/hex.h"

/* What is known of one that does not do, the worst first: the best is what is told. */
enum image_lack {
    IMAGE_LACK_NONE_KNOWN,
    IMAGE_LACK_REGISTERS,
    IMAGE_LACK_CONTRACT,
    IMAGE_LACK_REVOKED,
    IMAGE_LACK_CLOSED,
    IMAGE_LACK_SECURE_BOOT,
    IMAGE_LACK_NOTHING
};

struct image_search {
    const struct cp_attest_policy *policy;
    const struct tb_tpm_pcrs *quoted;
    enum image_lack lack;
    struct cp_image_match match;
    char name[CP_IMAGE_NAME_MAX + 1], version[CP_IMAGE_NAME_MAX + 1];
};

static bool image_is_asked_for(const struct cp_attest_policy *p, const struct cp_image *i)
{
    for (size_t n = 0; n < p->n_images; n++)
        if (cp_image_is_named(i, p->images[n]))
            return true;
    return false;
}

static enum image_lack image_judge(const struct cp_attest_policy *p, const struct cp_image *i,
                                   const struct cp_image_values *v, const struct cp_image_match *m)
{
    bool named = image_is_asked_for(p, i);

    if (m->differ < 16)
        return named ? IMAGE_LACK_REGISTERS : IMAGE_LACK_NONE_KNOWN;
    if (!named)
        return IMAGE_LACK_CONTRACT;
    if (i->revoked_us)
        return IMAGE_LACK_REVOKED;
    if (v->debug && !p->allow_debug)
        return IMAGE_LACK_CLOSED;
    return p->secure_boot && m->open ? IMAGE_LACK_SECURE_BOOT : IMAGE_LACK_NOTHING;
}

/* The nearest: of two that lack the same, the one with more PCRs in common; the newest are seen first. */
static int image_look(const struct cp_image *i, void *ctx)
{
    struct image_search *h = ctx;
    struct cp_image_values v;
    struct cp_image_match m;
    enum image_lack lack;

    if (cp_image_values_read(i, &v) < 0) /* of a later server: nobody is let in by it */
        return 0;
    cp_image_compare(&v, h->quoted, &m);
    lack = image_judge(h->policy, i, &v, &m);
    if (lack < h->lack || lack == IMAGE_LACK_NONE_KNOWN || (lack == h->lack && m.same <= h->match.same))
        return 0;
    h->lack = lack;
    h->match = m;
    memcpy(h->name, i->name, sizeof(h->name));
    memcpy(h->version, i->version, sizeof(h->version));
    return lack == IMAGE_LACK_NOTHING;
}

static void image_explain(const struct image_search *h, struct cp_booted *ret)
{
    static const char *const codes[] = {
        [IMAGE_LACK_NONE_KNOWN] = "image_unknown",
        [IMAGE_LACK_REGISTERS] = "image_unknown",
        [IMAGE_LACK_CONTRACT] = "image_not_in_contract",
        [IMAGE_LACK_REVOKED] = "image_revoked",
        [IMAGE_LACK_CLOSED] = "image_debug",
        [IMAGE_LACK_SECURE_BOOT] = "secure_boot_required",
        [IMAGE_LACK_NOTHING] = NULL,
    };
    char value[2 * TB_TPM_DIGEST_BYTES + 1];

    ret->reason = codes[h->lack];
    if (h->lack == IMAGE_LACK_NONE_KNOWN) {
        snprintf(ret->detail, sizeof(ret->detail), "no image that the contract names is registered");
    } else if (h->lack == IMAGE_LACK_REGISTERS) {
        tb_hex_encode(h->quoted->v[h->match.differ], TB_TPM_DIGEST_BYTES, value);
        snprintf(ret->detail, sizeof(ret->detail), "PCR %u is %.12s.., nearest image %s@%s", h->match.differ,
                 value, h->name, h->version);
    } else if (ret->reason) {
        snprintf(ret->detail, sizeof(ret->detail), "%s@%s", h->name, h->version);
    }
}

int cp_booted_judge(struct cp_store *s, const struct cp_attest_policy *p, const struct tb_tpm_pcrs *quoted,
                    struct cp_booted *ret)
{
    struct image_search h = {.policy = p, .quoted = quoted};
    int r = cp_store_each_image(s, image_look, &h);

    *ret = (struct cp_booted){0};
    if (r < 0)
        return r;
    image_explain(&h, ret);
    memcpy(ret->image, h.name, sizeof(ret->image));
    memcpy(ret->version, h.version, sizeof(ret->version));
    return 0;
}
