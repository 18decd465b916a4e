/* SPDX-License-Identifier: Apache-2.0 */
/* Names that contracts and assets go by: the one rule, for command lines, settings, manifests, requests. */
#ifndef TB_ID_H
#define TB_ID_H

#include <stdbool.h>

#define TB_ID_MAX 100 /* TB_CONTRACT_ID: ^[A-Za-z0-9_-]{1,100}$ */

/* true when s matches ^[A-Za-z0-9_-]{1,100}$. */
bool tb_id_valid(const char *s);

/* An asset's may have dots, each between two others: Llama-3.1-8B. It is a folder's name in a storage: never
 * "." or "..", not hidden, and without a dot at the end, which Azure Storage cuts off. */
bool tb_asset_id_valid(const char *s);
#define TB_ASSET_ID_WORDS "1 to 100 of A-Z a-z 0-9 _ - and single dots inside"

#endif
