/* SPDX-License-Identifier: Apache-2.0 */
/* Files and directories below one open directory, never outside it and never through a link. 0 or -errno. */
#ifndef TB_LOAD_TREE_H
#define TB_LOAD_TREE_H

/* Creates the file at a valid path of the table (tbenc_path_valid), mode 0600, and the directories above it,
 * 0700. Returns a read-write descriptor; -EEXIST when something is there. */
int tb_tree_create(int dir_fd, const char *path);

/* Removes what is in the directory, also from directories made read-only, as far as it can. */
void tb_tree_empty(int dir_fd);

/* Takes the owner's write permission from the directory and all directories below. */
int tb_tree_close(int dir_fd);

#endif
