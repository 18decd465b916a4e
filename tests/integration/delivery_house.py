# SPDX-License-Identifier: Apache-2.0
"""A download and a delivery of the same asset in the same directories: what the tests of repair and of following share."""

import hashlib
import json
import os
import random

import pytest

from delivery_asset import ASSET, Asset
from hydrate_world import World

SIZE = 40 * 4096 - 5


class House:
    """A download and a delivery in the same directories."""

    def __init__(self, rig, world):
        self.rig, self.w = rig, world
        world.target, world.run_dir = rig.target, rig.run
        world.env.update(TB_TARGET_DIR=str(rig.target), TB_RUN_DIR=str(rig.run), TB_STATE_DIR=str(rig.tmp / "state"), TB_ASSET_ID=ASSET)
        self.asset = Asset(random.Random(3).randbytes(SIZE))
        self.record = rig.tmp / "state/tb-hydrate/repair.json"
        self.upload(self.asset)

    def upload(self, asset):
        self.w.put(asset.ciphertext(), asset.manifest_text())

    @property
    def file(self):
        return self.rig.target / self.asset.name

    def hydrate(self):
        """Exit code, and how many whole copies were fetched."""
        before = self.w.sent()
        rc, _ = self.w.run()
        return rc, round((self.w.sent() - before) / len(self.w.data))

    def serve(self, key=None):
        """One start of the runtime: the exit code of tb-load."""
        self.rig.out.unlink(missing_ok=True)
        load, decrypt = self.rig.reader(), self.rig.decrypt(self.asset, key=key)
        decrypt.start(), load.start()
        rc = load.wait()
        decrypt.stop() if decrypt.running() else decrypt.wait()
        # A request that nobody took, of a tb-load that never made it.
        self.rig.listener.setblocking(False)
        try:
            self.rig.listener.accept()[0].close()
        except BlockingIOError:
            pass
        self.rig.listener.setblocking(True)
        if rc == 0:
            assert self.rig.out.read_text() == hashlib.sha256(self.asset.plain).hexdigest()
        return rc

    def ready(self):
        assert self.hydrate() == (0, 1) and self.serve() == 0
        return self

    def heals(self, copies=1, first=(66, 76)):
        """The runtime fails for want of a sound model, tb-hydrate runs again, the runtime starts."""
        assert self.serve() in first, self.rig.daemons[-2].log_text()
        assert self.hydrate() == (0, copies), self.w.log()
        assert self.serve() == 0
        self.w.assert_complete()

    def tries(self):
        return json.loads(self.record.read_text())["tries"] if self.record.exists() else 0


@pytest.fixture
def house(rig, ca, tmp_path):
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", ca)
    yield House(rig, world)
    world.close()


def rot(path, at=SIZE // 2, bit=4):
    """Changes a bit and nothing else: size, inode and mtime stay."""
    st = path.stat()
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ bit]))
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
