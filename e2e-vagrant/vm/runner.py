# SPDX-License-Identifier: Apache-2.0
"""A QEMU machine on the appliance's image. The disk is an overlay, so the image stays as built; the seed reaches cloud-init as
Azure's customData would; commands run inside by a virtio port (agent.c), so no network and no ssh is needed.
Everything a failure needs is kept: the serial console in serial.log, and report()."""

import base64
import os
import pathlib
import re
import secrets
import select
import shlex
import shutil
import socket
import string
import subprocess
import sys
import threading
import time

import build
from patience import patient
from tbsys import _die_with_parent, free_port, repo, wait_for

HOST = "10.0.2.2"  # this machine's loopback, as the guest sees it by user-mode networking
SEED = repo / "cloud-init" / "user-data.yaml"
# This emulated processor has no side channels, and going around them costs a tenth of a boot; and where the machine has no time for it,
# the kernel takes its timer for dead within ten ticks and panics.
QUICK = "quiet mitigations=off no_timer_check"


def accelerator():
    """KVM only where the CPU really has it: an emulated /dev/kvm is slower than TCG and breaks."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    if os.access("/dev/kvm", os.W_OK) and (" vmx " in flags or " svm " in flags):
        return ["-accel", "kvm", "-cpu", "host"]
    # Without AVX, which is slower than SSE where both are emulated: a chat takes 1.2 s of processor time instead of 5 to 9.
    # cmpxchg16b of QEMU 7.2 corrupts the flags and Linux 6.12 panics on it.
    return ["-accel", "tcg,thread=multi", "-cpu", "Westmere,-cx16"]


def write_seed(directory, settings, files=None, template=SEED):
    """A NoCloud seed. settings: the lines of trustbridge.env. files: {name in the template: bytes}; a file of the template that is not
    given is left out, as its comment says."""
    d = pathlib.Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    env = "".join(f"{k}={v}\n" for k, v in settings.items())
    values = {"ENV": env.encode(), **(files or {})}
    head, *entries = re.split(r"(?m)^(?=- path:)", template.read_text())
    text = head + "".join(e for e in entries if set(string.Template(e).get_identifiers()) <= set(values))
    text = string.Template(text).substitute({k: base64.b64encode(v).decode() for k, v in values.items()})
    (d / "user-data").write_text(text)
    (d / "meta-data").write_text(f"instance-id: {secrets.token_hex(8)}\nlocal-hostname: trustbridge\n")
    return d


def with_precedence():
    """For QEMU, as leader of a session, before other tests: of an emulated machine that has to wait with a lock in its hand the other processor
    burns the time, and it takes ten times as long beside what keeps two real processors busy, as the same work alone."""
    _die_with_parent()
    try:
        os.nice(-5)
        # Where the kernel groups by session (sched(7), autogroup), nice counts within one only, and each program of a test is a session.
        with open("/proc/self/autogroup", "wb", buffering=0) as group:
            group.write(b"-10")
    except OSError:
        pass


def built_image(source):
    """What builds it has precedence too: all tests in machines wait for it, half an hour beside others on a slow machine."""
    suite = os.environ.get("TB_VM_SUITE", "bookworm")
    subprocess.run([sys.executable, build.__file__, "--suite", suite, "--from", source], stdout=subprocess.DEVNULL, check=True,
                   preexec_fn=with_precedence, start_new_session=True)
    return build.build(suite, source)


class VM:
    """One machine over one directory. forward: guest ports that get a free port on 127.0.0.1, see .port[].
    devices: more arguments of QEMU."""

    on = []  # the machines that run: what a failure may want to see

    def __init__(self, image, directory, seed=None, forward=(8000, 8001), memory=2048, cpus=2, append="", devices=()):
        self.image, self.dir, self.seed = image and pathlib.Path(image), pathlib.Path(directory), seed
        self.dir.mkdir(parents=True, exist_ok=True)
        self.port = {p: free_port() for p in forward}
        self.memory, self.cpus, self.append, self.devices = memory, cpus, append, devices
        self.disk, self.serial, self.qemu_log = self.dir / "disk.qcow2", self.dir / "serial.log", self.dir / "qemu.log"
        self.proc = self.agent = None
        self._lock, self._buffer = threading.Lock(), b""

    def _argv(self):
        hostfwd = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for guest, host in self.port.items())
        argv = ["qemu-system-x86_64", *accelerator(), "-machine", "q35", "-smp", str(self.cpus), "-m", str(self.memory),
                "-display", "none", "-monitor", "none", "-no-reboot", "-no-user-config", "-nodefaults",
                "-kernel", self.image / "vmlinuz", "-initrd", self.image / "initrd",
                "-append", f"root=/dev/vda rootfstype=ext4 rw console=ttyS0 net.ifnames=0 {QUICK} systemd.show_status=yes {self.append}",
                "-drive", f"file={self.disk},if=none,id=disk,format=qcow2,discard=unmap", "-device", "virtio-blk-pci,drive=disk",  # first: vda
                "-nic", f"user,model=virtio-net-pci{hostfwd}", "-device", "virtio-rng-pci",
                "-chardev", f"file,id=serial,path={self.serial},append=on", "-serial", "chardev:serial",
                "-chardev", f"socket,id=agent,path={self.dir}/agent.sock,server=on,wait=off", "-device", "virtio-serial-pci",
                "-device", "virtserialport,chardev=agent,name=vm.agent"]
        if self.seed:
            argv += ["-blockdev", f"driver=vvfat,node-name=seed,dir={self.seed},label=CIDATA,read-only=on", "-device",
                     "virtio-blk-pci,drive=seed"]
        return [str(a) for a in (*argv, *self.devices)]

    # -- power --------------------------------------------------------------------------------------------------------
    def start(self, timeout=400):
        """Powers on and waits for the root shell."""
        assert not self.running(), "the machine runs"
        if not self.disk.exists():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image / "disk.raw", self.disk], check=True)
        with open(self.qemu_log, "ab") as log:
            self.proc = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=with_precedence,
                                         start_new_session=True)
        VM.on.append(self)
        self._connect()
        self.wait_shell(timeout)
        return self

    def _connect(self):
        def connect():
            assert self.running(), f"QEMU did not start: {self.qemu_log.read_text()[-2000:]}"
            try:
                return self.attach()
            except OSError:
                return None
        wait_for(connect, 20, "QEMU's socket")

    def attach(self):
        """Takes the shell of a machine that runs, whoever started it; one at a time has it. OSError when there is none."""
        agent = socket.socket(socket.AF_UNIX)
        try:
            agent.connect(f"{self.dir}/agent.sock")
        except OSError:
            agent.close()
            raise
        self.agent, self._buffer = agent, b""
        return self

    def wait_shell(self, timeout=400):
        end = time.monotonic() + patient(timeout)
        while True:
            try:
                return self.boot_id(5)
            except TimeoutError:
                if time.monotonic() > end or not self.running():
                    raise AssertionError(f"no shell in the machine after {timeout} s\n{self.serial_text()[-6000:]}") from None

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def boot_id(self, timeout=30):
        return self.sh("cat /proc/sys/kernel/random/boot_id", timeout=timeout).strip()

    def reboot(self):
        """In a new process each time: in its second boot the emulator of QEMU 7.2 may loop for ever over what it translated in the first."""
        self._end("reboot", 400)
        self.start()

    def poweroff(self, timeout=400):
        """An orderly power-off; the disk then holds what the machine wrote."""
        self._end("poweroff", timeout)

    def _end(self, how, timeout):
        if self.running():
            try:
                self.run(f"systemctl --no-block {how}")
            except TimeoutError:
                pass  # it may be quicker than its answer
            try:
                self.proc.wait(timeout)
            except subprocess.TimeoutExpired:
                self.hard_kill()
                raise AssertionError(f"the machine did not {how} in {timeout} s\n{self.serial_text()[-6000:]}") from None
        self._closed()

    def hard_kill(self):
        """The plug is pulled."""
        if self.running():
            self.proc.kill()
            self.proc.wait()
        self._closed()

    def _closed(self):
        if self in VM.on:
            VM.on.remove(self)
        if self.agent:
            self.agent.close()
            self.agent = None

    # -- inside -------------------------------------------------------------------------------------------------------
    def run(self, command, timeout=60):
        """Runs a shell command as root; returns (exit code, output of both streams). TimeoutError when no answer comes."""
        token, timeout = secrets.token_hex(6), patient(timeout)
        command = command.encode()
        with self._lock:
            self.agent.settimeout(timeout + 15)
            self.agent.sendall(f"{token} {int(timeout)} {len(command)}\n".encode() + command)
            end = time.monotonic() + timeout + 15
            while True:
                head = re.fullmatch(rf"{token} (\d+) (\d+)\n".encode(), self._read(lambda b: b.find(b"\n") + 1 or None, end))
                if head:  # other lines are of a command given up, or of an earlier boot
                    size = int(head[2])
                    return int(head[1]), self._read(lambda b: size if len(b) >= size else None, end).decode(errors="replace")

    def _read(self, whole, end):
        """What the machine says next, as many bytes as whole(what has come) says; None: more must come."""
        while (n := whole(self._buffer)) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer from the machine")
            if not select.select([self.agent], [], [], left)[0]:
                continue
            data = self.agent.recv(65536)
            if not data:
                raise TimeoutError("the machine is off")
            self._buffer += data
        taken, self._buffer = self._buffer[:n], self._buffer[n:]
        return taken

    def sh(self, command, timeout=60):
        """run() that must succeed; returns the output."""
        rc, out = self.run(command, timeout)
        assert rc == 0, f"in the machine: {command}: exit {rc}\n{out}"
        return out

    def put(self, path, data, mode="0644"):
        """For small files: the content travels in a command."""
        text = base64.b64encode(data).decode()
        self.sh(f"printf %s {text} | base64 -d > {shlex.quote(path)} && chmod {mode} {shlex.quote(path)}")

    def get(self, path):
        return base64.b64decode(self.sh(f"base64 -w0 {shlex.quote(path)}"))

    def show(self, unit, prop):
        return self.sh(f"systemctl show -P {prop} {unit}").strip()

    # -- outside ------------------------------------------------------------------------------------------------------
    def url(self, path, port=8000):
        return f"http://127.0.0.1:{self.port[port]}{path}"

    def raw_disk(self):
        """The whole disk as one sparse file; the machine must be off."""
        assert not self.running()
        raw = self.dir / "disk.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", self.disk, raw], check=True)
        return raw

    def serial_text(self):
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def report(self):
        """What one wants to see when a test failed."""
        parts = [f"--- serial\n{self.serial_text()[-4000:]}"]
        for command in ("systemctl --no-pager list-units --all 'tb-*' trustbridge.target", "systemctl --no-pager --failed",
                        "journalctl --no-pager -o short-monotonic --namespace='*' -b -n 150", "ip -br addr; ss -ltnp; df; free"):
            try:
                parts.append(f"--- {command}\n{self.run(command, 20)[1]}")
            except (OSError, TimeoutError, AttributeError) as e:
                parts.append(f"--- {command}: {e}")
                break
        return "\n".join(parts)

    def discard(self):
        self.hard_kill()
        shutil.rmtree(self.dir, ignore_errors=True)
