# SPDX-License-Identifier: Apache-2.0
"""tb-decrypt and tb-load over the decrypt socket: what arrives, what must never arrive, and who says what went wrong."""

import hashlib
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pytest

import tbsys
from delivery_asset import ASSET, Asset

REQUEST, REPLY = struct.Struct("=8sII32s"), struct.Struct("=8sIIQ480s")
FIFO, DIR = 1, 2
STANDIN = tbsys.repo / "e2e-vagrant/runtime-standin.py"

# Runs as the runtime: writes down what it sees, then ends, or stays while ARGV[3] exists.
PROBE = r'''
import hashlib, json, os, pathlib, resource, stat, sys, time
model, out, stay = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
def attempt(fn):
    try:
        fn()
        return "done"
    except OSError as e:
        return e.strerror
files = sorted(p for p in model.rglob("*") if p.is_file()) if model.is_dir() else [model]
facts = {
    "argv": sys.argv, "pid": os.getpid(), "environ": dict(os.environ),
    "files": {str(p.relative_to(model)) if model.is_dir() else p.name:
              [hashlib.sha256(p.read_bytes()).hexdigest(), oct(stat.S_IMODE(p.stat().st_mode))] for p in files},
    "write": attempt(lambda: open(files[0], "r+b")), "create": attempt(lambda: open(files[0].parent / "new", "wb")),
    "fds": sorted(int(f) for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "status": pathlib.Path("/proc/self/status").read_text(), "mounts": pathlib.Path("/proc/self/mountinfo").read_text(),
}
pathlib.Path(out + ".tmp").write_text(json.dumps(facts))
os.rename(out + ".tmp", out)
while stay.exists():
    time.sleep(0.02)
sys.exit(7)
'''

# Reads the FIFO slowly, so that a stream can be caught in the middle; gives its pid first.
SLOW = r'''
import os, sys, time
f = open(sys.argv[1], "rb", buffering=0)
f.read(4096)
open(sys.argv[2], "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
    f.read(1)
'''

# Reads the FIFO to its end and writes the hash to a new file each time.
READER = r'''
import hashlib, os, sys
h = hashlib.sha256()
with open(sys.argv[1], "rb", buffering=0) as f:
    while d := f.read(1 << 20):
        h.update(d)
open(sys.argv[2] + ".tmp", "w").write(h.hexdigest())
os.rename(sys.argv[2] + ".tmp", sys.argv[2])
'''


class Rig:
    """Directories, the decrypt socket as systemd would hold it, and both programs."""

    def __init__(self, tmp):
        self.tmp, self.target, self.run = tmp, tmp / "target", tmp / "run"
        self.run.mkdir()
        self.shm = pathlib.Path(f"/dev/shm/tb-test-{os.getpid()}-{secrets.token_hex(4)}")
        self.shm.mkdir(mode=0o700)
        self.pipe, self.signal, self.model = self.shm / "pipe", self.shm / "weights/ready.signal", self.shm / "model"
        self.out, self.stay = tmp / "out.json", tmp / "stay"
        self.listener = tbsys.unix_listener(self.run / "tb-decrypt.sock", "seqpacket")
        self.daemons = []

    def env(self, **more):
        return {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": "https://localhost", "TB_TARGET_DIR": self.target,
                "TB_RUN_DIR": self.run, "TB_STATE_DIR": self.tmp / "state", "TB_PIPE_PATH": self.pipe,
                "TB_READY_SIGNAL": self.signal, "TB_MODEL_DIR": self.model, **more}

    def script(self, name, text):
        path = self.tmp / name
        path.write_text(text)
        return path

    def daemon(self, argv, **kw):
        d = tbsys.Daemon(argv, log=self.tmp / f"log-{len(self.daemons)}", **kw)
        self.daemons.append(d)
        return d

    def decrypt(self, asset, key=None, bound="none", **env):
        creds = {"model-key": asset.key if key is None else key, "manifest-sha256": bound.encode()}
        return self.daemon([tbsys.program("tb-decrypt")], env=self.env(**env), listen={"decrypt": self.listener},
                           credentials={k: v for k, v in creds.items() if v is not False})

    def load(self, mode="dir", command=None, wrapper=(), env=None, preexec=None):
        more = {"TB_DELIVERY": mode, **(env or {})}
        if command:
            more["TB_RUNTIME_EXEC"] = command
        return self.daemon([*wrapper, tbsys.program("tb-load")], env=self.env(**more), preexec=preexec,
                           credentials={"decoy": b"not for the runtime"})

    def probe(self, **kw):
        return self.load(command=f"{sys.executable} '{self.script('probe.py', PROBE)}' {{model}} {self.out} \"{self.stay}\"", **kw)

    def reader(self, text=READER, out=None, **kw):
        script = self.script("reader.py", text)
        return self.load("fifo", f"{sys.executable} {script} {{model}} {out or self.out}", **kw)

    def progress(self):
        return tbsys.read_json(self.run / "tb-decrypt/progress.json")

    def delivery(self):
        return tbsys.read_json(self.run / "tb-runtime/delivery.json")

    def facts(self):
        def seen():
            ended = [d.log_text() for d in self.daemons[-2:] if d.rc]
            return self.out.exists() or ended
        assert tbsys.wait_for(seen, what="the probe's facts") is True, [d.log_text() for d in self.daemons[-2:]]
        return json.loads(self.out.read_text())

    def close(self):
        self.stay.unlink(missing_ok=True)
        for d in self.daemons:
            if d.proc:
                d.kill()
                d._cleanup()
        self.listener.close()
        shutil.rmtree(self.shm)

    def leftovers(self):
        """Everything below the memory directory but the directories themselves."""
        return [str(p) for p in self.shm.rglob("*") if not p.is_dir()]


