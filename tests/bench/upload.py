#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tbpkg upload into Azurite on loopback, against curl sending the same file by one Put Blob; paired medians.

Azurite is one JavaScript process that takes part in every byte and shares the machine's cores, so this measures it as much as
us: tbpkg sends blocks in parallel, hashes the whole file and each block, and has them checked, curl does none of that. Goal set before
measuring: twice curl, where the service lets blocks in faster than one stream.

    upload.py [--mib 512] [--runs 3]"""
import argparse
import base64
import email.utils
import hashlib
import hmac
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Azurite, program  # noqa: E402  pylint: disable=wrong-import-position

ASSET = "bench-upload"


def timed(argv, env=None):
    start = time.monotonic()
    r = subprocess.run([str(a) for a in argv], env={**os.environ, **(env or {})}, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return time.monotonic() - start, r.stdout


def put_headers(a, path, size):
    """Shared Key for Put Blob of `size` bytes."""
    h = {"x-ms-blob-type": "BlockBlob", "x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2024-11-04"}
    canonical = "".join(f"{k}:{h[k]}\n" for k in sorted(h))
    to_sign = f"PUT\n\n\n{size}\n\napplication/octet-stream\n\n\n\n\n\n\n{canonical}/{a.account}/{a.account}/{path}"
    mac = base64.b64encode(hmac.new(base64.b64decode(a.key), to_sign.encode(), hashlib.sha256).digest()).decode()
    return [*(f"{k}: {v}" for k, v in h.items()), "Content-Type: application/octet-stream", "Expect:",
            f"Authorization: SharedKey {a.account}:{mac}"]


def by_curl(a, file, n):
    path = f"models/curl-{n}"
    argv = ["curl", "-sS", "-f", "-T", file, f"{a.endpoint}/{path}"]
    for h in put_headers(a, path, file.stat().st_size):
        argv += ["-H", h]
    return timed(argv)[0]


def by_tbpkg(a, d, n):
    a.create_container(f"bench{n}")
    argv = [program("tbpkg"), "upload", "-q", "-s", a.account, "-C", f"bench{n}", "-a", ASSET, "-e", d / "model.tbenc", "-m",
            d / "model.manifest.json", "--endpoint", a.endpoint]
    return timed(argv, {"AZURE_STORAGE_KEY": a.key})[0]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--mib", type=int, default=512)
    ap.add_argument("--runs", type=int, default=3)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tmp:
        d = pathlib.Path(tmp)
        with open(d / "plain", "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(1 << 20))
        timed([program("tbpkg"), "encrypt", "-q", "-a", ASSET, "-o", d / "model.tbenc", "-k", d / "key", d / "plain"])
        (d / "plain").unlink()
        a = Azurite(d / "azurite").start()
        try:
            a.create_container("models")
            pairs = []
            for n in range(args.runs):
                pairs.append((by_curl(a, d / "model.tbenc", n), by_tbpkg(a, d, n)))
        finally:
            a.stop()
    curl, ours = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(f"| upload of {args.mib} MiB | MB/s | against curl |\n|---|---|---|")
    for name, t in (("curl, one Put Blob", curl), ("tbpkg upload", ours)):
        print(f"| {name} | {args.mib * 1.048576 / t:.0f} | {statistics.median(c / o for c, o in pairs) if t == ours else 1:.2f} |")


if __name__ == "__main__":
    main()
