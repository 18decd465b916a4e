#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-view`: a view of ciphertext that is there, in tmpfs, against other ways to the same bytes, all from nothing in each round: from the
start of tb-load (or gocryptfs) until a reader has the last byte. Medians over the rounds, and of the rounds' ratios.

read    one reader: view >= 1.25 x dir, >= 1.8 x gocryptfs; 16 threads, 2 MiB at a time, O_DIRECT on the view: >= 1.3 x dir with 16 threads
memory  tb-decrypt and a runtime that reads a model twice in a memory control group of 300 MB: serves, and what was read is the model
bus     from a suspension (SIGTERM to tb-decrypt) until a process that has everything mapped and locked has SIGBUS: <= 1 s

    view.py [--mib 1024] [--rounds 5] [--only read,memory,bus] [--dir-of BUILD]     as root

--dir-of: dir is that of another build, as of the last commit before there were views: 658b75c9^."""
import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e-vagrant/lib"), str(ROOT / "tests/integration")]
from delivery_asset import ASSET  # noqa: E402  pylint: disable=wrong-import-position
from delivery_rig import Rig, udev  # noqa: E402  pylint: disable=wrong-import-position
from tbsys import program, wait_for  # noqa: E402  pylint: disable=wrong-import-position

READER = ROOT / "build/bench/reader"
GROUP_BYTES = 300_000_000


class Local:
    def __init__(self, tmp, mib, dir_of=None):
        self.tmp, self.bytes, self.n, self.dir_of = tmp, mib << 20, 0, dir_of
        with open(tmp / "plain", "wb") as f:
            block = os.urandom(1 << 20)
            for _ in range(mib):
                f.write(block)
        (tmp / "target").mkdir()
        subprocess.run([program("tbpkg"), "encrypt", "-q", "--asset-id", ASSET, "--in", tmp / "plain", "--out", tmp / "target/model.tbenc",
                        "--manifest", tmp / "target/model.manifest.json", "--key-out", tmp / "key", "--chunk-bytes", "1MiB"], check=True)
        self.asset = types.SimpleNamespace(key=bytes.fromhex((tmp / "key").read_text().strip()))
        for name in ("cipher", "clear"):
            (tmp / name).mkdir()
        self.password = "--extpass", "echo benchmark"
        subprocess.run(["gocryptfs", "-q", "-init", "-scryptn", "10", *self.password, tmp / "cipher"], check=True)
        self.mount()
        shutil.copy(tmp / "plain", tmp / "clear/model")
        self.unmount()

    def mount(self):
        subprocess.run(["gocryptfs", "-q", *self.password, self.tmp / "cipher", self.tmp / "clear"], check=True, stderr=subprocess.DEVNULL)

    def unmount(self):
        subprocess.run(["fusermount", "-u", self.tmp / "clear"], check=True)

    def gbps(self, began, said):
        return self.bytes / (float(said.read_text().split()[1]) - began) / 1e9

    def gocryptfs(self, how, threads):
        began, out = time.monotonic(), self.tmp / "said"
        self.mount()
        try:
            subprocess.run([READER, how, str(threads), "1", self.tmp / "clear/model", out], check=True)
        finally:
            self.unmount()
        return self.gbps(began, out)

    def start(self, mode, how, threads=1, times=1, preexec=None):
        self.n += 1
        place = self.tmp / f"rig-{self.n}"
        place.mkdir()
        rig = Rig(place)
        rig.target = self.tmp / "target"
        decrypt, load = rig.decrypt(self.asset), rig.load(
            mode, f"{READER} {how} {threads} {times} {{model}} {rig.out}", preexec=preexec,
            env={"INVOCATION_ID": "1"})  # as under systemd it waits for udev
        decrypt.preexec = preexec
        decrypt.start()
        with udev(rig) if mode == "view" else contextlib.nullcontext():
            began = time.monotonic()
            load.start()
            wait_for(lambda: "starting" in load.log_text(), 60, "a model that can be read", every=0.001)
        return rig, decrypt, load, began

    def deliver(self, mode, how, threads):
        if mode == "dir" and self.dir_of:
            os.environ["TB_BUILD"] = self.dir_of  # where program() looks
        else:
            os.environ.pop("TB_BUILD", None)
        rig, decrypt, load, began = self.start(mode, how, threads)
        try:
            assert load.wait(300) == 0 and decrypt.wait(60) == 0, load.log_text() + decrypt.log_text()
            return self.gbps(began, rig.out)
        finally:
            rig.close()


def bench_read(x, rounds):
    sides = {"gocryptfs, 1 reader": lambda: x.gocryptfs("read", 1), "dir, 1 reader": lambda: x.deliver("dir", "read", 1),
             "view, 1 reader": lambda: x.deliver("view", "read", 1), "view, mapped": lambda: x.deliver("view", "map", 1),
             "dir, 16 readers": lambda: x.deliver("dir", "read", 16), "view, 16 readers": lambda: x.deliver("view", "read", 16),
             "view, 16 readers, O_DIRECT": lambda: x.deliver("view", "direct", 16)}
    rows = {name: [] for name in sides}
    for _ in range(rounds):
        for name, fn in sides.items():
            rows[name].append(fn())
    for name, values in rows.items():
        print("%-28s %6.3f GB/s  (%.3f .. %.3f)" % (name, statistics.median(values), min(values), max(values)), flush=True)
    for name, peer, goal in (("view, 1 reader", "dir, 1 reader", 1.25), ("view, 1 reader", "gocryptfs, 1 reader", 1.8),
                             ("view, 16 readers, O_DIRECT", "dir, 16 readers", 1.3)):
        print("%-28s / %-20s %5.2f  (goal >= %.2f)" % (name, peer, statistics.median(a / b for a, b in zip(rows[name], rows[peer])), goal), flush=True)


def bench_memory(x):
    subprocess.run([READER, "read", "1", "2", x.tmp / "plain", x.tmp / "sum"], check=True)
    v1 = pathlib.Path("/sys/fs/cgroup/memory")
    top = v1 if v1.is_dir() else pathlib.Path("/sys/fs/cgroup")
    if top != v1:
        (top / "cgroup.subtree_control").write_text("+memory")
    group = top / f"tb-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if top == v1 else "memory.max")).write_text(str(GROUP_BYTES))
        rig, decrypt, load, began = x.start("view", "map", 4, 2, lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        served = load.wait(300) == 0 and decrypt.wait(60) == 0
        right = served and rig.out.read_text().split()[2] == (x.tmp / "sum").read_text().split()[2]
        took = float(rig.out.read_text().split()[1]) - began if served else 0
        rig.close()
        peak = int((group / ("memory.max_usage_in_bytes" if top == v1 else "memory.peak")).read_text())
        print("%d MiB model in %d MB of memory: %s, %s, twice in %.2f s; peak %d MB  (goal: served, right)" % (
            x.bytes >> 20, GROUP_BYTES // 10**6, "served" if served else "NOT SERVED", "right" if right else "NOT RIGHT", took, peak // 10**6), flush=True)
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the end of the group")
        group.rmdir()


def bench_bus(x, rounds):
    took = []
    for _ in range(rounds):
        rig, decrypt, load, _ = x.start("view", "lock")
        wait_for(lambda r=rig: r.out.exists(), 60, "a locked model")
        at = time.monotonic()
        decrypt.proc.send_signal(signal.SIGTERM)
        wait_for(lambda r=rig: r.out.read_text().startswith("bus"), 30, "SIGBUS")
        took.append(float(rig.out.read_text().split()[1]) - at)
        load.wait(60), decrypt.wait(60)
        rig.close()
    print("SIGBUS after a suspension, %d MiB mapped and locked: %.2f s (%s)  (goal <= 1.00)" % (
        x.bytes >> 20, statistics.median(took), " ".join("%.2f" % t for t in took)), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mib", type=int, default=1024)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default="read,memory,bus")
    p.add_argument("--dir-of", metavar="BUILD")
    a = p.parse_args()
    print("load %.2f" % os.getloadavg()[0])
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tb-bench-view-") as d:
        x = Local(pathlib.Path(d), a.mib, a.dir_of)
        if "read" in a.only:
            bench_read(x, a.rounds)
        if "bus" in a.only:
            bench_bus(x, min(a.rounds, 3))
        if "memory" in a.only:
            bench_memory(x)


if __name__ == "__main__":
    main()
