# SPDX-License-Identifier: Apache-2.0
"""tbpkg encrypt and decrypt: round trips of files, directories and streams, and what encrypt refuses to read or to overwrite."""

import fcntl
import hashlib
import json
import os
import re
import resource
import secrets
import subprocess

import pytest

from tbpkg_local import CHUNK, ENV, REPO, TBPKG, TREE, Asset, listing, make_tree, ok, open_by_hand, read_tree, refused, tbpkg


# -- round trips -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 10 * CHUNK + 17])
def test_file_roundtrip(tmp_path, size):
    plain = os.urandom(size)
    (tmp_path / "m.bin").write_bytes(plain)
    p = tbpkg("encrypt", "--asset-id", "a_B-1", "--in", "m.bin", "-c", CHUNK, cwd=tmp_path)
    assert p.returncode == 0
    key = p.stdout.decode()
    assert re.fullmatch(r"[0-9a-f]{64}\n", key), "stdout holds the key and nothing else"
    assert key.strip() not in p.stderr.decode()
    m = json.loads((tmp_path / "model.manifest.json").read_text())
    assert list(m)[:7] == ["format", "algo", "chunk_bytes", "plaintext_bytes", "sha256_ciphertext", "asset_id",
                           "weights_filename"]
    assert (m["asset_id"], m["weights_filename"], m["allow_finetune"]) == ("a_B-1", "model.tbenc", True)
    assert open_by_hand((tmp_path / "model.tbenc").read_bytes(), m, bytes.fromhex(key)) == plain
    ok("decrypt", "--key-file", "-", "--out", "back", cwd=tmp_path, stdin=key.encode())
    assert (tmp_path / "back").read_bytes() == plain
    assert listing(tmp_path) == ["back", "m.bin", "model.manifest.json", "model.tbenc"]


def test_options_of_the_guide(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(os.urandom(5000))
    ok("encrypt", "--asset-id", "my-model-v1", "--in", tmp_path / "model.safetensors", "--out", "model.tbenc", "--manifest",
       "model.manifest.json", "--chunk-bytes", "4194304", "--key-out", "k", "--no-finetune", "--threads", "2", cwd=tmp_path)
    m = json.loads((tmp_path / "model.manifest.json").read_text())
    assert m["chunk_bytes"] == 4194304 and m["allow_finetune"] is False
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}\n", (tmp_path / "k").read_text())


def test_a_record_has_one_mib_by_default(tmp_path):
    (tmp_path / "m").write_bytes(b"x" * 100)
    ok("encrypt", "--asset-id", "a", "--key-out", "k", "m", cwd=tmp_path)
    assert json.loads((tmp_path / "model.manifest.json").read_text())["chunk_bytes"] == 1 << 20


@pytest.mark.parametrize("given, want", [("2K", 2048), ("4MiB", 4 << 20), ("64M", 64 << 20), ("1024", 1024)])
def test_chunk_sizes(tmp_path, given, want):
    (tmp_path / "m").write_bytes(b"x" * 3000)
    p = ok("encrypt", "-a", "a", "m", "--chunk-bytes", given, cwd=tmp_path)
    assert json.loads((tmp_path / "model.manifest.json").read_text())["chunk_bytes"] == want
    assert (b"unusual" in p.stderr) == (want < 1 << 20)


def test_directory_of_the_first_cli(tmp_path):
    (tmp_path / "m").write_bytes(b"x")
    ok("encrypt", "m", "--asset-id", "a", "-o", "encrypted/", cwd=tmp_path)
    assert listing(tmp_path / "encrypted") == ["model.manifest.json", "model.tbenc"]


def test_directory_roundtrip(tmp_path):
    src = make_tree(tmp_path / "model")
    (src / "zz").chmod(0o755)
    p = ok("encrypt", "-a", "a", "model", "--chunk-bytes", CHUNK, "-k", "key", "--json", cwd=tmp_path)
    summary = json.loads(p.stdout)
    m = json.loads((tmp_path / "model.manifest.json").read_text())
    assert [f["path"] for f in m["files"]] == sorted(TREE, key=lambda s: s.encode())
    assert summary["files"] == len(TREE) and summary["plaintext_bytes"] == sum(map(len, TREE.values()))
    assert summary["sha256_ciphertext"] == m["sha256_ciphertext"]
    assert (tmp_path / "key").read_text().strip() not in p.stdout.decode() + p.stderr.decode()
    plain = open_by_hand((tmp_path / "model.tbenc").read_bytes(), m, bytes.fromhex((tmp_path / "key").read_text()))
    assert plain == b"".join(TREE[f["path"]] for f in m["files"])
    ok("decrypt", "-k", "key", "-o", "out", cwd=tmp_path)
    assert read_tree(tmp_path / "out") == TREE
    assert (tmp_path / "out" / "zz").stat().st_mode & 0o777 == 0o755
    assert listing(tmp_path / "out") == listing(src)


