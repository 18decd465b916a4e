/* SPDX-License-Identifier: Apache-2.0 */
/* The container: a tar archive in the ustar format, uncompressed, of regular files and nothing else.
 *
 *   trustbridge-backup.json   of which machine and when; each member's name, mode, size, SHA-256
 *   MEMBER...                 in that order
 *   end                       SHA-256 of trustbridge-backup.json, in hex
 *
 * So `tar -tf` shows it, and a cut, a change or an addition anywhere is noticed before a byte of it is used.
 * The hashes prove damage, not origin: who can write the archive can write another one. tb-backup(8). */
#ifndef TB_BACKUP_ARCHIVE_H
#define TB_BACKUP_ARCHIVE_H

#include "backup/member.h"
#include "common/buf.h"

#define BACKUP_ARCHIVE_MAX (BACKUP_LEDGER_MAX + (256ULL << 20))
#define BACKUP_ERR_MAX 320

/* Appends the archive to out. -errno. */
int backup_archive_write(const struct backup_set *s, struct tb_buf *out);
/* Reads and checks all of it. sealed: it is the encrypted part. -EBADMSG: damaged, or not a backup;
 * -EPROTONOSUPPORT: of a newer program; -ENOMEM. Reason in err. */
int backup_archive_read(const char *buf, size_t len, bool sealed, struct backup_set **ret,
                        char err[static BACKUP_ERR_MAX]);

#endif
