# SPDX-License-Identifier: Apache-2.0
"""An endpoint of a model that is still being downloaded: who reads what has not come waits for it, is served what was mended, and is cut
when it never comes."""

import random
import threading
import urllib.error
import urllib.request

import pytest

import faultproxy as fp
import tbsys
from delivery_asset import Asset
from delivery_house import house, rot  # noqa: F401
from delivery_rig import rig  # noqa: F401
from endpoint_place import Place, half_read, rest
from hydrate_world import ca  # noqa: F401

RANGE = 256 * 1024
RECORD = 4 * RANGE
SIZE = 48 * RANGE + 77
CAME = 16 * RANGE  # of the ciphertext, before the gate


class Reader(threading.Thread):
    """A client of its own; .at says how far it came, .how how it ended."""

    def __init__(self, place, part=None):
        super().__init__(daemon=True)
        self.rq = urllib.request.Request(f"{place.url}/{place.bucket}/{place.key}", headers={"Range": part} if part else {})
        self.got, self.how = bytearray(), None
        self.start()

    def run(self):
        try:
            with urllib.request.urlopen(self.rq, timeout=120) as r:
                while d := r.read(65536):
                    self.got += d
            self.how = "end"
        except (OSError, urllib.error.URLError) as e:
            self.how = type(e).__name__


class Follow:
    """A download that stops at a gate, and an endpoint behind it."""

    def __init__(self, house):  # noqa: F811
        self.house, self.w, self.rig, self.gate = house, house.w, house.rig, threading.Event()

    def begin(self):
        starts = "|".join(str(i * RANGE) for i in range(CAME // RANGE, SIZE // RANGE + 1))
        self.w.proxy.rule(fp.hold(self.gate), path="model.tbenc$", range=f"^bytes=({starts})-")
        self.hydrate = self.w.start()
        self.hydrate.wait_notify("READY")
        self.place = Place(self.rig, self.house.asset)
        return self

    def read_to_the_gate(self):
        reader = Reader(self.place)
        tbsys.wait_for(lambda: len(reader.got) >= 3 * RECORD or reader.how, what="the reader")
        assert not reader.how and len(reader.got) < SIZE
        return reader

    def is_whole(self, reader):
        reader.join(60)
        assert reader.how == "end" and reader.got == self.house.asset.plain


@pytest.fixture
def follow(house):  # noqa: F811
    house.asset = Asset(random.Random(9).randbytes(SIZE), chunk_bytes=RECORD)
    house.upload(house.asset)
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(RANGE)
    f = Follow(house)
    yield f
    f.gate.set()


def test_what_has_not_come_is_waited_for_by_many(follow):
    follow.begin()
    readers = [follow.read_to_the_gate() for _ in range(3)]
    assert follow.place.object(Range=f"bytes=0-{RECORD}")[0] == 206, "and what has come is served meanwhile"
    follow.gate.set()
    for r in readers:
        follow.is_whole(r)
    assert follow.hydrate.wait() == 0
    tbsys.wait_for(lambda: follow.rig.delivery()["state"] == "delivered", what="all of it verified")
    follow.place.end()


def test_what_somebody_waits_for_comes_next(follow):
    follow.begin()
    reader = Reader(follow.place, f"bytes={SIZE - 10}-")
    tbsys.wait_for(lambda: (follow.rig.run / "tb-decrypt/want.json").exists(), what="the wish")
    want = tbsys.read_json(follow.rig.run / "tb-decrypt/want.json")
    last = (SIZE - 77) // RECORD * (RECORD + 20) + 32
    assert last // RANGE * RANGE <= want["ranges"][0]["offset"] <= last, want
    follow.gate.set()
    reader.join(60)
    assert reader.got == follow.house.asset.plain[-10:]


def test_a_suspension_cuts_who_waits(follow):
    follow.begin()
    reader = follow.read_to_the_gate()
    assert follow.place.decrypt.stop() == 75
    reader.join(60)
    assert reader.how != "end" and len(reader.got) < SIZE
    assert follow.place.load.wait() == 75


def test_who_goes_away_while_it_waits_is_forgotten(follow):
    follow.begin()
    for _ in range(300):  # more than there is room for at once
        s = half_read(follow.place)
        s.close()
    follow.gate.set()
    follow.is_whole(Reader(follow.place))
    follow.place.end()


def test_a_record_that_came_wrong_is_mended_while_it_is_waited_for(follow):
    follow.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={9 * RANGE}-", nth=1)
    follow.begin()
    reader = Reader(follow.place)
    tbsys.wait_for(lambda: "chunk 2 of model.tbenc" in follow.place.decrypt.log_text(), what="the damage")
    follow.gate.set()  # while it is closed, tb-hydrate's connections may all be held there
    follow.is_whole(reader)
    assert follow.hydrate.wait() == 0
    assert follow.w.sent() == len(follow.w.data) + RECORD + 20
    follow.place.end()


def test_what_rotted_on_the_disk_is_mended_alone(follow):
    assert follow.w.run()[0] == 0
    rot(follow.house.file, 32 + 5 * (RECORD + 20) + 10)
    before = follow.w.sent()
    follow.place = Place(follow.rig, follow.house.asset)
    reader = Reader(follow.place)
    tbsys.wait_for(lambda: (follow.rig.run / "tb-decrypt/repair").exists(), what="the call")
    assert follow.w.run()[0] == 0  # as its unit is started by tb-wish.path
    follow.is_whole(reader)
    assert follow.w.sent() - before == RECORD + 20
    follow.place.end()


def test_tb_decrypt_killed_while_a_client_waits(follow):
    follow.begin()
    s = half_read(follow.place)
    follow.place.decrypt.kill()
    n, how = rest(s)
    assert n < SIZE and follow.place.load.wait() == 75
    assert "ended without an answer" in follow.place.load.log_text()
    with pytest.raises(ConnectionRefusedError):
        follow.place.object()
