# SPDX-License-Identifier: Apache-2.0
"""Where tb-load may put a plaintext: directories that others prepared, disks, swap, too little memory, what is in the way."""

import os
import pathlib

import pytest

import tbsys
from delivery_asset import Asset
from delivery_rig import FILES, NO_MOUNT, both, rig  # noqa: F401


# -- directories that others prepared ----------------------------------------------------------------------------------

NOBODY = 65534


def prepare_place(rig, how):
    """What another user may leave in /dev/shm before the first start; returns the directory."""
    place = rig.shm / "place"
    if how == "open to all":
        place.mkdir()
        place.chmod(0o777)
        return place
    if how == "link":
        place.symlink_to(rig.tmp)
    else:
        place.mkdir()
    os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    return place


@pytest.mark.parametrize("how", ["directory", "link", "open to all"])
@pytest.mark.parametrize("setting, mode", [("TB_READY_SIGNAL", "fifo"), ("TB_PIPE_PATH", "fifo"), ("TB_MODEL_DIR", "dir")])
def test_a_place_that_another_user_controls_is_refused(rig, setting, mode, how):
    Asset(FILES).write(rig.target)
    place = prepare_place(rig, how)
    before = sorted(os.listdir(place))
    load = rig.load(mode, "/bin/true", env={setting: place / "x"}).start()
    assert load.wait() == 78
    text = load.log_text()
    assert setting in text and str(place) in text and "choose another path" in text
    assert (f"user {NOBODY}" in text) == (how != "open to all")
    after = sorted(os.listdir(place))
    assert [n for n in after if n not in ("run", "state", "log-0")] == [n for n in before if n not in ("run", "state", "log-0")]


def test_a_model_directory_of_another_user_is_refused(rig):
    Asset(FILES).write(rig.target)
    rig.model.mkdir()
    os.chown(rig.model, NOBODY, NOBODY)
    load = rig.probe().start()
    assert load.wait() == 78 and f"user {NOBODY}" in load.log_text()


def test_dir_shared_with_others_is_refused(rig):
    Asset(FILES).write(rig.target)
    rig.model.mkdir(mode=0o755)
    (rig.model / "precious").write_text("not ours to remove")
    load = rig.probe(wrapper=NO_MOUNT).start()
    assert load.wait() == 78
    assert "mode 0700" in load.log_text() and (rig.model / "precious").exists()


def test_remains_of_a_killed_run_are_removed(rig):
    asset = Asset(FILES).write(rig.target)
    rig.model.mkdir(mode=0o700)
    (rig.model / "old/tree").mkdir(parents=True)
    (rig.model / "old/tree/plain").write_bytes(b"stale")
    (rig.model / "old/tree").chmod(0o500)
    rig.signal.parent.mkdir()
    rig.signal.write_text("stale")
    (rig.model / "link").symlink_to(rig.tmp / "precious")
    (rig.tmp / "precious").write_text("kept")
    load = rig.probe(wrapper=NO_MOUNT).start()
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="delivering")
    assert not rig.signal.exists()
    rig.decrypt(asset).start()
    assert rig.facts()["files"].keys() == FILES.keys()
    assert (rig.tmp / "precious").read_text() == "kept" and load


def test_fifo_path_that_is_a_directory(rig):
    Asset(b"x").write(rig.target)
    rig.pipe.mkdir()
    load = rig.reader().start()
    assert load.wait() == 78 and "is a directory" in load.log_text() and rig.pipe.is_dir()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_fifo_path_that_is_somebody_elses_file(rig, kind):
    """A setting with the wrong path must not cost the file that is there."""
    Asset(b"x").write(rig.target)
    precious = rig.tmp / "precious" if kind == "link" else rig.pipe
    precious.write_text("precious")
    if kind == "link":
        rig.pipe.symlink_to(precious)
    load = rig.reader().start()
    assert load.wait() == 78 and f"a {'symbolic link' if kind == 'link' else 'file'}, not a FIFO" in load.log_text()
    assert rig.pipe.read_text() == "precious"


# -- disks and memory ----------------------------------------------------------------------------------------------------

