# SPDX-License-Identifier: Apache-2.0
"""A writer of overlays that shares no code with the product: tbenc(5), section OVERLAYS."""

import hashlib
import hmac
import secrets

from delivery_asset import Asset


def key_id(key):
    return hashlib.sha256(b"tbenc key id v1\0" + key).hexdigest()[:16]


def whole(files, **kw):
    """An asset that something can stand on."""
    asset = Asset(files, **kw)
    asset.manifest["key_id"] = key_id(asset.key)
    return asset


class Overlay(Asset):
    """What the directory `files` is, on top of `base`: what has the same contents is taken, once each."""

    def __init__(self, base, files, version=1, modes=None, **kw):
        salt, entries = secrets.token_bytes(32), {e["sha256"]: e for e in base.manifest["files"] if e["bytes"]}
        taken, own = [], {}
        for path, data in sorted(files.items(), key=lambda kv: kv[0].encode()):
            entry = entries.pop(hashlib.sha256(data).hexdigest(), None)
            if entry:
                taken.append({**entry, "path": path, "mode": f"{(modes or {}).get(path, 0o644):04o}"})
            else:
                own[path] = data
        derived = hmac.new(base.key, b"tbenc overlay key v1\0" + salt, "sha256").digest()
        super().__init__(own or {"": b""}, chunk_bytes=base.chunk_bytes, key=derived, modes=modes,
                         asset_id=base.manifest["asset_id"], **kw)
        self.key, self.tree, self.base = base.key, files, base
        table = self.manifest.pop("files") if own else []
        text = base.manifest_text()
        self.manifest.update({"format": "tbenc/v1-overlay", "key_id": key_id(base.key), "base": {
            "version": version, "manifest_sha256": hashlib.sha256(text).hexdigest(),
            "sha256_ciphertext": hashlib.sha256(base.ciphertext()).hexdigest(), "tags_sha256": base.manifest["tags_sha256"],
            "salt": salt.hex(), "files": taken}, "files": table})
