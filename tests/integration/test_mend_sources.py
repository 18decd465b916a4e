# SPDX-License-Identifier: Apache-2.0
"""Where a record comes from once more: from place to place, by the blob's tag, and past answers that do not come."""

import random

import pytest

import faultproxy as fp
from delivery_asset import Asset
from delivery_house import house, rot  # noqa: F401
from delivery_rig import NO_MOUNT, rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from tbsys import read_json, wait_for
from test_follow import RECORD, SIZE
from test_mend import ON_DISK, fetched_alone, follow, place  # noqa: F401

AT = 2  # the record


@pytest.fixture
def rotten(follow):  # noqa: F811
    assert follow.w.run()[0] == 0
    rot(follow.house.file, place(AT) + 10)
    follow.w.proxy.clear()
    return follow


def spoiled(data, record=AT):
    data = bytearray(data)
    data[place(record) + 50] ^= 8
    return bytes(data)


def in_places(follow, *blobs):  # noqa: F811
    """The asset at so many places of one account."""
    names = ["model.tbenc", *(f"place{i}.tbenc" for i in range(1, len(blobs)))]
    follow.w.server.blobs.update({f"/models/tiny-model/{name}": data for name, data in zip(names, blobs)})
    follow.w.credentials = {**follow.w.credentials, "sas-url": b"\n".join(follow.w.url(name) for name in names),
                            "manifest-url": b"\n".join([follow.w.url("model.manifest.json")] * len(names))}


def mends(follow):  # noqa: F811
    """With tb-hydrate started for each call, as tb-wish.path does."""
    follow.deliver()
    wait_for(lambda: (follow.rig.run / "tb-decrypt/repair").exists(), what="the call")
    while follow.load.running() and not follow.rig.out.exists():
        assert follow.w.run()[0] == 0
    return follow.is_whole()


def mends_nothing(follow, leaves=None):  # noqa: F811
    """The same, and it does not help. A start after tb-decrypt has ended is no try: the file is known to be damaged by then."""
    while follow.load.running():
        if follow.w.run()[0] != 0:
            assert follow.decrypt.wait() == 76, follow.w.log()
        else:
            assert leaves is None or follow.house.file.read_bytes() == leaves
    return follow.decrypt.wait() == 76


# The third try must have come within 30 s, and each is a start of tb-hydrate.
@pytest.mark.parametrize("good", [0, 1, pytest.param(2, marks=pytest.mark.alone)])
def test_whichever_place_has_the_record_right_is_asked(rotten, good):
    data = rotten.w.data
    in_places(rotten, *(data if i == good else spoiled(data) for i in range(3)))
    assert mends(rotten)
    asked = [rotten.w.proxy.count(path=f"{name}.tbenc$") for name in ("model", "place1", "place2")]
    assert asked == {0: [1, 1, 0], 1: [0, 1, 0], 2: [1, 1, 1]}[good]
    assert "is damaged" not in rotten.w.log() and rotten.house.hydrate() == (0, 0)


@pytest.mark.parametrize("good", range(3))
def test_and_behind_a_download(follow, good):  # noqa: F811
    """Where the first place is right there is nothing to mend."""
    data = follow.w.data
    in_places(follow, *(data if i == good else spoiled(data) for i in range(3)))
    follow.close_gate(40)
    hydrate = follow.hydrate()
    follow.deliver()
    follow.wait_decrypted(36 * 256 * 1024)
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()
    assert [follow.w.proxy.count(path=f"place{i}.tbenc$") for i in (1, 2)] == [[0, 0], [1, 0], [1, 1]][good]


def test_places_that_give_nothing_are_passed_by(rotten):
    """The account of the download and another are down: the third has its turn."""
    in_places(rotten, *[rotten.w.data] * 3)
    rotten.w.proxy.rule(fp.status(503), path="model.tbenc$")
    rotten.w.proxy.rule(fp.status(404), path="place1.tbenc$")
    assert mends(rotten) and rotten.w.proxy.count(path="place2.tbenc$") == 1


@pytest.mark.alone
def test_a_record_that_does_not_come_ends_no_download(follow):  # noqa: F811
    """Its requests have less time than others, and the reader gives it up; ranges go on."""
    follow.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range="^bytes=262144-", nth=1)
    follow.w.proxy.rule(fp.status(503), path="model.tbenc$", range=f"^bytes={place(0)}-{place(1) - 1}$")
    follow.close_gate(40)
    hydrate = follow.hydrate()
    follow.deliver()
    assert follow.decrypt.wait(60) == 76 and hydrate.running(), follow.w.log()
    assert fetched_alone(follow, 0) > 6
    follow.gate.set()
    assert hydrate.wait() == 0


