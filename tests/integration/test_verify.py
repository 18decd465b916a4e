# SPDX-License-Identifier: Apache-2.0
"""tb-verify in a machine of its own as far as the kernel gives one (namespaces): each fault is put in, and each claim that cannot be looked at
is said not to be checked."""

import base64
import hashlib
import json
import os
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from software_tpm import GOOD, Tpm, authority
from tbsys import program

CANARY = b"plaintext-of-the-weights-7f3a"
# Sandboxed as the units do it: no new privileges, and a filter that allows everything.
SANDBOXED = """
import ctypes, os, resource, struct, sys
resource.setrlimit(resource.RLIMIT_CORE, (int(sys.argv[1]), int(sys.argv[1])))
libc = ctypes.CDLL(None, use_errno=True)
if "sandbox" in sys.argv[2]:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    code = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
    buf = ctypes.create_string_buffer(code)
    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    assert libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(buf))), 0, 0) == 0
os.execv(sys.argv[3], sys.argv[3:])
"""
IN = """set -e
ip link set lo up
mount -t tmpfs none /var/log; mount -t tmpfs none /run; mkdir -p /var/log/journal/x /run/log
"""


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class World:
    """verify(before): tb-verify behind a script that runs in the same namespaces."""

    def __init__(self, directory):
        self.dir, self.tpm = directory, directory / "no-tpm"
        (directory / "sandboxed.py").write_text(SANDBOXED)
        (directory / "disk").write_bytes(os.urandom(3 << 20))

    def fake(self, path, text):
        source = self.dir / path.strip("/").replace("/", "-")
        source.write_text(text)
        return f"mount --bind {source} {path}\n"

    def daemon(self, core=1, how="sandbox", wait=True):
        """A daemon of ours that waits for a question."""
        env = f"TB_CONTRACT_ID=acme-1 TB_ASSET_ID=my-model TB_EDC_ENDPOINT=https://127.0.0.1:1 TB_RUN_DIR={self.dir}"
        # The address sanitizer would set a limit of its own.
        line = f"env {env} ASAN_OPTIONS=${{ASAN_OPTIONS:+$ASAN_OPTIONS:}}disable_coredump=0 /usr/bin/python3 {self.dir}/sandboxed.py {core} {how} {program('tb-attest')} 2>/dev/null &\n"
        return line + f"until [ -S {self.dir}/tb-attest.sock ]; do sleep 0.05; done\n"

    def run(self, *options, before="", env=None, canary=CANARY):
        script = IN + before + 'rc=0; "$@" || rc=$?; kill $(jobs -p) 2>/dev/null || true; wait; exit $rc\n'
        argv = [program("tb-verify"), *options]
        if canary is not None:
            argv += ["--canary", "-", "--disk", self.dir / "disk"]
        r = subprocess.run(["unshare", "-m", "-p", "-n", "-f", "--mount-proc", "bash", "-c", script, "sh", *map(str, argv)], input=canary or b"",
                           capture_output=True, timeout=120, env={**os.environ, "TB_TPM": str(self.tpm), **(env or {})})
        return r.returncode, r.stdout.decode(), r.stderr.decode()

    def claims(self, **more):
        rc, out, err = self.run("--json", **more)
        assert rc in (0, 76), err
        said = json.loads(json.loads(out)["report"])["claims"]
        assert (rc == 76) == any(c["result"] == "broken" for c in said)
        return {c["claim"]: (c["result"], c["detail"]) for c in said}


LOCKED = "none integrity [confidentiality]\n"


def good(world):
    return world.fake("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n") + world.daemon()


def test_what_is_good_holds_and_what_cannot_be_seen_is_not_checked(world):
    said = world.claims(before=good(world) + "echo nothing > /var/log/journal/x/system.journal\n")
    assert {n: r for n, (r, _) in said.items() if n not in ("kernel-lockdown", "image-verified")} == {
        "no-swap": "holds", "ports-closed": "holds", "no-core": "holds", "sandboxes": "holds", "no-plaintext-in-environment": "holds",
        "no-plaintext-in-arguments": "holds", "no-plaintext-in-journal": "holds", "no-plaintext-on-disk": "holds"}
    assert said["image-verified"][0] == "not checked" and said["kernel-lockdown"][0] != "holds"
    # Nothing to look at, nobody who runs, nothing to look for: never good.
    said = world.claims(canary=None)
    for name in ("no-core", "sandboxes", "no-plaintext-in-environment", "no-plaintext-in-arguments", "no-plaintext-in-journal", "no-plaintext-on-disk"):
        assert said[name][0] == "not checked", name
    said = world.claims(before="umount /proc/swaps 2>/dev/null || true; mount -t tmpfs none /proc/sys\n")
    assert said["no-core"][0] == "not checked" and said["no-plaintext-in-journal"] == ("not checked", "there is no files of the journal to look at")


