# SPDX-License-Identifier: Apache-2.0
"""What `make debs` and `make dist` leave for others: a directory that apt installs from, and a tarball that anybody can make again."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import debs
import pytest
from test_packages import ENV, PACKAGES, fresh_system, run

REPO = debs.REPO


@pytest.fixture(scope="module")
def folder():
    run("make", "-C", REPO, "debs")
    return REPO / "build/packages" / debs.running_suite()


def test_the_directory_is_complete(folder):
    names = {p.name for p in folder.iterdir()}
    packages = {p.name for p in folder.glob("*.deb")}
    assert names == packages | {"Packages", "SHA256SUMS"} and {n.split("_")[0] for n in packages} == set(PACKAGES)
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=folder)
    assert {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()} == packages | {"Packages"}
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    run("make", "-C", REPO, "debs")
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()} == before
    assert not [p.name for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_make_deps_installs_what_the_packages_are_built_with():
    """apt installs no recommended packages there: what dpkg-checkbuilddeps asks for must be named, as must what it asks for unsaid."""
    control = re.sub(r"<!\w+>|\(.*?\)", "", (REPO / "debian/control").read_text())
    wanted = re.search(r"^Build-Depends:(.*?)^\S", control, re.M | re.S)[1].split(",")
    installed = set(re.search(r'PACKAGES="(.*?)"', (REPO / "tests/deps.sh").read_text(), re.S)[1].split())
    also = {"debhelper-compat": "debhelper", "dh-sequence-installsysusers": "debhelper"}
    for either in ["build-essential", *wanted]:
        names = {also.get(name.strip(), name.strip()) for name in either.split("|")} - {""}
        assert not names or names & installed, names


def test_apt_installs_from_it_and_takes_it_away(folder, tmp_path):
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    run("tar", "-C", root, "-xf", fresh_system(lambda name: next(folder.glob(f"{name}_*.deb"))), "--numeric-owner", "--exclude=./dev/*")
    run("mknod", "-m", "666", root / "dev/null", "c", "1", "3")
    shutil.copytree(folder, root / "srv/trustbridge")
    (root / "etc/apt/sources.list").write_text("")
    (root / "etc/apt/sources.list.d/trustbridge.list").write_text("deb [trusted=yes] file:/srv/trustbridge ./\n")

    def apt(*args):
        return run("chroot", root, "apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", *args, env=ENV)
    apt("update")
    assert "trustbridge" in run("chroot", root, "apt-cache", "policy", "tbpkg", env=ENV)
    apt("install", "--no-install-recommends", *PACKAGES)
    version = re.search(r'TB_VERSION "(.*)"', (REPO / "common/version.h").read_text())[1]
    assert version in run("chroot", root, "tbpkg", "--version", env=ENV)
    apt("purge", *PACKAGES)
    left = run("chroot", root, "dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", env=ENV)
    assert not re.search(r"^(tbpkg|trustbridge|libtbenc)", left, re.M), left
    for name in ("usr/bin/tbpkg", "usr/lib/trustbridge", "usr/share/trustbridge", "usr/share/doc/trustbridge", "etc/trustbridge"):
        assert not (root / name).exists(), name


def test_nothing_half_made_is_left(folder, tmp_path):
    """A full disk: what was there before is there still."""
    out = tmp_path / "small/out"
    out.parent.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", out.parent)
    try:
        out.mkdir()
        (out / "old").touch()
        r = subprocess.run([REPO / "tests/packaging/repository.sh", folder, out], capture_output=True, text=True)
        assert r.returncode != 0 and "No space left" in r.stderr
        assert [p.name for p in out.iterdir()] == ["old"] and [p.name for p in out.parent.iterdir()] == ["out"]
    finally:
        run("umount", out.parent)


@pytest.fixture
def checkout(tmp_path):
    """A commit of what is here, in a repository of its own."""
    run("git", "clone", "-q", "--no-hardlinks", REPO, tmp_path / "checkout")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=REPO).splitlines():
        if (REPO / name).exists():
            (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, tmp_path / "checkout" / name)
    run("git", "add", "-A", cwd=tmp_path / "checkout")
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "x"], cwd=tmp_path / "checkout")
    return tmp_path / "checkout"


def test_the_tarball(checkout, tmp_path):
    def dist(**env):
        run("make", "dist", cwd=checkout, env={**os.environ, **env})
        [tarball] = (checkout / "build").glob("*.tar.gz")
        run("sha256sum", "--check", f"{tarball.name}.sha256", cwd=tarball.parent)
        return tarball, hashlib.sha256(tarball.read_bytes()).hexdigest()
    tarball, first = dist()
    before = os.umask(0o077)
    try:
        assert dist(TZ="Asia/Tokyo", LC_ALL="C", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="tar.umask", GIT_CONFIG_VALUE_0="user")[1] == first
    finally:
        os.umask(before)
    version = re.search(r'TB_VERSION "(.*)"', (REPO / "common/version.h").read_text())[1]
    with tarfile.open(tarball) as t:
        names = {m.name for m in t if m.isfile() or m.issym()}
    want = set(run("git", "ls-files", cwd=checkout).splitlines())
    assert names == {f"trustbridge-{version}/{n}" for n in want} and pathlib.Path(tarball).name == f"trustbridge-{version}.tar.gz"
    (checkout / "new").touch()
    r = subprocess.run(["make", "dist"], cwd=checkout, capture_output=True, text=True)
    assert r.returncode != 0 and "has changes that no commit has" in r.stderr
    (checkout / "new").unlink()
    run("make", "clean", cwd=checkout)
    assert run("git", "status", "--porcelain", "--ignored", cwd=checkout) == ""
