# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong below a view that is being read: who reads gets the right bytes, waits, or dies, and never reads anything else."""

import os
import pathlib
import random
import re
import signal
import subprocess
import time

import pytest

import faultproxy as fp
import tbsys
from delivery_asset import Asset
from delivery_house import house, rot  # noqa: F401
from delivery_rig import rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from test_repair import failing  # noqa: F401
from view_checker import BLOCK, ON_DISK, RANGE, RECORD, View, overwrite, place


@pytest.fixture
def view(house):  # noqa: F811
    v = View(house)
    yield v
    v.gate.set()


# -- damage on the disk ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [overwrite, lambda path, r: rot(path, place(r) + 10)], ids=["written", "rot"])
def test_eight_damaged_records_are_fetched_alone(view, damage):
    """Whether the file tells that it was written to or not."""
    assert view.w.run()[0] == 0
    view.read_later("mapped")
    for r in range(2, 10):
        damage(view.house.file, r)
    before = view.w.sent()
    view.go()
    view.mends_until_the_end()
    view.is_whole()
    assert view.w.sent() - before == 8 * ON_DISK
    assert view.house.hydrate() == (0, 0)


def test_what_rotted_between_two_boots_is_fetched_alone(view):
    assert view.w.run()[0] == 0
    for r in (1, 5):
        overwrite(view.house.file, r)
    before = view.w.sent()
    assert view.w.run()[0] == 0
    assert "its records are verified as they are read" in view.w.log() and view.w.sent() == before
    view.read()
    view.mends_until_the_end()
    view.is_whole()
    assert view.w.sent() - before == 2 * ON_DISK


def test_a_repair_that_is_killed_goes_on(view):
    """In the middle of the record: the next tb-hydrate fetches it, and nothing else."""
    assert view.w.run()[0] == 0
    rot(view.house.file, place(3) + 10)
    view.w.proxy.rule(fp.drip(4096, 0.05), range=f"^bytes={place(3)}-", nth=1)
    before = view.w.sent()
    view.read("mapped")
    tbsys.wait_for(lambda: (view.rig.run / "tb-decrypt/repair").exists(), what="the call")
    d = view.w.start()
    tbsys.wait_for(lambda: any(r.sent > 8192 for r in view.w.proxy.select(range=f"^bytes={place(3)}-")), what="a part of the record")
    d.kill()
    view.mends_until_the_end()
    view.is_whole()
    assert view.w.sent() - before < 2 * ON_DISK


def test_the_file_is_cut_under_the_reader(view):
    """What was cut off is gone, and told so; another start has a whole model."""
    assert view.w.run()[0] == 0
    view.read_later()
    os.truncate(view.house.file, place(6))
    view.go()
    view.wait_at(4 * RECORD)
    view.load.kill()
    view.is_right_so_far()
    assert view.decrypt.wait() == 0
    view.is_served_anew()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_the_file_is_another_one_under_the_reader(view, how):
    """The reader goes on with the one that it has."""
    assert view.w.run()[0] == 0
    view.read_later("mapped")
    view.house.file.unlink()
    if how == "replaced":
        view.house.file.write_bytes(random.Random(1).randbytes(len(view.w.data)))
    view.go()
    view.is_whole()
    view.is_served_anew()


# -- the map -----------------------------------------------------------------------------------------------------------

def lie(path):
    """That everything came."""
    with open(path, "r+b") as f:
        f.seek(256)
        f.write(b"\x01" * (os.path.getsize(path) - 256))


def garble(path):
    data = bytearray(path.read_bytes())
    data[256:] = random.Random(5).randbytes(len(data) - 256)
    with open(path, "r+b") as f:
        f.write(data)


def forget(path):
    with open(path, "r+b") as f:
        f.seek(256)
        f.write(bytes(os.path.getsize(path) - 256))


@pytest.mark.parametrize("harm", [lie, garble])
def test_a_map_that_claims_too_much_costs_a_piece_and_no_byte(view, harm):
    """What is not there is no record, and fetched alone, though all connections of the download wait."""
    view.begin("mapped")
    harm(view.live())
    view.wait_at(4 * BLOCK)
    view.gate.set()
    view.is_whole()
    assert view.download.wait() == 0
    view.w.assert_complete()


