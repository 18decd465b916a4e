/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <string.h>
#include <sys/socket.h>

#include "backup/backup.h"
#include "common/inet.h"
#include "common/io.h"
#include "common/text.h"

#define VALUE_MAX 512

/* The value of a setting, as far as it is written plainly; the last one counts, as for systemd. */
static bool advice_setting(const struct backup_set *s, const char *name, char out[static VALUE_MAX])
{
    const struct backup_member *m = backup_set_find(s, BACKUP_SETTINGS);
    _cleanup_free_ char *text = m ? strndup(m->data, m->len) : NULL;
    size_t n = strlen(name);

    out[0] = '\0';
    for (char *save, *line = text ? strtok_r(text, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        line += strspn(line, " \t");
        if (strncmp(line, name, n) != 0 || line[n] != '=')
            continue;
        line += n + 1;
        line += strspn(line, "\"'");
        snprintf(out, VALUE_MAX, "%s", line);
        for (size_t k = strlen(out);
             k > 0 && (isspace((unsigned char)out[k - 1]) || strchr("\"'", out[k - 1]));)
            out[--k] = '\0';
        tb_text_plain(out);
    }
    return out[0] != '\0';
}

/* Files outside of what is saved. */
static void advice_files(const struct backup_places *p, const struct backup_set *s)
{
    static const char *const names[] = {"TB_RUNTIME_EXEC",     "TB_PROVIDER_KEY", "TB_CA_FILE",
                                        "TB_CLIENT_CERT_PATH", "TB_TLS_CERT",     "TB_API_KEYS",
                                        "TB_TARGET_DIR"};
    char value[VALUE_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *path = NULL;

        if (!advice_setting(s, names[i], value) || value[0] != '/' ||
            strncmp(value, "/run/credentials/", 17) == 0)
            continue;
        value[strcspn(value, " \t")] = '\0';
        path = tb_strf("%s%s", p->root, value);
        if (path && access(path, F_OK) < 0)
            printf("  * %s names %s, which is not on this machine.\n", names[i], value);
    }
}

static void advice_address(const struct backup_set *s, const char *name)
{
    char value[VALUE_MAX], host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX], err[TB_INET_ERR_MAX],
        any[VALUE_MAX + 8];
    int fd;

    if (!advice_setting(s, name, value) || tb_inet_split(value, host, port) < 0 || !*host)
        return;
    snprintf(any, sizeof(any), strchr(host, ':') ? "[%s]:0" : "%s:0", host);
    fd = tb_inet_listen(any, 1, err);
    if (fd == -EADDRNOTAVAIL)
        printf("  * %s=%s: not an address of this machine.\n", name, value);
    tb_close(fd);
}

static void advice_identity(const struct backup_set *s, bool credentials)
{
    char value[VALUE_MAX], resource[VALUE_MAX];

    printf("  * Never start the old machine again: both would report usage of the same hours, each once.\n"
           "  * The control plane sees another hardware id. If the contract is bound to the old one, or its "
           "client\n"
           "    certificate is, ask the provider to let this machine in; tb-status says what it answers.\n");
    printf(credentials
               ? "  * The client certificate and keys are those of the old machine.\n"
               : "  * Put the client certificate and its key, the TLS certificate and the API keys into\n"
                 "    /etc/credstore: they are not in what was restored.\n");
    if (advice_setting(s, "TB_TLS_CERT", value))
        printf("  * The TLS certificate must name this machine, as its clients call it.\n");
    if (advice_setting(s, "TB_BILLING_ENABLED", value) && strcmp(value, "false") != 0) {
        printf("  * Billing needs a managed identity of this machine that the marketplace knows as the "
               "application's%s.\n",
               advice_setting(s, "TB_BILLING_RESOURCE_ID", resource)
                   ? ", and TB_BILLING_RESOURCE_ID names the\n"
                     "    old application"
                   : "");
    }
    printf("  * Audit records are not in a backup. The chain goes on here after the last one; keep the old "
           "ones.\n");
}

void backup_advise(const struct backup_places *p, const struct backup_set *s, bool another, bool credentials)
{
    if (another) {
        printf("This is another machine than the one that was saved. Before you start it:\n");
        advice_identity(s, credentials);
    }
    advice_files(p, s);
    if (!p->elsewhere) {
        advice_address(s, "TB_PUBLIC_ADDR");
        advice_address(s, "TB_HEALTH_ADDR");
    }
}
