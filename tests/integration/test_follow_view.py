# SPDX-License-Identifier: Apache-2.0
"""A view of a model that is still being downloaded: who reads what has not come waits for it, can be killed, and is told when it never
comes."""

import hashlib
import json
import os
import pathlib
import random
import re
import signal
import sys
import threading

import pytest

import faultproxy as fp
import tbsys
from delivery_asset import Asset
from delivery_house import house  # noqa: F401
from delivery_rig import rig  # noqa: F401
from hydrate_world import ca  # noqa: F401

RANGE = 256 * 1024
RECORD = 4 * RANGE
SIZE = 48 * RANGE + 77
CAME = 16 * RANGE  # of the ciphertext, before the gate

# Reads the model in order, and says how far it came; with ARGV[3] first what lies there.
READER = r'''
import hashlib, os, pathlib, sys
model, out, first = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
fd = os.open(model, os.O_RDONLY | (os.O_DIRECT if "direct" in first else 0))
(out / "pid").write_text(str(os.getpid()))
if "last" in first:
    (out / "last").write_text(hashlib.sha256(os.pread(fd, 4096, os.fstat(fd).st_size // 4096 * 4096)).hexdigest())
h, at = hashlib.sha256(), 0
if "direct" in first:
    import mmap
    buf = mmap.mmap(-1, 1 << 20)
while True:
    if "direct" in first:
        n = os.preadv(fd, [buf], at)
        d = buf[:n]
    else:
        d = os.pread(fd, 65536, at)
    if not d:
        break
    h.update(d)
    at += len(d)
    (out / "at.tmp").write_text(str(at))
    os.rename(out / "at.tmp", out / "at")
(out / "sum").write_text(h.hexdigest())
'''


