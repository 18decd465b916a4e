#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sealing straight into Azurite on loopback: peaks of disk and memory, and throughput against sealing into a file and uploading that, against
rclone and against curl, which upload the plain file; the same rounds, paired medians, printed as ratios.

Azurite is one JavaScript process that takes part in every byte and shares the machine's cores: it is what limits all four, and most where the
client works beside it. rclone and curl neither encrypt nor hash the whole. Goal set before measuring: 1.5 times rclone where Azurite
allows, and more than seal then upload. CPU seconds say more than the clock where others use the machine: those of the client, and those of
Azurite with its start, which takes the same in each.

    publish.py [--mib 512] [--runs 3]             throughput
    publish.py --peaks [--gib 4] [--throw-away]   peaks, of a sparse model; --throw-away: a service that keeps no byte takes Azurite's place,
                                                  for models that do not fit this machine's disk twice"""
import argparse
import base64
import hashlib
import hmac
import http.server
import os
import pathlib
import resource
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tbsys import Azurite, program  # noqa: E402  pylint: disable=wrong-import-position
from upload import by_curl, timed  # noqa: E402  pylint: disable=wrong-import-position


def used(d):
    """Bytes of disk under d, holes not counted."""
    return sum(f.lstat().st_blocks * 512 for f in d.rglob("*"))


def argv_of_stream(a, d, n, model):
    return [program("tbpkg"), "encrypt", "-q", "--upload", "-a", f"stream-{n}", "-s", a.account, "-k", f"{d}/", "-m", d / f"{n}.json",
            "--endpoint", a.endpoint, model]


def by_stream(a, d, n):
    return timed(argv_of_stream(a, d, n, d / "plain"), {"AZURE_STORAGE_KEY": a.key})[0]


def by_file(a, d, n):
    """Seal, then upload."""
    out = d / "f.tbenc"
    t = timed([program("tbpkg"), "encrypt", "-q", "-f", "-a", f"file-{n}", "-o", out, "-k", f"{d}/", d / "plain"])[0]
    t += timed([program("tbpkg"), "upload", "-q", "-s", a.account, "-C", "models", "-a", f"file-{n}", "-e", out, "-m", d / "f.manifest.json",
                "--endpoint", a.endpoint], {"AZURE_STORAGE_KEY": a.key})[0]
    out.unlink()
    return t


def sas_of(a):
    """Of the account, for blobs."""
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
    q = {"sv": "2021-06-08", "ss": "b", "srt": "sco", "sp": "rwdlac", "se": expiry}
    to_sign = "\n".join([a.account, q["sp"], q["ss"], q["srt"], "", q["se"], "", "", q["sv"], "", ""])
    mac = hmac.new(base64.b64decode(a.key), to_sign.encode(), hashlib.sha256).digest()
    return urllib.parse.urlencode({**q, "sig": base64.b64encode(mac).decode()})


def by_rclone(a, d, n):
    remote = {"RCLONE_CONFIG": str(d / "none"), "RCLONE_AZUREBLOB_SAS_URL": f"{a.endpoint}?{sas_of(a)}"}
    return timed(["rclone", "-q", "copyto", "--azureblob-chunk-size", "8M", "--azureblob-upload-concurrency", "16", d / "plain",
                  f":azureblob:models/rclone-{n}"], remote)[0]


def cpu_of_children():
    """Of those that ended."""
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def throughput(args):
    with tempfile.TemporaryDirectory() as tmp:
        d = pathlib.Path(tmp)
        with open(d / "plain", "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(1 << 20))
        ways = {"tbpkg, sealed on the way": by_stream, "tbpkg, sealed, then uploaded": by_file, "rclone, not sealed": by_rclone,
                "curl, one Put Blob, not sealed": lambda a, d, n: by_curl(a, d / "plain", n)}
        rounds = []
        for n in range(args.runs):
            rounds.append({})
            for name, way in ways.items():  # a fresh service each: it slows down as it fills
                with tempfile.TemporaryDirectory() as place:
                    a = Azurite(pathlib.Path(place) / "azurite").start()
                    try:
                        a.create_container("models")
                        before = cpu_of_children()
                        seconds = way(a, d, n)
                        client = cpu_of_children() - before
                    finally:
                        a.stop()
                    rounds[-1][name] = (seconds, client, cpu_of_children() - before - client)
    print(f"| {args.mib} MiB into Azurite, {args.runs} rounds | MB/s | sealed on the way is faster by | CPU s, client | CPU s, Azurite |\n"
          "|---|---|---|---|---|")
    first = next(iter(ways))
    for name in ways:
        t, client, azurite = (statistics.median(r[name][i] for r in rounds) for i in range(3))
        ratio = statistics.median(r[name][0] / r[first][0] for r in rounds)
        print(f"| {name} | {args.mib * 1.048576 / t:.0f} | {ratio:.2f} | {client:.1f} | {azurite:.1f} |")


class Nowhere(http.server.BaseHTTPRequestHandler):
    """Enough of the Blob service to take an asset and keep nothing of it."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response_only(code)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        self.answer(404, x_ms_error_code="BlobNotFound")

    do_GET = do_HEAD

    def do_PUT(self):
        left, buf = int(self.headers["Content-Length"]), memoryview(bytearray(1 << 18))
        while left > 0:
            left -= self.rfile.readinto(buf[:min(left, len(buf))])
        self.answer(201)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class ThrowAway:
    account, key = "nowhere", "a2V5" * 16

    def start(self):
        self.server = Server(("127.0.0.1", 0), Nowhere)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}/{self.account}"
        return self

    def create_container(self, name):
        pass

    def stop(self):
        self.server.shutdown()


def peaks(args):
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory() as other:
        d, peak = pathlib.Path(tmp), 0
        with open(d / "plain", "wb") as f:
            f.truncate(args.gib << 30)
        a = (ThrowAway() if args.throw_away else Azurite(pathlib.Path(other) / "azurite")).start()
        try:
            a.create_container("models")
            start = time.monotonic()
            p = subprocess.Popen([str(w) for w in argv_of_stream(a, d, 0, d / "plain")], env={**os.environ, "AZURE_STORAGE_KEY": a.key})
            while True:
                peak = max(peak, used(d))
                pid, status, usage = os.wait4(p.pid, os.WNOHANG)
                if pid:
                    break
                time.sleep(0.1)
            seconds = time.monotonic() - start
        finally:
            a.stop()
        assert os.waitstatus_to_exitcode(status) == 0
        print(f"| sparse model of {args.gib} GiB | |\n|---|---|\n| disk, peak | {peak / 1024:.0f} KiB |\n| memory, peak | {usage.ru_maxrss / 1024:.0f} MiB |\n"
              f"| seconds | {seconds:.0f} |\n| CPU seconds | {usage.ru_utime + usage.ru_stime:.0f} |")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--mib", type=int, default=512)
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--peaks", action="store_true")
    ap.add_argument("--gib", type=int, default=4)
    ap.add_argument("--throw-away", action="store_true")
    args = ap.parse_args()
    (peaks if args.peaks else throughput)(args)


if __name__ == "__main__":
    main()
