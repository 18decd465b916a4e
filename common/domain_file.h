/* SPDX-License-Identifier: Apache-2.0 */
/* Domain files: small JSON documents a daemon leaves in its RuntimeDirectory for the others to read, and
 * durable ones in its StateDirectory. Names and members are the contract of docs/contracts.md. */
#ifndef TB_DOMAIN_FILE_H
#define TB_DOMAIN_FILE_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_STATE_FILE_MAX (64 * 1024)

/* The program's own directory: $RUNTIME_DIRECTORY (or $STATE_DIRECTORY) as systemd sets it, else
 * base/program, made 0755 when missing. Heap string in *ret. 0 or -errno. */
int tb_runtime_dir(const char *run_base, const char *program, char **ret);
/* -EUCLEAN: an interrupted restore must be finished first. */
int tb_state_dir(const char *state_base, const char *program, char **ret);
/* What an error of tb_state_dir() means. */
const char *tb_state_dir_error(int r);

/* Adds started_boottime_us, when the run began that the file tells of, and written_boottime_us, now:
 * readers tell by them what an earlier run left, whatever the wall clock does. 0 or -ENOMEM. */
int tb_state_add_times(cJSON *doc, uint64_t started_boottime_us);
/* Replaces dir/name atomically (0644; durable: also fsync). The document is not freed. */
int tb_state_write(const char *dir, const char *name, const cJSON *doc, int durable);
/* Reads dir/name. -ENOENT when absent; -EBADMSG when it is not the JSON object it should be. */
int tb_state_read_at(const char *dir, const char *name, cJSON **ret);

#endif