@pytest.fixture
def rig(tmp_path):
    r = Rig(tmp_path)
    yield r
    r.close()


FILES = {"config.json": b'{"a": 1}\n', "empty": b"", "sub/deeper/weights.bin": random.Random(1).randbytes(300_001),
         "sub/tokenizer.json": b"t" * 4096}
MODES = {"config.json": 0o600, "sub/deeper/weights.bin": 0o755}
SEALED = {"config.json": "0o400", "empty": "0o444", "sub/deeper/weights.bin": "0o555", "sub/tokenizer.json": "0o444"}
NO_MOUNT = ("setpriv", "--bounding-set", "-sys_admin")


def expected(files, modes):
    return {p: [hashlib.sha256(d).hexdigest(), modes[p]] for p, d in files.items()}


def both(rig, asset, load, **kw):
    d = rig.decrypt(asset, **kw).start()
    load.start()
    return d


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


# -- mode dir ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [(), NO_MOUNT], ids=["own-tmpfs", "given-tmpfs"])
def test_dir_delivers_a_tree(rig, wrapper):
    asset = Asset(FILES, modes=MODES).write(rig.target)
    rig.stay.touch()
    load = rig.probe(wrapper=wrapper)
    decrypt = both(rig, asset, load)
    facts = rig.facts()
    assert decrypt.wait() == 0
    assert facts["files"] == expected(FILES, SEALED)
    assert facts["argv"][1] == str(rig.model)
    assert rig.delivery()["state"] == "delivered" and rig.delivery()["mode"] == "dir"
    assert rig.progress() == {"state": "complete", "bytes_done": len(asset.plain), "bytes_total": len(asset.plain)}
    ready = json.loads(rig.signal.read_text())
    assert ready["ready"] is True and ready["timestamp"].endswith("Z") and ready["sentinel_version"]
    if not wrapper:  # its own mount: nobody else sees it, and root cannot write to it either
        assert not list(rig.model.iterdir())
        assert facts["write"] == facts["create"] == "Read-only file system"
        mount = [line for line in facts["mounts"].splitlines() if f" {rig.model} " in line]
        assert len(mount) == 1 and " ro,nosuid,nodev,noexec" in mount[0] and "noswap" in mount[0]
    else:
        assert stat.S_IMODE(rig.model.stat().st_mode) == stat.S_IMODE((rig.model / "sub").stat().st_mode) == 0o500
    rig.stay.unlink()
    assert load.wait() == 7  # the runtime's own


