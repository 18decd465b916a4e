/* SPDX-License-Identifier: Apache-2.0 */
/* tb-audit: checks the chain of audit records that tb-proxy writes. See tb-audit(8). */
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "common/chain_head.h"
#include "common/exit.h"
#include "audit/files.h"
#include "common/hex.h"
#include "common/io.h"
#include "audit/journal.h"
#include "common/log.h"
#include "common/option.h"
#include "audit/report.h"
#include "common/secret.h"
#include "common/version.h"

#define NAMESPACE "trustbridge"
#define STATE_DIR "/var/lib"

static const char help_before[] =
    "Usage: tb-audit verify [OPTION...] FILE...\n"
    "       tb-audit verify [OPTION...] --journal\n"
    "       tb-audit head [--head FILE]\n"
    "Check that no audit record of tb-proxy is missing, changed, moved or added.\n"
    "\n"
    "verify  reads the records and prints what is wrong, and a verdict as the last line\n"
    "head    prints number and hash of the last record written, for --expect\n"
    "\n"
    "FILE is TB_AUDIT_FILE; give rotated ones with it, in any order; - is standard input.\n";
static const char help_after[] =
    "Exit status: 0 intact; 64 usage; 66 nothing to check; 74 cannot read; 76 not intact. See tb-audit(8).\n";

struct audit_options {
    bool from_journal, no_head, json, help, version;
    const char *head;
    struct tb_journal_query query;
    struct tb_verify verify;
};

static int audit_set_time(const struct tb_option *o, void *us, char *value,
                          char err[static TB_OPTION_ERR_MAX])
{
    return tb_rfc3339_parse(value, us);
}

/* SEQ:HASH */
static int audit_add_anchor(const struct tb_option *o, void *verify, char *value,
                            char err[static TB_OPTION_ERR_MAX])
{
    const char *colon = strchr(value, ':');
    struct tb_chain_point p;
    char number[32];

    if (!colon || (size_t)(colon - value) >= sizeof(number))
        return -EINVAL;
    snprintf(number, sizeof(number), "%.*s", (int)(colon - value), value);
    if (tb_uint_parse(number, 1, UINT64_MAX, &p.seq) < 0 ||
        tb_hex_decode(colon + 1, strlen(colon + 1), p.hash, sizeof(p.hash)) < 0)
        return -EINVAL;
    return tb_verify_add_anchor(verify, &p, "--expect");
}

#define TB_OPTION_TARGET struct audit_options
static const struct tb_option options[] = {
    TB_OPTION(0, "journal", NULL, TB_OPTION_FLAG, from_journal,
              "read the journal instead; only what tb-proxy.service wrote counts"),
    TB_OPTION(0, "namespace", "NAME", TB_OPTION_STRING, query.space,
              "namespace of the journal (trustbridge)"),
    TB_OPTION(0, "directory", "DIR", TB_OPTION_STRING, query.directory, "read the journal files in DIR"),
    TB_OPTION(0, "since", "TIME", TB_OPTION_CALL, query.since_us, "begin at a time, 2026-01-08T12:00:00Z",
              .set = audit_set_time, .want = "a time like 2026-01-08T12:00:00Z"),
    TB_OPTION(0, "head", "FILE", TB_OPTION_STRING, head,
              "what the last record was (/var/lib/tb-proxy/audit-head)"),
    TB_OPTION(0, "no-head", NULL, TB_OPTION_FLAG, no_head, "do without: a cut end is not noticed then"),
    TB_OPTION(0, "expect", "SEQ:HASH", TB_OPTION_CALL, verify,
              "a record that was written down elsewhere must be there; may be repeated",
              .set = audit_add_anchor, .want = "SEQ:HASH, and not too many"),
    TB_OPTION(0, "first", "SEQ", TB_OPTION_UINT, verify.first_wanted,
              "the first record must be this one, not any", .min = 1, .max = UINT64_MAX),
    TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "print one JSON object"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    TB_OPTION_END,
};

static int audit_usage(const char *what, const char *value)
{
    tb_error("%s%s%s; see tb-audit --help", what, value ? ": " : "", value ? value : "");
    return TB_EXIT_USAGE;
}

