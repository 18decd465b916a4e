# SPDX-License-Identifier: Apache-2.0
"""Every delivery under the units as they are shipped: by a view, which is what comes by itself, the runtime reads the model through a file system of
its own namespace that tb-decrypt answers; by an endpoint by S3's API; or from files in memory, where it is told so or can have no view. What holds of
each delivery alike, as its end with the contract or the disk's content, is asked of the view by the other files."""

import json
import re

import model
import pytest
from appliance import KIT
from chain import http_json
from scenario import CONTRACT, SHORT, content
from tbsys import wait_for
from test_serving import plaintext_answer


def mode(vm):
    """"": none is there now, as between two starts."""
    rc, said = vm.run("cat /run/tb-runtime/delivery.json")
    return json.loads(said)["mode"] if rc == 0 else ""


def weights_in_memory(vm):
    """Bytes of tmpfs, which nobody can have back while the files are there."""
    return int(vm.sh("awk '/^Shmem:/ {print $2}' /proc/meminfo")) * 1024


def test_it_serves_what_the_plaintext_serves(vm, provider):
    assert mode(vm) == "view", vm.sh("journalctl --no-pager --namespace=trustbridge -u tb-runtime -n 20")
    assert content(vm.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    assert http_json(vm.url("/health"))[0] == 200
    assert "fuse.trustbridge" in vm.sh(f"cat /proc/{vm.pid('tb-runtime')}/mounts")
    assert "fuse.trustbridge" not in vm.sh("cat /proc/mounts"), "the machine itself sees nothing of it"
    assert vm.runs("tb-decrypt")


def test_udev_has_the_kernel_read_it_ahead(vm):
    """By more than by itself, and no other mount of the machine."""
    view = vm.sh(f"awk '/fuse.trustbridge/ {{print $3}}' /proc/{vm.pid('tb-runtime')}/mountinfo").split()
    kib = dict(line.split() for line in vm.sh("cd /sys/class/bdi && for x in *; do echo $x $(cat $x/read_ahead_kb); done").splitlines())
    assert [x for x in kib if kib[x] == "2048"] == view, (view, kib)
    assert vm.run("ls /run/tb-runtime/mounting")[0] != 0
    start = vm.show("tb-runtime.service", "InvocationID")  # on a busy machine an earlier one may have come without udev
    said = vm.sh(f"journalctl --no-pager --namespace=trustbridge _SYSTEMD_INVOCATION_ID={start}")
    assert "the model can be read in" in said and "udev has not applied" not in said


def size(provider):
    return sum(p.stat().st_size for p in provider.source.rglob("*") if p.is_file())


def test_the_model_is_not_in_memory_that_cannot_be_given_back(vm, provider):
    assert weights_in_memory(vm) < size(provider)


def test_what_tb_load_may_do_the_runtime_may_not(vm):
    pid = vm.pid("tb-runtime")
    status = dict(line.split(":\t", 1) for line in vm.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert {status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert vm.sh(f"ls -l /proc/{pid}/fd").count("/dev/fuse") == 0


def test_no_core_and_no_other_process_sees_the_key(vm):
    pid = vm.pid("tb-decrypt")
    # Linux before 6.5 has it only when it is booted with secretmem.enable=1.
    has = vm.run("cat /sys/module/secretmem/parameters/enable")[1].strip() in ("Y", "1")
    assert ("/secretmem" in vm.sh(f"cat /proc/{pid}/maps")) == has
    said = vm.sh("journalctl --no-pager --namespace=trustbridge -b -o cat -u tb-decrypt")
    assert ("in memory that is secret to the process" if has else "in locked memory, without memfd_secret(2)") in said
    assert vm.run(f"setpriv --reuid tb-decrypt --clear-groups head -c 16 /proc/{pid}/environ")[0] != 0


def test_with_tb_decrypt_dead_the_runtime_starts_again(vm):
    """Even where all that it reads is in memory for now."""
    want, pid = content(vm.chat(SHORT)), vm.pid("tb-decrypt")
    vm.sh(f"kill -9 {pid}")
    wait_for(lambda: vm.pid("tb-decrypt") not in (0, pid), 400, "another view")
    vm.wait_state("Ready")
    assert content(vm.chat(SHORT)) == want
    vm.sh("systemctl restart tb-runtime.service")
    vm.wait_state("Ready")
    assert content(vm.chat(SHORT)) == want and vm.runs("tb-decrypt")


# Streams nothing, as llama.cpp cannot: it fetches its model by S3's API, in memory, and serves that.
FETCHES = r"""#!/bin/sh
set -eu
curl -sSf --aws-sigv4 "aws:amz:$AWS_REGION:s3" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -o /dev/shm/fetched.gguf "$AWS_ENDPOINT_URL/${1#s3://}@GGUF@"
exec @KIT@ -m /dev/shm/fetched.gguf -c 1024 -t 1 --host 127.0.0.1 --port 8081 --parallel 2
"""


@pytest.fixture
def endpoint(vm):
    """The machine with TB_DELIVERY=s3."""
    env = "/etc/trustbridge/trustbridge.env"
    vm.put("/opt/fetches", FETCHES.replace("@GGUF@", model.GGUF).replace("@KIT@", KIT).encode(), "0755")
    vm.sh(f"cp -p {env} /root/env; echo TB_DELIVERY=s3 >>{env}; echo 'TB_RUNTIME_EXEC=/opt/fetches {{s3}}' >>{env}; "
          "systemctl --no-block restart tb-runtime.service")
    wait_for(lambda: mode(vm) == "s3", 400, "an endpoint")
    yield vm.wait_state("Ready")
    vm.sh(f"mv /root/env {env}; systemctl --no-block restart tb-runtime.service")
    wait_for(lambda: mode(vm) == "view", 400, "a view")
    vm.wait_state("Ready")


def test_an_endpoint_serves_who_reads_s3_and_its_end_takes_the_runtime_along(endpoint, provider):
    vm = endpoint
    assert content(vm.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    said = vm.sh("journalctl --no-pager --namespace=trustbridge -b -o cat -u tb-runtime")
    port = re.findall(r"the model can be read at http://127.0.0.1:(\d+);", said)[-1]
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/{'0' * 32}/{model.GGUF}"
    assert vm.run(ask)[0] == 7, "there is no way to it from the machine"
    assert vm.sh(f"nsenter -n -t {vm.pid('tb-proxy')} {ask}").strip() == "403"
    want, runtime, decrypt = content(vm.chat(SHORT)), vm.pid("tb-runtime"), vm.pid("tb-decrypt")
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    wait_for(lambda: vm.run(f"test -d /proc/{runtime} || test -d /proc/{decrypt}")[0] != 0, 400, "both to die")
    provider.controlplane.ctl("contract", "allow", CONTRACT)
    vm.ask_now()
    vm.wait_state("Ready")
    assert content(vm.chat(SHORT)) == want


NO_VIEW = "/run/systemd/system/tb-runtime.service.d"


def without(line):
    return f"mkdir {NO_VIEW} && printf '[Service]\\n{line}\\n' >{NO_VIEW}/test.conf", f"rm -r {NO_VIEW}"


FILES = {"told so": ("echo TB_DELIVERY=dir >>{env}", "sed -i /^TB_DELIVERY=dir/d {env}"),
         "without user namespaces": without("RestrictNamespaces=yes")}
WHY = {"without user namespaces": "user namespaces are forbidden"}


@pytest.fixture(params=FILES)
def files(request, vm):
    """The machine with the model in files in memory, and why."""
    do, undo = (c.format(env="/etc/trustbridge/trustbridge.env") for c in FILES[request.param])
    vm.sh(f"{do}; systemctl daemon-reload; systemctl --no-block restart tb-runtime.service")
    wait_for(lambda: mode(vm) == "dir", 400, "files in memory")
    vm.wait_state("Ready")
    yield request.param
    vm.sh(f"{undo}; systemctl daemon-reload; systemctl --no-block restart tb-runtime.service")
    wait_for(lambda: mode(vm) == "view", 400, "a view")
    vm.wait_state("Ready")


def test_files_in_memory_serve_the_same(vm, provider, files):
    want = content(vm.chat(model.CHAT))
    assert want == plaintext_answer(provider.source, model.CHAT)
    assert weights_in_memory(vm) >= size(provider)
    assert "fuse.trustbridge" not in vm.sh(f"cat /proc/{vm.pid('tb-runtime')}/mounts")
    said = vm.sh("journalctl --no-pager --namespace=trustbridge -o cat _PID=$(systemctl show -P MainPID tb-runtime)")
    line = f"no view can be had here: {WHY.get(files)} ("
    assert said.count("no view can be had here") == (files in WHY) and (files not in WHY or line in said), said
    if files in WHY:
        return
    runtime = vm.pid("tb-runtime")
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    wait_for(lambda: vm.run(f"test -d /proc/{runtime}")[0] != 0, 400, "the runtime's end")
    wait_for(lambda: weights_in_memory(vm) < size(provider), 60, "the memory")
    provider.controlplane.ctl("contract", "allow", CONTRACT)
    vm.ask_now()
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want and mode(vm) == "dir"