def test_dir_on_a_disk_is_refused(rig):
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT, env={"TB_MODEL_DIR": rig.tmp / "model"}).start()
    assert load.wait() == 78
    assert "is on a disk" in load.log_text() and "CAP_SYS_ADMIN" in load.log_text()
    assert not list((rig.tmp / "model").iterdir()) and rig.delivery()["state"] == "failed"
    assert not rig.out.exists() and asset


def test_not_enough_memory_is_said_before_anything_starts(rig):
    asset = Asset(b"x" * 5000)
    asset.manifest.update(plaintext_bytes=8 << 40, chunk_bytes=64 << 20)
    asset.chunk_bytes = 64 << 20
    asset.write(rig.target)
    records = (8 << 40) // (64 << 20)
    os.truncate(rig.target / asset.name, 32 + (8 << 40) + 20 * records)  # sparse
    load = rig.probe().start()
    assert load.wait() == 74
    assert "needs 8796094" in load.log_text() and "are available" in load.log_text()


# Puts a file in place of one in /proc, in a mount namespace of its own.
IN_PROC = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"')
SWAP_ON = "Filename Type Size Used Priority\n/dev/zvol-swap partition 4194300 0 -2\n"


def test_swap_is_refused_where_it_could_be_reached(rig):
    asset = Asset(FILES).write(rig.target)
    fake = rig.script("swaps", SWAP_ON)
    load = rig.probe(wrapper=(*IN_PROC, fake, "/proc/swaps", *NO_MOUNT)).start()
    assert load.wait() == 78
    assert "/dev/zvol-swap" in load.log_text() and "swapoff -a" in load.log_text() and not rig.leftovers()
    # A tmpfs without swap is fine, be it our own or a given one.
    own = rig.probe(wrapper=(*IN_PROC, fake, "/proc/swaps"))
    decrypt = both(rig, asset, own)
    assert rig.facts() and own.wait() == 7 and decrypt.wait() == 0
    rig.out.unlink()
    rig.model.chmod(0o700)
    mounted = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=700,noswap tmpfs "$0" && exec "$@"', rig.model)
    given = rig.probe(wrapper=(*mounted, *IN_PROC, fake, "/proc/swaps", *NO_MOUNT))
    decrypt = both(rig, asset, given)
    assert rig.facts() and given.wait() == 7 and decrypt.wait() == 0


# A chroot whose root is a plain directory, with every mount of this system in it.
IN_CHROOT = ("unshare", "-m", "sh", "-c", 'r=$(mktemp -d); mount --make-rslave /; for d in /*; do [ -d "$d" ] && [ ! -L "$d" ] && '
             'mkdir "$r$d" && mount --rbind "$d" "$r$d"; [ -L "$d" ] && cp -P "$d" "$r$d"; done; exec chroot "$r" "$@"', "sh")


def test_own_tmpfs_in_a_chroot(rig):
    """There / is no mount point; the mount that holds the directory must keep the new one to itself."""
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=IN_CHROOT)
    decrypt = both(rig, asset, load)
    assert rig.facts() and load.wait() == 7 and decrypt.wait() == 0
    assert not list(rig.model.iterdir()) and str(rig.model) not in pathlib.Path("/proc/self/mounts").read_text()


def test_less_memory_than_the_model_needs(rig):
    asset = Asset(b"x" * (4 << 20), chunk_bytes=1 << 20).write(rig.target)
    fake = rig.script("meminfo", "MemTotal: 24000000 kB\nMemFree: 3000 kB\nMemAvailable: 4096 kB\n")
    load = rig.probe(wrapper=(*IN_PROC, fake, "/proc/meminfo")).start()
    assert load.wait() == 74 and f"{4096 * 1024} are available" in load.log_text() and asset


def test_given_tmpfs_that_is_too_small(rig):
    Asset(b"x" * (4 << 20), chunk_bytes=1 << 20).write(rig.target)
    rig.model.mkdir(mode=0o700)
    mounted = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=700,size=4m tmpfs "$0" && exec "$@"', rig.model)
    load = rig.probe(wrapper=(*mounted, *NO_MOUNT)).start()
    assert load.wait() == 74 and f"in {rig.model}, {4 << 20} are free" in load.log_text()
