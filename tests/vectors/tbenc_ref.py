# SPDX-License-Identifier: Apache-2.0
"""tbenc/v1 written and read from the text of tbenc(5) alone: nothing here is shared with libtbenc. It holds everything in
memory and is for tests: the vectors in this directory are made by it, and the interoperation tests hold the library
against it."""

import hashlib
import json
import re
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"TBENC001"
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Refused(Exception):
    """What opening refuses; chunk is the record at fault or None."""

    def __init__(self, why, chunk=None):
        super().__init__(why)
        self.chunk = chunk


def runs(manifest):
    """Lengths of the runs of LAYOUT."""
    return [f["bytes"] for f in manifest["files"]] if "files" in manifest else [manifest["plaintext_bytes"]]


def record_lengths(manifest):
    chunk = manifest["chunk_bytes"]
    return [min(chunk, n - at) for n in runs(manifest) for at in range(0, n, chunk)]


def header(chunk_bytes, prefix):
    return MAGIC + struct.pack(">HBI", 1, 1, chunk_bytes) + prefix + bytes(13)


def seal(key, prefix, chunk_bytes, plaintext=None, files=None, asset_id="ref", weights_filename="model.tbenc",
         allow_finetune=True):
    """plaintext: bytes of a single file; or files: [(path, mode string, bytes)] sorted. Returns (ciphertext, manifest)."""
    head = header(chunk_bytes, prefix)
    out, tags, table, index = bytearray(head), hashlib.sha256(), [], 0
    for path, mode, data in files if files is not None else [(None, None, plaintext)]:
        table.append({"path": path, "bytes": len(data), "mode": mode, "chunk": index,
                      "sha256": hashlib.sha256(data).hexdigest()})
        for at in range(0, len(data), chunk_bytes):
            piece = data[at:at + chunk_bytes]
            n, i = struct.pack(">I", len(piece)), struct.pack(">Q", index)
            sealed = AESGCM(key).encrypt(prefix + i, piece, head[:19] + i + n)
            out += n + sealed
            tags.update(n + sealed[-16:])
            index += 1
    manifest = {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": chunk_bytes,
                "plaintext_bytes": sum(f["bytes"] for f in table),
                "sha256_ciphertext": hashlib.sha256(out).hexdigest(), "asset_id": asset_id,
                "weights_filename": weights_filename, "allow_finetune": allow_finetune, "tags_sha256": tags.hexdigest(),
                "key_id": hashlib.sha256(b"tbenc key id v1\0" + key).hexdigest()[:16]}
    if files is not None:
        manifest["files"] = table
    return bytes(out), manifest


def format_manifest(manifest):
    """The form writers emit."""
    lines = []
    for name, value in manifest.items():
        if name == "files":
            entries = ",\n".join("    " + json.dumps(f, ensure_ascii=False) for f in value)
            lines.append(f'  "files": [\n{entries}\n  ]')
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _require(ok, why, chunk=None):
    if not ok:
        raise Refused(why, chunk)


def _integer(m, name, low, high):
    _require(type(m.get(name)) is int and low <= m[name] <= high, name)


def _no_twice(pairs):
    _require(len({k for k, _ in pairs}) == len(pairs), "a member appears twice")
    return dict(pairs)


def _name_ok(s):
    return isinstance(s, str) and 1 <= len(s.encode()) <= 255 and s not in (".", "..") and not CONTROL.search(s)


def _check_table(m):
    chunk, previous, paths = 0, b"", set()
    _require(isinstance(m["files"], list) and 1 <= len(m["files"]) <= 4096, "files")
    for f in m["files"]:
        _require(isinstance(f.get("path"), str) and len(f["path"].encode()) <= 1024, "path")
        _require(all(_name_ok(c) for c in f["path"].split("/")), "path")
        _require(not paths or previous < f["path"].encode(), "order")
        for name in ("bytes", "chunk"):
            _integer(f, name, 0, 2**53 - 1)
        _require(re.fullmatch("0[0-7]{3}", str(f.get("mode"))), "mode")
        _require(re.fullmatch("[0-9a-fA-F]{64}", str(f.get("sha256"))), "sha256")
        _require(f["chunk"] == chunk, "chunk")
        parts = f["path"].split("/")
        _require(not any("/".join(parts[:i]) in paths for i in range(1, len(parts))), "directory")
        chunk += -(-f["bytes"] // m["chunk_bytes"])
        previous = f["path"].encode()
        paths.add(f["path"])
    _require(sum(f["bytes"] for f in m["files"]) == m["plaintext_bytes"], "sum")


def parse_manifest(text):
    _require(len(text) <= 1 << 20, "size")
    try:
        m = json.loads(text, object_pairs_hook=_no_twice)
    except ValueError as e:
        raise Refused(str(e)) from e
    _require(isinstance(m, dict), "not an object")
    _require(m.get("format") == "tbenc/v1" and m.get("algo") == "aes-256-gcm-chunked", "format")
    _integer(m, "chunk_bytes", 1024, 64 << 20)
    _integer(m, "plaintext_bytes", 0, 2**53 - 1)
    for name in ("sha256_ciphertext", "tags_sha256"):
        if name in m or name == "sha256_ciphertext":
            _require(re.fullmatch("[0-9a-fA-F]{64}", str(m.get(name))), name)
    _require(len(str(m.get("asset_id"))) <= 100 and re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", str(m.get("asset_id"))), "asset_id")
    _require(_name_ok(m.get("weights_filename")) and "/" not in m["weights_filename"], "weights_filename")
    _require(isinstance(m.get("allow_finetune", True), bool), "allow_finetune")
    if "files" in m:
        _check_table(m)
    return m


def _check_header(manifest, head):
    _require(len(head) == 32 and head[:8] == MAGIC, "magic")
    _require(head[8:11] == b"\0\1\1", "version or algo")
    _require(struct.unpack(">I", head[11:15])[0] == manifest["chunk_bytes"], "chunk_bytes")
    _require(head[19:] == bytes(13), "reserved")


def open_asset(manifest, ciphertext, key):
    """All checks of OPENING in their order. Returns the plaintext as a list of runs."""
    head, at, plain, tags = ciphertext[:32], 32, bytearray(), hashlib.sha256()
    _check_header(manifest, head)
    for index, want in enumerate(record_lengths(manifest)):
        n = ciphertext[at:at + 4]
        _require(len(n) < 4 or struct.unpack(">I", n)[0] == want, "length", index)
        _require(at + 20 + want <= len(ciphertext), "cut short", index)
        i = struct.pack(">Q", index)
        sealed = ciphertext[at + 4:at + 20 + want]
        try:
            plain += AESGCM(key).decrypt(head[15:19] + i, sealed, head[:19] + i + n)
        except InvalidTag as e:
            raise Refused("tag", index) from e
        tags.update(n + sealed[-16:])
        at += 20 + want
    _require(at == len(ciphertext), "trailing bytes", len(record_lengths(manifest)))
    _require(manifest.get("tags_sha256", tags.hexdigest()).lower() == tags.hexdigest(), "tags_sha256")
    _require(hashlib.sha256(ciphertext).hexdigest() == manifest["sha256_ciphertext"].lower(), "sha256_ciphertext")
    out = []
    for n in runs(manifest):
        out.append(bytes(plain[:n]))
        del plain[:n]
    return out
