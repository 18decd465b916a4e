# SPDX-License-Identifier: Apache-2.0
"""Wrong settings on a machine that serves: nothing of them takes effect, and a correction applies. Then a listener that came up wrong, or went."""

import base64
import contextlib
import json
import re

import model
import pytest
from scenario import Load, chat, content, models, pids
from tbsys import wait_for

ENV = "/etc/trustbridge/trustbridge.env"
CONFIGURE = "systemctl restart tb-configure.service"
APPLY = f"{CONFIGURE} && systemctl start trustbridge.target"  # of the operator guide
EVERYONE = ("tb-authorize", "tb-billing", "tb-proxy", "tb-runtime")
SOCKETS = {"tb-proxy.socket": "tb-proxy.service", "tb-proxy-health.socket": "tb-proxy.service", "tb-keys.socket": "tb-authorize.service"}
WRONG = {
    "TB_PUBLIC_ADDR": "0.0.0.0:80000", "TB_HEALTH_ADDR": "10.99.99.99:8001", "TB_RUNTIME_EXEC": "/opt/nowhere/llama-server -m {model}",
    "TB_CA_FILE": "/etc/trustbridge/trustbridge.env", "TB_TLS_CERT": "/etc/nowhere.pem", "TB_PUBLC_ADDR": ":8000", "TB_LOG_LEVEL": "loud",
}


@contextlib.contextmanager
def added(vm, *lines):
    """The file with these lines more, as long as the block lasts."""
    vm.sh(f"cp -p {ENV} /root/settings.env")
    vm.put("/root/more.env", "".join(f"{line}\n" for line in lines).encode())
    vm.sh(f"cat /root/more.env >> {ENV}")
    try:
        yield
    finally:
        vm.sh(f"cp -p /root/settings.env {ENV}")


def configure(vm, last):
    """A run of tb-configure.service that fails: what it said, one line each, when its last one is there. Not by its invocation: a journald that
    is behind does not know that any more when the unit has ended, only the unit's name."""
    cursor = vm.sh("journalctl --sync; journalctl --no-pager -n 1 -o cat --show-cursor").split("-- cursor: ")[1].strip()
    assert vm.run(CONFIGURE, 180)[0] != 0
    command = f"journalctl --no-pager -o cat -u tb-configure.service --after-cursor='{cursor}'"
    return wait_for(lambda: last in (text := vm.sh(command)) and text.splitlines(), 400, f"{last} in the journal", every=0.5)


def drop_ins(vm):
    return vm.sh("cd /run/systemd/generator && grep -r . --include=50-trustbridge-env.conf | sort")


def test_wrong_settings_are_refused_and_reach_nobody(vm):
    before, made = pids(vm, *EVERYONE), drop_ins(vm)
    with added(vm, *(f"{k}={v}" for k, v in WRONG.items())), Load(vm, chat, models) as load:
        lines = configure(vm, "nothing was restarted")
        for name in WRONG:
            assert len([x for x in lines if f" error: {name}: " in x and x.startswith(ENV)]) == 1, (name, lines)
        assert "0.0.0.0:80000" in vm.run("systemctl status --no-pager -n 50 tb-configure.service")[1]
        assert pids(vm, *EVERYONE) == before and drop_ins(vm) == made
        load.served(5)
        # Neither a crash nor an upgrade nor an impatient operator brings them in.
        vm.sh("systemctl daemon-reload", timeout=120)
        assert drop_ins(vm) == made
        load.served(5)
        vm.sh(f"kill -9 {before['tb-proxy']}")
        wait_for(lambda: vm.pid("tb-proxy") not in (0, before["tb-proxy"]), 400, "tb-proxy to come back", every=0.3)
        vm.sh("systemctl restart tb-authorize.service tb-billing.service", timeout=180)
        vm.wait_state("Ready")
        load.served(5)
    assert set(load.seen) <= {200, 0, 503}, load.seen
    assert vm.pid("tb-runtime") == before["tb-runtime"]
    again = vm.sh("journalctl --no-pager -o cat -b -u tb-settings.service").count("80000")
    assert again <= 1, "the programs' starts say it once more, not each of them"


def test_a_correction_applies(vm):
    """The port that was out of range, and another."""
    with added(vm, "TB_PUBLIC_ADDR=0.0.0.0:80000"):
        assert vm.run(CONFIGURE, 120)[0] != 0
        vm.sh(f"sed -i 's/0:80000$/0:8000/' {ENV} && {APPLY}", timeout=300)
        vm.wait_state("Ready")
        assert content(vm.chat(model.CHAT))
        vm.sh(f"sed -i 's/0:8000$/0:8081/' {ENV} && {APPLY}", timeout=300)
        wait_for(lambda: vm.run("ss -Hltn | grep -q :8081")[0] == 0, 60, "the new port")
        assert vm.run("ss -Hltn | grep -q ':8000 '")[0] == 1
    vm.sh(APPLY, timeout=300)
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT))


