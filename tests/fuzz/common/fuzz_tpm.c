/* SPDX-License-Identifier: Apache-2.0 */
/* What a TPM answers: the input is all that it says, and then it is gone. The first byte chooses what it is asked. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/tpm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(struct tb_tpm *t, unsigned what)
{
    static const uint8_t extra[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_part a, b;
    struct tb_tpm_pcrs pcrs;
    uint8_t nv[4096];
    uint32_t handle;
    size_t n = 0;

    if (what == 0 && tb_tpm_read_public(t, TB_TPM_AK_HANDLE, &a) == 0 && a.n > sizeof(a.b))
        abort();
    else if (what == 1 && tb_tpm_read_nv(t, TB_TPM_AK_CERT_NV, nv, sizeof(nv), &n) == 0 && n > sizeof(nv))
        abort();
    else if (what == 2)
        (void)tb_tpm_read_pcrs(t, 0xffff, &pcrs);
    else if (what == 3 && tb_tpm_quote(t, TB_TPM_AK_HANDLE, 0xffff, extra, &a, &b) == 0 &&
             (a.n > sizeof(a.b) || b.n > sizeof(b.b)))
        abort();
    else if (what == 4)
        (void)tb_tpm_boot_key(t, 1U << 4, &handle, &a);
    else if (what == 5)
        (void)tb_tpm_certify(t, 0x80000000, TB_TPM_AK_HANDLE, extra, &a, &b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_tpm t = {.fd = -1};
    int fd[2];

    if (size < 1 || size > 16384 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
        return 0;
    if (write(fd[1], data + 1, size - 1) == (ssize_t)(size - 1) && shutdown(fd[1], SHUT_WR) == 0) {
        t.fd = fd[0];
        ask(&t, data[0] % 6);
    }
    (void)close(fd[0]);
    (void)close(fd[1]);
    return 0;
}
