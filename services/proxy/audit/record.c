/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "proxy/audit/audit.h"
#include "common/units.h"

void tb_audit_record_free(struct tb_audit_record *r)
{
    if (!r)
        return;
    free(r->path);
    free(r);
}

static int put_string(struct tb_buf *out, const char *name, const char *value)
{
    int r = tb_buf_printf(out, ",\"%s\":", name);

    return r < 0 ? r : tb_buf_json_string(out, value, strlen(value));
}

static int put_uint(struct tb_buf *out, const char *name, uint64_t value)
{
    return tb_buf_printf(out, ",\"%s\":%llu", name, (unsigned long long)value);
}

int tb_audit_format(const struct tb_audit_record *r, const char *contract_id, const char *asset_id,
                    struct tb_buf *out)
{
    char ts[TB_RFC3339_MAX];
    int e = tb_buf_printf(out, "{\"ts\":\"%s\"", tb_rfc3339_format(r->start_realtime_us, 1, ts));

    if (e >= 0)
        e = put_string(out, "contract_id", contract_id);
    if (e >= 0)
        e = put_string(out, "asset_id", asset_id);
    if (e >= 0)
        e = put_string(out, "method", r->method);
    if (e >= 0)
        e = put_string(out, "path", r->path ? r->path : "");
    if (e >= 0)
        e = put_string(out, "req_sha256", r->req_sha256);
    if (e >= 0)
        e = put_uint(out, "status", (uint64_t)r->status);
    if (e >= 0)
        e = put_uint(out, "latency_ms", r->latency_ms);
    if (e >= 0)
        e = put_uint(out, "seq", r->seq);
    if (e >= 0)
        e = put_string(out, "prev", r->prev);
    if (e >= 0)
        e = put_string(out, "request_id", r->request_id);
    if (e >= 0)
        e = put_string(out, "client", r->client);
    if (e >= 0)
        e = put_uint(out, "bytes_in", r->bytes_in);
    if (e >= 0)
        e = put_uint(out, "bytes_out", r->bytes_out);
    if (e >= 0 && r->has_tokens)
        e = tb_buf_printf(out, ",\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"cached_tokens\":%llu%s",
                          (unsigned long long)r->prompt_tokens, (unsigned long long)r->completion_tokens,
                          (unsigned long long)r->cached_tokens, r->estimated ? ",\"estimated\":true" : "");
    if (e >= 0 && r->key_name[0])
        e = put_string(out, "key_name", r->key_name);
    if (e >= 0 && !r->req_complete)
        e = tb_buf_puts(out, ",\"req_complete\":false");
    if (e >= 0 && r->error[0])
        e = put_string(out, "error", r->error);
    if (e >= 0 && r->after_stop)
        e = put_uint(out, "lost_max", r->lost_max);
    if (e >= 0 && r->after_stop)
        e = put_uint(out, "unsure", r->unsure);
    return e < 0 ? e : tb_buf_puts(out, "}");
}
