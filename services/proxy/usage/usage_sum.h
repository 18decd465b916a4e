/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of the usage parser: how the usage of several events adds up to one answer's. */
#ifndef TB_PROXY_USAGE_USAGE_SUM_H
#define TB_PROXY_USAGE_USAGE_SUM_H

#include "proxy/usage/usage_parser.h"

#define TB_USAGE_MOST 1000000000000ULL /* more than any answer has; larger numbers count as this */

/* Add what the current event or body says to the answer's. */
void tb_usage_add_usage(struct tb_usage_parser *m);
void tb_usage_add_timings(struct tb_usage_parser *m);
/* Both, and the text: the event or body has ended. */
void tb_usage_fold(struct tb_usage_parser *m);

#endif
