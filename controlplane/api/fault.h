/* SPDX-License-Identifier: Apache-2.0 */
/* Why license/authorize gives no verdict, beside failures of the store: told in the log, and to the
 * machine as something that passes, or that is this server's to mend. */
#ifndef CP_API_FAULT_H
#define CP_API_FAULT_H

#include "controlplane/api/api.h"

enum cp_fault {
    CP_FAULT_NONE,
    CP_FAULT_KEY,         /* the key of the asset does not open */
    CP_FAULT_KEY_SERVICE, /* the key service does not answer */
    CP_FAULT_URL,         /* the URLs of the asset cannot be signed */
    CP_FAULT_STORAGE,     /* there is nothing to sign them with now */
    CP_FAULT_MAA,         /* the keys of Azure Attestation are not known now */
};

/* kek_id "": it has none. */
void cp_answer_fault(enum cp_fault fault, const char *contract_id, const char *asset_id, const char *kek_id,
                     struct cp_reply *ret);

#endif
