# SPDX-License-Identifier: Apache-2.0
"""Mode view: a file system that tb-decrypt answers for as long as the runtime lives, and what becomes of its readers when it
does not any more."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import signal
import sys
import time

import pytest

import tbsys
from delivery_asset import Asset
from delivery_rig import FILES, Rig, both, expected, rig, udev  # noqa: F401 (a fixture)

MIB = 1 << 20
MODES = {p: "0o444" for p in FILES}


def test_the_runtime_sees_the_files(rig):
    asset = Asset(FILES, chunk_bytes=4096).write(rig.target)
    rig.stay.write_text("")
    load = rig.probe(mode="view")
    decrypt = both(rig, asset, load)
    facts = rig.facts()
    assert facts["files"] == expected(FILES, MODES)
    assert facts["write"] == "Read-only file system" and facts["create"] == "Read-only file system"
    assert facts["fds"] == [0, 1, 2]
    tbsys.wait_for(lambda: rig.progress()["state"] == "complete", what="all of it verified")
    assert rig.delivery()["state"] == "streaming" and rig.delivery()["mode"] == "view"
    rig.stay.unlink()
    assert load.wait() == 7
    assert decrypt.wait() == 0
    assert rig.progress()["state"] == "ended"
    assert rig.leftovers() == [str(rig.signal)]


# Says how far the kernel reads ahead what its model lies in.
AHEAD = r"""
import os, pathlib, sys
dev = os.stat(sys.argv[1]).st_dev
kib = pathlib.Path(f"/sys/class/bdi/{os.major(dev)}:{os.minor(dev)}/read_ahead_kb").read_text()
pathlib.Path(sys.argv[2]).write_text(kib.strip())
"""


@pytest.mark.parametrize("systemd, there", [(True, True), (True, False), (False, False)])
def test_the_runtime_starts_when_the_kernel_reads_ahead(rig, systemd, there):
    """tb-load waits for udev, for a while, where there is one; without it the runtime starts all the same, and the journal says what is lost."""
    asset = Asset(FILES, chunk_bytes=4096).write(rig.target)
    load = rig.load("view", f"{sys.executable} {rig.script('ahead.py', AHEAD)} {{model}} {rig.out}",
                    env={"INVOCATION_ID": "1"} if systemd else None)
    with udev(rig) if there else contextlib.nullcontext():
        decrypt = both(rig, asset, load)
        assert load.wait() == 0, load.log_text()
    assert decrypt.wait() == 0
    assert rig.out.read_text() == ("2048" if there else "128")
    assert load.log_text().count("udev has not applied 90-trustbridge.rules") == (systemd and not there)
    assert not (rig.run / "tb-runtime/mounting").exists()


def test_a_stop_does_not_wait_for_udev(rig):
    """systemd gives it half a second."""
    asset = Asset(FILES, chunk_bytes=4096).write(rig.target)
    load = rig.load("view", "/bin/false {model}", env={"INVOCATION_ID": "1"})
    both(rig, asset, load)
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="the mount", every=0.002)
    load.proc.send_signal(signal.SIGTERM)
    assert load.wait() == -signal.SIGTERM
    assert "udev has not applied" not in load.log_text() and rig.delivery()["state"] == "failed"
    assert not (rig.run / "tb-runtime/mounting").exists()


def model_of(n, seed=7, **kw):
    rng = random.Random(seed)
    return Asset(b"".join(rng.randbytes(min(MIB, n - at)) for at in range(0, n, MIB)), chunk_bytes=kw.pop("chunk_bytes", MIB), **kw)


# Maps the model, says where it is by files in OUT (a directory), and does what ARGV[3] says until it ends.
MAPPER = r'''
import ctypes, mmap, os, pathlib, signal, sys, time
model, out, locked = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] == "locked"
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def say(name, text):  # whole or not at all, as it may be killed
    (out / f"{name}.new").write_text(text)
    (out / f"{name}.new").rename(out / name)
fd = os.open(model, os.O_RDONLY)
n = os.fstat(fd).st_size
base = libc.mmap(None, n, 1, 1, fd, 0)
say("pid", str(os.getpid()))
if locked and libc.mlock(ctypes.c_void_p(base), ctypes.c_size_t(n)) != 0:
    sys.exit("mlock: " + os.strerror(ctypes.get_errno()))
def touch():
    return sum(ctypes.c_ubyte.from_address(base + i).value for i in range(0, n, 4096))
first = touch()
say("sum", str(first))
while sys.argv[3] == "again":
    if (out / "go").exists():
        libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t(n), 4)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if touch() != first:
        say("wrong", "the mapped bytes changed")
    time.sleep(0.01)
while True:
    if touch() != first:
        say("wrong", "the mapped bytes changed")
    time.sleep(0.01)
'''


def first_sum(asset):
    return str(sum(asset.plain[::4096]))


def mapper(rig, asset, how="plain", name="mapper", **kw):
    out = rig.tmp / name
    out.mkdir()
    load = rig.load("view", f"{sys.executable} {rig.script('mapper.py', MAPPER)} {{model}} {out} {how}", **kw)
    decrypt = both(rig, asset, load)
    return decrypt, load, out


def touched(out, load):
    tbsys.wait_for(lambda: (out / "sum").exists() or load.rc is not None, what="the mapped model")
    assert (out / "sum").exists(), load.log_text()
    return (out / "sum").read_text()


@pytest.mark.parametrize("how", ["plain", "locked"])
def test_a_suspension_reaches_weights_in_use(rig, how):
    asset = model_of(24 * MIB + 5).write(rig.target)
    decrypt, load, out = mapper(rig, asset, how)
    assert touched(out, load) == first_sum(asset)
    assert decrypt.stop() == 75
    assert load.wait() == -7  # SIGBUS
    assert not (out / "wrong").exists()
    assert rig.progress()["state"] == "failed" and rig.progress()["reason"] == "stopped"


def test_with_tb_decrypt_dead_the_runtime_reads_no_zeros(rig):
    """What is in the page cache may still be read; what is not is a SIGBUS."""
    asset = model_of(24 * MIB).write(rig.target)
    decrypt, load, out = mapper(rig, asset, "again")
    touched(out, load)
    decrypt.kill()
    (out / "go").write_text("")
    assert load.wait() == -7
    assert not (out / "wrong").exists()


@pytest.mark.parametrize("victim", ["decrypt", "load"])
def test_killed_at_any_instant(rig, victim):
    """The runtime reads what is right or dies, and the other program ends by itself."""
    asset = model_of(24 * MIB).write(rig.target)
    for i in range(16):
        decrypt, load, out = mapper(rig, asset, "again", name=f"mapper-{i}")
        tbsys.wait_for(lambda: (out / "pid").exists(), what="the runtime")
        time.sleep(i * 0.01)
        (decrypt if victim == "decrypt" else load).kill()
        (out / "go").write_text("")
        if victim == "decrypt":
            assert load.wait() != 0
        else:
            assert decrypt.wait() == 0
        assert not (out / "wrong").exists()
        assert not (out / "sum").exists() or (out / "sum").read_text() == first_sum(asset)


@pytest.mark.parametrize("where", ["first", "last"])
def test_damage_ends_the_runtime_and_is_named(rig, where):
    asset = model_of(24 * MIB)
    bad = 0 if where == "first" else 23
    n, body = asset.records[bad]
    asset.records[bad] = (n, bytes([body[0] ^ 1]) + body[1:])
    asset.manifest["sha256_ciphertext"] = "0" * 64
    asset.write(rig.target)
    decrypt, load, out = mapper(rig, asset)
    assert decrypt.wait() == 76
    assert load.wait() == 76 if where == "first" else load.wait() != 0
    assert f"chunk {bad}: not authentic" in decrypt.log_text()
    assert not (out / "sum").exists()
    assert rig.progress()["damaged"]["bytes"] == len(asset.ciphertext())
    # The next start finds it before anybody reads.
    load = rig.load("view", "/bin/true")
    decrypt = both(rig, asset, load)
    assert load.wait() == 76 and decrypt.wait() == 76
    assert "is verified first" in decrypt.log_text()
    assert f"chunk {bad}: not authentic" in load.log_text()


def test_a_suspicion_outlives_a_start_that_comes_to_nothing(rig):
    """Nobody has looked at all of it yet."""
    asset = model_of(24 * MIB)
    n, body = asset.records[20]
    asset.records[20] = (n, bytes([body[0] ^ 1]) + body[1:])
    asset.manifest["sha256_ciphertext"] = "0" * 64
    asset.write(rig.target)
    decrypt, load, _ = mapper(rig, asset)
    assert decrypt.wait() == 76 and load.wait() != 0
    mark = rig.progress()["damaged"]
    for wrong in ({"key": b"no key"}, {"bound": "0" * 64}, {"key": b"no key"}):  # the second finds a damage, and no file that has it
        load = rig.load("view", "/bin/true")
        decrypt = both(rig, asset, load, **wrong)
        assert decrypt.wait() == load.wait() != 0
        assert rig.progress()["suspect"] == mark and rig.progress().get("damaged") != mark
    before, asset.records[20] = (rig.target / "model.tbenc").stat().st_mtime_ns, (n, body)
    with open(rig.target / "model.tbenc", "r+b") as f:
        f.write(asset.ciphertext())
    os.utime(rig.target / "model.tbenc", ns=(before, before))
    decrypt, load, _ = mapper(rig, asset, name="well")
    tbsys.wait_for(lambda: rig.progress()["state"] == "complete", what="all of it verified")
    assert "is verified first" in decrypt.log_text() and "suspect" not in rig.progress()
    load.kill()
    assert decrypt.wait() == 0 and rig.progress()["state"] == "ended" and "suspect" not in rig.progress()


def test_memory_that_cannot_be_locked_is_named(rig):
    """Where it runs outside its unit, which has no limit."""
    asset = model_of(5 * MIB).write(rig.target)
    load = rig.load("view", "/bin/true")
    decrypt = rig.decrypt(asset)
    decrypt.argv = ["prlimit", "--memlock=1048576", "setpriv", "--bounding-set", "-ipc_lock", *decrypt.argv]
    decrypt.start(), load.start()
    assert load.wait() == 0 and decrypt.wait() == 0
    assert "memory for what is decrypted cannot be locked, and may be swapped out: Cannot allocate memory" in decrypt.log_text()


def test_a_wrong_key_is_told_before_the_runtime_starts(rig):
    asset = model_of(5 * MIB).write(rig.target)
    load = rig.load("view", "/bin/true")
    decrypt = both(rig, asset, load, key=bytes(32))
    assert load.wait() == 76 and decrypt.wait() == 76
    assert "chunk 0: not authentic: the wrong key" in load.log_text()


def test_a_file_of_another_version_ends_the_runtime(rig):
    """Every record is authentic, and yet it is not the manifest's file."""
    asset = model_of(8 * MIB)
    other = model_of(8 * MIB, seed=8)
    asset.manifest["tags_sha256"] = other.manifest["tags_sha256"]
    asset.write(rig.target)
    decrypt, load, out = mapper(rig, asset)
    assert decrypt.wait() == 76
    assert load.wait() != 0
    assert "tags_sha256 is not what the manifest says" in decrypt.log_text()
    # The next start finds it before the runtime starts.
    load = rig.load("view", f"/bin/touch {rig.out}")
    decrypt = both(rig, asset, load)
    assert load.wait() == 76 and decrypt.wait() == 76 and not rig.out.exists()


