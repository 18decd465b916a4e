# SPDX-License-Identifier: Apache-2.0
"""tbpkg on one machine: encrypt, decrypt, verify, inspect. Ciphertexts and damages are made by the small independent
writer below, so that a shared misunderstanding in libtbenc cannot pass."""

import fcntl
import hashlib
import json
import os
import pathlib
import re
import resource
import secrets
import signal
import struct
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "e2e-vagrant" / "lib"))
from tbsys import build_dir, wait_for  # noqa: E402

TBPKG = str(build_dir() / "tbpkg")
CHUNK = 1024
COMMANDS = ["encrypt", "decrypt", "verify", "inspect", "upload", "register", "build", "package", "publish", "config"]
ENV = {"PATH": "/usr/bin:/bin", **{k: v for k, v in os.environ.items() if k.startswith(("ASAN_", "UBSAN_", "LSAN_"))}}


def tbpkg(*args, cwd=None, stdin=None, env=None, preexec_fn=None):
    return subprocess.run([TBPKG, *map(str, args)], cwd=cwd, input=stdin, capture_output=True,
                          stdin=None if stdin is not None else subprocess.DEVNULL, env={**ENV, **(env or {})}, timeout=60,
                          preexec_fn=preexec_fn)


def ok(*args, **kw):
    p = tbpkg(*args, **kw)
    assert p.returncode == 0, p.stderr.decode()
    return p


def refused(*args, rc=1, match=None, **kw):
    """Exit code 1 and one line on stderr that says what and why; nothing on stdout."""
    p = tbpkg(*args, **kw)
    text = p.stderr.decode(errors="replace")
    assert p.returncode == rc, (p.returncode, text)
    errors = [line for line in text.splitlines() if line.startswith("tbpkg") and "warning:" not in line]
    assert len(errors) == 1, text
    assert p.stdout == b""
    if match:
        assert re.search(match, errors[0]), text
    return errors[0]


# -- an independent writer -------------------------------------------------------------------------------------------

class Asset:
    """tbenc/v1 made record by record; edit .records, .header or .manifest, then write()."""

    def __init__(self, plain, chunk=CHUNK, files=None):
        self.plain, self.chunk, self.key, self.prefix = plain, chunk, secrets.token_bytes(32), secrets.token_bytes(4)
        self.header = b"TBENC001" + struct.pack(">HBI", 1, 1, chunk) + self.prefix + bytes(13)
        self.records = []
        self.tail = b""
        table, parts = [], [("", plain)] if files is None else files
        for path, data in parts:
            table.append({"path": path, "bytes": len(data), "mode": "0644", "chunk": len(self.records),
                          "sha256": hashlib.sha256(data).hexdigest()})
            for off in range(0, len(data), chunk):
                self.records.append(self.seal(len(self.records), data[off:off + chunk]))
        self.manifest = {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": chunk,
                         "plaintext_bytes": sum(len(d) for _, d in parts), "sha256_ciphertext": "", "asset_id": "asset-1",
                         "weights_filename": "m.tbenc", "allow_finetune": True, "tags_sha256": ""}
        if files is not None:
            self.manifest["files"] = table
        self.manifest["tags_sha256"] = hashlib.sha256(b"".join(r[:4] + r[-16:] for r in self.records)).hexdigest()
        self.rehash()

    def seal(self, index, data):
        aad = self.header[:19] + struct.pack(">QI", index, len(data))
        box = AESGCM(self.key).encrypt(self.prefix + struct.pack(">Q", index), data, aad)
        return struct.pack(">I", len(data)) + box

    def bytes(self):
        return self.header + b"".join(self.records) + self.tail

    def rehash(self):
        self.manifest["sha256_ciphertext"] = hashlib.sha256(self.bytes()).hexdigest()

    def write(self, d, text=None):
        (d / "m.tbenc").write_bytes(self.bytes())
        (d / "m.manifest.json").write_text(json.dumps(self.manifest, indent=2) if text is None else text)
        (d / "key").write_bytes(self.key.hex().encode())
        return d / "m.tbenc"


def listing(d):
    return sorted(str(p.relative_to(d)) for p in pathlib.Path(d).rglob("*"))


