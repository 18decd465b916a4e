/* SPDX-License-Identifier: Apache-2.0 */
/* Records that proved bad and are, or were, fetched once more: told by tb-decrypt in its progress.json, read
 * by those who show how it is (docs/contracts.md, "A record once more"). */
#ifndef TB_REPAIRS_H
#define TB_REPAIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_REPAIRS_MAX 8 /* that are named, those that are waited for first */
#define TB_REPAIRS_FILE_MAX 128

enum tb_repair_state {
    TB_REPAIR_WAITING, /* asked for */
    TB_REPAIR_FETCHED,
    TB_REPAIR_GIVEN_UP, /* it did not come, or was bad as often as is tried */
};

struct tb_repair_record {
    char file[TB_REPAIRS_FILE_MAX]; /* of the model */
    uint64_t chunk;                 /* its number in the ciphertext */
    unsigned tries;
    enum tb_repair_state state;
};

struct tb_repairs { /* of one delivery */
    uint64_t waiting, fetched;
    size_t n;
    struct tb_repair_record r[TB_REPAIRS_MAX];
};

struct cJSON;
/* As member "repairs" of o; without anything to say there is none. named: which records too. 0 or -ENOMEM. */
int tb_repairs_add(struct cJSON *o, const struct tb_repairs *s, bool named);
/* What is absent or makes no sense reads as nothing. */
void tb_repairs_read(const struct cJSON *o, struct tb_repairs *ret);

#endif
