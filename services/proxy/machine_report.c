/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/machine_report.h"

#include <string.h>

#include "common/attest.h"
#include "common/chain.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/log.h"
#include "common/units.h"
#include "proxy/server.h"

/* In the report, which is a string of JSON in JSON. */
#define BROKEN "\\\"result\\\":\\\"broken\\\""

static bool report_is_seen(const struct tb_machine_report *m, const struct stat *st)
{
    return m->seen.st_ino == st->st_ino && m->seen.st_size == st->st_size &&
           m->seen.st_mtim.tv_sec == st->st_mtim.tv_sec && m->seen.st_mtim.tv_nsec == st->st_mtim.tv_nsec;
}

/* False: there is no room for a record now, or no memory. */
static bool report_record(struct tb_server *s, const char *sha256, size_t len, char **text)
{
    struct tb_audit_record *r;

    if (tb_audit_admit(s->audit) == TB_ADMIT_DROP)
        return false;
    r = tb_audit_record_new(s->audit);
    if (!r)
        abort(); /* as for the record of a request: start afresh */
    r->start_realtime_us = tb_now_realtime_us();
    r->req_complete = true;
    r->status = TB_HTTP_OK;
    r->bytes_in = len;
    snprintf(r->method, sizeof(r->method), "REPORT");
    snprintf(r->path, sizeof(r->path), "/tb-verify");
    snprintf(r->req_sha256, sizeof(r->req_sha256), "%s", sha256);
    snprintf(r->request_id, sizeof(r->request_id), "-");
    snprintf(r->client, sizeof(r->client), "-");
    snprintf(r->error, sizeof(r->error), "%s", strstr(*text, BROKEN) ? "claims_broken" : "");
    r->report = TAKE_PTR(*text);
    tb_audit_submit(s->audit, r);
    return true;
}

static void report_look(struct tb_server *s, const char *path, const struct stat *st)
{
    struct tb_machine_report *m = &s->machine_report;
    uint8_t hash[TB_CHAIN_HASH_BYTES];
    _cleanup_free_ char *text = NULL;
    char sha256[sizeof(m->sha256)];
    size_t len;
    int r = tb_read_file(path, TB_MACHINE_REPORT_MAX, &text, &len);

    if (r == 0)
        r = tb_chain_hash(text, len, hash);
    if (r < 0) {
        tb_warn("the report of this machine on itself is not recorded: %s: %s", path, strerror(-r));
        m->seen = *st;
        return;
    }
    tb_hex_encode(hash, sizeof(hash), sha256);
    if (strcmp(sha256, m->sha256) != 0 && !report_record(s, sha256, len, &text))
        return;
    memcpy(m->sha256, sha256, sizeof(sha256));
    m->seen = *st;
}

void tb_machine_report_tick(struct tb_server *s)
{
    _cleanup_free_ char *dir = tb_path_join(s->config->run_dir, TB_VERIFY_DIR),
                        *path = dir ? tb_path_join(dir, TB_VERIFY_FILE) : NULL;
    struct stat st;

    if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode) && !report_is_seen(&s->machine_report, &st))
        report_look(s, path, &st);
}
