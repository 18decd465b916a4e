/* SPDX-License-Identifier: Apache-2.0 */
/* The hardware fingerprint (hw_id) a licence is bound to. Compat: "Hardware fingerprint". Sources in order:
 * the SMBIOS product UUID (credential, then /sys), the Azure VM id and hostname, a hash of hostname and MAC
 * addresses. */
#ifndef TB_AUTHORIZE_HWID_H
#define TB_AUTHORIZE_HWID_H

#include <stddef.h>

#include "common/macros.h"

#define TB_HWID_MAX 320
#define TB_HWID_DMI_PATH "/sys/class/dmi/id/product_uuid" /* 0400 root: a credential usually carries it */
#define TB_HWID_NET_PATH "/sys/class/net"
#define TB_HWID_IMDS_URL "http://169.254.169.254/metadata/instance?api-version=2021-02-01"

/* Where to look. Injected, so that each source can be tried alone. */
struct tb_hwid_sources {
    const char *credential; /* name of a systemd credential; NULL: none */
    const char *dmi_path;   /* NULL: none */
    const char *imds_url;   /* NULL: none; asked with a limit of 2 s */
    const char *net_path;   /* a directory like /sys/class/net; NULL: none */
    const char *hostname;   /* "" when there is none */
};

/* Writes the fingerprint and returns the name of its source ("dmi", "imds", "hostname"), or NULL when nothing
 * on this machine identifies it. Blocks up to about 2 s. */
const char *tb_hwid_find(const struct tb_hwid_sources *s, char out[static TB_HWID_MAX]);

/* The parts, pure. All return 0, or -EINVAL when the input does not identify a machine. */
int tb_hwid_from_uuid(const char *text, size_t len, char out[static TB_HWID_MAX]);
int tb_hwid_from_imds(const char *json, size_t len, const char *hostname, char out[static TB_HWID_MAX]);
int tb_hwid_from_macs(const char *hostname, const char *const *macs, size_t n, char out[static TB_HWID_MAX]);

#endif
