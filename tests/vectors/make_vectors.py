#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the tb-* vectors: assets with tags_sha256 and file tables, from fixed keys and prefixes, byte for byte the same each
time. The s* vectors were written by another implementation and are not made here. With --check, compares only.
Keys derived from a name and fixed nonce prefixes are for vectors, never for an asset."""

import hashlib
import json
import pathlib
import sys

sys.dont_write_bytecode = True
import tbenc_ref  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


def pattern(n, seed):
    return hashlib.shake_128(seed.encode()).digest(n)


def table(*files):
    return sorted(((path, mode, pattern(n, path)) for path, mode, n in files), key=lambda f: f[0].encode())


VECTORS = {
    "tb-hello": {"key": bytes(range(32)), "prefix": bytes([1, 2, 3, 4]), "plaintext": b"hello"},
    "tb-empty": {"plaintext": b""},
    "tb-single": {"plaintext": pattern(5 * 1024 + 7, "single"), "allow_finetune": False},
    "tb-exact": {"plaintext": pattern(3 * 4096, "exact"), "chunk_bytes": 4096},
    "tb-table": {"files": table(("config.json", "0644", 100), ("tokenizer/vocab.txt", "0600", 1025),
                                ("empty", "0444", 0), ("model.gguf", "0644", 3 * 1024), ("zz", "0777", 0),
                                ("dir.d/\u00fcber \"x\\", "0640", 1))},
    "tb-table-empty": {"files": table(("only", "0000", 0))},
    # a file beside a directory whose name sorts between it and the directory's contents
    "tb-table-order": {"files": table(("a", "0644", 2), ("a-b", "0644", 1024), ("aa/b", "0644", 1),
                                      ("a.c/d/e", "0644", 2048))},
}


def make(name, key=None, prefix=None, chunk_bytes=1024, **what):
    key = key or hashlib.sha256(name.encode()).digest()
    prefix = prefix or hashlib.sha256(name.encode() + b" prefix").digest()[:4]
    ct, manifest = tbenc_ref.seal(key, prefix, chunk_bytes, asset_id="vector-" + name,
                                  weights_filename=name + ".tbenc", **what)
    plaintext = b"".join(f[2] for f in what["files"]) if "files" in what else what["plaintext"]
    entry = {"file": name + ".tbenc", "manifest": name + ".manifest.json", "size": len(plaintext),
             "chunk": chunk_bytes, "key_hex": key.hex(), "nonce_prefix": prefix.hex(),
             "plaintext_sha256": hashlib.sha256(plaintext).hexdigest(),
             "ciphertext_sha256": manifest["sha256_ciphertext"]}
    return entry, {entry["file"]: ct, entry["manifest"]: tbenc_ref.format_manifest(manifest).encode()}


def main():
    entries, files = [], {}
    for name, what in VECTORS.items():
        entry, made = make(name, **what)
        entries.append(entry)
        files.update(made)
    files["tb-vectors.json"] = (json.dumps(entries, indent=1) + "\n").encode()
    bad = [n for n, data in files.items() if not (HERE / n).exists() or (HERE / n).read_bytes() != data]
    if "--check" in sys.argv[1:]:
        return f"{', '.join(bad)}: not what make_vectors.py makes" if bad else 0
    for name in bad:
        (HERE / name).write_bytes(files[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
