# SPDX-License-Identifier: Apache-2.0
"""A record that proves bad is fetched once more, alone, while its reader waits: during the download and afterwards, from the disk or from
the source; and what ends it when that does not help."""

import hashlib
import json
import os
import random
import sys
import threading
import time

import pytest

import faultproxy as fp
from delivery_asset import Asset
from delivery_house import house, rot  # noqa: F401
from delivery_rig import NO_MOUNT, rig  # noqa: F401
from hydrate_world import SLOTS, ca  # noqa: F401
from tbsys import wait_for
from test_follow import RANGE, RECORD, SIZE, Follow

ON_DISK = RECORD + 20  # a record with its length and tag


@pytest.fixture
def follow(house):  # noqa: F811
    house.asset = Asset(random.Random(12).randbytes(SIZE), chunk_bytes=RECORD)
    house.upload(house.asset)
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(RANGE)
    f = Follow(house)
    yield f
    f.gate.set()


def place(record):
    return 32 + record * ON_DISK


def place_of_range(at):
    """The record with the byte 5000 of that range."""
    return (at * RANGE + 5000 - 32) // ON_DISK


def fetched_alone(follow, record):
    last = min(place(record) + ON_DISK, len(follow.w.data)) - 1
    return follow.w.proxy.count(path="model.tbenc$", range=f"^bytes={place(record)}-{last}$")


def comes_whole(follow):
    """Behind a download whose gate opens when most of it is decrypted."""
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(36 * RANGE)
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()


