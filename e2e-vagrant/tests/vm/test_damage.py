# SPDX-License-Identifier: Apache-2.0
"""Damage to the encrypted model: the machine mends it by itself, or says on the screen what does."""

import json
import re

import pytest
from appliance import event
from scenario import TARGET
from tbsys import wait_for

FILE = f"{TARGET}/model.tbenc"
# One bit in the middle; size, inode and mtime stay.
ROT = f"""python3 - <<'END'
import os
st = os.stat('{FILE}')
with open('{FILE}', 'r+b') as f:
    f.seek(st.st_size // 2)
    b = f.read(1)[0]
    f.seek(st.st_size // 2)
    f.write(bytes([b ^ 4]))
os.utime('{FILE}', ns=(st.st_atime_ns, st.st_mtime_ns))
END"""


def damage_blob(provider):
    """Changes a bit of the ciphertext in the storage itself; returns what changes it back."""
    ciphertext = (provider.dir / "model.tbenc").read_bytes()
    at = len(ciphertext) // 2
    for p in (provider.dir / "azurite").rglob("*"):
        where = p.read_bytes().find(ciphertext[at:at + 64]) if p.is_file() else -1
        if where >= 0:
            break
    assert where >= 0, "the blob is in no file of the storage"

    def put(byte):
        with open(p, "r+b") as f:
            f.seek(where)
            f.write(bytes([byte]))

    put(ciphertext[at] ^ 1)
    return lambda: put(ciphertext[at])


def tb_status(vm):
    return json.loads(vm.run("tb-status --json")[1])


def wrong(vm):
    """What tb-status says is wrong, but for what will be: the certificates of these tests end in ten days."""
    return [p for p in tb_status(vm)["problems"] if p.get("level") != "warning"]


def started(vm):
    return vm.show("tb-runtime.service", "ActiveEnterTimestampMonotonic")


def serves_anew(vm, before):
    wait_for(lambda: started(vm) not in ("0", before), 300, "another start of the runtime", every=0.5)
    vm.wait_state("Ready")
    assert wrong(vm) == []
    screen = vm.run("tb-status")[1]
    assert "restart" not in screen.split("Last warnings")[0], screen
    assert vm.status()["reason"] == ""


@pytest.mark.parametrize("damage", [ROT, f"rm {FILE}", f"truncate -s 5000 {FILE}", f"chmod 600 {FILE}", f"chown root:root {FILE}; chmod 600 {FILE}",
                                    f"rm {FILE}; mkdir {FILE}; touch {FILE}/x", f"rm {FILE}; ln -s /etc/passwd {FILE}",
                                    f"echo '{{}}' >{TARGET}/model.manifest.json", f"rm -r {TARGET}/*", f"chmod 700 {TARGET}"],
                         ids=["rot", "deleted", "cut", "mode", "owner", "directory", "symlink", "manifest", "all", "closed"])
def test_a_restart_of_the_runtime_brings_it_back(vm, damage):
    before = started(vm)
    vm.sh(damage)
    vm.run("systemctl restart tb-runtime.service", timeout=300)
    serves_anew(vm, before)
    vm.sh(f"rm -rf {TARGET}/*.aside-*")


def test_rot_is_found_after_a_reboot(vm):
    vm.sh(ROT + "\nsync")
    vm.reboot()
    vm.wait_state("Ready")
    # The piece alone; or all of it, where the machine was too slow for who waited for the piece.
    assert any(vm.journal(f"MESSAGE_ID={event(e)}") for e in ("REPAIR_RECORD", "REPAIR"))
    assert wrong(vm) == []
    vm.sh("systemctl restart tb-hydrate.service", timeout=300)
    vm.wait_state("Ready")
    assert vm.run("test -e /var/lib/tb-hydrate/repair.json")[0] != 0, "a delivery ends the count"


def test_a_damaged_source_is_asked_three_times_then_the_cure_is_on_the_screen(vm, provider):
    before, mend = started(vm), damage_blob(provider)
    try:
        vm.sh(ROT)
        vm.run("systemctl restart tb-runtime.service", timeout=300)
        wait_for(lambda: vm.show("tb-hydrate.service", "ActiveState") == "failed", 300, "the end of the tries", every=0.5)
        reason = vm.status()["reason"]
        assert "upload it again" in reason, reason
        problems = tb_status(vm)["problems"]
        assert "upload it again" in problems[0]["what"], problems
    finally:
        mend()
    cure = re.search(r"then: (.*systemctl restart tb-hydrate.service)", reason)[1]
    vm.run(cure, timeout=300)
    serves_anew(vm, before)


@pytest.mark.parametrize("status", [66, 76])
def test_an_inference_server_that_ends_with_such_a_status(vm, status):
    """It is not the model that is at fault: nothing is fetched or looked at."""
    env = "/etc/trustbridge/trustbridge.env"
    hydrated = vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic")
    vm.sh(f"cp -p {env} /root/env && printf '#!/bin/sh\\nsleep 1; exit {status}\\n' >/opt/ends && chmod 755 /opt/ends && "
          f"echo 'TB_RUNTIME_EXEC=/opt/ends {{model}}' >> {env}")
    try:
        vm.run("systemctl restart tb-runtime.service", timeout=300)
        if status == 66:
            again = "journalctl --namespace=trustbridge -b -o cat -u tb-repair.service | grep -c 'starting it again' || true"
            wait_for(lambda: int(vm.sh(again)) >= 2, 400, "two more starts", every=0.5)
        else:
            wait_for(lambda: vm.show("tb-runtime.service", "ActiveState") == "failed", 120, "the end", every=0.5)
            wait_for(lambda: vm.show("tb-repair.service", "ActiveState") == "inactive", 60, "the look at it", every=0.5)
        assert vm.show("tb-hydrate.service", "ExecMainStartTimestampMonotonic") == hydrated
    finally:
        vm.sh(f"mv /root/env {env}; rm /opt/ends; systemctl --no-block restart tb-runtime.service")
        vm.wait_state("Ready")
