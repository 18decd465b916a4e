/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics?runtime=1 on the health port: the runtime's own /metrics, as it answers. On a page of its
 * own, as its names are not ours: some have families of the same names (process_...). */
#ifndef TB_PROXY_ADMIN_RUNTIME_METRICS_H
#define TB_PROXY_ADMIN_RUNTIME_METRICS_H

#include <microhttpd.h>
#include <stdint.h>

#define TB_RUNTIME_METRICS_MAX 2 /* at a time */

struct tb_server;
struct tb_runtime_fetch;

/* Asks the runtime; the connection is suspended until tb_runtime_fetch_answer() can be called. NULL: too
 * many, or no memory. */
struct tb_runtime_fetch *tb_runtime_fetch_start(struct tb_server *s, struct MHD_Connection *c);
/* Queues what came of it. */
enum MHD_Result tb_runtime_fetch_answer(struct tb_runtime_fetch *f);
void tb_runtime_fetch_free(struct tb_runtime_fetch *f);
/* Gives up those that take too long; all of them when the proxy stops. */
void tb_runtime_fetch_tick(struct tb_server *s, uint64_t now_us);

#endif
