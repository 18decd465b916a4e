/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <string.h>

#include "common/inet.h"
#include "common/io.h"
#include "common/units.h"
#include "configure/configure.h"

#define LISTEN_TABLE_MAX (16 * 1024 * 1024)
#define LISTEN_STATE "0A" /* TCP_LISTEN in /proc/net/tcp */

const struct tb_listen tb_listens[2] = {
    {"TB_PUBLIC_ADDR", "tb-proxy.socket", "0.0.0.0:8000"},
    {"TB_HEALTH_ADDR", "tb-proxy-health.socket", "0.0.0.0:8001"},
};

/* An IPv4 address as IPv6 writes it, so that both can be compared. */
static void listen_map_v4(const struct in_addr *v4, struct in6_addr *ret)
{
    *ret = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
    memcpy(&ret->s6_addr[12], v4, 4);
}

int tb_listen_parse(const char *value, char out[static 64], struct sockaddr_in6 *ret)
{
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];
    struct in_addr v4;

    if (tb_inet_split(value, host, port) < 0 || strcmp(port, "0") == 0)
        return -EINVAL;
    *ret = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((in_port_t)atoi(port))};
    if (host[0] == '\0') {
        ret->sin6_family = AF_UNSPEC;
        snprintf(out, 64, "%s", port);
    } else if (*value == '[') {
        if (inet_pton(AF_INET6, host, &ret->sin6_addr) != 1)
            return -EINVAL;
        snprintf(out, 64, "[%.46s]:%s", host, port);
    } else {
        if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4) != 1)
            return -EINVAL;
        listen_map_v4(&v4, &ret->sin6_addr);
        inet_ntop(AF_INET, &v4, host, sizeof(host));
        snprintf(out, 64, "%.46s:%s", host, port);
    }
    return 0;
}

/* --- addresses of this machine -------------------------------------------------------------------------- */

static bool listen_is_wildcard(const struct sockaddr_in6 *a)
{
    static const struct in6_addr v4 = {.s6_addr = {[10] = 0xff, [11] = 0xff}};

    return a->sin6_family == AF_UNSPEC || IN6_IS_ADDR_UNSPECIFIED(&a->sin6_addr) ||
           memcmp(&a->sin6_addr, &v4, sizeof(v4)) == 0;
}

/* Both are of the same kind, IPv4 or IPv6; every address of IPv6 is every one of IPv4 too. */
static bool listen_overlap(const struct sockaddr_in6 *a, const struct sockaddr_in6 *b)
{
    bool v4 = IN6_IS_ADDR_V4MAPPED(&a->sin6_addr), other_v4 = IN6_IS_ADDR_V4MAPPED(&b->sin6_addr);

    if (a->sin6_port != b->sin6_port)
        return false;
    if (a->sin6_family == AF_UNSPEC || b->sin6_family == AF_UNSPEC ||
        IN6_IS_ADDR_UNSPECIFIED(&a->sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&b->sin6_addr))
        return true;
    if (v4 != other_v4)
        return false;
    return listen_is_wildcard(a) || listen_is_wildcard(b) ||
           memcmp(&a->sin6_addr, &b->sin6_addr, sizeof(a->sin6_addr)) == 0;
}

/* "|-- 10.0.2.15" and below it "/32 host LOCAL", for each address. */
static bool listen_trie_has(char *text, const struct in6_addr *a)
{
    struct in6_addr one = {0};
    struct in_addr v4;
    char address[32];

    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const char *mark = strstr(line, "|-- ");

        if (mark && sscanf(mark + 4, "%31s", address) == 1 && inet_pton(AF_INET, address, &v4) == 1)
            listen_map_v4(&v4, &one);
        else if (strstr(line, "host LOCAL") && memcmp(&one, a, sizeof(one)) == 0)
            return true;
    }
    return false;
}

/* 32 digits, and more that is of no interest here. */
static bool listen_inet6_has(char *text, const struct in6_addr *a)
{
    char want[33];

    for (size_t i = 0; i < 16; i++)
        sprintf(want + 2 * i, "%02x", a->s6_addr[i]);
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, want, 32) == 0)
            return true;
    return false;
}

/* All of 127.0.0.0/8 is this machine. Of these files, not of a netlink socket: the unit has none. */
static bool listen_is_local(const struct sockaddr_in6 *a)
{
    bool v4 = IN6_IS_ADDR_V4MAPPED(&a->sin6_addr);
    _cleanup_free_ char *text = NULL;

    if (v4 && a->sin6_addr.s6_addr[12] == 127)
        return true;
    if (tb_read_file(v4 ? "/proc/self/net/fib_trie" : "/proc/self/net/if_inet6", LISTEN_TABLE_MAX, &text,
                     NULL) < 0)
        return v4; /* nobody knows; without IPv6 there is no such file */
    return v4 ? listen_trie_has(text, &a->sin6_addr) : listen_inet6_has(text, &a->sin6_addr);
}

