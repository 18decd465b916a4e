/* SPDX-License-Identifier: Apache-2.0 */
/* Where mode dir puts the plaintext: TB_MODEL_DIR, always memory, never swap. With CAP_SYS_ADMIN it becomes a
 * fresh tmpfs of its own in a private mount namespace, which goes when the runtime does. Without, the
 * directory must be on a tmpfs or ramfs already and belong to us alone (mode 0700); what an earlier run left
 * there is removed. Design section 6. */
#ifndef TB_LOAD_MODEL_DIR_H
#define TB_LOAD_MODEL_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "load/load.h"

#define TB_MODEL_DIR_WHY_MAX 200

struct tb_model_dir {
    int dir_fd;
    bool mounted; /* on a tmpfs of our own */
    bool created; /* files of ours are there */
    int *fds;     /* one per file of the table, read-write */
    size_t n_fds;
};
#define TB_MODEL_DIR_INIT                                                                                    \
    {                                                                                                        \
        .dir_fd = -1                                                                                         \
    }

/* 0 or an exit code: 74 not enough memory or an I/O error; 78 the directory is not memory, is shared, or
 * could be swapped. */
int tb_model_dir_open(struct tb_load *l, struct tb_model_dir *p);
/* Creates directories (0700) and empty files (0600) as the manifest's table has them, or the one file. 0 or
 * 74. */
int tb_model_dir_create(struct tb_load *l, struct tb_model_dir *p);
/* Bytes that have arrived so far. */
uint64_t tb_model_dir_filled(const struct tb_model_dir *p);
/* Closes the files and makes everything read-only. 0 or 74. */
int tb_model_dir_seal(struct tb_load *l, struct tb_model_dir *p);
/* Empties the directory: after a failure nothing is left. */
void tb_model_dir_discard(struct tb_model_dir *p);
/* Closes; leaves the files. */
void tb_model_dir_clear(struct tb_model_dir *p);

/* This process has CAP_SYS_ADMIN. */
bool tb_model_dir_may_mount(void);
/* Is there memory for the files, that is not swapped out? Why not, if not. The directory exists. */
bool tb_model_dir_fits(const struct tb_load *l, char why[static TB_MODEL_DIR_WHY_MAX]);

/* Stops mounts of ours from reaching other namespaces. Slave, not private: unmounts of the host still arrive.
 * In a chroot whose root is no mount point the mount that holds the directory must do. 0 or -errno; -EPERM
 * when there is none either. */
int tb_model_dir_stop_propagation(const char *dir);

/* What stands for {model}: the directory when the asset has a table, else the one file in it. Heap string or
 * NULL. */
char *tb_model_dir_model(const struct tb_load *l);

#endif
