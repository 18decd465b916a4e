/* SPDX-License-Identifier: Apache-2.0 */
#include "audit/journal.h"

#include <string.h>
#include <systemd/sd-journal.h>

#include "common/events.h"
#include "common/json.h"

#define UNIT "tb-proxy.service"
#define WAIT_US 500000ULL
#define WAITS 6

static void journal_closep(sd_journal **j)
{
    sd_journal_close(*j);
}

/* A field of the current entry; NULL when it has none. Valid until the next one is asked for. */
static const char *entry_field(sd_journal *j, const char *name, size_t *ret_len)
{
    size_t skip = strlen(name) + 1, len;
    const void *p;

    if (sd_journal_get_data(j, name, &p, &len) < 0 || len < skip)
        return NULL;
    *ret_len = len - skip;
    return (const char *)p + skip;
}

static bool entry_field_is(sd_journal *j, const char *name, const char *value)
{
    size_t len;
    const char *p = entry_field(j, name, &len);

    return p && len == strlen(value) && memcmp(p, value, len) == 0;
}

/* The fields that people filter by are not under the hash: they must say what the record says. */
static void entry_check_fields(struct tb_verify *v, sd_journal *j, const char *line, size_t len, uint64_t seq)
{
    static const struct {
        const char *field, *member;
    } same[] = {
        {"TB_SEQ", "seq"},
        {"TB_CONTRACT_ID", "contract_id"},
        {"TB_ASSET_ID", "asset_id"},
        {"TB_REQ_SHA256", "req_sha256"},
        {"TB_STATUS", "status"},
        {"TB_LATENCY_MS", "latency_ms"},
        {"TB_BYTES_IN", "bytes_in"},
        {"TB_BYTES_OUT", "bytes_out"},
        {"TB_REQUEST_ID", "request_id"},
        {"TB_CLIENT", "client"},
        {"TB_KEY_NAME", "key_name"},
    };
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX], number[32];

    if (tb_json_parse(line, len, TB_CHAIN_LINE_MAX, &doc, err) < 0)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        const char *want = "";
        uint64_t n;

        if (tb_json_get_uint(doc, same[i].member, TB_JSON_INT_MAX, &n, err) == 0) {
            snprintf(number, sizeof(number), "%llu", (unsigned long long)n);
            want = number;
        } else if (tb_json_get_string(doc, same[i].member, &want, err) == -ENOENT) {
            continue;
        }
        if (!entry_field_is(j, same[i].field, want))
            tb_verify_problem(v, TB_AUDIT_PROBLEM_CHANGED, NULL, 0, seq,
                              "the entry's %s is not what record %llu says", same[i].field,
                              (unsigned long long)seq);
    }
}

static int entry_verify(struct tb_verify *v, sd_journal *j)
{
    _cleanup_free_ char *line = NULL;
    struct tb_chain_entry e;
    const char *p;
    size_t len;
    int r;

    if (!entry_field_is(j, "_SYSTEMD_UNIT", UNIT)) {
        v->foreign++;
        return 0;
    }
    p = entry_field(j, "MESSAGE", &len);
    line = strndup(p ? p : "", p ? len : 0);
    if (!line)
        return -ENOMEM;
    r = tb_verify_line(v, NULL, 0, line, strlen(line), &e);
    if (r >= 0 && e.seq > 0)
        entry_check_fields(v, j, line, strlen(line), e.seq);
    return r;
}

static int journal_open(const struct tb_journal_query *q, sd_journal **ret)
{
    int r = q->directory ? sd_journal_open_directory(ret, q->directory, 0)
                         : sd_journal_open_namespace(ret, q->space, SD_JOURNAL_LOCAL_ONLY);

    if (r >= 0)
        r = sd_journal_set_data_threshold(*ret, 0);
    if (r >= 0)
        r = sd_journal_add_match(*ret, "MESSAGE_ID=" TB_EVENT_AUDIT, 0);
    if (r < 0)
        return r;
    return q->since_us > 0 ? sd_journal_seek_realtime_usec(*ret, q->since_us) : sd_journal_seek_head(*ret);
}

int tb_journal_verify(struct tb_verify *v, const struct tb_journal_query *q)
{
    _cleanup_(journal_closep) sd_journal *j = NULL;
    int r = journal_open(q, &j);

    for (int waits = 0; r >= 0;) {
        r = sd_journal_next(j);
        if (r > 0) {
            r = entry_verify(v, j);
            continue;
        }
        if (r < 0 || !tb_verify_wants_more(v) || waits++ == WAITS)
            break;
        r = sd_journal_wait(j, WAIT_US);
    }
    return r < 0 ? r : 0;
}
