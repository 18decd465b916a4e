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
#define TB_STATUS_PROBLEMS_MAX 24
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
    char public_addr[96]; /* where it listens for clients; "": it has not said */
    struct tb_place places[_TB_PLACE_MAX];
    struct tb_certificate server; /* of its public port */
    bool has_requests;
    uint64_t requests, uptime_s;
    char keys_trouble[TB_STATUS_NOTE_MAX]; /* of TB_API_KEYS; "": none */
    char state_trouble[TB_REASON_MAX];     /* a file of its state that it cannot keep; "": none */
    uint64_t silent_s;                     /* the runtime has said nothing to requests that wait */
};

/* What a client that comes now meets at the public port. */
struct tb_status_probe {
    char addr[96];                  /* "": nobody knows where it is */
    bool answered;                  /* tb-proxy did */
    bool serves;                    /* and would serve a request */
    char error[TB_STATUS_NOTE_MAX]; /* why it did not */
};

/* What tb-billing last left. */
struct tb_status_ledger {
    bool known;
    uint64_t age_us; /* since the last booking */
    uint64_t late_s; /* of the oldest hour that the marketplace has not accepted */
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
    struct tb_status_probe client;
    struct tb_status_ledger ledger;
    struct tb_place places[_TB_PLACE_MAX];   /* as tb-proxy says, else as seen from here */
    bool configured;                         /* tb-configure has found a contract */
    char settings_error[TB_STATUS_NOTE_MAX]; /* the first of those it found last; "": none, or not readable */
    bool units_known;
    char units_note[TB_STATUS_NOTE_MAX]; /* why they are not */
    struct tb_unit units[TB_UNIT_LIST_MAX];
    size_t n_units;
    char health_listen[64]; /* where systemd listens for the health port, and for the public one; "" when */
    char public_listen[64]; /* unknown */
    bool errors_known;
    char errors_note[TB_STATUS_NOTE_MAX];
    struct tb_error_line errors[TB_STATUS_ERRORS_MAX]; /* latest first */
    size_t n_errors;
};

/* As plugins of monitoring systems exit. */
enum tb_status_level {
    TB_STATUS_OK = 0,
    TB_STATUS_WARNING = 1,  /* served, but somebody should look; or on the way to be served */
    TB_STATUS_CRITICAL = 2, /* not served, or soon no more */
    TB_STATUS_UNSURE = 3,
};

struct tb_status_problem {
    enum tb_status_level level;
    char what[TB_STATUS_NOTE_MAX];
    char remedy[TB_STATUS_NOTE_MAX]; /* "" when waiting is the remedy */
};

struct tb_conclusion {
    /* A name of tb_state_name(), "Down" (nothing is wrong but tb-proxy does not answer), or "Unknown". */
    const char *state;
    char reason[TB_REASON_MAX];
    enum tb_status_exit exit_code;
    /* One for each cause, what keeps requests from being served first; consequences are left out. */
    struct tb_status_problem problems[TB_STATUS_PROBLEMS_MAX];
    size_t n_problems;
};

/* conclude.c */
void tb_status_conclude(const struct tb_snapshot *s, struct tb_conclusion *ret);
/* The unit of that name, or NULL. */
const struct tb_unit *tb_status_unit(const struct tb_snapshot *s, const char *name);
/* How old the step's file is, whatever the wall clock did since. */
uint64_t tb_status_step_age(const struct tb_snapshot *s, const struct tb_step *step);
/* It was restarted more than once and may not be over it. */
bool tb_status_restless(const struct tb_snapshot *s, const struct tb_conclusion *c, const struct tb_unit *u);
/* A step is under way by its file, but its writer is known to be dead. */
bool tb_status_writer_dead(const struct tb_snapshot *s, const struct tb_step *step, const char *unit);

/* causes.c: what the surroundings do to it; each adds what is wrong. */
struct tb_status_problem *tb_status_add(struct tb_conclusion *c, enum tb_status_level level, const char *fmt,
                                        ...) _printf_(3, 4);
void tb_status_remedy(struct tb_status_problem *p, const char *fmt, ...) _printf_(2, 3);
/* Full disks, and read-only ones. Returns true when one of them explains why the audit cannot be written. */
bool tb_status_add_full_disks(const struct tb_snapshot *s, struct tb_conclusion *c);
/* Nothing can be written there. */
bool tb_status_place_full(const struct tb_snapshot *s, enum tb_place_id id);
void tb_status_add_low_disks(const struct tb_snapshot *s, struct tb_conclusion *c);
/* API keys that could not be read again. */
void tb_status_add_keys(const struct tb_snapshot *s, struct tb_conclusion *c);
void tb_status_add_certificates(const struct tb_snapshot *s, struct tb_conclusion *c);
/* A clock that is wrong; true when it is by so much that certificates and leases do not hold. */
bool tb_status_add_clock(const struct tb_snapshot *s, struct tb_conclusion *c);
void tb_status_add_silence(const struct tb_snapshot *s, struct tb_conclusion *c);
void tb_status_add_ledger(const struct tb_snapshot *s, struct tb_conclusion *c);
/* Is the log of a unit in the journal of namespace trustbridge, or in the machine's own? */
bool tb_status_in_namespace(const char *unit);
/* The command that shows the log of a unit, as it stands behind "; " or "-> ". */
const char *tb_status_logs(const char *unit, char out[static 96]);

/* check.c: one line for a monitoring system, without newline, with its figures; heap. */
char *tb_status_check(const struct tb_snapshot *s, const struct tb_conclusion *c, enum tb_status_level *ret);

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
/* Comes to the public port as a client would. addr: as in the snapshot's public_listen; "": nobody knows. */
void tb_status_ask_public(const char *addr, struct tb_status_probe *ret);
/* Where tb-proxy has not said how much room there is. */
void tb_status_measure_places(const char *run_dir, struct tb_snapshot *s);
/* An address to listen on as one to connect to: "0.0.0.0:8001" is 127.0.0.1:8001. */
void tb_status_connect_address(const char *listen, char *out, size_t size);
/* Reads the body of /status. -EBADMSG when it is none. */
int tb_status_parse_answer(const char *text, size_t len, struct tb_status_answer *ret);

/* gather.c and journal.c: what cannot be had is said in the note, never an error. */
void tb_status_read_units(struct tb_snapshot *s);
void tb_status_read_errors(struct tb_snapshot *s);
/* For each unit that has failed, what it said last that has sense. */
void tb_status_read_said(struct tb_snapshot *s);

#endif
