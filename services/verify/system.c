/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/inet.h"
#include "common/io.h"
#include "verify/claims.h"

#define PROC_MAX (4 << 20)
#define PORTS_MAX 64

void verify_claim_set(struct verify_claims *c, const char *name, enum verify_result result, const char *fmt,
                      ...)
{
    struct verify_claim *m = &c->v[c->n];
    va_list ap;

    if (c->n == VERIFY_CLAIMS_MAX)
        return;
    c->n++;
    m->name = name;
    m->result = result;
    va_start(ap, fmt);
    vsnprintf(m->detail, sizeof(m->detail), fmt, ap);
    va_end(ap);
}

/* Compressed memory that is written to a disk when there is too much of it: the device, or NULL. */
static char *swap_written_back(void)
{
    _cleanup_closedir_ DIR *d = opendir("/sys/block");

    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *path = tb_strf("/sys/block/%s/backing_dev", e->d_name), *device = NULL;

        if (strncmp(e->d_name, "zram", 4) != 0 || !path || tb_read_file(path, PROC_MAX, &device, NULL) < 0)
            continue;
        device[strcspn(device, "\n")] = '\0';
        if (*device && strcmp(device, "none") != 0)
            return TAKE_PTR(device);
    }
    return NULL;
}

static void check_swap(struct verify_claims *c)
{
    _cleanup_free_ char *text = NULL, *device = swap_written_back();
    char name[64];
    int r = tb_read_file("/proc/swaps", PROC_MAX, &text, NULL);

    if (r < 0)
        verify_claim_set(c, "no-swap", VERIFY_NOT_CHECKED, "/proc/swaps: %s", strerror(-r));
    else if (verify_swaps_parse(text, name))
        verify_claim_set(c, "no-swap", VERIFY_BROKEN, "swap is on (%s): plaintext may reach it; swapoff -a",
                         name);
    else if (device)
        verify_claim_set(c, "no-swap", VERIFY_BROKEN,
                         "compressed memory is written back to %.60s: plaintext may reach it", device);
    else
        verify_claim_set(c, "no-swap", VERIFY_HOLDS, "no swap on a disk");
}

/* -- ports ----------------------------------------------------------------------------------------- */
static int ports_read(const char *path, uint16_t *ports, size_t *n)
{
    uint16_t found[PORTS_MAX];
    _cleanup_free_ char *text = NULL;
    int r = tb_read_file(path, PROC_MAX, &text, NULL);
    size_t k = r < 0 ? 0 : verify_listeners_parse(text, found, PORTS_MAX);

    for (size_t i = 0; i < k && *n < 2 * PORTS_MAX; i++)
        ports[(*n)++] = found[i];
    return r;
}

static bool port_is_of(uint16_t port, const char *addr)
{
    char host[TB_INET_HOST_MAX], number[TB_INET_PORT_MAX];

    return tb_inet_split(addr, host, number) == 0 && atoi(number) == port;
}

/* Among the first n: of IPv4 and of IPv6 each is listed. */
static bool ports_have(const uint16_t *ports, size_t n, uint16_t port)
{
    while (n > 0 && ports[n - 1] != port)
        n--;
    return n > 0;
}

static void check_ports(struct verify_claims *c, const char *public_addr, const char *health_addr)
{
    char text[200] = "";
    uint16_t ports[2 * PORTS_MAX];
    size_t n = 0, at = 0;
    int r = ports_read("/proc/net/tcp", ports, &n);

    if (r == 0 && (r = ports_read("/proc/net/tcp6", ports, &n)) == -ENOENT)
        r = 0; /* no IPv6 */
    if (r < 0) {
        verify_claim_set(c, "ports-closed", VERIFY_NOT_CHECKED, "/proc/net/tcp: %s", strerror(-r));
        return;
    }
    for (size_t i = 0; i < n && at < sizeof(text) - 8; i++) {
        char word[8];

        snprintf(word, sizeof(word), "%s%u", *text ? " " : "", ports[i]);
        if (port_is_of(ports[i], public_addr) || port_is_of(ports[i], health_addr) ||
            ports_have(ports, i, ports[i]))
            continue;
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s", word);
    }
    if (*text)
        verify_claim_set(c, "ports-closed", VERIFY_BROKEN, "open beside %.40s and %.40s: TCP %s", public_addr,
                         health_addr, text);
    else
        verify_claim_set(c, "ports-closed", VERIFY_HOLDS, "TCP: none is open beside %.40s and %.40s",
                         public_addr, health_addr);
}

/* -- the kernel and the image ------------------------------------------------------------------------ */
static void check_lockdown(struct verify_claims *c)
{
    static const char path[] = "/sys/kernel/security/lockdown";
    _cleanup_free_ char *text = NULL;
    int r = tb_read_file(path, PROC_MAX, &text, NULL);

    if (r < 0)
        verify_claim_set(c, "kernel-lockdown", VERIFY_NOT_CHECKED, "%s: %s", path, strerror(-r));
    else if (strstr(text, "[confidentiality]"))
        verify_claim_set(c, "kernel-lockdown", VERIFY_HOLDS, "confidentiality");
    else
        verify_claim_set(c, "kernel-lockdown", VERIFY_BROKEN,
                         "the kernel is not locked down to confidentiality: %.*s", (int)strcspn(text, "\n"),
                         text);
}

/* The device that systemd-veritysetup makes of a root hash, which the kernel verifies block by block. Another
 * one, of data, says nothing of the programs. */
static bool image_has_verity(void)
{
    _cleanup_closedir_ DIR *d = opendir("/sys/block");

    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *path = tb_strf("/sys/block/%s/dm/uuid", e->d_name), *uuid = NULL;

        if (!path || tb_read_file(path, 256, &uuid, NULL) < 0 || strncmp(uuid, "CRYPT-VERITY-", 13) != 0)
            continue;
        uuid[strcspn(uuid, "\n")] = '\0';
        if (strlen(uuid) > 5 && strcmp(uuid + strlen(uuid) - 5, "-root") == 0)
            return true;
    }
    return false;
}

/* A word of its own: NULL when there is none. */
static const char *cmdline_root_hash(const char *line)
{
    const char *s = line;

    while ((s = strstr(s, "roothash=")) && s != line && s[-1] != ' ')
        s++;
    return s;
}

static void check_image(struct verify_claims *c)
{
    _cleanup_free_ char *line = NULL;
    int r = tb_read_file("/proc/cmdline", PROC_MAX, &line, NULL);
    const char *hash = r < 0 ? NULL : cmdline_root_hash(line);

    if (r < 0)
        verify_claim_set(c, "image-verified", VERIFY_NOT_CHECKED, "/proc/cmdline: %s", strerror(-r));
    else if (!hash)
        verify_claim_set(
            c, "image-verified", VERIFY_NOT_CHECKED,
            "this machine did not boot an image with a root hash: nothing verifies its programs");
    else if (!image_has_verity())
        verify_claim_set(
            c, "image-verified", VERIFY_BROKEN,
            "the command line has a root hash, and no root device is verified by one (dm-verity)");
    else
        verify_claim_set(c, "image-verified", VERIFY_HOLDS, "dm-verity, %.*s", (int)strcspn(hash, " \n"),
                         hash);
}

void verify_system(struct verify_claims *c, const char *public_addr, const char *health_addr)
{
    check_swap(c);
    check_ports(c, public_addr, health_addr);
    check_lockdown(c);
    check_image(c);
}
