# SPDX-License-Identifier: Apache-2.0
"""A measured machine in QEMU: firmware with or without Secure Boot, a TPM made as Azure's virtual one is (tests/integration/software_tpm.py),
and the disk of a closed image, which a test may have changed. The image is one for tests: it has the root shell of runner.VM.
Everything is emulated by programs of this machine; none of it is Azure."""

import json
import pathlib
import shutil
import subprocess
import time

from runner import VM, accelerator, with_precedence
from tbsys import DIES_WITH_PARENT, wait_for

FIRMWARE = pathlib.Path("/usr/share/OVMF")
# Debian's key for tests, in the firmware's variables of the same name: everybody has its private part.
SECURE_BOOT_CERT = pathlib.Path("/usr/share/ovmf/PkKek-1-snakeoil.pem")
SECURE_BOOT_KEY = pathlib.Path("/usr/share/ovmf/PkKek-1-snakeoil.key")
SECURE_BOOT_PASSWORD = "snakeoil"
MIB = 1 << 20
NO_TIMER = "IO-APIC + timer doesn't work!"
BEGUN = (NO_TIMER, "  OK  ", "Access Denied", "Kernel panic")  # words on the console
ESP, ROOT, VERITY, APPROVAL, STATE = (
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5",
    "9B3A6B0E-6F0B-4F0E-8A39-4F6E2D1C5B17", "56D5C8F1-0A4E-4B63-9D0F-0B3F8B1C7A52")


def run(*argv, **kw):
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kw)
    assert r.returncode == 0, f"{argv[0]}: exit {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout


