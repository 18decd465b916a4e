/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets: inherited listeners, credentials from systemd, file descriptors in messages. */
#ifndef TB_FDPASS_H
#define TB_FDPASS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/macros.h"

#define TB_FDPASS_MAX 250 /* descriptors in one message; the kernel's SCM_MAX_FD is 253 */

/* Sends buf and n_fds descriptors in one SOCK_SEQPACKET message. 0 or -errno. */
int tb_fd_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds);
/* Receives one message: bytes into buf, descriptors (O_CLOEXEC) into fds, their count in *n_fds (in:
 * capacity). Returns bytes, 0 at end of stream, -EMSGSIZE when message or descriptors did not fit (all are
 * closed then), -errno. */
ssize_t tb_fd_recv(int sock, void *buf, size_t len, int *fds, size_t *n_fds);

/* Inherited listener (LISTEN_FDS) of that name in LISTEN_FDNAMES; or the only one, when there is exactly one
 * and it has no name. A listener of another name is never taken for it. -ENOENT. */
int tb_listen_fd(const char *name);
int tb_listen_fd_count(void);

/* Connects to a unix socket path. type is SOCK_STREAM or SOCK_SEQPACKET. fd or -errno. */
int tb_unix_connect(const char *path, int type);
/* Binds and listens, mode as given; an old socket file is replaced. fd or -errno. */
int tb_unix_listen(const char *path, int type, mode_t mode);

/* The inherited listener of that name; where none is inherited, run_dir/tb-NAME.sock is bound, and *ret_path
 * (which may be NULL) is its path, for the caller to remove and to free. fd or -errno, which the log
 * explains. */
int tb_listen_or_bind(const char *name, const char *run_dir, int type, char **ret_path);

/* Contents of $CREDENTIALS_DIRECTORY/name in secret memory (tb_secret_alloc, NUL-terminated beyond *ret_len).
 * -ENXIO: no credentials directory; -ENOENT: no such credential; -EACCES: empty, which is how a refusal
 * arrives (design section 3); -EFBIG: over 64 KiB. Owner and mode are never looked at. */
int tb_credential_read(const char *name, char **ret, size_t *ret_len);

#endif