def test_without_capabilities_it_is_mounted_in_a_namespace_of_its_own(rig):
    asset = Asset(FILES, chunk_bytes=4096).write(rig.target)
    rig.stay.write_text("")
    load = rig.probe(mode="view", wrapper=("setpriv", "--bounding-set", "-sys_admin"))
    both(rig, asset, load)
    facts = rig.facts()
    assert facts["files"] == expected(FILES, MODES)
    caps = {line.split(":")[0]: line.split()[1] for line in facts["status"].splitlines() if line.startswith("Cap")}
    assert set(caps.values()) == {"0000000000000000"}
    assert "fuse.trustbridge" in facts["mounts"]
    assert os.readlink(f"/proc/{facts['pid']}/ns/user") != os.readlink("/proc/self/ns/user")


# What a runtime that was taken over would try.
BREAKER = r'''
import ctypes, json, os, pathlib, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    return os.strerror(ctypes.get_errno()) if getattr(libc, name)(*args) != 0 else "done"
model = os.path.dirname(sys.argv[1]).encode()
CLONE = {"user": 0x10000000, "mnt": 0x20000, "net": 0x40000000}
facts = {n: call("unshare", f) for n, f in CLONE.items()}
facts["umount"] = call("umount2", model, 2)
facts["remount"] = call("mount", None, model, None, 32, None)
facts["mount"] = call("mount", b"x", model, b"tmpfs", 0, None)
facts["clone3"] = call("syscall", 435, None, 0)
facts["setns"] = call("setns", os.open("/proc/self/ns/uts", 0), 0)
pid = os.fork()
if pid == 0:
    os._exit(9)
facts["fork"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
import threading
t = threading.Thread(target=lambda: facts.update(thread="ran")); t.start(); t.join()
pathlib.Path(sys.argv[2]).write_text(json.dumps(facts))
'''


