# SPDX-License-Identifier: Apache-2.0
"""A machine that is booted without a contract, and is given one later by the two commands of the operator guide. One machine for all tests, in
the order of this file."""

import json

import model
import pytest
from appliance import Appliance
from scenario import ASSET, SHORT, content
from tbsys import wait_for

CONTRACT = "later"
ENV = "/etc/trustbridge/trustbridge.env"
APPLY = "systemctl restart tb-configure.service && systemctl start trustbridge.target"


@pytest.fixture(scope="module")
def vm(image, provider, tmp_path_factory):
    provider.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
    machine = Appliance(image, tmp_path_factory.mktemp("unconfigured"), provider, CONTRACT, ASSET, model.GGUF, env={"TB_CONTRACT_ID": ""})
    try:
        yield machine.start()
    finally:
        machine.discard()


def running(vm):
    """Of TrustBridge's units, which are up or on the way."""
    return set(vm.sh("systemctl list-units --plain --no-legend --state=active,activating,failed 'tb-*' trustbridge.target | cut -d' ' -f1").split())


def ended_by_force(vm):
    """Those that have half a second and 0.9 s to stop, which is little on a busy emulator: then they are killed, and that is a failure to systemd."""
    return {f"{u}.service" for u in ("tb-decrypt", "tb-runtime") if vm.show(f"{u}.service", "Result") == "timeout" and vm.pid(u) == 0}


def wait_until_only(vm, allowed, timeout=400):
    """A busy emulator takes its time; a unit that is not stopped stays for ever."""
    try:
        wait_for(lambda: running(vm) <= allowed | ended_by_force(vm), timeout, "the end of everything else")
    except AssertionError as e:
        rest = " ".join(sorted(running(vm) - allowed))
        raise AssertionError(f"{e}: {rest}\n{vm.run(f'systemctl list-jobs; systemctl status --no-pager -l {rest}')[1]}") from None


def test_nothing_runs_and_somebody_says_why(vm):
    wait_for(lambda: vm.run("systemctl is-system-running --wait")[1].strip() == "running", 300, "the end of the boot")
    assert running(vm) <= {"tb-configure.service", "tb-suspended.path"}
    assert vm.sh("systemctl --failed --plain --no-legend").strip() == ""
    assert vm.run("ss -Hltn | grep -E ':800[01] '")[0] == 1
    rc, text = vm.run("tb-status --json")
    status = json.loads(text)
    assert rc == 3 and [p["what"] for p in status["problems"]] == ["no contract is configured, so nothing is started"]
    assert "no TB_CONTRACT_ID" in vm.sh("journalctl --no-pager -o cat -u tb-configure.service")
    assert "was not met" in vm.run("systemctl status tb-authorize.service")[1]
    assert vm.run("test -e /mnt/resource/trustbridge")[0] == 1, "no disk and no directory is touched"


def test_a_contract_and_two_commands(vm):
    vm.sh(f"sed -i 's/^TB_CONTRACT_ID=.*/TB_CONTRACT_ID={CONTRACT}/' {ENV} && {APPLY}", timeout=180)
    vm.wait_state("Ready")
    assert content(vm.chat(SHORT))
    assert all(vm.show(f"{u}.service", "NRestarts") == "0" for u in ("tb-authorize", "tb-proxy", "tb-billing"))


def test_without_it_again_everything_stops(vm):
    vm.sh(f"sed -i 's/^TB_CONTRACT_ID=.*/TB_CONTRACT_ID=/' {ENV} && {APPLY}", timeout=180)
    wait_until_only(vm, {"tb-configure.service", "tb-suspended.path", "tb-keys.socket", "tb-scratch.service"})
    assert vm.chat(SHORT)[0] == 0
    vm.sh(f"sed -i 's/^TB_CONTRACT_ID=.*/TB_CONTRACT_ID={CONTRACT}/' {ENV} && {APPLY}", timeout=180)
    vm.wait_state("Ready")