def open_by_hand(ct, manifest, key):
    """An independent reader: the plaintext, every rule of v1 checked."""
    chunk = struct.unpack(">I", ct[11:15])[0]
    assert ct[:11] == b"TBENC001" + struct.pack(">HB", 1, 1) and ct[19:32] == bytes(13)
    assert hashlib.sha256(ct).hexdigest() == manifest["sha256_ciphertext"] and chunk == manifest["chunk_bytes"]
    out, off, index, tags = b"", 32, 0, b""
    while off < len(ct):
        n = struct.unpack(">I", ct[off:off + 4])[0]
        aad = ct[:19] + struct.pack(">QI", index, n)
        out += AESGCM(key).decrypt(ct[15:19] + struct.pack(">Q", index), ct[off + 4:off + 20 + n], aad)
        tags += ct[off:off + 4] + ct[off + 4 + n:off + 20 + n]
        off, index = off + 20 + n, index + 1
    assert hashlib.sha256(tags).hexdigest() == manifest["tags_sha256"] and len(out) == manifest["plaintext_bytes"]
    return out


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


TREE = {"config.json": b"{}", ".hidden": b"h", "empty": b"", "model-00001.safetensors": os.urandom(3 * CHUNK + 5),
        "sub/dir/ünï côdé \N{ROCKET}.bin": os.urandom(CHUNK), "sub.x": b"1", "sub/a": b"", "zz": os.urandom(CHUNK + 1)}


def make_tree(root, tree=None):
    for name, data in (tree or TREE).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read_tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


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
    for make, match in ((lambda: bad.symlink_to("../a"), "symbolic link.*cp -rL"), (lambda: os.mkfifo(bad), "FIFO"),
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
        refused("encrypt", "-a", "a", "f", "-o", out, "-f", cwd=tmp_path, match="no regular file")
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
    refused("decrypt", "-k", "k2", "-o", "null", "--force", cwd=tmp_path, match="no regular file")


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


# -- damage -----------------------------------------------------------------------------------------------------------

def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def damage_header(at):
    def f(a):
        a.header = flip(a.header, at)
    return f


def damage_record(i, at):
    def f(a):
        a.records[i] = flip(a.records[i], at)
    return f


def swap(a):
    a.records[1], a.records[2] = a.records[2], a.records[1]


def oversized(a):
    a.records[2] = struct.pack(">I", CHUNK + 1) + a.records[2][4:]


def huge(a):
    a.records[2] = struct.pack(">I", 0xffffffff) + a.records[2][4:]


def zero_length(a):
    a.records[2] = bytes(4) + a.records[2][4:]


def set_tail(data):
    def f(a):
        a.tail = data
    return f


def cut(n):
    def f(a):
        whole = b"".join(a.records)
        a.records = [whole[:-n]]
    return f


# name, what to do to the asset, what decrypt must say (5 records: 4 full ones and one of 17 bytes)
DAMAGES = [
    ("magic", damage_header(0), "magic|not a tbenc"), ("version", damage_header(9), "version"),
    ("algo", damage_header(10), "algo"), ("chunk size", damage_header(13), "chunk"), ("nonce", damage_header(15), "chunk 0"),
    ("reserved", damage_header(31), "reserved"), ("length", damage_record(1, 3), "chunk 1"),
    ("ciphertext", damage_record(3, 500), "chunk 3"), ("first byte", damage_record(0, 4), "chunk 0"),
    ("tag", damage_record(2, 4 + CHUNK + 3), "chunk 2"), ("last tag", damage_record(4, -1), "chunk 4"),
    ("swap", swap, "chunk 1"), ("drop first", lambda a: a.records.pop(0), "chunk 0"),
    ("drop middle", lambda a: a.records.pop(2), "chunk 2"), ("drop last", lambda a: a.records.pop(), ""),
    ("drop all", lambda a: a.records.clear(), ""), ("duplicate", lambda a: a.records.insert(1, a.records[1]), "chunk 2"),
    ("duplicate last", lambda a: a.records.append(a.records[4]), ""), ("trailing byte", set_tail(b"\0"), ""),
    ("trailing record", set_tail(struct.pack(">I", 16) + bytes(32)), ""), ("oversized length", oversized, "chunk 2"),
    ("huge length", huge, "chunk 2"), ("zero length", zero_length, "chunk 2"), ("cut tag", cut(3), ""),
    ("cut ciphertext", cut(25), ""), ("cut length", cut(35), ""), ("cut 1", cut(1), ""),
]


@pytest.mark.parametrize("rehash", [False, True], ids=["", "hash-mended"])
@pytest.mark.parametrize("name, do, says", DAMAGES, ids=[d[0].replace(" ", "-") for d in DAMAGES])
def test_damage_is_refused(tmp_path, name, do, says, rehash):
    a = Asset(os.urandom(4 * CHUNK + 17))
    do(a)
    if rehash:
        a.rehash()
    a.write(tmp_path)
    before = listing(tmp_path)
    says = f"(?i)m.tbenc: .*({says})"
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path, match=says)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "-", cwd=tmp_path, match=says)
    refused("decrypt", "-", "-m", "m.manifest.json", "-k", "key", "-o", "out", cwd=tmp_path, stdin=a.bytes())
    refused("verify", "m.tbenc", "-k", "key", cwd=tmp_path, match=says)
    p = tbpkg("verify", "m.tbenc", "-k", "key", "--json", cwd=tmp_path)
    result = json.loads(p.stdout)
    assert p.returncode == 1 and result["ok"] is False
    if m := re.search(r"chunk (\d)", says):
        assert result["chunk"] == int(m[1])
    assert listing(tmp_path) == before, "no output is left"
    without_key = tbpkg("verify", "m.tbenc", cwd=tmp_path)
    assert without_key.returncode == 1 or (rehash and name in ("nonce", "ciphertext", "first byte", "tag", "last tag", "swap"))
    seen = tbpkg("inspect", "m.tbenc", "--json", cwd=tmp_path)
    structural = name not in ("nonce", "ciphertext", "first byte", "tag", "last tag", "swap", "drop first", "drop middle")
    assert (seen.returncode == 1) == (len(json.loads(seen.stdout)["problems"]) > 0)
    assert seen.returncode == 1 or not structural, seen.stdout


