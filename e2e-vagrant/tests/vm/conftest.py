# SPDX-License-Identifier: Apache-2.0
"""One machine for all scenarios that leave it as they found it: serving. Others have one of their own, before this one starts."""

import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
for p in (HERE.parents[1], HERE.parents[1] / "lib", HERE.parents[1] / "vm", HERE.parents[2] / "tests/integration",
          HERE.parents[2] / "tests/packaging"):
    sys.path.insert(0, str(p))

import model
from appliance import Appliance, GuestProvider
from runner import VM, built_image
from scenario import ASSET, CONTRACT
from tbsys import wait_for

# By file. Each machine is on its own; the disk is searched when everything else has been done to it.
ORDER = ("test_power", "test_serving", "test_isolation", "test_view", "test_deaths", "test_damage", "test_contract", "test_settings",
         "test_full_disk", "test_at_rest")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: ORDER.index(i.path.stem) if i.path.stem in ORDER else -1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """A failure comes with console and journal of the machine it happened in."""
    report = (yield).get_result()
    if report.failed:
        report.sections += [("machine", machine.report()) for machine in VM.on]


@pytest.fixture(scope="session")
def image():
    return built_image(os.environ.get("TB_VM_FROM", "debs"))


@pytest.fixture(scope="session")
def provider(tmp_path_factory):
    d = tmp_path_factory.mktemp("provider")
    p = GuestProvider(d).start()
    try:
        p.source = model.make_model(d / "model")
        p.publish(p.source, ASSET, "64KiB")
        p.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="session")
def machine(image, provider, tmp_path_factory):
    vm = Appliance(image, tmp_path_factory.mktemp("machine"), provider, CONTRACT, ASSET, model.GGUF,
                   env={"TB_AUDIT_FILE": Appliance.AUDIT_FILE}, forward=(8000, 8001, 8081))
    try:
        yield vm
    finally:
        vm.discard()


@pytest.fixture
def vm(machine):
    """The machine, serving."""
    if not machine.running():
        machine.start()
    return machine.wait_state("Ready")


@pytest.fixture
def streaming(vm):
    """The pids of a tb-decrypt in the middle of a stream and of a runtime that does not take it from its FIFO."""
    env = "/etc/trustbridge/trustbridge.env"
    vm.sh(f"cp -p {env} /root/env && echo TB_DELIVERY=fifo >> {env} && echo TB_RUNTIME_EXEC=/usr/bin/sleep infinity >> {env}")
    vm.sh("systemctl --no-block restart tb-runtime.service")
    try:
        wait_for(lambda: vm.runs("tb-decrypt") and vm.run(f"test -p /proc/{vm.pid('tb-runtime')}/root/dev/shm/model-pipe")[0] == 0,
                 180, "a stream", every=0.3)
        yield {u: vm.pid(u) for u in ("tb-decrypt", "tb-runtime")}
    finally:
        vm.sh(f"mv /root/env {env} && systemctl --no-block restart tb-runtime.service")
        vm.wait_state("Ready")
