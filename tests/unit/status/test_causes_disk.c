/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that are full or read-only, and the audit that needs them. */
#include "causes_testing.h"

static void audit_readonly(void)
{
    proxy_says("Down", "audit_unavailable: /a/audit.jsonl cannot be written: Read-only file system");
}

static void no_files(void)
{
    s.places[TB_PLACE_STATE].free_files = 0;
}

static void no_room_to_download(void)
{
    full_ciphertext();
    proxy_says("Hydrate", "not enough disk space in /mnt/resource/trustbridge");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "not enough disk space in /mnt/resource/trustbridge");
    s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "activating", "auto-restart")->exit_code = 74;
    unit("tb-runtime.service", "inactive", "dead");
}

/* As a kernel does with a disk that fails. */
static void read_only_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].read_only = true;
}

static void read_only_state(void)
{
    s.places[TB_PLACE_STATE].read_only = true;
    s.places[TB_PLACE_STATE].device = 7;
    unit("tb-billing.service", "activating", "auto-restart")->exit_code = 74;
}

static void read_only_ciphertext(void)
{
    s.places[TB_PLACE_CIPHERTEXT].read_only = true;
}

static const struct row rows[] = {
    {{full_var},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the disk of /var/log/trustbridge is full (0 B of",
     "df -h"},
    {{full_var, audit_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the disk of /var/log/trustbridge is full",
     "logrotate -f"},
    {{audit_readonly},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "no request is served: audit_unavailable: /a/",
     "df"},
    {{low_var},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/var/log/trustbridge is getting full (512.0 MiB of",
     "df -h"},
    {{no_files}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "0 of 1000000 files (inodes) left", "df -h"},
    {{full_run}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "the disk of /run is full", "du -xsh /run/*"},
    {{full_ciphertext},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/mnt/resource/trustbridge is full",
     "TB_TARGET_DIR"},
    {{no_room_to_download},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "/mnt/resource/trustbridge is full",
     "df -h"},
    {{read_only_var, audit_readonly},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the file system of /var/log/trustbridge is read-only: no request",
     "mount -o remount,rw $(findmnt"},
    {{read_only_state},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the file system of /var/lib is read-only: usage cannot be booked",
     "-T /var/lib)"},
    {{read_only_ciphertext},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/mnt/resource/trustbridge is read-only",
     "-k"},
};

static void test_each_condition(void **unused)
{
    check_rows(rows, ARRAY_SIZE(rows));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_condition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
