# SPDX-License-Identifier: Apache-2.0
"""Programs that die or are restarted under load."""

import model
import pytest
from scenario import KeptAlive, Load, chat, content, models, pids
from tbsys import wait_for

EVERYONE = ("tb-authorize", "tb-billing", "tb-proxy", "tb-runtime")


@pytest.mark.parametrize("unit,allowed", [("tb-authorize", {200}), ("tb-billing", {200}), ("tb-proxy", {200, 0, 503}),
                                          ("tb-runtime", {200, 502, 503})])
def test_sigkill_moves_nothing_else(vm, unit, allowed):
    before, hydrated = pids(vm, *EVERYONE), vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic")
    with Load(vm) as load:
        vm.sh(f"kill -9 {before[unit]}")
        wait_for(lambda: vm.pid(unit) not in (0, before[unit]), 400, f"{unit} to come back", every=0.3)
        vm.wait_state("Ready")
        load.served(2)
    assert set(load.seen) <= allowed, load.seen
    after = pids(vm, *EVERYONE)
    assert {n for n in EVERYONE if after[n] != before[n]} == {unit}
    assert vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic") == hydrated


def test_restart_of_the_proxy_loses_no_request(vm):
    """On new connections and on kept ones: none is refused, none is broken."""
    before = pids(vm, *EVERYONE)
    with Load(vm, chat, models, models, KeptAlive(), KeptAlive()) as load:
        for _ in range(3):
            vm.sh("systemctl restart tb-proxy.service", timeout=90)
            load.served(20)
    after = pids(vm, *EVERYONE)
    assert {n for n in EVERYONE if after[n] != before[n]} == {"tb-proxy"}
    assert set(load.seen) == {200}, load.seen


@pytest.mark.parametrize("how,lost", [("systemctl restart systemd-journald@trustbridge.service", 0),
                                      ("systemctl kill -s KILL systemd-journald@trustbridge.service", 1)])
def test_requests_keep_their_records_when_journald_goes(vm, how, lost):
    """The file has all of them. The journal may lack the one that a killed journald had in its hand, and by the gap one can tell."""
    journald, last = "systemd-journald@trustbridge", vm.audit_file()[-1]
    with Load(vm, models, models, KeptAlive()) as load:
        for _ in range(2):
            old = vm.pid(journald)
            vm.sh(how)
            load.served(10)
            wait_for(lambda: vm.pid(journald) not in (0, old), 400, "another journald", every=0.3)
    assert set(load.seen) == {200}, load.seen
    want = list(range(last + 1, last + 1 + load.seen[200]))
    assert wait_for(lambda: len(found := vm.audit_file(last)) >= len(want) and found, 400, "the records of all requests") == want
    wait_for(lambda: max(vm.audit_journal(last), default=0) == want[-1], 400, "the last record in the journal", every=0.3)
    found = vm.audit_journal(last)
    assert set(found) <= set(want) and len(found) == len(set(found)) >= len(want) - 2 * lost, set(want) - set(found)


def test_out_of_memory_takes_the_runtime_and_it_comes_back(vm):
    want, before, released = content(vm.chat(model.CHAT)), pids(vm, *EVERYONE), vm.key_releases()
    # The kernel's own killer, which takes whoever is first in its list.
    vm.sh("for p in $(cat /sys/fs/cgroup/$(systemctl show -P ControlGroup tb-runtime.service)/cgroup.procs); do "
          "echo 1000 > /proc/$p/oom_score_adj; done; echo f > /proc/sysrq-trigger")
    wait_for(lambda: vm.pid("tb-runtime") not in (0, before["tb-runtime"]), 400, "another runtime", every=0.3)
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want
    assert "result 'oom-kill'" in vm.sh("journalctl -b --no-pager -o cat UNIT=tb-runtime.service _PID=1")
    after = pids(vm, *EVERYONE)
    assert {n for n in EVERYONE if after[n] != before[n]} == {"tb-runtime"}
    assert vm.key_releases() == released + 1


def test_sigkill_of_a_running_decryption_starts_another(vm, streaming):
    """With the key asked for again, and nobody else moved."""
    before, released = pids(vm, "tb-authorize", "tb-billing", "tb-proxy"), vm.key_releases()
    vm.sh(f"kill -9 {streaming['tb-decrypt']}")
    wait_for(lambda: vm.pid("tb-decrypt") != streaming["tb-decrypt"] and vm.runs("tb-decrypt"), 400, "another decryption", every=0.3)
    assert vm.key_releases() == released + 1
    assert pids(vm, *before) == before
