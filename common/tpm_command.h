/* SPDX-License-Identifier: Apache-2.0 */
/* One command to a TPM, and its response: TCG TPM 2.0 Library, part 1, 18 and 19. */
#ifndef TB_TPM_COMMAND_H
#define TB_TPM_COMMAND_H

#include "common/tpm.h"
#include "common/tpm_wire.h"

#define TB_TPM_ST_NO_SESSIONS 0x8001
#define TB_TPM_ST_SESSIONS 0x8002
#define TB_TPM_RH_OWNER 0x40000001U
#define TB_TPM_RH_NULL 0x40000007U

struct tb_tpm_command {
    const char *what; /* for people */
    struct tb_tpm_writer w;
    uint8_t answer[TB_TPM_MESSAGE_MAX];
    struct tb_tpm_reader r; /* what follows the response's header */
};
/* The sessions of one or two handles that need no password. */
extern const uint32_t tb_tpm_password[2];

int tb_tpm_fail(struct tb_tpm *t, int r, const char *what, const char *why);
void tb_tpm_command_begin(struct tb_tpm_command *c, const char *what, uint16_t tag, uint32_t code);
/* One authorisation for each session: an empty password, or a policy. */
void tb_tpm_command_put_sessions(struct tb_tpm_command *c, const uint32_t *sessions, size_t n);
/* Errors as of tb_tpm_open(). */
int tb_tpm_command_run(struct tb_tpm *t, struct tb_tpm_command *c);
/* Of a response with sessions: what follows are this many bytes of parameters, then the sessions. */
void tb_tpm_command_narrow(struct tb_tpm_command *c);
void tb_tpm_command_take_part(struct tb_tpm_command *c, size_t n, struct tb_tpm_part *ret);
/* -EBADMSG when the answer was shorter than what was taken from it. */
int tb_tpm_command_end(struct tb_tpm *t, const struct tb_tpm_command *c);

#endif
