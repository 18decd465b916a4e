# SPDX-License-Identifier: Apache-2.0
"""The contract, the lease and the clock."""

import json
import time

import model
import pytest
from appliance import event
from chain import http_json
from scenario import ASSET, CONTRACT, SHORT, content, pids
from tbsys import wait_for


def revoke(vm, provider):
    """Ends the contract; returns the seconds, by the machine's clock, from the refusal to the end of the process that held the weights."""
    runtime = vm.pid("tb-runtime")
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    wait_for(lambda: vm.chat(SHORT)[0] == 403, 400, "403")
    wait_for(lambda: vm.run(f"test -d /proc/{runtime}")[0] != 0, 400, "the runtime to die")
    refused = int(vm.journal("_SYSTEMD_UNIT=tb-authorize.service", f"MESSAGE_ID={event('SUSPENDED')}")[-1]["__REALTIME_TIMESTAMP"])
    died = int(vm.sh("date -d \"$(systemctl show -P ExecMainExitTimestamp --timestamp=us tb-runtime.service)\" +%s%6N"))
    return (died - refused) / 1e6


def test_revoked_and_allowed_again(vm, provider):
    want, took = content(vm.chat(model.CHAT)), []
    # Where others keep the processors busy the first time may be a slow one.
    while not took or (took[-1] >= 2 and len(took) < 3):
        took.append(revoke(vm, provider))
        status, body = vm.chat(SHORT)
        assert status == 403 and body["error"]["message"]
        assert http_json(vm.url("/health"))[0] == 503
        assert vm.state() == "Suspended"
        assert vm.show("tb-runtime.service", "ActiveState") in ("inactive", "failed")
        provider.controlplane.ctl("contract", "allow", CONTRACT)
        vm.ask_now()
        vm.wait_state("Ready")
        assert content(vm.chat(model.CHAT)) == want
    assert min(took) < 2, took


def lease(vm):
    return json.loads(vm.sh("cat /run/tb-authorize/lease.json"))


def boottime_us(vm):
    return int(float(vm.sh("cat /proc/uptime").split()[0]) * 1e6)


@pytest.fixture
def short_lease(vm, provider):
    """A lease of seconds with a grace of a minute, as long as the test lasts."""
    env, terms = "/etc/trustbridge/trustbridge.env", ("contract", "add", CONTRACT, "--replace", "--asset", ASSET, "--mode", "open")
    provider.controlplane.ctl(*terms, "--lease-seconds", 10)
    vm.sh(f"cp -p {env} /root/env && echo TB_LEASE_GRACE=60s >> {env} && systemctl restart tb-authorize.service")
    yield
    provider.controlplane.ctl(*terms)
    vm.sh(f"mv /root/env {env} && systemctl restart tb-authorize.service")


def test_control_plane_away_past_lease_and_grace(vm, provider, short_lease):
    want, runtime = content(vm.chat(model.CHAT)), vm.pid("tb-runtime")
    wait_for(lambda: 0 < lease(vm)["deadline_boottime_us"] - boottime_us(vm) <= 70_000_000, 400, "a short lease", every=0.3)
    provider.controlplane.stop()
    try:
        wait_for(lambda: vm.status().get("reason") == "control_plane_unreachable", 400, "/status to say so")
        ends = lease(vm)
        wait_for(lambda: vm.sh("date -u +%FT%TZ").strip() > ends["expires_at"], 400, "the end of the lease", every=0.3)
        answer, state = vm.chat(SHORT), vm.status()
        assert boottime_us(vm) < ends["deadline_boottime_us"], "this machine is too slow for a grace of a minute"
        assert answer[0] == 200 and state["state"] == "Ready" and state["lease_expires_at"] == ends["expires_at"]
        assert lease(vm)["deadline_boottime_us"] == ends["deadline_boottime_us"]
        vm.wait_state("Suspended")
        assert boottime_us(vm) >= ends["deadline_boottime_us"]
        assert vm.chat(SHORT)[0] == 403
        assert http_json(vm.url("/health"))[0] == 503
        wait_for(lambda: vm.run(f"test -d /proc/{runtime}")[0] != 0, 400, "the runtime to die")
        assert lease(vm)["state"] == "expired"
    finally:
        provider.controlplane.start()
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want


