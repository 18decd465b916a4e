# SPDX-License-Identifier: Apache-2.0
"""The appliance in a virtual machine: the real units under a real systemd. Looked at from outside (HTTP, the disk) wherever that is
possible. One machine for all tests, in the order of this file; a failure shows its serial console and its journal."""

import base64
import json
import mmap
import os
import pathlib
import re
import shlex
import shutil
import threading
import time

import build
import model
import pytest
import tbsys
from appliance import Appliance, GuestProvider
from chain import http_json
from tbsys import Daemon, free_port, wait_for

ASSET, CONTRACT = "vm-model", "vm"
USERS = ("tb-authorize", "tb-billing", "tb-decrypt", "tb-hydrate", "tb-proxy", "tb-runtime", "nobody")
SUSPENDED = re.search(r'TB_EVENT_SUSPENDED "(\w+)"', (tbsys.repo / "common/events.h").read_text())[1]
SHORT = {**model.CHAT, "max_tokens": 4}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    d = tmp_path_factory.mktemp("provider")
    p = GuestProvider(d).start()
    try:
        p.source = model.make_model(d / "model")
        p.publish(p.source, ASSET, "64KiB")
        p.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET)
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="module")
def vm(provider, tmp_path_factory):
    image = build.build(os.environ.get("TB_VM_SUITE", "bookworm"), os.environ.get("TB_VM_FROM", "tree"))
    directory = tmp_path_factory.mktemp("machine")
    machine = Appliance(image, directory, provider, CONTRACT, ASSET, model.GGUF, forward=(8000, 8001, 8081))
    try:
        yield machine.start()
    finally:
        machine.hard_kill()
        shutil.rmtree(directory, ignore_errors=True)


def content(answer):
    status, body = answer
    assert status == 200, (status, body)
    return body["choices"][0]["message"]["content"]


def plaintext_answer(source, body):
    """What a llama-server says that was given the files themselves."""
    port = free_port()
    direct = Daemon(shlex.split(model.llama_command(source / model.GGUF, port))).start()
    try:
        wait_for(lambda: tbsys.socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60, "llama-server")
        wait_for(lambda: http_json(f"http://127.0.0.1:{port}/health")[0] == 200, 60, "health")
        return content(http_json(f"http://127.0.0.1:{port}/v1/chat/completions", body, timeout=60))
    finally:
        direct.stop()


def pids(vm, *names):
    return {n: vm.pid(n) for n in names}


# -- the machine serves ---------------------------------------------------------------------------------------------------

def test_cold_boot_serves_what_the_plaintext_serves(vm, provider):
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    assert http_json(vm.url("/health"))[0] == 200


def test_no_unit_failed(vm):
    assert vm.sh("systemctl --failed --plain --no-legend").strip() == ""
    for unit in ("tb-authorize", "tb-hydrate", "tb-proxy", "tb-runtime", "tb-billing"):
        assert vm.show(f"{unit}.service", "NRestarts") == "0", unit
        assert vm.show(f"{unit}.service", "User") == unit


def test_a_request_is_audited_in_its_own_journal(vm):
    before = len([r for r in vm.journal("_SYSTEMD_UNIT=tb-proxy.service") if r.get("TB_STATUS") == "200"])
    content(vm.chat(SHORT))
    found = wait_for(lambda: [r for r in vm.journal("_SYSTEMD_UNIT=tb-proxy.service") if r.get("TB_STATUS") == "200"][before:], 15,
                     "an audit record")
    record = json.loads(found[-1]["MESSAGE"])
    assert record["contract_id"] == CONTRACT and record["asset_id"] == ASSET and record["path"] == "/v1/chat/completions"
    assert vm.sh("journalctl -b --no-pager -o cat _SYSTEMD_UNIT=tb-proxy.service").count("req_sha256") == 0


# -- isolation, each tried from inside ------------------------------------------------------------------------------------

def curl(vm, url, enter=""):
    """curl's exit code: 0 answered, 7 refused or unreachable, 28 timed out."""
    return vm.run(f"{enter} curl -s -o /dev/null -m 10 {url}")[0]


