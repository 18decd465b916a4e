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
#include "audit/report.h"
#include "common/secret.h"
#include "common/version.h"

#define NAMESPACE "trustbridge"
#define STATE_DIR "/var/lib"

static const char help[] =
    "Usage: tb-audit verify [OPTION...] FILE...\n"
    "       tb-audit verify [OPTION...] --journal\n"
    "       tb-audit head [--head FILE]\n"
    "Check that no audit record of tb-proxy is missing, changed, moved or added.\n"
    "\n"
    "verify  reads the records and prints what is wrong, and a verdict as the last line\n"
    "head    prints number and hash of the last record written, for --expect\n"
    "\n"
    "FILE is TB_AUDIT_FILE; give rotated ones with it, in any order; - is standard input.\n"
    "  --journal          read the journal instead; only what tb-proxy.service wrote counts\n"
    "  --namespace NAME   namespace of the journal (trustbridge)\n"
    "  --directory DIR    read the journal files in DIR\n"
    "  --since TIME       begin at a time, 2026-01-08T12:00:00Z\n"
    "  --head FILE        what the last record was (/var/lib/tb-proxy/audit-head)\n"
    "  --no-head          do without: a cut end is not noticed then\n"
    "  --expect SEQ:HASH  a record that was written down elsewhere must be there; repeatable\n"
    "  --first SEQ        the first record must be this one, not any\n"
    "  --json             print one JSON object\n"
    "  --help, --version\n"
    "Exit status: 0 intact; 64 usage; 66 nothing to check; 74 cannot read; 76 not intact. See tb-audit(8).\n";

struct audit_options {
    bool from_journal, no_head, json;
    const char *head;
    struct tb_journal_query query;
    struct tb_verify *verify;
};

enum {
    OPT_JOURNAL = 256,
    OPT_NAMESPACE,
    OPT_DIRECTORY,
    OPT_SINCE,
    OPT_HEAD,
    OPT_NO_HEAD,
    OPT_EXPECT,
    OPT_FIRST,
    OPT_JSON
};

static const struct option options[] = {
    {"journal", no_argument, NULL, OPT_JOURNAL},
    {"namespace", required_argument, NULL, OPT_NAMESPACE},
    {"directory", required_argument, NULL, OPT_DIRECTORY},
    {"since", required_argument, NULL, OPT_SINCE},
    {"head", required_argument, NULL, OPT_HEAD},
    {"no-head", no_argument, NULL, OPT_NO_HEAD},
    {"expect", required_argument, NULL, OPT_EXPECT},
    {"first", required_argument, NULL, OPT_FIRST},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'v'},
    {0},
};

static int audit_usage(const char *what, const char *value)
{
    tb_error("%s%s%s; see tb-audit --help", what, value ? ": " : "", value ? value : "");
    return TB_EXIT_USAGE;
}

static int audit_parse_anchor(struct tb_verify *v, const char *s)
{
    const char *colon = strchr(s, ':');
    struct tb_chain_point p;
    char number[32];

    if (!colon || (size_t)(colon - s) >= sizeof(number))
        return -EINVAL;
    snprintf(number, sizeof(number), "%.*s", (int)(colon - s), s);
    if (tb_uint_parse(number, 1, UINT64_MAX, &p.seq) < 0 ||
        tb_hex_decode(colon + 1, strlen(colon + 1), p.hash, sizeof(p.hash)) < 0)
        return -EINVAL;
    return tb_verify_add_anchor(v, &p, "--expect");
}

/* 0, or an exit code. */
static int audit_take_option(struct audit_options *o, int c, const char *given)
{
    switch (c) {
    case OPT_JOURNAL:
        o->from_journal = true;
        return 0;
    case OPT_NAMESPACE:
        o->query.space = optarg;
        return 0;
    case OPT_DIRECTORY:
        o->query.directory = optarg;
        return 0;
    case OPT_SINCE:
        return tb_rfc3339_parse(optarg, &o->query.since_us) < 0 ? audit_usage("--since: not a time", optarg)
                                                                : 0;
    case OPT_HEAD:
        o->head = optarg;
        return 0;
    case OPT_NO_HEAD:
        o->no_head = true;
        return 0;
    case OPT_EXPECT:
        return audit_parse_anchor(o->verify, optarg) < 0
                   ? audit_usage("--expect: not SEQ:HASH, or too many", optarg)
                   : 0;
    case OPT_FIRST:
        return tb_uint_parse(optarg, 1, UINT64_MAX, &o->verify->first_wanted) < 0
                   ? audit_usage("--first: not a number from 1", optarg)
                   : 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    default:
        return audit_usage("unknown option, or its value is missing", given);
    }
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
static int add_head(struct audit_options *o)
{
    struct tb_chain_point p;
    int r;

    if (o->no_head)
        return 0;
    r = head_read(o->head, &p);
    if (r == 0)
        r = tb_verify_add_anchor(o->verify, &p, "the head");
    return r < 0 ? r : 0;
}

static int cmd_verify(struct audit_options *o, char **files, size_t n)
{
    struct tb_verify *v = o->verify;
    const char *bad = "the journal";
    int r;

    if (o->from_journal ? n > 0 : n == 0)
        return audit_usage("give files or --journal, one of them", NULL);
    if (add_head(o) < 0)
        return TB_EXIT_IOERR;
    r = o->from_journal ? tb_journal_verify(v, &o->query) : tb_files_verify(v, files, n, &bad);
    if (r < 0) {
        tb_error("cannot read %s: %s", bad, strerror(-r));
        return r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
    }
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
    static struct tb_verify verify;
    struct audit_options o = {.query.space = NAMESPACE, .verify = &verify};
    int c, r = 0;

    tb_log_init("tb-audit");
    opterr = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
        if (c == 'h' || c == 'v') {
            printf(c == 'h' ? help : "tb-audit " TB_VERSION "\n");
            return TB_EXIT_OK;
        }
        r = audit_take_option(&o, c, argv[optind - 1]);
    }
    if (r != 0)
        return r;
    argv += optind;
    argc -= optind;
    if (argc == 1 && strcmp(*argv, "head") == 0)
        return cmd_head(&o);
    if (argc > 0 && strcmp(*argv, "verify") == 0)
        return cmd_verify(&o, argv + 1, (size_t)argc - 1);
    return audit_usage(argc > 0 ? "unknown command" : "no command", argc > 0 ? *argv : NULL);
}
