/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/cmd.h"

#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <string.h>

#include "common/log.h"
#include "common/units.h"

#define SAS_SECONDS_MAX (7 * 86400)

static const struct {
    char letter;
    const char *name, *arg, *help;
} defs[] = {
    {'d', "data", "DIR", "where database, keys and certificates are (required)"},
    {'a', "asset", "ID", "the asset the contract is for; \"*\" is every asset (required)"},
    {'e', "expires", "TIME", "end of the contract, RFC 3339: 2026-12-31T00:00:00Z"},
    {'i', "expires-in", "DURATION", "end of the contract from now: 90s, 1h30m"},
    {'l', "lease-seconds", "N", "how long one authorisation lasts (default 3600)"},
    {'m', "max-hw", "N", "at most N different machines (default: any number)"},
    {'r', "reason", "WORD", "what the consumer is told (default contract_inactive)"},
    {'p', "replace", NULL, "change the contract if it exists"},
    {'j', "json", NULL, "print a JSON array"},
    {'n', "limit", "N", "the last N entries (default 50)"},
    {'L', "listen", "HOST:PORT", "address (default 127.0.0.1:8080); port 0 picks a free one"},
    {'A', "tls-auto", NULL, "TLS with an own CA, made at the first start: DIR/ca.crt (default)"},
    {'N', "name", "NAME", "a further host name or address for the server certificate; repeatable"},
    {'C', "tls-cert", "FILE", "TLS with this certificate chain (PEM)"},
    {'K', "tls-key", "FILE", "and this key"},
    {'H', "http", NULL, "no TLS: keys cross the network in the clear"},
    {'X', "client-auth", NULL, "authorize wants a client certificate of DIR/ca.crt (see issue-client)"},
    {'Y', "client-ca", "FILE", "authorize wants a client certificate of these CAs"},
    {'S', "storage-account", "NAME", "sign the blob URLs of this storage account"},
    {'F', "storage-key-file", "FILE", "with the account key in this file (base64)"},
    {'T', "sas-seconds", "N", "life of a SAS (default 3600)"},
    {'P', "sas-ip", "ADDRESS", "limit the SAS to an IPv4 address or range A-B"},
    {'s', "seed", NULL, "reset contract-allow and contract-deny to their first state"},
    {'v', "log-level", "LEVEL", "debug, info (default), warn or error"},
    {'h', "help", NULL, "this text"},
};

static bool accepted(const struct cp_command *c, char letter)
{
    return letter == 'd' || letter == 'h' || strchr(c->options, letter);
}

static void print_words(FILE *f, const struct cp_command *c)
{
    fprintf(f, CP_PROGRAM " %s%s%s", c->noun, c->verb ? " " : "", c->verb ? c->verb : "");
}

static void print_help(const struct cp_command *c)
{
    char left[40];

    printf("Usage: ");
    print_words(stdout, c);
    printf(" --data DIR%s%s%s\n\n%c%s.%s%s\n\nOptions:\n", c->operand ? " " : "",
           c->operand ? c->operand : "", *c->options ? " [OPTION...]" : "",
           toupper((unsigned char)c->summary[0]), c->summary + 1, c->details ? "\n\n" : "",
           c->details ? c->details : "");
    for (size_t i = 0; i < ARRAY_SIZE(defs); i++) {
        if (!accepted(c, defs[i].letter))
            continue;
        snprintf(left, sizeof(left), "--%s%s%s", defs[i].name, defs[i].arg ? " " : "",
                 defs[i].arg ? defs[i].arg : "");
        printf("  %-26s %s\n", left, defs[i].help);
    }
}