def test_dir_delivers_a_single_file(rig):
    asset = Asset(b"x" * 100_000, name="tiny.gguf.tbenc").write(rig.target)
    both(rig, asset, rig.probe())
    facts = rig.facts()
    assert facts["argv"][1] == str(rig.model / "tiny.gguf")
    assert facts["files"]["tiny.gguf"][0] == hashlib.sha256(asset.plain).hexdigest()


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
    status = dict(line.split(":\t", 1) for line in facts["status"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and int(status["SigBlk"], 16) == 0
    assert not int(status["CapEff"], 16) & (1 << 21) and not int(status["CapBnd"], 16) & (1 << 21)  # CAP_SYS_ADMIN


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


def test_thousand_files_need_several_messages(rig):
    files = {f"d{i % 7}/f{i:04}": f"content {i}".encode() * (i % 5) for i in range(1003)}
    asset = Asset(files, chunk_bytes=1024).write(rig.target)
    few = ("sh", "-c", 'ulimit -Sn 64; exec "$0" "$@"')
    load, decrypt = rig.probe(wrapper=few), rig.decrypt(asset)
    decrypt.argv = [*few, *decrypt.argv]
    decrypt.start(), load.start()
    assert rig.facts()["files"] == expected(files, dict.fromkeys(files, "0o444"))


def test_dir_on_a_disk_is_refused(rig):
    asset = Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT, env={"TB_MODEL_DIR": rig.tmp / "model"}).start()
    assert load.wait() == 78
    assert "is on a disk" in load.log_text() and "CAP_SYS_ADMIN" in load.log_text()
    assert not list((rig.tmp / "model").iterdir()) and rig.delivery()["state"] == "failed"
    assert not rig.out.exists() and asset


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


@pytest.mark.parametrize("env, what", [
    ({"TB_RUNTIME_EXEC": "a 'b"}, "quote is not closed"),
    ({"TB_RUNTIME_EXEC": "/nonexistent/server {model}"}, "/nonexistent/server is not an executable file"),
    ({"TB_RUNTIME_EXEC": ""}, "TB_RUNTIME_EXEC is not set"),
    ({"TB_RUNTIME_EXEC": "no-such-server-anywhere"}, "in PATH"),
])
def test_bad_command_lines(rig, env, what):
    Asset(b"x").write(rig.target)
    load = rig.load(env=env).start()
    assert load.wait() == 78
    assert what in load.log_text() and not rig.leftovers()


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


def test_nothing_hydrated_yet(rig):
    load = rig.probe().start()
    assert load.wait() == 66 and "tb-hydrate" in load.log_text()
    asset = Asset(b"x" * 9000).write(rig.target)
    os.rename(rig.target / asset.name, rig.target / (asset.name + ".part"))
    load.start()
    assert load.wait() == 66


def test_decrypt_socket_not_there_yet(rig):
    Asset(b"x").write(rig.target)
    os.unlink(rig.run / "tb-decrypt.sock")
    load = rig.probe().start()
    assert load.wait() == 75 and "tb-decrypt.socket" in load.log_text()
    assert not rig.leftovers()


def test_stop_while_waiting_leaves_nothing(rig):
    Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT).start()
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="delivering")
    assert rig.leftovers()
    assert load.stop() == -signal.SIGTERM
    assert not rig.leftovers() and rig.delivery()["state"] == "failed"


# -- mode fifo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
def test_fifo_delivers(rig, size):
    asset = Asset(random.Random(size).randbytes(size)).write(rig.target)
    load = rig.reader()
    decrypt = both(rig, asset, load)
    assert load.wait() == 0 and decrypt.wait() == 0
    assert rig.out.read_text() == hashlib.sha256(asset.plain).hexdigest()
    assert rig.delivery()["state"] == "delivered" and not rig.leftovers()


def test_fifo_is_fresh_for_each_runtime_start(rig):
    asset = Asset(random.Random(3).randbytes(2_500_000)).write(rig.target)
    os.mkfifo(rig.pipe, 0o666)  # of an earlier run, and open to more than us
    for i in range(3):
        load = rig.reader(out=rig.tmp / f"hash{i}")
        decrypt = both(rig, asset, load)
        assert load.wait() == 0 and decrypt.wait() == 0
        assert (rig.tmp / f"hash{i}").read_text() == hashlib.sha256(asset.plain).hexdigest()


