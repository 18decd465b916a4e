/* SPDX-License-Identifier: Apache-2.0 */
#include "status/conclude.h"

#include <string.h>

#include "common/units.h"

/* While one version is replaced by another the runtime is stopped, and nothing is wrong: what goes wrong
 * ends in going back, and that is told. */
void tb_status_add_update(struct tb_status_work *w)
{
    const struct tb_update *u = &w->s->facts.update;

    /* tb-update starts them, and says itself what became of it. */
    if (u->serving || u->phase != TB_UPDATE_NONE) {
        tb_status_explain(w, "tb-next.service");
        tb_status_explain(w, "tb-switch.service");
    }
    if (tb_status_is_switching(w->s))
        tb_status_explain(w, "tb-runtime.service");
    if (u->phase == TB_UPDATE_FAILED)
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_WARNING,
                                       "version %llu did not serve, and this machine went back to the one "
                                       "before: %s",
                                       (unsigned long long)u->next, u->reason),
                         "journalctl --namespace=trustbridge -u tb-runtime -u tb-decrypt; tell the provider; "
                         "tb-update retry tries it again");
    if (u->phase == TB_UPDATE_DOWNLOADING && *u->reason)
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_WARNING, "version %llu cannot be downloaded: %s",
                                       (unsigned long long)u->next, u->reason),
                         "the version before serves on; it is tried again by itself; journalctl "
                         "--namespace=trustbridge -u tb-next");
}
