/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <netpacket/packet.h>

#include "common/envfile.h"
#include "common/io.h"
#include "common/lease_state.h"
#include "support/support.h"
#include "support/words.h"

#define KNOWN_FILE_MAX (4UL << 20)
#define KEY_RECORD_BYTES 256 /* docs/contracts.md, "Usage by key" */

static char *known_read(const char *path)
{
    char *text = NULL;
    size_t n;

    if (tb_read_file(path, KNOWN_FILE_MAX, &text, &n) < 0)
        return NULL;
    for (size_t i = 0; i < n; i++) /* a text: what is behind a NUL would not be looked at */
        if (text[i] == '\0')
            text[i] = '\n';
    return text;
}

/* Each line of a file, and each part of one that separators cut: "name:sha256 rpm=3". */
static void known_add_lines(struct redactor *r, char *text)
{
    for (char *save, *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        if (strncmp(line, "-----", 5) == 0 || *line == '#')
            continue;
        if (strlen(line) >= 6)
            (void)redactor_know(r, line, strlen(line), REDACT_SECRET);
        for (char *part_save, *part = strtok_r(line, " \t:=,\"", &part_save); part;
             part = strtok_r(NULL, " \t:=,\"", &part_save))
            if (strlen(part) >= 16)
                (void)redactor_know(r, part, strlen(part), REDACT_SECRET);
    }
}

static void known_add_files(struct redactor *r, const char *dir, bool (*wanted)(const char *name))
{
    _cleanup_closedir_ DIR *d = opendir(dir);

    for (struct dirent *e; d && (e = readdir(d));) {
        _cleanup_free_ char *path =
            e->d_name[0] != '.' && wanted(e->d_name) ? tb_path_join(dir, e->d_name) : NULL;
        _cleanup_free_ char *text = path ? known_read(path) : NULL;

        if (text)
            known_add_lines(r, text);
    }
}

static bool known_is_credential(const char *name)
{
    return strncmp(name, "trustbridge.", 12) == 0;
}

static bool known_is_beside_settings(const char *name)
{
    return strcmp(name, "trustbridge.env") != 0;
}

static void known_add_word_of(struct redactor *r, const char *path, enum redact_class class)
{
    _cleanup_free_ char *text = known_read(path);

    if (text && strcspn(text, "\n") > 3)
        (void)redactor_know(r, text, strcspn(text, "\n"), class);
}

/* The names in a file of hosts, or of name servers and search domains. */
static void known_add_hosts_of(struct redactor *r, const char *path)
{
    static const char *const words[] = {"nameserver",   "search",       "domain",        "options",
                                        "edns0",        "trust-ad",     "localhost",     "ip6-localhost",
                                        "ip6-loopback", "ip6-allnodes", "ip6-allrouters"};
    _cleanup_free_ char *text = known_read(path);

    for (char *save, *line = text ? strtok_r(text, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        line[strcspn(line, "#;")] = '\0';
        for (char *word_save, *word = strtok_r(line, " \t", &word_save); word;
             word = strtok_r(NULL, " \t", &word_save)) {
            bool plain = strchr(word, ':') && strlen(word) < 6; /* an option */

            for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                plain = plain || strcmp(word, words[i]) == 0;
            if (!plain && strcmp(word, ".") != 0)
                (void)redactor_know(r, word, strlen(word), REDACT_ADDRESS);
        }
    }
}

static void known_add_interfaces(struct redactor *r)
{
    struct ifaddrs *all = NULL;
    char host[NI_MAXHOST];

    if (getifaddrs(&all) < 0)
        return;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        socklen_t len;

        if (!i->ifa_addr || i->ifa_flags & IFF_LOOPBACK)
            continue;
        len = i->ifa_addr->sa_family == AF_INET    ? sizeof(struct sockaddr_in)
              : i->ifa_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                   : 0;
        if (len && getnameinfo(i->ifa_addr, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST) == 0) {
            host[strcspn(host, "%")] = '\0';
            (void)redactor_know(r, host, strlen(host), REDACT_ADDRESS);
        }
    }
    freeifaddrs(all);
}

/* Of whoever has a key here. */
static void known_add_key_names(const struct support_places *p, struct redactor *r)
{
    _cleanup_free_ char *path = tb_strf("%s/tb-proxy/keys", p->state), *data = NULL;
    size_t n = 0;

    if (!path || tb_read_file(path, 64UL << 20, &data, &n) < 0)
        return;
    for (size_t at = KEY_RECORD_BYTES; at + KEY_RECORD_BYTES <= n && data[at]; at += KEY_RECORD_BYTES)
        (void)redactor_know(r, data + at, strnlen(data + at, 71), REDACT_ID);
}

static void known_add_lease(const struct support_places *p, struct redactor *r)
{
    struct tb_lease_record l;

    if (tb_lease_record_read(p->run, TB_LEASE_FILE, &l) < 0)
        return;
    (void)redactor_know(r, l.contract_id, strlen(l.contract_id), REDACT_ID);
    (void)redactor_know(r, l.asset_id, strlen(l.asset_id), REDACT_ID);
}

static void known_add_machine(const struct support_places *p, struct redactor *r)
{
    static const char *const ids[] = {"/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/product_serial",
                                      "/sys/class/dmi/id/board_serial", "/sys/class/dmi/id/chassis_serial",
                                      "/proc/sys/kernel/random/boot_id"};
    _cleanup_free_ char *id = tb_strf("%s/etc/machine-id", p->root);
    char host[256] = "";

    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        known_add_word_of(r, ids[i], REDACT_ID);
    if (id)
        known_add_word_of(r, id, REDACT_ID);
    known_add_word_of(r, "/etc/machine-id", REDACT_ID);
    if (gethostname(host, sizeof(host) - 1) == 0)
        (void)redactor_know(r, host, strlen(host), REDACT_ADDRESS);
    host[strcspn(host, ".")] = '\0';
    (void)redactor_know(r, host, strlen(host), REDACT_ADDRESS);
    known_add_hosts_of(r, "/etc/hosts");
    known_add_hosts_of(r, "/etc/resolv.conf");
    known_add_interfaces(r);
}

int support_know(const struct support_places *p, struct redactor *r)
{
    _cleanup_free_ char *store = tb_strf("%s/etc/credstore", p->root), *text = known_read(p->env);

    if (!store)
        return -ENOMEM;
    known_add_files(r, store, known_is_credential);
    known_add_files(r, p->etc, known_is_beside_settings);
    if (text)
        support_know_settings(r, text);
    support_know_units(p, r);
    known_add_lease(p, r);
    known_add_key_names(p, r);
    known_add_machine(p, r);
    redactor_ready(r);
    return 0;
}
