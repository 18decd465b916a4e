# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate's downloads when nothing goes wrong, what it leaves alone, and machines without the room for one."""

import os
import subprocess
import threading

import pytest

import faultproxy as fp
from hydrate_world import ASSET, CHUNK, SLOTS, ca, manifest_with, seal, w  # noqa: F401
from tbsys import wait_for


# -- the plain cases ---------------------------------------------------------------------------------------------------

def test_downloads_once(w):
    rc, d = w.run()
    assert rc == 0, w.log()
    w.assert_complete()
    assert d.ready == "1"
    assert (w.target / "model.tbenc").stat().st_mode & 0o777 == 0o640
    ranges = w.ranges()
    assert w.sent() == len(w.data)
    assert "If-Match" not in ranges[0].headers
    assert len(ranges) == -(-len(w.data) // CHUNK) and all("If-Match" in r.headers for r in ranges[1:])

    w.proxy.clear()
    rc, d = w.run()
    assert rc == 0 and d.ready == "1"
    w.assert_complete()
    assert not w.ranges()
    assert "nothing to download" in w.log()


@pytest.mark.parametrize("size", [0, 1, 65536, 65536 * 2])
def test_sizes(w, size):
    w.put(*seal(size))
    assert w.run()[0] == 0, w.log()
    w.assert_complete()


def test_one_range_for_the_whole_file(w):
    rc, _ = w.run(TB_DOWNLOAD_CHUNK_BYTES=67108864)
    assert rc == 0 and len(w.ranges()) == 1
    w.assert_complete()


def asked(w):
    return [tuple(map(int, r.range.removeprefix("bytes=").split("-"))) for r in w.ranges()]


def test_requests_get_smaller_near_the_end(w):
    """So that all connections end together, and who reads behind them has little left to do."""
    w.put(*seal(32 << 20, chunk_bytes=1 << 20))
    assert w.run(TB_DOWNLOAD_CHUNK_BYTES=8 << 20)[0] == 0
    w.assert_complete()
    parts = sorted(asked(w))
    assert all(a[1] + 1 == b[0] for a, b in zip(parts, parts[1:])) and (parts[0][0], parts[-1][1]) == (0, len(w.data) - 1)
    assert max(b - a + 1 for a, b in parts[:2]) >= 4 << 20 and all(b - a < 1 << 20 for a, b in parts[-SLOTS:]), parts


def test_what_came_of_a_request_is_kept_over_a_kill(w):
    w.put(*seal(6 << 20))
    w.proxy.rule(fp.cut(5 << 19), path="model.tbenc$", nth=1)
    w.proxy.rule(fp.swallow(), path="model.tbenc$")
    env = {"TB_DOWNLOAD_CHUNK_BYTES": 8 << 20, "TB_DOWNLOAD_CONCURRENCY": 1}
    d = w.start(**env)
    live = w.target / "model.tbenc.part.live"
    wait_for(lambda: live.exists() and live.read_bytes()[256:259] == b"\x01\x01\x00", what="two ranges of the request")
    d.kill()
    assert asked(w)[0] == (0, len(w.data) - 1), "it was one request"
    w.proxy.clear()
    assert w.run(**env)[0] == 0
    assert asked(w) == [(2 << 20, len(w.data) - 1)]
    w.assert_complete()


def test_what_came_of_a_request_that_broke_off_can_be_read_before_the_next(w):
    w.put(*seal(6 << 20))
    n = len(w.data)
    head = {"ETag": w.server.etag(w.data), "Content-Range": f"bytes 0-{n - 1}/{n}", "Retry-After": "25"}
    w.proxy.rule(fp.status(206, head, w.data[:(2 << 20) + 1]), path="model.tbenc$", nth=1)
    d = w.start(TB_DOWNLOAD_CHUNK_BYTES=8 << 20, TB_DOWNLOAD_CONCURRENCY=1)
    live = w.target / "model.tbenc.part.live"
    wait_for(lambda: "again in" in w.log(), what="a request that broke off")
    wait_for(lambda: live.read_bytes()[256:259] == b"\x01\x01\x00", what="two ranges of it")
    assert len(w.ranges()) == 1
    d.kill()


def test_a_server_that_gives_only_the_whole_is_asked_for_it_again(w):
    class Whole(w.server.RequestHandlerClass):
        def do_GET(self):
            del self.headers["Range"]
            super().do_GET()

    w.server.RequestHandlerClass = Whole
    w.put(*seal(6 << 20))
    w.proxy.rule(fp.cut(5 << 19), path="model.tbenc$", nth=1)
    assert w.run(TB_DOWNLOAD_CHUNK_BYTES=8 << 20, TB_DOWNLOAD_CONCURRENCY=1)[0] == 0, w.log()
    w.assert_complete()
    assert [r.status for r in w.ranges()] == [200] * 3


def test_unknown_complete_file_is_hashed_and_kept(w):
    assert w.run()[0] == 0
    (w.target / "model.tbenc.verified.json").unlink()
    w.proxy.clear()
    assert w.run()[0] == 0
    assert not w.ranges()
    w.assert_complete()


def test_damaged_complete_file_is_fetched_again(w):
    assert w.run()[0] == 0
    with open(w.target / "model.tbenc", "r+b") as f:
        f.seek(1_000_000)
        f.write(b"\0")
    w.proxy.clear()
    assert w.run()[0] == 0
    assert w.sent() == len(w.data)
    w.assert_complete()


def test_new_version_replaces_the_old_one(w):
    assert w.run()[0] == 0
    w.put(*seal(3_000_001, seed=2))
    assert w.run()[0] == 0
    w.assert_complete()


def test_foreign_files_stay(w):
    w.target.mkdir()
    (w.target / "notes.txt").write_text("mine")
    assert w.run()[0] == 0
    assert (w.target / "notes.txt").read_text() == "mine"


def test_second_instance_waits_its_turn(w):
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$")
    first = w.start()
    w.proxy.wait(1, path="model.tbenc$")
    rc, _ = w.run()
    assert rc == 75 and "another tb-hydrate" in w.log()
    go.set()
    assert first.wait() == 0
    w.assert_complete()


# -- this machine --------------------------------------------------------------------------------------------------------

@pytest.fixture(name="small")
def _small(w, request):
    w.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", w.target], check=True)
    yield w
    for d in w.daemons:
        d.kill()
    subprocess.run(["umount", w.target], check=True)


@pytest.mark.parametrize("small", ["size=65m"], indirect=True)
def test_disk_too_small(small):
    w = small
    rc, _ = w.run()
    w.assert_failed(rc, 74, "not enough disk space", str(w.target), str(len(w.data) + 64 * 1024 * 1024), "65.0 MiB")
    assert not w.ranges() and w.files() == []


@pytest.mark.parametrize("small", ["size=100m,nr_inodes=6"], indirect=True)
def test_disk_fills_while_downloading(small):
    """No inode is left for the next record: what is finished stays, and counts once there is room."""
    w = small
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$", nth=range(9, 1000))
    d = w.start()
    w.proxy.wait(9, path="model.tbenc$")
    wait_for(lambda: "model.tbenc.part.live" in w.files(), 20, "the download's files")
    fillers, k = [], 0
    while True:
        try:
            (w.target / ("filler%d" % k)).touch()
            fillers.append(w.target / ("filler%d" % k))
            k += 1
        except OSError:
            break
    go.set()
    assert fillers and d.wait() == 74, w.log()
    assert "No space left" in w.log() and str(w.target) in w.log()
    for f in fillers:
        f.unlink()
    assert w.run()[0] == 0, w.log()
    assert (w.target / "model.tbenc").read_bytes() == w.data
    assert w.sent() <= len(w.data) + SLOTS * CHUNK


def test_too_little_memory_or_disk_for_the_model(w):
    w.server.blobs["/models/%s/model.manifest.json" % ASSET] = manifest_with(w, plaintext_bytes=2**50)
    rc, _ = w.run(TB_DELIVERY="dir")
    w.assert_failed(rc, 74, "not enough memory", str(2**50), "TB_DELIVERY=dir")
    for other in ({}, {"TB_DELIVERY": "fifo"}):  # a view, which is what comes by itself, needs no memory for it
        rc, _ = w.run(**other)
        w.assert_failed(rc, 74, "not enough disk space")
    assert not w.ranges()


def test_target_that_cannot_be_made(w):
    w.target.write_text("a file")
    rc, _ = w.run()
    w.assert_failed(rc, 74, str(w.target))


@pytest.mark.parametrize("threads,busy", [(1, 1), (2, 2), (3, 3), (9, SLOTS)])
def test_connections_are_dealt_to_the_threads(w, threads, busy):
    """TB_DOWNLOAD_CONCURRENCY is the total, however many threads have them; no thread without a connection."""
    gate = threading.Event()
    w.proxy.rule(fp.hold(gate), path="model.tbenc$", nth=range(2, 1000))
    d = w.start(TB_DOWNLOAD_THREADS=threads)
    w.proxy.wait(1 + SLOTS - 1, path="model.tbenc$")
    # The saver of the record, the hasher, and those that download.
    wait_for(lambda: len(os.listdir(f"/proc/{d.pid}/task")) == busy + 2, what="threads")
    assert len(w.ranges()) <= 1 + SLOTS
    gate.set()
    assert d.wait(60) == 0, w.log()
    w.assert_complete()
    assert w.sent() == len(w.data) and len(w.ranges()) == -(-len(w.data) // CHUNK)