class Disk:
    """A raw disk in a file, looked into and changed while no machine has it."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def copy(self, to):
        run("cp", "--sparse=always", "--reflink=auto", self.path, to)
        return Disk(to)

    def grow(self, mib):
        with open(self.path, "r+b") as f:
            f.truncate(self.path.stat().st_size + mib * MIB)
        return self

    def partitions(self):
        return json.loads(run("sfdisk", "-J", self.path))["partitiontable"]["partitions"]

    def part(self, kind):
        """(offset, bytes) of the only partition of that type."""
        [p] = [p for p in self.partitions() if p["type"] == kind]
        return p["start"] * 512, p["size"] * 512

    def read(self, at, n):
        with open(self.path, "rb") as f:
            f.seek(at)
            return f.read(n)

    def write(self, at, data):
        with open(self.path, "r+b") as f:
            f.seek(at)
            f.write(data)
        return self

    def flip(self, at):
        return self.write(at, bytes([self.read(at, 1)[0] ^ 1]))

    def append(self, *partitions, contents=()):
        """More partitions, as sfdisk has them; contents: a file for each, or None."""
        run("sfdisk", "-q", "--append", "--no-reread", self.path, input="".join(p + "\n" for p in partitions))
        new = sorted(self.partitions(), key=lambda p: p["start"])[-len(partitions):]
        for p, content in zip(new, contents):
            if content:
                self.write(p["start"] * 512, pathlib.Path(content).read_bytes())
        return self

    def put(self, source, path):
        """A file onto the ESP."""
        at = f"{self.path}@@{self.part(ESP)[0]}"
        for d in list(pathlib.PurePosixPath(path).parents)[-2::-1]:
            subprocess.run(["mmd", "-D", "s", "-i", at, f"::{d}"], capture_output=True)
        run("mcopy", "-o", "-i", at, source, f"::{path}")
        return self

    def get(self, path, to):
        run("mcopy", "-o", "-i", f"{self.path}@@{self.part(ESP)[0]}", f"::{path}", to)


class Measured(VM):
    """One machine. disk: its first one, raw; tpm: of Tpm, off; more: further disks, raw. secure: Secure Boot with Debian's test keys.
    smbios: strings of type 11, as the host of a machine sets them."""

    def __init__(self, directory, disk, tpm, secure=False, more=(), smbios=(), forward=(8000, 8001), media=None, memory=2048):
        super().__init__(None, directory, forward=forward, memory=memory)
        self.raw, self.tpm, self.more, self.smbios, self.media = pathlib.Path(disk), tpm, [pathlib.Path(p) for p in more], smbios, media
        self.vars = self.dir / "vars.fd"
        shutil.copy(FIRMWARE / ("OVMF_VARS_4M.snakeoil.fd" if secure else "OVMF_VARS_4M.fd"), self.vars)
        self.tpm_proc, self.tpm_socket = None, self.dir / "tpm"

    def _argv(self):
        hostfwd = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for guest, host in self.port.items())
        # Of AMD, as far as the kernel knows: it then does without what keeps Intel's from leaking, and takes longer. Without AVX: see accelerator().
        quick = [w if w != "Westmere,-cx16" else "max,-cx16,-avx,-avx2,-fma,-f16c" for w in accelerator()]
        argv = ["qemu-system-x86_64", *quick, "-machine", "q35,smm=on", "-smp", self.cpus, "-m", self.memory, "-display", "none", "-monitor",
                "none", "-no-reboot", "-no-user-config", "-nodefaults", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global",
                "ICH9-LPC.disable_s3=1",
                "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.secboot.fd",
                "-drive", f"if=pflash,unit=1,format=raw,file={self.vars}",
                "-chardev", f"socket,id=tpm,path={self.tpm_socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device",
                "tpm-crb,tpmdev=tpm0", "-nic", f"user,model=virtio-net-pci{hostfwd}", "-device", "virtio-rng-pci",
                "-chardev", f"file,id=serial,path={self.serial},append=on", "-serial", "chardev:serial",
                "-chardev", f"socket,id=agent,path={self.dir}/agent.sock,server=on,wait=off", "-device", "virtio-serial-pci",
                "-device", "virtserialport,chardev=agent,name=vm.agent"]
        for i, path in enumerate([self.raw, *self.more]):
            argv += ["-drive", f"file={path},if=none,id=disk{i},format=raw,discard=unmap,cache=unsafe", "-device",
                     f"virtio-blk-pci,drive=disk{i}" + (",bootindex=1" if i == 0 else "")]
        if self.media:
            argv += ["-drive", f"file={self.media},if=none,id=media,format=raw,readonly=on", "-device",
                     "virtio-blk-pci,drive=media,serial=tb-settings"]
        for text in self.smbios:
            argv += ["-smbios", f"type=11,value={text}"]
        return [str(a) for a in argv]

    def power_on(self, timeout=600):
        """Returns as soon as something was started, or the firmware refused to start anything. Where the emulator has no processor for some ticks of the
        machine's timer the kernel takes it for broken, and panics: runner.VM tells it not to look, here its command line is what is tested.
        Nothing has happened by then."""
        for _ in range(10):
            self._power_on()
            end = time.monotonic() + timeout
            while self.running() and time.monotonic() < end and not any(w in self.serial_text() for w in BEGUN):
                time.sleep(0.5)
            if NO_TIMER not in self.serial_text():
                return self
            self.hard_kill()
        raise AssertionError(f"the emulator has no time for the machine\n{self.serial_text()[-2000:]}")

    def _power_on(self):
        assert not self.running()
        self.serial.unlink(missing_ok=True)
        self.tpm_socket.unlink(missing_ok=True)
        self.tpm_proc = subprocess.Popen([*DIES_WITH_PARENT, "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.tpm.dir}", "--ctrl",
                                          f"type=unixio,path={self.tpm_socket}", "--terminate"], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.tpm_socket.exists, 20, "swtpm")
        with open(self.qemu_log, "ab") as log:
            self.proc = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=with_precedence,
                                         start_new_session=True)
        VM.on.append(self)
        self._connect()

    def start(self, timeout=900):
        self.power_on()
        self.wait_shell(timeout)
        return self

    def wait_off(self, timeout=900):
        """Until it goes off by itself: QEMU ends where the machine would reset."""
        self.proc.wait(timeout)
        self._closed()
        return self.serial_text()

    def _closed(self):
        super()._closed()
        if self.tpm_proc:
            try:
                self.tpm_proc.wait(20)
            except subprocess.TimeoutExpired:
                self.tpm_proc.terminate()
                self.tpm_proc.wait(20)
            self.tpm_proc = None

    def state(self):
        """What tb-state says became of the state."""
        return json.loads(self.sh("cat /run/tb-state/state.json"))