@pytest.mark.parametrize("harm", [forget, lambda p: p.unlink(), lambda p: p.rename(p.parent / "elsewhere"), lambda p: p.write_bytes(b"x" * 300)],
                         ids=["forgets", "deleted", "renamed", "garbage"])
def test_a_map_that_is_lost_under_the_reader(view, harm):
    """Nobody reads what is not there. A start of both reads all of it."""
    view.begin("mapped")
    harm(view.live())
    view.gate.set()
    view.download.wait(60)
    tbsys.wait_for(lambda: view.load.rc is not None or view.at() > 0, what="the reader")
    view.load.kill()
    view.is_right_so_far()
    view.decrypt.wait()
    view.is_served_anew()


def test_a_map_that_is_cut_under_the_reader(view):
    """That kills who has it mapped; the runtime dies with tb-decrypt, and does not read zeros."""
    view.begin("mapped")
    os.truncate(view.live(), 0)
    view.gate.set()
    view.ended_well_or_in_error()
    view.download.wait(60)
    view.decrypt.wait()
    view.is_served_anew()


# -- the storage -------------------------------------------------------------------------------------------------------

def test_the_permission_ends_under_the_reader(view):
    view.begin("mapped")
    view.w.server.sig = "fresh"
    view.gate.set()
    assert view.download.wait() == 75 and view.load.running()
    view.w.credentials = {**view.w.credentials, "sas-url": view.w.url("model.tbenc", "fresh"), "manifest-url": view.w.url("model.manifest.json", "fresh")}
    assert view.w.run()[0] == 0
    view.is_whole()


@pytest.mark.parametrize("how", ["buffered", "mapped", "direct"])
def test_the_blob_is_replaced_under_the_reader(view, how):
    """The runtime has read of the old one, and ends; the next one has the new one."""
    view.begin(how)
    view.house.asset = Asset(random.Random(10).randbytes(view.ranges * RANGE + 78), chunk_bytes=RECORD)
    view.house.upload(view.house.asset)
    view.gate.set()
    assert view.decrypt.wait() == 75
    assert view.load.wait() == (1 if how != "mapped" else -signal.SIGBUS)
    assert not (view.out / "wrong").exists() and not (view.out / "sum").exists()
    assert view.download.wait() == 0
    view.plain.write_bytes(view.house.asset.plain)
    view.is_served_anew()


