# SPDX-License-Identifier: Apache-2.0
"""What a delivery keeps to itself: the key, the plaintext, what the runtime inherits; and keys that are refused, missing or wrong."""

import hashlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

import tbsys
from delivery_asset import Asset
from delivery_rig import FILES, NO_MOUNT, Rig, both, expected, rig, slow_start  # noqa: F401


SYS_ADMIN = 1 << 21  # CAP_SYS_ADMIN


def status_of(facts):
    return dict(line.split(":\t", 1) for line in facts["status"].splitlines() if ":\t" in line)


def test_the_runtime_inherits_nothing(rig):
    asset = Asset(FILES).write(rig.target)
    stray = ("sh", "-c", 'ulimit -Sn 300; exec 7</dev/null; exec "$0" "$@"')
    both(rig, asset, rig.probe(wrapper=stray, env={"WATCHDOG_USEC": "1", "HARMLESS": "yes"}))
    facts = rig.facts()
    env = facts["environ"]
    assert not [k for k in env if k.startswith(("LISTEN_", "WATCHDOG_")) or k in ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")]
    assert env["HARMLESS"] == "yes" and env["TMPDIR"] == "/dev/shm"
    assert asset.key.hex() not in json.dumps(env) + " ".join(facts["argv"])
    assert facts["fds"] == [0, 1, 2]
    assert facts["core"] == [1, 1] and facts["nofile"][0] == 300  # raised for our own work only
    status = status_of(facts)
    assert status["NoNewPrivs"] == "1" and int(status["SigBlk"], 16) == 0
    assert not int(status["CapEff"], 16) & SYS_ADMIN and not int(status["CapBnd"], 16) & SYS_ADMIN


def test_a_container_engine_keeps_what_it_makes_containers_with(rig):
    asset = Asset(FILES).write(rig.target)
    both(rig, asset, rig.probe(env={"TB_RUNTIME_ENGINE": "true"}))
    status = status_of(rig.facts())
    assert int(status["CapEff"], 16) & SYS_ADMIN and status["NoNewPrivs"] == "1"


def test_core_of_the_runtime_is_not_written(rig):
    asset = Asset(b"secret weights " * 1000).write(rig.target)
    script = rig.script("crash.py", "import os, sys; os.chdir(sys.argv[2]); os.abort()")
    load = rig.load(command=f"{sys.executable} {script} {{model}} {rig.tmp}")
    both(rig, asset, load)
    assert load.wait() == -signal.SIGABRT
    assert not list(rig.tmp.glob("core*"))


def test_no_plaintext_reaches_the_disk(rig):
    marker = secrets.token_hex(32).encode()
    asset = Asset({"a": marker * 3000, "b/c": marker * 5000}, chunk_bytes=65536).write(rig.target)
    rig.stay.touch()
    both(rig, asset, rig.probe(wrapper=NO_MOUNT))
    assert rig.facts()["files"]["a"][0] == hashlib.sha256(marker * 3000).hexdigest()
    assert (rig.model / "a").read_bytes().startswith(marker)  # the search below can find it
    for p in rig.tmp.rglob("*"):
        if p.is_file():
            assert marker not in p.read_bytes(), p


def test_no_secret_leaks(rig):
    """Neither log nor status nor progress nor any file carries the key; the process takes no core of it."""
    decrypt, load, _ = slow_start(rig)
    key = (pathlib.Path(decrypt._cred_dir) / "model-key").read_bytes()
    proc = pathlib.Path(f"/proc/{decrypt.pid}")
    assert tbsys.takes_no_core(decrypt.pid)
    seen = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
    decrypt.stop()
    load.wait()
    for p in list(rig.tmp.rglob("*")) + list(rig.shm.rglob("*")):
        if p.is_file() and p.name != "model.tbenc":
            seen += p.read_bytes()
    seen += repr(decrypt._notify_log + load._notify_log).encode()
    assert key not in seen and key.hex().encode() not in seen.lower()


@pytest.mark.parametrize("mode", ["dir", "fifo"])
def test_with_two_unprivileged_users(mode):
    """As the units have it: tb-load and tb-decrypt under different users without any capability."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="tb-users-"))
    base.chmod(0o755)
    rig = Rig(base)
    try:
        asset = Asset(FILES if mode == "dir" else b"weights" * 100_000).write(rig.target)
        for program in ("tb-load", "tb-decrypt"):
            shutil.copy(tbsys.program(program), base / program)
        for path in (rig.shm, rig.run / "tb-decrypt.sock"):
            os.chown(path, 65534, 65534)
        rig.run.chmod(0o777), base.chmod(0o777)
        decrypt, load = rig.decrypt(asset), rig.probe() if mode == "dir" else rig.reader()
        for d, name, uid in ((load, "tb-load", 65534), (decrypt, "tb-decrypt", 65533)):
            d.argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", str(base / name)]
        decrypt.credentials = lambda: {"model-key": asset.key, "manifest-sha256": b"none"}
        decrypt.preexec = lambda: subprocess.run(["chown", "-R", "65533", *map(str, pathlib.Path("/dev/shm").glob(
            f"tb-cred-{os.getppid()}-*"))], check=True)
        load.credentials = None
        decrypt.start()
        load.start()
        assert load.wait() == (7 if mode == "dir" else 0), load.log_text()
        assert decrypt.wait() == 0
        if mode == "dir":
            assert rig.facts()["files"] == expected(FILES, dict.fromkeys(FILES, "0o444"))
            assert rig.facts()["write"] == rig.facts()["create"] == "Permission denied"
        else:
            assert rig.out.read_text() == hashlib.sha256(asset.plain).hexdigest()
    finally:
        rig.close()
        shutil.rmtree(base)


@pytest.mark.parametrize("mode", ["dir", "fifo"])
@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33], ids=["empty", "short", "long"])
def test_refused_key(rig, mode, key):
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT) if mode == "dir" else rig.reader()
    decrypt = both(rig, asset, load, key=key)
    assert decrypt.wait() == 77 and load.wait() == 77
    assert "model-key" in load.log_text() and not rig.leftovers() and not rig.out.exists()
    assert rig.delivery()["state"] == "failed" and "model-key" in rig.delivery()["reason"]


def test_wrong_key(rig):
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT)
    decrypt = both(rig, asset, load, key=secrets.token_bytes(32))
    assert decrypt.wait() == 76 and load.wait() == 76 and not rig.leftovers()


@pytest.mark.parametrize("name", ["model-key", "manifest-sha256"])
def test_missing_credential_is_a_configuration_error(rig, name):
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT)
    decrypt = rig.decrypt(asset)
    del decrypt.credentials[name]
    decrypt.start(), load.start()
    assert decrypt.wait() == 78 and load.wait() == 78 and f"LoadCredential={name}" in load.log_text()
