# SPDX-License-Identifier: Apache-2.0
"""Delivery over the decrypt socket as a directory and as a FIFO: what arrives, for whom, and when the reader sees its end."""

import hashlib
import json
import os
import random
import signal
import stat
import sys
import time
import urllib.error
import urllib.request

import pytest

import tbsys
from delivery_asset import Asset
from delivery_rig import FIFO, FILES, NO_MOUNT, Server, both, expected, rig  # noqa: F401

STANDIN = tbsys.repo / "e2e-vagrant/runtime-standin.py"
MODES = {"config.json": 0o600, "sub/deeper/weights.bin": 0o755}
SEALED = {"config.json": "0o400", "empty": "0o444", "sub/deeper/weights.bin": "0o555", "sub/tokenizer.json": "0o444"}


# -- mode dir ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrapper", [(), NO_MOUNT], ids=["own-tmpfs", "given-tmpfs"])
def test_dir_delivers_a_tree(rig, wrapper):
    asset = Asset(FILES, modes=MODES).write(rig.target)
    rig.stay.touch()
    load = rig.probe(wrapper=wrapper)
    decrypt = both(rig, asset, load)
    facts = rig.facts()
    assert decrypt.wait() == 0
    assert facts["files"] == expected(FILES, SEALED)
    assert facts["argv"][1] == str(rig.model)
    assert rig.delivery()["state"] == "delivered" and rig.delivery()["mode"] == "dir"
    p = rig.progress()
    assert (p["state"], p["bytes_done"], p["bytes_total"]) == ("complete", len(asset.plain), len(asset.plain))
    assert "reason" not in p and "damaged" not in p
    ready = json.loads(rig.signal.read_text())
    assert ready["ready"] is True and ready["timestamp"].endswith("Z") and ready["sentinel_version"]
    if not wrapper:  # its own mount: nobody else sees it, and root cannot write to it either
        assert not list(rig.model.iterdir())
        assert facts["write"] == facts["create"] == "Read-only file system"
        mount = [line for line in facts["mounts"].splitlines() if f" {rig.model} " in line]
        assert len(mount) == 1 and " ro,nosuid,nodev,noexec" in mount[0] and "noswap" in mount[0]
    else:
        assert stat.S_IMODE(rig.model.stat().st_mode) == stat.S_IMODE((rig.model / "sub").stat().st_mode) == 0o500
    rig.stay.unlink()
    assert load.wait() == 7  # the runtime's own


def test_dir_delivers_a_single_file(rig):
    asset = Asset(b"x" * 100_000, name="tiny.gguf.tbenc").write(rig.target)
    both(rig, asset, rig.probe())
    facts = rig.facts()
    assert facts["argv"][1] == str(rig.model / "tiny.gguf")
    assert facts["files"]["tiny.gguf"][0] == hashlib.sha256(asset.plain).hexdigest()


def test_thousand_files_need_several_messages(rig):
    files = {f"d{i % 7}/f{i:04}": f"content {i}".encode() * (i % 5) for i in range(1003)}
    asset = Asset(files, chunk_bytes=1024).write(rig.target)
    few = ("sh", "-c", 'ulimit -Sn 64; exec "$0" "$@"')
    load, decrypt = rig.probe(wrapper=few), rig.decrypt(asset)
    decrypt.argv = [*few, *decrypt.argv]
    decrypt.start(), load.start()
    assert rig.facts()["files"] == expected(files, dict.fromkeys(files, "0o444"))


# -- mode fifo ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
def test_fifo_delivers(rig, size):
    asset = Asset(random.Random(size).randbytes(size)).write(rig.target)
    load = rig.reader()
    decrypt = both(rig, asset, load)
    assert load.wait() == 0 and decrypt.wait() == 0
    assert rig.out.read_text() == hashlib.sha256(asset.plain).hexdigest()
    assert rig.delivery()["state"] == "delivered" and not rig.leftovers()


def test_fifo_is_fresh_for_each_runtime_start(rig):
    asset = Asset(random.Random(3).randbytes(2_500_000)).write(rig.target)
    os.mkfifo(rig.pipe, 0o666)  # of an earlier run, and open to more than us
    for i in range(3):
        load = rig.reader(out=rig.tmp / f"hash{i}")
        decrypt = both(rig, asset, load)
        assert load.wait() == 0 and decrypt.wait() == 0
        assert (rig.tmp / f"hash{i}").read_text() == hashlib.sha256(asset.plain).hexdigest()


