/* SPDX-License-Identifier: Apache-2.0 */
/* One request on the public listener: admission, streaming to the runtime and back, its audit record. These are the
 * callbacks libmicrohttpd wants; cls is the struct tb_server. */
#ifndef TB_PROXY_FORWARD_H
#define TB_PROXY_FORWARD_H

#include "proxy/server.h"

/* MHD_OPTION_URI_LOG_CALLBACK: the raw request target; makes the exchange. */
void *tb_forward_target(void *cls, const char *target, struct MHD_Connection *c);
enum MHD_Result tb_forward_handler(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                   const char *version, const char *upload, size_t *upload_size,
                                   void **con_cls);
/* MHD_OPTION_NOTIFY_COMPLETED */
void tb_forward_completed(void *cls, struct MHD_Connection *c, void **con_cls,
                          enum MHD_RequestTerminationCode code);
/* MHD_OPTION_NOTIFY_CONNECTION */
void tb_forward_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                           enum MHD_ConnectionNotificationCode code);

#endif