@pytest.mark.parametrize("mode", ["view", "dir"])
@pytest.mark.parametrize("wrapper", [(), ("setpriv", "--bounding-set", "-sys_admin")], ids=["with", "without"])
def test_the_runtime_makes_no_namespace_and_no_mount(rig, mode, wrapper):
    asset = model_of(3 * MIB).write(rig.target)
    if mode == "dir":
        rig.model.mkdir(mode=0o700)
    load = rig.load(mode, f"{sys.executable} {rig.script('breaker.py', BREAKER)} {{model}} {rig.out}", wrapper=wrapper)
    both(rig, asset, load)
    assert load.wait() == 0, load.log_text()
    facts = tbsys.read_json(rig.out)
    assert facts.pop("fork") == 9 and facts.pop("thread") == "ran"
    assert facts.pop("clone3") == "Function not implemented"
    assert set(facts.values()) == {"Operation not permitted"}, facts


BEFORE = 1


def test_closed_when_the_runtime_is_ready(rig):
    """The key and the pages are gone; what was verified whole stays delivered."""
    asset = model_of(24 * MIB).write(rig.target)
    proxy = rig.run / "tb-proxy/proxy.json"
    proxy.parent.mkdir()
    load = rig.load("view", f"{sys.executable} {rig.script('mapper.py', MAPPER)} {{model}} {rig.tmp} again")
    decrypt = rig.decrypt(asset, TB_VIEW_AFTER_READY="close").start()

    def said(state, since):
        # The clock of day may be set at any time: what it says of the past or the future decides nothing.
        proxy.write_text(json.dumps({"state": state, "since": "2099-01-01T00:00:00Z" if since == BEFORE else "1999-01-01T00:00:00Z",
                                     "since_boottime_us": since}))

    said("Ready", BEFORE)  # of the runtime before
    load.start()
    touched(rig.tmp, load)
    tbsys.wait_for(lambda: rig.progress()["state"] == "complete", what="all of it verified")
    said("Decrypt", 1 << 52)
    assert decrypt.running()
    said("Ready", 1 << 52)
    assert decrypt.wait() == 0
    assert load.wait() == -7
    assert rig.progress()["state"] == "complete"
    assert "the view is closed" in decrypt.log_text()