def test_fifo_mode_and_owner(rig):
    asset = Asset(b"x" * 10_000).write(rig.target)
    load = rig.load("fifo").start()  # nobody reads yet
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    st = rig.pipe.lstat()  # the signal never comes before the FIFO
    assert stat.S_ISFIFO(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600
    assert rig.decrypt(asset).start().wait() == 0  # fits the pipe: all is written before anybody reads
    assert load.running() and rig.delivery()["state"] == "delivering"
    assert rig.pipe.read_bytes() == asset.plain
    assert load.wait() == 0 and rig.delivery()["state"] == "delivered" and rig.signal.exists()


def test_second_reader_finds_no_fifo(rig):
    asset = Asset(random.Random(4).randbytes(4_000_000)).write(rig.target)
    load = rig.load("fifo").start()
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    first = open(rig.pipe, "rb", buffering=0)
    tbsys.wait_for(lambda: not rig.pipe.exists(), what="the path to go")
    with pytest.raises(FileNotFoundError):
        open(rig.pipe, "rb")
    rig.decrypt(asset).start()
    data = b""
    while d := first.read(1 << 20):
        data += d
    assert data == asset.plain and load.wait() == 0


def test_two_readers_at_once_are_noticed(rig):
    Asset(b"x" * 4096).write(rig.target)
    load = rig.load("fifo").start()
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    load.kill(signal.SIGSTOP)
    first = open(rig.pipe, "rb", buffering=0)
    second = open(rig.pipe, "rb", buffering=0)
    load.kill(signal.SIGCONT)
    assert load.wait() == 76 and "two readers" in load.log_text()
    first.close(), second.close()


def test_end_is_held_back_until_success_is_known(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    load = rig.load("fifo").start()
    server = Server(rig)
    assert (server.magic, server.mode, server.n) == (b"TBOPEN01", FIFO, 1)
    assert server.sha == hashlib.sha256(asset.manifest_text()).digest()
    tbsys.wait_for(rig.pipe.exists, what="the FIFO")
    reader = os.open(rig.pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.write(server.fds[0], asset.plain)
    server.close()
    assert os.read(reader, 10_000) == asset.plain
    for _ in range(20):  # the writer is gone and all is read, yet this is no end
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        time.sleep(0.01)
    assert rig.delivery()["state"] == "delivering"
    server.reply(0, 9000)
    assert tbsys.wait_for(lambda: read_or_none(reader) == b"", what="the end")
    assert rig.delivery()["state"] == "delivered"  # written before the end could be seen
    assert load.wait() == 0


def read_or_none(fd):
    try:
        return os.read(fd, 1)
    except BlockingIOError:
        return None


def test_writer_is_told_when_the_reader_goes(rig):
    Asset(b"x" * 9000).write(rig.target)
    load = rig.load("fifo").start()
    server = Server(rig)
    tbsys.wait_for(rig.pipe.exists, what="the FIFO")
    os.write(server.fds[0], b"nobody reads yet, and that is no error")
    open(rig.pipe, "rb").close()

    def broken():
        try:
            os.write(server.fds[0], b"x")
        except BrokenPipeError:
            return True
    tbsys.wait_for(broken, what="EPIPE")
    server.reply(75, 0, "the reader went")
    assert load.wait() == 75 and "the reader went" in load.log_text()


# -- the stand-in of a runtime -------------------------------------------------------------------------------------------

def test_runtime_stand_in_over_http(rig):
    asset = Asset(b"TRUSTBRIDGE_E2E_" * 65536, chunk_bytes=65536).write(rig.target)
    sha, port = hashlib.sha256(asset.plain).hexdigest(), tbsys.free_port()
    load = rig.load("fifo", f"{sys.executable} {STANDIN}", env={"TB_RUNTIME_PORT": str(port)}).start()

    def get(path, body=None):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=10) as r:
                return r.status, json.loads(r.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())
        except OSError:
            return None

    assert tbsys.wait_for(lambda: get("/health"), what="/health") == (200, {"status": "ok", "service": "runtime-mock"})
    assert get("/plaintext-hash") == (202, {"status": "reading", "bytes_read": 0})
    rig.decrypt(asset).start()
    tbsys.wait_for(lambda: get("/plaintext-hash")[0] == 200, what="the hash")
    assert get("/plaintext-hash") == (200, {"sha256": sha, "bytes_read": len(asset.plain)})
    status, demo = get("/v1/demo", b"hello")
    assert status == 200 and demo["message"] == "Hello from runtime-mock" and demo["plaintext_hash"] == sha
    assert demo["request"]["body_sha256"] == hashlib.sha256(b"hello").hexdigest() and demo["request"]["body_size"] == 5
    assert get("/v1/demo")[1]["request"]["method"] == "GET" and get("/status")[1]["read_complete"] is True
    assert get("/nothing")[0] == 404
    assert load.stop() == -signal.SIGTERM and not rig.leftovers()


def test_runtime_stand_in_with_a_directory(rig):
    asset = Asset(FILES).write(rig.target)
    port = tbsys.free_port()
    both(rig, asset, rig.load(command=f"{sys.executable} {STANDIN} {{model}}", env={"TB_RUNTIME_PORT": str(port)}))

    def sha():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/plaintext-hash", timeout=10) as r:
                return json.loads(r.read()).get("sha256")
        except OSError:
            return None
    assert tbsys.wait_for(sha, what="the hash") == hashlib.sha256(asset.plain).hexdigest()
