/* SPDX-License-Identifier: Apache-2.0 */
/* GET and HEAD of /health, /readiness, /status (both ports), and on the health port only of the status
 * page, /events and /metrics. Design section 4. */
#ifndef TB_PROXY_ADMIN_HEALTH_H
#define TB_PROXY_ADMIN_HEALTH_H

#include <microhttpd.h>

#include "proxy/http/reply.h"
#include "proxy/server.h"

/* True when path[0..len) is one of /health, /readiness, /status: not for the runtime, not audited. */
bool tb_health_path(const char *path, size_t len);
/* Who asks. A stranger learns state and progress; whoever has a key, where keys are needed, whose contract
 * this is and how much it is used; the health port, what stands where on this machine, too. */
enum tb_health_view { TB_HEALTH_STRANGER, TB_HEALTH_CLIENT, TB_HEALTH_OPERATOR };
/* The answer of one of these three, or 405 with Allow. */
void tb_health_reply(struct tb_server *s, const char *method, const char *path, size_t len,
                     enum tb_health_view view, struct tb_reply *ret);
/* Access handler of the health listener; cls is the struct tb_server. */
enum MHD_Result tb_health_handler(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_size,
                                  void **con_cls);
/* Its end-of-request callback. */
void tb_health_completed(void *cls, struct MHD_Connection *c, void **con_cls,
                         enum MHD_RequestTerminationCode code);

#endif
