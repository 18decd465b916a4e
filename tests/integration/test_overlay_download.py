# SPDX-License-Identifier: Apache-2.0
"""An overlay comes to a machine: only what changed where the base is on the disk, both where it is not; killed at any moment, with
a base that is missing, damaged, of another key, or not to be had."""

import json
import os
import random
import signal
import time

import pytest

import faultproxy as fp
import overlay_asset
from delivery_house import rot
from hydrate_world import ASSET, ca  # noqa: F401
from tbsys import wait_for
from test_versions_download import House

BASE = {"chat.jinja": b"old" * 100, "config.json": b"{}", "weights": random.Random(5).randbytes(1_500_000)}
TREE = {**BASE, "chat.jinja": b"new" * 100}


class Layers(House):
    """Version 1 is whole, 2 stands on it, 3 too."""

    def __init__(self, tmp, ca):
        super().__init__(tmp, ca)
        self.base = overlay_asset.whole(BASE, chunk_bytes=64 * 1024, asset_id=ASSET)
        self.publish(1, self.base.ciphertext(), self.base.manifest_text())
        for n, tree in ((2, TREE), (3, {**TREE, "config.json": b"{3}"})):
            over = overlay_asset.Overlay(self.base, tree)
            self.publish(n, over.ciphertext(), over.manifest_text())
        self.has_base = True

    def grant(self, n):
        super().grant(n)
        if n > 1 and self.has_base:
            self.credentials["base-urls"] = self.url("v1/model.tbenc") + b"\n" + self.url("v1/model.manifest.json")
        elif n > 1:
            self.credentials["base-urls"] = b"none"

    def under(self, place):
        return place / ".base"

    def standing(self, n, place=None):
        """Version n and its base are in the place."""
        place = place or (self.beside(n) if self.beside(n).exists() else self.target)
        assert (place / "model.tbenc").read_bytes() == self.versions[n][0]
        assert (self.under(place) / "model.tbenc").read_bytes() == self.versions[1][0]
        assert (self.under(place) / "model.manifest.json").read_bytes() == self.versions[1][1]
        return True


@pytest.fixture
def house(tmp_path, ca):
    h = Layers(tmp_path, ca)
    yield h
    h.close()


def test_only_what_changed_is_fetched_where_the_base_serves(house):
    assert house.do(n=1) == 0
    before = house.sent()
    assert house.do("next", 2) == 0 and house.standing(2, house.beside(2))
    assert house.sent() - before < 20_000 and len(house.versions[1][0]) > 1_500_000
    assert os.stat(house.under(house.beside(2)) / "model.tbenc").st_ino == os.stat(house.target / "model.tbenc").st_ino
    assert house.wish("take", 2) == house.wish("keep") == 0
    assert "model.tbenc" not in house.files() and house.standing(2), "the one before is gone, its bytes are not"
    before = house.sent()
    assert house.do(n=2) == 0 and "nothing to download" in house.log()
    assert house.do("next", 3) == 0 and house.standing(3, house.beside(3)), "from the base of what serves"
    assert house.sent() - before < 30_000
    assert house.wish("take", 3) == house.wish("keep") == 0
    assert house.files() == ["serving.json", f"{ASSET}@3"]


def test_the_base_is_fetched_too_where_it_is_not(house):
    assert house.do(n=2) == 0 and house.standing(2)
    before = house.sent()
    assert house.do(n=2) == 0 and house.sent() == before
    for path in (house.target, house.tmp / "state" / "tb-hydrate"):
        (path / "serving.json").unlink(missing_ok=True)
    assert house.do(n=1) == 0 and house.whole(1) and not house.under(house.target).exists(), "one that is whole needs none"


