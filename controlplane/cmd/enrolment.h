/* SPDX-License-Identifier: Apache-2.0 */
/* Enrolment codes of a contract, as its commands make them. */
#ifndef CP_CMD_ENROLMENT_H
#define CP_CMD_ENROLMENT_H

#include "controlplane/cmd/cmd.h"
#include "controlplane/identity/code.h"

struct cp_new_code {
    char text[CP_CODE_CHARS + 1]; /* "": none */
    struct cp_code code;
};

/* By --code-uses and --code-expires-in, for contract_id. 0, or an exit code after saying why. */
int cp_new_code_make(const struct cp_options *o, const char *contract_id, struct cp_new_code *ret);
/* With its line in the log of changes. In a transaction. */
int cp_new_code_put(struct cp_store *s, const struct cp_new_code *c);
/* The code alone on standard output. An exit code. */
int cp_new_code_show(const struct cp_options *o, const struct cp_new_code *c);

#endif