def test_damage_in_a_directory(tmp_path):
    a = Asset(b"", files=[("a", os.urandom(CHUNK)), ("b/c", os.urandom(2 * CHUNK)), ("d", b"")])
    a.records[2] = flip(a.records[2], 10)
    a.rehash()
    a.write(tmp_path)
    before = listing(tmp_path)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=tmp_path, match="chunk 2")
    assert listing(tmp_path) == before


def test_file_hash_of_the_table_is_checked(tmp_path):
    a = Asset(b"", files=[("a", b"1" * 10), ("b", b"2" * 10)])
    a.manifest["files"][1]["sha256"] = hashlib.sha256(b"other").hexdigest()
    a.write(tmp_path)
    assert re.search(r"\bb\b", refused("verify", "m.tbenc", "-k", "key", cwd=tmp_path))


def test_wrong_key(tmp_path):
    Asset(b"x" * 5000).write(tmp_path)
    (tmp_path / "key").write_text("00" * 32)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "o", cwd=tmp_path, match="chunk 0.*key")
    refused("verify", "m.tbenc", "-k", "key", cwd=tmp_path, match="chunk 0")
    assert not (tmp_path / "o").exists()


def test_lenient(tmp_path):
    a = Asset(b"x" * 100, chunk=64)
    a.write(tmp_path)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "o", cwd=tmp_path, match="chunk_bytes")
    ok("decrypt", "m.tbenc", "-k", "key", "-o", "o", "--lenient", cwd=tmp_path)
    ok("verify", "m.tbenc", "-k", "key", "--lenient", cwd=tmp_path)
    ok("inspect", "m.tbenc", "--lenient", cwd=tmp_path)
    a = Asset(b"x" * 100)
    a.header = a.header[:-1] + b"\1"
    a.rehash()
    a.write(tmp_path)
    refused("verify", "m.tbenc", "-k", "key", cwd=tmp_path, match="reserved")
    ok("verify", "m.tbenc", "-k", "key", "--lenient", cwd=tmp_path)


# -- manifest attacks -------------------------------------------------------------------------------------------------

def with_member(name, value):
    def f(a):
        a.manifest[name] = value
        return None
    return f


def with_path(path):
    def f(a):
        a.manifest["files"][0]["path"] = path
        return None
    return f


def text_of(edit):
    def f(a):
        return edit(json.dumps(a.manifest))
    return f