def test_the_runtime_is_reachable_for_the_proxy_only(vm):
    runtime = "http://127.0.0.1:8081/health"
    assert curl(vm, runtime, f"nsenter -n -t {vm.pid('tb-proxy')}") == 0
    assert curl(vm, runtime, f"nsenter -n -t {vm.pid('tb-runtime')}") == 0
    assert curl(vm, runtime) == 7
    assert curl(vm, "http://10.0.2.15:8081/health") == 7
    with pytest.raises(OSError):
        http_json(vm.url("/health", 8081), timeout=10)


def test_proxy_and_runtime_have_no_way_out(vm, provider):
    out = f"https://10.0.2.2:{provider.controlplane.port}/api/v1/health"
    assert curl(vm, f"--cacert /etc/trustbridge/ca.pem {out}") == 0
    for unit in ("tb-proxy", "tb-runtime"):
        enter = f"nsenter -n -t {vm.pid(unit)}"
        assert curl(vm, f"--cacert /etc/trustbridge/ca.pem {out}", enter) == 7
        assert vm.sh(f"{enter} ip -o link show | wc -l").strip() == "1"


ASK = """
import socket, sys
name, s = sys.argv[1], socket.socket(socket.AF_UNIX)
s.settimeout(20)
if name != "-":
    s.bind(chr(0) + name)
s.connect("/run/tb-keys.sock")
n = 0
while data := s.recv(4096):
    n += len(data)
print(n)
"""


def ask_for_credential(vm, name, user="root"):
    """(exit code, how many bytes came): the value itself stays inside."""
    vm.put("/run/vm-agent/ask.py", ASK.encode())
    vm.sh("chmod 711 /run/vm-agent && chmod 644 /run/vm-agent/ask.py")
    become = "" if user == "root" else f"setpriv --reuid {user} --regid nogroup --clear-groups"
    rc, out = vm.run(f"cat /run/vm-agent/ask.py | {become} python3 - {shlex.quote(name)} 2>&1 | tail -n 1")
    return out.strip()


def test_a_key_goes_to_its_unit_only(vm):
    assert ask_for_credential(vm, "0011223344556677/unit/tb-decrypt.service/model-key") == "32"
    for name in ("0011223344556678/unit/tb-hydrate.service/model-key", "0011223344556679/unit/tb-proxy.service/model-key",
                 "001122334455667a/unit/tb-decrypt.service/sas-url", "001122334455667b/unit/ssh.service/model-key",
                 "001122334455667c/system/model-key", "-"):
        assert ask_for_credential(vm, name) == "0", name
    for user in USERS:
        assert "PermissionError" in ask_for_credential(vm, "001122334455667d/unit/tb-decrypt.service/model-key", user), user


def test_nobody_else_reads_weights_keys_or_settings(vm):
    weights = f"/proc/{vm.pid('tb-runtime')}/root/dev/shm/trustbridge-model/{model.GGUF}"
    assert int(vm.sh(f"stat -L -c %s {weights}")) > 1_000_000
    assert vm.run(f"test -e /dev/shm/trustbridge-model")[0] != 0
    authorize = vm.pid("tb-authorize")
    private = [weights, f"/proc/{authorize}/environ", f"/proc/{authorize}/mem", "/etc/credstore/trustbridge.client-key",
               "/etc/trustbridge/trustbridge.env", "/mnt/resource/trustbridge/model.tbenc", "/var/lib/tb-billing/ledger.db"]
    for path in private:
        assert vm.run(f"test -e {path}")[0] == 0, path
    for user in USERS:
        script = "; ".join(f"head -c 1 {p} >/dev/null 2>&1 && echo {p}" for p in private) + "; true"
        read = vm.sh(f"setpriv --reuid {user} --regid nogroup --clear-groups sh -c {shlex.quote(script)}").split()
        own = {"tb-authorize": private[1:3], "tb-hydrate": [private[5]], "tb-billing": [private[6]], "tb-runtime": []}.get(user, [])
        assert set(read) <= set(own), (user, read)


