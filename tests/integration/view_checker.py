# SPDX-License-Identifier: Apache-2.0
"""A runtime that compares what it reads of a view with the plaintext, however it reads, and a download and a view behind it: what the
tests of faults under a reader share."""

import hashlib
import random
import sys
import threading

import faultproxy as fp
import tbsys
from delivery_asset import Asset

RANGE = 128 * 1024
RECORD = 4 * RANGE
ON_DISK = RECORD + 20  # a record with its length and tag
BLOCK = 2 * RECORD  # what tb-decrypt decrypts as one

# ARGV: model, plaintext, directory to write to, how, and whether to wait for a file `go` there. Writes `pid` when it is about to read, `at`
# while it does, `wrong` when a byte is not the plaintext's, `sum` at the end. An error of the file system, or SIGBUS, ends it.
CHECKER = r'''
import ctypes, hashlib, mmap, os, pathlib, random, signal, sys, time
model, plain, out, how = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
want = open(plain, "rb").read()
direct = how == "direct"
fd = os.open(model, os.O_RDONLY | (os.O_DIRECT if direct else 0))
if how == "signals":
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
(out / "pid").write_text(str(os.getpid()))
while "wait" in sys.argv and not (out / "go").exists():
    time.sleep(0.01)
def say(name, text):
    (out / (name + ".tmp")).write_text(text)
    os.rename(out / (name + ".tmp"), out / name)
def check(at, got):
    if got != want[at:at + len(got)]:
        say("wrong", str(at))
        sys.exit("wrong bytes at %d" % at)
n, whole = os.fstat(fd).st_size, hashlib.sha256()
if n != len(want):
    say("wrong", "size")
if how == "last":
    last = os.pread(fd, 50, n - 50)
    check(n - 50, last)
    say("last", str(len(last)))
if how in ("mapped", "signals", "random"):
    m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    if how != "mapped":
        m.madvise(mmap.MADV_RANDOM)
    order = list(range(0, n, 65536))
    if how == "random":
        random.Random(1).shuffle(order)
    for i in order:
        check(i, m[i:i + 65536])
        say("at", str(i))
    whole.update(m)
else:
    buf, at = mmap.mmap(-1, 1 << 20), 0
    while True:
        k = os.preadv(fd, [buf], at) if direct else 0
        d = buf[:k] if direct else os.pread(fd, 65536, at)
        if not d:
            break
        check(at, d)
        whole.update(d)
        at += len(d)
        say("at", str(at))
signal.setitimer(signal.ITIMER_REAL, 0)
say("sum", whole.hexdigest())
while "stay" in sys.argv and not (out / "end").exists():
    time.sleep(0.02)
'''


class View:
    """A download that may stop at a gate, and a view behind it that somebody reads."""

    def __init__(self, house, ranges=48):
        self.house, self.w, self.rig, self.gate = house, house.w, house.rig, threading.Event()
        self.ranges, self.starts = ranges, 0
        house.asset = Asset(random.Random(ranges).randbytes(ranges * RANGE + 77), chunk_bytes=RECORD)
        house.upload(house.asset)
        house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(RANGE)
        self.plain = self.rig.tmp / "plain"
        self.plain.write_bytes(house.asset.plain)

    def close_gate(self, first=16):
        """Ranges from the first on do not come before the gate opens."""
        starts = "|".join(str(i * RANGE) for i in range(first, self.ranges + 2))
        self.w.proxy.rule(fp.hold(self.gate), path="model.tbenc$", range=f"^bytes=({starts})-")

    def hydrate(self):
        self.download = self.w.start()
        self.download.wait_notify("READY")
        return self.download

    def begin(self, how="buffered", *more, first=16):
        """A download that stops at the gate, and a reader that has read as far."""
        self.close_gate(first)
        self.hydrate()
        self.read(how, *more)
        if how not in ("random", "last"):  # whose wishes wait at the gate, perhaps before all that is not behind it came
            tbsys.wait_for(lambda: self.w.progress().get("bytes_done", 0) >= first * RANGE, 60, what="all that comes before the gate")
            self.wait_at((first * RANGE - 32) // (2 * ON_DISK) * BLOCK - 65536)
        return self

    def read_later(self, how="buffered"):
        """A runtime that has opened the model, and reads it when it is told to go()."""
        self.read(how, "wait")
        tbsys.wait_for(lambda: (self.out / "pid").exists() or self.load.rc is not None, what="the runtime")
        return self

    def read(self, how="buffered", *more, **env):
        """A start of the runtime."""
        self.starts += 1
        self.out = self.rig.tmp / f"checker-{self.starts}"
        self.out.mkdir()
        script = self.rig.script("checker.py", CHECKER)
        self.load = self.rig.load("view", " ".join(map(str, (sys.executable, script, "{model}", self.plain, self.out, how, *more))))
        self.decrypt = self.rig.decrypt(self.house.asset, **env)
        self.decrypt.start(), self.load.start()
        return self

    def at(self):
        return int((self.out / "at").read_text()) if (self.out / "at").exists() else 0

    def log(self):
        return self.load.log_text() + self.decrypt.log_text() + self.w.log()

    def wait_at(self, n):
        tbsys.wait_for(lambda: self.at() >= n or self.load.rc is not None, 60, what="the reader")
        assert self.at() >= n, self.log()

    def go(self):
        (self.out / "go").write_text("")

    def live(self):
        return self.rig.target / "model.tbenc.part.live"

    def is_served_anew(self):
        """Another start of the runtime, as systemd makes it, with another tb-hydrate before it."""
        assert self.w.run()[0] == 0, self.w.log()
        self.read()
        self.is_whole()

    def ended_well_or_in_error(self):
        """The runtime came to an end by itself: with all of it right, or in an error; never with a wrong byte."""
        self.load.wait(60)
        self.is_right_so_far()
        assert (self.load.rc == 0) == (self.out / "sum").exists()

    def is_right_so_far(self):
        assert not (self.out / "wrong").exists(), (self.out / "wrong").read_text()
        total = hashlib.sha256(self.house.asset.plain).hexdigest()
        assert not (self.out / "sum").exists() or (self.out / "sum").read_text() == total

    def is_whole(self):
        assert self.load.wait(60) == 0, self.log()
        self.is_right_so_far()
        assert (self.out / "sum").exists(), self.log()
        assert self.decrypt.wait() == 0, self.log()

    def mends_until_the_end(self, serve=60):
        """Runs tb-hydrate whenever it is called, as its units do, until the runtime has ended."""
        call, heard = self.rig.run / "tb-decrypt/repair", None

        def called():
            nonlocal heard
            if self.load.rc is not None:
                return True
            now = call.stat() if call.exists() else None
            now = now and (now.st_ino, now.st_mtime_ns)
            if now == heard:
                return False
            heard = now
            self.w.run()
            return False
        tbsys.wait_for(called, serve, what="the end of the runtime")


def place(record):
    """Where it begins in the ciphertext."""
    return 32 + record * ON_DISK


def overwrite(path, record, at=5000, n=16):
    """As dd does: the time of the file changes too."""
    with open(path, "r+b") as f:
        f.seek(place(record) + at)
        data = f.read(n)
        f.seek(place(record) + at)
        f.write(bytes(b ^ 0x5a for b in data))
