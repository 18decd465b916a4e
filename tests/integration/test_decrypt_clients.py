# SPDX-License-Identifier: Apache-2.0
"""tb-decrypt against clients that are not tb-load: descriptors and requests that it refuses, clients that hang or leave."""

import hashlib
import os
import random
import socket
import stat
import subprocess

import pytest

from delivery_asset import Asset, flip
from delivery_rig import DIR, FIFO, FILES, REPLY, REQUEST, rig  # noqa: F401


class Client:
    def __init__(self, rig):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(str(rig.run / "tb-decrypt.sock"))

    def send(self, data, fds=()):
        socket.send_fds(self.sock, [data], [f if isinstance(f, int) else f.fileno() for f in fds])

    def reply(self):
        magic, status, _, count, message = REPLY.unpack(self.sock.recv(4096))
        assert magic == b"TBDONE01"
        return status, count, message.rstrip(b"\0").decode()


def request(asset, mode, n, magic=b"TBOPEN01"):
    return REQUEST.pack(magic, mode, n, hashlib.sha256(asset.manifest_text()).digest())


def memfd(n=1):
    return [os.memfd_create(f"out{i}") for i in range(n)]


def ask(rig, asset, data, fds, **kw):
    decrypt = rig.decrypt(asset, **kw).start()
    client = Client(rig)
    client.send(data, fds)
    status, count, message = client.reply()
    assert decrypt.wait() == status  # what is answered is what systemd sees
    return status, count, message


def test_memfd_is_memory(rig):
    asset = Asset(FILES).write(rig.target)
    fds = memfd(4)
    assert ask(rig, asset, request(asset, DIR, 4), fds) == (0, len(asset.plain), "")
    assert [os.pread(f, 1 << 20, 0) for f in fds] == list(asset.files.values())


def test_a_version_chosen_in_between_is_no_fault_of_its_manifest(rig):
    """The client and the key are of the version before: the next start is of the new one alone."""
    before = Asset(b"before" * 900)
    asset = Asset(b"x" * 9000).write(rig.target)
    bound = hashlib.sha256(before.manifest_text()).hexdigest()
    status, _, message = ask(rig, asset, request(before, DIR, 1), memfd(), bound=bound)
    assert status == 75 and "start again" in message
    status, _, message = ask(rig, asset, request(asset, DIR, 1), memfd(), bound=bound)
    assert status == 76 and "not the manifest the contract names" in message


