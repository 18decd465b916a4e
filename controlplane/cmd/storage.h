/* SPDX-License-Identifier: Apache-2.0 */
/* The storage accounts whose URLs are signed, as the options name them. */
#ifndef CP_STORAGE_H
#define CP_STORAGE_H

#include "controlplane/cmd/cmd.h"

#define CP_STORAGE_ACCOUNTS_MAX 16

struct cp_storage {
    struct cp_sas_account accounts[CP_STORAGE_ACCOUNTS_MAX];
    uint8_t *keys[CP_STORAGE_ACCOUNTS_MAX]; /* of accounts with one; secret memory */
    size_t n;
    struct tb_http_tls tls;
};

/* Whether the options go together. 0, or an exit code after saying why. */
int cp_storage_check(const struct cp_options *o);
/* sas refers to ret, which refers to o. 0, or an exit code after saying why. */
int cp_storage_open(const struct cp_options *o, struct cp_storage *ret, struct cp_sas *sas);
void cp_storage_close(struct cp_storage *s);

#endif
