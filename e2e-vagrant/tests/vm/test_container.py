# SPDX-License-Identifier: Apache-2.0
"""The runtime in a container, by podman and the drop-in that is shipped for it. There is no GPU here, so a llama-server stands in for vLLM:
what is tried is the drop-in, that is the engine, the mounts, the network and the end of it all under tb-runtime.service. One machine for all tests, in
the order of this file."""

import model
import pytest
from appliance import Appliance
from chain import http_json
from runner import built_image
from scenario import ASSET, SHORT, content
from tbsys import repo, wait_for
from test_at_rest import occurrences
from test_serving import plaintext_answer

CONTRACT = "container"
IMAGE = "localhost/llama:1"
LIBRARIES = "/runtime-kit/root/usr/lib/x86_64-linux-gnu"


def shipped_command():
    """What the drop-in says TB_RUNTIME_EXEC to be, as one line."""
    lines = (repo / "units/examples/vllm-podman.conf").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "TB_RUNTIME_EXEC=" in line)
    last = next(i for i in range(first, len(lines)) if lines[i] == "#")
    return " ".join(line.strip("# ") for line in lines[first:last]).removeprefix("TB_RUNTIME_EXEC=")


def command():
    """The same with our image in place of vLLM's, and without a GPU."""
    engine, _ = shipped_command().split(" docker.io/vllm/")
    engine = engine.replace(" --device=nvidia.com/gpu=all", "")
    return (f"{engine} --env=GGML_BACKEND_PATH={LIBRARIES}/ggml/backends0/libggml-cpu-x64.so {IMAGE} {LIBRARIES}/ld-linux-x86-64.so.2 "
            f"--library-path {LIBRARIES}:{LIBRARIES}/ggml/backends0:{LIBRARIES}/llama /runtime-kit/root/usr/bin/llama-server "
            f"-m /model/{model.GGUF} -c 1024 -t 1 --host 127.0.0.1 --port 8081 --parallel 2")


@pytest.fixture(scope="module")
def vm(provider, tmp_path_factory):
    image = built_image("podman")
    provider.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
    machine = Appliance(image, tmp_path_factory.mktemp("container"), provider, CONTRACT, ASSET, model.GGUF, env={"TB_RUNTIME_EXEC": command()})
    try:
        machine.start()
        machine.sh(f"tar -C /opt -c runtime-kit | podman import - {IMAGE}", timeout=300)
        machine.sh("systemctl reset-failed tb-runtime.service; systemctl --no-block restart tb-runtime.service")
        yield machine.wait_state("Ready")
    finally:
        machine.discard()


def server(vm):
    """The pid of the server in the container."""
    runtime = vm.sh("systemctl show -P ControlGroup tb-runtime.service").strip()
    found = vm.sh(f"for p in $(cat /sys/fs/cgroup{runtime}/cgroup.procs); do grep -qz /usr/bin/llama-server /proc/$p/cmdline && "
                  "readlink /proc/$p/exe | grep -q ld-linux && echo $p; done; true").split()
    assert len(found) == 1, found
    return int(found[0])


def test_it_serves(vm, provider):
    assert content(vm.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    assert http_json(vm.url("/health"))[0] == 200
    assert vm.show("tb-runtime.service", "SubState") == "running"


def test_what_remains_of_the_confinement(vm):
    """No network, weights in memory only, no core dumps, and in the container no capability: what the drop-in promises."""
    pid = server(vm)
    status = dict(line.split(":\t", 1) for line in vm.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert vm.sh(f"nsenter -t {pid} -n ip -br link").split()[0] == "lo" and vm.sh(f"nsenter -t {pid} -n ip -br link").count("\n") == 1
    mounts = {f[4]: (f[5], line.split(" - ")[1].split()[0]) for line in vm.sh(f"cat /proc/{pid}/mountinfo").splitlines() for f in [line.split()]}
    assert mounts["/model"][1] == "fuse.trustbridge" and mounts["/model"][0].startswith("ro,") and mounts["/"][0].startswith("ro,")
    assert all(kind == "tmpfs" for where, (_, kind) in mounts.items() if where in ("/tmp", "/run", "/dev/shm", "/var/tmp"))
    assert vm.sh(f"awk '/core file/ {{print $5}}' /proc/{pid}/limits").strip() == "1"
    # Nobody else has the weights among its mounts; the machine's own /dev/shm has nothing of them.
    assert vm.run("test -e /dev/shm/trustbridge-model")[0] == 1


def test_revoked_the_container_ends_and_allowed_it_comes_back(vm, provider):
    want, pid = content(vm.chat(SHORT)), server(vm)
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    wait_for(lambda: vm.chat(SHORT)[0] == 403, 400, "403")
    wait_for(lambda: vm.run(f"test -d /proc/{pid}")[0] != 0, 60, "the server to die")
    wait_for(lambda: vm.show("tb-runtime.service", "ActiveState") in ("inactive", "failed"), 60, "the unit's end")
    assert vm.run("pgrep 'podman|conmon|crun'")[0] == 1, "the engine is gone as well"
    provider.controlplane.ctl("contract", "allow", CONTRACT)
    vm.ask_now()
    vm.wait_state("Ready")
    assert content(vm.chat(SHORT)) == want and server(vm) != pid


def test_a_killed_server_is_started_again(vm):
    want, pid = content(vm.chat(SHORT)), server(vm)
    before = vm.show("tb-runtime.service", "NRestarts")  # some, where the unit was started before there was an image
    vm.sh(f"kill -9 {pid}")
    wait_for(lambda: vm.run(f"test -d /proc/{pid}")[0] != 0, 60, "its end")
    wait_for(lambda: vm.show("tb-runtime.service", "NRestarts") != before and vm.state() == "Ready", 400, "Ready again")
    assert content(vm.chat(SHORT)) == want


def test_no_plaintext_on_the_disk(vm, provider):
    weights = (provider.source / model.GGUF).read_bytes()
    vm.poweroff()
    assert not occurrences(vm.raw_disk(), {"side file": b"trustbridge-demo-side-file",
                                           **{f"weights at {i}/4": weights[len(weights) * i // 4:][:32] for i in (1, 2, 3)}})