PROBE = """
import errno, os, socket
def tried(what, fn):
    try:
        fn()
        print(what, "possible", flush=True)
    except OSError as e:
        print(what, errno.errorcode[e.errno], flush=True)
def write(path):
    def fn():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)
    return fn
def connect(family, address):
    def fn():
        with socket.socket(family) as s:
            s.settimeout(5)
            s.connect(address)
    return fn
tried("probe", lambda: None)
tried("inet", connect(socket.AF_INET, ("10.0.2.2", PORT)))
tried("inet6", connect(socket.AF_INET6, ("::1", 8000)))
tried("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
tried("keys", connect(socket.AF_UNIX, "/run/tb-keys.sock"))
for d in "/ /etc /usr /var /var/lib /home /root /boot /mnt/resource/trustbridge /dev/shm /run /run/tb-authorize /sys/kernel".split():
    tried("write:" + d, write(d + "/tb-probe"))
tried("exec-memory", lambda: __import__("mmap").mmap(-1, 4096, prot=7))
tried("mount", lambda: os.chroot("/tmp"))
tried("proc", lambda: os.listdir("/proc/1"))
"""


def in_sandbox(vm, unit, provider):
    """What a program can do that stands in the place of the unit's own, by the unit's own file."""
    vm.put("/usr/local/lib/probe.py", PROBE.replace("PORT", str(provider.controlplane.port)).encode())
    drop = r"/^\(Requires\|Wants\|After\|Conflicts\|PartOf\|Upholds\|JoinsNamespaceOf\|LoadCredential\|SetCredential\|WatchdogSec\)=/d"
    drop += r"; /^\(Sockets\|Restart\|RestartPreventExitStatus\|RuntimeDirectory\|StateDirectory\|LogsDirectory\|LogNamespace\)=/d"
    vm.sh(f"sed -e '{drop}' -e 's/^Type=.*/Type=oneshot/' -e 's|^ExecStart=.*|ExecStart=/usr/bin/python3 /usr/local/lib/probe.py|' "
          f"$(systemctl show -P FragmentPath {unit}.service) > /run/systemd/system/probe-{unit}.service && systemctl daemon-reload")
    vm.sh(f"systemctl start probe-{unit}.service; true")
    text = vm.sh(f"journalctl --no-pager -b -o cat -t python3 _SYSTEMD_UNIT=probe-{unit}.service")
    found = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    assert found.get("probe") == "possible", f"the probe did not run: {text}\n{vm.run(f'journalctl -b -u probe-{unit} --no-pager')[1]}"
    return found


@pytest.mark.parametrize("unit", ["tb-decrypt", "tb-proxy", "tb-runtime", "tb-authorize", "tb-hydrate", "tb-billing"])
def test_what_a_taken_over_program_can_do(vm, provider, unit):
    found = in_sandbox(vm, unit, provider)
    network = unit in ("tb-authorize", "tb-hydrate")
    assert (found["inet"] == "possible") == network, found
    assert found["keys"] != "possible"
    assert found["mount"] != "possible"
    assert found["exec-memory"] == "possible" if unit == "tb-runtime" else found["exec-memory"] != "possible"
    writable = {k for k, v in found.items() if k.startswith("write:") and v == "possible"}
    # Memory and its own directory. The drop-in that opens TB_TARGET_DIR is tb-hydrate's alone, not this copy's.
    assert writable <= {f"write:/run/{unit}", *(["write:/dev/shm"] if unit != "tb-decrypt" else [])}, found
    if unit == "tb-decrypt":
        assert "inet6" in found and found["inet6"] != "possible" and found["netlink"] != "possible"


# -- deaths ---------------------------------------------------------------------------------------------------------------

class Load:
    """Small requests one after the other until stopped; .seen counts the answers by status, 0 for a broken connection."""

    def __init__(self, vm):
        self.vm, self.seen, self._stop = vm, {}, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            status = self.vm.chat(SHORT)[0]
            self.seen[status] = self.seen.get(status, 0) + 1
            if status != 200:
                time.sleep(0.1)

    def __enter__(self):
        self._thread.start()
        wait_for(lambda: self.seen.get(200), 60, "the load's first answer")
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join(150)


@pytest.mark.parametrize("unit,allowed", [("tb-authorize", {200}), ("tb-billing", {200}), ("tb-proxy", {200, 0}),
                                          ("tb-runtime", {200, 502, 503})])
