/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-status knows at one instant, and what it concludes from that. The struct is filled by gather.c
 * (files, health port, systemd) and journal.c; conclude.c, render.c and json.c are pure functions of
 * it. Sources: docs/contracts.md. */
#ifndef TB_STATUS_STATUS_H
#define TB_STATUS_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"
#include "common/place.h"
#include "common/unit_list.h"
#include "common/service_state.h"

#define TB_STATUS_ERRORS_MAX 5
#define TB_STATUS_PROBLEMS_MAX 16
#define TB_STATUS_NOTE_MAX 320

/* Exit codes: those of `systemctl status`, so that the same scripts work. */
enum tb_status_exit {
    TB_STATUS_READY = 0,
    TB_STATUS_ERROR = 1, /* tb-status itself failed */
    TB_STATUS_USAGE = 2,
    TB_STATUS_NOT_READY = 3,
    TB_STATUS_UNKNOWN = 4, /* there is no TrustBridge to be seen here */
};

/* What tb-proxy answered to GET /status. */
struct tb_status_answer {
    char url[128];
    bool came;
    char error[TB_STATUS_NOTE_MAX]; /* why not */
    char state[32], reason[TB_REASON_MAX], since[TB_RFC3339_MAX];
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1];
    bool has_requests;
    uint64_t requests, uptime_s;
};

struct tb_error_line {
    uint64_t realtime_us; /* of the latest */
    char program[32];
    int priority; /* as syslog: 3 error, 4 warning */
    unsigned times;
    char message[1024];
};

struct tb_snapshot {
    uint64_t realtime_us, boottime_us;
    struct tb_facts facts;
    struct tb_status_answer proxy;
    bool configured; /* tb-configure has found a contract */
    bool units_known;
    char units_note[TB_STATUS_NOTE_MAX]; /* why they are not */
    struct tb_unit units[TB_UNIT_LIST_MAX];
    size_t n_units;
    char health_listen[64]; /* where systemd listens for the health port; "" when unknown */
    bool errors_known;
    char errors_note[TB_STATUS_NOTE_MAX];
    struct tb_error_line errors[TB_STATUS_ERRORS_MAX]; /* latest first */
    size_t n_errors;
};

struct tb_status_problem {
    char what[TB_STATUS_NOTE_MAX];
    char remedy[TB_STATUS_NOTE_MAX]; /* "" when waiting is the remedy */
};

struct tb_conclusion {
    /* A name of tb_state_name(), "Down" (nothing is wrong but tb-proxy does not answer), or "Unknown". */
    const char *state;
    char reason[TB_REASON_MAX];
    enum tb_status_exit exit_code;
    struct tb_status_problem problems[TB_STATUS_PROBLEMS_MAX];
    size_t n_problems;
};

/* conclude.c */
void tb_status_conclude(const struct tb_snapshot *s, struct tb_conclusion *ret);
/* The unit of that name, or NULL. */
const struct tb_unit *tb_status_unit(const struct tb_snapshot *s, const char *name);
/* A step is under way by its file, but its writer is known to be dead. */
bool tb_status_writer_dead(const struct tb_snapshot *s, const struct tb_step *step, const char *unit);

/* render.c: heap strings, NULL on ENOMEM. width: columns, at least 40. */
char *tb_status_render(const struct tb_snapshot *s, const struct tb_conclusion *c, bool colour, int width);
/* One line without newline, for --watch in a pipe; without the time. */
char *tb_status_line(const struct tb_snapshot *s, const struct tb_conclusion *c);
/* json.c */
char *tb_status_json(const struct tb_snapshot *s, const struct tb_conclusion *c, bool one_line);

/* gather.c: run_dir as TB_RUN_DIR; health_addr host:port as TB_HEALTH_ADDR. */
void tb_status_read_files(const char *run_dir, struct tb_snapshot *s);
/* Makes every text in it fit for a terminal (common/text.h): what a server said ends up in reasons and
 * messages. */
void tb_status_make_plain(struct tb_snapshot *s);
void tb_status_ask_proxy(const char *health_addr, struct tb_status_answer *ret);
/* An address to listen on as one to connect to: "0.0.0.0:8001" is 127.0.0.1:8001. */
void tb_status_connect_address(const char *listen, char *out, size_t size);
/* Reads the body of /status. -EBADMSG when it is none. */
int tb_status_parse_answer(const char *text, size_t len, struct tb_status_answer *ret);

/* gather.c and journal.c: what cannot be had is said in the note, never an error. */
void tb_status_read_units(struct tb_snapshot *s);
void tb_status_read_errors(struct tb_snapshot *s);

#endif