class Follow:
    """A download that stops at a gate, and a view behind it."""

    def __init__(self, house):  # noqa: F811
        self.house, self.w, self.rig, self.gate = house, house.w, house.rig, threading.Event()
        self.out = self.rig.tmp / "reader"
        self.out.mkdir()

    def begin(self, *how):
        starts = "|".join(str(i * RANGE) for i in range(CAME // RANGE, SIZE // RANGE + 1))
        self.w.proxy.rule(fp.hold(self.gate), path="model.tbenc$", range=f"^bytes=({starts})-")
        self.hydrate = self.w.start()
        self.hydrate.wait_notify("READY")
        self.load = self.rig.load("view", f"{sys.executable} {self.rig.script('reader.py', READER)} {{model}} {self.out} " + ' '.join(how or ['plain']))
        self.decrypt = self.rig.decrypt(self.house.asset)
        self.decrypt.start(), self.load.start()
        return self

    def at(self):
        return int((self.out / "at").read_text()) if (self.out / "at").exists() else 0

    def wait_at(self, n):
        tbsys.wait_for(lambda: self.at() >= n or self.load.rc is not None, what="the reader")
        assert self.at() >= n, self.load.log_text() + self.decrypt.log_text()

    def is_whole(self):
        assert self.load.wait() == 0, self.load.log_text() + self.decrypt.log_text()
        assert (self.out / "sum").read_text() == hashlib.sha256(self.house.asset.plain).hexdigest()
        assert self.decrypt.wait() == 0


@pytest.fixture
def follow(house):  # noqa: F811
    house.asset = Asset(random.Random(9).randbytes(SIZE), chunk_bytes=RECORD)
    house.upload(house.asset)
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(RANGE)
    f = Follow(house)
    yield f
    f.gate.set()


@pytest.mark.parametrize("how", ["buffered", "direct"])
def test_the_runtime_reads_before_the_download_ends(follow, how):
    follow.begin(how)
    follow.wait_at(3 * RECORD - 65536)
    assert follow.hydrate.running() and not follow.house.file.exists() and follow.rig.progress()["state"] == "serving"
    follow.gate.set()
    follow.is_whole()
    assert follow.hydrate.wait() == 0


def test_what_somebody_waits_for_comes_next(follow):
    """The reader wants the end of the file, of which nothing came; the ranges before it stay behind the gate."""
    follow.begin("last")
    tbsys.wait_for(lambda: (follow.rig.run / "tb-decrypt/want.json").exists(), what="the wish")
    want = tbsys.read_json(follow.rig.run / "tb-decrypt/want.json")
    last = (SIZE - 77) // RECORD * (RECORD + 20) + 32
    assert last // RANGE * RANGE <= want["ranges"][0]["offset"] <= last, want
    follow.gate.set()
    follow.is_whole()
    assert (follow.out / "last").read_text() == hashlib.sha256(follow.house.asset.plain[SIZE // 4096 * 4096:]).hexdigest()


@pytest.mark.parametrize("how", ["buffered", "direct"])
def test_who_waits_for_bytes_can_be_killed(follow, how):
    follow.begin(how)
    follow.wait_at(3 * RECORD - 65536)
    follow.load.kill()
    assert follow.decrypt.wait() == 0


@pytest.mark.parametrize("how", ["buffered", "direct"])
def test_a_suspension_ends_who_waits(follow, how):
    follow.begin(how)
    follow.wait_at(3 * RECORD - 65536)
    at = pathlib.Path(f"/proc/{(follow.out / 'pid').read_text()}/syscall")
    tbsys.wait_for(lambda: at.read_text().split()[0] in ("17", "295", "327"), what="pread64, preadv or preadv2")
    assert follow.decrypt.stop() == 75
    assert follow.load.wait() == 1
    # The answer to it; or tb-decrypt had gone when the kernel asked for another of its pages.
    assert re.search(r"Errno (5|103|107)\]", follow.load.log_text()), follow.load.log_text()


@pytest.mark.parametrize("how", ["killed", "SIGTERM"])
def test_a_download_that_is_started_again_is_read_on(follow, how):
    follow.begin()
    follow.wait_at(3 * RECORD - 65536)
    if how == "killed":
        follow.hydrate.kill()
    else:
        assert follow.hydrate.stop() == -signal.SIGTERM
    assert follow.load.running()
    follow.gate.set()
    assert follow.w.start().wait() == 0
    follow.is_whole()


def test_with_tb_decrypt_dead_who_waits_is_told(follow):
    follow.begin()
    follow.wait_at(3 * RECORD - 65536)
    follow.decrypt.kill()
    assert follow.load.wait() == 1
    assert not (follow.out / "sum").exists()
    os.kill(follow.hydrate.pid, 0)


def test_a_version_of_another_file_name_takes_the_place_of_one_on_its_way(follow):
    """No more comes of that: who reads it is told, and nothing of it is left."""
    credentials = follow.w.credentials
    follow.w.credentials = {**credentials, "asset-version": b"1"}
    follow.begin()
    follow.wait_at(2 * RECORD)
    follow.hydrate.stop()
    follow.house.upload(Asset(random.Random(10).randbytes(SIZE), chunk_bytes=RECORD, name="model-v2.tbenc"))
    follow.w.credentials = {**credentials, "asset-version": b"2"}
    follow.gate.set()
    assert follow.w.run()[0] == 0
    assert follow.decrypt.wait() == 75 and "was begun anew while it was read" in follow.decrypt.log_text()
    assert follow.load.wait() != 0
    assert follow.w.files() == ["model-v2.tbenc", "model-v2.tbenc.verified.json", "model.manifest.json", "serving.json"]


def test_another_file_name_costs_nothing_before_its_file_is_complete(follow):
    """Its blob may be none, or the source may go back."""
    assert follow.w.run()[0] == 0
    former, sent = follow.house.file.read_bytes(), follow.w.sent()
    new = Asset(random.Random(10).randbytes(SIZE), chunk_bytes=RECORD, name="model-v2.tbenc")
    follow.w.put(b"no ciphertext", new.manifest_text())
    assert follow.w.run()[0] == 76
    follow.house.upload(follow.house.asset)
    before = follow.w.sent()
    assert follow.w.run()[0] == 0 and follow.w.sent() == before
    assert follow.house.file.read_bytes() == former and sent == len(former)
    for foreign in ("notes.verified.json", "notes.part.json", "notes"):
        (follow.rig.target / foreign).write_text("{}")
    follow.house.upload(new)
    assert follow.w.run()[0] == 0
    assert follow.w.files() == ["model-v2.tbenc", "model-v2.tbenc.verified.json", "model.manifest.json", "notes", "notes.part.json",
                                "notes.verified.json"]


@pytest.mark.parametrize("left", ["a version beside", "a base"])
def test_who_reads_what_is_swept_away_hears_so(follow, left):
    """A version that is not given any more, half of it there; and what a version stood on that stands on nothing now."""
    if left == "a version beside":
        serving = {"asset_id": follow.w.env["TB_ASSET_ID"], "version": 2, "beside": True}
        follow.rig.target.mkdir(exist_ok=True)
        (follow.rig.target / "serving.json").write_text(json.dumps(serving))
        follow.w.credentials = {**follow.w.credentials, "asset-version": b"2"}
    follow.begin()
    follow.wait_at(2 * RECORD)
    follow.hydrate.stop()
    if left == "a base":  # the same files where those of a base are
        (follow.rig.target / ".base").mkdir()
        for p in [p for p in follow.rig.target.iterdir() if p.is_file()]:
            p.rename(follow.rig.target / ".base" / p.name)
    follow.w.proxy.clear_rules(), follow.gate.set()
    follow.house.upload(Asset(random.Random(10).randbytes(SIZE), chunk_bytes=RECORD))
    follow.w.credentials = {**follow.w.credentials, "asset-version": b"3" if left == "a version beside" else b"none"}
    assert follow.w.run()[0] == 0
    assert follow.decrypt.wait() == 75 and "was begun anew while it was read" in follow.decrypt.log_text()
