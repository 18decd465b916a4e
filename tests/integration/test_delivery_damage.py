# SPDX-License-Identifier: Apache-2.0
"""Damaged ciphertexts and manifests that are hostile or not the contract's: none of it may reach the runtime as a whole."""

import hashlib
import random
import struct

import pytest

from delivery_asset import Asset, flip
from delivery_rig import FILES, NO_MOUNT, both, rig  # noqa: F401


def swap(a):
    a.records[1], a.records[2] = a.records[2], a.records[1]


def duplicate(a):
    a.records[3] = a.records[2]


def set_header(offset, value):
    def damage(a):
        a.header = a.header[:offset] + value + a.header[offset + len(value):]
    return damage


def cut_records(a):
    del a.records[5:]


def drop(a):
    del a.records[3]


def lie_about_length(a):
    a.records[2] = (a.records[2][0] - 1, a.records[2][1])


# name -> (damage, the chunk the message must name; None: no chunk is at fault)
DAMAGE = {
    "ciphertext": (lambda a: flip(a, 4, 100), 4),
    "tag": (lambda a: flip(a, 6, -1), 6),
    "first": (lambda a: flip(a, 0, 0), 0),
    "last": (lambda a: flip(a, len(a.records) - 1, 3), 9),
    "length": (lie_about_length, 2),
    "huge-length": (lambda a: a.records.__setitem__(2, (0xFFFFFFFF, a.records[2][1])), 2),
    "swap": (swap, 1),
    "duplicate": (duplicate, 3),
    "magic": (set_header(0, b"TBENC009"), None),
    "chunk-bytes": (set_header(11, struct.pack(">I", 8192)), None),
    "nonce": (set_header(15, b"abcd"), 0),
    "reserved": (set_header(31, b"\1"), None),
    "cut": (cut_records, None),
    "drop": (drop, None),
    "trailing": (lambda a: a.records.append((0, b"trailing bytes  ")), None),
    "tags-sha256": (lambda a: a.manifest.update(tags_sha256="00" * 32), None),
}


@pytest.mark.parametrize("mode", ["dir", "fifo"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_ciphertext(rig, kind, mode):
    damage, chunk = DAMAGE[kind]
    asset = Asset(random.Random(6).randbytes(10 * 4096 - 5))
    damage(asset)
    asset.write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT) if mode == "dir" else rig.reader()
    decrypt = rig.decrypt(asset)
    decrypt.start(), load.start()
    assert decrypt.wait() == 76 and load.wait() == 76
    if kind in ("cut", "drop", "trailing"):  # the size alone gives it away
        assert "bytes, the manifest says" in load.log_text()
    assert chunk is None or f"chunk {chunk}" in load.log_text(), load.log_text()
    assert rig.progress()["state"] == "failed" and rig.progress()["reason"]
    assert not rig.out.exists(), "the runtime saw an end"
    assert not rig.leftovers() and rig.delivery()["state"] == "failed"


def test_damage_deep_in_the_stream_kills_the_reader(rig):
    """The reader has seen a valid prefix; it must not live to see an end."""
    asset = Asset(bytes(8 << 20), chunk_bytes=1 << 18)
    flip(asset, 30, 5)
    asset.write(rig.target)
    load = rig.reader()
    decrypt = both(rig, asset, load)
    assert decrypt.wait() == 76 and load.wait() == 76 and "chunk 30" in load.log_text()
    assert not rig.out.exists() and not rig.leftovers()


def test_manifest_binding(rig):
    asset = Asset(FILES).write(rig.target)
    sha = hashlib.sha256(asset.manifest_text()).hexdigest()
    load = rig.probe(wrapper=NO_MOUNT)
    assert both(rig, asset, load, bound=sha).wait() == 0
    assert rig.facts() and load.wait() == 7
    decrypt = both(rig, asset, load, bound=sha.replace(sha[0], "0" if sha[0] != "0" else "1"))
    assert decrypt.wait() == 76 and load.wait() == 76 and "the contract names" in load.log_text()
    decrypt = both(rig, asset, load, bound="")
    assert decrypt.wait() == 77 and load.wait() == 77
    decrypt = both(rig, asset, load, bound="not a hash")
    assert decrypt.wait() == 78 and load.wait() == 78


def test_wrong_asset_id(rig):
    asset = Asset(FILES, asset_id="another").write(rig.target)
    load = rig.probe().start()
    assert load.wait() == 76 and "another" in load.log_text() and asset


@pytest.mark.parametrize("change, what", [
    ({"weights_filename": "../../escape.tbenc"}, "weights_filename"),
    ({"weights_filename": "/etc/shadow"}, "weights_filename"),
    ({"plaintext_bytes": 2 ** 53 + 1}, "plaintext_bytes"),
    ({"files": [{"path": "../out", "bytes": 9, "mode": "0644", "chunk": 0, "sha256": "00" * 32}]}, "path"),
])
def test_hostile_manifest(rig, change, what):
    asset = Asset(b"123456789")
    asset.manifest.update(change)
    rig.target.mkdir()
    (rig.target / "model.manifest.json").write_bytes(asset.manifest_text())
    load = rig.probe().start()
    assert load.wait() == 76 and what in load.log_text() and not rig.leftovers()
