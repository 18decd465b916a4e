/* SPDX-License-Identifier: Apache-2.0 */
/* TCP addresses as people write them: "host:port", "[v6]:port", ":port". */
#ifndef TB_INET_H
#define TB_INET_H

#define TB_INET_HOST_MAX 256
#define TB_INET_PORT_MAX 6
#define TB_INET_ERR_MAX 160

/* Takes addr apart. host is without brackets, and "" for every address. -EINVAL: not of this form, or the
 * port is not 0 to 65535. */
int tb_inet_split(const char *addr, char host[static TB_INET_HOST_MAX], char port[static TB_INET_PORT_MAX]);

/* A listening socket, close-on-exec. ":port" is every address of IPv4 and, where the kernel has it, of IPv6;
 * port 0 picks a free one. fd, or -errno with a reason that names addr in err. */
int tb_inet_listen(const char *addr, int backlog, char err[static TB_INET_ERR_MAX]);

#endif
