# SPDX-License-Identifier: Apache-2.0
"""libtbenc against the reference reader and writer of tests/vectors, made from tbenc(5) alone: each opens what the other
sealed, both refuse the same damage at the same chunk, and the vectors are what their script makes."""

import hashlib
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "e2e-vagrant" / "lib"), str(REPO / "tests" / "vectors")]
import tbenc_ref  # noqa: E402
from tbsys import build_dir  # noqa: E402

TBPKG = str(build_dir() / "tbpkg")
KEY = bytes(range(32))
PREFIX = b"\x0a\x0b\x0c\x0d"
CHUNK = 1024


def tbpkg(*args):
    return subprocess.run([TBPKG, *map(str, args)], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)


def ok(*args):
    p = tbpkg(*args)
    assert p.returncode == 0, p.stderr
    return p


def noise(n, seed):
    return random.Random(seed).randbytes(n)


def store(d, ciphertext, manifest):
    """Files for tbpkg; manifest is a dict or text."""
    text = manifest if isinstance(manifest, str) else tbenc_ref.format_manifest(manifest)
    (d / "model.tbenc").write_bytes(ciphertext)
    (d / "model.manifest.json").write_text(text)
    (d / "key").write_text(KEY.hex())


def decrypt(d, out):
    return tbpkg("decrypt", "-q", "--in", d / "model.tbenc", "--manifest", d / "model.manifest.json", "--key-file",
                 d / "key", "--out", out)


TREE = [("README", "0644", b""), ("a-b/c", "0644", noise(10, 1)), ("a/b", "0600", noise(2 * CHUNK, 2)),
        ("a/z/\u00e9", "0444", noise(CHUNK + 1, 3)), ("weights.gguf", "0644", noise(70 * CHUNK + 5, 4))]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 1500 * CHUNK + 3])