def test_where_it_cannot_be_had_the_model_goes_to_memory(rig):
    asset = Asset(FILES, chunk_bytes=4096).write(rig.target)
    no_fuse = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/fuse 2>/dev/null || mount --bind /dev/null /dev/fuse; exec "$@"', "sh")
    load = rig.probe(mode="view", wrapper=no_fuse)
    both(rig, asset, load)
    assert rig.facts()["files"] == expected(FILES, {p: "0o444" for p in FILES})
    assert "no view can be had here: a FUSE file system cannot be mounted" in load.log_text()
    assert rig.delivery()["mode"] == "dir"


# Like fsx, but nothing can be written: 16 threads read at random, buffered, with O_DIRECT and mapped, and compare.
STRESS = r'''
import ctypes, hashlib, mmap, os, random, sys, threading
model, plain, out = sys.argv[1:4]
want = open(plain, "rb").read()
n, wrong = len(want), []
def buffered(rng, fd, view):
    at, size = rng.randrange(n), rng.choice((1, 100, 4096, 65536, 1 << 20, 3 << 20))
    return at, os.pread(fd, size, at), size
def direct(rng, fd, view):
    buf = mmap.mmap(-1, 2 << 20)
    at = rng.randrange(n) // 4096 * 4096
    size = rng.choice((4096, 65536, 2 << 20))
    got = os.preadv(view["direct"], [memoryview(buf)[:size]], at)
    return at, bytes(buf[:got]), size
def mapped(rng, fd, view):
    at, size = rng.randrange(n), rng.choice((1, 100, 70000))
    return at, view["map"][at:at + size], size
def run(seed):
    rng = random.Random(seed)
    fd = os.open(model, os.O_RDONLY)
    view = {"direct": os.open(model, os.O_RDONLY | os.O_DIRECT), "map": mmap.mmap(fd, 0, prot=mmap.PROT_READ)}
    for _ in range(60):
        at, got, size = rng.choice((buffered, direct, mapped))(rng, fd, view)
        if got != want[at:at + size]:
            wrong.append((seed, at, size, len(got)))
threads = [threading.Thread(target=run, args=(i,)) for i in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
whole = hashlib.sha256()
with open(model, "rb") as f:
    while d := f.read(1 << 20):
        whole.update(d)
open(out, "w").write(repr(wrong) + whole.hexdigest())
'''


