#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the appliance's disk image: Debian by mmdebstrap with TrustBridge installed, as a customer's VM has it, and three
things a test needs beside it: a small inference server, a root shell on a virtio port, and a network by DHCP.

usage: build.py [--suite bookworm|trixie] [--from tree|debs|bare|podman|vagrant]
Prints the directory of the image: disk.raw (ext4, no partition table), vmlinuz, initrd, packages. Needs root, no loop device.
Everything is kept in build/vm/ under the hash of what went into it; what is there already is not built again."""

import argparse
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
OUT = REPO / "build" / "vm"
SUITES = ("bookworm", "trixie")
DISK_BYTES = 2 << 30
# What a Debian cloud image has anyway, and what trustbridge recommends.
BASE = """ca-certificates cloud-init curl dbus e2fsprogs iproute2 kmod libnss-systemd linux-image-cloud-amd64 logrotate man-db ntfs-3g procps
python3 systemd systemd-sysv udev util-linux""".split()
# What trustbridge and, for the smoke test, tbpkg depend on: in the base, so that installing them needs no network.
LIBRARIES = {
    "bookworm": "libarchive13 libcjson1 libcurl4 libgnutls30 libinih1 libmicrohttpd12 libsqlite3-0 libssl3 libsystemd0".split(),
    "trixie": "libarchive13t64 libcjson1 libcurl4t64 libgnutls30t64 libinih1 libmicrohttpd12t64 libsqlite3-0 libssl3t64 libsystemd0".split(),
}
# Debian's housekeeping, masked: it would share two emulated processors with what is tested.
IDLE = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "man-db.timer")


def run(*argv, **kw):
    r = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **kw)
    if r.returncode != 0:
        sys.exit(f"build.py: {argv[0]} failed with {r.returncode}:\n{(r.stdout + r.stderr)[-4000:]}")
    return r.stdout


def digest(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p if isinstance(p, bytes) else str(p).encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


def tree_digest(root):
    """Names, modes and contents below root."""
    h = hashlib.sha256()
    for p in sorted(root.rglob("*")):
        h.update(f"{p.relative_to(root)}\0{p.lstat().st_mode:o}\0".encode())
        if p.is_symlink():
            h.update(os.readlink(p).encode())
        elif p.is_file():
            h.update(hashlib.sha256(p.read_bytes()).digest())
    return h.hexdigest()


IN_USE = []  # open files, each with a lock on an image that this process was given


def use(image):
    """Nobody removes the image while this process lives."""
    IN_USE.append(open(image / "vmlinuz", "rb"))
    fcntl.flock(IN_USE[-1], fcntl.LOCK_SH)
    return image


def used(image):
    with open(image / "vmlinuz", "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def replace_others(pattern, keep):
    """Removes what an earlier build left and nobody uses."""
    for p in OUT.glob(pattern):
        if p != keep and not p.is_dir():
            p.unlink()
        elif p != keep and not used(p):
            shutil.rmtree(p)


# -- the base: Debian only ------------------------------------------------------------------------------------------------

def base(suite, name="base", extra=()):
    """A tar of Debian with all packages and `extra` ones, made once per package list; `name` keeps several of them apart."""
    packages = sorted([*BASE, *LIBRARIES[suite], *extra])
    hook = HERE / "base-hook.sh"
    tar = OUT / f"{name}-{suite}-{digest(suite, packages, hook.read_bytes())}.tar"
    if tar.exists():
        return tar
    print(f"build.py: making the {name} of {suite} by mmdebstrap", file=sys.stderr)
    new = tar.with_name(f"new-{tar.name}")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # it starts a python3 for each package: not one of several by a shim
    run("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", f"--essential-hook={hook} \"$1\"", suite, new, run(REPO / "tests/packaging/mirror.sh").strip(),
        env={**os.environ, "PATH": path})
    new.rename(tar)
    replace_others(f"{name}-{suite}-*.tar", tar)
    return tar


# -- TrustBridge in it ----------------------------------------------------------------------------------------------------

def stage_tree(suite, dest):
    """What `make install` gives: quicker than packages while one writes units."""
    run("make", "-C", REPO, "install", f"DESTDIR={dest}", "prefix=/usr")


def stage_debs(suite, dest):
    print(f"build.py: the packages for {suite} are brought up to date", file=sys.stderr, flush=True)
    debs = pathlib.Path(run(sys.executable, REPO / "tests/packaging/debs.py", suite).strip())
    for p in debs.glob("*.deb"):
        if p.name.startswith("trustbridge_"):
            shutil.copy(p, dest)


def install_tree(root, staged):
    """What the packages' maintainer scripts would do after unpacking."""
    run("cp", "-a", f"{staged}/.", root)
    run("systemd-sysusers", f"--root={root}")
    run("journalctl", f"--root={root}", "--update-catalog")
    (root / "etc/trustbridge").mkdir(exist_ok=True)
    units = [u for u in ("trustbridge.target", "tb-proxy.socket") if (root / "usr/lib/systemd/system" / u).exists()]
    if units:
        run("systemctl", f"--root={root}", "enable", *units)