def test_library_opens_what_the_reference_seals(tmp_path, size):
    store(tmp_path, *tbenc_ref.seal(KEY, PREFIX, CHUNK, noise(size, size)))
    assert decrypt(tmp_path, tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == noise(size, size)


def test_library_opens_a_table_of_the_reference(tmp_path):
    store(tmp_path, *tbenc_ref.seal(KEY, PREFIX, CHUNK, files=TREE))
    p = decrypt(tmp_path, tmp_path / "out")
    assert p.returncode == 0, p.stderr
    for path, mode, data in TREE:
        f = tmp_path / "out" / path
        assert f.read_bytes() == data
        assert f.stat().st_mode & 0o777 == int(mode, 8)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_reference_opens_what_the_library_seals(tmp_path, threads):
    data = noise(1500 * CHUNK + 3, 5)
    (tmp_path / "in").write_bytes(data)
    ok("encrypt", "-q", "--asset-id", "interop", "--in", tmp_path / "in", "--out", tmp_path / "model.tbenc",
       "--manifest", tmp_path / "m.json", "--key-out", tmp_path / "key", "--chunk-bytes", CHUNK, "--threads", threads)
    text = (tmp_path / "m.json").read_text()
    m = tbenc_ref.parse_manifest(text)
    key = bytes.fromhex((tmp_path / "key").read_text())
    ct = (tmp_path / "model.tbenc").read_bytes()
    assert tbenc_ref.open_asset(m, ct, key) == [data]
    assert text == tbenc_ref.format_manifest(m)
    # the same key and prefix give the same bytes whoever seals
    again, manifest = tbenc_ref.seal(key, ct[15:19], CHUNK, data, asset_id="interop",
                                     weights_filename=m["weights_filename"])
    assert again == ct
    assert manifest == m


def test_reference_opens_a_directory_of_the_library(tmp_path):
    for path, mode, data in TREE:
        f = tmp_path / "in" / path
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(data)
        f.chmod(int(mode, 8))
    ok("encrypt", "-q", "--asset-id", "interop", "--in", tmp_path / "in", "--out", tmp_path / "model.tbenc",
       "--manifest", tmp_path / "m.json", "--key-out", tmp_path / "key", "--chunk-bytes", CHUNK)
    m = tbenc_ref.parse_manifest((tmp_path / "m.json").read_text())
    key = bytes.fromhex((tmp_path / "key").read_text())
    plain = tbenc_ref.open_asset(m, (tmp_path / "model.tbenc").read_bytes(), key)
    assert [(f["path"], f["mode"], p) for f, p in zip(m["files"], plain)] == TREE
    assert [f["sha256"] for f in m["files"]] == [hashlib.sha256(p).hexdigest() for p in plain]


def damages():
    """(name, function of ciphertext) over an asset of 8 records."""
    rec, head = CHUNK + 20, 32
    at = lambda i: head + i * rec  # noqa: E731
    yield from ((f"flip header byte {i}", lambda c, i=i: c[:i] + bytes([c[i] ^ 1]) + c[i + 1:]) for i in range(0, 32, 3))
    rng = random.Random(7)
    for i in (rng.randrange(32, 32 + 8 * rec - 24) for _ in range(25)):
        yield f"flip byte {i}", lambda c, i=i: c[:i] + bytes([c[i] ^ 0x40]) + c[i + 1:]
    for n in (at(0), at(3), at(7), at(3) + 2, at(5) + 100, 31, 0):
        yield f"cut at {n}", lambda c, n=n: c[:n]
    yield "swap", lambda c: c[:at(2)] + c[at(3):at(4)] + c[at(2):at(3)] + c[at(4):]
    yield "drop", lambda c: c[:at(2)] + c[at(3):]
    yield "duplicate", lambda c: c[:at(3)] + c[at(2):]
    yield "trailing byte", lambda c: c + b"x"
    yield "oversized length", lambda c: c[:at(4)] + b"\xff\xff\xff\xff" + c[at(4) + 4:]
    yield "zero length", lambda c: c[:at(4)] + bytes(4) + c[at(4) + 4:]


DAMAGES = dict(damages())


@pytest.mark.parametrize("name", DAMAGES)
def test_both_refuse_the_same_damage(tmp_path, name):
    ct, m = tbenc_ref.seal(KEY, PREFIX, CHUNK, noise(8 * CHUNK - 4, 6))
    ct = DAMAGES[name](ct)
    with pytest.raises(tbenc_ref.Refused) as refused:
        tbenc_ref.open_asset(m, ct, KEY)
    store(tmp_path, ct, m)
    p = decrypt(tmp_path, tmp_path / "out")
    assert p.returncode == 1, name
    assert not (tmp_path / "out").exists()
    chunk = re.search(r"\bchunk (\d+):", p.stderr)
    assert (int(chunk[1]) if chunk else None) == refused.value.chunk, p.stderr


def edit(**kw):
    return lambda m: {**m, **kw}


def edit_file(i, **kw):
    return lambda m: {**m, "files": [{**f, **kw} if j == i else f for j, f in enumerate(m["files"])]}


MANIFESTS = {
    "other format": edit(format="tbenc/v2"),
    "chunk_bytes": edit(chunk_bytes=2048),
    "chunk_bytes too small": edit(chunk_bytes=1),
    "plaintext_bytes": edit(plaintext_bytes=10),
    "plaintext_bytes 2^53": edit(plaintext_bytes=2**53),
    "sha256": edit(sha256_ciphertext="0" * 64),
    "tags": edit(tags_sha256="0" * 64),
    "asset_id": edit(asset_id="a b"),
    "weights_filename": edit(weights_filename="../x"),
    "path traversal": edit_file(0, path="../README"),
    "absolute path": edit_file(0, path="/README"),
    "unsorted": edit_file(0, path="zzz"),
    "not unique": edit_file(0, path="a-b/c"),
    "a file as directory": edit_file(1, path="README/c"),
    "chunk": edit_file(2, chunk=9),
    "size": edit_file(2, bytes=2 * CHUNK + 1),
    "mode": edit_file(2, mode="4755"),
    "no files": edit(files=[]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_both_refuse_the_same_manifest(tmp_path, name):
    ct, m = tbenc_ref.seal(KEY, PREFIX, CHUNK, files=TREE)
    text = tbenc_ref.format_manifest(MANIFESTS[name](m))
    with pytest.raises(tbenc_ref.Refused):
        tbenc_ref.open_asset(tbenc_ref.parse_manifest(text), ct, KEY)
    store(tmp_path, ct, text)
    assert decrypt(tmp_path, tmp_path / "out").returncode == 1
    assert not (tmp_path / "out").exists()


def test_vectors_are_reproducible():
    p = subprocess.run([sys.executable, REPO / "tests" / "vectors" / "make_vectors.py", "--check"], capture_output=True)
    assert p.returncode == 0, p.stderr


def test_reference_opens_all_vectors():
    d = REPO / "tests" / "vectors"
    for name in ("vectors.json", "tb-vectors.json"):
        for v in json.loads((d / name).read_text()):
            m = tbenc_ref.parse_manifest((d / v["manifest"]).read_text())
            plain = tbenc_ref.open_asset(m, (d / v["file"]).read_bytes(), bytes.fromhex(v["key_hex"]))
            assert hashlib.sha256(b"".join(plain)).hexdigest() == v["plaintext_sha256"]


def test_man_page_shows_the_vector():
    """The example in tbenc(5) is the vector tb-hello."""
    page = (REPO / "man" / "tbenc.5").read_text()
    ct = (REPO / "tests" / "vectors" / "tb-hello.tbenc").read_bytes()
    for i in range(0, len(ct), 16):
        assert ct[i:i + 16].hex(" ") in page
    assert (REPO / "tests" / "vectors" / "tb-hello.manifest.json").read_text() in page
