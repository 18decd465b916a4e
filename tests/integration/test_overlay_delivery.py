# SPDX-License-Identifier: Apache-2.0
"""A version that stands on another is delivered as one tree, from two ciphertexts; and whatever is wrong with either stops it."""

import hashlib
import os
import pathlib
import random
import struct

import pytest

import tbsys
from delivery_asset import flip
from delivery_rig import both, expected, rig  # noqa: F401
from overlay_asset import Overlay, whole

BASE = {"chat_template.jinja": b"old" * 100, "config.json": b'{"a": 1}\n', "empty": b"", "gone.txt": b"not wanted any more" * 300,
        "sub/weights.bin": random.Random(1).randbytes(300_001), "tokenizer.json": b"t" * 9000}
# one changed, one left out, one moved, one added, one whose permissions changed, an empty one
TREE = {"chat_template.jinja": b"new" * 5000, "config.json": BASE["config.json"], "empty": b"", "moved/weights.bin": BASE["sub/weights.bin"],
        "new.json": b"{}", "tokenizer.json": BASE["tokenizer.json"]}
# Of a range map: where its state is, and two of these.
STATE_AT, COMING, ABANDONED = 132, 1, 3
MODES = {"config.json": 0o600, "moved/weights.bin": 0o755}
SEALED = {**dict.fromkeys(TREE, "0o444"), "config.json": "0o400", "moved/weights.bin": "0o555"}


def lay(rig, tree=TREE, base=BASE, **kw):
    under = whole(base)
    over = Overlay(under, tree, modes=MODES, **kw)
    over.write(rig.target)
    under.write(rig.target / ".base")
    return over


def test_one_tree_of_two_ciphertexts(rig):
    over = lay(rig)
    assert len(over.ciphertext()) < 17_000 and {e["path"] for e in over.manifest["files"]} == {"chat_template.jinja", "empty", "new.json"}
    rig.stay.touch()
    decrypt = both(rig, over, rig.probe())
    facts = rig.facts()
    assert decrypt.wait() == 0
    assert facts["files"] == expected(TREE, SEALED)
    size = sum(map(len, TREE.values()))
    assert (rig.progress()["state"], rig.progress()["bytes_done"], rig.progress()["bytes_total"]) == ("complete", size, size)


def test_one_view_of_two_ciphertexts(rig):
    over = lay(rig)
    rig.stay.touch()
    decrypt = both(rig, over, rig.probe(mode="view"))
    assert rig.facts()["files"] == expected(TREE, SEALED)
    tbsys.wait_for(lambda: rig.progress()["state"] == "complete", what="both verified")
    rig.stay.unlink()
    assert decrypt.wait() == 0


@pytest.mark.parametrize("damage", ["base", "own"])
def test_a_view_of_a_damaged_layer_ends_and_names_it(rig, damage):
    over = lay(rig)
    rig.stay.touch()
    path = rig.target / (".base" if damage == "base" else ".") / over.name
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    load = rig.probe(mode="view")
    decrypt = both(rig, over, load)
    assert decrypt.wait() == 76
    assert load.wait() != 0
    assert (".base/" in rig.progress()["reason"]) == (damage == "base")
    assert rig.progress()["damaged"]["inode"] == path.stat().st_ino


def test_a_stream_of_two_ciphertexts(rig):
    over = lay(rig)
    load = rig.reader()
    decrypt = both(rig, over, load)
    assert load.wait() == 0 and decrypt.wait() == 0
    plain = b"".join(data for _, data in sorted(TREE.items(), key=lambda kv: kv[0].encode()))
    assert rig.out.read_text() == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("tree", [{"only": BASE["sub/weights.bin"]}, {"all": b"new"}], ids=["carries-nothing", "takes-nothing"])
def test_the_ends(rig, tree):
    over = lay(rig, tree)
    both(rig, over, rig.probe())
    assert rig.facts()["files"] == expected(tree, dict.fromkeys(tree, "0o444"))


def damaged_record(rig, over):
    flip(over.base, 1, 5)
    over.base.write(rig.target / ".base")


def damaged_record_that_nobody_takes(rig, over):
    entry = next(e for e in over.base.manifest["files"] if e["path"] == "gone.txt")
    flip(over.base, entry["chunk"], 5)
    over.base.write(rig.target / ".base")


def another_key(rig, over):
    whole(BASE).write(rig.target / ".base")


def replaced(rig, over):
    whole({**BASE, "sub/weights.bin": b"\0" * 300_001}, key=over.key).write(rig.target / ".base")


def missing(rig, over):
    (rig.target / ".base" / "model.tbenc").unlink()