def test_one_program_takes_a_good_change_at_its_restart(vm):
    runtime = vm.pid("tb-runtime")
    with added(vm, "TB_ROUTES=/v1/models"):
        vm.sh("systemctl restart tb-proxy.service", timeout=120)
        wait_for(lambda: models(vm) == 200, 60, "the list of models")
        assert chat(vm) == 404
    vm.sh("systemctl restart tb-proxy.service", timeout=120)
    vm.wait_state("Ready")
    assert chat(vm) == 200 and vm.pid("tb-runtime") == runtime


@pytest.mark.parametrize("addr", ["0.0.0.0:80000", "localhos:8000", "8000"])
def test_a_boot_with_a_wrong_address_then_the_guides_commands(vm, addr):
    """What a boot with this file leaves: the socket without an address, and nothing that keeps it from one."""
    with added(vm, f"TB_PUBLIC_ADDR={addr}"):
        vm.sh("systemctl stop trustbridge.target tb-proxy.service tb-proxy.socket tb-proxy-health.socket && rm /run/tb-configure/*", timeout=120)
        configure(vm, addr)
        vm.run("systemctl start tb-proxy-health.socket trustbridge.target", 180)
        vm.run("curl -s -m 5 http://127.0.0.1:8001/health", 30)  # who asks the health port wakes its service
        assert vm.run("ss -Hltn | grep -q ':8000 '")[0] == 1 and vm.show("tb-proxy.service", "ActiveState") != "active"
    vm.sh(APPLY, timeout=300)
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT))


@pytest.mark.parametrize("socket", SOCKETS)
def test_no_service_outlives_its_socket_and_keeps_it_closed(vm, socket):
    vm.sh(f"systemctl stop {socket}", timeout=120)
    assert vm.show(SOCKETS[socket], "ActiveState") in ("inactive", "deactivating", "failed")
    vm.sh(f"systemctl start {SOCKETS[socket]}", timeout=180)
    assert vm.show(socket, "ActiveState") == "active"
    vm.sh(APPLY, timeout=300)
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT))


# What a file may hold, but for comments that end with a backslash, which versions of systemd read differently.
ODD = b"\n".join([
    b"A1=1", b"  A2  =  2 3\t ", b"#A3=x", b";A3=y", b'A4="4 5 "', b"A5='5 \"6\" \\n'", rb'A6="a\"b\$c\`d\\e\nf"', b'A7="1', b'2"', b'A8="1\\', b'2"', b"A9=1 \\", b"  2",
    rb"B1=a\ b\\c", b'B2=a"b"', b"B3=\"a\" 'b' c", b"B4=$HOME ${A1} %h", b"B5==1", b"B6", b"B7 8=9", b"export B8=1", b"B9-0=1", b"C1=1", b"C1=2", b"C2=x", b"C2=",
    b"C3=a\tb", b"C4=\"a\"'b'", "C5=\u00e4".encode(), b"C6=a # b", b"C7 =7\r", b"\r", b"\xef\xbb\xbfC8=1", b"C9='not closed", b"D1=2", b""])


def test_the_file_means_what_it_means_to_systemd(vm):
    vm.put("/root/odd.env", ODD)
    ours = vm.sh("env -i tb-configure --run /usr/bin/env /root/odd.env | base64 -w0")
    theirs = vm.sh("systemd-run --quiet --wait --pipe -p EnvironmentFile=/root/odd.env /usr/bin/env | base64 -w0")
    ours, theirs = (base64.b64decode(x).decode() for x in (ours, theirs))
    mine = {x for x in re.split(r"\n(?=\w+=)", ours.rstrip("\n")) if re.match(r"[A-D]\d", x)}
    assert mine == {x for x in re.split(r"\n(?=\w+=)", theirs.rstrip("\n")) if re.match(r"[A-D]\d", x)} and len(mine) > 20


def test_the_check_of_this_machine(vm):
    rc, text = vm.run("tb-configure --check --json", 60)
    found = json.loads(text)
    assert (rc, found["ok"], found["errors"]) == (0, True, 0), found
    assert vm.run("systemctl is-failed tb-configure.service tb-settings.service")[0] != 0