static int head_read(const char *given, struct tb_chain_point *ret)
{
    const char *base = getenv("TB_STATE_DIR");
    _cleanup_free_ char *path =
        given ? strdup(given) : tb_strf("%s/tb-proxy/audit-head", base ? base : STATE_DIR);
    int r = path ? tb_chain_head_read(path, ret) : -ENOMEM;

    if (r == -ENOENT && !given)
        return 1;
    if (r < 0)
        tb_error("cannot read the head %s: %s", path ? path : "",
                 r == -EBADMSG ? "it is not one; give a copy by --head, or --no-head" : strerror(-r));
    return r;
}

static int cmd_head(const struct audit_options *o)
{
    char hash[2 * TB_CHAIN_HASH_BYTES + 1];
    struct tb_chain_point p;
    int r = head_read(o->head, &p);

    if (r == 1)
        tb_error("there is no head yet: no tb-proxy has run here (or give --head FILE)");
    if (r != 0)
        return r == 1 || r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
    tb_hex_encode(p.hash, sizeof(p.hash), hash);
    printf("%" PRIu64 ":%s\n", p.seq, hash);
    return TB_EXIT_OK;
}

/* The head is read before the records: what is written meanwhile is behind it. */
static int audit_add_head(struct audit_options *o)
{
    struct tb_chain_point p;
    int r;

    if (o->no_head)
        return 0;
    r = head_read(o->head, &p);
    if (r == 0)
        r = tb_verify_add_anchor(&o->verify, &p, "the head");
    return r < 0 ? r : 0;
}

static int audit_say_unreadable(const char *name, int r)
{
    bool pattern = strpbrk(name, "*?[");

    if (r == -ENOENT && pattern)
        tb_error("%s: no file has such a name; without TB_AUDIT_FILE the records are in the journal only: "
                 "tb-audit verify --journal",
                 name);
    else if (r == -EACCES)
        tb_error("cannot read %s: %s; run this as root", name, strerror(-r));
    else
        tb_error("cannot read %s: %s", name, strerror(-r));
    return r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
}

static int cmd_verify(struct audit_options *o, char **names, size_t n)
{
    _cleanup_(tb_files_clear) struct tb_files files = {0};
    struct tb_verify *v = &o->verify;
    const char *bad = "the journal";
    int r;

    if (o->from_journal ? n > 0 : n == 0)
        return audit_usage("give files or --journal, one of them", NULL);
    if (audit_add_head(o) < 0)
        return TB_EXIT_IOERR;
    r = o->from_journal ? tb_journal_verify(v, &o->query) : tb_files_expand(names, n, &files, &bad);
    if (r >= 0 && !o->from_journal)
        r = tb_files_verify(v, files.v, files.n, &bad);
    if (r < 0)
        return audit_say_unreadable(bad, r);
    tb_verify_end(v);
    if (v->records == 0 && v->n_problems == 0) {
        tb_error("there is no audit record%s", o->from_journal ? " of tb-proxy.service in this journal" : "");
        return TB_EXIT_NOINPUT;
    }
    if (!o->json)
        tb_report_text(v);
    else if (tb_report_json(v) < 0)
        return TB_EXIT_IOERR;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        tb_error("cannot write the result: %s", strerror(errno));
        return TB_EXIT_IOERR;
    }
    return v->n_problems > 0 ? TB_EXIT_DATAERR : TB_EXIT_OK;
}

int main(int argc, char **argv)
{
    static struct audit_options o = {.query.space = NAMESPACE};
    struct tb_options line = {.rows = options};

    tb_log_init("tb-audit");
    if (tb_options_parse(&line, &o, argc, argv) < 0)
        return audit_usage(line.error, NULL);
    if (o.help) {
        fputs(help_before, stdout);
        tb_options_help(options, stdout, NULL);
        fputs(help_after, stdout);
    }
    if (o.version)
        puts("tb-audit " TB_VERSION);
    if (o.help || o.version)
        return TB_EXIT_OK;
    argv += optind;
    argc -= optind;
    if (argc == 1 && strcmp(*argv, "head") == 0)
        return cmd_head(&o);
    if (argc > 0 && strcmp(*argv, "verify") == 0)
        return cmd_verify(&o, argv + 1, (size_t)argc - 1);
    return audit_usage(argc > 0 ? "unknown command" : "no command", argc > 0 ? *argv : NULL);
}