@pytest.mark.parametrize("wrong", ["another range", 304, 404, 416, 501])
def test_a_record_that_is_answered_wrongly_ends_no_download(follow, wrong):  # noqa: F811
    """A range that is answered so ends it, as the next will be. A record is one of many, and whoever waits for it hears so."""
    follow.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range="^bytes=262144-", nth=1)
    answer = fp.headers({"Content-Range": f"bytes 0-{ON_DISK - 1}/{len(follow.w.data)}"}) if wrong == "another range" else fp.status(wrong)
    follow.w.proxy.rule(answer, path="model.tbenc$", range=f"^bytes={place(0)}-{place(1) - 1}$", nth=range(1, 4))
    follow.close_gate(40)
    hydrate = follow.hydrate()
    follow.deliver()
    wait_for(lambda: fetched_alone(follow, 0) > 3 or not hydrate.running(), what="the fourth request")
    assert hydrate.running(), follow.w.log()
    follow.gate.set()
    assert hydrate.wait() == 0 and follow.is_whole()


@pytest.mark.alone
@pytest.mark.parametrize("places", [1, 2])
def test_an_answer_that_does_not_come_is_not_waited_for_until_the_end(rotten, places):
    """A reader waits for 30 s: an answer that is silent may not use them up."""
    in_places(rotten, *[rotten.w.data] * places)
    rotten.w.proxy.rule(fp.swallow(), path="model.tbenc$|place1.tbenc$", range=f"^bytes={place(AT)}-", nth=1)
    assert mends(rotten)
    assert [rotten.w.proxy.count(path=p) for p in ("model.tbenc$", "place1.tbenc$")] == [[2, 0], [1, 1]][places - 1]


@pytest.mark.alone
def test_an_answer_that_asks_for_more_time_than_there_is(rotten):
    rotten.w.proxy.rule(fp.status(503, {"Retry-After": "40"}), path="model.tbenc$", nth=1)
    assert mends(rotten) and fetched_alone(rotten, AT) == 2


def asked_with(follow):  # noqa: F811
    return [r.headers.get("If-Match") for r in follow.w.proxy.select(path="model.tbenc$")]


def test_a_record_of_a_complete_file_is_asked_for_by_the_tag_that_it_came_with(rotten):
    tag = rotten.w.server.etag(rotten.w.data)
    assert read_json(rotten.house.file.with_name("model.tbenc.verified.json"))["etag"] == tag
    assert mends(rotten) and asked_with(rotten) == [tag]
    assert read_json(rotten.house.file.with_name("model.tbenc.verified.json"))["etag"] == tag


@pytest.mark.parametrize("same", [True, False])
def test_a_blob_that_was_replaced_since(rotten, same):
    """By the same bytes, as a copy of an account has them: they are right. By others, of the same size: that is told."""
    tag = rotten.w.server.etag(rotten.w.data)
    rotten.w.proxy.rule(fp.status(412), path="model.tbenc$", nth=1)
    if same:
        assert mends(rotten) and asked_with(rotten) == [tag, None, tag], "its header is compared, and then it is held to its own tag"
        return
    rotten.w.server.blobs["/models/tiny-model/model.tbenc"] = spoiled(rotten.w.data)
    rotten.deliver()
    assert mends_nothing(rotten) and f"chunk {AT}: not authentic" in rotten.load.log_text()
    assert "model.tbenc was replaced since the download" in rotten.w.log()


@pytest.mark.parametrize("rots", [False, True], ids=["sound", "header rotten"])
def test_a_wrong_key_takes_nothing_from_another_encryption(follow, rots):  # noqa: F811
    """All records look bad to who has the wrong key, and none of the new blob's is right for the file."""
    assert follow.w.run()[0] == 0
    if rots:
        rot(follow.house.file, 20)
    before, other = follow.house.file.read_bytes(), Asset(random.Random(13).randbytes(SIZE), chunk_bytes=RECORD)
    follow.w.put(other.ciphertext(), follow.house.asset.manifest_text())
    follow.load, follow.decrypt = follow.rig.probe(wrapper=NO_MOUNT), follow.rig.decrypt(follow.house.asset, key=b"w" * 32)
    follow.decrypt.start(), follow.load.start()
    assert mends_nothing(follow, leaves=before)
    assert "is not the encryption that it was" in follow.w.log()


def test_a_header_comes_from_the_same_blob_that_was_uploaded_again(follow):  # noqa: F811
    """It has another tag by then, and the header that is there is not its own; its records are."""
    assert follow.w.run()[0] == 0
    rot(follow.house.file, 20)
    follow.w.proxy.clear()
    follow.w.proxy.rule(fp.status(412), path="model.tbenc$", nth=1)
    assert mends(follow)


def test_a_wish_without_its_try_is_one(rotten):
    """Of a tb-decrypt that was started before there was one, and runs on."""
    rotten.deliver()
    wanted = rotten.rig.run / "tb-decrypt/want.json"
    wait_for(wanted.exists, what="the wish")
    old = wanted.read_text().replace(',"try":1', "")
    assert old != wanted.read_text()
    wanted.write_text(old)
    while rotten.load.running() and not rotten.rig.out.exists():
        assert rotten.w.run()[0] == 0
    assert rotten.is_whole()