FAULTS = {
    "reset": lambda size: fp.reset(None),
    "reset in the body": lambda size: fp.reset(1000),
    "short": lambda size: fp.cut(5000),
    "busy": lambda size: fp.status(503, {"Retry-After": "1"}),
    "another range": lambda size: fp.headers({"Content-Range": f"bytes 0-{RANGE - 1}/{size}"}),
    "no range": lambda size: fp.headers({"Content-Range": None}),
    "another size": lambda size: fp.headers({"Content-Range": f"bytes {20 * RANGE}-{21 * RANGE - 1}/{size + 1}"}),
    "whole": lambda size: fp.status(200, {}, b"x" * RANGE),
    "slow": lambda size: fp.drip(8192, 0.05),
    "wrong": lambda size: fp.corrupt(100),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_storage_that_fails_once_is_waited_for(view, name):
    view.w.proxy.rule(FAULTS[name](len(view.w.data)), path="model.tbenc$", range=f"^bytes={20 * RANGE}-", nth=1)
    view.w.proxy.rule(FAULTS[name](len(view.w.data)), path="model.tbenc$", range=f"^bytes={20 * RANGE}-", nth=3)
    view.begin("mapped")
    view.gate.set()
    view.mends_until_the_end()
    view.is_whole()
    assert view.download.wait() == 0, view.w.log()


def test_the_last_byte_comes_while_all_connections_wait(view):
    """What somebody waits for has a connection of its own."""
    view.w.env["TB_DOWNLOAD_CONCURRENCY"] = "2"
    starts = "|".join(str(i * RANGE) for i in range(4, view.ranges))
    view.w.proxy.rule(fp.hold(view.gate), path="model.tbenc$", range=f"^bytes=({starts})-")
    view.hydrate()
    view.w.proxy.wait(6, path="model.tbenc$")
    view.read("last")
    tbsys.wait_for(lambda: (view.out / "last").exists() or view.load.rc is not None, what="the last byte")
    assert not view.gate.is_set() and (view.out / "last").exists(), view.log()
    view.gate.set()
    view.is_whole()


def test_a_mirror_that_is_poisoned_under_the_reader(view, ca):  # noqa: F811
    with fp.FaultProxy(view.w.proxy.upstream, tls=ca.pair) as mirror:
        view.w.env["TB_BLOB_MIRROR"] = mirror.url
        starts = "|".join(str(i * RANGE) for i in range(16, 49))
        mirror.rule(fp.hold(view.gate), path="model.tbenc$", range=f"^bytes=({starts})-")
        view.hydrate()
        view.read("mapped")
        view.wait_at(BLOCK - 65536)
        mirror.clear_rules()
        mirror.rule(fp.corrupt(5000), path="model.tbenc$")
        view.gate.set()
        view.mends_until_the_end()
        view.is_whole()
        assert view.download.wait() == 0
        assert "gave bytes that are not the model's" in view.w.log()


def test_another_place_that_has_nothing_ends_no_repair(view):
    """A record is asked for there first, since what the download's own place sends may be what is wrong."""
    view.w.credentials = {**view.w.credentials, "sas-url": view.w.url("model.tbenc") + b"\n" + view.w.url("gone.tbenc"),
                          "manifest-url": view.w.url("model.manifest.json") + b"\n" + view.w.url("gone.json")}
    view.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={6 * RANGE}-", nth=1)
    view.begin("mapped")
    view.gate.set()
    view.is_whole()
    assert view.download.wait() == 0, view.w.log()
    assert view.w.proxy.count(path="gone.tbenc$") == 1


# -- the disk ----------------------------------------------------------------------------------------------------------

def test_the_disk_is_full_under_the_reader(view):
    target = view.rig.target
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", target], check=True)
    try:
        view.begin("mapped")
        filler = target / "filler"
        with open(filler, "wb") as f, pytest.raises(OSError, match="No space"):
            while True:
                f.write(bytes(65536))
                f.flush()
        view.gate.set()
        assert view.download.wait() == 74
        assert "No space" in view.w.log()
        assert view.load.running() or view.load.wait() == 0  # the room was reserved: all may have come but the last sync
        filler.unlink()
        assert view.w.run()[0] == 0, view.w.log()
        view.is_whole()
    finally:
        for d in view.rig.daemons + view.w.daemons:
            d.kill()
        subprocess.run(["umount", "-l", target], check=True)


@pytest.mark.parametrize("at", [place(6) + 100_000, place(6) + 10], ids=["inside", "where two meet"])
def test_a_disk_that_does_not_give_a_record_back(failing, at):  # noqa: F811
    """The record is fetched once more, and the file system has its blocks written anew."""
    view = View(failing)
    assert view.w.run()[0] == 0
    before = view.w.sent()
    failing.spoil(view.house.file, at)
    view.read("mapped")
    view.mends_until_the_end()
    view.is_whole()
    assert "Input/output error" in view.decrypt.log_text()
    assert view.w.sent() - before <= (1 if at > place(6) + 4096 else 2) * (ON_DISK + 2 * 4096)
    assert view.house.file.read_bytes() == view.w.data


@pytest.fixture
def disk(view, tmp_path):
    """TB_TARGET_DIR on a disk of its own, ext4; .cut() takes the power away: what follows has what the disk had at that instant."""
    image, copy, target = tmp_path / "disk", tmp_path / "disk-after", view.rig.target
    with open(image, "wb") as f:
        f.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", image], check=True)
    target.mkdir()
    subprocess.run(["mount", "-o", "loop", image, target], check=True)
    (target / "lost+found").rmdir()

    def cut():
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        for d in (view.load, view.decrypt, view.download):
            d.kill()
            d.wait()
        subprocess.run(["umount", "-l", target], check=True)
        subprocess.run(["mount", "-o", "loop", copy, target], check=True)
        if view.live().exists():  # of another boot then
            data = bytearray(view.live().read_bytes())
            data[8] ^= 1
            view.live().write_bytes(data)
    view.cut = cut
    yield view
    for d in view.rig.daemons + view.w.daemons:
        d.kill()
    subprocess.run(["umount", "-l", target], check=True)


def test_the_power_goes_while_the_model_is_read(disk):
    """What the record on the disk vouches for is there, and is not fetched again; the rest is, and a reader gets the right bytes."""
    disk.begin("mapped")
    tbsys.wait_for(lambda: tbsys.read_json(disk.rig.target / "model.tbenc.part.json").get("done"), what="ranges on the disk")
    disk.cut()
    disk.is_right_so_far()
    record = disk.rig.target / "model.tbenc.part.json"
    kept = tbsys.read_json(record)["done"] if record.exists() else ""
    before = disk.w.sent()
    disk.gate.set()
    disk.hydrate()
    disk.read("mapped")
    disk.mends_until_the_end()
    disk.is_whole()
    assert disk.download.wait() == 0 and "is damaged" not in disk.decrypt.log_text(), "the record vouched for what was not there"
    assert not kept or disk.w.sent() - before < len(disk.w.data)
    disk.w.assert_complete()


# -- readers -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["signals", "random", "direct"])
def test_who_waits_in_the_middle_is_not_disturbed(view, how):
    """By signals, which have handlers, and by what comes out of order."""
    view.begin(how)
    time.sleep(0.5)  # for some signals to come; right without as well
    assert view.load.running()
    view.gate.set()
    view.is_whole()


# Hundreds of threads, each at another place, some of which did not come.
CROWD = r'''
import os, sys, threading, pathlib
model, plain, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
want, wrong = open(plain, "rb").read(), []
fd = os.open(model, os.O_RDONLY)
def run(i):
    at = i * len(want) // 300
    if os.pread(fd, 5000, at) != want[at:at + 5000]:
        wrong.append(at)
threads = [threading.Thread(target=run, args=(i,)) for i in range(300)]
[t.start() for t in threads]
(out / "pid").write_text(str(os.getpid()))
[t.join() for t in threads]
(out / "sum").write_text(repr(wrong))
'''


def read_by(view, name, script):
    """A runtime of another kind, which says by `pid` that it reads. What it leaves, tb-load and tb-decrypt."""
    out = view.rig.tmp / name
    out.mkdir()
    load = view.rig.load("view", " ".join(map(str, ("/usr/bin/python3", view.rig.script(f"{name}.py", script), "{model}", view.plain, out))))
    decrypt = view.rig.decrypt(view.house.asset)
    decrypt.start(), load.start()
    tbsys.wait_for(lambda: (out / "pid").exists(), what="the readers")
    return out, load, decrypt


def test_hundreds_of_readers_wait_and_all_are_served(view):
    view.close_gate()
    view.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={20 * RANGE}-", nth=1)
    view.hydrate()
    out, load, decrypt = read_by(view, "crowd", CROWD)
    view.gate.set()
    assert load.wait(60) == 0, load.log_text() + decrypt.log_text()
    assert (out / "sum").read_text() == "[]" and decrypt.wait() == 0


# Readers whose read(2) a signal ends, more of them than tb-decrypt has threads.
IMPATIENT = r'''
import mmap, os, pathlib, signal, sys
model, plain, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
want = open(plain, "rb").read()
def run(i):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
    fd, buf = os.open(model, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536)
    for at in range(i * 65536, len(want), 8 * 65536):
        n = os.preadv(fd, [buf], at)
        if buf[:n] != want[at:at + 65536]:
            os._exit(2)
    os._exit(0)
children = []
for i in range(8):
    if (pid := os.fork()) == 0:
        try:
            run(i)
        except OSError as e:
            print(e, file=sys.stderr)
            os._exit(1)
    children.append(pid)
(out / "pid").write_text("")
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
'''


def test_a_read_that_a_signal_ends_fails_of_nothing_else(view):
    """EINTR, which these readers' library takes for what it is; not EIO."""
    view.close_gate()
    view.hydrate()
    _, load, decrypt = read_by(view, "impatient", IMPATIENT)
    time.sleep(2)  # right without as well
    view.gate.set()
    assert load.wait(60) == 0, load.log_text() + decrypt.log_text()
    assert decrypt.wait() == 0


def test_two_starts_at_once_are_served_apart(view):
    """As when systemd starts the runtime while the one before still ends."""
    view.begin("mapped")
    load, decrypt, out = view.load, view.decrypt, view.out
    view.read("buffered")
    view.wait_at(BLOCK - 65536)
    view.gate.set()
    view.is_whole()
    view.load, view.decrypt, view.out = load, decrypt, out
    view.is_whole()


def test_a_reader_that_stops_in_the_middle_holds_up_nobody(view):
    view.begin("mapped")
    os.kill(int((view.out / "pid").read_text()), signal.SIGSTOP)
    view.gate.set()
    assert view.download.wait() == 0
    tbsys.wait_for(lambda: view.rig.progress()["state"] == "complete", 60, what="all of it verified")
    os.kill(int((view.out / "pid").read_text()), signal.SIGCONT)
    view.is_whole()


def test_the_runtime_comes_before_the_manifest(view):
    """It is told so, and started again."""
    assert view.read().load.wait() == 66
    view.decrypt.stop()
    view.begin("mapped")
    view.gate.set()
    view.is_whole()


@pytest.mark.parametrize("who", ["hydrate", "decrypt", "runtime"])
def test_out_of_memory(view, who):
    """The kernel's killer takes one of them in the middle: SIGKILL, and nothing that it could do about it."""
    view.begin("mapped")
    victim = {"hydrate": view.download.pid, "decrypt": view.decrypt.pid, "runtime": int((view.out / "pid").read_text())}[who]
    os.kill(victim, signal.SIGKILL)
    if who == "hydrate":
        view.download.wait()
        view.gate.set()
        view.hydrate()
        return view.is_whole()
    assert view.load.wait() != 0 and view.decrypt.wait() in (0, -signal.SIGKILL)
    view.is_right_so_far()
    assert view.download.running(), "the download goes on"
    view.gate.set()
    assert view.download.wait() == 0
    view.is_served_anew()


def test_the_kernel_aborts_the_connection(view, tmp_path_factory):
    """As at an unmount by force: the end of a view, and no failure of tb-decrypt."""
    view.begin("mapped")
    mounts = pathlib.Path(f"/proc/{(view.out / 'pid').read_text()}/mountinfo").read_text()
    number = re.search(r"^\S+ \S+ 0:(\d+) .* - fuse\.trustbridge ", mounts, re.M)[1]
    control = tmp_path_factory.mktemp("control")
    subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
    try:
        (control / number / "abort").write_text("1")
    finally:
        subprocess.run(["umount", control], check=True)
    assert view.load.wait() != 0 and view.decrypt.wait() == 0
    assert "cannot read from /dev/fuse" not in view.decrypt.log_text()
    view.is_right_so_far()
    view.gate.set()
    assert view.download.wait() == 0
    view.is_served_anew()


# -- SIGKILL at many instants ------------------------------------------------------------------------------------------

INSTANTS = int(os.environ.get("TB_VIEW_KILLS", "4"))


@pytest.fixture
def short(house):  # noqa: F811
    """A model that takes about a second from nothing to its last byte."""
    v = View(house, ranges=15)
    v.w.proxy.rule(fp.delay(0.04), path="model.tbenc$")
    yield v
    v.gate.set()


@pytest.mark.parametrize("victim", ["hydrate", "decrypt", "load"])
def test_sigkill_at_any_instant(short, victim):
    """All the way from the start of the download to the end of the reader, which maps and reads. A restart goes on with what is there."""
    took = None
    for i in range(INSTANTS + 1):
        for f in list(short.rig.target.glob("*")) if short.rig.target.exists() else []:
            f.unlink()
        begin = time.monotonic()
        short.hydrate()
        short.read("mapped")
        if took is None:  # undisturbed
            short.is_whole()
            took = time.monotonic() - begin
            short.download.wait()
            continue
        time.sleep(max(0, begin + took * i / INSTANTS - time.monotonic()))
        {"hydrate": short.download, "decrypt": short.decrypt, "load": short.load}[victim].kill()
        if victim == "hydrate":
            assert short.w.run()[0] == 0, short.w.log()
            short.is_whole()
            continue
        if victim == "decrypt":
            again = short.rig.decrypt(short.house.asset).start()  # as its socket starts it, where somebody waits there
            short.ended_well_or_in_error()
            again.stop()
        else:
            short.is_right_so_far()
            short.decrypt.stop()
        assert short.download.wait() == 0
        short.is_served_anew()
