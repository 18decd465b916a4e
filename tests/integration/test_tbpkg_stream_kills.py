# SPDX-License-Identifier: Apache-2.0
"""tbpkg encrypt --upload against a real Azurite: the straight way, and killed at each point of it."""

import json
import os
import subprocess
import threading

import pytest

from faultproxy import hold, lose_reply, status, swallow
from stream_place import BLOCK, COMMIT, MANIFEST, N_BLOCKS, PUT_BLOCK, azurite, place  # noqa: F401
from tbpkg_local import open_by_hand


# -- the straight way --------------------------------------------------------------------------------------------------

def test_sealed_into_the_service_and_nothing_here(place):
    r = place.report()
    assert "encrypted_file" not in r and not list(place.dir.rglob("*.tbenc"))
    assert place.check_stored() == r["key_id"] and list(place.key_files()) == [r["key_id"]]
    assert place.proxy.count(**PUT_BLOCK) == N_BLOCKS and r["upload"]["ciphertext"]["bytes_sent"] == len(place.blob())
    assert place.journal.stat().st_mode & 0o777 == 0o600 and place.journal.stat().st_size < 3000 + 120 * N_BLOCKS
    assert place.key_files()[r["key_id"]].hex() not in place.journal.read_text()
    place.proxy.clear()
    again = place.report()
    assert place.proxy.select(method="PUT") == [] and again["sha256_ciphertext"] == r["sha256_ciphertext"]


def test_the_same_ciphertext_as_a_file_has(place):
    """One format: what was sealed on the way is what a file would hold, under the same key and nonce."""
    place.report()
    m = json.loads(place.manifest.read_text())
    data, key = place.blob(), next(iter(place.key_files().values()))
    assert open_by_hand(data, m, key) == place.plain() and m["weights_filename"] == "model.tbenc"
    assert [f["path"] for f in m["files"]] == ["a.bin", "b.bin", "config.json"]


def test_one_file_and_one_block(place):
    big = place.model
    place.model = big / "a.bin"
    place.report("--block-bytes", "8M")
    assert place.proxy.count(**PUT_BLOCK) == 1
    m = json.loads(place.manifest.read_text())
    assert open_by_hand(place.blob(), m, place.key_files()[m["key_id"]]) == place.model.read_bytes() and "files" not in m


@pytest.mark.parametrize("words, says", [(["-k", "-"], "--upload needs --key-out"), (["-o", "x"], "leave --out away"),
                                         (["-C", "X"], "--container"), (["-k", "age:"], "needs a recipient")])
def test_usage(place, words, says):
    r = place.run(*words, rc=2)
    assert says in r.stderr and place.proxy.requests == []


def test_a_stream_cannot_be_read_again(place):
    os.mkfifo(place.dir / "fifo")
    place.model = place.dir / "fifo"
    fd = os.open(place.dir / "fifo", os.O_RDWR)
    r = place.run(rc=1)
    os.close(fd)
    assert "is a stream" in r.stderr and not place.key_files()


# -- killed ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", range(1, N_BLOCKS + 1))
def test_killed_at_each_block_and_continued(place, n):
    assert place.killed(n, PUT_BLOCK) == -9
    assert place.blob() is None and not place.manifest.exists()
    (key,) = place.key_files()
    r = place.report()
    assert place.check_stored() == r["key_id"] == key, "the same key"
    assert r["upload"]["ciphertext"]["bytes_resumed"] >= (n - 3) * BLOCK
    place.check_sent()


@pytest.mark.parametrize("at", [COMMIT, MANIFEST], ids=["commit", "manifest"])
@pytest.mark.parametrize("how", [swallow, lose_reply], ids=["asked", "done"])
def test_killed_at_the_end(place, at, how):
    """Nothing is read again: all is there."""
    gate = threading.Event()
    if how is swallow:
        assert place.killed(1, at) == -9
    else:  # the service has done it, and the answer is held back
        place.proxy.rule(hold(gate), **{"method": "HEAD", "path": "never"})
        place.proxy.rule(lose_reply(), nth=1, **at)
        place.proxy.rule(swallow(), nth=range(2, 100), **at)
        p = subprocess.Popen(place.argv("-q"), env=place.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place.proxy.wait(2, **at)
        p.kill()
        p.wait()
        place.proxy.clear_rules()
    puts = place.proxy.count(**PUT_BLOCK)
    assert puts == N_BLOCKS
    (place.model / "a.bin").chmod(0o000)  # root reads it all the same; what counts is that it is not sent
    (place.model / "a.bin").chmod(0o644)
    place.run()
    assert place.proxy.count(**PUT_BLOCK) in (puts, 2 * puts)
    place.check_stored()
    place.check_sent()
    assert len(place.key_files()) == 1


def test_nothing_is_read_again_when_all_is_there(place):
    """The commit failed, hours later it works: no byte is sealed or sent twice."""
    place.proxy.rule(status(403), **COMMIT)
    place.run(rc=4)
    place.proxy.clear_rules()
    puts = place.proxy.count(**PUT_BLOCK)
    r = place.report()
    assert place.proxy.count(**PUT_BLOCK) == puts and r["seconds"] == 0 and r["upload"]["ciphertext"]["bytes_resumed"] == len(place.blob())
    place.check_stored()
