# SPDX-License-Identifier: Apache-2.0
"""What the programs can and cannot reach, each tried for real from inside."""

import shlex

import model
import pytest
from chain import http_json
from scenario import USERS


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
    runtime, place = vm.pid("tb-runtime"), "/dev/shm/trustbridge-model"
    weights = f"/proc/{runtime}/root{place}/{model.GGUF}"
    assert f"{place}/{model.GGUF}" in vm.sh(f"cat /proc/{runtime}/maps") and f"{place} fuse.trustbridge" in vm.sh(f"cat /proc/{runtime}/mounts")
    assert vm.run(f"test -e {place}")[0] != 0
    assert vm.run(f"head -c 1 {weights}")[0] != 0, "of a view not even root gets anything without entering the namespace"
    authorize = vm.pid("tb-authorize")
    private = [weights, f"/proc/{authorize}/environ", f"/proc/{authorize}/mem", "/etc/credstore/trustbridge.client-key",
               "/etc/trustbridge/trustbridge.env", "/mnt/resource/trustbridge/model.tbenc", "/var/lib/tb-billing/ledger.db"]
    for path in private[1:]:
        assert vm.run(f"test -e {path}")[0] == 0, path
    for user in USERS:
        script = "; ".join(f"head -c 1 {p} >/dev/null 2>&1 && echo {p}" for p in private) + "; true"
        read = vm.sh(f"setpriv --reuid {user} --regid nogroup --clear-groups sh -c {shlex.quote(script)}").split()
        own = {"tb-authorize": private[1:3], "tb-hydrate": [private[5]], "tb-billing": [private[6]], "tb-runtime": []}.get(user, [])
        assert set(read) <= set(own), (user, read)


PROBE = """
import errno, os, socket, stat
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
def sockets(top):
    for d, _, files in os.walk(top):
        for f in files:
            path = os.path.join(d, f)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                print("sees:" + path, "socket", flush=True)
for top in "/run /tmp /var/tmp /dev/shm /etc /var/lib".split():
    sockets(top)
for path in "dbus/system_bus_socket systemd/private systemd/resolve/io.systemd.Resolve nscd/socket systemd/userdb/io.systemd.DynamicUser " \
            "systemd/journal.trustbridge/io.systemd.journal udev/control".split():
    tried("unix:" + path, connect(socket.AF_UNIX, "/run/" + path))
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
    network = unit in ("tb-authorize", "tb-hydrate", "tb-billing")
    assert (found["inet"] == "possible") == network, found
    assert found["keys"] != "possible"
    assert found["mount"] != "possible"
    assert found["exec-memory"] == "possible" if unit == "tb-runtime" else found["exec-memory"] != "possible"
    writable = {k for k, v in found.items() if k.startswith("write:") and v == "possible"}
    # Memory and its own directory. The drop-in that opens TB_TARGET_DIR is tb-hydrate's alone, not this copy's.
    assert writable <= {f"write:/run/{unit}", *(["write:/dev/shm"] if unit != "tb-decrypt" else [])}, found
    if unit == "tb-proxy":  # which asks systemd by D-Bus: the sockets are there
        assert found["unix:dbus/system_bus_socket"] == "possible", found
    if unit in ("tb-decrypt", "tb-runtime"):
        assert {v for k, v in found.items() if k.startswith("unix:")} == {"ENOENT"}, found
        seen = {k.removeprefix("sees:") for k in found if k.startswith("sees:")}
        own = {"/run/systemd/notify", *(["/run/tb-decrypt.sock"] if unit == "tb-runtime" else [])}
        assert own <= seen and {s for s in seen - own if not s.startswith("/run/systemd/journal/")} == set(), found
    if unit == "tb-decrypt":
        assert "inet6" in found and found["inet6"] != "possible" and found["netlink"] != "possible"


def machine_sockets(vm, unit):
    """The sockets below /run that the running program of a unit sees, but those of its journal and of systemd's notifications."""
    # Not -type s: for a socket that is bound there find would believe the directory, which holds a plain file.
    seen = vm.sh(f"cd /proc/{vm.pid(unit)}/root/run && find * -exec test -S {{}} \\; -print").split()
    assert "systemd/notify" in seen and any(s.startswith("systemd/journal/") for s in seen), seen
    return {s for s in seen if s != "systemd/notify" and not s.startswith("systemd/journal/")}


def test_no_socket_of_the_machine_is_a_way_out(vm):
    """A taken-over inference server has no network; D-Bus, systemd-resolved or nscd must not do its errands."""
    everywhere = set(vm.sh("find /run/ -type s -printf '%P\\n'").split())
    assert {"dbus/system_bus_socket", "systemd/private", "tb-attest.sock", "tb-decrypt.sock", "tb-keys.sock"} <= everywhere, everywhere
    assert machine_sockets(vm, "tb-runtime") == {"tb-decrypt.sock"}
    assert vm.sh("cat /run/tb-runtime/delivery.json")  # its own directory is the machine's


def test_a_running_decryption_sees_no_socket_either(vm, streaming):
    assert machine_sockets(vm, "tb-decrypt") == set()
    assert vm.sh("cat /run/tb-decrypt/progress.json")


READ = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        if path.endswith(".sock"):
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(path)
        elif os.path.isdir(path):
            os.listdir(path)
        else:
            f = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if path.endswith("/mem"):
                os.lseek(f, int(open(path[:-3] + "maps").readline().split("-")[0], 16), os.SEEK_SET)
            os.read(f, 16)
        print(path)
    except OSError:
        pass
"""


def test_nobody_reads_a_running_decryption(vm, streaming):
    """The FIFO, the key, and the memory of the one that has it, as each user; root, who may, shows that they are there."""
    decrypt, pipe = streaming["tb-decrypt"], f"/proc/{streaming['tb-runtime']}/root/dev/shm/model-pipe"
    key = "/run/credentials/tb-decrypt.service/model-key"
    private = [key, f"/proc/{decrypt}/mem", f"/proc/{decrypt}/environ", f"/proc/{decrypt}/fd", f"/proc/{decrypt}/root"]
    vm.put("/run/vm-agent/read.py", READ.encode())

    def read_by(user, *paths):
        become = "" if user == "root" else f"setpriv --reuid {user} --regid nogroup --clear-groups"
        return vm.sh(f"cat /run/vm-agent/read.py | {become} python3 - {' '.join(paths)}").split()

    assert read_by("root", *private) == private
    assert int(vm.sh(f"stat -c %s {key}")) == 32
    assert vm.sh(f"stat -c '%F %a %U' {pipe}").strip() == "fifo 600 tb-runtime"
    for user in USERS:
        ends = [] if user == "tb-runtime" else [pipe, "/run/tb-decrypt.sock"]  # its own, and to read would end the stream
        assert set(read_by(user, *private, *ends)) <= {*([key] if user == "tb-decrypt" else [])}, user
    assert vm.pid("tb-decrypt") == decrypt, "the stream has ended meanwhile"