def test_independent_writer_is_read(tmp_path):
    files = [("a", b"1" * 1500), ("b/c", b""), ("b/d", b"2" * CHUNK)]
    Asset(b"", files=files).write(tmp_path)
    ok("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path)
    assert read_tree(tmp_path / "out") == dict(files)


def test_vectors_of_another_implementation(tmp_path):
    d = REPO / "tests" / "vectors"
    for v in json.loads((d / "vectors.json").read_text()):
        p = tbpkg("decrypt", "-i", d / v["file"], "-m", d / v["manifest"], "-k", "-", "-o", "-", stdin=v["key_hex"].encode())
        assert p.returncode == 0, p.stderr
        assert hashlib.sha256(p.stdout).hexdigest() == v["plaintext_sha256"]


def test_streams(tmp_path):
    plain = os.urandom(300_000)
    p = ok("encrypt", "-a", "a", "-", "-c", "4K", "-k", "key", cwd=tmp_path, stdin=plain)
    assert p.stdout == b""
    ct = (tmp_path / "model.tbenc").read_bytes()
    assert ok("decrypt", "-k", "key", "-o", "-", cwd=tmp_path).stdout == plain
    assert ok("decrypt", "-", "-m", "model.manifest.json", "-k", "key", "-o", "-", cwd=tmp_path, stdin=ct).stdout == plain
    ok("decrypt", "-", "-m", "model.manifest.json", "-k", "key", "-o", "f", cwd=tmp_path, stdin=ct)
    assert (tmp_path / "f").read_bytes() == plain
    ok("verify", "-", "-m", "model.manifest.json", "-k", "key", cwd=tmp_path, stdin=ct)


def test_ciphertext_on_standard_output(tmp_path):
    """The same that a file holds; the key is in its place before the first byte, and the manifest comes last."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w").write_bytes(os.urandom(3_000_000))
    ct = ok("encrypt", "-a", "a", "m", "-o", "-", "-m", "x.json", "-k", "keys/", cwd=make_keys(tmp_path)).stdout
    (key,) = (tmp_path / "keys").iterdir()
    m = json.loads((tmp_path / "x.json").read_text())
    assert m["weights_filename"] == "model.tbenc" and key.stat().st_mode & 0o777 == 0o600
    assert open_by_hand(ct, m, bytes.fromhex(key.read_text())) == (tmp_path / "m" / "w").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "m", "x.json"]
    for words, says in ((["-k", "-"], "give --key-out"), ([], "give --key-out"), (["-k", "k", "--json"], "either JSON or the ciphertext")):
        refused("encrypt", "-a", "a", "m", "-o", "-", "-m", "y.json", *words, cwd=tmp_path, rc=2, match=says)
    refused("encrypt", "-a", "a", "m", "-o", "-", "-k", "k", cwd=tmp_path, rc=2, match="name the manifest")
    with open("/dev/full", "wb") as full:
        p = subprocess.run([TBPKG, "encrypt", "-a", "a", "m", "-o", "-", "-m", "z.json", "-k", "kept"], cwd=tmp_path, env=ENV, stdout=full,
                           stderr=subprocess.PIPE, timeout=60)
    assert p.returncode == 7 and b"No space left" in p.stderr and b"standard output" in p.stderr
    read_end, write_end = os.pipe()
    os.close(read_end)  # a pipe that nobody reads
    p = subprocess.run([TBPKG, "encrypt", "-a", "a", "m", "-o", "-", "-m", "y.json", "-k", "kept3"], cwd=tmp_path, stdout=write_end,
                       stderr=subprocess.PIPE, env=ENV)
    os.close(write_end)
    assert p.returncode == 1 and b"tbpkg: standard output: Broken pipe" in p.stderr and not (tmp_path / "y.json").exists()
    assert (tmp_path / "kept").exists() and not (tmp_path / "z.json").exists()


def test_a_reader_that_goes_away(tmp_path):
    (tmp_path / "w").write_bytes(bytes(8_000_000))
    with subprocess.Popen([TBPKG, "encrypt", "-a", "a", "w", "-o", "-", "-m", "x.json", "-k", "key"], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as p:
        assert len(p.stdout.read(1000)) == 1000
        assert (tmp_path / "key").exists() and not (tmp_path / "x.json").exists()
        p.stdout.close()
        assert b"Broken pipe" in p.stderr.read() and p.wait(30) == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["key", "w"]


def make_keys(d):
    (d / "keys").mkdir()
    return d


def test_a_pipe_may_be_passed_on_without_reading(tmp_path):
    """tee(1), pv(1) and the like splice: the pages of standard output then outlive tbpkg and its buffers."""
    plain = secrets.token_bytes(6_000_000)
    (tmp_path / "plain").write_bytes(plain)
    ok("encrypt", "-a", "a", "plain", "-k", "key", "-c", "64K", cwd=tmp_path)
    pipes = [os.pipe() for _ in range(13)]  # all of it is kept in pipes, more than tbpkg may have buffers for
    with subprocess.Popen([TBPKG, "decrypt", "-k", "key", "-o", "-"], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as p:
        for _, w in pipes:
            fcntl.fcntl(w, 1031, 1 << 20)  # F_SETPIPE_SZ
            room = 1 << 19
            while room > 0 and (n := os.splice(p.stdout.fileno(), w, room)):
                room -= n
            os.close(w)
        assert p.wait(30) == 0
    got = b""
    for r, _ in pipes:
        with open(r, "rb") as f:
            got += f.read()
    assert got == plain


def test_key_sources(tmp_path):
    a = Asset(b"hello")
    a.write(tmp_path)
    (tmp_path / "raw").write_bytes(a.key)
    for args, env in ([["-k", "raw"], {}], [["-k", "key"], {}], [[], {"TBPKG_KEY_FILE": "key"}],
                      [["--key-hex", a.key.hex().upper()], {}]):
        p = ok("decrypt", "m.tbenc", "-o", "-", *args, cwd=tmp_path, env=env)
        assert p.stdout == b"hello"
        assert ("--key-hex" in " ".join(args)) == (b"warning" in p.stderr)
        assert a.key.hex() not in p.stderr.decode().lower()
    (tmp_path / "bad").write_text("xyz")
    assert "64 hex digits" in refused("decrypt", "m.tbenc", "-o", "o", "-k", "bad", cwd=tmp_path)
    refused("decrypt", "m.tbenc", "-o", "o", "-k", "nokey", cwd=tmp_path, match="nokey: No such file")
    refused("decrypt", "m.tbenc", "-o", "o", cwd=tmp_path, rc=2, match="TBPKG_KEY_FILE")


# -- what encrypt refuses ---------------------------------------------------------------------------------------------

def test_empty_inputs(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    (tmp_path / "d" / "e").mkdir(parents=True)
    make_tree(tmp_path / "z", {"a": b"", "b": b""})
    for what in ["f", "d", "z"]:
        refused("encrypt", "-a", "a", what, cwd=tmp_path, match=f"{what}: is empty")
    refused("encrypt", "-a", "a", "-", cwd=tmp_path, stdin=b"", match="is empty")
    assert listing(tmp_path) == ["d", "d/e", "f", "z", "z/a", "z/b"]


def test_what_a_directory_may_not_hold(tmp_path):
    d = make_tree(tmp_path / "d", {"a": b"1"})
    (d / "sub").mkdir()
    bad = d / "sub" / "bad"
    import socket
    for make, match in ((lambda: bad.symlink_to("/etc/passwd"), "symbolic link"), (lambda: os.mkfifo(bad), "FIFO"),
                        (lambda: os.mknod(bad, 0o20600, os.makedev(1, 3)), "device"),
                        (lambda: socket.socket(socket.AF_UNIX).bind(str(bad)), "socket")):
        make()
        refused("encrypt", "-a", "a", d, cwd=tmp_path, match=f"sub/bad: .*{match}")
        bad.unlink()
    for name in (b"new\nline", b"not-utf8-\xff"):
        path = os.fsencode(d) + b"/" + name
        open(path, "wb").close()
        assert "\n" not in refused("encrypt", "-a", "a", d, cwd=tmp_path, match="name")
        os.unlink(path)
    ok("encrypt", "-a", "a", d, cwd=tmp_path)


def test_too_many_files(tmp_path):
    d = make_tree(tmp_path / "d", {f"{i:04}": b"x" for i in range(4096)})
    ok("encrypt", "-a", "a", "d", "-k", "key", cwd=tmp_path,
       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 8192)))
    ok("decrypt", "-k", "key", "-o", "out", cwd=tmp_path,
       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 8192)))
    assert len(listing(tmp_path / "out")) == 4096
    (d / "more").write_bytes(b"x")
    refused("encrypt", "-a", "a", "d", "-f", cwd=tmp_path, match="more than 4096 files")


def test_outputs_that_would_do_harm(tmp_path):
    make_tree(tmp_path / "d", {"a": b"1"})
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "precious.key").write_text("other")
    (tmp_path / "link").symlink_to("f")
    before = listing(tmp_path)
    refused("encrypt", "-a", "a", "f", "-o", "f", "-f", cwd=tmp_path, match="input itself")
    refused("encrypt", "-a", "a", "f", "-o", "link", "-f", cwd=tmp_path, match="input itself")
    refused("encrypt", "-a", "a", "f", "-m", "f", "-f", cwd=tmp_path, match="input itself")
    refused("encrypt", "-a", "a", "d", "-o", "d/x", cwd=tmp_path, match="inside the input")
    refused("encrypt", "-a", "a", "d", "-k", "d/key", cwd=tmp_path, match="inside the input")
    refused("encrypt", "-a", "a", "f", "-k", "precious.key", "-f", cwd=tmp_path, match="precious.key: exists")
    refused("encrypt", "-a", "a", "f", "-o", "x", "-m", "./x", cwd=tmp_path, rc=2, match="different")
    refused("encrypt", "-a", "a", "f", "-o", "x", "-k", "x", cwd=tmp_path, rc=2, match="different")
    refused("encrypt", "-a", "a", "f", "-o", "no/such/x", cwd=tmp_path, match="no/such")
    refused("encrypt", "-a", "a", "/dev/zero", cwd=tmp_path, match="neither a file")
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    (tmp_path / "to-null").symlink_to("null")
    for out in ("null", "to-null"):
        refused("encrypt", "-a", "a", "f", "-o", out, "-f", cwd=tmp_path, match="not a regular file")
    (tmp_path / "null").unlink()
    (tmp_path / "to-null").unlink()
    assert listing(tmp_path) == before and (tmp_path / "f").read_bytes() == b"data"


def test_force(tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    ok("encrypt", "-a", "a", "f", "-k", "k1", cwd=tmp_path)
    refused("encrypt", "-a", "a", "f", "-k", "k2", cwd=tmp_path, match="model.tbenc: exists already.*--force")
    (tmp_path / "model.tbenc").unlink()
    refused("encrypt", "-a", "a", "f", "-k", "k2", cwd=tmp_path, match="model.manifest.json: exists already")
    assert not (tmp_path / "k2").exists()
    ok("encrypt", "-a", "a", "f", "-k", "k2", "--force", cwd=tmp_path)
    ok("decrypt", "-k", "k2", "-o", "-", cwd=tmp_path)
    ok("decrypt", "-k", "k2", "-o", "o", cwd=tmp_path)
    refused("decrypt", "-k", "k2", "-o", "o", cwd=tmp_path, match="o: exists")
    ok("decrypt", "-k", "k2", "-o", "o", "--force", cwd=tmp_path)
    refused("decrypt", "-k", "k2", "-o", "model.tbenc", "--force", cwd=tmp_path, match="ciphertext itself")
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    refused("decrypt", "-k", "k2", "-o", "null", "--force", cwd=tmp_path, match="not a regular file")


def test_force_removes_only_its_own_directory(tmp_path):
    a = Asset(b"", files=[("a", b"1"), ("b/c", b"2")])
    a.write(tmp_path)
    ok("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path, match="out: exists already")
    (tmp_path / "out" / "a").write_text("old")
    ok("decrypt", "m.tbenc", "-k", "key", "-o", "out/", "-f", cwd=tmp_path)
    assert (tmp_path / "out" / "a").read_text() == "1"
    (tmp_path / "out" / "mine").write_text("precious")
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", "-f", cwd=tmp_path, match="out/mine: is not from this asset")
    assert (tmp_path / "out" / "mine").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["key", "m.manifest.json", "m.tbenc", "out"]
