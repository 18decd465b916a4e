# SPDX-License-Identifier: Apache-2.0
"""Files in which the programs keep their state, removed or replaced while the programs run."""

import os
import shutil
import subprocess
import time

from authorize_world import denied
from proxy_daemon import make, usage  # noqa: F401
from tbsys import program, wait_for
from test_green import tb_status
from test_monitoring import fetch, firing, machine, samples  # noqa: F401

MAPPED = ("usage", "flight", "keys", "audit-head")


def proxy_with_keys(make, tmp_path, **env):  # noqa: F811
    (tmp_path / "api-keys").write_text("team:" + "0" * 64 + "\n")
    return make(TB_API_KEYS=tmp_path / "api-keys", **env).ready().start()


def put_back(p):
    return samples(fetch(p))["tb_state_files_put_back_total"]


def test_what_is_mapped_is_put_back_with_what_it_held(make, tmp_path):  # noqa: F811
    """Twice, and by another file in its place: counters and chain go on, over the next restart, and a reader finds them by name."""
    p = proxy_with_keys(make, tmp_path)
    state, sent = p.state / "tb-proxy", 0
    for n, how in enumerate(("removed", "removed", "replaced"), 1):
        sent += len([p.ask("GET", "/v1/x") for _ in range(3)])
        p.wait_records(sent)
        for name in MAPPED:
            (state / name).unlink()
            if how == "replaced":
                (state / name).write_bytes(b"something else")
        wait_for(lambda: put_back(p) == n * len(MAPPED), what="all files")
        assert sorted(set(MAPPED) & set(os.listdir(state))) == sorted(MAPPED)
        assert "tb-proxy/usage was removed or replaced; it is written again as it was" in p.daemon.log_text()
    assert len([f for f in os.listdir(state) if ".corrupt-" in f]) == len(MAPPED)
    sent += len([p.ask("GET", "/v1/x") for _ in range(2)])
    before = usage(p)
    assert p.daemon.stop() == 0
    p.start()
    assert usage(p) == before
    p.ask("GET", "/v1/x")
    p.wait_records(sent + 1)
    r = subprocess.run([program("tb-audit"), "verify", p.audit_file], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "crash" not in r.stdout


def test_a_file_of_records_that_was_removed_is_told(make):  # noqa: F811
    """Without a request that would need it."""
    p = make().ready().start()
    p.ask("GET", "/v1/x")
    p.wait_records(1)
    p.audit_file.unlink()
    wait_for(p.audit_file.exists, what="a new file")
    wait_for(lambda: put_back(p) == 1, what="the count")
    assert f"{p.audit_file} was removed, and its records with it" in p.daemon.log_text()


def test_what_cannot_be_put_back_is_told_with_its_cure(machine):  # noqa: F811
    m = machine()
    state = m.tmp / "state/tb-proxy"
    state.rename(m.tmp / "away")
    m.wait_value("tb_state_file_missing", lambda v: v == 1)
    assert firing(fetch(m.proxy)) == {"TrustBridgeStateFileMissing"}
    r = tb_status(m.proxy, "--check")
    assert r.returncode == 2 and "tb-proxy/usage was removed, and cannot be written again: No such file" in r.stdout, r.stdout
    state.mkdir()
    m.wait_value("tb_state_file_missing", lambda v: v == 0)
    assert "usage" in os.listdir(state)


def test_the_files_of_a_lease_are_written_again(machine):  # noqa: F811
    m = machine()
    (m.tmp / "run/tb-authorize/lease.json").unlink()
    m.proxy.wait_state("Boot")
    m.proxy.wait_state("Ready")
    (m.tmp / "run/tb-authorize/allowed").unlink()
    wait_for((m.tmp / "run/tb-authorize/allowed").exists, 60, what="the flag's opposite")
    m.answer = denied("contract_revoked")
    m.ask_control_plane()
    m.proxy.wait_state("Suspended")
    for flag in (m.tmp / "run/tb-authorize/suspended", m.tmp / "state/tb-authorize/suspended"):
        flag.unlink()
        wait_for(flag.exists, 60, what=str(flag))
    assert not (m.tmp / "run/tb-authorize/allowed").exists()
    assert "tb-authorize/lease.json was removed; it is written again" in m.authorize.log_text()


def test_one_whose_writer_has_gone_on_is_told_with_its_cure(machine):  # noqa: F811
    """The inference server took the place of the program that wrote it."""
    m = machine()
    up = int((time.time() - 60) * 1e6)
    m.systemd.units |= {"tb-runtime.service": {"since": up}, "tb-hydrate.service": {"since": up, "sub": "exited"}, "trustbridge.target": {}}
    m.proxy.wait_state("Ready")
    shutil.rmtree(m.tmp / "run/tb-runtime")
    wait_for(lambda: m.proxy.status()["reason"] == "state_file_lost: tb-runtime/delivery.json", 60, "the reason")
    assert samples(fetch(m.proxy))["tb_state_file_missing"] == 1
    assert {"TrustBridgeStateFileMissing", "TrustBridgeStepFailed"} <= firing(fetch(m.proxy))
    m.proxy.write("tb-runtime", "delivery.json", state="delivered", mode="dir")
    m.proxy.wait_state("Ready")