@pytest.mark.parametrize("chunk_bytes", [4096, 700_000, MIB, 4 * MIB])
def test_sixteen_threads_at_random_read_the_plaintext(rig, chunk_bytes):
    asset = model_of(40 * MIB + 4321, chunk_bytes=chunk_bytes).write(rig.target)
    plain = rig.tmp / "plain"
    plain.write_bytes(asset.plain)
    load = rig.load("view", f"{sys.executable} {rig.script('stress.py', STRESS)} {{model}} {plain} {rig.out}")
    decrypt = both(rig, asset, load)
    assert load.wait(timeout=120) == 0, load.log_text()
    assert rig.out.read_text() == "[]" + hashlib.sha256(asset.plain).hexdigest()
    assert decrypt.wait() == 0


@pytest.fixture
def small():
    """A control group of 200 MiB: what is started by its preexec is in it."""
    v1 = pathlib.Path("/sys/fs/cgroup/memory")
    top = v1 if v1.is_dir() else pathlib.Path("/sys/fs/cgroup")
    group = top / f"tb-view-{os.getpid()}"
    if top != v1:
        (top / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    (group / ("memory.limit_in_bytes" if top == v1 else "memory.max")).write_text(str(200 * MIB))
    yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    tbsys.wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the end of the group")
    group.rmdir()


WHOLE = r'''
import hashlib, mmap, os, sys
model, out = sys.argv[1:3]
seen = []
for _ in range(2):
    h = hashlib.sha256()
    with open(model, "rb", buffering=0) as f:
        while d := f.read(1 << 20):
            h.update(d)
    seen.append(h.hexdigest())
    with open(model, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        seen.append(sum(m[i] for i in range(0, len(m), 4096)))
open(out, "w").write(repr(seen))
'''


def test_a_model_larger_than_the_memory_is_served(rig, small):
    asset = model_of(320 * MIB).write(rig.target)
    load = rig.load("view", f"{sys.executable} {rig.script('whole.py', WHOLE)} {{model}} {rig.out}", preexec=small)
    decrypt = rig.decrypt(asset)
    decrypt.preexec = small
    decrypt.start(), load.start()
    assert load.wait(timeout=120) == 0, load.log_text()
    assert decrypt.wait() == 0, decrypt.log_text()
    want = [hashlib.sha256(asset.plain).hexdigest(), sum(asset.plain[::4096])]
    assert rig.out.read_text() == repr(want + want)


# Reads all of the model, by the page cache or past it, and waits.
READS = r'''
import mmap, os, pathlib, sys, time
model, out, stay, past = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "past"
fd = os.open(model, os.O_RDONLY | (os.O_DIRECT if past else 0))
room = mmap.mmap(-1, 1 << 20)
while os.readv(fd, [room]) > 0:
    pass
pathlib.Path(out).write_text("read")
while os.path.exists(stay):
    time.sleep(0.01)
'''


def kib_after(rig, asset, how):
    """KiB that tb-decrypt has when all of the model was read once."""
    rig.out.unlink(missing_ok=True)
    rig.stay.write_text("")
    load = rig.load("view", f"{sys.executable} {rig.script('reads.py', READS)} {{model}} {rig.out} {rig.stay} {how}")
    decrypt = both(rig, asset, load)
    tbsys.wait_for(rig.out.exists, 60, "a model that was read")
    status = pathlib.Path(f"/proc/{decrypt.proc.pid}/status").read_text()
    rig.stay.unlink()
    assert load.wait() == 0 and decrypt.wait() == 0
    return int(status.split("VmRSS:")[1].split()[0])


def test_what_the_page_cache_has_is_not_kept_twice(rig):
    """What is read past it is kept: the next who reads past it will ask for it again."""
    asset = model_of(80 * MIB).write(rig.target)
    kept, twice = kib_after(rig, asset, "through"), kib_after(rig, asset, "past")
    assert twice - kept > 40 * 1024, (kept, twice)
