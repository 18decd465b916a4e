/* SPDX-License-Identifier: Apache-2.0 */
/* What whoever deploys a machine may say: whatever it is, no setting that is not allowed reaches the file that systemd and the
 * programs read, the image's settings stay what they are, and each refusal has a reason. And the goal state of Azure. */
#include <stdlib.h>
#include <string.h>

#include "common/envfile.h"
#include "provision/document.h"
#include "provision/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char image[] = "TB_RUNTIME_EXEC='llama-server -m {model}'\nTB_ROUTES=/v1/*\n# end \\";

static void check_file(const struct provision_document *d)
{
    _cleanup_buf_ struct tb_buf b = {0};
    _cleanup_envfile_ struct tb_envfile e = {0};
    size_t n = 2;
    const struct tb_envfile_entry *v;
    const cJSON *m;
    char err[PROVISION_ERR_MAX];

    if (provision_check_image(image, strlen(image), d, err) != 0)
        abort();
    if (provision_settings(image, strlen(image), d, &b) < 0 || tb_envfile_parse(b.data, b.len, &e) < 0)
        abort();
    cJSON_ArrayForEach (m, d->settings) {
        v = tb_envfile_find(&e, m->string);
        if (!v || !v->value || strcmp(v->value, m->valuestring) != 0)
            abort();
        n++;
    }
    cJSON_ArrayForEach (m, d->credentials)
        n += strncmp(m->string, "tls-", 4) == 0 || strcmp(m->string, "api-keys") == 0;
    v = tb_envfile_find(&e, "TB_RUNTIME_EXEC");
    if (e.n != n || !v || strcmp(v->value, "llama-server -m {model}") != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct provision_document d;
    struct provision_goal g;
    char err[PROVISION_ERR_MAX] = "";

    if (provision_parse((const char *)data, size, &d, err) == 0) {
        check_file(&d);
        provision_document_clear(&d);
    } else if (!*err || d.json) {
        abort();
    }
    if (provision_goal_parse((const char *)data, size, &g) == 0) {
        _cleanup_buf_ struct tb_buf b = {0};

        if (!*g.instance || provision_health(&g, "<a&b>", &b) < 0 || memmem(b.data, b.len, "<a", 2))
            abort();
    }
    return 0;
}
