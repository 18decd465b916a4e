# SPDX-License-Identifier: Apache-2.0
"""A promotion while an operator keeps the runtime stopped, over a power cut in its switch at the hour of a window, and over a reboot in the
middle of its download. By its own name only (make check-versions): it waits for an hour to come, and boots three times."""

import time

import model
import pytest
from appliance import Appliance
from scenario import TARGET
from tbsys import wait_for
from test_power import RANGE, GatedProvider
from test_versions import UPDATES, VERSIONED, answer, nothing_failed, promote, update, wait_update

ENV = "/etc/trustbridge/trustbridge.env"


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    p = GatedProvider(tmp_path_factory.mktemp("power-provider")).start()
    try:
        p.publish(model.make_model(p.dir / "one"), VERSIONED, "64KiB")
        p.controlplane.ctl("contract", "add", UPDATES, "--asset", VERSIONED, "--mode", "open")
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="module")
def updated(image, provider, tmp_path_factory):
    vm = Appliance(image, tmp_path_factory.mktemp("power-machine"), provider, UPDATES, VERSIONED, model.GGUF,
                   env={"TB_DOWNLOAD_CHUNK_BYTES": RANGE, "TB_UPDATE": "manual"})
    try:
        vm.start()
        vm.append = "cloud-init=disabled"  # it has been told what to be, and this saves half of a boot
        yield vm.wait_state("Ready")
    finally:
        vm.discard()


def test_a_runtime_that_was_stopped_by_hand_stays_so(updated, provider):
    """Also when it was killed as it stopped, which systemd calls a failure."""
    vm, before, n = updated, answer(updated), update(updated)["serving"] + 1
    vm.sh("systemctl stop tb-runtime.service")
    promote(provider, n)
    vm.ask_now()
    wait_update(vm, "ready", next=n)
    rc, text = vm.run("tb-update switch", 300)
    assert rc == 75 and "stopped by hand" in text and "systemctl start tb-runtime.service" in text, text
    vm.sh("systemctl restart tb-update.service")
    wait_update(vm, "ready", next=n, reason=update(vm)["reason"])
    assert vm.show("tb-runtime.service", "ActiveState") in ("inactive", "failed") and vm.pid("tb-runtime") == 0
    vm.sh("systemctl start tb-runtime.service", 300)
    wait_update(vm, "none", serving=n)
    vm.wait_state("Ready")
    assert answer(vm) != before and nothing_failed(vm)


def test_the_power_goes_in_a_switch_at_its_hour(updated, provider):
    """The window opens while the machine serves; what the power cut is a trial, which the next boot goes on with."""
    vm, before, n = updated, answer(updated), update(updated)["serving"] + 1
    promote(provider, n)
    vm.ask_now()
    wait_update(vm, "ready", next=n)
    begin, end = (time.strftime("%H:%M", time.gmtime(int(vm.sh("date +%s")) + s)) for s in (100, 7200))
    vm.sh(f"sed -i 's/^TB_UPDATE=.*/TB_UPDATE=window {begin}-{end}/' {ENV} && systemctl restart tb-configure.service", 180)
    wait_update(vm, "ready", next=n, when="window")
    assert update(vm)["switch_at"][11:16] == begin, update(vm)
    wait_update(vm, "switching", next=n)
    assert vm.sh("date -u +%H:%M").strip() >= begin
    vm.hard_kill()
    vm.start()
    vm.wait_state("Ready")
    wait_update(vm, "none", serving=n)
    assert answer(vm) != before and nothing_failed(vm)
    assert vm.sh(f"ls {TARGET}").split() == ["serving.json", f"{VERSIONED}@{n}"]


def test_a_download_beside_goes_on_after_a_reboot(updated, provider):
    """And the window, which is open, switches to it when it is whole."""
    vm, before, n, half = updated, answer(updated), update(updated)["serving"] + 1, provider.ranges // 2
    provider.close_at(half)
    promote(provider, n)
    vm.ask_now()
    wait_for(lambda: half in provider.asked(), 120, "the download to come to the gate")
    assert answer(vm) == before
    asked = provider.requests()
    vm.reboot()
    vm.wait_state("Ready")
    assert answer(vm) == before, "what is not whole is not served"
    wait_for(lambda: provider.requests() > asked, 400, "the download to go on")
    assert min(provider.asked(asked)) > 0, "what was on the disk is not fetched again"
    provider.open()
    wait_update(vm, "none", serving=n)
    assert answer(vm) != before and nothing_failed(vm)
