/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a socket. The C library's send() and recv() are points where a thread may be cancelled: in a
 * program with threads each makes that known and takes it back, two locked instructions for every call. No
 * thread is cancelled here. Like them in all else. */
#ifndef TB_PROXY_HTTP_SOCKET_H
#define TB_PROXY_HTTP_SOCKET_H

#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static inline ssize_t tb_socket_send(int fd, const void *p, size_t n, int flags)
{
    return syscall(SYS_sendto, fd, p, n, flags, NULL, 0);
}

static inline ssize_t tb_socket_recv(int fd, void *p, size_t n, int flags)
{
    return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
}

#endif
