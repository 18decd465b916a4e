/* SPDX-License-Identifier: Apache-2.0 */
/* Takes out of a text what is not for a ticket. Two nets: values that are known on this machine (contents
 * of /etc/credstore, ids and hosts of the settings, its own addresses) wherever they stand, and what looks
 * like a secret, an id or an address. Secrets go always; ids and addresses become a name such as
 * <address-2>, the same for the same value, so that who reads it can still tell them apart. In doubt it
 * takes too much. What would prove it wrong: a value of a full run in the archive
 * (tests/integration/test_support.py). */
#ifndef TB_SUPPORT_REDACT_H
#define TB_SUPPORT_REDACT_H

#include <stdint.h>

#include "common/buf.h"

enum redact_class {
    REDACT_NOTHING,
    REDACT_SECRET,
    REDACT_ID,
    REDACT_ADDRESS,
};

struct redact_value {
    char *text;
    size_t len;
    enum redact_class class;
    unsigned number; /* of its name; 0: it has none */
    uint32_t next;   /* of those that begin alike: its index and 1; 0: none */
};

#define REDACT_VALUES_MAX 262144 /* of 10,000 API keys with all that stands in their lines */
#define REDACT_BUCKETS 16384U    /* a power of two */

struct redactor {
    struct redact_value *v; /* known ones first, then those that were found */
    size_t n, n_known, n_allocated;
    /* Their index and 1, by how they begin: values of two and three bytes by two, others by four. */
    uint32_t bucket[2][REDACT_BUCKETS];
    unsigned last[REDACT_ADDRESS + 1];
    bool keep_ids, keep_addresses;
    bool in_pem;
};
void redactor_clear(struct redactor *r);
#define _cleanup_redactor_ _cleanup_(redactor_clear)

/* Before the first text. Values that are no more than a byte, or that say nothing (127.0.0.1, true), are
 * passed over. -ENOMEM. */
int redactor_know(struct redactor *r, const char *text, size_t len, enum redact_class class);
/* After the last value. */
void redactor_ready(struct redactor *r);

/* Appends the text without them. A text is whole lines; blocks of PEM go over lines, within one text. */
int redact_text(struct redactor *r, const char *text, size_t len, struct tb_buf *out);

#endif