MANIFESTS = [
    ("traversal in weights_filename", with_member("weights_filename", "../../etc/passwd"), "weights_filename"),
    ("absolute weights_filename", with_member("weights_filename", "/tmp/x"), "weights_filename"),
    ("dot-dot weights_filename", with_member("weights_filename", ".."), "weights_filename"),
    ("traversal", with_path("../evil"), "path"), ("traversal inside", with_path("a/../../evil"), "path"),
    ("absolute path", with_path("/tmp/evil"), "path"), ("empty path", with_path(""), "path"),
    ("empty component", with_path("a//b"), "path"), ("dot", with_path("./a"), "path"), ("newline", with_path("a\nb"), "path"),
    ("same path twice", with_path("b"), "b"), ("unsorted", with_path("c"), ""), ("file under a file", with_path("b/x"), ""),
    ("long path", with_path("x/" * 600 + "x"), "path"),
    ("wrong hash", with_member("sha256_ciphertext", "0" * 64), "(?i)sha-?256"),
    ("hash is no hex", with_member("sha256_ciphertext", "z" * 64), "sha256_ciphertext"),
    ("short hash", with_member("sha256_ciphertext", "00"), "sha256_ciphertext"),
    ("wrong tags hash", with_member("tags_sha256", "0" * 64), "tags"),
    ("too small", with_member("plaintext_bytes", 1), ""), ("too large", with_member("plaintext_bytes", 99999), ""),
    ("negative", with_member("plaintext_bytes", -1), "plaintext_bytes"),
    ("float", with_member("plaintext_bytes", 1.5), "plaintext_bytes"),
    ("past 2^53", with_member("plaintext_bytes", 2**53 + 2), "plaintext_bytes"),
    ("past 2^64", with_member("plaintext_bytes", 2**64 + 5), "plaintext_bytes"),
    ("number as string", with_member("chunk_bytes", "1024"), "chunk_bytes"),
    ("chunk zero", with_member("chunk_bytes", 0), "chunk_bytes"), ("chunk 1 GiB", with_member("chunk_bytes", 1 << 30), "chunk_bytes"),
    ("other format", with_member("format", "tbenc/v2"), "format"), ("other algo", with_member("algo", "none"), "algo"),
    ("no asset", with_member("asset_id", ""), "asset_id"), ("asset with slash", with_member("asset_id", "a/b"), "asset_id"),
    ("files is no array", with_member("files", {}), "files"),
    ("1e999", text_of(lambda t: t.replace('"plaintext_bytes": 2148', '"plaintext_bytes": 1e999')), ""),
    ("duplicate key", text_of(lambda t: t[:-1] + ', "asset_id": "other"}'), "(?i)duplicate|twice"),
    ("deep nesting", text_of(lambda t: t[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}"), "(?i)nest|deep"),
    ("100 MB", text_of(lambda t: t + " " * 100_000_000), "1 MiB"), ("trailing bytes", text_of(lambda t: t + "x"), ""),
    ("cut", text_of(lambda t: t[:-10]), ""), ("empty", text_of(lambda t: ""), ""), ("array", text_of(lambda t: "[]"), ""),
    ("NUL", text_of(lambda t: t.replace("asset-1", "asset\0")), ""),
]


@pytest.mark.parametrize("name, do, says", MANIFESTS, ids=[m[0].replace(" ", "-") for m in MANIFESTS])
def test_manifest_attack(tmp_path, name, do, says):
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    a = Asset(b"", files=[("a", b"1" * 1124), ("b", b"2" * 1024)])
    text = do(a)
    a.write(work, text)
    before = listing(tmp_path)
    refused("decrypt", "m.tbenc", "-k", "key", "-o", "out", cwd=work, match=says)
    refused("verify", "m.tbenc", "-k", "key", cwd=work, match=says)
    p = tbpkg("inspect", "m.tbenc", "--json", cwd=work)
    assert p.returncode in (0, 1) and "problems" in json.loads(p.stdout)
    assert listing(tmp_path) == before


# -- full disks, interrupts, secrets ----------------------------------------------------------------------------------

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
    refused("encrypt", "-a", "a", "m", "-o", small_disk / "x.tbenc", cwd=tmp_path, match="4.0 MiB are needed and 2.0 MiB are free")
    refused("encrypt", "-a", "a", "-", "-o", small_disk / "x.tbenc", "-k", tmp_path / "key", cwd=tmp_path, stdin=plain,
            match="x.tbenc: No space left")
    assert listing(small_disk) == [] and listing(tmp_path) == ["disk", "m"]
    ok("encrypt", "-a", "a", "m", "-k", "key", cwd=tmp_path)
    refused("decrypt", "-k", "key", "-o", small_disk / "m", cwd=tmp_path, match="are needed")
    assert listing(small_disk) == []


def test_key_that_cannot_be_written(tmp_path, small_disk):
    (tmp_path / "m").write_bytes(b"x" * 1000)
    with open(small_disk / "filler", "wb") as f, pytest.raises(OSError):
        while True:
            os.write(f.fileno(), bytes(4096))
    refused("encrypt", "-a", "a", "m", "-k", small_disk / "key", cwd=tmp_path, match="key: No space left")
    refused("encrypt", "-a", "a", "m", "-k", "nowhere/key", cwd=tmp_path, match="nowhere")
    assert listing(small_disk) == ["filler"] and listing(tmp_path) == ["disk", "disk/filler", "m"]
    with open("/dev/full", "wb") as full:
        p = subprocess.run([TBPKG, "encrypt", "-a", "a", "m"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, env=ENV)
    assert p.returncode == 1 and b"key on standard output" in p.stderr
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


def start(*args, cwd, **kw):
    return subprocess.Popen([TBPKG, *map(str, args)], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=ENV, **kw)


def temporaries(d):
    return [p for p in d.iterdir() if p.name.startswith(".")]


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


# -- the command line -------------------------------------------------------------------------------------------------

def test_usage_errors():
    for args, match in ((["encrypt"], "--asset-id"), (["encrypt", "-a", "a"], "no input"), (["encrypt", "-a", "a b", "x"], "asset-id"),
                        (["encrypt", "-a", "x\n", "x"], "asset-id"), (["encrypt", "-a", "a" * 101, "x"], "asset-id"),
                        (["encrypt", "-a", "a", "x", "y"], "y"), (["encrypt", "-a", "a", "x", "--in", "y"], "twice"),
                        (["encrypt", "-a", "a", "x", "-c", "1023"], "chunk-bytes"), (["encrypt", "-a", "a", "x", "-c", "65M"], "chunk-bytes"),
                        (["encrypt", "-a", "a", "x", "-c", "4X"], "chunk-bytes"), (["encrypt", "-a", "a", "x", "-t", "0"], "threads"),
                        (["encrypt", "-a", "a", "x", "--json"], "key-out"), (["encrypt", "--nonsense=S3CRET"], "nonsense"),
                        (["decrypt", "--out"], "value"), (["decrypt", "-k", "k"], "--out"), (["decrypt", "-o", "x", "--key-hex", "zz"], "64 hex"),
                        (["decrypt", "-", "-k", "-", "-m", "m", "-o", "o"], "standard input"), (["decrypt", "-", "-k", "k", "-o", "o"], "--manifest"),
                        (["verify", "-x"], "-x"), (["inspect", "a", "b"], "twice"), (["inspect", "--json=1"], "no value")):
        p = tbpkg(*args)
        err = p.stderr.decode()
        assert p.returncode == 2 and p.stdout == b"", (args, err)
        assert re.search(match, err) and f"Try 'tbpkg {args[0]} --help'." in err, (args, err)
        assert "S3CRET" not in err
    for args in ([], ["frobnicate"], ["--frobnicate"], ["help", "frobnicate"]):
        p = tbpkg(*args)
        assert p.returncode == 2 and p.stdout == b"" and b"--help" in p.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    p = ok(command, "--help")
    text = p.stdout.decode()
    assert text.startswith(f"Usage: tbpkg {command} ") and text.endswith("\n") and p.stderr == b""
    assert max(map(len, text.splitlines())) <= 100
    assert ok("help", command).stdout == p.stdout and ok(command, "-h").stdout == p.stdout
    assert ok(command, "--version").stdout == ok("--version").stdout
    assert command in ok("--help").stdout.decode()


def options_of_help(command):
    return set(re.findall(r"--([a-z][a-z0-9-]+)", ok(command, "--help").stdout.decode()))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_man_page_and_completion_agree(command):
    want = options_of_help(command)
    assert {"help", "json", "quiet", "version"} < want
    page = (REPO / "man" / "tbpkg.1").read_text()
    sections = dict(re.findall(r"^\.Ss (.*)\n((?:(?!\.S[sh] ).*\n)*)", page, re.M))
    in_man = {o for s in (sections[f"tbpkg {command}"], sections["Every command"])
              for line in re.findall(r"^\.It .*", s, re.M) for o in re.findall(r"Fl -([a-z0-9-]+)", line)}
    assert in_man == want
    script = f". '{REPO}/provider/tbpkg.bash'; COMP_WORDS=({TBPKG} {command} --); COMP_CWORD=2; COMP_LINE='tbpkg {command} --'; " \
             "COMP_POINT=${#COMP_LINE}; _tbpkg tbpkg -- " + command + "; printf '%s\\n' \"${COMPREPLY[@]}\""
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert out.stderr == ""
    assert {o.strip().removeprefix("--").removesuffix("=") for o in out.stdout.split()} == want


def test_completion_of_commands_and_files(tmp_path):
    (tmp_path / "model.tbenc").touch()
    script = f". '{REPO}/provider/tbpkg.bash'; COMP_WORDS=({TBPKG} %s); COMP_CWORD=%d; _tbpkg; printf '%%s\\n' \"${{COMPREPLY[@]}}\""

    def complete(*words):
        return subprocess.run(["bash", "-c", script % (" ".join(map(repr, words)), len(words))], capture_output=True,
                              text=True, cwd=tmp_path).stdout.split()
    assert complete("") == [*COMMANDS, "help", "--help", "--version"] and complete("in") == ["inspect"]
    assert complete("help", "de") == ["decrypt"] and complete("verify", "mo") == ["model.tbenc"]
    assert complete("verify", "--in", "mo") == ["model.tbenc"] and complete("config", "") == ["show"]
    assert complete("encrypt", "--asset-id", "mo") == [] and "4M" in complete("encrypt", "--chunk-bytes", "")


# -- settings ----------------------------------------------------------------------------------------------------------

def test_settings_and_where_they_come_from(tmp_path):
    d = tmp_path / "trustbridge"
    d.mkdir()
    (d / "tbpkg.ini").write_text("[azure]\nstorage_account = filed\ncontainer = files\n[encryption]\nchunk_bytes = 2K\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path), "AZURE_STORAGE_ACCOUNT": "fromenv", "AZURE_STORAGE_KEY": "S3CRET",
           "TB_EDC_ENDPOINT": "https://u:S3CRET@cp.example/?sig=S3CRET"}
    p = ok("config", "show", "--json", env=env)
    doc = json.loads(p.stdout)
    got = doc["settings"]
    assert doc["file"] == str(d / "tbpkg.ini") and doc["file_exists"] and doc["credentials"] == ["AZURE_STORAGE_KEY"]
    assert (got["azure.storage_account"]["value"], got["azure.storage_account"]["source"]) == ("fromenv", "AZURE_STORAGE_ACCOUNT")
    assert (got["azure.container"]["value"], got["azure.container"]["source"]) == ("files", f"{d}/tbpkg.ini: azure.container")
    assert got["tls.ca_file"]["value"] is None and got["controlplane.endpoint"]["value"].startswith("https://cp.example")
    text = ok("config", "show", env=env).stdout.decode()
    assert "fromenv  (AZURE_STORAGE_ACCOUNT)" in text and "S3CRET" not in text + p.stdout.decode()
    # and they are used: HOME where there is no XDG_CONFIG_HOME, --config before both
    (tmp_path / "home" / ".config").mkdir(parents=True)
    d.rename(tmp_path / "home" / ".config" / "trustbridge")
    (tmp_path / "m").write_bytes(b"x" * 5000)
    home = {"HOME": str(tmp_path / "home")}
    ok("encrypt", "-a", "a", "m", "-k", "k1", "-o", "a.tbenc", cwd=tmp_path, env=home)
    assert json.loads((tmp_path / "a.manifest.json").read_text())["chunk_bytes"] == 2048
    (tmp_path / "other.ini").write_text("[encryption]\nchunk_bytes = 3K\n")
    ok("encrypt", "-a", "a", "m", "-k", "k2", "-o", "b.tbenc", "--config", "other.ini", cwd=tmp_path, env=home)
    assert json.loads((tmp_path / "b.manifest.json").read_text())["chunk_bytes"] == 3072
    ok("encrypt", "-a", "a", "m", "-k", "k3", "-o", "c.tbenc", cwd=tmp_path, env={**home, "TB_CHUNK_BYTES": "4096"})
    assert json.loads((tmp_path / "c.manifest.json").read_text())["chunk_bytes"] == 4096


def test_settings_that_are_wrong(tmp_path):
    ini = tmp_path / "t.ini"
    ini.write_text("[azure]\nsas_token = S3CRET\n")
    assert "S3CRET" not in refused("config", "show", "--config", ini, match="line 2: there is no setting 'sas_token'")
    ini.write_text("[encryption]\nchunk_bytes = 3\n")
    p = tbpkg("encrypt", "-a", "a", "m", "--config", ini)
    assert p.returncode == 2 and f"{ini}: encryption.chunk_bytes: a size from 1K to 64M, not '3'" in p.stderr.decode()
    p = tbpkg("encrypt", "-a", "a", "m", env={"TB_CHUNK_BYTES": "70M"})
    assert p.returncode == 2 and b"TB_CHUNK_BYTES: a size from 1K to 64M" in p.stderr
    ini.chmod(0o666)
    refused("config", "show", "--config", ini, match="everybody may write")
    refused("config", "show", "--config", tmp_path / "absent.ini", match="absent.ini: No such file")
    refused("config", "show", "--config", "/dev/zero", match="/dev/zero: ")
    assert tbpkg("config").returncode == 2 and tbpkg("config", "show", "x").returncode == 2


def test_verify_says_what_it_checked(tmp_path):
    Asset(b"x" * 5000).write(tmp_path)
    plain, keyed = (json.loads(ok("verify", "m.tbenc", "--json", *a, cwd=tmp_path).stdout) for a in ([], ["-k", "key"]))
    assert plain["ok"] and plain["checked"] == ["manifest", "header", "records", "sha256_ciphertext"]
    assert plain["not_checked"]["tags"] == "needs the key"
    assert keyed["checked"] == plain["checked"] + ["tags", "tags_sha256"]
    assert keyed["not_checked"] == {"files": "the manifest has none"}
    assert b"not checked  tag of every chunk" in ok("verify", "m.tbenc", cwd=tmp_path).stdout
    assert ok("verify", "-q", "m.tbenc", cwd=tmp_path).stdout == b""


def test_inspect(tmp_path):
    a = Asset(b"", files=[("a", b"1" * 1500), ("b", b"2")])
    a.write(tmp_path)
    doc = json.loads(ok("inspect", "m.tbenc", "--json", cwd=tmp_path).stdout)
    assert doc["problems"] == [] and doc["ciphertext"]["records"] == 3 and doc["ciphertext"]["nonce_prefix"] == a.prefix.hex()
    assert doc["manifest"]["content"] == a.manifest and doc["manifest"]["ciphertext_bytes"] == len(a.bytes())
    text = ok("inspect", "m.manifest.json", cwd=tmp_path).stdout.decode()
    assert "asset-1" in text and "m.tbenc\n  size" not in text
    (tmp_path / "m.manifest.json").rename(tmp_path / "other.json")
    alone = tbpkg("inspect", "m.tbenc", cwd=tmp_path)  # without the table its short first chunk is a contradiction
    assert alone.returncode == 1 and b"no manifest" in alone.stdout and b"chunk 1 is short" in alone.stdout
    ok("inspect", "other.json", "m.tbenc", cwd=tmp_path)
    Asset(b"", files=[("a", b"1" * 500), ("b", b"2" * 700)]).write(tmp_path)  # same totals, other lengths
    (tmp_path / "m.manifest.json").rename(tmp_path / "swapped.json")
    Asset(b"", files=[("a", b"1" * 700), ("b", b"2" * 500)]).write(tmp_path)
    doc = json.loads(tbpkg("inspect", "m.tbenc", "swapped.json", "--json", cwd=tmp_path).stdout)
    assert "m.tbenc: chunk 0 holds 700 bytes, the manifest says 500" in doc["problems"]
    refused("inspect", "nothere.tbenc", cwd=tmp_path, match="nothere.tbenc: No such file")