/* An address that moves between machines: the administrator allows to listen where it is not yet. */
static bool listen_nonlocal_allowed(void)
{
    _cleanup_free_ char *v4 = NULL, *v6 = NULL;

    return (tb_read_file("/proc/sys/net/ipv4/ip_nonlocal_bind", 16, &v4, NULL) == 0 && v4[0] == '1') ||
           (tb_read_file("/proc/sys/net/ipv6/ip_nonlocal_bind", 16, &v6, NULL) == 0 && v6[0] == '1');
}

/* --- ports of others ------------------------------------------------------------------------------------ */

/* "0100007F:1F90" or 32 digits: words of the machine's byte order. */
static bool listen_parse_hex(const char *word, struct sockaddr_in6 *ret)
{
    size_t digits = strspn(word, "0123456789ABCDEF");
    uint32_t w[4] = {0};
    unsigned port;

    if ((digits != 8 && digits != 32) || sscanf(word + digits, ":%4X", &port) != 1)
        return false;
    for (size_t i = 0; i < digits / 8; i++)
        if (sscanf(word + 8 * i, "%8X", &w[i]) != 1)
            return false;
    *ret = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((in_port_t)port)};
    if (digits == 8)
        listen_map_v4(&(struct in_addr){w[0]}, &ret->sin6_addr);
    else
        memcpy(&ret->sin6_addr, w, sizeof(w));
    return true;
}

/* Does a listener of the table take what a would? */
static bool listen_table_has(const char *table, const struct sockaddr_in6 *a)
{
    _cleanup_free_ char *text = NULL;

    if (tb_read_file(table, LISTEN_TABLE_MAX, &text, NULL) < 0)
        return false;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char local[64], peer[64], state[4];
        struct sockaddr_in6 one;

        if (sscanf(line, " %*u: %63s %63s %3s", local, peer, state) == 3 &&
            strcmp(state, LISTEN_STATE) == 0 && listen_parse_hex(local, &one) && listen_overlap(&one, a))
            return true;
    }
    return false;
}

static bool listen_in_use(const struct sockaddr_in6 *a)
{
    return listen_table_has("/proc/self/net/tcp", a) || listen_table_has("/proc/self/net/tcp6", a);
}

/* --- the check ------------------------------------------------------------------------------------------ */

static bool listen_of(const struct tb_settings *s, size_t i, struct sockaddr_in6 *ret)
{
    const char *v = tb_settings_get(s, tb_listens[i].setting);
    char text[64];

    return tb_listen_parse(v ? v : tb_listens[i].fallback, text, ret) == 0;
}

/* Is the port one that systemd holds for us now? */
static bool listen_is_ours(const struct tb_settings *in_force, const struct sockaddr_in6 *a)
{
    struct sockaddr_in6 now;

    for (size_t i = 0; in_force && i < ARRAY_SIZE(tb_listens); i++)
        if (listen_of(in_force, i, &now) && now.sin6_port == a->sin6_port)
            return true;
    return false;
}

/* What the settings' own rule lets pass, and systemd does not. */
static void listen_check_form(const char *setting, const char *v, enum tb_finding_level level,
                              const struct tb_settings *in_force, struct tb_findings *f)
{
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX], text[64];
    struct sockaddr_in6 a;

    if (!v || tb_inet_split(v, host, port) < 0)
        return; /* it was said */
    if (tb_listen_parse(v, text, &a) < 0) {
        tb_findings_add(
            f, TB_FINDING_ERROR, 0, setting,
            strcmp(port, "0") == 0
                ? "\"%.80s\": systemd needs a port, 1 to 65535"
                : "\"%.80s\": systemd listens on addresses, not on names; give an address of this "
                  "machine, as ip -brief address shows it, or :PORT for all of them",
            v);
        return;
    }
    if (!listen_is_wildcard(&a) && !listen_is_local(&a) && !listen_nonlocal_allowed())
        tb_findings_add(
            f, level, 0, setting,
            "\"%.80s\": this machine does not have the address; give one that ip -brief address shows, "
            "or :PORT for all of them",
            v);
    else if (!listen_is_ours(in_force, &a) && listen_in_use(&a))
        tb_findings_add(
            f, level, 0, setting,
            "\"%.80s\": another program listens on port %u; choose another port, or stop it (ss -ltnp "
            "shows which)",
            v, ntohs(a.sin6_port));
}

void tb_listen_check(const struct tb_settings *s, const struct tb_settings *in_force, bool booting,
                     struct tb_findings *f)
{
    enum tb_finding_level level = booting ? TB_FINDING_WARNING : TB_FINDING_ERROR;
    struct sockaddr_in6 a, b;

    for (size_t i = 0; i < ARRAY_SIZE(tb_listens); i++) {
        const char *v = tb_settings_get(s, tb_listens[i].setting);

        if (v)
            listen_check_form(tb_listens[i].setting, v, level, in_force, f);
    }
    if (listen_of(s, 0, &a) && listen_of(s, 1, &b) && listen_overlap(&a, &b))
        tb_findings_add(f, TB_FINDING_ERROR, 0,
                        tb_settings_get(s, tb_listens[1].setting) ? tb_listens[1].setting
                                                                  : tb_listens[0].setting,
                        "%s and %s both want port %u; give each its own", tb_listens[0].setting,
                        tb_listens[1].setting, ntohs(a.sin6_port));
}
