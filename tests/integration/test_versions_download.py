# SPDX-License-Identifier: Apache-2.0
"""A new version comes beside the one that serves: `tb-hydrate next`, and what `tb-hydrate switch` makes of it."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from hydrate_world import ASSET, SIG, ca, seal  # noqa: F401
import hydrate_world
from tbsys import Daemon, program, read_json, wait_for


class House(hydrate_world.World):
    """Some versions of the asset, each with a blob of its own."""

    def __init__(self, tmp, ca):
        super().__init__(tmp, ca)
        self.versions = {}
        for n in (1, 2, 3):
            self.publish(n, *seal(1_500_001 + n, seed=n))

    def publish(self, n, data, manifest):
        self.versions[n] = (data, manifest)
        self.server.blobs[f"/models/{ASSET}/v{n}/model.tbenc"] = data
        self.server.blobs[f"/models/{ASSET}/v{n}/model.manifest.json"] = manifest

    def grant(self, n):
        self.credentials = {"sas-url": self.url(f"v{n}/model.tbenc"), "manifest-url": self.url(f"v{n}/model.manifest.json"),
                            "manifest-sha256": b"none", "asset-version": str(n).encode()}

    def begin(self, verb=None, **env):
        d = Daemon([program("tb-hydrate"), *([verb] if verb else [])], env={**self.env, **env}, credentials=lambda: self.credentials,
                   log=self.tmp / "log")
        self.daemons.append(d)
        return d.start()

    def do(self, verb=None, n=None, **env):
        if n:
            self.grant(n)
        return self.begin(verb, **env).wait(60)

    def wish(self, action, version=None):
        path = self.run_dir / "tb-update" / "wish.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"action": action, **({"version": version} if version else {})}))
        return self.do("switch")

    def serving(self):
        return read_json(self.target / "serving.json")

    def forget_what_serves(self, copy=True):
        (self.target / "serving.json").unlink()
        if copy:
            self.copy.unlink()

    @property
    def copy(self):
        return pathlib.Path(self.env["TB_STATE_DIR"]) / "tb-hydrate" / "serving.json"

    def beside(self, n):
        return self.target / f"{ASSET}@{n}"

    def whole(self, n):
        place = self.beside(n) if self.beside(n).exists() else self.target
        assert (place / "model.tbenc").read_bytes() == self.versions[n][0]
        assert (place / "model.manifest.json").read_bytes() == self.versions[n][1]
        return True

    def next_progress(self):
        return read_json(self.run_dir / "tb-next" / "progress.json")


@pytest.fixture
def house(tmp_path, ca):
    h = House(tmp_path, ca)
    yield h
    h.close()


FIRST = ["model.manifest.json", "model.tbenc", "model.tbenc.verified.json", "serving.json"]


def test_a_version_comes_beside_is_switched_to_and_the_old_one_goes(house):
    assert house.do(n=1) == 0 and house.whole(1) and house.files() == FIRST
    assert house.serving() == {"asset_id": ASSET, "version": 1, "beside": False}
    assert house.progress()["asset_version"] == 1
    assert house.do("next", 2) == 0 and house.whole(1) and house.whole(2)
    assert (house.next_progress()["state"], house.next_progress()["asset_version"]) == ("complete", 2)
    assert house.serving()["version"] == 1, "nothing is switched by itself"
    assert house.wish("take", 2) == 0
    assert house.serving() == {"asset_id": ASSET, "version": 2, "beside": True, "previous": 1, "previous_beside": False}
    assert house.whole(1) and house.whole(2)
    assert house.wish("keep") == 0
    assert house.files() == ["serving.json", f"{ASSET}@2"], "the old ciphertext is gone"
    assert house.do(n=2) == 0, "what is there is found there"
    assert house.files() == ["serving.json", f"{ASSET}@2"]
    assert house.do("next", 3) == 0 and house.wish("take", 3) == 0 and house.wish("keep") == 0
    assert house.files() == ["serving.json", f"{ASSET}@3"] and house.whole(3)


def test_back_needs_no_download(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == 0
    assert house.wish("back") == 0
    assert house.serving() == {"asset_id": ASSET, "version": 1, "beside": False}
    before = house.sent()
    assert house.do(n=1) == 0 and house.whole(1) and house.whole(2)
    assert house.do("next", 2) == 0, "what failed once is still here"
    assert house.wish("take", 2) == 0 and house.serving()["version"] == 2
    assert house.do("next", 1) == 0, "a rollback while it is on trial"
    assert house.wish("take", 1) == 0
    assert house.serving() == {"asset_id": ASSET, "version": 1, "beside": False}
    assert house.sent() == before


def test_a_switch_to_what_is_not_whole_is_refused(house):
    assert house.do(n=1) == 0
    assert house.wish("take", 2) == 66 and house.serving()["version"] == 1
    assert house.do("next", 2) == 0
    with open(house.beside(2) / "model.tbenc", "r+b") as f:
        f.seek(1000)
        f.write(b"\0")
    os.utime(house.beside(2) / "model.tbenc")
    assert house.wish("take", 2) == 66 and "is not complete" in house.log()
    for odd in ("", "take", "fly"):
        assert house.wish(odd) == 64
    assert house.wish("keep") == house.wish("back") == 0 and house.serving()["version"] == 1


def test_promotions_in_the_middle_and_a_rollback(house):
    assert house.do(n=1) == 0
    house.grant(2)
    d = house.begin("next")
    wait_for(lambda: house.beside(2).exists() and any(p.name.endswith(".part") for p in house.beside(2).iterdir()), what="a part of 2")
    d.stop()
    assert house.do("next", 3) == 0 and house.whole(3)
    assert not house.beside(2).exists(), "what nobody wants any more is gone"
    assert house.do("next", 1) == 0, "rolled back"
    assert house.next_progress()["state"] == "idle" and not house.beside(3).exists()
    assert house.files() == FIRST


def test_kills_at_any_moment_and_a_lost_record(house):
    """Whatever is killed when, the served version stays whole, and no half of the next one has its final name."""
    assert house.do(n=1) == 0
    house.grant(2)
    for i in range(12):
        d = house.begin("next")
        time.sleep(0.004 * i * i)
        d.kill()
        d.wait(10)
        assert house.whole(1) and house.serving()["version"] == 1
        final = house.beside(2) / "model.tbenc"
        assert not final.exists() or final.read_bytes() == house.versions[2][0]
    assert house.do("next", 2) == 0 and house.whole(2)
    for i in range(12):
        house.wish("take", 2) if i % 2 else house.wish("back")
        path = house.run_dir / "tb-update" / "wish.json"
        path.write_text(json.dumps({"action": "back" if i % 2 else "take", "version": 2}))
        d = house.begin("switch")
        time.sleep(0.001 * i)
        d.kill()
        d.wait(10)
        assert house.serving()["version"] in (1, 2)


def test_what_does_not_fit_is_said_before_the_first_byte(house):
    assert house.do(n=1) == 0
    house.server.blobs[f"/models/{ASSET}/v2/model.manifest.json"] = json.dumps(
        {**json.loads(house.versions[2][1]), "plaintext_bytes": 2**44}).encode()
    before = house.sent()
    assert house.do("next", 2, TB_DELIVERY="fifo") == 74
    p = house.next_progress()
    assert p["state"] == "failed" and "not enough disk space" in p["reason"] and "TiB missing" in p["reason"], p
    assert house.do("next", 2, TB_DELIVERY="dir") == 74
    assert "not enough memory" in house.next_progress()["reason"] and "in all" in house.next_progress()["reason"]
    assert house.sent() == before and house.whole(1) and house.progress()["state"] == "complete"


@pytest.mark.parametrize("left", [None, "", '{"asset_id": "', '{"asset_id": "x", "version": 0}', "[]"])
def test_what_lies_beside_is_used_when_nobody_says_so_any_more(house, left):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == 0
    (house.target / "serving.json").unlink()
    if left is not None:
        (house.target / "serving.json").write_text(left)
    before = house.sent()
    assert house.do(n=2) == 0 and house.sent() == before, "nothing is fetched twice"
    assert house.serving() == {"asset_id": ASSET, "version": 2, "beside": True}
    assert house.files() == ["serving.json", f"{ASSET}@2"] and house.whole(2)


@pytest.mark.parametrize("left", [None, "", "[]"])
@pytest.mark.parametrize("who", ["tb-hydrate", "tb-next"])
def test_what_served_goes_on_when_nobody_says_so_any_more(house, left, who):
    """The next version waits beside it, and was never tried."""
    assert house.do(n=1) == house.do("next", 2) == 0
    serving = house.serving()
    house.forget_what_serves(copy=False)
    if left is not None:
        (house.target / "serving.json").write_text(left)
    before = house.sent()
    if who == "tb-next":
        assert house.do("next", 2) == 0
    else:
        assert house.do(n=2) == 75, "the contract's version is not what served: once more, for that"
        assert "is what serves" in house.log()
    assert house.serving() == serving
    assert house.do(n=1) == 0 and house.sent() == before and house.whole(1) and house.whole(2)
    assert house.wish("take", 2) == 0 and house.serving() == {"asset_id": ASSET, "version": 2, "beside": True, "previous": 1, "previous_beside": False}


def test_a_trial_goes_on_when_nobody_says_so_any_more(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == 0
    serving = house.serving()
    house.forget_what_serves(copy=False)
    assert house.do(n=2) == 0 and house.serving() == serving


def test_a_copy_of_what_is_not_there_any_more_says_nothing(house):
    """As on a disk that was lost with all that was on it."""
    assert house.do(n=1) == 0
    house.forget_what_serves(copy=False)
    for p in house.target.iterdir():
        p.unlink()
    assert house.do(n=2) == 0 and house.serving()["version"] == 2


def test_what_is_on_its_way_outlives_a_trial_that_ends(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.do("next", 3) == 0
    assert house.wish("keep", 3) == 0
    assert house.files() == ["serving.json", f"{ASSET}@2", f"{ASSET}@3"] and house.whole(3)
    assert house.wish("take", 3) == house.wish("keep", 3) == 0
    assert house.files() == ["serving.json", f"{ASSET}@3"] and house.whole(3)


def test_a_damaged_blob_never_gets_its_name(house):
    assert house.do(n=1) == 0
    damaged = bytearray(house.versions[2][0])
    damaged[len(damaged) // 2] ^= 1
    house.server.blobs[f"/models/{ASSET}/v2/model.tbenc"] = bytes(damaged)
    assert house.do("next", 2) == 76
    assert "damaged at its source" in house.next_progress()["reason"] and "tb-next.service" in house.next_progress()["reason"]
    assert not (house.beside(2) / "model.tbenc").exists() and house.whole(1)


def test_a_version_on_trial_that_rots_gives_way_to_the_one_before(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == 0
    with open(house.beside(2) / "model.tbenc", "r+b") as f:
        f.seek(70000)
        f.write(b"rotten")
    os.utime(house.beside(2) / "model.tbenc")
    assert house.do(n=2) == 75 and "back to version 1" in house.log()
    assert house.serving() == {"asset_id": ASSET, "version": 1, "beside": False}
    assert house.do(n=1) == 0 and house.whole(1)


def test_a_version_that_cannot_be_had_any_more_is_replaced(house):
    """The control plane gives the current one only: the old one has no key, and goes when the new one is here."""
    assert house.do(n=1) == 0
    assert house.do(n=2) == 0 and house.serving() == {"asset_id": ASSET, "version": 2, "beside": True}
    assert house.files() == ["serving.json", f"{ASSET}@2"] and house.whole(2)


def test_a_control_plane_without_versions_is_as_before(house):
    house.grant(1)
    house.credentials["asset-version"] = b"none"
    assert house.do() == 0 and house.files() == FIRST[:3]
    assert house.do("next") == 0 and house.next_progress()["state"] == "idle"
    del house.credentials["asset-version"]  # a unit from before
    assert house.do() == 0
    house.grant(1)  # the control plane has learned it
    assert house.do() == 0 and house.serving()["version"] == 1
    assert house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == 0
    house.credentials["asset-version"] = b"none"  # and forgotten: what is here is of this manifest, wherever it lies
    assert house.do() == 0 and house.whole(2) and house.files() == ["serving.json", f"{ASSET}@2"]


def test_what_was_served_before_there_were_versions_gets_its_number(house):
    assert house.do("next", 1) == 0 and "serving.json" not in house.files(), "there is nothing to look at"
    assert house.do(n=1) == 0
    house.forget_what_serves()
    before, sent = house.files(), house.sent()
    assert house.do("next", 2) == 0 and house.files() == before, "not that one, and nothing is downloaded over what serves"
    assert house.next_progress()["state"] == "idle"
    assert house.do("next", 1) == 0 and house.whole(1)
    assert house.serving() == {"asset_id": ASSET, "version": 1, "beside": False}
    assert house.sent() == sent
    assert house.do("next", 2) == 0 and house.whole(1) and house.whole(2), "and now as ever"


def test_another_asset_forgets_the_versions_of_the_one_before(house):
    assert house.do(n=1) == house.do("next", 2) == house.wish("take", 2) == house.wish("keep") == 0
    data, manifest = seal(70_001, asset="other", seed=9)
    house.publish(1, data, manifest)
    assert house.do(n=1, TB_ASSET_ID="other") == 0
    assert house.serving()["asset_id"] == "other" and house.files() == FIRST


def test_only_known_verbs(house):
    house.grant(1)
    for argv in (["fly"], ["next", "x"], ["switch", "take"]):
        r = subprocess.run([program("tb-hydrate"), *argv], env={k: str(v) for k, v in house.env.items()}, capture_output=True, timeout=30)
        assert r.returncode == 64
    house.begin("next").kill(signal.SIGKILL)
