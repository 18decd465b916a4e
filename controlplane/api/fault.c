/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/fault.h"

#include "common/log.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"

void cp_answer_fault(enum cp_fault fault, const char *contract_id, const char *asset_id, const char *kek_id,
                     struct cp_reply *ret)
{
    switch (fault) {
    case CP_FAULT_KEY_SERVICE:
        tb_error("authorize: the key service does not answer; %s gets no key now", contract_id);
        cp_answer_key_service(ret);
        return;
    case CP_FAULT_STORAGE:
        tb_error("authorize: nothing to sign the URLs of %s with; %s gets no key now", asset_id, contract_id);
        cp_metric_add(CP_METRIC_FAILED_STORAGE);
        cp_answer_later(ret, "storage_unavailable",
                        "the storage's identity service does not answer; try again");
        return;
    case CP_FAULT_MAA:
        tb_error(
            "authorize: the keys of the Azure Attestation that %s names are not known, or lack the one that "
            "its machine's token names; it gets no key now. Let this server reach the instance (TCP 443), or "
            "pin them: serve --maa-jwks",
            contract_id);
        cp_metric_add(CP_METRIC_FAILED_MAA);
        cp_answer_later(
            ret, "attestation_service_unavailable",
            "the control plane cannot have the keys of Azure Attestation now, by which it would judge "
            "this machine; try again");
        return;
    case CP_FAULT_KEY:
        tb_error("authorize: the key of %s (wrapped by %s) does not open with this control plane's key: with "
                 "a master.key, restore the file; with --kek, name the key that wrapped it, as --kek-old if "
                 "it is not "
                 "the current one; else register the asset again",
                 asset_id, *kek_id ? kek_id : "an unnamed key");
        break;
    default:
        tb_error(
            "authorize: cannot sign the URLs of %s (expected .../CONTAINER/BLOB); register the asset again",
            asset_id);
    }
    cp_answer_misconfigured(ret);
}