def test_file_on_a_disk_is_refused(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    with open(rig.tmp / "out", "w+b") as f:
        status, _, message = ask(rig, asset, request(asset, DIR, 1), [f])
        assert status == 78 and "not memory-backed" in message and f.read() == b""


def pipe_read_end():
    return os.pipe()[0]


@pytest.mark.parametrize("kind", ["read-only", "append", "path", "directory", "pipe", "socket", "null", "same-twice"])
def test_descriptors_that_are_no_files(rig, kind):
    asset = Asset({"a": b"x", "b": b"y"} if kind == "same-twice" else b"x" * 9000).write(rig.target)
    one = rig.shm / "one"
    one.touch()
    fds = {"read-only": lambda: [os.open(one, os.O_RDONLY)], "append": lambda: [os.open(one, os.O_RDWR | os.O_APPEND)],
           "path": lambda: [os.open(one, os.O_PATH)], "directory": lambda: [os.open(rig.shm, os.O_RDONLY)],
           "pipe": lambda: [os.pipe()[1]], "socket": lambda: [socket.socketpair()[0].detach()],
           "null": lambda: [os.open("/dev/null", os.O_RDWR)],
           "same-twice": lambda: [os.open(one, os.O_RDWR), os.open(one, os.O_RDWR)]}[kind]()
    status, _, message = ask(rig, asset, request(asset, DIR, len(fds)), fds)
    assert status == 64 and message and one.read_bytes() == b""


@pytest.mark.parametrize("kind", ["read-write", "read-end", "file"])
def test_descriptors_that_are_no_write_end(rig, kind):
    asset = Asset(b"x" * 9000).write(rig.target)
    os.mkfifo(rig.pipe)
    fd = {"read-write": lambda: os.open(rig.pipe, os.O_RDWR), "read-end": pipe_read_end, "file": lambda: memfd()[0]}[kind]()
    status, _, message = ask(rig, asset, request(asset, FIFO, 1), [fd])
    assert status == 64 and "FIFO" in message


@pytest.mark.parametrize("n", [1, 3, 5])
def test_wrong_number_of_descriptors(rig, n):
    asset = Asset(FILES).write(rig.target)
    status, _, message = ask(rig, asset, request(asset, DIR, n), memfd(n))
    assert status == 64 and f"{n} descriptors came for the 4 files" in message


@pytest.mark.parametrize("data, n, what", [
    (b"GET / HTTP/1.1\r\n\r\n", 0, "bytes"), (b"x" * 48, 1, "TBOPEN01"), (b"x" * 4096, 0, "larger"),
    ("magic", 1, "TBOPEN01"), ("mode", 1, "mode 9"), ("none", 1, "0 descriptors"), ("many", 1, "4097"), ("two", 1, "2 descriptors"),
    ("fewer", 2, "2 descriptors came"), ("without", 0, "0 descriptors came"),
], ids=str)
def test_garbage_requests(rig, data, n, what):
    asset = Asset(FILES).write(rig.target)
    made = {"magic": lambda: request(asset, DIR, 1, b"TBOPEN02"), "mode": lambda: request(asset, 9, 1),
            "none": lambda: request(asset, DIR, 0), "many": lambda: request(asset, DIR, 4097),
            "two": lambda: request(asset, FIFO, 2), "fewer": lambda: request(asset, DIR, 1),
            "without": lambda: request(asset, DIR, 1)}
    data = made[data]() if isinstance(data, str) else data
    status, _, message = ask(rig, asset, data, memfd(n))
    assert status == 64 and what in message, message


def test_client_that_goes_away(rig):
    asset = Asset(FILES).write(rig.target)
    decrypt = rig.decrypt(asset).start()
    Client(rig).sock.close()
    assert decrypt.wait() == 75 and "went away" in decrypt.log_text()
    decrypt.start()
    client = Client(rig)
    client.send(request(asset, DIR, 4), memfd(2))
    client.sock.close()
    assert decrypt.wait() == 75


def test_client_that_hangs(rig):
    """Silent after connecting, and silent half-way: it may hold tb-decrypt no longer than the limit of the protocol."""
    asset = Asset(FILES).write(rig.target)
    decrypt = rig.decrypt(asset).start()
    client = Client(rig)
    client.send(request(asset, DIR, 4), memfd(2))
    status, _, message = client.reply()
    assert status == 75 and "in time" in message and decrypt.wait() == 75


def test_manifest_that_changed_meanwhile(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    stale = request(asset, DIR, 1)
    (rig.target / "model.manifest.json").write_bytes(asset.manifest_text() + b"\n")
    status, _, message = ask(rig, asset, stale, memfd())
    assert status == 75 and "changed" in message


def test_ciphertext_missing_or_short(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    os.truncate(rig.target / asset.name, 5000)
    status, _, message = ask(rig, asset, request(asset, DIR, 1), memfd())
    assert status == 76 and "5000 bytes" in message
    os.unlink(rig.target / asset.name)
    assert ask(rig, asset, request(asset, DIR, 1), memfd())[0] == 66
    os.symlink("/dev/zero", rig.target / asset.name)
    assert ask(rig, asset, request(asset, DIR, 1), memfd())[0] == 76  # tb-hydrate moves it aside


def test_failure_empties_the_files(rig):
    asset = Asset({"a": b"x" * 50_000, "b": b"y" * 50_000})
    flip(asset, len(asset.records) - 1, 0)
    asset.write(rig.target)
    fds = memfd(2)
    assert ask(rig, asset, request(asset, DIR, 2), fds)[0] == 76
    assert [os.fstat(f).st_size for f in fds] == [0, 0]


def test_file_system_that_fills_up(rig):
    asset = Asset(random.Random(7).randbytes(3 << 20), chunk_bytes=1 << 20).write(rig.target)
    small = rig.shm / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with open(small / "out", "w+b") as f:
            status, _, message = ask(rig, asset, request(asset, DIR, 1), [f])
            assert status == 74 and "full" in message, message
            assert os.fstat(f.fileno()).st_size == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_bad_configuration_is_answered(rig):
    """systemd would start tb-decrypt again at once if the connection stayed in the queue."""
    asset = Asset(b"x").write(rig.target)
    client = Client(rig)
    client.send(request(asset, DIR, 1), memfd())
    decrypt = rig.decrypt(asset, TB_ASSET_ID="not an id!").start()
    assert decrypt.wait() == 78
    status, _, message = client.reply()
    assert status == 78 and "journalctl" in message
    assert "TB_ASSET_ID" in decrypt.log_text()


def test_second_client_waits_for_the_next_activation(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    first, second = Client(rig), Client(rig)
    one, two = memfd(), memfd()
    first.send(request(asset, DIR, 1), one)
    second.send(request(asset, DIR, 1), two)
    decrypt = rig.decrypt(asset).start()
    assert first.reply()[0] == 0 and decrypt.wait() == 0
    assert os.pread(one[0], 9000, 0) == asset.plain and os.pread(two[0], 9000, 0) == b""
    decrypt.start()
    assert second.reply()[0] == 0 and decrypt.wait() == 0 and os.pread(two[0], 9000, 0) == asset.plain


def test_without_systemd_it_binds_its_own_socket(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    path = rig.run / "tb-decrypt.sock"
    os.unlink(path)
    decrypt = rig.decrypt(asset)
    decrypt.listen = {}
    decrypt.start().wait_notify("READY", "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client, fds = Client(rig), memfd()
    client.send(request(asset, DIR, 1), fds)
    assert client.reply()[0] == 0 and decrypt.wait() == 0 and not path.exists()
    decrypt.start().wait_notify("READY", "1")
    assert decrypt.stop() == 0 and not path.exists()
