# SPDX-License-Identifier: Apache-2.0
"""The model is decrypted right behind its download: what is read when, and what becomes of it when the download breaks off, is started
again, becomes another one, or never ends."""

import hashlib
import os
import random
import signal
import threading

import pytest

import faultproxy as fp
from delivery_asset import Asset
from delivery_house import house  # noqa: F401
from delivery_rig import NO_MOUNT, rig  # noqa: F401
from hydrate_world import SIG, ca  # noqa: F401
from tbsys import wait_for

RANGE = 256 * 1024
RECORD = 4 * RANGE
SIZE = 48 * RANGE + 77


@pytest.fixture
def follow(house):  # noqa: F811
    house.asset = Asset(random.Random(9).randbytes(SIZE), chunk_bytes=RECORD)
    house.upload(house.asset)
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(RANGE)
    f = Follow(house)
    yield f
    f.gate.set()


class Follow:
    """A download that stops at a gate, with a delivery into a directory behind it."""

    def __init__(self, house):  # noqa: F811
        self.house, self.w, self.rig = house, house.w, house.rig
        self.gate = threading.Event()

    def close_gate(self, first=16):
        """Ranges from the first on do not come before the gate opens."""
        starts = "|".join(str(i * RANGE) for i in range(first, SIZE // RANGE + 1))
        self.w.proxy.rule(fp.hold(self.gate), path="model.tbenc$", range=f"^bytes=({starts})-")

    def hydrate(self, **env):
        d = self.w.start(**env)
        d.wait_notify("READY")
        return d

    def deliver(self):
        self.load = self.rig.probe(wrapper=NO_MOUNT)
        self.decrypt = self.rig.decrypt(self.house.asset)
        self.decrypt.start(), self.load.start()

    def wait_decrypted(self, n):
        file = self.rig.model / "model"  # a hole where nothing was written
        wait_for(lambda: file.exists() and file.stat().st_blocks * 512 >= n, what="plaintext", every=0.02)

    def is_whole(self):
        facts = self.rig.facts()
        assert facts["files"] == {"model": [hashlib.sha256(self.house.asset.plain).hexdigest(), "0o444"]}, facts["files"]
        assert self.decrypt.wait() == 0
        self.w.assert_complete()
        return True


def test_plaintext_is_there_before_the_download_ends(follow):
    follow.close_gate()
    hydrate = follow.hydrate()
    assert (follow.rig.target / "model.manifest.json").read_bytes() == follow.w.manifest
    assert not follow.house.file.exists() and (follow.rig.run / "tb-hydrate/readable").exists()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    assert hydrate.running() and follow.w.progress()["state"] == "downloading" and not follow.house.file.exists()
    assert not follow.rig.out.exists(), "the runtime was started with a part of the model"
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()


@pytest.mark.parametrize("env", [{"TB_DELIVERY": "fifo"}, {}], ids=["fifo", "no tags"])
def test_what_cannot_be_followed_is_ready_when_it_is_complete(follow, env):
    if not env:
        del follow.house.asset.manifest["tags_sha256"]
        follow.house.upload(follow.house.asset)
    follow.close_gate()
    d = follow.w.start(**env)
    wait_for(lambda: follow.w.progress().get("bytes_done", 0) >= 16 * RANGE, what="the first ranges")
    assert d.notified("READY") is None and not (follow.rig.target / "model.manifest.json").exists()
    follow.gate.set()
    assert d.wait() == 0 and d.notified("READY") and follow.house.serve() == 0


@pytest.mark.parametrize("how", ["killed", "SAS", "SIGTERM"])
def test_a_download_that_is_started_again_is_followed_on(follow, how):
    follow.close_gate()
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    if how == "SAS":
        follow.w.server.sig = "fresh"
        follow.gate.set()
        assert hydrate.wait() == 75
        follow.w.credentials = {**follow.w.credentials, "sas-url": follow.w.url("model.tbenc", "fresh"),
                                "manifest-url": follow.w.url("model.manifest.json", "fresh")}
    elif how == "SIGTERM":
        assert hydrate.stop() == -signal.SIGTERM
    else:
        hydrate.kill()
    assert follow.decrypt.running() and follow.load.running()
    follow.gate.set()
    before = follow.w.sent()
    assert follow.w.run()[0] == 0 and follow.is_whole()
    assert follow.w.sent() - before <= len(follow.w.data) - 8 * RANGE, "what had come was fetched again"


@pytest.mark.parametrize("at", range(0, 48, 8))
def test_kills_all_along(follow, at):
    """Each process at some instant of the stream; what starts again finishes the work."""
    follow.close_gate(at)
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(max(at - 5, 0) * RANGE)
    victim = (hydrate, follow.decrypt, follow.load)[at // 8 % 3]
    victim.kill()
    follow.gate.set()
    if victim is hydrate:
        assert follow.w.run()[0] == 0 and follow.is_whole()
        return
    assert hydrate.wait() == 0
    # Its unit is started again; tb-decrypt by its socket.
    assert victim is follow.load or follow.load.wait() == 75
    assert victim is follow.decrypt or follow.decrypt.wait() == 75
    follow.deliver()
    assert follow.is_whole()


def test_a_blob_that_is_replaced_starts_the_delivery_over(follow):
    follow.close_gate()
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    follow.house.asset = Asset(random.Random(10).randbytes(SIZE + RANGE), chunk_bytes=RECORD)
    follow.house.upload(follow.house.asset)
    follow.gate.set()
    assert follow.decrypt.wait() == 75 and follow.load.wait() == 75
    assert "anew" in follow.load.log_text() and not follow.rig.leftovers()
    assert hydrate.wait() == 0
    follow.deliver()
    assert follow.is_whole()


def test_a_foreign_blob_ends_what_follows_it(follow):
    data = bytearray(follow.w.data)
    data[0] ^= 1
    follow.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(data)
    follow.close_gate(0)
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(0)
    follow.gate.set()
    assert hydrate.wait() == 76 and "not what its manifest says" in follow.w.log()
    assert follow.decrypt.wait() == follow.load.wait() in (75, 76)  # it may have read the header before tb-hydrate had
    assert not follow.rig.leftovers() and not list(follow.rig.target.glob("*.part*"))


@pytest.mark.parametrize("who", ["decrypt", "load"])
def test_a_reader_that_waits_stops_at_once(follow, who):
    follow.close_gate()
    follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    stopped = getattr(follow, who)
    stopped.kill(signal.SIGTERM)
    assert follow.load.wait() and follow.decrypt.wait() == 75
    assert not follow.rig.leftovers() and follow.rig.progress()["state"] == "failed"


def test_a_second_download_leaves_the_first_alone(follow):
    follow.close_gate()
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    assert follow.w.run()[0] == 75 and "another tb-hydrate works" in follow.w.log()
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()


def test_an_older_model_under_the_same_name_is_not_taken_for_the_new_one(follow):
    """Both have the same size."""
    old = Asset(random.Random(11).randbytes(SIZE), chunk_bytes=RECORD)
    follow.house.upload(old)
    assert follow.w.run()[0] == 0
    follow.house.upload(follow.house.asset)
    follow.close_gate()
    hydrate = follow.hydrate()
    assert follow.house.file.read_bytes() == old.ciphertext()
    follow.deliver()
    follow.wait_decrypted(12 * RANGE)
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()


def test_a_map_that_claims_too_much_delivers_nothing_wrong(follow):
    """The map is foreign bytes to who reads it: it says that all is there, and the tags say no. What is missing is fetched as what is damaged
    is, record by record, though all connections of the download wait."""
    follow.close_gate()
    hydrate = follow.hydrate()
    wait_for(lambda: follow.w.progress().get("bytes_done", 0) >= 16 * RANGE, what="the first ranges")
    live = follow.rig.target / "model.tbenc.part.live"
    with open(live, "r+b") as f:
        f.seek(256)
        f.write(b"\x01" * (os.path.getsize(live) - 256))
    follow.deliver()
    follow.rig.facts()
    assert hydrate.running() and "is damaged" in follow.decrypt.log_text()
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()