def test_a_range_that_came_wrong_is_mended_behind_the_download(follow):
    """Each record is fetched once more and nothing else, and the reader sees nothing of it."""
    for at in (1, 9, 30):
        follow.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={at * RANGE}-", nth=1)
    follow.close_gate(40)
    comes_whole(follow)
    assert [fetched_alone(follow, r) for r in range(10)] == [1, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert follow.w.sent() == len(follow.w.data) + 3 * ON_DISK
    assert "chunk 2 of model.tbenc" in follow.decrypt.log_text() and "fetching chunk 2 once more" in follow.w.log()


def test_a_mirror_that_lies_is_found_out_by_the_tags_and_left(follow, ca):  # noqa: F811
    """What a reader finds bad comes once more from the storage, alone, and the mirror is asked for nothing more."""
    with fp.FaultProxy(follow.w.proxy.upstream, tls=ca.pair) as mirror:
        follow.w.env["TB_BLOB_MIRROR"] = mirror.url
        mirror.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={9 * RANGE}-")
        mirror.rule(fp.hold(follow.gate), path="model.tbenc$", nth=range(20, 10000))
        found = threading.Event()  # until then nobody gives more: the download is to be under way when it is found
        follow.w.proxy.rule(fp.hold(found), path="model.tbenc$", nth=range(2, 10000))
        hydrate = follow.hydrate()
        follow.deliver()
        try:
            wait_for(lambda: f"chunk {place_of_range(9)} of model.tbenc" in follow.decrypt.log_text(), what="the damage")
            waiting = lambda: [r for r in mirror.requests + follow.w.proxy.requests if not r.done]  # noqa: E731
            # The record comes by a connection of its own, or by one of the others that was free just then.
            wait_for(lambda: len(waiting()) >= SLOTS and fetched_alone(follow, place_of_range(9)), what="a request of each connection, and the record's")
        finally:
            found.set()
        wait_for(lambda: "gave bytes that are not the model's" in follow.w.log(), what="the lie")
        asked = mirror.count()
        follow.gate.set()
        assert hydrate.wait() == 0 and follow.is_whole()
        assert fetched_alone(follow, place_of_range(9)) == 1
        assert mirror.count() == asked and follow.w.proxy.count(path="model.tbenc$") > 10
        assert "is damaged" not in follow.w.log()


@pytest.mark.parametrize("records", [[3], [0, 5, 12]])
def test_what_rotted_on_the_disk_is_mended_alone(follow, records):
    assert follow.w.run()[0] == 0
    for r in records:
        rot(follow.house.file, place(r) + 10)
    before = follow.w.sent()
    follow.deliver()
    wait_for(lambda: (follow.rig.run / "tb-decrypt/repair").exists(), what="the call")
    while follow.load.running() and not follow.rig.out.exists():
        assert follow.w.run()[0] == 0  # as its unit is started by tb-wish.path
    assert follow.is_whole()
    assert follow.w.sent() - before == len([r for r in records if r < 12]) * ON_DISK + (12 in records) * (77 + 20)
    assert follow.house.hydrate() == (0, 0), "what was mended is the file that was verified"


@pytest.mark.parametrize("mode", ["dir", "view"])
def test_who_was_stopped_wishes_for_nothing(follow, mode):
    assert follow.w.run()[0] == 0
    rot(follow.house.file, place(2) + 10)
    want = follow.rig.run / "tb-decrypt/want.json"
    load = follow.rig.load(mode, f"/bin/cat {{model}} {{model}}", wrapper=NO_MOUNT if mode == "dir" else ())
    decrypt = follow.rig.decrypt(follow.house.asset)
    decrypt.start(), load.start()
    wait_for(lambda: want.exists() and '"record":2' in want.read_text(), what="the wish")
    assert decrypt.stop() == 75 and load.wait() != 0
    assert json.loads(want.read_text())["ranges"] == []


def test_who_was_killed_wishes_for_nothing_once_another_reads(follow):
    """What it wished for was mended meanwhile."""
    assert follow.w.run()[0] == 0
    rot(follow.house.file, place(2) + 10)
    want = follow.rig.run / "tb-decrypt/want.json"
    follow.deliver()
    wait_for(lambda: want.exists() and '"record":2' in want.read_text(), what="the wish")
    follow.decrypt.kill()
    assert follow.load.wait() != 0 and '"record":2' in want.read_text()
    rot(follow.house.file, place(2) + 10)  # that bit again
    follow.deliver()
    assert follow.is_whole() and json.loads(want.read_text())["ranges"] == []


def test_an_old_wish_costs_no_sound_model(follow):
    """The blob is another by now, of the same length: what it gives is not the record."""
    assert follow.w.run()[0] == 0
    sound = follow.house.file.read_bytes()
    want = follow.rig.run / "tb-decrypt/want.json"
    want.parent.mkdir(exist_ok=True)
    want.write_text(json.dumps({"sha256": hashlib.sha256(sound).hexdigest(),
                                "ranges": [{"offset": place(2), "bytes": ON_DISK, "record": 2, "seen": 0, "try": 1}]}))
    os.utime(want, (time.time() - 61, time.time() - 61))
    other = Asset(random.Random(13).randbytes(SIZE), chunk_bytes=RECORD)
    follow.w.put(other.ciphertext(), follow.house.asset.manifest_text())
    assert follow.house.hydrate() == (0, 0) and follow.house.file.read_bytes() == sound
    assert "once more" not in follow.w.log()


def test_a_mend_that_takes_its_time_asks_systemd_for_more(follow):
    assert follow.w.run()[0] == 0
    rot(follow.house.file, place(2) + 10)
    follow.w.proxy.rule(fp.drip(ON_DISK // 3, 1.2), path="model.tbenc$", range=f"^bytes={place(2)}-")
    follow.deliver()
    wait_for(lambda: (follow.rig.run / "tb-decrypt/repair").exists(), what="the call")
    extended = []
    while follow.load.running() and not follow.rig.out.exists():
        rc, hydrate = follow.w.run()
        extended += hydrate.notify_values("EXTEND_TIMEOUT_USEC")
        assert rc == 0
    assert follow.is_whole() and len(extended) >= 2 and set(extended) == {"120000000"}


HEADER = {"magic": 0, "version": 9, "chunk_bytes": 12, "nonce": 17, "reserved": 31}


def headers_fetched(follow):
    return follow.w.proxy.count(path="model.tbenc$", range="^bytes=0-31$")


@pytest.mark.parametrize("written", [False, True], ids=["rotted", "written over"])
@pytest.mark.parametrize("field", HEADER)
def test_a_bad_header_is_fetched_alone(follow, field, written):
    """Where it still reads as one, with another nonce, all records look bad."""
    assert follow.w.run()[0] == 0
    rot(follow.house.file, HEADER[field])
    if written:
        os.utime(follow.house.file)
        assert follow.house.hydrate() == (0, 0) and "was written to" in follow.w.log()
    before = follow.w.sent()
    follow.deliver()
    wait_for(lambda: (follow.rig.run / "tb-decrypt/repair").exists(), what="the call")
    while follow.load.running() and not follow.rig.out.exists():
        assert follow.w.run()[0] == 0
    assert follow.is_whole()
    assert follow.w.sent() - before == 32 and headers_fetched(follow) == 1
    assert "fetching the header once more" in follow.w.log() and "the header of model.tbenc, 32 bytes at 0, is damaged" in follow.decrypt.log_text()
    assert follow.house.hydrate() == (0, 0)


@pytest.mark.parametrize("record", [0, 3])
def test_the_header_and_a_record_are_fetched_alone(follow, record):
    assert follow.w.run()[0] == 0
    rot(follow.house.file, HEADER["nonce"])
    rot(follow.house.file, place(record) + 10)
    before = follow.w.sent()
    follow.deliver()
    while follow.load.running() and not follow.rig.out.exists():
        assert follow.w.run()[0] == 0
    assert follow.is_whole()
    assert follow.w.sent() - before == 32 + ON_DISK


def test_a_header_that_came_wrong_is_mended_behind_the_download(follow):
    follow.w.proxy.rule(fp.corrupt(HEADER["nonce"]), path="model.tbenc$", range="^bytes=0-", nth=1)
    follow.close_gate(40)
    comes_whole(follow)
    # The first record came alone, and was doubted first.
    assert headers_fetched(follow) == 1 and follow.w.sent() <= len(follow.w.data) + 32 + 3 * ON_DISK


def test_a_view_reads_on_when_the_header_was_bad(follow):
    assert follow.w.run()[0] == 0
    rot(follow.house.file, HEADER["nonce"])
    follow.load = follow.rig.probe(mode="view")
    follow.decrypt = follow.rig.decrypt(follow.house.asset)
    follow.decrypt.start(), follow.load.start()
    while follow.load.running() and not follow.rig.out.exists():
        assert follow.w.run()[0] == 0
    facts = follow.rig.facts()
    assert facts["files"]["model"][0] == hashlib.sha256(follow.house.asset.plain).hexdigest()
    assert headers_fetched(follow) == 1


def test_a_header_that_the_source_has_wrong_ends_it(follow):
    assert follow.w.run()[0] == 0
    data = bytearray(follow.w.data)
    data[HEADER["nonce"]] ^= 4
    follow.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(data)
    rot(follow.house.file, HEADER["nonce"])
    follow.deliver()
    while follow.load.running():
        follow.w.run()
    assert follow.decrypt.wait() == 76 and follow.load.wait() == 76
    assert ": not authentic" in follow.load.log_text() and not follow.rig.leftovers()


def test_a_record_that_stays_bad_ends_it_by_name(follow):
    """The source has it wrong: three tries, and the chunk is named."""
    data = bytearray(follow.w.data)
    data[place(2) + 50] ^= 8
    follow.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(data)
    follow.close_gate(40)
    follow.hydrate()
    follow.deliver()
    assert follow.decrypt.wait(40) == 76 and follow.load.wait() == 76
    assert "chunk 2" in follow.load.log_text() and fetched_alone(follow, 2) == 3
    assert not follow.rig.out.exists() and not follow.rig.leftovers()


BEGINS = r"""
import pathlib, sys
pathlib.Path(sys.argv[2]).write_text("begun")
with open(sys.argv[1], "rb") as f:
    while f.read(65536):
        pass
"""


@pytest.mark.parametrize("record", [0, 5])
def test_a_view_is_not_given_on_what_is_known_to_be_damaged(follow, record):
    """A runtime that dies of it is started again: not on the same, but told by name. The first record is looked at before any of it."""
    assert follow.w.run()[0] == 0
    rot(follow.house.file, place(record) + 10)
    bad = bytearray(follow.w.data)
    bad[place(record) + 50] ^= 8
    follow.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(bad)

    def start():
        """The runtime's exit status, and whether it was started at all."""
        follow.rig.out.unlink(missing_ok=True)
        load = follow.rig.load("view", f"{sys.executable} {follow.rig.script('begins.py', BEGINS)} {{model}} {follow.rig.out}")
        decrypt = follow.rig.decrypt(follow.house.asset).start()
        load.start()
        while load.running():
            follow.w.run()  # as its unit is started by tb-wish.path
        assert decrypt.wait() == 76, decrypt.log_text()
        return load.wait(), follow.rig.out.exists(), load.log_text()
    if record > 0:
        status, begun, _ = start()
        assert begun and status not in (0, 76)
    status, begun, said = start()
    assert (status, begun) == (76, False) and f"chunk {record}: not authentic" in said, said


def test_another_place_mends_what_one_has_wrong(follow):
    good = follow.w.data
    bad = bytearray(good)
    bad[place(2) + 50] ^= 8
    follow.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(bad)
    follow.w.server.blobs["/models/tiny-model/again.tbenc"] = good
    follow.w.credentials = {**follow.w.credentials, "sas-url": follow.w.url("model.tbenc") + b"\n" + follow.w.url("again.tbenc"),
                            "manifest-url": follow.w.url("model.manifest.json") + b"\n" + follow.w.url("model.manifest.json")}
    follow.close_gate(40)
    comes_whole(follow)
    assert follow.w.proxy.count(path="again.tbenc$") == 1


@pytest.mark.parametrize("text", ["", "{", '{"sha256":"' + "0" * 64 + '","ranges":[{"offset":0,"bytes":9}]}',
                                  '{"sha256":"%s","ranges":[{"offset":9007199254740991,"bytes":9007199254740991,"record":1,"seen":1}]}',
                                  '{"sha256":"%s","ranges":[{"offset":1,"bytes":99999999,"record":1,"seen":0}]}'])
def test_foreign_wishes_do_no_harm(follow, text):
    wishes = follow.rig.run / "tb-decrypt"
    wishes.mkdir()
    (wishes / "want.json").write_text(text.replace("%s", follow.house.asset.manifest_text().decode().split('sha256_ciphertext": "')[1][:64]))
    assert follow.w.run()[0] == 0
    assert follow.w.sent() == len(follow.w.data)
    assert follow.house.hydrate() == (0, 0)
