/* SPDX-License-Identifier: Apache-2.0 */
/* control-plane.json: what tb-authorize last saw of the control plane, and what it asks with; read by those
 * who watch. The lease (common/lease_state.h) says what may be served, this says how it is going.
 * docs/contracts.md, "Domain files". */
#ifndef TB_CONTACT_H
#define TB_CONTACT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/certificate.h"
#include "common/lease_state.h"

struct tb_contact {
    bool known;     /* it has been asked, and what came of it can be read */
    bool reachable; /* the last time */
    char reason[TB_REASON_MAX];
    uint64_t failures; /* in a row */
    uint64_t asked_real_us, asked_boot_us;
    /* The Date of its last answer, and when that came: what clock this machine should have at any later time
     * of this boot, whatever steps its own clock takes. 0: none. */
    uint64_t date_real_us, date_boot_us;
    struct tb_certificate client, ca; /* of TB_CLIENT_CERT_PATH or the credential, and of TB_CA_FILE */
};

#define TB_CONTACT_NAME "control-plane.json"            /* in tb-authorize's runtime directory */
#define TB_CONTACT_FILE "tb-authorize/" TB_CONTACT_NAME /* below TB_RUN_DIR */

/* 0 or -errno. */
int tb_contact_write(const char *dir, const struct tb_contact *c);
/* name as in tb_lease_record_read(). -ENOENT, -EBADMSG, ...: *ret is then not known. */
int tb_contact_read(const char *dir, const char *name, struct tb_contact *ret);

/* How far this machine's clock is ahead of the control plane's, in seconds; negative: behind. False when that
 * is not known. Good to a second or two: Date has whole seconds. */
bool tb_contact_clock_offset(const struct tb_contact *c, uint64_t now_real_us, uint64_t now_boot_us,
                             double *ret);

#endif
