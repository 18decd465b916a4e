# SPDX-License-Identifier: Apache-2.0
"""The hours that usage goes to when the machine's clock and others disagree. The boot clock is shifted by a time namespace, the control
plane's by the file that tb-authorize leaves; the wall clock of this machine stays as it is. Steps of that are for the VM."""

import json
import os
import subprocess
import time

import pytest
from billing_daemon import Usage, billing, env, ledger, now_hour  # noqa: F401
from tbsys import BootClock, Daemon, program, read_json, wait_for

DAY = 86400


def boottime_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def rfc3339(t):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t))


def control_plane(env, ahead):
    """What tb-authorize leaves of an answer that came now."""
    d = env["TB_RUN_DIR"] / "tb-authorize"
    d.mkdir(parents=True, exist_ok=True)
    new = d / "new"
    new.write_text(json.dumps({"reachable": True, "reason": "", "failures": 0, "asked_at": rfc3339(time.time()), "asked_boottime_us": boottime_us(),
                               "date": rfc3339(time.time() + ahead), "date_boottime_us": boottime_us()}))
    new.rename(d / "control-plane.json")


def lease(env, state):
    d = env["TB_RUN_DIR"] / "tb-authorize"
    d.mkdir(parents=True, exist_ok=True)
    (d / "lease.json").write_text(json.dumps({"state": state, "reason": "", "contract_id": "c", "asset_id": "a"}))


def printed(env):
    r = subprocess.run([program("tb-billing"), "ledger", "--json"], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True)
    return json.loads(r.stdout)


def hours(env):
    """{hour: requests}, from the epoch."""
    found = {}
    for row in printed(env)["used"]:
        if row["counter"] == "requests":
            t = time.strptime(row["hour"], "%Y-%m-%dT%H:%M:%SZ")
            found[int(time.mktime(t) - time.timezone) // 3600] = row["quantity"]
    return found


def clock(env):
    return read_json(env["TB_RUN_DIR"] / "tb-billing/clock.json")


def started(daemon):
    daemon.start().wait_notify("READY", "1")
    return daemon


def test_a_step_while_the_daemon_is_down(env, tmp_path, request):
    """A day passes by the boot clock, and none by the wall clock: somebody set that back meanwhile."""
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    d = started(billing(env, tmp_path))
    usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 5, 20, "the first booking")
    d.stop()
    hour = now_hour()
    assert hours(env) == {hour: 5}
    ahead = BootClock(DAY)
    request.addfinalizer(ahead.close)
    d = started(Daemon([program("tb-billing")], env=env, log=tmp_path / "shifted.log", inside=ahead))
    usage.add("requests", 3)
    wait_for(lambda: ledger(env)["requests"] == 8, 20, "the second booking")
    assert hours(env) == {hour: 5, hour + 24: 3}
    assert abs(clock(env)["off_seconds"] + DAY) < 60
    said = (tmp_path / "shifted.log").read_text()
    assert said.count("behind") == 1 and "usage is booked by the boot clock" in said, said
    step, = printed(env)["clock_steps"]
    assert step["event"] == "stepped" and abs(step["off_seconds"] + DAY) < 60
    screen = subprocess.run([program("tb-billing"), "ledger"], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True).stdout
    assert "WRONG BY" in screen and "stepped" in screen
    d.stop()


def test_a_restart_where_the_kernel_tells_no_boot_id(env, tmp_path):
    """As in the unit, whose ProcSubset=pid hides it: systemd names the boot."""
    more = {**env, "BOOT_ID": "0123456789abcdef0123456789abcdef"}
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    control_plane(env, -DAY)
    for n in (1, 2):
        d = started(billing(more, tmp_path))
        usage.add("requests", 5)
        wait_for(lambda: ledger(env)["requests"] == 5 * n, 20, "the booking")
        d.stop()
        (env["TB_RUN_DIR"] / "tb-authorize/control-plane.json").unlink(missing_ok=True)
    assert hours(env) == {now_hour() - 24: 10}