int cp_fail(const struct cp_options *o, int code, const char *fmt, ...)
{
    va_list ap;

    print_words(stderr, o->command);
    fputs(": ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return code;
}

int cp_fail_store(const struct cp_options *o, const struct cp_store *s, int r)
{
    if (r == -EBUSY)
        return cp_fail(o, TB_EXIT_TEMPFAIL, "the database in %s is held by another process; try again",
                       o->data);
    return cp_fail(o, TB_EXIT_IOERR, "the database in %s fails: %s", o->data, cp_store_error(s));
}

int cp_open(const struct cp_options *o, struct cp_store **ret)
{
    char err[CP_ERR_MAX];
    int r;

    r = cp_data_open_store(o->data, ret, err);
    return r < 0 ? cp_fail(o, r == -EBUSY ? TB_EXIT_TEMPFAIL : TB_EXIT_IOERR, "%s", err) : 0;
}

static int set_number(const struct cp_options *o, const char *name, const char *arg, uint64_t max,
                      uint64_t *ret)
{
    if (tb_uint_parse(arg, 1, max, ret) == 0)
        return -1;
    return cp_fail(o, TB_EXIT_USAGE, "--%s %s is not a number from 1 to %llu", name, arg,
                   (unsigned long long)max);
}

static int set_end(struct cp_options *o, char letter, const char *arg)
{
    uint64_t us;

    if (letter == 'e' && tb_rfc3339_parse(arg, &o->expires_us) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--expires %s is not a time like 2026-12-31T00:00:00Z", arg);
    if (letter == 'i') {
        if (tb_duration_parse(arg, &us) < 0)
            return cp_fail(o, TB_EXIT_USAGE, "--expires-in %s is not a duration like 90s or 1h30m", arg);
        o->expires_us = tb_now_realtime_us() + us;
    }
    return -1;
}

static int add_name(struct cp_options *o, char *arg)
{
    if (o->n_names == CP_NAMES_MAX)
        return cp_fail(o, TB_EXIT_USAGE, "--name can be given at most %d times", CP_NAMES_MAX);
    o->names[o->n_names++] = arg;
    return -1;
}

static int set_log_level(const struct cp_options *o, const char *arg)
{
    enum tb_log_level l = tb_log_level_from_string(arg);

    if (l == _TB_LOG_LEVEL_INVALID)
        return cp_fail(o, TB_EXIT_USAGE, "--log-level %s is none of debug, info, warn, error", arg);
    tb_log_set_level(l);
    return -1;
}

static bool *flag_of(struct cp_options *o, char letter)
{
    switch (letter) {
    case 'p':
        return &o->replace;
    case 'j':
        return &o->json;
    case 'A':
        return &o->tls_auto;
    case 'H':
        return &o->http;
    case 'X':
        return &o->client_auth;
    case 's':
        return &o->seed;
    default:
        return NULL;
    }
}

static const char **string_of(struct cp_options *o, char letter)
{
    switch (letter) {
    case 'd':
        return &o->data;
    case 'a':
        return &o->asset;
    case 'r':
        return &o->reason;
    case 'L':
        return &o->listen;
    case 'C':
        return &o->tls_cert;
    case 'K':
        return &o->tls_key;
    case 'Y':
        return &o->client_ca;
    case 'S':
        return &o->storage_account;
    case 'F':
        return &o->storage_key_file;
    case 'P':
        return &o->sas_ip;
    default:
        return NULL;
    }
}

/* -1 to go on, else an exit code. */
static int set_option(struct cp_options *o, char letter, char *arg)
{
    if (flag_of(o, letter)) {
        *flag_of(o, letter) = true;
        return -1;
    }
    if (string_of(o, letter)) {
        *string_of(o, letter) = arg;
        return -1;
    }
    switch (letter) {
    case 'l':
        return set_number(o, "lease-seconds", arg, CP_LEASE_SECONDS_MAX, &o->lease_seconds);
    case 'm':
        return set_number(o, "max-hw", arg, 1000000, &o->max_hw);
    case 'n':
        return set_number(o, "limit", arg, CP_STORE_LOG_MAX, &o->limit);
    case 'T':
        return set_number(o, "sas-seconds", arg, SAS_SECONDS_MAX, &o->sas_seconds);
    case 'N':
        return add_name(o, arg);
    case 'v':
        return set_log_level(o, arg);
    default:
        return set_end(o, letter, arg);
    }
}

static int check_operands(struct cp_options *o, int argc, char **argv)
{
    const struct cp_command *c = o->command;

    if (!o->data || !*o->data)
        return cp_fail(o, TB_EXIT_USAGE, "--data DIR is missing");
    if (c->operand && optind < argc)
        o->operand = argv[optind++];
    if (c->operand && !o->operand)
        return cp_fail(o, TB_EXIT_USAGE, "%s is missing", c->operand);
    if (optind < argc)
        return cp_fail(o, TB_EXIT_USAGE, "unexpected argument \"%s\"; see --help", argv[optind]);
    if (c->operand && !tb_id_valid(o->operand))
        return cp_fail(o, TB_EXIT_USAGE, "%s \"%s\" does not match ^[A-Za-z0-9_-]{1,100}$", c->operand,
                       o->operand);
    return -1;
}

int cp_options_parse(const struct cp_command *c, int argc, char **argv, struct cp_options *ret)
{
    struct option longs[ARRAY_SIZE(defs) + 1] = {0};
    struct cp_options o = {.command = c};
    int letter, r;

    for (size_t i = 0, n = 0; i < ARRAY_SIZE(defs); i++)
        if (accepted(c, defs[i].letter))
            longs[n++] =
                (struct option){.name = defs[i].name, .has_arg = !!defs[i].arg, .val = defs[i].letter};
    opterr = 0;
    optind = 1;
    while ((letter = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
        if (letter == 'h') {
            print_help(c);
            return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
        }
        if (letter == '?' || letter == ':')
            return cp_fail(&o, TB_EXIT_USAGE, "%s %s; see --help",
                           letter == ':' ? "an argument is missing after" : "unknown or ambiguous option",
                           argv[optind - 1]);
        r = set_option(&o, (char)letter, optarg);
        if (r >= 0)
            return r;
    }
    r = check_operands(&o, argc, argv);
    if (r < 0)
        *ret = o;
    return r;
}