@pytest.fixture
def clock(vm):
    """Sets the machine's clock; afterwards it is right again."""
    yield lambda step: vm.sh(f"date -s @$(($(date +%s) + {step}))")
    vm.sh(f"date -s @{time.time()}")
    vm.ask_now()
    wait_for(lambda: lease(vm)["state"] == "authorized", 400, "a lease by the right clock", every=0.5)


def renewed(vm):
    """Asks for another lease and waits until it is there."""
    old = lease(vm)["renewed_at"]
    vm.ask_now()
    wait_for(lambda: lease(vm)["renewed_at"] != old, 400, "another lease", every=0.3)
    return lease(vm)


DAY = 86400
MOVED = ("tb-authorize", "tb-billing", "tb-hydrate", "tb-proxy", "tb-runtime")


@pytest.mark.parametrize("step,said", [(DAY, "compare the clocks"), (-DAY, "certificate")], ids=["ahead", "behind"])
def test_clock_steps_by_a_day(vm, clock, step, said):
    """By this clock each new lease has ended already, or the control plane's certificate is not valid yet: no answer, and the lease
    in force holds until its time, which no clock step moves."""
    before, ends = pids(vm, *MOVED), renewed(vm)["deadline_boottime_us"]
    clock(step)
    vm.ask_now()
    wait_for(lambda: vm.status().get("reason") == "control_plane_unreachable", 400, "/status to say so")
    now = lease(vm)
    assert now["state"] == "unreachable" and said in now["reason"]
    # expires_at has whole seconds: a renewal that was under way at the step may move the end by one
    assert abs(now["deadline_boottime_us"] - ends) < 60e6 < DAY * 1e6
    assert vm.chat(SHORT)[0] == 200 and vm.state() == "Ready"
    assert pids(vm, *MOVED) == before


def requests_by_hour(vm):
    """{hour: requests} of the ledger."""
    found = {}
    for row in json.loads(vm.sh("tb-billing ledger --json"))["used"]:
        if row["counter"] == "requests":
            found[row["hour"]] = row["quantity"]
    return found


def test_usage_keeps_its_hours_when_the_clock_steps(vm, clock):
    """Yesterday, tomorrow, over a restart of tb-billing and back: what was served now is booked now."""
    def hour():
        return time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime())

    wait_for(lambda: vm.status().get("state") == "Ready", 400, "Ready")
    began, before = hour(), requests_by_hour(vm)
    total, served = sum(before.values()), 0

    def serve(n):
        nonlocal served
        for _ in range(n):
            assert vm.chat(SHORT)[0] == 200
        served += n
        wait_for(lambda: sum(requests_by_hour(vm).values()) == total + served, 60, "the booking", every=0.5)

    serve(2)
    clock(-DAY)
    serve(3)
    wait_for(lambda: vm.journal("_SYSTEMD_UNIT=tb-billing.service", f"MESSAGE_ID={event('CLOCK_STEPPED')}"), 60, "a word about it", every=0.5)
    told = json.loads(vm.run("tb-status --json")[1])["problems"]
    assert any("clock of this machine" in p["what"] for p in told), told
    vm.sh("systemctl restart tb-billing.service")
    serve(2)
    clock(2 * DAY)
    vm.sh("systemctl stop tb-billing.service")
    clock(30 * DAY)
    vm.sh("systemctl start tb-billing.service")
    serve(3)
    after = requests_by_hour(vm)
    assert {h for h in after if after[h] != before.get(h, 0)} <= {began, hour()}, (before, after)
    assert json.loads(vm.sh("tb-billing ledger --json"))["clock_steps"]
