/* SPDX-License-Identifier: Apache-2.0 */
#include "load/restrict.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "common/macros.h"

#if defined(__x86_64__)
#define RESTRICT_ARCH AUDIT_ARCH_X86_64
#define RESTRICT_CALL_END 0x40000000U /* from there on the calls of the x32 ABI */
#elif defined(__aarch64__)
#define RESTRICT_ARCH AUDIT_ARCH_AARCH64
#define RESTRICT_CALL_END UINT32_MAX
#else
/* cppcheck-suppress preprocessorErrorDirective */
#error "which AUDIT_ARCH_ is this?"
#endif

#define RESTRICT_NAMESPACES                                                                                  \
    (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET |               \
     CLONE_NEWCGROUP | 0x80 /* CLONE_NEWTIME */)

int tb_restrict_privileges(bool all)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {0};
    uint32_t low = all ? ~0U : 1U << CAP_SYS_ADMIN, high = all ? ~0U : 0;

    if (syscall(SYS_capget, &h, d) < 0)
        return -errno;
    /* Without them there is nothing to drop, and the unit's system call filter knows no capset(). */
    if (!((d[0].effective | d[0].permitted | d[0].inheritable) & low) &&
        !((d[1].effective | d[1].permitted | d[1].inheritable) & high))
        return 0;
    /* Needs CAP_SETPCAP; no_new_privs serves without. */
    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        if (all || i == CAP_SYS_ADMIN)
            (void)prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
    if (all)
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    d[0].effective &= ~low, d[0].permitted &= ~low, d[0].inheritable &= ~low;
    d[1].effective &= ~high, d[1].permitted &= ~high, d[1].inheritable &= ~high;
    if (syscall(SYS_capset, &h, d) == 0)
        return 0;
    /* Those of a namespace of our own go when another program is executed, but for root. */
    return all && errno == EPERM && geteuid() != 0 ? 0 : -errno;
}

#define DENY(call)                                                                                           \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1),                                                   \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
/* Where the first argument asks for a namespace. */
#define DENY_NAMESPACES(call)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 4),                                                   \
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),                          \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, RESTRICT_NAMESPACES, 0, 1),                                     \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

int tb_restrict_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RESTRICT_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, RESTRICT_CALL_END, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        DENY(mount),
        DENY(umount2),
        DENY(pivot_root),
        DENY(chroot),
        DENY(setns),
        DENY(fsopen),
        DENY(fsconfig),
        DENY(fsmount),
        DENY(fspick),
        DENY(move_mount),
        DENY(open_tree),
        DENY(mount_setattr),
        DENY_NAMESPACES(unshare),
        DENY_NAMESPACES(clone),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = ARRAY_SIZE(code), .filter = code};

    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) < 0 ? -errno : 0;
}
