/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/cmd/storage.h"

#include <string.h>

#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/blob/delegation.h"
#include "controlplane/blob/sas_key.h"

#define SAS_SECONDS_DEFAULT 3600
#define STORAGE_KEY_FILE_MAX 4096

int cp_storage_check(const struct cp_options *o)
{
    size_t n = o->storage_accounts.n;

    if (n > CP_STORAGE_ACCOUNTS_MAX)
        return cp_fail(o, TB_EXIT_USAGE, "there are more than %d --storage-account", CP_STORAGE_ACCOUNTS_MAX);
    if (o->storage_identity && o->storage_key_files.n)
        return cp_fail(o, TB_EXIT_USAGE, "--storage-identity and --storage-key-file exclude each other");
    if (o->storage_identity ? n == 0 : o->storage_key_files.n != n)
        return cp_fail(o, TB_EXIT_USAGE,
                       "--storage-account and --storage-key-file go together, one for each, or "
                       "--storage-identity for all");
    for (size_t i = 0; i < n; i++)
        if (!cp_sas_account_valid(o->storage_accounts.v[i]))
            return cp_fail(o, TB_EXIT_USAGE,
                           "--storage-account %s is not 3 to 24 lower-case letters and digits",
                           o->storage_accounts.v[i]);
    if (o->storage_endpoints.n && (o->storage_endpoints.n != n || !o->storage_identity))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--storage-endpoint goes with --storage-identity, one for each --storage-account");
    if (o->sas_ip && (!*o->sas_ip || strlen(o->sas_ip) > 31 || o->sas_ip[strspn(o->sas_ip, "0123456789.-")]))
        return cp_fail(o, TB_EXIT_USAGE, "--sas-ip %s is not an IPv4 address or a range A-B", o->sas_ip);
    if ((o->sas_ip || o->sas_seconds) && n == 0)
        return cp_fail(o, TB_EXIT_USAGE, "--sas-seconds and --sas-ip need --storage-account");
    return 0;
}

static int storage_read_key(const struct cp_options *o, struct cp_storage *s, size_t i)
{
    const char *path = o->storage_key_files.v[i];
    _cleanup_erase_string_ char *text = NULL;
    size_t len;
    int r = tb_read_file(path, STORAGE_KEY_FILE_MAX, &text, &len);

    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read the storage key file %s: %s", path, strerror(-r));
    r = cp_sas_key_decode(text, len, &s->keys[i], &s->accounts[i].key_len);
    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "%s does not hold a storage account key in base64", path);
    s->accounts[i].key = s->keys[i];
    return 0;
}

static int storage_delegate(const struct cp_options *o, struct cp_storage *s, size_t i, uint64_t lifetime_us)
{
    char endpoint[128], err[CP_DELEGATION_ERR_MAX];

    snprintf(endpoint, sizeof(endpoint), "https://%s.blob.core.windows.net", s->accounts[i].name);
    if (cp_delegation_new(o->storage_endpoints.n ? o->storage_endpoints.v[i] : endpoint,
                          o->identity_client_id, &s->tls, lifetime_us, &s->accounts[i].delegation, err) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--storage-endpoint: %s", err);
    return 0;
}

int cp_storage_open(const struct cp_options *o, struct cp_storage *ret, struct cp_sas *sas)
{
    int r = 0;

    ret->tls = (struct tb_http_tls){.ca_file = o->storage_ca};
    sas->lifetime_us = (o->sas_seconds ? o->sas_seconds : SAS_SECONDS_DEFAULT) * TB_USEC_PER_SEC;
    sas->ip = o->sas_ip;
    for (size_t i = 0; r == 0 && i < o->storage_accounts.n; i++) {
        ret->n = i + 1;
        ret->accounts[i].name = o->storage_accounts.v[i];
        r = o->storage_identity ? storage_delegate(o, ret, i, sas->lifetime_us) : storage_read_key(o, ret, i);
    }
    sas->accounts = ret->accounts;
    sas->n_accounts = ret->n;
    return r;
}

void cp_storage_close(struct cp_storage *s)
{
    for (size_t i = 0; i < s->n; i++) {
        s->accounts[i].delegation = cp_delegation_free(s->accounts[i].delegation);
        tb_secret_freep(&s->keys[i]);
    }
}
