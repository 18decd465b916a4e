/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg kek: the keys that wrap the keys of assets at the control plane. */
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option keks_list_rows[] = {ROWS_REMOTE};
static const struct tb_option keks_rewrap_rows[] = {ROWS_REMOTE};

static const struct table_column keks_columns[] = {
    {"KEYS", "versions", TABLE_COUNT, NULL},
    {"CURRENT", "current", TABLE_TEXT, NULL},
    {"UNDER", "kek_id", TABLE_TEXT, "file: (written before keys had ids)"},
};

static int keks_list(struct admin_job *j)
{
    _cleanup_json_ cJSON *doc = NULL;
    int rc = remote_get(&j->remote, "keks", &(struct remote_object){0}, &doc);

    return rc == CLI_OK ? admin_print_list(j, doc, "keks", keks_columns, ARRAY_SIZE(keks_columns)) : rc;
}

/* A call does a few: until none is left, or a call does none, because others add to them as fast. */
static int keks_rewrap(struct admin_job *j)
{
    uint64_t done = 0, some, left;

    for (;;) {
        _cleanup_json_ cJSON *answer = NULL;
        int rc = remote_change(&j->remote, "POST", "keks/rewrap", NULL, &(struct remote_object){0}, &answer);

        if (rc != CLI_OK)
            return rc;
        some = admin_number(answer, "rewrapped");
        left = admin_number(answer, "left");
        done += some;
        if (left > 0 && some > 0) {
            tbpkg_note(j->cli.quiet, "%" PRIu64 " keys wrapped anew, %" PRIu64 " are left.", done, left);
            continue;
        }
        if (left > 0)
            return tbpkg_failf(j->remote.base, "%" PRIu64 " keys are not under %s; run the command again",
                               left, admin_text(answer, "current"));
        cJSON_ReplaceItemInObjectCaseSensitive(answer, "rewrapped", cJSON_CreateNumber((double)done));
        return admin_print_done(j, answer, "%" PRIu64 " keys wrapped anew; every key is under %s.", done,
                                admin_text(answer, "current"));
    }
}

static const struct admin_command keks_commands[] = {
    {
        .c = {.name = "kek list",
              .summary = "which key-encryption key wraps how many keys",
              .synopsis = "[OPTION]...",
              .about = "List the key-encryption keys of the control plane, and how many keys of assets each "
                       "wraps.\n",
              .options = keks_list_rows},
        .work = keks_list,
    },
    {
        .c = {.name = "kek rewrap",
              .summary = "wrap every key anew under the current one",
              .synopsis = "[OPTION]...",
              .about =
                  "Wrap the keys of all assets anew under the current key-encryption key, while the control "
                  "plane\n"
                  "serves. Then the old one may be taken away.\n",
              .options = keks_rewrap_rows},
        .work = keks_rewrap,
    },
};

static int keks_main(int argc, char **argv)
{
    static const struct admin_group group = {"kek", "Key-encryption keys of a control plane.\n",
                                             keks_commands, ARRAY_SIZE(keks_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_kek = {
    .name = "kek", .summary = "key-encryption keys of the control plane: list, rewrap", .run = keks_main};
