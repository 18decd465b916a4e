# SPDX-License-Identifier: Apache-2.0
"""tbpkg on full disks, under signals and beside writers of its input: no half output stays, and no key can be seen."""

import os
import pathlib
import resource
import signal
import subprocess

import pytest

from tbpkg_local import ENV, TBPKG, Asset, listing, make_tree, ok, refused, start, temporaries
from tbsys import wait_for


@pytest.fixture
def small_disk(tmp_path):
    d = tmp_path / "disk"
    d.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", d], check=True)
    yield d
    subprocess.run(["umount", d], check=True)


def test_disk_full(tmp_path, small_disk):
    plain = os.urandom(4 << 20)
    (tmp_path / "m").write_bytes(plain)
    refused("encrypt", "-a", "a", "m", "-o", small_disk / "x.tbenc", cwd=tmp_path, match="4.0 MiB are needed and 2.0 MiB are free", rc=7)
    refused("encrypt", "-a", "a", "-", "-o", small_disk / "x.tbenc", "-k", tmp_path / "key", cwd=tmp_path, stdin=plain,
            match="x.tbenc: No space left", rc=7)
    assert listing(small_disk) == [] and listing(tmp_path) == ["disk", "m"]
    ok("encrypt", "-a", "a", "m", "-k", "key", cwd=tmp_path)
    refused("decrypt", "-k", "key", "-o", small_disk / "m", cwd=tmp_path, match="are needed", rc=7)
    assert listing(small_disk) == []


def test_key_that_cannot_be_written(tmp_path, small_disk):
    (tmp_path / "m").write_bytes(b"x" * 1000)
    with open(small_disk / "filler", "wb") as f, pytest.raises(OSError):
        while True:
            os.write(f.fileno(), bytes(4096))
    refused("encrypt", "-a", "a", "m", "-k", small_disk / "key", cwd=tmp_path, match="key: No space left", rc=7)
    refused("encrypt", "-a", "a", "m", "-k", "nowhere/key", cwd=tmp_path, match="nowhere")
    assert listing(small_disk) == ["filler"] and listing(tmp_path) == ["disk", "disk/filler", "m"]
    with open("/dev/full", "wb") as full:
        p = subprocess.run([TBPKG, "encrypt", "-a", "a", "m"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, env=ENV)
    assert p.returncode == 7 and b"key on standard output" in p.stderr
    assert listing(tmp_path) == ["disk", "disk/filler", "m"], "no ciphertext without its key"


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_write_error_while_decrypting(tmp_path):
    (tmp_path / "m").write_bytes(os.urandom(4 << 20))
    make_tree(tmp_path / "d", {"a": b"1", "b/big": bytes(4 << 20)})
    ok("encrypt", "-a", "a", "m", "-o", "m.tbenc", "-k", "key", cwd=tmp_path)
    ok("encrypt", "-a", "a", "d", "-o", "d.tbenc", "-k", "dkey", cwd=tmp_path)
    before = listing(tmp_path)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path, preexec_fn=limit_file_size, match="out: File too large")
    refused("decrypt", "d.tbenc", "-k", "dkey", "-o", "out", cwd=tmp_path, preexec_fn=limit_file_size, match="File too large")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_encrypt_leaves_nothing(tmp_path, sig):
    p = start("encrypt", "-a", "a", "-", "-c", "1M", "-k", "key", cwd=tmp_path)
    p.stdin.write(os.urandom(20 << 20))
    p.stdin.flush()
    wait_for(lambda: any(t.stat().st_size > 1 << 20 for t in temporaries(tmp_path)), what="ciphertext being written")
    p.send_signal(sig)
    assert p.wait(20) == 130
    assert b"interrupted" in p.stderr.read() and p.stdout.read() == b""
    assert listing(tmp_path) == []


def test_killed_encrypt_has_no_final_name(tmp_path):
    p = start("encrypt", "-a", "a", "-", "-c", "1M", "-k", "key", cwd=tmp_path)
    p.stdin.write(os.urandom(20 << 20))
    p.stdin.flush()
    wait_for(lambda: any(t.stat().st_size > 1 << 20 for t in temporaries(tmp_path)), what="ciphertext being written")
    p.kill()
    p.wait()
    assert all(name.startswith(".") for name in listing(tmp_path))


def test_interrupted_decrypt_leaves_nothing(tmp_path):
    make_tree(tmp_path / "d", {f"{i}/x": b"1" for i in range(20)})
    with open(tmp_path / "d" / "big", "wb") as f:
        f.truncate(512 << 20)
    ok("encrypt", "-a", "a", "d", "-k", "key", "-q", cwd=tmp_path)
    before = listing(tmp_path)
    p = start("decrypt", "-k", "key", "-o", "out", "-t", "1", cwd=tmp_path)
    wait_for(lambda: temporaries(tmp_path), what="the temporary directory", every=0.001)
    p.send_signal(signal.SIGINT)
    assert p.wait(20) == 130
    assert listing(tmp_path) == before


def test_input_that_changes(tmp_path):
    """A writer appends while the file is read; the reader is stopped meanwhile, so that it cannot be done already."""
    with open(tmp_path / "m", "wb") as f:
        f.truncate(512 << 20)
    p = start("encrypt", "-a", "a", "m", "-k", "key", "-t", "1", cwd=tmp_path)
    wait_for(lambda: temporaries(tmp_path), what="the temporary file", every=0.001)
    p.send_signal(signal.SIGSTOP)
    with open(tmp_path / "m", "ab") as f:
        f.write(b"more")
    p.send_signal(signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and out == b"", err
    assert b"m: " in err and b"copy" in err
    assert listing(tmp_path) == ["m"]


def test_key_is_not_in_proc(tmp_path):
    a = Asset(b"x" * 5000)
    a.write(tmp_path)
    for option in (["--key-hex", a.key.hex()], ["--key-hex=" + a.key.hex()], ["--key-file", "key"]):
        p = start("decrypt", "-", "-m", "m.manifest.json", "-o", "out", *option, cwd=tmp_path)
        proc = pathlib.Path("/proc") / str(p.pid)
        wait_for(lambda: temporaries(tmp_path), what="decrypt waiting for its input")
        shown = proc.joinpath("cmdline").read_bytes() + proc.joinpath("environ").read_bytes()
        assert b"decrypt" in shown and a.key.hex().encode() not in shown
        p.stdin.write(a.bytes())
        out, err = p.communicate(timeout=20)
        assert p.returncode == 0 and a.key.hex().encode() not in err + out
        (tmp_path / "out").unlink()