def no_manifest(rig, over):
    (rig.target / ".base" / "model.manifest.json").unlink()


def short(rig, over):
    os.truncate(rig.target / ".base" / "model.tbenc", 200_000)


def own_damage(rig, over):
    flip(over, 0, 3)
    text = (rig.target / "model.manifest.json").read_bytes()
    over.write(rig.target)
    (rig.target / "model.manifest.json").write_bytes(text)


def keep_manifest(damage):
    def do(rig, over):
        text = (rig.target / ".base" / "model.manifest.json").read_bytes()
        damage(rig, over)
        (rig.target / ".base" / "model.manifest.json").write_bytes(text)
    do.__name__ = damage.__name__
    return do


@pytest.mark.parametrize("damage,rc,words", [
    (keep_manifest(damaged_record), 76, ".base/model.tbenc: "),
    (another_key, 76, "not the one that the overlay was made for"), (replaced, 76, "not the one that the overlay was made for"),
    (keep_manifest(replaced), 76, ".base/model.tbenc: "), (missing, 66, "tb-hydrate has not finished"),
    (no_manifest, 66, "tb-hydrate has not finished"), (short, 76, "the manifest says"), (own_damage, 76, "model.tbenc: ")],
    ids=lambda v: v.__name__ if callable(v) else None)
@pytest.mark.parametrize("mode", ["dir", "fifo"])
def test_what_is_wrong_with_either_is_named_and_nothing_is_served(rig, damage, rc, words, mode):
    over = lay(rig)
    damage(rig, over)
    load = rig.probe() if mode == "dir" else rig.reader()
    decrypt = both(rig, over, load)
    assert decrypt.wait() == rc and words in decrypt.log_text()
    assert load.wait() not in (0, 7) and not rig.out.exists()
    p = rig.progress()
    assert p["state"] == "failed" and "damaged" in p
    assert rig.leftovers() == [] or mode == "fifo"


def test_a_record_that_nobody_takes_is_verified_too(rig):
    over = lay(rig)
    keep_manifest(damaged_record_that_nobody_takes)(rig, over)
    decrypt = both(rig, over, rig.probe())
    assert decrypt.wait() == 76 and ".base/model.tbenc: chunk" in decrypt.log_text()


def test_what_is_damaged_is_what_is_to_be_fetched_again(rig):
    """tb-decrypt names the file to tb-hydrate by its inode: of the base, when that is at fault."""
    over = lay(rig)
    keep_manifest(damaged_record)(rig, over)
    decrypt = both(rig, over, rig.probe())
    assert decrypt.wait() == 76
    assert rig.progress()["damaged"]["inode"] == (rig.target / ".base" / "model.tbenc").stat().st_ino


def half_a_download(asset, place):
    """Of what there is of it only the first half has come. Returns its map (docs/contracts.md)."""
    data = asset.ciphertext()
    asset.write(place)
    os.rename(place / "model.tbenc", place / "model.tbenc.part")
    chunk = 1 << 16
    n, half = -(-len(data) // chunk), len(data) // chunk // 2
    with open(place / "model.tbenc.part", "r+b") as f:
        f.seek(half * chunk)
        f.write(bytes(len(data) - half * chunk))
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    head = b"TBRANGE1" + boot + b"1" * 32 + hashlib.sha256(data).digest() + bytes(4) + struct.pack("<QQII", len(data), chunk, 1, COMING)
    live = place / "model.tbenc.part.live"
    live.write_bytes(head.ljust(256, b"\0") + bytes(i < half for i in range(n)))
    return live


@pytest.mark.parametrize("layer", ["own", "base"])
def test_a_download_of_either_that_is_given_up_ends_the_view(rig, layer):
    under = whole(BASE)
    over = Overlay(under, TREE, modes=MODES) if layer == "base" else under
    over.write(rig.target)
    live = half_a_download(under, rig.target / ".base" if layer == "base" else rig.target)
    file = "moved/weights.bin" if layer == "base" else "sub/weights.bin"
    load = rig.load("view", f"/bin/sh -c 'cat {{model}}/{file} > {rig.out}'")
    decrypt = both(rig, over, load)
    tbsys.wait_for(lambda: rig.out.exists() and rig.progress()["state"] == "serving", what="a reader that waits")
    with open(live, "r+b") as f:
        f.seek(STATE_AT)
        f.write(struct.pack("<I", ABANDONED))
    assert decrypt.wait() == 75 and load.wait() != 0
    assert f"{'.base/' if layer == 'base' else ''}model.tbenc was begun anew while it was read" in decrypt.log_text()
