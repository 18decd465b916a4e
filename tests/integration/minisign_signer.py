# SPDX-License-Identifier: Apache-2.0
"""A signer of manifests by tbenc(5), section SIGNATURE, that shares no code with the product; honest, or not."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

L = 2**252 + 27742317777372353535851937790883648493


def b64(data):
    return base64.b64encode(data).decode()


class Signer:
    def __init__(self, name, key_id=None):
        seed = hashlib.sha256(name.encode()).digest()  # tests have the same parameters in every process
        self.key, self.id = Ed25519PrivateKey.from_private_bytes(seed), key_id or hashlib.sha256(seed).digest()[:8]
        self.raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = b64(b"Ed" + self.id + self.raw)

    def minisig(self, message, comment="timestamp:1764130000\tasset:x", legacy=False, key_id=None, wide=False, other_comment=None):
        sig = self.key.sign(message if legacy else hashlib.blake2b(message).digest())
        if wide:  # the same scalar, written as S + L
            sig = sig[:32] + (int.from_bytes(sig[32:], "little") + L).to_bytes(32, "little")
        whole = self.key.sign(sig + comment.encode())
        first = (b"Ed" if legacy else b"ED") + (key_id or self.id) + sig
        return f"untrusted comment: by a test\n{b64(first)}\ntrusted comment: {other_comment or comment}\n{b64(whole)}\n"

    def sign(self, manifest, **how):
        """bytes to bytes."""
        return join(manifest, self.minisig(manifest, **how))


def join(manifest, sig):
    assert manifest.endswith(b"\n}")
    return manifest[:-2] + b',\n  "signature": ' + json.dumps(sig).encode() + b"\n}"


def hostile(manifest, provider, attacker):
    """name -> (manifest, what the refusal says): everything that is not signed by provider."""
    signed = provider.sign(manifest)
    changed = manifest.replace(b'"weights_filename": "', b'"weights_filename": "x')
    assert changed != manifest
    alias = Signer("alias", provider.id)  # another key under the id of the trusted one
    return {
        "unsigned": (manifest, "it is not signed"),
        "foreign": (attacker.sign(manifest), "is not trusted here"),
        "foreign under the trusted id": (alias.sign(manifest), "does not belong to it"),
        "trusted key under another id": (provider.sign(manifest, key_id=attacker.id), "is not trusted here"),
        "changed after signing": (join(changed, provider.minisig(manifest)), "does not belong to it"),
        "legacy": (provider.sign(manifest, legacy=True), "legacy"),
        "s not canonical": (provider.sign(manifest, wide=True), "does not belong to it"),
        "comment changed": (provider.sign(manifest, other_comment="timestamp:1999999999\tasset:x"), "trusted comment was changed"),
        "cut": (join(manifest, provider.minisig(manifest).rsplit("\n", 2)[0] + "\n"), "less than four lines"),
        "no base64": (join(manifest, provider.minisig(manifest).replace("R", "!", 1)), "base64"),
        "written anew": (json.dumps(json.loads(signed)).encode(), "it is not signed, or its signature was lost"),
        "a member behind": (signed[:-2] + b',\n  "x": 1\n}', "wrote the manifest anew"),
        "a member before": (b'{\n  "x": 1,' + signed[1:], "does not belong to it"),
        "signed twice": (attacker.sign(signed), "is not trusted here"),
    }
