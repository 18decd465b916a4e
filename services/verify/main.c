/* SPDX-License-Identifier: Apache-2.0 */
/* tb-verify: this machine looks at its own claims, and signs what it saw. See tb-verify(8). */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/events.h"
#include "common/exit.h"
#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/tpm.h"
#include "common/version.h"
#include "verify/report.h"

static const char help_before[] =
    "Usage: tb-verify [OPTION...]\n"
    "Look at what this machine claims of itself: no swap, no core dumps, sandboxes in force, no open ports, "
    "the\n"
    "kernel locked down, the image verified, no plaintext where it may not be. What cannot be looked at is "
    "said\n"
    "to be not checked. The report is signed by the machine's TPM. Needs root.\n";
static const char help_after[] = "\nExit status: 0 no claim is broken; 64 usage; 66 no such canary; 74 I/O; "
                                 "76 a claim is broken. See tb-verify(8).\n";

struct options {
    const char *canary, *challenge, *output;
    struct tb_option_list disks;
    bool json, log, help, version;
};

#define TB_OPTION_TARGET struct options
static const struct tb_option options_rows[] = {
    TB_OPTION(
        0, "canary", "FILE", TB_OPTION_STRING, canary,
        "look for the bytes of FILE, 16 to 4096 of the plaintext, on disks, in the journal, in environments "
        "and arguments; - is standard input, which leaves no copy on a disk"),
    TB_OPTION(0, "disk", "PATH", TB_OPTION_LIST, disks,
              "look on this device or file alone; may be repeated (default: every disk)"),
    TB_OPTION(0, "challenge", "TEXT", TB_OPTION_STRING, challenge,
              "signed with the report: whoever gave it sees that the report was made after that"),
    TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "print the signed report instead of a table"),
    TB_OPTION(0, "output", "FILE", TB_OPTION_STRING, output, "write the signed report to FILE as well"),
    TB_OPTION(0, "log", NULL, TB_OPTION_FLAG, log, "write it to the journal as well"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    TB_OPTION_END,
};

static int options_fail(int rc, const char *what, const char *why)
{
    tb_error("%s: %s", what, why);
    return rc;
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *s = getenv(name);

    return s && *s ? s : otherwise;
}

static int canary_read(const struct options *o, char **ret, size_t *ret_len)
{
    int r;

    *ret_len = 0;
    if (!o->canary)
        return TB_EXIT_OK;
    r = tb_read_file(o->canary, VERIFY_CANARY_MAX, ret, ret_len);
    if (r == -EFBIG || (r == 0 && *ret_len < VERIFY_CANARY_MIN))
        return options_fail(TB_EXIT_USAGE, "--canary", "give 16 to 4096 bytes: less is found by chance");
    return r < 0 ? options_fail(TB_EXIT_NOINPUT, o->canary, strerror(-r)) : TB_EXIT_OK;
}

static bool claims_print(const struct verify_claims *c)
{
    for (size_t i = 0; i < c->n; i++)
        printf("%-28s %-12s %s\n", c->v[i].name, verify_result_name(c->v[i].result), c->v[i].detail);
    return fflush(stdout) == 0;
}

/* The report is a field: it is longer than a message should be. */
static int claims_log(const struct verify_claims *c, const char *signed_report)
{
    _cleanup_free_ char *field = tb_strf("TB_REPORT=%s", signed_report);
    const char *fields[] = {field, NULL};
    unsigned n[3] = {0};
    const char *first = "";

    for (size_t i = 0; i < c->n; i++)
        if (n[c->v[i].result]++ == 0 && c->v[i].result == VERIFY_BROKEN)
            first = c->v[i].name;
    if (!field)
        return options_fail(TB_EXIT_IOERR, "the report", "out of memory");
    tb_log_full(TB_LOG_INFO, TB_EVENT_VERIFIED, fields,
                "claims of this machine: %u hold, %u broken%s%s%s, %u not checked", n[VERIFY_HOLDS],
                n[VERIFY_BROKEN], *first ? " (first: " : "", first, *first ? ")" : "", n[VERIFY_NOT_CHECKED]);
    return TB_EXIT_OK;
}

static int claims_deliver(const struct options *o, const struct verify_claims *c)
{
    _cleanup_free_ char *report = verify_report(c, o->challenge), *signed_report = NULL;
    char why[VERIFY_ERR_MAX] = "";
    int r = 0;

    if (report)
        signed_report = verify_sign(report, setting("TB_TPM", TB_TPM_DEVICE), why);
    if (!signed_report)
        return options_fail(TB_EXIT_IOERR, "the report", "out of memory");
    if (o->json ? printf("%s\n", signed_report) < 0 || fflush(stdout) != 0 : !claims_print(c))
        return options_fail(TB_EXIT_IOERR, "standard output", strerror(errno));
    if (!o->json)
        printf("%-28s %-12s %s\n", "signature", *why ? "not checked" : "made",
               *why ? why : "by the TPM of this machine");
    if (o->output)
        r = tb_write_file_atomic(o->output, signed_report, strlen(signed_report), 0644);
    if (r < 0)
        return options_fail(TB_EXIT_IOERR, o->output, strerror(-r));
    return o->log ? claims_log(c, signed_report) : TB_EXIT_OK;
}

static int verify_run(const struct options *o)
{
    struct verify_claims claims = {.n = 0};
    _cleanup_free_ char *canary = NULL;
    size_t len;
    int rc = canary_read(o, &canary, &len);

    if (rc != TB_EXIT_OK)
        return rc;
    verify_system(&claims, setting("TB_PUBLIC_ADDR", "0.0.0.0:8000"),
                  setting("TB_HEALTH_ADDR", "0.0.0.0:8001"));
    verify_processes(&claims);
    verify_canary(&claims, canary, len, &o->disks);
    if (canary)
        tb_erase(canary, len);
    rc = claims_deliver(o, &claims);
    for (size_t i = 0; rc == TB_EXIT_OK && i < claims.n; i++)
        if (claims.v[i].result == VERIFY_BROKEN)
            rc = TB_EXIT_DATAERR;
    return rc;
}

int main(int argc, char **argv)
{
    struct tb_options parsed = {.rows = options_rows};
    struct options o = {0};
    int rc;

    tb_log_init("tb-verify");
    if (tb_options_parse(&parsed, &o, argc, argv) < 0)
        rc = options_fail(TB_EXIT_USAGE, "tb-verify", parsed.error);
    else if (o.help) {
        fputs(help_before, stdout);
        fputs("\n", stdout);
        tb_options_help(options_rows, stdout, NULL);
        fputs(help_after, stdout);
        rc = fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    } else if (o.version) {
        printf("tb-verify %s\n", TB_VERSION);
        rc = TB_EXIT_OK;
    } else if (optind < argc)
        rc = options_fail(TB_EXIT_USAGE, argv[optind], "there are no arguments; see tb-verify --help");
    else
        rc = verify_run(&o);
    tb_option_list_clear(&o.disks);
    return rc;
}
