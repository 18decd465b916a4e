/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine claims of itself, looked at: each claim holds, is broken, or was not checked, with the
 * reason; what cannot be looked at never counts as good. */
#ifndef TB_VERIFY_CLAIMS_H
#define TB_VERIFY_CLAIMS_H

#include <stddef.h>
#include <stdint.h>

#include "common/option.h"

#define VERIFY_DETAIL_MAX 320
#define VERIFY_CLAIMS_MAX 16
#define VERIFY_CANARY_MIN 16 /* bytes: less is found by chance */
#define VERIFY_CANARY_MAX 4096

enum verify_result { VERIFY_HOLDS, VERIFY_BROKEN, VERIFY_NOT_CHECKED };

struct verify_claim {
    const char *name;
    enum verify_result result;
    char detail[VERIFY_DETAIL_MAX];
};

struct verify_claims {
    struct verify_claim v[VERIFY_CLAIMS_MAX];
    size_t n;
};

void verify_claim_set(struct verify_claims *c, const char *name, enum verify_result result, const char *fmt,
                      ...) __attribute__((format(printf, 4, 5)));

/* public_addr, health_addr: the addresses that may be reached from outside. */
void verify_system(struct verify_claims *c, const char *public_addr, const char *health_addr);
void verify_processes(struct verify_claims *c);
/* Whether this piece of plaintext is anywhere that lasts or that others read. disks: devices or files, empty:
 * all of the machine. canary_len 0: none was given. */
void verify_canary(struct verify_claims *c, const char *canary, size_t canary_len,
                   const struct tb_option_list *disks);

/* -- parsers of what the kernel says: (buf, len), no I/O */
/* Swap areas on disks; the first one's name. */
unsigned verify_swaps_parse(const char *text, char name[static 64]);
/* Soft limit of core files in bytes, UINT64_MAX: none; -EBADMSG. */
int verify_core_limit_parse(const char *text, uint64_t *ret);
/* A number behind "NAME:" of /proc/PID/status. -ENOENT. */
int verify_status_parse(const char *text, const char *name, uint64_t *ret);
/* The ports of /proc/net/tcp or tcp6 that listen on an address beyond loopback, ascending, each once; how
 * many, at most max. */
size_t verify_listeners_parse(const char *text, uint16_t *ret, size_t max);

#endif