def test_fifo_mode_and_owner(rig):
    asset = Asset(b"x" * 10_000).write(rig.target)
    load = rig.load("fifo").start()  # nobody reads yet
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    st = rig.pipe.lstat()  # the signal never comes before the FIFO
    assert stat.S_ISFIFO(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600
    assert rig.decrypt(asset).start().wait() == 0  # fits the pipe: all is written before anybody reads
    assert load.running() and rig.delivery()["state"] == "delivering"
    assert rig.pipe.read_bytes() == asset.plain
    assert load.wait() == 0 and rig.delivery()["state"] == "delivered" and rig.signal.exists()


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


def test_second_reader_finds_no_fifo(rig):
    asset = Asset(random.Random(4).randbytes(4_000_000)).write(rig.target)
    load = rig.load("fifo").start()
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    first = open(rig.pipe, "rb", buffering=0)
    tbsys.wait_for(lambda: not rig.pipe.exists(), what="the path to go")
    with pytest.raises(FileNotFoundError):
        open(rig.pipe, "rb")
    rig.decrypt(asset).start()
    data = b""
    while d := first.read(1 << 20):
        data += d
    assert data == asset.plain and load.wait() == 0


def test_two_readers_at_once_are_noticed(rig):
    Asset(b"x" * 4096).write(rig.target)
    load = rig.load("fifo").start()
    tbsys.wait_for(rig.signal.exists, what="the ready signal")
    load.kill(signal.SIGSTOP)
    first = open(rig.pipe, "rb", buffering=0)
    second = open(rig.pipe, "rb", buffering=0)
    load.kill(signal.SIGCONT)
    assert load.wait() == 76 and "two readers" in load.log_text()
    first.close(), second.close()


class Server:
    """tb-decrypt played by the test: takes one request, and what comes then is up to the test."""

    def __init__(self, rig):
        rig.listener.settimeout(30)
        self.conn, _ = rig.listener.accept()
        data, self.fds, _, _ = socket.recv_fds(self.conn, 4096, 253)
        self.magic, self.mode, self.n, self.sha = REQUEST.unpack(data)

    def reply(self, status, count=0, message="", magic=b"TBDONE01"):
        self.conn.send(REPLY.pack(magic, status, 0, count, message.encode()))

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def test_end_is_held_back_until_success_is_known(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    load = rig.load("fifo").start()
    server = Server(rig)
    assert (server.magic, server.mode, server.n) == (b"TBOPEN01", FIFO, 1)
    assert server.sha == hashlib.sha256(asset.manifest_text()).digest()
    tbsys.wait_for(rig.pipe.exists, what="the FIFO")
    reader = os.open(rig.pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.write(server.fds[0], asset.plain)
    server.close()
    assert os.read(reader, 10_000) == asset.plain
    for _ in range(20):  # the writer is gone and all is read, yet this is no end
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        time.sleep(0.01)
    assert rig.delivery()["state"] == "delivering"
    server.reply(0, 9000)
    assert tbsys.wait_for(lambda: read_or_none(reader) == b"", what="the end")
    assert rig.delivery()["state"] == "delivered"  # written before the end could be seen
    assert load.wait() == 0


def read_or_none(fd):
    try:
        return os.read(fd, 1)
    except BlockingIOError:
        return None


def test_writer_is_told_when_the_reader_goes(rig):
    Asset(b"x" * 9000).write(rig.target)
    load = rig.load("fifo").start()
    server = Server(rig)
    tbsys.wait_for(rig.pipe.exists, what="the FIFO")
    os.write(server.fds[0], b"nobody reads yet, and that is no error")
    open(rig.pipe, "rb").close()

    def broken():
        try:
            os.write(server.fds[0], b"x")
        except BrokenPipeError:
            return True
    tbsys.wait_for(broken, what="EPIPE")
    server.reply(75, 0, "the reader went")
    assert load.wait() == 75 and "the reader went" in load.log_text()


@pytest.mark.parametrize("mode", ["dir", "fifo"])
@pytest.mark.parametrize("answer, rc, what", [
    (dict(status=0, count=8999), 76, "8999 bytes"), (dict(status=3), 74, "unknown status 3"),
    (dict(status=0, count=9000, magic=b"TBDONE02"), 74, "one version"), (dict(status=66, message="no x"), 66, "tb-decrypt: no x"),
    (dict(status=77, message="m" * 480), 77, "m" * 479), (None, 75, "without an answer"),
], ids=["short", "unknown", "magic", "66", "unterminated", "none"])
def test_answers_that_are_not_success(rig, answer, rc, what, mode):
    Asset(b"x" * 9000).write(rig.target)
    load = (rig.probe(wrapper=NO_MOUNT) if mode == "dir" else rig.reader()).start()
    server = Server(rig)
    server.close()
    if answer:
        server.reply(**answer)
    server.conn.close()
    assert load.wait() == rc and what in load.log_text()
    assert not rig.leftovers() and not rig.out.exists() and rig.delivery()["state"] == "failed"


def test_answer_before_the_request_is_read(rig):
    """A server that answers and closes while messages of the client are unread resets the connection; the answer still counts."""
    Asset({f"f{i:04}": b"x" for i in range(600)}).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT).start()
    rig.listener.settimeout(30)
    conn, _ = rig.listener.accept()
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="all messages to be sent")
    conn.send(REPLY.pack(b"TBDONE01", 77, 0, 0, b"not you"))
    conn.close()
    assert load.wait() == 77 and "not you" in load.log_text()


def slow_start(rig, asset=None):
    asset = asset or Asset(bytes(64 << 20), chunk_bytes=1 << 20).write(rig.target)
    load = rig.reader(SLOW)
    decrypt = both(rig, asset, load)
    reader = int(tbsys.wait_for(lambda: rig.out.exists() and rig.out.read_text(), what="the slow reader"))
    tbsys.wait_for(lambda: rig.progress().get("state") == "decrypting", what="decrypting")
    return decrypt, load, reader


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def test_sigkill_of_decrypt_in_the_middle(rig):
    decrypt, load, reader = slow_start(rig)
    decrypt.kill()
    assert load.wait() == 75 and "without an answer" in load.log_text()
    assert gone(reader) and not rig.leftovers() and rig.delivery()["state"] == "failed"


def test_sigkill_of_the_reader(rig):
    decrypt, load, reader = slow_start(rig)
    os.kill(reader, signal.SIGKILL)
    assert load.wait() == 75 and decrypt.wait() == 75
    assert not rig.leftovers() and rig.progress()["state"] == "failed"


def test_sigkill_of_load(rig):
    decrypt, load, reader = slow_start(rig)
    load.kill()
    assert decrypt.wait() == 75 and "went away" in rig.progress()["reason"]
    tbsys.wait_for(lambda: gone(reader), what="the runtime to die with its parent")


def test_sigterm_of_decrypt_blocked_in_a_write(rig):
    decrypt, load, reader = slow_start(rig)
    assert decrypt.stop() == 75
    assert load.wait() == 75 and "stopped before the end" in load.log_text() and gone(reader)


def test_sigterm_of_load_stops_all(rig):
    decrypt, load, reader = slow_start(rig)
    assert load.stop() == -signal.SIGTERM
    assert decrypt.wait() == 75 and gone(reader) and not rig.leftovers()


def test_restart_after_each_sigkill_delivers(rig):
    asset = Asset(random.Random(5).randbytes(3_000_000)).write(rig.target)
    decrypt, load, _ = slow_start(rig, asset)
    load.kill()
    decrypt.kill()
    rig.out.unlink()
    load = rig.reader()
    both(rig, asset, load)
    assert load.wait() == 0 and rig.out.read_text() == hashlib.sha256(asset.plain).hexdigest()


def test_runtime_stand_in_over_http(rig):
    asset = Asset(b"TRUSTBRIDGE_E2E_" * 65536, chunk_bytes=65536).write(rig.target)
    sha, port = hashlib.sha256(asset.plain).hexdigest(), tbsys.free_port()
    load = rig.load("fifo", f"{sys.executable} {STANDIN}", env={"TB_RUNTIME_PORT": str(port)}).start()

    def get(path, body=None):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=10) as r:
                return r.status, json.loads(r.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())
        except OSError:
            return None

    assert tbsys.wait_for(lambda: get("/health"), what="/health") == (200, {"status": "ok", "service": "runtime-mock"})
    assert get("/plaintext-hash") == (202, {"status": "reading", "bytes_read": 0})
    rig.decrypt(asset).start()
    tbsys.wait_for(lambda: get("/plaintext-hash")[0] == 200, what="the hash")
    assert get("/plaintext-hash") == (200, {"sha256": sha, "bytes_read": len(asset.plain)})
    status, demo = get("/v1/demo", b"hello")
    assert status == 200 and demo["message"] == "Hello from runtime-mock" and demo["plaintext_hash"] == sha
    assert demo["request"]["body_sha256"] == hashlib.sha256(b"hello").hexdigest() and demo["request"]["body_size"] == 5
    assert get("/v1/demo")[1]["request"]["method"] == "GET" and get("/status")[1]["read_complete"] is True
    assert get("/nothing")[0] == 404
    assert load.stop() == -signal.SIGTERM and not rig.leftovers()


