# SPDX-License-Identifier: Apache-2.0
"""The chain in a machine made of the Debian packages, under its systemd: what `make demo` shows. The provider is outside."""

import os
import re
import shlex
import signal
import subprocess
import sys

import model
from appliance import Appliance, GuestProvider, event
from demo_common import (ASSET, CONTRACT, RUN, Clock, Waiting, add_customer, ask, bill, compare_with_plaintext, done, healthy, hints,
                         promote, provider_side, revoke, say, show, show_command, step, watch_until_ready)
from runner import VM, accelerator
from tbsys import repo, wait_for

MACHINE = RUN / "machine"
MODEL_SIZE = ("--layers", 2, "--embd", 512, "--ff", 1408, "--heads", 8)  # 13 MB: an emulated processor computes with it


class Image:
    """The disk image, made by a process of its own while the provider's side is shown."""

    def __init__(self):
        self.log = RUN / "image.log"
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([sys.executable, repo / "e2e-vagrant/vm/build.py", "--from", "debs"], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)

    def last_line(self):
        return (self.log.read_text(errors="replace").splitlines() or [""])[-1]

    def wait(self):
        """The directory of the image."""
        with Waiting("making the machine's disk", self.last_line):
            directory = self.proc.communicate()[0].strip()
        if self.proc.returncode != 0:
            sys.exit(f"demo: the image could not be made:\n{self.log.read_text()[-4000:]}")
        return directory

    def stop(self):
        """Whatever it has started, too; as Ctrl-C does, so that it cleans up."""
        if self.proc.poll() is None:
            os.killpg(self.proc.pid, signal.SIGINT)
            try:
                self.proc.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.proc.pid, signal.SIGKILL)
                self.proc.wait()


def console(machine):
    """The last line of the serial console, without its colours."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", machine.serial_text()).splitlines() if line.strip()]
    return "console: " + lines[-1].strip() if lines else "console: nothing yet"


def inside(machine, command, want=True, timeout=60):
    """Shows a command of the operator and what the machine answers. want: it must succeed."""
    say(f"trustbridge# {command}")
    rc, text = machine.run(command, timeout)
    show(text)
    if want and rc != 0:
        sys.exit(f"demo: {command}: exit {rc}")
    return rc, text


def boot(machine, image):
    step(4, "The customer's machine: Debian with the trustbridge package, in QEMU")
    show_command("e2e-vagrant/vm/build.py", "--from", "debs")
    machine.image = repo / image.wait()
    show(f"{machine.image.relative_to(repo)}: {int((machine.image / 'disk.raw').stat().st_blocks) * 512 >> 20} MiB, "
         f"{len((machine.image / 'packages').read_text().splitlines())} packages of Debian, and trustbridge")
    show(f"booting ({accelerator()[1].split(',')[0]}); it is told contract, control plane and enrolment code by cloud-init, as on Azure")
    with Waiting("booting", lambda: console(machine)):
        machine.start(timeout=600)


def until_ready(machine):
    step(5, "The chain, as its /status tells it: authorize, hydrate, decrypt in memory, llama-server in its own network namespace")
    try:
        watch_until_ready(machine, 600, detail=lambda: console(machine))
    except AssertionError:
        sys.exit(f"demo: the machine did not become Ready:\n{machine.report()}")
    inside(machine, "systemctl --no-pager list-units --legend=false 'tb-*' trustbridge.target")


def evidence(machine):
    step(7, "What the operator and the auditor see")
    inside(machine, "tb-status")
    inside(machine, f"journalctl --namespace=trustbridge --no-pager -x -n 1 MESSAGE_ID={event('AUDIT')}")
    inside(machine, "ls -l /mnt/resource/trustbridge")
    greps = " ".join(f"-e {shlex.quote(m.decode())}" for m in model.MARKERS)
    rc, _ = inside(machine, f"grep -rlaF {greps} /etc /mnt /tmp /var", want=False, timeout=180)
    if rc != 1:
        sys.exit("demo: plaintext on a disk")
    show("(no plaintext)")


def isolation(machine):
    step(8, "The runtime's port 8081, from everywhere")
    curl = "curl -sS -o /dev/null -m 10 -w '%{http_code}\\n' http://127.0.0.1:8081/health"
    if inside(machine, curl, want=False)[0] == 0:
        sys.exit("demo: the runtime answers in the machine's own namespace")
    outside = healthy(machine.port[8081])
    show(f"from outside the machine, by a forwarded port: answers: {outside}")
    if outside:
        sys.exit("demo: the runtime answers outside")
    inside(machine, f"nsenter -n -t $(systemctl show -P MainPID tb-proxy) {curl}")
    show("(in the private namespace of runtime and proxy)")


def revocation(machine, desk):
    step(11, "The contract is revoked while the model serves, from the same desk")
    runtime = machine.pid("tb-runtime")
    revoke(desk, machine)
    wait_for(lambda: machine.run(f"test -d /proc/{runtime}")[0] != 0, 60, "the runtime to stop")
    refused = int(machine.journal("_SYSTEMD_UNIT=tb-authorize.service", f"MESSAGE_ID={event('SUSPENDED')}")[-1]["__REALTIME_TIMESTAMP"])
    died = int(machine.sh("date -d \"$(systemctl show -P ExecMainExitTimestamp --timestamp=us tb-runtime.service)\" +%s%6N"))
    show(f"llama-server was gone {(died - refused) / 1e6:.2f} s after the refusal, by the machine's clock, and the weights with its "
         "memory file system")
    inside(machine, "tb-status", want=False)


def demo(keep):
    """keep: None, or what is called when all stands; it returns when all shall go."""
    clock, image, provider, machine = Clock(), Image(), GuestProvider(RUN / "provider", client_ca=False), None
    try:
        source = provider_side(provider, MODEL_SIZE)
        desk, code = add_customer(provider)
        machine = Appliance(None, MACHINE, provider, CONTRACT, ASSET, model.GGUF, forward=(8000, 8001, 8081), code=code,
                            env={"TB_UPDATE": "manual", "TB_SWITCH_HOLD": "5m"})  # an emulated processor loads it slowly
        if keep:
            machine.port.update({8000: 8000, 8001: 8001})
        boot(machine, image)
        until_ready(machine)
        step(6, "Inference through port %d of this machine, which is port 8000 of that one" % machine.port[8000])
        with Waiting("an emulated processor thinks"):
            answer = ask(machine)
        compare_with_plaintext(source, answer)
        evidence(machine)
        isolation(machine)
        if keep:
            machine.agent.close()  # for --run
            run = f"{sys.executable} {repo}/e2e-vagrant/demo.py --run"
            hints(machine, desk, f"curl -s {machine.url('/metrics', 8001)}", f"{run} tb-status",
                  f"{run} 'journalctl --namespace=trustbridge -n 20'", f"tail -f {machine.serial}")
            return keep()
        promote(9, provider, machine, MODEL_SIZE, lambda command: inside(machine, command, timeout=600), answer)
        bill(desk, 10, machine)
        revocation(machine, desk)
        return done(clock, "make demo")
    finally:
        image.stop()
        if machine:
            machine.hard_kill()
        provider.stop()


def run_inside(command):
    """A command in the machine that --keep left."""
    rc, text = VM(None, MACHINE, forward=()).attach().run(command, 600)
    sys.stdout.write(text)
    return rc