def test_going_back_to_the_base_itself(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == 0
    assert house.do("next", 1) == 0
    assert house.wish("take", 1) == house.wish("keep") == 0 and house.whole(1)


def test_a_base_that_is_nowhere_is_said_so(house):
    house.has_base = False
    assert house.do(n=2) == 66 and "is an overlay, and what it stands on is neither in" in house.log()
    house.has_base = True
    assert house.do(n=2) == 0 and house.standing(2)
    house.has_base = False
    assert house.do(n=2) == 0, "what is there is there"
    (house.under(house.target) / "model.tbenc").unlink()
    assert house.do(n=2) == 66


@pytest.mark.parametrize("urls", [b"ftp://x\nhttps://y", b"https://x", b"\0", b"x"])
def test_base_urls_that_are_none(house, urls):
    house.grant(2)
    house.credentials["base-urls"] = urls
    assert house.do() in (66, 78)
    del house.credentials["base-urls"]
    assert house.do() == 66


def test_a_base_that_is_another_is_refused(house):
    other = overlay_asset.whole({**BASE, "weights": b"x" * 1_500_000}, chunk_bytes=64 * 1024, asset_id=ASSET)
    house.publish(1, other.ciphertext(), other.manifest_text())
    assert house.do(n=2) == 76 and "manifest" in house.log()
    assert "serving.json" not in house.files()
    house.publish(1, other.ciphertext(), house.base.manifest_text())
    assert house.do(n=2) == 76
    house.publish(1, house.base.ciphertext(), house.base.manifest_text())
    (house.tmp / "state").exists() and [p.unlink() for p in (house.tmp / "state").rglob("repair.json")]
    assert house.do(n=2) == 0 and house.standing(2)


def test_a_base_that_rots_is_fetched_again(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == 0
    path = house.under(house.beside(2)) / "model.tbenc"
    with open(path, "r+b") as f:
        f.seek(70_000)
        f.write(b"rotten")
    os.utime(path)
    assert house.do(n=2) == 0 and house.standing(2)
    assert "fetched again" in house.log() or "downloaded" in house.log()


def test_a_base_that_rots_is_not_taken_from_its_other_names(house):
    """The version beside has the same file: when the download that is to replace it is broken off, the next start goes on with it."""
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == house.do("next", 3) == 0
    path = house.under(house.beside(2)) / "model.tbenc"
    assert path.samefile(house.under(house.beside(3)) / "model.tbenc")
    rot(path, 70_000)
    st = path.stat()
    found = {"bytes": st.st_size, "mtime": "%d.%09d" % divmod(st.st_mtime_ns, 10**9), "inode": st.st_ino}
    (house.run_dir / "tb-decrypt").mkdir(exist_ok=True)
    (house.run_dir / "tb-decrypt/progress.json").write_text(json.dumps(
        {"state": "failed", "reason": ".base/model.tbenc: chunk 1: not authentic", "started_boottime_us": 1000, "damaged": found}))
    house.proxy.rule(fp.status(403), path="v1/model.tbenc$", nth=range(12, 10000))
    assert house.do(n=2) == 75
    sent, size = house.sent(), len(house.versions[1][0])
    house.proxy.clear_rules()
    assert house.do(n=2) == 0 and house.standing(2)
    assert 0 < house.sent() - sent < size, "not all of it again"


def test_a_version_whose_base_is_not_whole_is_not_taken(house):
    assert house.do(n=1) == house.do("next", 2) == 0
    path = house.under(house.beside(2)) / "model.tbenc"
    path.unlink()
    assert house.wish("take", 2) == 66 and house.serving()["version"] == 1
    assert house.do("next", 2) == 0 and house.wish("take", 2) == 0


@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_moment(house, at):
    """With and without the base on the disk. What is there after each kill is completed by the next start, and no more is fetched
    than there is."""
    rng = random.Random(at)
    if at % 2:
        assert house.do(n=1) == 0
    house.proxy.delay = 0.002
    for _ in range(6):
        house.grant(2)
        d = house.begin("next" if at % 2 else None)
        time.sleep(rng.uniform(0.01, 0.25))
        if d.running():
            d.kill(signal.SIGKILL)
        else:
            d.wait()
    assert house.do("next" if at % 2 else None, 2) == 0
    assert house.standing(2, house.beside(2) if at % 2 else house.target)


def test_a_base_with_another_manifest_in_the_same_place_makes_way(house):
    """Without numbers all versions come into the same place."""
    house.grant(2)
    house.credentials["asset-version"] = b"none"
    assert house.do() == 0
    again = overlay_asset.whole({**BASE, "weights": b"y" * 1_000_000}, chunk_bytes=64 * 1024, asset_id=ASSET)
    over = overlay_asset.Overlay(again, {**TREE, "weights": b"y" * 1_000_000})
    house.publish(1, again.ciphertext(), again.manifest_text())
    house.publish(2, over.ciphertext(), over.manifest_text())
    assert house.do() == 0 and house.standing(2)
    assert json.loads((house.target / "model.manifest.json").read_text())["base"]["version"] == 1
    assert wait_for(lambda: sorted(p.name for p in house.under(house.target).iterdir()), what="its files") == [
        "model.manifest.json", "model.tbenc", "model.tbenc.verified.json"]
