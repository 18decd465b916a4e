# SPDX-License-Identifier: Apache-2.0
"""The encrypted model after damage to its disk, its directory or its source: tb-decrypt notices, tb-hydrate mends it or says who can.
The programs take turns as their units have them."""

import json
import os
import random
import socket
import subprocess

import pytest

import faultproxy as fp
from delivery_asset import Asset
from delivery_house import SIZE, house, rot  # noqa: F401
from delivery_rig import rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from tbsys import program, wait_for


@pytest.mark.parametrize("at", [0, 15, 40, SIZE // 2, SIZE + 500])
def test_rot_with_its_mtime_kept_is_fetched_again(house, at):
    house.ready()
    rot(house.file, at)
    house.heals(first=(76,))
    assert "is damaged" in house.w.log() and "try 1 of 3" in house.w.log()


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


def test_rot_in_the_header_of_an_unfinished_download(house):
    """It says nothing of the blob: the download goes on, and the header is found bad by who reads it."""
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = "65536"
    house.w.proxy.rule(fp.status(403), path="model.tbenc$", nth=range(2, 100))
    assert house.w.run()[0] == 75
    house.w.proxy.clear_rules()
    rot(house.rig.target / (house.asset.name + ".part"), 3)
    assert house.hydrate()[0] == 0, house.w.log()
    house.heals(first=(76,))


@pytest.mark.parametrize("suffix", [".part", ".part.json"])
def test_an_unfinished_download_that_may_not_be_read_begins_anew(house, suffix):
    house.w.env["TB_DOWNLOAD_CHUNK_BYTES"] = "65536"
    house.w.proxy.rule(fp.status(403), path="model.tbenc$", nth=range(2, 100))
    assert house.w.run()[0] == 75
    house.w.proxy.clear_rules()
    p = house.rig.target / (house.asset.name + suffix)
    p.unlink()
    p.symlink_to(house.rig.tmp / "p")
    (house.rig.tmp / "p").symlink_to(p)  # ELOOP, as nothing is refused to root
    assert house.hydrate() == (0, 1), house.w.log()


def test_a_changed_mode_of_the_manifest_is_corrected(house):
    house.ready()
    manifest = house.rig.target / "model.manifest.json"
    os.chmod(manifest, 0o600)
    assert house.hydrate() == (0, 0) and manifest.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("touched", [False, True], ids=["as it was", "another mtime"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_a_complete_model_needs_no_room(house, full, touched):
    """What is written there already is not written again; what cannot be is said."""
    house.rig.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", house.rig.target], check=True)
    try:
        house.ready()
        if touched:
            os.utime(house.file)
        if full:
            with open(house.rig.target / "filler", "wb", buffering=0) as f, pytest.raises(OSError, match="No space"):
                while f.write(bytes(4096)):
                    pass
        else:
            subprocess.run(["mount", "-o", "remount,ro", house.rig.target], check=True)
        # left by a tb-decrypt that was killed: what cannot be mended there is no failure
        sha256 = json.loads(house.w.manifest)["sha256_ciphertext"]
        wish = {"sha256": sha256, "ranges": [{"offset": 32, "bytes": 4116, "record": 0, "seen": 0, "try": 1}]}
        tb_decrypt = house.rig.run / "tb-decrypt"
        tb_decrypt.mkdir(exist_ok=True)
        (tb_decrypt / "want.json").write_text(json.dumps(wish))
        assert house.hydrate() == (0, 0) and "cannot mend" in house.w.log(), house.w.log()
        assert house.serve() == 0
        assert ("cannot record the verification" in house.w.log()) == touched
    finally:
        subprocess.run(["umount", house.rig.target], check=True)


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

    def spoil(path, at=SIZE // 2):
        st = path.stat()
        piece = path.read_bytes()[at:at + 64]
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
