/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/audit/record.h"

#include <string.h>

#include "common/chain.h"
#include "common/hex.h"
#include "common/units.h"

/* May stand in a JSON string as it is, and in a terminal. */
static bool record_is_plain(unsigned char c)
{
    return c > 0x20 && c < 0x7f && c != '"' && c != '\\';
}

void tb_audit_record_set_path(struct tb_audit_record *r, const char *path, size_t len)
{
    static const char digit[] = "0123456789ABCDEF";
    uint8_t hash[TB_CHAIN_HASH_BYTES];
    size_t n = 0, i;

    r->path_sha256[0] = '\0';
    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)path[i];
        size_t need = record_is_plain(c) ? 1 : 3;

        if (n + need > TB_AUDIT_PATH_MAX)
            break;
        if (need == 1) {
            r->path[n++] = (char)c;
            continue;
        }
        r->path[n++] = '%';
        r->path[n++] = digit[c >> 4];
        r->path[n++] = digit[c & 15];
    }
    r->path[n] = '\0';
    if (i < len && tb_chain_hash(path, len, hash) >= 0)
        tb_hex_encode(hash, sizeof(hash), r->path_sha256);
}

/* No printf and no measuring of names here: a record is written for each request. */
#define MEMBER(name) ",\"" name "\":"
#define record_put_string(out, name, value)                                                                  \
    record_put_text(out, MEMBER(name), sizeof(MEMBER(name)) - 1, value)
#define record_put_uint(out, name, value)                                                                    \
    record_put_number(out, MEMBER(name), sizeof(MEMBER(name)) - 1, value)

static void record_put_text(struct tb_buf *out, const char *member, size_t n, const char *value)
{
    tb_buf_append(out, member, n);
    tb_buf_json_string(out, value, strlen(value));
}

static void record_put_number(struct tb_buf *out, const char *member, size_t n, uint64_t value)
{
    tb_buf_append(out, member, n);
    tb_buf_uint(out, value);
}

static void record_put_extras(const struct tb_audit_record *r, struct tb_buf *out)
{
    char ts[TB_RFC3339_MAX];

    if (r->path_sha256[0])
        record_put_string(out, "path_sha256", r->path_sha256);
    if (r->has_tokens) {
        record_put_uint(out, "prompt_tokens", r->prompt_tokens);
        record_put_uint(out, "completion_tokens", r->completion_tokens);
        record_put_uint(out, "cached_tokens", r->cached_tokens);
        if (r->estimated)
            tb_buf_puts(out, ",\"estimated\":true");
    }
    if (r->key_name[0])
        record_put_string(out, "key_name", r->key_name);
    if (!r->req_complete)
        tb_buf_puts(out, ",\"req_complete\":false");
    if (r->error[0])
        record_put_string(out, "error", r->error);
    if (r->count > 0) {
        record_put_uint(out, "count", r->count);
        record_put_string(out, "last_ts", tb_rfc3339_format(r->last_realtime_us, 1, ts));
    }
    if (r->report)
        record_put_string(out, "machine_report", r->report);
    if (r->after_stop) {
        record_put_uint(out, "lost_max", r->lost_max);
        record_put_uint(out, "unsure", r->unsure);
    }
}

int tb_audit_format(const struct tb_audit_record *r, const char *contract_id, const char *asset_id,
                    struct tb_buf *out)
{
    char ts[TB_RFC3339_MAX];

    tb_buf_puts(out, "{\"ts\":\"");
    tb_buf_puts(out, tb_rfc3339_format(r->start_realtime_us, 1, ts));
    tb_buf_puts(out, "\"");
    record_put_string(out, "contract_id", contract_id);
    record_put_string(out, "asset_id", asset_id);
    record_put_string(out, "method", r->method);
    record_put_string(out, "path", r->path);
    record_put_string(out, "req_sha256", r->req_sha256);
    record_put_uint(out, "status", (uint64_t)r->status);
    record_put_uint(out, "latency_ms", r->latency_ms);
    record_put_uint(out, "seq", r->seq);
    record_put_string(out, "prev", r->prev);
    record_put_string(out, "request_id", r->request_id);
    record_put_string(out, "client", r->client);
    record_put_uint(out, "bytes_in", r->bytes_in);
    record_put_uint(out, "bytes_out", r->bytes_out);
    record_put_extras(r, out);
    return tb_buf_puts(out, "}");
}

void tb_audit_free_record(struct tb_audit_record *r)
{
    free(r->report);
    free(r);
}

void tb_audit_free_records(struct tb_audit_record *r)
{
    while (r) {
        struct tb_audit_record *next = r->next;

        tb_audit_free_record(r);
        r = next;
    }
}
