/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/proof.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/io.h"
#include "common/log.h"

char *authorize_proof_next(const struct tb_config *cfg, struct authorize_proof *p)
{
    _cleanup_free_ char *dir = tb_path_join(cfg->run_dir, TB_VERIFY_DIR),
                        *path = dir ? tb_path_join(dir, TB_VERIFY_FILE) : NULL, *text = NULL;
    size_t len;
    int r = path ? tb_read_file(path, TB_MACHINE_REPORT_MAX, &text, &len) : -ENOMEM;

    p->is_on_way = false;
    if (r < 0 || len == 0 || EVP_Digest(text, len, p->sent, NULL, EVP_sha256(), NULL) != 1) {
        if (r < 0 && r != -ENOENT)
            tb_warn("the report of this machine on itself is not sent: %s: %s", path ? path : TB_VERIFY_FILE,
                    strerror(-r));
        return NULL;
    }
    if (p->was_told && memcmp(p->sent, p->told, sizeof(p->sent)) == 0)
        return NULL;
    p->is_on_way = true;
    return TAKE_PTR(text);
}

void authorize_proof_answered(struct authorize_proof *p, const char *said)
{
    if (!p->is_on_way)
        return;
    p->is_on_way = false;
    p->was_told = true;
    memcpy(p->told, p->sent, sizeof(p->told));
    if (strncmp(said, "machine_report_", 15) == 0)
        tb_warn("the control plane does not keep the report of this machine on itself: %s; tb-verify makes "
                "another: systemctl restart tb-verify.service",
                said);
    else if (*said)
        tb_info("the control plane has the report of this machine on itself");
}