def install_debs(root, staged):
    (root / "tmp/debs").mkdir()
    for p in staged.glob("*.deb"):
        shutil.copy(p, root / "tmp/debs")
    run("chroot", root, "sh", "-c", "dpkg -i /tmp/debs/*.deb")
    shutil.rmtree(root / "tmp/debs")


def install_bare(root, staged):
    """Without TrustBridge: what an image builder starts from, who logs in as a user that the seed names."""
    modules = "[seed_random, bootcmd, write_files, users-groups, ssh]"
    (root / "etc/cloud/cloud.cfg.d/95-users.cfg").write_text(f"cloud_init_modules: {modules}\n")


def install_vagrant(root, staged):
    """As a Vagrant box must be: user vagrant with the key that everybody knows, root without a password. For tests only."""
    install_debs(root, staged)
    key = next(pathlib.Path("/usr/share/rubygems-integration").glob("all/gems/vagrant-*/keys/vagrant.pub"), None)
    if not key:
        sys.exit("build.py: vagrant.pub is not there; install Debian's vagrant")
    run("chroot", root, "useradd", "-m", "-s", "/bin/bash", "-p", "*", "vagrant")
    (root / "etc/sudoers.d/vagrant").write_text("vagrant ALL=(ALL) NOPASSWD: ALL\n")
    ssh = root / "home/vagrant/.ssh"
    ssh.mkdir(mode=0o700)
    shutil.copy(key, ssh / "authorized_keys")
    run("chroot", root, "chown", "-R", "vagrant:", "/home/vagrant")


def install_podman(root, staged):
    """With podman, and the drop-in for runtimes in a container."""
    install_debs(root, staged)
    dropins = root / "etc/systemd/system/tb-runtime.service.d"
    dropins.mkdir()
    shutil.copy(REPO / "units/examples/vllm-podman.conf", dropins)


SOURCES = {"tree": (stage_tree, install_tree), "debs": (stage_debs, install_debs), "bare": (lambda *_: None, install_bare),
           "podman": (stage_debs, install_podman), "vagrant": (stage_debs, install_vagrant)}
# Which base: its name and what is in it beyond BASE.
BASES = {"podman": ("base-podman", ("crun", "podman")),
         "vagrant": ("base-vagrant", ("openssh-server", "sudo"))}


def compile_agent(program):
    """The root shell, for a machine of any suite."""
    run("gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-static", "-o", program, HERE / "agent.c")


def add_test_parts(root):
    """The runtime kit and the test's own access; nothing here is part of the product."""
    kit = root / "opt/runtime-kit"
    shutil.copytree(REPO / "build/llama", kit, symlinks=True)
    run("cp", "-a", f"{HERE}/guest/.", root)
    compile_agent(root / "usr/local/lib/vm-agent")
    run("systemctl", f"--root={root}", "enable", "vm-agent.service", "systemd-networkd.service")
    for unit in IDLE:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/machine-id").write_text("uninitialized\n")
    (root / "etc/hostname").write_text("trustbridge\n")
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)


def make_image(suite, source, tar, staged, out):
    with tempfile.TemporaryDirectory(dir=OUT, prefix="root-") as tmp:
        root = pathlib.Path(tmp) / "root"
        root.mkdir(mode=0o755)
        run("tar", "-C", root, "-xf", tar, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*")
        (out / "packages").write_text(run("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W"))
        SOURCES[source][1](root, staged)
        add_test_parts(root)
        boot = root / "boot"
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(next(boot.glob(f"{name}-*")), out / name.split(".")[0])
        disk = out / "disk.raw"
        with open(disk, "wb") as f:
            f.truncate(DISK_BYTES)
        run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=0,root_owner=0:0", "-O", "^metadata_csum_seed", "-d", root,
            disk)


@contextlib.contextmanager
def locked():
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def build(suite="bookworm", source="debs"):
    """Returns the directory of an image that is up to date."""
    with locked(), tempfile.TemporaryDirectory(dir=OUT, prefix="stage-") as tmp:
        staged = pathlib.Path(tmp) / "stage"
        staged.mkdir(mode=0o755)
        SOURCES[source][0](suite, staged)
        tar = base(suite, *BASES.get(source, ()))
        llama = tree_digest(REPO / "build/llama")
        key = digest(tar.name, source, tree_digest(staged), tree_digest(HERE / "guest"), (HERE / "agent.c").read_bytes(),
                     (HERE / "build.py").read_bytes(), llama)
        image = OUT / f"image-{suite}-{source}-{key}"
        if not image.exists():
            print(f"build.py: making the image of {suite} from {source}", file=sys.stderr)
            new = OUT / f"new-{image.name}"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make_image(suite, source, tar, staged, new)
            new.rename(image)
            replace_others(f"image-{suite}-{source}-*", image)
        return use(image)


def main():
    ap = argparse.ArgumentParser(description="builds the appliance's disk image")
    ap.add_argument("--suite", choices=SUITES, default="bookworm")
    ap.add_argument("--from", dest="source", choices=list(SOURCES), default="debs")
    args = ap.parse_args()
    if os.geteuid() != 0:
        sys.exit("build.py: needs root (mmdebstrap, and owners in the file system)")
    print(build(args.suite, args.source))


if __name__ == "__main__":
    main()
