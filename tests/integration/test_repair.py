# SPDX-License-Identifier: Apache-2.0
"""The encrypted model after damage to its disk, its directory or its source: tb-decrypt notices, tb-hydrate mends it or says who can.
The programs take turns as their units have them."""

import hashlib
import json
import os
import random
import socket
import subprocess

import pytest

import faultproxy as fp
from delivery_asset import ASSET, Asset
from delivery_house import SIZE, house, rot  # noqa: F401
from delivery_rig import rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from tbsys import program, repo, wait_for

@pytest.mark.parametrize("at", [0, 15, 40, SIZE // 2, SIZE + 500])
def test_rot_with_its_mtime_kept_is_fetched_again(house, at):
    house.ready()
    rot(house.file, at)
    house.heals(first=(76,))
    assert "is damaged" in house.w.log() and "try 1 of 3" in house.w.log()


def test_rot_again_and_again_after_deliveries_is_mended_each_time(house):
    """A delivery ends the count: in five years a disk may lose five bits."""
    house.ready()
    for i in range(5):
        rot(house.file, 1000 * i + 100)
        house.heals()
        assert house.tries() == 1


def test_a_delivery_is_remembered_over_a_reboot(house):
    """The file of tb-decrypt goes with the boot: the stop of tb-hydrate's unit looks at it in time."""
    settle = [program("tb-hydrate"), "settle"]
    environ = {k: str(v) for k, v in house.w.env.items()}
    house.ready()
    rot(house.file)
    assert house.serve() == 76 and house.hydrate() == (0, 1) and house.tries() == 1
    assert subprocess.run(settle, env=environ).returncode == 0 and house.tries() == 1
    assert house.serve() == 0
    del environ["TB_CONTRACT_ID"]  # which the operator has taken out
    r = subprocess.run(settle, env=environ, capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (0, "") and not house.record.exists()


def test_a_source_that_is_damaged_is_asked_three_times(house):
    data = bytearray(house.asset.ciphertext())
    data[SIZE // 2] ^= 1
    house.w.data = bytes(data)
    house.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(data)
    assert house.hydrate() == (0, 1)  # the tags tell, when it is decrypted
    assert house.serve() == 76 and house.hydrate() == (76, 2)
    reason = house.w.progress()["reason"]
    cure = f"rm {house.record}; systemctl restart tb-hydrate.service"
    assert "upload it again" in reason and cure in reason[:255], reason
    out = subprocess.run([program("tb-status"), "--json"], capture_output=True, text=True,
                         env={**os.environ, **{k: str(v) for k, v in house.w.env.items()}}).stdout
    told, = [p for p in json.loads(out)["problems"] if "is damaged at its source" in p["what"]]
    assert told["remedy"] == cure and "then:" not in told["what"], told
    # A restart, or a reboot: no traffic, the same words.
    assert house.hydrate() == (76, 0) and house.w.progress()["reason"] == reason
    # The cure, typed.
    house.upload(house.asset)
    house.record.unlink()
    assert house.hydrate() == (0, 1) and house.serve() == 0


def test_a_source_that_was_damaged_for_a_moment(house):
    data = bytearray(house.asset.ciphertext())
    data[SIZE // 2] ^= 1
    house.w.proxy.rule(fp.status(206, {"Content-Range": f"bytes 0-65535/{len(data)}"}, bytes(data[:65536])), nth=1, path="model.tbenc$")
    data[100] ^= 1
    house.w.proxy.rule(fp.status(206, {"Content-Range": f"bytes 0-65535/{len(data)}"}, bytes(data[:65536])), nth=1, path="model.tbenc$")
    rc, _ = house.w.run()
    assert rc == 0, house.w.log()
    assert house.serve() == 0


def test_a_disk_that_damages_each_copy_is_given_three(house):
    house.ready()
    for _ in range(3):
        rot(house.file)
        assert house.serve() == 76
        assert house.hydrate() == (0, 1)
    rot(house.file)
    assert house.serve() == 76
    assert house.hydrate() == (76, 0)
    assert "journalctl -k" in house.w.progress()["reason"] and "restart tb-hydrate.service" in house.w.progress()["reason"]
    assert house.hydrate() == (76, 0)


def test_a_wrong_key_is_no_reason_to_fetch_anything(house):
    """The hash of the file is right: another copy would be the same. The second look is for a byte that was bad in memory only."""
    assert house.hydrate() == (0, 1)
    for _ in range(3):
        assert house.serve(key=b"k" * 32) == 76
        assert house.hydrate() == (0, 0)
    assert house.serve(key=b"k" * 32) == 76
    assert house.hydrate() == (76, 0) and "does not go with its key" in house.w.progress()["reason"]
    house.record.unlink()
    assert house.hydrate() == (0, 0) and house.serve() == 0


def test_one_failure_is_counted_once_however_often_tb_hydrate_starts(house):
    assert house.hydrate() == (0, 1)
    assert house.serve(key=b"k" * 32) == 76
    for _ in range(5):
        assert house.hydrate() == (0, 0)
    assert house.tries() == 1 and house.serve() == 0


def test_tries_survive_a_crash_in_between(house):
    house.ready()
    rot(house.file)
    assert house.serve() == 76
    house.w.proxy.rule(fp.status(503), path="model.tbenc$")
    d = house.w.start()
    house.w.proxy.wait(house.w.proxy.count(path="model.tbenc$") + 1, path="model.tbenc$")
    d.kill()
    assert house.tries() == 1
    house.w.proxy.clear_rules()
    assert house.hydrate() == (0, 1) and house.tries() == 1 and house.serve() == 0


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"tries": -1}', '{"tries": "many"}'])
def test_the_count_itself_is_damaged(house, text):
    house.ready()
    house.record.parent.mkdir(parents=True, exist_ok=True)
    house.record.write_text(text)
    rot(house.file)
    house.heals()


def replace_by_directory(p):
    p.unlink()
    p.mkdir()
    (p / "somebodys").write_text("keep")


def replace_by_symlink(p):
    os.rename(p, p.parent / "elsewhere")
    p.symlink_to(p.parent / "elsewhere")


def replace_by_fifo(p):
    p.unlink()
    os.mkfifo(p)


def replace_by_socket(p):
    p.unlink()
    s = socket.socket(socket.AF_UNIX)
    here = os.open(p.parent, os.O_PATH)
    s.bind(f"/proc/self/fd/{here}/{p.name}")
    s.close()
    os.close(here)


DAMAGE = {
    "deleted": (lambda p: p.unlink(), 1),
    "cut": (lambda p: os.truncate(p, 5000), 1),
    "empty": (lambda p: os.truncate(p, 0), 1),
    "longer": (lambda p: os.truncate(p, p.stat().st_size + 1), 1),
    "another": (lambda p: p.write_bytes(b"x" * p.stat().st_size), 1),
    "directory": (replace_by_directory, 1),
    "symlink": (replace_by_symlink, 1),
    "fifo": (replace_by_fifo, 1),
    "socket": (replace_by_socket, 1),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_file_is_not_what_it_was(house, name):
    house.ready()
    damage, copies = DAMAGE[name]
    damage(house.file)
    assert house.serve() in (66, 76)
    assert house.hydrate() == (0, copies), house.w.log()
    assert house.serve() == 0 and house.file.read_bytes() == house.w.data and not house.file.is_symlink()
    if name == "directory":
        aside, = house.rig.target.glob("*.aside-*")
        assert (aside / "somebodys").read_text() == "keep" and "renamed to" in house.w.log()


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: rot(p, 30), lambda p: p.write_text("{}"), lambda p: os.truncate(p, 10),
                                    replace_by_directory, replace_by_symlink, lambda p: p.write_bytes(b"x" * (17 << 20))],
                         ids=["deleted", "rot", "other", "cut", "directory", "symlink", "huge"])
def test_a_damaged_manifest_costs_no_copy(house, damage):
    house.ready()
    damage(house.rig.target / "model.manifest.json")
    rc = house.serve()
    assert rc in (0, 66, 75, 76)
    assert house.hydrate() == (0, 0), house.w.log()
    assert house.serve() == 0 and (house.rig.target / "model.manifest.json").read_bytes() == house.w.manifest


@pytest.mark.parametrize("suffix", [".part", ".part.json", ".part.live", ".verified.json"])
@pytest.mark.parametrize("what", ["directory", "symlink", "garbage"])
def test_what_belongs_to_the_download_is_damaged(house, suffix, what):
    house.rig.target.mkdir()
    p = house.rig.target / (house.asset.name + suffix)
    elsewhere = house.rig.tmp / "elsewhere"
    elsewhere.write_text("not ours")
    if what == "directory":
        p.mkdir()
    elif what == "symlink":
        p.symlink_to(elsewhere)
    else:
        p.write_bytes(b"\0garbage")
    assert house.hydrate() == (0, 1), house.w.log()
    assert house.serve() == 0 and elsewhere.read_text() == "not ours"


def test_rot_in_an_unfinished_download(house):
    """The record says that the range is there, the disk has something else."""
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = "65536"
    house.w.proxy.rule(fp.status(403), path="model.tbenc$", nth=range(2, 100))
    assert house.w.run()[0] == 75
    house.w.proxy.clear_rules()
    part = house.rig.target / (house.asset.name + ".part")
    rot(part, 5000)
    assert house.w.run()[0] == 0, house.w.log()
    house.heals(first=(76,))
    assert "try 1 of 3" in house.w.log()


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o200])
def test_a_changed_mode_is_corrected_without_a_copy(house, mode):
    house.ready()
    os.chmod(house.file, mode)
    assert house.hydrate() == (0, 0), house.w.log()
    assert house.file.stat().st_mode & 0o777 == 0o640 and house.serve() == 0


@pytest.fixture
def failing(house, tmp_path):
    """TB_TARGET_DIR on a file system that answers EIO for blocks that rotted: btrfs has a checksum of each."""
    image = tmp_path / "disk"
    with open(image, "wb") as f:
        f.truncate(192 << 20)
    subprocess.run(["mkfs.btrfs", "-q", "-m", "single", "-d", "single", image], check=True, capture_output=True)
    house.rig.target.mkdir(exist_ok=True)

    def mount():
        subprocess.run(["mount", "-o", "loop", image, house.rig.target], check=True)

    def umount():
        """And all copies of it, in mount namespaces that others made meanwhile: else the file system goes on, with what it has in memory."""
        subprocess.run(["umount", house.rig.target], check=True)
        wait_for(lambda: not subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout, 120, "the disk to be let go")

    def spoil(path):
        st = path.stat()
        piece = path.read_bytes()[SIZE // 2:SIZE // 2 + 64]
        umount()
        data = image.read_bytes()
        assert data.count(piece) == 1
        with open(image, "r+b") as f:
            f.seek(data.index(piece))
            f.write(bytes([piece[0] ^ 1]))
        mount()
        assert path.stat().st_mtime_ns == st.st_mtime_ns
        with pytest.raises(OSError, match="Input/output"):
            path.read_bytes()

    mount()
    house.spoil = spoil
    yield house
    umount()


def test_a_disk_that_does_not_give_it_back(failing):
    failing.ready()
    failing.spoil(failing.file)
    failing.heals(first=(76,))
    assert "Input/output error" in failing.w.log() and "try 1 of 3" in failing.w.log()


def test_a_disk_that_does_not_give_the_manifest_back_or_the_records(failing):
    failing.ready()
    (failing.rig.target / (failing.asset.name + ".verified.json")).unlink()
    failing.spoil(failing.file)
    assert failing.hydrate() == (0, 1), failing.w.log()  # unknown, hashed, not readable
    assert failing.serve() == 0


def test_no_room_for_a_second_copy(house):
    """The damaged copy makes room for its successor."""
    house.rig.target.mkdir()
    house.asset = Asset(random.Random(4).randbytes(30 << 20), chunk_bytes=1 << 20)
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = str(8 << 20)
    house.upload(house.asset)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", house.rig.target], check=True)
    try:
        house.ready()
        rot(house.file, 20 << 20)
        assert os.statvfs(house.rig.target).f_bavail * 4096 < (30 << 20) + (64 << 20)
        house.heals()
    finally:
        subprocess.run(["umount", house.rig.target], check=True)


def test_the_disk_fills_up_while_it_is_fetched_again(house):
    house.rig.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", house.rig.target], check=True)
    try:
        house.ready()
        rot(house.file)
        assert house.serve() == 76
        filler = house.rig.target / "filler"
        filler.write_bytes(bytes(60 << 20))
        rc, copies = house.hydrate()
        assert (rc, copies) == (74, 0) and "not enough disk space" in house.w.progress()["reason"]
        filler.unlink()
        assert house.hydrate() == (0, 1) and house.tries() == 1 and house.serve() == 0
    finally:
        subprocess.run(["umount", house.rig.target], check=True)


def test_leftovers_of_a_failed_run_are_gone(house):
    """tb-status and /status tell of now: not of the decryption that failed before the download that mends it."""
    house.ready()
    rot(house.file)
    assert house.serve() == 76

    def seen():
        out = subprocess.run([program("tb-status"), "--json"], capture_output=True, text=True,
                             env={**os.environ, **{k: str(v) for k, v in house.w.env.items()}}).stdout
        return json.loads(out)

    assert seen()["decrypt"]["state"] == "failed"
    assert house.hydrate() == (0, 1)
    assert "decrypt" not in seen() and seen()["hydrate"]["state"] == "complete"
    assert house.serve() == 0
    assert seen().get("decrypt", {"state": "complete"})["state"] == "complete"


# -- tb-repair, with systemd played by a script ---------------------------------------------------------------------------

class Repair:
    """The script of tb-repair.service: what it asks of systemd after tb-runtime has ended with a status."""

    def __init__(self, tmp):
        self.tmp, self.decryption = tmp, tmp / "decrypt"
        self.decryption.mkdir()
        (tmp / "run").mkdir()
        self.active, self.asked = 0, tmp / "asked"
        (tmp / "bin").mkdir()
        fake = tmp / "bin/systemctl"
        fake.write_text(f'#!/bin/sh\ncase "$1 $2" in\n"show --property=ActiveEnterTimestampMonotonic") cat {tmp}/active ;;\n'
                        f'"show --property=ExecMainStartTimestampMonotonic") echo 100 ;;\n'
                        f'"show --property=ActiveState") tr " " "\\n" <{tmp}/hydrate ;;\n*) echo "$*" >>{self.asked} ;;\nesac\n')
        fake.chmod(0o755)

    def says(self, **progress):
        (self.decryption / "progress.json").write_text(json.dumps(progress, separators=(",", ":")))

    def after(self, status, active=0, hydrate="active exited", **env):
        (self.tmp / "active").write_text(f"{active}\n")
        (self.tmp / "hydrate").write_text(f"{hydrate}\n")
        self.asked.unlink(missing_ok=True)
        r = subprocess.run([repo / "units/tb-repair", self.decryption], capture_output=True, text=True,
                           env={"PATH": f"{self.tmp}/bin:/usr/bin:/bin", "MONITOR_EXIT_STATUS": str(status), "RUNTIME_DIRECTORY": self.tmp / "run", **env})
        return r.returncode, self.asked.read_text().splitlines()[-1:] if self.asked.exists() else []


    def called(self, sub):
        """By tb-repair.path."""
        (self.decryption / "repair").write_text("")
        fake = self.tmp / "bin/systemctl"
        fake.write_text(f'#!/bin/sh\ncase $1 in show) echo {sub} ;; *) echo "$*" >>{self.asked} ;; esac\n')
        subprocess.run([repo / "units/tb-repair", self.decryption], check=True,
                       env={"PATH": f"{self.tmp}/bin:/usr/bin:/bin", "TRIGGER_PATH": "/run/tb-decrypt/repair", "RUNTIME_DIRECTORY": self.tmp / "run"})
        return self.asked.read_text().splitlines() if self.asked.exists() else []


LOOK = ["--no-block restart tb-hydrate.service"]
START = ["--no-block start tb-runtime.service"]


@pytest.mark.parametrize("status,active,damaged,asked", [
    (66, 0, False, LOOK), (76, 0, True, LOOK), (76, 0, False, LOOK), (76, 200, True, LOOK), (76, 200, False, []), (66, 200, False, START),
    (78, 0, False, []), (74, 0, True, []), (77, 0, False, []), (1, 200, False, []), ("KILL", 200, False, [])])
def test_what_the_failure_of_the_runtime_leads_to(tmp_path, status, active, damaged, asked):
    r = Repair(tmp_path)
    r.says(state="failed", **({"damaged": {"inode": 1}} if damaged else {}))
    assert r.after(status, active) == (0, asked)


@pytest.mark.parametrize("hydrate,damaged,asked", [("activating auto-restart", True, []), ("activating start", False, START), ("activating start", True, LOOK),
                                                   ("failed failed", True, []), ("inactive dead", True, LOOK), ("active running", True, START)])
def test_a_download_under_way_is_left_alone(tmp_path, hydrate, damaged, asked):
    """But one that fetched a piece in vain looks at the whole: as often as any, then no more."""
    r = Repair(tmp_path)
    r.says(state="failed", **({"damaged": {"inode": 1}} if damaged else {}))
    assert r.after(76 if damaged else 66, hydrate=hydrate) == (0, asked)
    if (hydrate, damaged) == ("activating start", True):
        assert [r.after(76, hydrate=hydrate)[0] for _ in range(10)] == [0] * 9 + [1]


@pytest.mark.parametrize("sub,asked", [("exited", LOOK), ("running", []), ("auto-restart", []), ("failed", [])])
def test_a_wish_wakes_a_download_that_has_ended(tmp_path, sub, asked):
    assert Repair(tmp_path).called(sub) == asked


def test_a_failure_after_a_wish_is_not_taken_for_one(tmp_path):
    """systemd 252 gives each later start the TRIGGER_PATH of the first."""
    r = Repair(tmp_path)
    systemctl = (tmp_path / "bin/systemctl").read_text()
    for _ in range(2):
        assert r.called("exited") == LOOK
        r.asked.unlink()
    (tmp_path / "bin/systemctl").write_text(systemctl)
    r.says(state="complete")
    again = {"TRIGGER_PATH": str(r.decryption / "repair"), "TRIGGER_UNIT": "tb-repair.path"}
    assert r.after(66, 200, **again) == (0, START)
    assert r.after(76, 200, **again) == (0, [])
    assert r.after("KILL", 200, **again) == (0, [])
    (r.decryption / "repair").unlink()  # with the directory of a tb-decrypt that is stopped
    assert r.after("KILL", 200, **again) == (0, [])


def test_what_cannot_be_mended_is_not_looked_at_for_ever(tmp_path):
    r = Repair(tmp_path)
    assert [r.after(66) for _ in range(10)] == [(0, LOOK)] * 10  # nobody has written any progress yet
    assert r.after(66) == (1, [])
    r.says(state="complete", delivered_boottime_us=123456)
    assert [r.after(66) for _ in range(10)] == [(0, LOOK)] * 10
    assert r.after(66) == (1, []) and r.after(66) == (1, [])
    r.says(state="failed", damaged={}, delivered_boottime_us=200000)
    assert r.after(76) == (0, LOOK)