@pytest.mark.parametrize("area, result", [("/dev/vda2", "broken"), ("/swapfile", "broken"), ("/dev/zram0", "holds")])
def test_swap(world, area, result):
    assert world.claims(before=world.fake("/proc/swaps", f"Filename\tType\tSize\tUsed\tPriority\n{area} partition 100 0 -2\n"))["no-swap"][0] == result


@pytest.mark.parametrize("device, result", [("/dev/sda3\n", "broken"), ("none\n", "holds")])
def test_compressed_memory_that_goes_to_a_disk(world, device, result):
    (world.dir / "block/zram0").mkdir(parents=True)
    (world.dir / "block/zram0/backing_dev").write_text(device)
    swaps = world.fake("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 100 0 100\n")
    said = world.claims(before=swaps + f"mount --bind {world.dir}/block /sys/block\n")["no-swap"]
    assert said[0] == result and ("/dev/sda3" in said[1]) == (result == "broken")


def test_processes_that_come_and_go_are_no_gap(world):
    """Short ones end while they are looked at; what ended had nothing left to look at."""
    churn = "for i in 1 2 3 4; do (while :; do /bin/true; done) & done\n"
    for _ in range(5):
        said = world.claims(before=churn)
        assert [said[f"no-plaintext-in-{name}"][0] for name in ("environment", "arguments")] == ["holds", "holds"], said


@pytest.mark.parametrize("limit, pattern, result", [
    (1, "core\n", "holds"), (1, "|/usr/lib/systemd/systemd-coredump %P\n", "holds"), (0, "core\n", "holds"), (0, "|/bin/x\n", "broken"),
    (-1, "/var/crash/core\n", "broken"), (4096, "core\n", "broken")])
def test_cores(world, limit, pattern, result):
    said = world.claims(before=world.fake("/proc/sys/kernel/core_pattern", pattern) + world.daemon(core=limit))["no-core"]
    assert said[0] == result and ("tb-attest" in said[1]) == (result == "broken"), said


def test_a_program_out_of_its_sandbox(world):
    said = world.claims(before=world.daemon(how="plain"))["sandboxes"]
    assert said[0] == "broken" and said[1].startswith("tb-attest (process ")


def test_every_daemon_is_looked_at(world):
    """tb-update has no user of its own to be known by."""
    said = world.claims(before=f"cp /bin/sleep {world.dir}/tb-update; {world.dir}/tb-update 60 & until [ \"$(readlink /proc/$!/exe)\" = {world.dir}/tb-update ]; do sleep 0.05; done\n")
    assert said["sandboxes"][0] == "broken" and said["sandboxes"][1].startswith("tb-update (process "), said


LISTEN = """/usr/bin/python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET); s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(); open(sys.argv[3], "w").close(); time.sleep(60)' %s %d %s &
until [ -e %s ]; do sleep 0.05; done
"""


@pytest.mark.parametrize("address, port, result", [("0.0.0.0", 22, "broken"), ("::", 2222, "broken"), ("127.0.0.1", 8081, "holds"), ("::1", 8081, "holds"),
                                                   ("0.0.0.0", 8000, "holds"), ("0.0.0.0", 80, "broken"), ("0.0.0.0", 9000, "broken")])
def test_ports(world, address, port, result):
    mark = world.dir / "listens"
    said = world.claims(before=LISTEN % (address, port, mark, mark))["ports-closed"]
    assert said[0] == result and (said[1].endswith(f"TCP {port}") or result == "holds"), said


def test_a_port_that_the_settings_open(world):
    mark = world.dir / "listens"
    assert world.claims(before=LISTEN % ("0.0.0.0", 9000, mark, mark), env={"TB_PUBLIC_ADDR": "0.0.0.0:9000"})["ports-closed"][0] == "holds"


def test_lockdown(world):
    def said(text):
        (world.dir / "security").mkdir(exist_ok=True)
        (world.dir / "security/lockdown").write_text(text)
        return world.claims(before=f"mount --bind {world.dir}/security /sys/kernel/security\n")["kernel-lockdown"][0]
    assert [said(t) for t in (LOCKED, "none [integrity] confidentiality\n", "[none] integrity confidentiality\n")] == ["holds", "broken", "broken"]


