#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: TrustBridge against its peers on this machine. Each round runs every side once, in turn; figures are medians over
the rounds, ratios are medians of the rounds' ratios. Expectations were written before optimising; docs/performance.md says
what was reached and why.

    run.py [--mib 1024] [--rounds 5] [--only seal,open,deliver,hydrate,upload,proxy]"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
SPEED = REPO / "build/bench/tbenc_speed"
CHUNK, THREADS = 1 << 20, 2


def seconds(argv, stdin=None, stdout=subprocess.DEVNULL):
    t = time.monotonic()
    subprocess.run([str(a) for a in argv], check=True, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)
    return time.monotonic() - t


def speed(op, d, mib):
    """GB/s as the library measures itself, without process start."""
    out = subprocess.run([SPEED, op, d, str(mib), str(CHUNK), str(THREADS)], check=True, capture_output=True, text=True).stdout
    return float(out.split()[1])


class Peers:
    """age, and the files both sides work on."""

    def __init__(self, d, mib):
        self.d, self.mib, self.bytes = pathlib.Path(d), mib, mib << 20
        subprocess.run(["age-keygen", "-o", self.d / "age.key"], check=True, stderr=subprocess.DEVNULL)
        self.recipient = next(line.split()[-1] for line in (self.d / "age.key").read_text().splitlines() if "public key" in line)
        speed("seal", d, mib)  # makes speed.pt, speed.tbenc, speed.json

    def gbps(self, t):
        return self.bytes / t / 1e9

    def cp(self):
        t = seconds(["cp", self.d / "speed.pt", self.d / "copy"])
        (self.d / "copy").unlink()
        return self.gbps(t)

    def age_encrypt(self):
        (self.d / "age.out").unlink(missing_ok=True)
        return self.gbps(seconds(["age", "-r", self.recipient, "-o", self.d / "age.out", self.d / "speed.pt"]))

    def age_decrypt(self):
        """To a pipe that is read, as decrypt-to-FIFO is."""
        t = time.monotonic()
        age = subprocess.Popen(["age", "-d", "-i", self.d / "age.key", self.d / "age.out"], stdout=subprocess.PIPE)
        subprocess.run(["dd", "bs=1M", "of=/dev/null"], stdin=age.stdout, check=True, stderr=subprocess.DEVNULL)
        age.stdout.close()
        assert age.wait() == 0
        return self.gbps(time.monotonic() - t)

    def tbpkg_encrypt(self):
        for f in ("b.tbenc", "b.json", "b.key"):
            (self.d / f).unlink(missing_ok=True)
        return self.gbps(seconds([REPO / "build/tbpkg", "encrypt", "--asset-id", "b", "--in", self.d / "speed.pt", "--out", self.d / "b.tbenc",
                                  "--manifest", self.d / "b.json", "--key-out", self.d / "b.key", "--threads", THREADS]))


def table(title, rows, rounds, base):
    """rows: name -> one figure a round (GB/s); base: the name every ratio is taken against, or a map name -> base."""
    print(f"\n{title}")
    for name, values in rows.items():
        against = base.get(name) if isinstance(base, dict) else base
        line = f"  {name:<46} {statistics.median(values):8.3f} GB/s  ({min(values):.3f} .. {max(values):.3f})"
        if against and against != name:
            line += f"   {statistics.median(v / b for v, b in zip(values, rows[against])):6.2f} x {against}"
        print(line, flush=True)


def collect(rounds, sides):
    rows = {name: [] for name in sides}
    for _ in range(rounds):
        for name, fn in sides.items():
            rows[name].append(fn())
    return rows


def bench_seal(p, rounds):
    sides = {"SHA-256, one core, in cache": lambda: speed("sha256", p.d, p.mib),
             "AES-256-GCM, one core, in cache": lambda: speed("gcm", p.d, p.mib), "cp, tmpfs to tmpfs": p.cp, "age -r": p.age_encrypt,
             "libtbenc seal to /dev/null, 2 threads": lambda: speed("seal-null", p.d, p.mib),
             "libtbenc seal to tmpfs, 2 threads": lambda: speed("seal", p.d, p.mib), "tbpkg encrypt, 2 threads": p.tbpkg_encrypt}
    rows = collect(rounds, sides)
    # Sealing needs one pass of each on two cores; the hash of the whole file is serial.
    bound = "bound: min(SHA-256, 2 cores / (SHA-256 + GCM))"
    rows[bound] = [min(s, 2 / (1 / s + 1 / g))
                   for s, g in zip(rows["SHA-256, one core, in cache"], rows["AES-256-GCM, one core, in cache"])]
    table("Encrypt 1 GiB in /dev/shm (expected: seal >= 0.9 of the bound where fresh tmpfs pages are not the limit)", rows, rounds,
          {"libtbenc seal to /dev/null, 2 threads": bound, "libtbenc seal to tmpfs, 2 threads": "cp, tmpfs to tmpfs",
           "tbpkg encrypt, 2 threads": "age -r"})


def bench_open(p, rounds):
    if not (p.d / "age.out").exists():
        p.age_encrypt()
    rows = collect(rounds, {"age -d | dd": p.age_decrypt, "cp, tmpfs to tmpfs": p.cp, "libtbenc to a FIFO, 2 threads": lambda: speed("fifo", p.d, p.mib),
                            "libtbenc to tmpfs, 2 threads": lambda: speed("files", p.d, p.mib)})
    table("Decrypt from /dev/shm (expected: FIFO >= 2.5 GB/s, tmpfs >= 2.3 GB/s)", rows, rounds,
          {"libtbenc to a FIFO, 2 threads": "age -d | dd", "libtbenc to tmpfs, 2 threads": "cp, tmpfs to tmpfs"})


def script(name, *args):
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, HERE / f"{name}.py", *map(str, args)], check=True)


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
    have = " ".join(f for f in ("aes", "vaes", "sha_ni", "avx2", "avx512f") if f in flags)
    print(f"{model}, {os.cpu_count()} CPUs, {have}; load {os.getloadavg()[0]:.2f}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--mib", type=int, default=1024)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--only", default="seal,open,deliver,hydrate,upload,proxy")
    a = ap.parse_args()
    only = a.only.split(",")
    machine()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tb-bench-") as d:
        if "seal" in only or "open" in only:
            p = Peers(d, a.mib)
            if "seal" in only:
                bench_seal(p, a.rounds)
            if "open" in only:
                bench_open(p, a.rounds)
        shutil.rmtree(d)
        os.mkdir(d)
    for name, args in (("deliver", ["--mib", a.mib, "--rounds", a.rounds]), ("hydrate", ["--mib", a.mib, "--runs", a.rounds]),
                       ("upload", ["--mib", min(a.mib, 256), "--runs", a.rounds]),
                       ("proxy", ["--rounds", a.rounds, "--peers", "nginx,tb-proxy"])):
        if name in only:
            script(name, *args)


if __name__ == "__main__":
    main()
