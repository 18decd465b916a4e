# SPDX-License-Identifier: Apache-2.0
"""A writer of tbenc/v1 that shares no code with the product, for the tests of the delivery."""

import hashlib
import json
import pathlib
import secrets
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ASSET = "delivery-test"


class Asset:
    """Files (path -> bytes, or one bytes) sealed under a fresh key; .records are mutable (length, ciphertext and tag)."""

    def __init__(self, plain, chunk_bytes=4096, asset_id=ASSET, name="model.tbenc", modes=None, key=None):
        self.key, self.prefix, self.chunk_bytes, self.name = key or secrets.token_bytes(32), secrets.token_bytes(4), chunk_bytes, name
        self.files = dict(sorted(plain.items(), key=lambda kv: kv[0].encode())) if isinstance(plain, dict) else None
        self.plain = b"".join(self.files.values()) if self.files else plain
        self.records, table, gcm = [], [], AESGCM(self.key)
        self.header = b"TBENC001" + struct.pack(">HBI", 1, 1, chunk_bytes) + self.prefix + bytes(13)
        for path, data in (self.files or {"": plain}).items():
            table.append({"path": path, "bytes": len(data), "mode": f"{(modes or {}).get(path, 0o644):04o}", "chunk": len(self.records),
                          "sha256": hashlib.sha256(data).hexdigest()})
            for off in range(0, len(data), chunk_bytes):
                self._seal(gcm, data[off:off + chunk_bytes])
        tags = hashlib.sha256()
        for length, body in self.records:
            tags.update(struct.pack(">I", length) + body[-16:])
        self.manifest = {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": chunk_bytes,
                         "plaintext_bytes": len(self.plain), "sha256_ciphertext": "", "asset_id": asset_id,
                         "weights_filename": name, "allow_finetune": True, "tags_sha256": tags.hexdigest()}
        if self.files:
            self.manifest["files"] = table

    def _seal(self, gcm, pt):
        index = struct.pack(">Q", len(self.records))
        aad = self.header[:19] + index + struct.pack(">I", len(pt))
        self.records.append((len(pt), gcm.encrypt(self.prefix + index, pt, aad)))

    def ciphertext(self):
        return self.header + b"".join(struct.pack(">I", n) + body for n, body in self.records)

    def manifest_text(self):
        m = dict(self.manifest, sha256_ciphertext=self.manifest["sha256_ciphertext"] or
                 hashlib.sha256(self.ciphertext()).hexdigest())
        return json.dumps(m, indent=2).encode()

    def write(self, directory):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.name).write_bytes(self.ciphertext())
        (directory / "model.manifest.json").write_bytes(self.manifest_text())
        return self


def flip(asset, i, at, bit=1):
    n, body = asset.records[i]
    b = bytearray(body)
    b[at] ^= bit
    asset.records[i] = (n, bytes(b))
