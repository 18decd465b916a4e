/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with PEM files of certificates and keys, before TLS uses them: for a program that refuses
 * them at its start, and for the check before that. Dates are warnings: a clock may be wrong, and a
 * program that does not start for them helps nobody. No text holds anything of a key. */
#ifndef TB_PEM_CHECK_H
#define TB_PEM_CHECK_H

#include "common/findings.h"

#define TB_PEM_MAX (1024 * 1024) /* bytes of a file; a system's bundle of authorities has a quarter of it */

/* setting: what findings are called by; user: who reads the files (common/file_check.h). */
void tb_pem_check_authorities(const char *setting, const char *path, const char *user, struct tb_findings *f);
/* A certificate, with its issuers behind it, and its key. */
struct tb_pem_pair {
    const char *cert_setting, *cert, *key_setting, *key; /* NULL: not given, and not looked at */
    const char *user;
};
void tb_pem_check_pair(const struct tb_pem_pair *p, struct tb_findings *f);

/* Which names a server's certificate is good for, as a note. */
void tb_pem_note_names(const char *setting, const char *path, struct tb_findings *f);

#endif