def test_runtime_stand_in_with_a_directory(rig):
    asset = Asset(FILES).write(rig.target)
    port = tbsys.free_port()
    both(rig, asset, rig.load(command=f"{sys.executable} {STANDIN} {{model}}", env={"TB_RUNTIME_PORT": str(port)}))

    def sha():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/plaintext-hash", timeout=10) as r:
                return json.loads(r.read()).get("sha256")
        except OSError:
            return None
    assert tbsys.wait_for(sha, what="the hash") == hashlib.sha256(asset.plain).hexdigest()


# -- what must be refused ----------------------------------------------------------------------------------------------


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


def flip(asset, i, at, bit=1):
    n, body = asset.records[i]
    b = bytearray(body)
    b[at] ^= bit
    asset.records[i] = (n, bytes(b))


def swap(a):
    a.records[1], a.records[2] = a.records[2], a.records[1]


def duplicate(a):
    a.records[3] = a.records[2]


def set_header(offset, value):
    def damage(a):
        a.header = a.header[:offset] + value + a.header[offset + len(value):]
    return damage


def cut_records(a):
    del a.records[5:]


def drop(a):
    del a.records[3]


def lie_about_length(a):
    a.records[2] = (a.records[2][0] - 1, a.records[2][1])


# name -> (damage, the chunk the message must name; None: no chunk is at fault)
DAMAGE = {
    "ciphertext": (lambda a: flip(a, 4, 100), 4),
    "tag": (lambda a: flip(a, 6, -1), 6),
    "first": (lambda a: flip(a, 0, 0), 0),
    "last": (lambda a: flip(a, len(a.records) - 1, 3), 9),
    "length": (lie_about_length, 2),
    "huge-length": (lambda a: a.records.__setitem__(2, (0xFFFFFFFF, a.records[2][1])), 2),
    "swap": (swap, 1),
    "duplicate": (duplicate, 3),
    "magic": (set_header(0, b"TBENC009"), None),
    "chunk-bytes": (set_header(11, struct.pack(">I", 8192)), None),
    "nonce": (set_header(15, b"abcd"), 0),
    "reserved": (set_header(31, b"\1"), None),
    "cut": (cut_records, None),
    "drop": (drop, None),
    "trailing": (lambda a: a.records.append((0, b"trailing bytes  ")), None),
    "tags-sha256": (lambda a: a.manifest.update(tags_sha256="00" * 32), None),
}


