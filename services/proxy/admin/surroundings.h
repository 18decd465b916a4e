/* SPDX-License-Identifier: Apache-2.0 */
/* What is around the proxy and can stop it, looked at now and then on a thread of its own, as a disk or PID 1
 * may take its time: room on the disks, the certificate of the public port, the units. What stops the audit,
 * as a full disk, is told to the audit before a request meets it. */
#ifndef TB_PROXY_ADMIN_SURROUNDINGS_H
#define TB_PROXY_ADMIN_SURROUNDINGS_H

#include <pthread.h>

#include "common/certificate.h"
#include "common/place.h"
#include "common/unit_list.h"
#include "proxy/audit/audit.h"

#define TB_SURROUNDINGS_UNITS_MAX 24

struct tb_surroundings_seen {
    struct tb_place places[_TB_PLACE_MAX];
    struct tb_certificate server; /* of TB_TLS_CERT */
    struct {
        char name[48];
        bool active;
        uint32_t restarts;
    } unit[TB_SURROUNDINGS_UNITS_MAX]; /* services and sockets */
    size_t n_units;
    const char *lost; /* tb_facts_lost() */
};

struct tb_surroundings {
    const struct tb_config *config; /* borrowed */
    struct tb_audit *audit;
    const char *state_dir; /* tb-proxy's own */
    bool journal;          /* the audit writes to the journal */
    bool systemd;          /* this process is a unit: the others are asked for */
    /* private */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct tb_surroundings_seen seen;
    bool started, stop;
    uint64_t stop_us; /* when it was asked to */
};

/* Set the upper members before. Looks at disks and certificate at once, and from then on by itself. 0 or
 * -errno. */
int tb_surroundings_start(struct tb_surroundings *s);
void tb_surroundings_get(struct tb_surroundings *s, struct tb_surroundings_seen *ret);
/* Lets its thread come to an end; a look that is under way takes as long as the disks do. It says nothing
 * to the audit from now on. */
void tb_surroundings_ask_stop(struct tb_surroundings *s);
/* Waits for that until a second after it was asked to. False: it hangs in a disk, and goes on using the
 * config; the process is about to end. */
bool tb_surroundings_stop(struct tb_surroundings *s);

#endif
