/* SPDX-License-Identifier: Apache-2.0 */
/* Serving one client: its request, all checks, the decryption, the answer. */
#ifndef TB_DECRYPT_SERVE_H
#define TB_DECRYPT_SERVE_H

#include "common/config.h"

/* sock is a connected SOCK_SEQPACKET socket, signal_fd a signalfd with SIGTERM and SIGINT, which every thread
 * blocks. Returns the exit code, which the client has been told, and has logged why. The key exists only
 * inside. */
int tb_serve(const struct tb_config *c, int sock, int signal_fd);

/* Answers a client with a status and nothing else. */
void tb_serve_refusal(int sock, int status, const char *message);

#endif