@pytest.mark.parametrize("mode", ["dir", "fifo"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_ciphertext(rig, kind, mode):
    damage, chunk = DAMAGE[kind]
    asset = Asset(random.Random(6).randbytes(10 * 4096 - 5))
    damage(asset)
    asset.write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT) if mode == "dir" else rig.reader()
    decrypt = rig.decrypt(asset)
    if kind in ("cut", "drop", "trailing"):  # the size alone gives it away, to both
        assert load.start().wait() == 76 and "bytes, the manifest says" in load.log_text()
    else:
        decrypt.start(), load.start()
        assert decrypt.wait() == 76 and load.wait() == 76
        assert chunk is None or f"chunk {chunk}" in load.log_text(), load.log_text()
        assert rig.progress()["state"] == "failed" and rig.progress()["reason"]
    assert not rig.out.exists(), "the runtime saw an end"
    assert not rig.leftovers() and rig.delivery()["state"] == "failed"


def test_damage_deep_in_the_stream_kills_the_reader(rig):
    """The reader has seen a valid prefix; it must not live to see an end."""
    asset = Asset(bytes(8 << 20), chunk_bytes=1 << 18)
    flip(asset, 30, 5)
    asset.write(rig.target)
    load = rig.reader()
    decrypt = both(rig, asset, load)
    assert decrypt.wait() == 76 and load.wait() == 76 and "chunk 30" in load.log_text()
    assert not rig.out.exists() and not rig.leftovers()


def test_manifest_binding(rig):
    asset = Asset(FILES).write(rig.target)
    sha = hashlib.sha256(asset.manifest_text()).hexdigest()
    load = rig.probe(wrapper=NO_MOUNT)
    assert both(rig, asset, load, bound=sha).wait() == 0
    assert rig.facts() and load.wait() == 7
    decrypt = both(rig, asset, load, bound=sha.replace(sha[0], "0" if sha[0] != "0" else "1"))
    assert decrypt.wait() == 76 and load.wait() == 76 and "the contract names" in load.log_text()
    decrypt = both(rig, asset, load, bound="")
    assert decrypt.wait() == 77 and load.wait() == 77
    decrypt = both(rig, asset, load, bound="not a hash")
    assert decrypt.wait() == 78 and load.wait() == 78


def test_wrong_asset_id(rig):
    asset = Asset(FILES, asset_id="another").write(rig.target)
    load = rig.probe().start()
    assert load.wait() == 76 and "another" in load.log_text() and asset


@pytest.mark.parametrize("change, what", [
    ({"weights_filename": "../../escape.tbenc"}, "weights_filename"),
    ({"weights_filename": "/etc/shadow"}, "weights_filename"),
    ({"plaintext_bytes": 2 ** 53 + 1}, "plaintext_bytes"),
    ({"files": [{"path": "../out", "bytes": 9, "mode": "0644", "chunk": 0, "sha256": "00" * 32}]}, "path"),
])
def test_hostile_manifest(rig, change, what):
    asset = Asset(b"123456789")
    asset.manifest.update(change)
    rig.target.mkdir()
    (rig.target / "model.manifest.json").write_bytes(asset.manifest_text())
    load = rig.probe().start()
    assert load.wait() == 76 and what in load.log_text() and not rig.leftovers()


# -- tb-decrypt against other clients ------------------------------------------------------------------------------------


class Client:
    def __init__(self, rig):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(str(rig.run / "tb-decrypt.sock"))

    def send(self, data, fds=()):
        socket.send_fds(self.sock, [data], [f if isinstance(f, int) else f.fileno() for f in fds])

    def reply(self):
        magic, status, _, count, message = REPLY.unpack(self.sock.recv(4096))
        assert magic == b"TBDONE01"
        return status, count, message.rstrip(b"\0").decode()


def request(asset, mode, n, magic=b"TBOPEN01"):
    return REQUEST.pack(magic, mode, n, hashlib.sha256(asset.manifest_text()).digest())


def memfd(n=1):
    return [os.memfd_create(f"out{i}") for i in range(n)]


def ask(rig, asset, data, fds, **kw):
    decrypt = rig.decrypt(asset, **kw).start()
    client = Client(rig)
    client.send(data, fds)
    status, count, message = client.reply()
    assert decrypt.wait() == status  # what is answered is what systemd sees
    return status, count, message


def test_memfd_is_memory(rig):
    asset = Asset(FILES).write(rig.target)
    fds = memfd(4)
    assert ask(rig, asset, request(asset, DIR, 4), fds) == (0, len(asset.plain), "")
    assert [os.pread(f, 1 << 20, 0) for f in fds] == list(asset.files.values())


def test_file_on_a_disk_is_refused(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    with open(rig.tmp / "out", "w+b") as f:
        status, _, message = ask(rig, asset, request(asset, DIR, 1), [f])
        assert status == 78 and "not memory-backed" in message and f.read() == b""


def pipe_read_end():
    return os.pipe()[0]


@pytest.mark.parametrize("kind", ["read-only", "append", "path", "directory", "pipe", "socket", "null", "same-twice"])
def test_descriptors_that_are_no_files(rig, kind):
    asset = Asset({"a": b"x", "b": b"y"} if kind == "same-twice" else b"x" * 9000).write(rig.target)
    one = rig.shm / "one"
    one.touch()
    fds = {"read-only": lambda: [os.open(one, os.O_RDONLY)], "append": lambda: [os.open(one, os.O_RDWR | os.O_APPEND)],
           "path": lambda: [os.open(one, os.O_PATH)], "directory": lambda: [os.open(rig.shm, os.O_RDONLY)],
           "pipe": lambda: [os.pipe()[1]], "socket": lambda: [socket.socketpair()[0].detach()],
           "null": lambda: [os.open("/dev/null", os.O_RDWR)],
           "same-twice": lambda: [os.open(one, os.O_RDWR), os.open(one, os.O_RDWR)]}[kind]()
    status, _, message = ask(rig, asset, request(asset, DIR, len(fds)), fds)
    assert status == 64 and message and one.read_bytes() == b""


@pytest.mark.parametrize("kind", ["read-write", "read-end", "file"])
def test_descriptors_that_are_no_write_end(rig, kind):
    asset = Asset(b"x" * 9000).write(rig.target)
    os.mkfifo(rig.pipe)
    fd = {"read-write": lambda: os.open(rig.pipe, os.O_RDWR), "read-end": pipe_read_end, "file": lambda: memfd()[0]}[kind]()
    status, _, message = ask(rig, asset, request(asset, FIFO, 1), [fd])
    assert status == 64 and "FIFO" in message


@pytest.mark.parametrize("n", [1, 3, 5])
def test_wrong_number_of_descriptors(rig, n):
    asset = Asset(FILES).write(rig.target)
    status, _, message = ask(rig, asset, request(asset, DIR, n), memfd(n))
    assert status == 64 and f"{n} descriptors came for the 4 files" in message


@pytest.mark.parametrize("data, n, what", [
    (b"GET / HTTP/1.1\r\n\r\n", 0, "bytes"), (b"x" * 48, 1, "TBOPEN01"), (b"x" * 4096, 0, "larger"),
    ("magic", 1, "TBOPEN01"), ("mode", 1, "mode 3"), ("none", 1, "0 descriptors"), ("many", 1, "4097"), ("two", 1, "2 descriptors"),
    ("fewer", 2, "2 descriptors came"), ("without", 0, "0 descriptors came"),
], ids=str)
def test_garbage_requests(rig, data, n, what):
    asset = Asset(FILES).write(rig.target)
    made = {"magic": lambda: request(asset, DIR, 1, b"TBOPEN02"), "mode": lambda: request(asset, 3, 1),
            "none": lambda: request(asset, DIR, 0), "many": lambda: request(asset, DIR, 4097),
            "two": lambda: request(asset, FIFO, 2), "fewer": lambda: request(asset, DIR, 1),
            "without": lambda: request(asset, DIR, 1)}
    data = made[data]() if isinstance(data, str) else data
    status, _, message = ask(rig, asset, data, memfd(n))
    assert status == 64 and what in message, message


def test_client_that_goes_away(rig):
    asset = Asset(FILES).write(rig.target)
    decrypt = rig.decrypt(asset).start()
    Client(rig).sock.close()
    assert decrypt.wait() == 75 and "went away" in decrypt.log_text()
    decrypt.start()
    client = Client(rig)
    client.send(request(asset, DIR, 4), memfd(2))
    client.sock.close()
    assert decrypt.wait() == 75


def test_client_that_hangs(rig):
    """Silent after connecting, and silent half-way: it may hold tb-decrypt no longer than the limit of the protocol."""
    asset = Asset(FILES).write(rig.target)
    decrypt = rig.decrypt(asset).start()
    client = Client(rig)
    client.send(request(asset, DIR, 4), memfd(2))
    status, _, message = client.reply()
    assert status == 75 and "in time" in message and decrypt.wait() == 75


def test_manifest_that_changed_meanwhile(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    stale = request(asset, DIR, 1)
    (rig.target / "model.manifest.json").write_bytes(asset.manifest_text() + b"\n")
    status, _, message = ask(rig, asset, stale, memfd())
    assert status == 75 and "changed" in message


def test_ciphertext_missing_or_short(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    os.truncate(rig.target / asset.name, 5000)
    status, _, message = ask(rig, asset, request(asset, DIR, 1), memfd())
    assert status == 76 and "5000 bytes" in message
    os.unlink(rig.target / asset.name)
    assert ask(rig, asset, request(asset, DIR, 1), memfd())[0] == 66
    os.symlink("/dev/zero", rig.target / asset.name)
    assert ask(rig, asset, request(asset, DIR, 1), memfd())[0] == 74


def test_failure_empties_the_files(rig):
    asset = Asset({"a": b"x" * 50_000, "b": b"y" * 50_000})
    flip(asset, len(asset.records) - 1, 0)
    asset.write(rig.target)
    fds = memfd(2)
    assert ask(rig, asset, request(asset, DIR, 2), fds)[0] == 76
    assert [os.fstat(f).st_size for f in fds] == [0, 0]


def test_file_system_that_fills_up(rig):
    asset = Asset(random.Random(7).randbytes(3 << 20), chunk_bytes=1 << 20).write(rig.target)
    small = rig.shm / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with open(small / "out", "w+b") as f:
            status, _, message = ask(rig, asset, request(asset, DIR, 1), [f])
            assert status == 74 and "full" in message, message
            assert os.fstat(f.fileno()).st_size == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_bad_configuration_is_answered(rig):
    """systemd would start tb-decrypt again at once if the connection stayed in the queue."""
    asset = Asset(b"x").write(rig.target)
    client = Client(rig)
    client.send(request(asset, DIR, 1), memfd())
    decrypt = rig.decrypt(asset, TB_ASSET_ID="not an id!").start()
    assert decrypt.wait() == 78
    status, _, message = client.reply()
    assert status == 78 and "journalctl" in message
    assert "TB_ASSET_ID" in decrypt.log_text()


def test_second_client_waits_for_the_next_activation(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    first, second = Client(rig), Client(rig)
    one, two = memfd(), memfd()
    first.send(request(asset, DIR, 1), one)
    second.send(request(asset, DIR, 1), two)
    decrypt = rig.decrypt(asset).start()
    assert first.reply()[0] == 0 and decrypt.wait() == 0
    assert os.pread(one[0], 9000, 0) == asset.plain and os.pread(two[0], 9000, 0) == b""
    decrypt.start()
    assert second.reply()[0] == 0 and decrypt.wait() == 0 and os.pread(two[0], 9000, 0) == asset.plain


def test_without_systemd_it_binds_its_own_socket(rig):
    asset = Asset(b"x" * 9000).write(rig.target)
    path = rig.run / "tb-decrypt.sock"
    os.unlink(path)
    decrypt = rig.decrypt(asset)
    decrypt.listen = {}
    decrypt.start().wait_notify("READY", "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client, fds = Client(rig), memfd()
    client.send(request(asset, DIR, 1), fds)
    assert client.reply()[0] == 0 and decrypt.wait() == 0 and not path.exists()
    decrypt.start().wait_notify("READY", "1")
    assert decrypt.stop() == 0 and not path.exists()


def test_no_secret_leaks(rig):
    """Neither log nor status nor progress nor any file carries the key; the process cannot be dumped."""
    decrypt, load, _ = slow_start(rig)
    key = (pathlib.Path(decrypt._cred_dir) / "model-key").read_bytes()
    proc = pathlib.Path(f"/proc/{decrypt.pid}")
    seen = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
    decrypt.stop()
    load.wait()
    for p in list(rig.tmp.rglob("*")) + list(rig.shm.rglob("*")):
        if p.is_file() and p.name != "model.tbenc":
            seen += p.read_bytes()
    seen += repr(decrypt._notify_log + load._notify_log).encode()
    assert key not in seen and key.hex().encode() not in seen.lower()


def test_help_and_usage():
    for name in ("tb-decrypt", "tb-load"):
        r = subprocess.run([tbsys.program(name), "--help"], capture_output=True, text=True)
        assert r.returncode == 0 and r.stdout.startswith(f"Usage: {name}") and "Exit status" in r.stdout
        assert subprocess.run([tbsys.program(name), "--nonsense"], capture_output=True).returncode == 64
