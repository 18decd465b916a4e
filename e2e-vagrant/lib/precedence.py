# SPDX-License-Identifier: Apache-2.0
"""What share of the processors a session has beside others. Where the kernel shares by session (sched(7), autogroup), nice counts within one only, and
a test makes many: each program that runs as its unit would is one. Machines in QEMU come first, as systemd's limits within are short; then what runs
a stage of `make check`, with all that a test starts by subprocess, and then those programs. Before anybody set this, a stage had the share of one such
program, a tenth of a machine's: tests that take 2 seconds took 230."""

MACHINE, STAGE, DAEMON = -10, -7, -3  # nice; 1 is a fifth more or less


def set_share(nice):
    """Of the caller's session, which it leads. Nothing happens where that is not allowed, or the kernel does not share so."""
    try:
        with open("/proc/self/autogroup", "wb", buffering=0) as group:
            group.write(b"%d" % nice)
    except OSError:
        pass
