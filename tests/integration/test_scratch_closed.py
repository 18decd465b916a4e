# SPDX-License-Identifier: Apache-2.0
"""tb-scratch on a disk that it formatted before: a file stands for the disk, and nothing is mounted. Disks and mounts: e2e-vagrant/tests/vm/test_scratch.py."""

import os
import pathlib
import subprocess

import pytest

import tbsys

SCRIPT = pathlib.Path(tbsys.repo) / "units/tb-scratch"
MARK = b"TrustBridge scratch disk, safe to format"


@pytest.fixture
def place(tmp_path):
    """The script's functions; what asks PID 1 or udev only says so."""
    functions = SCRIPT.read_text().split("case ${1:-} in")[0]
    (tmp_path / "prepare").write_text(functions + """
udevadm() { :; }
choose() { disk=$1/disk; }
forget_partitions() { :; }
mount_disk() { echo "mounts $1"; }
closed=$2
prepare /mnt/resource "$1"
""")
    for program in ("e2fsck", "mkfs.ext4"):
        real = next(p for d in ("/usr/sbin", "/sbin") if (p := pathlib.Path(d) / program).exists())
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} >>{tmp_path}/ran\nexec {real} "$@"\n')
        (tmp_path / program).chmod(0o755)
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(96 << 20)
    return tmp_path


def prepare(place, closed):
    (place / "ran").write_text("")
    p = subprocess.run(["sh", place / "prepare", place, closed], env={**os.environ, "PATH": f"{place}:/usr/sbin:{os.environ['PATH']}"}, capture_output=True, text=True,
                       timeout=120, check=False)
    assert p.returncode == 0 and "mounts" in p.stdout, p
    return p.stdout, (place / "ran").read_text().split()


def leave(place):
    """Somebody else writes to the file system that is there."""
    (place / "theirs").write_text("theirs")
    subprocess.run(["/usr/sbin/debugfs", "-w", "-R", f"write {place}/theirs theirs", place / "disk"], check=True, capture_output=True)


def is_there(place):
    return b"theirs" in subprocess.run(["/usr/sbin/debugfs", "-R", "ls /", place / "disk"], check=True, capture_output=True).stdout


def test_the_model_is_found_again(place):
    said, ran = prepare(place, "")
    assert ": empty, " in said and ran == ["mkfs.ext4"]
    leave(place)
    said, ran = prepare(place, "")
    assert "formatted by an earlier start: mounting it" in said and ran == ["e2fsck"] and is_there(place)


def test_a_closed_image_mounts_what_it_made(place):
    """Nothing of the file system is read but that it is one: neither the kernel nor e2fsck gets what somebody left there."""
    prepare(place, "yes")
    leave(place)
    assert is_there(place)
    said, ran = prepare(place, "yes")
    assert "which a closed image does not believe: formatting it" in said and ran == ["mkfs.ext4"] and not is_there(place)
    with open(place / "disk", "rb") as f:
        f.seek(-(1 << 20), os.SEEK_END)
        assert f.read(len(MARK)) == MARK


@pytest.mark.parametrize("there", [True, False])
def test_a_closed_image_is_known_by_its_settings(place, there):
    """As the unit calls it: the fourth argument is a file of closed images alone."""
    unit = (pathlib.Path(tbsys.repo) / "units/tb-scratch.service").read_text()
    assert "ExecStart=@libexecdir@/tb-scratch ${TB_TARGET_DIR} /mnt/resource /dev/disk/trustbridge @sysconfdir@/trustbridge/image.env\n" in unit
    head = SCRIPT.read_text().split("case $1 in\n    /*) ;;")[0]
    (place / "known").write_text(head + '\necho "closed=$closed"\n')
    if there:
        (place / "image.env").write_text("")
    for words in ([place / "image.env"], [place / "none"], []):
        p = subprocess.run(["sh", place / "known", "/t", "/m", "/d", *words], capture_output=True, text=True, timeout=30, check=False)
        assert p.stdout == ("closed=yes\n" if there and words and words[0].name == "image.env" else "closed=\n"), p
