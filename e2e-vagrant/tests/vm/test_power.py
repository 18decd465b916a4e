# SPDX-License-Identifier: Apache-2.0
"""A download that the power goes from, and one that its disk is too full for: what is on the disk is not fetched again."""

import json
import threading

import model
import pytest
from appliance import Appliance, GuestProvider
from faultproxy import FaultProxy, hold
from scenario import ASSET, CONTRACT, SHORT, TARGET, content
from tbsys import wait_for

RANGE = 65536


class GatedProvider(GuestProvider):
    """Its storage lets the ciphertext through up to a range; what is asked for from there on waits until the gate opens."""

    def start(self):
        super().start()
        self.blobs = FaultProxy(f"https://127.0.0.1:{self.azurite.port}", tls=self.ca.issue("blobs")).start()
        self._gate = threading.Event()
        return self

    def stop(self):
        self.open()
        self.blobs.stop()
        super().stop()

    def register_args(self, asset):
        return [str(a).replace(f":{self.azurite.port}/", f":{self.blobs.port}/") for a in super().register_args(asset)]

    @property
    def ranges(self):
        return -(-(self.dir / "model.tbenc").stat().st_size // RANGE)

    def close_at(self, first):
        """Shuts the gate before range number `first`, and forgets what was asked for until now."""
        self.open()
        self._gate = threading.Event()
        starts = "|".join(str(i * RANGE) for i in range(first, self.ranges))
        self.blobs.rule(hold(self._gate), path=r"\.tbenc$", range=rf"^bytes=({starts})-")

    def open(self):
        self.blobs.clear()
        self._gate.set()

    def requests(self):
        return self.blobs.count(path=r"\.tbenc$", method="GET")

    def asked(self, skip=0):
        """The ranges that somebody wanted bytes of; without the first `skip` requests."""
        starts = [int(r.range.removeprefix("bytes=").split("-")[0]) for r in self.blobs.select(path=r"\.tbenc$", method="GET")]
        return {s // RANGE for s in starts[skip:]}


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    p = GatedProvider(tmp_path_factory.mktemp("gated")).start()
    try:
        p.publish(model.make_model(p.dir / "model"), ASSET, "64KiB")
        p.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="module")
def unplugged(image, gated, tmp_path_factory):
    """A machine that was never on."""
    vm = Appliance(image, tmp_path_factory.mktemp("unplugged"), gated, CONTRACT, ASSET, model.GGUF,
                   env={"TB_DOWNLOAD_CHUNK_BYTES": RANGE})
    try:
        yield vm
    finally:
        vm.discard()


def kept(vm):
    """The ranges that the record on the disk vouches for."""
    rc, text = vm.run(f"cat {TARGET}/model.tbenc.part.json")
    if rc != 0:
        return set()
    spans = [span.partition("-") for span in json.loads(text)["done"].split(",") if span]
    return {i for first, _, last in spans for i in range(int(first), int(last or first) + 1)}


def wait_kept(vm, first):
    wait_for(lambda: kept(vm) >= set(range(first)), 400, f"ranges up to {first} on the disk", every=0.3)
    return kept(vm)


def test_power_cuts_during_the_download(unplugged, gated):
    """At a fifth, at half, at four fifths, each time under a runtime that reads by a view what has come."""
    vm, have, all_ranges = unplugged, set(), set(range(gated.ranges))
    for fifths in (1, 2.5, 4):
        first = int(gated.ranges * fifths / 5)
        gated.close_at(first)
        vm.start()
        now = wait_kept(vm, first)
        assert now < all_ranges and have < now
        assert gated.asked() & have == set(), "what was on the disk is fetched again"
        assert vm.state() == "Hydrate"
        wait_for(lambda: '"streaming"' in vm.run("cat /run/tb-runtime/delivery.json")[1], 400, "a runtime that reads", every=0.3)
        have = now
        vm.hard_kill()
        vm.append = "cloud-init=disabled"  # it has been told what to be, and this saves half of a boot
    gated.open()
    vm.start().wait_state("Ready")
    assert gated.asked() == all_ranges - have
    assert content(vm.chat(SHORT))


def test_a_download_that_is_killed_and_out_of_room_goes_on(unplugged, gated):
    """SIGKILL halfway; then the disk is full until somebody makes room."""
    vm = unplugged.wait_state("Ready")
    vm.sh("systemctl stop trustbridge.target; truncate -s 200M /root/small && mke2fs -q -t ext4 /root/small && "
          "mount -o loop /root/small /mnt/resource && systemctl restart tb-scratch.service")
    first = gated.ranges // 2
    gated.close_at(first)
    vm.sh("systemctl start trustbridge.target")
    have, killed = wait_kept(vm, first), vm.pid("tb-hydrate")
    asked = gated.requests()
    vm.sh(f"kill -9 {killed}")
    wait_for(lambda: vm.pid("tb-hydrate") not in (0, killed) and gated.requests() > asked, 400, "another try to go on", every=0.3)
    assert gated.asked(asked) & have == set(), "what was on the disk is fetched again"
    vm.fill("/mnt/resource")
    gated.open()
    remedy = "free space there or set TB_TARGET_DIR to a larger disk"
    wait_for(lambda: remedy in vm.status().get("hydrate", {}).get("reason", ""), 400, "the reason in /status")
    wait_for(lambda: any(remedy in r["MESSAGE"] for r in vm.journal("_SYSTEMD_UNIT=tb-hydrate.service", "PRIORITY=3")), 60, "the reason in the journal")
    wait_for(lambda: vm.show("tb-hydrate.service", "ExecMainStatus") == "74", 60, "exit status 74", every=0.3)
    assert vm.state() == "Hydrate"
    vm.unfill("/mnt/resource")
    vm.wait_state("Ready")
    assert gated.asked() & have == set(), "what was on the disk is fetched again"
    assert content(vm.chat(SHORT))
