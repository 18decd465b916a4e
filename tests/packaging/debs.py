#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages of this checkout, built when something in it changed.

usage: debs.py [SUITE]        prints the directory that holds them, build/debs/SUITE (default: the suite that runs here)"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
OUT = REPO / "build" / "debs"
# What a package is made of. Tests and the VM may change without a new build.
SOURCES = ("CHANGELOG.md", "LICENSE", "Makefile", "bicep", "common", "controlplane", "debian", "docs", "image", "man", "metering", "packer", "provider",
           "services", "tbenc", "tests/packaging/build.sh", "units")
TOOLS = ("debhelper", "dpkg-dev", "gcc", "systemd")


def running_suite():
    release = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"].strip('"')


def digest(suite):
    """Names, modes and contents of the sources, and with what they are built."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES], cwd=REPO,
                           check=True, capture_output=True).stdout.split(b"\0")
    h = hashlib.sha256(suite.encode())
    for name in sorted(set(names) - {b""}):
        path = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(REPO), name)))
        if path.is_file():
            h.update(b"%s\0%o\0%s" % (name, path.stat().st_mode & 0o111, hashlib.sha256(path.read_bytes()).digest()))
    if suite == running_suite():
        h.update(subprocess.run(["dpkg-query", "-W", *TOOLS], capture_output=True).stdout)
    return h.hexdigest()


def build_into(suite, out, *source, **env):
    """One build, whatever is there already; of a source.tar if one is given. Its log is OUT.log."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = out.with_suffix(".log")
    with open(log, "wb") as f:
        r = subprocess.run([REPO / "tests/packaging/build.sh", suite, out, *source], stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                           env={**os.environ, **env})
    if r.returncode != 0:
        raise RuntimeError(f"build of the packages for {suite} failed; the end of {log}:\n{log.read_text()[-3000:]}")
    return out


def build(suite=None):
    """The directory of packages that are up to date."""
    suite = suite or running_suite()
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / f"{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, out, want = OUT / f"{suite}.stamp", OUT / suite, digest(suite)
        while not (stamp.exists() and stamp.read_text() == want):
            stamp.unlink(missing_ok=True)
            build_into(suite, out)
            built, want = want, digest(suite)  # somebody may have been writing meanwhile
            if built == want:
                stamp.write_text(want)
        return out


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
