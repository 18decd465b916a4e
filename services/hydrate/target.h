/* SPDX-License-Identifier: Apache-2.0 */
/* TB_TARGET_DIR: its lock, and whether disk and memory suffice, asked before the first byte is fetched. */
#ifndef TB_HYDRATE_TARGET_H
#define TB_HYDRATE_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "hydrate/outcome.h"

#define TARGET_MANIFEST_NAME "model.manifest.json"
/* Left free for records, manifest and the filesystem's own needs. */
#define TARGET_DISK_MARGIN (64ULL * 1024 * 1024)

/* Makes the directory when missing and locks it against a second tb-hydrate for as long as *ret_fd is
 * open. */
int target_lock(const char *dir, int *ret_fd, struct tb_outcome *o);

/* A directory at the path of a file of ours cannot be replaced by it: it is renamed to PATH.aside-<time>,
 * with a warning, for somebody to look at. Anything else may be replaced. 0 or -errno. */
int target_make_way(const char *path);
/* Removes what a killed run left half written. Whoever calls has the lock: nobody writes it now. */
void target_sweep_halves(const char *manifest_path, const char *final_path);
/* The ciphertext must be readable for the group that tb-decrypt and tb-load are in. 0, or -errno when it
 * is not and cannot be made so. */
int target_restore_access(const char *path, const struct stat *st);

/* Bytes the file system must still give for a file of `size` at path (what it already occupies is not
 * counted again), against what is available to this user. TB_EXIT_IOERR names both. */
int target_check_disk(const char *dir, const char *part_path, uint64_t size, struct tb_outcome *o);

/* `need` bytes of memory for the plaintext against MemAvailable; against all memory where /proc/meminfo is
 * hidden, or with in_all: another model is in it, and will be gone then. */
int target_check_memory(uint64_t need, bool in_all, struct tb_outcome *o);

/* MemAvailable of a /proc/meminfo text, in bytes. -EINVAL. Pure. */
int meminfo_available(const char *text, uint64_t *ret);

#endif
