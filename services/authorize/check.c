/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/check.h"

#include <unistd.h>

#include "common/file_check.h"
#include "common/pem_check.h"

#define PROGRAM_USER "tb-authorize"

/* Unset, the client certificate is a credential, which systemd takes from the operator's store. */
void authorize_check(const struct tb_config *c, struct tb_findings *f)
{
    static const char cert[] = TB_FILE_CREDSTORE "trustbridge.client-cert";
    static const char key[] = TB_FILE_CREDSTORE "trustbridge.client-key";
    bool set = c->client_cert_path || c->client_key_path;
    const struct tb_pem_pair client = {
        .cert_setting = set ? "TB_CLIENT_CERT_PATH" : "credential client-cert",
        .cert = set                       ? c->client_cert_path
                : access(cert, F_OK) == 0 ? cert
                                          : NULL,
        .key_setting = set ? "TB_CLIENT_KEY_PATH" : "credential client-key",
        .key = set                      ? c->client_key_path
               : access(key, F_OK) == 0 ? key
                                        : NULL,
        .user = PROGRAM_USER,
    };

    if (c->ca_file)
        tb_pem_check_authorities("TB_CA_FILE", c->ca_file, PROGRAM_USER, f);
    tb_pem_check_pair(&client, f);
    if (!set && !client.cert != !client.key)
        tb_findings_add(f, TB_FINDING_WARNING, 0, client.cert ? client.key_setting : client.cert_setting,
                        "%s is missing, so that no client certificate is used; put it beside %s",
                        client.cert ? key : cert, client.cert ? cert : key);
}