def test_sigkill_moves_nothing_else(vm, unit, allowed):
    everyone = ("tb-authorize", "tb-billing", "tb-proxy", "tb-runtime")
    before, hydrated = pids(vm, *everyone), vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic")
    with Load(vm) as load:
        vm.sh(f"kill -9 {before[unit]}")
        wait_for(lambda: vm.pid(unit) not in (0, before[unit]), 60, f"{unit} to come back", every=0.3)
        vm.wait_state("Ready", 120)
        served = load.seen[200]
        wait_for(lambda: load.seen[200] > served + 1, 60, "requests to be served again")
    assert set(load.seen) <= allowed, load.seen
    after = pids(vm, *everyone)
    assert {k: v for k, v in after.items() if k != unit} == {k: v for k, v in before.items() if k != unit}
    assert vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic") == hydrated


def test_restart_of_the_proxy_loses_no_request(vm):
    old = vm.pid("tb-proxy")
    with Load(vm) as load:
        for _ in range(2):
            vm.sh("systemctl restart tb-proxy.service", timeout=90)
            served = load.seen[200]
            wait_for(lambda: load.seen.get(200, 0) > served + 1, 60, "requests after the restart")
    assert vm.pid("tb-proxy") != old
    assert set(load.seen) <= {200, 503}, load.seen  # 503: asked the runtime's health a moment too early
    assert 0 not in load.seen


# -- the contract ends ----------------------------------------------------------------------------------------------------

def test_revoked_and_allowed_again(vm, provider):
    want, runtime = content(vm.chat(model.CHAT)), vm.pid("tb-runtime")
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    wait_for(lambda: vm.chat(SHORT)[0] == 403, 30, "403")
    wait_for(lambda: vm.run(f"test -d /proc/{runtime}")[0] != 0, 10, "the runtime to die")
    status, body = vm.chat(SHORT)
    assert status == 403 and body["error"]["message"]
    assert http_json(vm.url("/health"))[0] == 503
    assert vm.state() == "Suspended"
    # The machine's own clock: from the refusal to the end of the process that held the weights.
    refused = int(vm.journal("_SYSTEMD_UNIT=tb-authorize.service", f"MESSAGE_ID={SUSPENDED}")[-1]["__REALTIME_TIMESTAMP"])
    died = int(vm.sh("date -d \"$(systemctl show -P ExecMainExitTimestamp --timestamp=us tb-runtime.service)\" +%s%6N"))
    assert died - refused < 2_000_000
    assert vm.show("tb-runtime.service", "ActiveState") in ("inactive", "failed")
    provider.controlplane.ctl("contract", "allow", CONTRACT)
    vm.ask_now()
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want


# -- power ----------------------------------------------------------------------------------------------------------------

def test_reboot_downloads_nothing_again(vm):
    want, stat = content(vm.chat(model.CHAT)), "stat -c '%i %Y %Z %s' /mnt/resource/trustbridge/model.tbenc"
    before = vm.sh(stat)
    vm.reboot()
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want
    assert vm.sh(stat) == before
    received = int(vm.sh("cat /sys/class/net/eth0/statistics/rx_bytes"))
    assert received < 1_000_000, "more came in than the manifest and the lease"


def occurrences(path, needles):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        return {name: m.find(needle) for name, needle in needles.items() if m.find(needle) >= 0}


def test_no_plaintext_and_no_key_on_the_disk(vm, provider):
    """Last: the machine is switched off."""
    weights = (provider.source / model.GGUF).read_bytes()
    key = pathlib.Path(provider.dir / "model.key").read_text().strip()
    raw = bytes.fromhex(key)
    secrets = {f"weights at {i}/4": weights[len(weights) * i // 4:][:32] for i in (1, 2, 3)}
    secrets.update({"side file": b"trustbridge-demo-side-file", "key": raw, "key in hex": key.encode(), "key in HEX": key.upper().encode(),
                    "key in base64": base64.b64encode(raw), "SAS": b"&sig="})
    assert len(set(secrets.values())) == len(secrets)
    vm.wait_state("Ready")
    assert vm.chat(SHORT)[0] == 200
    vm.poweroff()
    disk = vm.raw_disk()
    ciphertext = (provider.dir / "model.tbenc").read_bytes()
    control = {"contract": f"TB_CONTRACT_ID={CONTRACT}".encode(), "ciphertext": ciphertext[len(ciphertext) // 2:][:32]}
    assert set(occurrences(disk, control)) == set(control), "the search finds what is there"
    assert occurrences(disk, secrets) == {}
