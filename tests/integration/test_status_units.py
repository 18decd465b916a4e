# SPDX-License-Identifier: Apache-2.0
"""tb-status with units and journal: a stand-in for PID 1, and a journal of the namespace as systemd-journal-remote writes it, in a mount
namespace of the test's own."""

import json
import os
import pathlib
import subprocess

import pytest

from fake_systemd import FakeSystemd
from tbsys import free_port, program, repo

JOURNAL_REMOTE = next(p for p in ("/usr/lib/systemd/systemd-journal-remote", "/lib/systemd/systemd-journal-remote") if os.path.exists(p))
UP = ("tb-authorize.service", "tb-billing.service", "tb-proxy.service", "tb-proxy.socket", "tb-proxy-health.socket", "trustbridge.target")


class Place:
    def __init__(self, tmp):
        self.tmp, self.systemd, self.entries = tmp, FakeSystemd(tmp), []
        self.systemd.units = {n: {} for n in UP}
        self.port = free_port()

    def said(self, unit, message, priority=6, by=None):
        self.entries.append({"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": unit.split(".")[0],
                             "_SYSTEMD_UNIT": by or unit, "UNIT": unit})

    def journal(self):
        """In the export format, oldest first."""
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip()
        machine = pathlib.Path("/etc/machine-id").read_text().strip()
        out = ""
        for n, e in enumerate(self.entries, 1):
            fields = {"__REALTIME_TIMESTAMP": 1767866400000000 + n, "__MONOTONIC_TIMESTAMP": n, "_BOOT_ID": boot, "_MACHINE_ID": machine, **e}
            out += "".join(f"{k}={v}\n" for k, v in fields.items()) + "\n"
        where = self.tmp / f"{machine}.trustbridge"
        where.mkdir()
        subprocess.run([JOURNAL_REMOTE, "-o", where / "system.journal", "-"], input=out, text=True, check=True, capture_output=True)

    def see(self, *args):
        script = f"mount -t tmpfs none /run && mkdir -p /run/tb-configure /var/log/journal && : >/run/tb-configure/contract && " \
                 f"{{ [ ! -d {self.tmp}/run ] || cp -r {self.tmp}/run/. /run/; }} && " \
                 f"mount --bind {self.tmp} /var/log/journal && exec {program('tb-status')} {' '.join(args)}"
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": self.systemd.address, "TB_HEALTH_ADDR": f"127.0.0.1:{self.port}",
               "TB_PUBLIC_ADDR": f"127.0.0.1:{self.port}", **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}
        return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=env, timeout=60)

    def problems(self):
        return json.loads(self.see("--json").stdout)["problems"]


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    yield p
    p.systemd.close()


def test_what_a_failing_unit_said_has_sense(place):
    """Its own last error: not what PID 1 says of its end, not a later line without sense, not another unit's."""
    place.said("tb-proxy.service", "cannot open /var/lib/tb-proxy/usage: Permission denied", 3)
    place.said("tb-proxy.service", "7 records", 6)
    place.said("tb-proxy.service", "------", 3)
    place.said("tb-billing.service", "something else", 3)
    place.said("tb-proxy.service", "tb-proxy.service: Main process exited, code=exited, status=74/n/a", 4, by="init.scope")
    place.said("tb-proxy.service", "tb-proxy.service: Failed with result 'exit-code'.", 4, by="init.scope")
    place.journal()
    place.systemd.units["tb-proxy.service"] = {"active": "activating", "sub": "auto-restart", "result": "exit-code", "restarts": 5,
                                               "status": "Ready"}
    [first, *more] = place.problems()
    assert first["what"].startswith("tb-proxy.service is restarted again and again: ")
    assert first["what"].endswith("; it said: cannot open /var/lib/tb-proxy/usage: Permission denied") and first["level"] == "critical"
    assert "journalctl --namespace=trustbridge -u tb-proxy.service" in first["remedy"]
    assert not [p for p in more if "tb-proxy" in p["what"]], more


def test_hints_name_the_journal_that_has_it(place):
    """The log of tb-configure is in the machine's own journal, and PID 1's about sockets too."""
    place.journal()
    place.systemd.units["tb-configure.service"] = {"active": "failed", "sub": "failed", "result": "exit-code"}
    [problem] = [p for p in place.problems() if p["what"].startswith("tb-configure.service has failed")]
    assert problem["remedy"].endswith("; journalctl -u tb-configure.service")


def test_each_hint_names_the_journal_that_has_it(place):
    """By LogNamespace= of the unit."""
    place.journal()
    units = {p.name: "\nLogNamespace=trustbridge\n" in p.read_text() for p in (repo / "units").glob("*.service")}
    assert len(units) > 9 and set(units.values()) == {True, False}
    for name, namespaced in units.items():
        place.systemd.units = {n: {} for n in UP} | {name: {"active": "failed", "sub": "failed", "result": "exit-code"}}
        [problem] = [p for p in place.problems() if p["what"].startswith(f"{name} has failed")]
        assert problem["remedy"].endswith(f"journalctl {'--namespace=trustbridge ' if namespaced else ''}-u {name}"), problem


def test_wrong_settings_are_told_with_the_first(place):
    """As a key of the public port that is none: the file is named, and it comes first."""
    place.journal()
    (place.tmp / "run/tb-configure").mkdir(parents=True)
    (place.tmp / "run/tb-configure/report").write_text(
        "<4>/etc/trustbridge/trustbridge.env:3: warning: TB_ROUTES: something\n"
        "<3>/etc/trustbridge/trustbridge.env:6: error: TB_TLS_KEY: /etc/credstore/trustbridge.tls-key: is not a private key in PEM format\n")
    place.systemd.units["tb-settings.service"] = {"active": "failed", "sub": "failed", "result": "exit-code", "code": (1, 78)}
    place.systemd.units["tb-proxy.service"] = {"active": "activating", "sub": "auto-restart", "result": "exit-code", "code": (1, 78)}
    first = place.problems()[0]
    assert first["what"].endswith(". The first: TB_TLS_KEY: /etc/credstore/trustbridge.tls-key: is not a private key in PEM format"), first
    assert first["remedy"].startswith("tb-configure --check names each")


def test_a_socket_that_is_down_is_the_cause(place):
    place.journal()
    place.systemd.units["tb-proxy.socket"] = {"active": "failed", "sub": "failed", "listen": "0.0.0.0:8000"}
    [problem, *more] = place.problems()
    assert problem["what"] == "tb-proxy.socket has failed: nobody listens on 0.0.0.0:8000"
    assert "systemctl start tb-proxy.socket tb-proxy.service" in problem["remedy"] and not [p for p in more if "tb-proxy" in p["what"]], more
    r = place.see("--check")
    assert r.returncode == 2 and "nobody listens on 0.0.0.0:8000" in r.stdout
