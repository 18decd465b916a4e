#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The delivery programs as they run: tb-load and tb-decrypt, from the start of tb-load until the reader has the last byte (fifo) or the
runtime is started on the files (dir). Against `age -d` into the same reader, and against `cp` into tmpfs.

Expected: fifo >= 2 x age; dir >= 0.8 x cp (both write every byte of the model to fresh tmpfs pages once).

    deliver.py [--mib 1024] [--rounds 5]"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Daemon, program, unix_listener  # noqa: E402


class Delivery:
    def __init__(self, d, mib):
        self.d, self.bytes = pathlib.Path(d), mib << 20
        with open(self.d / "plain", "wb") as f:
            block = os.urandom(1 << 20)
            for _ in range(mib):
                f.write(block)
        target = self.d / "target"
        target.mkdir()
        subprocess.run([program("tbpkg"), "encrypt", "-q", "--asset-id", "bench", "--in", self.d / "plain", "--out", target / "model.tbenc",
                        "--manifest", target / "model.manifest.json", "--key-out", self.d / "key", "--chunk-bytes", "1MiB"], check=True)
        subprocess.run(["age-keygen", "-o", self.d / "age.key"], check=True, stderr=subprocess.DEVNULL)
        recipient = next(line.split()[-1] for line in (self.d / "age.key").read_text().splitlines() if "public key" in line)
        subprocess.run(["age", "-r", recipient, "-o", self.d / "age.out", self.d / "plain"], check=True)
        self.key = bytes.fromhex((self.d / "key").read_text().strip())

    def gbps(self, t):
        return self.bytes / t / 1e9

    def age(self):
        t = time.monotonic()
        age = subprocess.Popen(["age", "-d", "-i", self.d / "age.key", self.d / "age.out"], stdout=subprocess.PIPE)
        subprocess.run(["dd", "bs=1M", "of=/dev/null"], stdin=age.stdout, check=True, stderr=subprocess.DEVNULL)
        age.stdout.close()
        assert age.wait() == 0
        return self.gbps(time.monotonic() - t)

    def cp(self):
        t = time.monotonic()
        subprocess.run(["cp", self.d / "plain", self.d / "copy"], check=True)
        t = time.monotonic() - t
        (self.d / "copy").unlink()
        return self.gbps(t)

    def deliver(self, mode):
        run = self.d / "run"
        env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "bench", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_DELIVERY": mode,
               "TB_TARGET_DIR": self.d / "target", "TB_RUN_DIR": run, "TB_MODEL_DIR": self.d / "model", "TB_PIPE_PATH": self.d / "pipe",
               "TB_READY_SIGNAL": self.d / "ready"}
        env["TB_RUNTIME_EXEC"] = "/bin/true {model}" if mode == "dir" else "/bin/dd bs=1M of=/dev/null if={model}"
        run.mkdir(exist_ok=True)
        sock = unix_listener(run / "tb-decrypt.sock", "seqpacket")
        decrypt = Daemon([program("tb-decrypt")], env=env, listen={"decrypt": sock}, runtime_dir=run / "tb-decrypt", log=self.d / "log",
                         credentials={"model-key": self.key, "manifest-sha256": b"none"})
        load = Daemon([program("tb-load")], env=env, runtime_dir=run / "tb-runtime", log=self.d / "log")
        t = time.monotonic()
        decrypt.start()
        load.start()
        rc = load.proc.wait(300)
        t = time.monotonic() - t
        assert rc == 0 and decrypt.wait() == 0, (self.d / "log").read_text()[-2000:]
        load.wait()
        sock.close()
        return self.gbps(t)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--mib", type=int, default=1024)
    ap.add_argument("--rounds", type=int, default=5)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tb-bench-deliver-") as d:
        x = Delivery(d, a.mib)
        rows = {"age -d | dd": [], "tb-load + tb-decrypt, fifo, into dd": [], "cp into tmpfs": [], "tb-load + tb-decrypt, dir": []}
        for _ in range(a.rounds):
            for values, fn in zip(rows.values(), (x.age, lambda: x.deliver("fifo"), x.cp, lambda: x.deliver("dir"))):
                values.append(fn())
    names = list(rows)
    for name, base in ((names[0], None), (names[1], names[0]), (names[2], None), (names[3], names[2])):
        values = rows[name]
        ratio = f"   {statistics.median(v / b for v, b in zip(values, rows[base])):6.2f} x {base}" if base else ""
        print(f"  {name:<46} {statistics.median(values):8.3f} GB/s  ({min(values):.3f} .. {max(values):.3f}){ratio}")


if __name__ == "__main__":
    main()
