/* SPDX-License-Identifier: Apache-2.0 */
/* What a contract asks of the machines that are to have its key, as JSON in the database and in the API:
 * {"level":"image","ak":["azure","own","pin:SHA256"],"pcrs":[4,7,11,12,13,14],"images":["acme@1.0","acme@*"],
 * "secure_boot":true,"allow_debug":false}; of level cvm also "min_tcb":"BOOTLOADER.TEE.SNP.MICROCODE" and
 * "id_keys":[SHA384] and "maa":"https://INSTANCE", with images or without. An unknown member is an error:
 * a typing error must not loosen it. */
#ifndef CP_ATTEST_POLICY_H
#define CP_ATTEST_POLICY_H

#include "common/option.h"
#include "controlplane/attest/image.h"
#include "controlplane/attest/verify.h"
#include "controlplane/store/store.h"

/* From image on a contract may name images. */
enum cp_attest_level { CP_LEVEL_NONE, CP_LEVEL_TPM, CP_LEVEL_IMAGE, CP_LEVEL_CVM, _CP_LEVEL_MAX };
extern const char *const cp_attest_level_names[];

#define CP_POLICY_IMAGES_MAX 12
#define CP_POLICY_URL_MAX 200

struct cp_attest_policy {
    enum cp_attest_level level;
    struct cp_attest_trust trust;
    uint32_t pcrs;               /* that the boot key must need */
    struct cp_snp_terms snp;     /* of level cvm */
    char maa[CP_POLICY_URL_MAX]; /* of level cvm: whose token is believed; "": AMD alone */
    char images[CP_POLICY_IMAGES_MAX][CP_IMAGE_REFERENCE_MAX]; /* one of them must be what was booted */
    size_t n_images;                                           /* 0: it is not looked at */
    bool secure_boot, allow_debug;
};

/* text "": level none. -EINVAL and what is wrong with which member. */
int cp_policy_parse(const char *text, struct cp_attest_policy *ret, char err[static TB_JSON_ERR_MAX]);
/* Each image that it names is registered and not revoked, or one version of it. -ENOENT: *ret_unknown is not.
 * In a transaction. */
int cp_policy_check_images(struct cp_store *s, const struct cp_attest_policy *p, const char **ret_unknown);
/* As a command line has it; empty lists and NULL say nothing. */
struct cp_policy_words {
    const char *level, *min_tcb, *maa;
    struct tb_option_list aks, id_keys, images; /* borrowed */
    bool secure_boot, allow_debug;
};
/* The text for the database. */
int cp_policy_make(const struct cp_policy_words *w, char ret[static CP_POLICY_MAX],
                   char err[static TB_JSON_ERR_MAX]);

#endif
