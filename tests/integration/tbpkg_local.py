# SPDX-License-Identifier: Apache-2.0
"""tbpkg as a command with its exit codes, and a small writer and reader of tbenc/v1 that share no code with it, so that a
misunderstanding in libtbenc cannot pass: what the tests of encrypt, decrypt, verify and inspect share."""

import hashlib
import json
import os
import pathlib
import re
import secrets
import struct
import subprocess

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tbsys import build_dir

REPO = pathlib.Path(__file__).resolve().parents[2]
TBPKG = str(build_dir() / "tbpkg")
CHUNK = 1024
ENV = {"PATH": "/usr/bin:/bin", **{k: v for k, v in os.environ.items() if k.startswith(("ASAN_", "UBSAN_", "LSAN_"))}}


def tbpkg(*args, cwd=None, stdin=None, env=None, preexec_fn=None):
    # The passphrase of a key takes a GiB of memory and seconds, where nothing else runs.
    return subprocess.run([TBPKG, *map(str, args)], cwd=cwd, input=stdin, capture_output=True, timeout=300,
                          stdin=None if stdin is not None else subprocess.DEVNULL, env={**ENV, **(env or {})},
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


TREE = {"config.json": b"{}", ".hidden": b"h", "empty": b"", "model-00001.safetensors": os.urandom(3 * CHUNK + 5),
        "sub/dir/ünï côdé \N{ROCKET}.bin": os.urandom(CHUNK), "sub.x": b"1", "sub/a": b"", "zz": os.urandom(CHUNK + 1)}


def make_tree(root, tree=None):
    for name, data in (tree or TREE).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read_tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def start(*args, cwd, **kw):
    return subprocess.Popen([TBPKG, *map(str, args)], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=ENV, **kw)


def temporaries(d):
    return [p for p in d.iterdir() if p.name.startswith(".")]
