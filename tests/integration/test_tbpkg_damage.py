# SPDX-License-Identifier: Apache-2.0
"""Damaged ciphertexts and hostile manifests: tbpkg decrypt, verify and inspect refuse them, name the chunk and leave no output."""

import hashlib
import json
import os
import re
import struct

import pytest

from tbpkg_local import CHUNK, Asset, listing, ok, refused, tbpkg


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
