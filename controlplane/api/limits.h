/* SPDX-License-Identifier: Apache-2.0 */
/* How often somebody may ask: token buckets in a table of fixed size, for each client's address and each
 * contract. Guessing (contracts that do not exist, tokens that are wrong) has a bucket of its own for each
 * client, and when that is empty the client waits, whatever it asks. In memory, of one server. A bucket that
 * nobody used for the longest time makes room: at worst somebody may ask more often. Used by all threads. */
#ifndef CP_LIMITS_H
#define CP_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#define CP_CLIENT_RATE_DEFAULT 50
#define CP_CONTRACT_RATE_DEFAULT 50
#define CP_CLIENT_BURST 400
#define CP_CONTRACT_BURST 2000 /* a set of machines that starts at once */
#define CP_GUESSES_PER_MINUTE 10
#define CP_GUESS_BURST 30

enum cp_limit { CP_LIMIT_CLIENT, CP_LIMIT_CONTRACT, CP_LIMIT_GUESS, _CP_LIMIT_MAX };

struct cp_limits;

/* Requests a second; 0: no limit. NULL on ENOMEM. */
struct cp_limits *cp_limits_new(uint64_t client_rate, uint64_t contract_rate);
struct cp_limits *cp_limits_free(struct cp_limits *l);

/* Takes one of who's. 0, or after how many seconds there is one again. l NULL: no limits. */
unsigned cp_limits_take(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t monotonic_us);
/* The same without taking. */
unsigned cp_limits_look(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t monotonic_us);

#endif
