/* SPDX-License-Identifier: Apache-2.0 */
/* PRAGMA user_version of tb-billing's ledger, as this version of TrustBridge writes it:
 * services/billing/ledger.c has the tables. A larger one is of a newer program. */
#ifndef TB_LEDGER_SCHEMA_H
#define TB_LEDGER_SCHEMA_H

#define TB_LEDGER_SCHEMA_VERSION 2

#endif