def test_the_control_plane_knows_better_than_a_clock_that_was_found_wrong(env, tmp_path):
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    control_plane(env, -DAY)  # this machine is a day ahead
    hour = now_hour()
    d = started(billing(env, tmp_path))
    usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 5, 20, "the first booking")
    assert hours(env) == {hour - 24: 5}
    assert "ahead" in (tmp_path / "billing.log").read_text()
    lease(env, "authorized")
    status = subprocess.run([program("tb-status"), "--json"], env={**os.environ, **{k: str(v) for k, v in env.items()}},
                            capture_output=True, text=True).stdout
    told = [p for p in json.loads(status)["problems"] if "clock" in p["what"]]
    assert len(told) == 1 and "ahead of the control plane's" in told[0]["what"] and "date -u -s " in told[0]["remedy"], status
    # Once it is known, an answer that says something else is the control plane's own trouble.
    control_plane(env, 3 * DAY)
    usage.add("requests", 3)
    wait_for(lambda: ledger(env)["requests"] == 8, 20, "the second booking")
    assert hours(env) == {hour - 24: 8}
    # Set right: here, by moving the control plane to where this machine is.
    control_plane(env, 0)
    wait_for(lambda: clock(env)["off_seconds"] == 0, 20, "the end of it")
    usage.add("requests", 2)
    wait_for(lambda: ledger(env)["requests"] == 10, 20, "the third booking")
    assert hours(env) == {hour - 24: 8, now_hour(): 2}
    d.stop()


@pytest.mark.parametrize("off", [-50, -2, 0, 2, 50])
def test_what_is_no_step_raises_no_alarm(env, tmp_path, off):
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    control_plane(env, off)
    d = started(billing(env, tmp_path))
    usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 5, 20, "the booking")
    control_plane(env, -off)
    usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 10, 20, "the booking")
    d.stop()
    assert clock(env)["off_seconds"] == 0 and "clock_steps" not in printed(env)
    assert "warning" not in (tmp_path / "billing.log").read_text()


def test_usage_of_an_earlier_boot_waits_until_the_time_is_known(env, tmp_path):
    """Nothing is served in a boot before the control plane has answered in it."""
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    usage.add("requests", 5)
    lease(env, "pending")
    d = started(billing(env, tmp_path))
    wait_for(lambda: clock(env).get("source") == "found", 20, "a look at the clocks")
    at = clock(env)["at_boottime_us"]
    wait_for(lambda: clock(env)["at_boottime_us"] > at, 20, "another pass")
    assert ledger(env)["requests"] == 0
    control_plane(env, -DAY)
    wait_for(lambda: ledger(env)["requests"] == 5, 20, "the booking")
    assert hours(env) == {now_hour() - 24: 5}
    d.stop()


def test_a_clock_that_a_program_keeps(env, tmp_path):
    """Without a Date of the control plane: systemd-timesyncd's mark."""
    mark = env["TB_RUN_DIR"] / "systemd/timesync/synchronized"
    mark.parent.mkdir(parents=True)
    mark.touch()
    Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    d = started(billing(env, tmp_path))
    wait_for(lambda: clock(env).get("source") == "kept", 20, "the source")
    d.stop()


@pytest.mark.parametrize("text", ["", "[]", '{"date": "yesterday", "date_boottime_us": -1}', '{"date": 5}',
                                  '{"date": "2026-01-01T00:00:00Z", "date_boottime_us": 9007199254740991}'])
def test_what_tb_authorize_left_is_damaged(env, tmp_path, text):
    usage = Usage(env["TB_STATE_DIR"] / "tb-proxy/usage")
    (env["TB_RUN_DIR"] / "tb-authorize").mkdir(parents=True)
    (env["TB_RUN_DIR"] / "tb-authorize/control-plane.json").write_text(text)
    d = started(billing(env, tmp_path))
    usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 5, 20, "the booking")
    assert hours(env) == {now_hour(): 5}
    d.stop()