def test_an_image_that_claims_to_be_verified(world):
    fake = world.fake("/proc/cmdline", "root=/dev/mapper/root roothash=" + "ab" * 32 + " quiet\n")
    assert world.claims(before=fake)["image-verified"][0] == "broken"
    (world.dir / "block/dm-0/dm").mkdir(parents=True)
    (world.dir / "block/dm-0/dm/uuid").write_text("CRYPT-VERITY-0123456789abcdef-root\n")
    block = f"mount --bind {world.dir}/block /sys/block\n"
    assert world.claims(before=fake + block)["image-verified"] == ("holds", "dm-verity, roothash=" + "ab" * 32)
    # One that verifies data is none of the image's, and a word that ends so is none of systemd's.
    (world.dir / "block/dm-0/dm/uuid").write_text("CRYPT-VERITY-0123456789abcdef-weights\n")
    assert world.claims(before=fake + block)["image-verified"][0] == "broken"
    (world.dir / "block/dm-0/dm/uuid").write_text("CRYPT-VERITY-0123456789abcdef-root\n")
    other = world.fake("/proc/cmdline", "root=/dev/sda1 noroothash=" + "ab" * 32 + "\n")
    assert world.claims(before=other + block)["image-verified"][0] == "not checked"


@pytest.mark.parametrize("name, before", [
    ("environment", "X=$CANARY sleep 60 &\nuntil grep -qs $CANARY /proc/$!/environ; do sleep 0.05; done\n"), ("arguments", "sh -c 'sleep 60; true' $CANARY &\n"),
    ("journal", 'printf "MESSAGE=%s" $CANARY > /var/log/journal/x/system.journal\n')])
def test_plaintext_where_it_may_not_be(world, name, before):
    rc, out, _ = world.run(before=before.replace("$CANARY", CANARY.decode()))
    line = next(x for x in out.splitlines() if x.startswith(f"no-plaintext-in-{name}"))
    assert rc == 76 and " broken " in line and CANARY.decode() not in out


@pytest.mark.parametrize("at", [0, (1 << 20) - 5, (1 << 20) - len(CANARY) + 1, (2 << 20) - 1, (3 << 20) - len(CANARY)])
def test_plaintext_on_a_disk(world, at):
    with open(world.dir / "disk", "r+b") as f:
        f.seek(at)
        f.write(CANARY)
    said = world.claims()["no-plaintext-on-disk"]
    assert said == ("broken", f"the plaintext given is in {world.dir}/disk")
    (world.dir / "disk").unlink()
    assert world.claims()["no-plaintext-on-disk"][0] == "not checked"


@pytest.mark.parametrize("canary", [b"short", b"x" * 5000], ids=["short", "long"])
def test_a_canary_that_says_nothing(world, canary):
    rc, _, err = world.run(canary=canary)
    assert rc == 64 and "16 to 4096 bytes" in err


def test_the_report_is_signed_by_the_machine(world, tmp_path):
    issuer = authority("Test TPM CA")
    tpm = Tpm(tmp_path / "t", issuer)
    world.tpm = tpm.path
    try:
        tpm.boot(GOOD)
        rc, out, err = world.run("--json", "--challenge", "auditor-42", "--output", tmp_path / "report.json", canary=None)
        assert rc in (0, 76), err
        signed = json.loads(out)
        assert json.loads((tmp_path / "report.json").read_text()) == signed
        part = {n: base64.b64decode(v) for n, v in signed["signature"].items() if n != "type"}
        scheme, algorithm, n = struct.unpack(">HHH", part["quote_sig"][:6])
        assert (scheme, algorithm) == (0x14, 0x0B) and part["ak"] == tpm.ak_public
        tpm.ak.verify(part["quote_sig"][6:6 + n], part["quote"], padding.PKCS1v15(), hashes.SHA256())
        assert hashlib.sha256(b"trustbridge machine report v1\0" + signed["report"].encode()).digest() in part["quote"]
        report = json.loads(signed["report"])
        assert report["challenge"] == "auditor-42" and report["boot_id"] == open("/proc/sys/kernel/random/boot_id").read().strip()
    finally:
        tpm.off()


def test_the_journal_has_a_line_for_people(world):
    """Under a shell the log is standard error; the report is a field of the journal."""
    rc, _, err = world.run("--log", before=world.fake("/proc/swaps", "Filename\n/dev/vda2 partition 100 0 -2\n"), canary=None)
    assert rc == 76 and "claims of this machine: " in err and "broken (first: no-swap)" in err


def test_without_a_tpm_it_is_said_to_be_unsigned(world):
    rc, out, _ = world.run("--json", canary=None)
    signed = json.loads(out)
    assert "signature" not in signed and "not there; choose a machine with a virtual TPM" in signed["unsigned"]
    assert "signature                    not checked  the TPM" in world.run(canary=None)[1]
