# SPDX-License-Identifier: Apache-2.0
"""/metrics of tb-proxy: what Prometheus' own checker thinks of it, and that its numbers are right."""

import re
import subprocess
import time

from proxy_daemon import boottime_us, make, proxy  # noqa: F401
from tbsys import wait_for


def metrics(p):
    status, body, headers = p.ask_health("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return body.decode()


def value(text, name):
    m = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(m[1]) if m else None


def check(text):
    r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert r.returncode == 0 and not r.stdout + r.stderr, r.stdout + r.stderr


def test_promtool_finds_nothing_in_any_state(make):  # noqa: F811
    p = make().start(wait="Boot")
    check(metrics(p))
    p.ready().wait_state("Ready")
    p.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=boottime_us() + 3600 * 10**6, renewed_at="2026-01-01T00:00:00Z")
    p.write("tb-authorize", "control-plane.json", reachable=False, reason="x", failures=3, asked_at="2026-01-01T00:00:00Z",
            asked_boottime_us=1, date="2026-01-01T00:00:00Z", date_boottime_us=boottime_us(),
            client_cert={"path": "/c", "not_before": "2026-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"},
            ca={"path": "/ca", "error": "holds nothing"})
    p.write("tb-billing", "report.json", at_boottime_us=boottime_us() - 90 * 10**6, at="2026-01-08T12:00:00Z", late_seconds=7200,
            events={"open": 1, "frozen": 2, "sent": 3, "accepted": 4, "parked": 5})
    p.ask("GET", "/v1/x")
    p.ask("GET", "/admin")
    known = ("tb_lease_remaining_seconds", "tb_control_plane_reachable", "tb_billing_lag_seconds")
    text = wait_for(lambda: (t := metrics(p)) and all(value(t, name) is not None for name in known) and t,
                    what="lease, control plane and ledger in the metrics")
    check(text)
    assert 3000 < value(text, "tb_lease_remaining_seconds") <= 3600
    now = time.time()
    assert value(text, "tb_lease_expiry_timestamp_seconds") == 1893456000 and value(text, "tb_lease_renewed_timestamp_seconds") == 1767225600
    assert 3000 < value(text, "tb_lease_grace_end_timestamp_seconds") - now < 3700
    assert value(text, "tb_control_plane_reachable") == 0 and value(text, "tb_control_plane_failures") == 3
    assert abs(value(text, "tb_clock_offset_seconds") - (now - 1767225600)) < 60
    assert value(text, 'tb_certificate_usable{certificate="client"}') == 1 and value(text, 'tb_certificate_usable{certificate="ca"}') == 0
    assert value(text, 'tb_certificate_expiry_timestamp_seconds{certificate="client"}') == 1798761600
    assert 90 <= value(text, "tb_ledger_age_seconds") < 150
    assert {m for m in re.findall(r'^tb_disk_free_bytes\{place="(\w+)"\} \d+$', text, re.M)} >= {"audit", "state", "run", "ciphertext"}
    assert value(text, "tb_billing_lag_seconds") == 7200 and value(text, 'tb_billing_events{state="parked"}') == 5
    p.write("tb-authorize", "suspended", reason="contract_revoked")
    p.wait_state("Suspended")
    check(metrics(p))


def test_every_family_is_described_once_and_bounded(proxy):  # noqa: F811
    for i in range(50):
        proxy.ask("GET", f"/v1/{i}?q={i}", headers={"X-Request-Id": f"id-{i}"})
    text = metrics(proxy)
    described = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(described) == len(set(described)) and sorted(described) == sorted(re.findall(r"^# HELP (\S+) \S", text, re.M))
    for line in text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"\})? -?[0-9.]+', line), line
            assert re.sub(r"_(bucket|sum|count)$", "", re.match(r"[a-z_]+", line)[0]) in described, line
    assert len(text.splitlines()) < 250
    assert value(text, 'tb_requests_total{code="200"}') == 50 and value(text, "tb_request_duration_seconds_count") == 50


def test_numbers(proxy):  # noqa: F811
    for _ in range(3):
        proxy.ask("POST", "/v1/x", b"abc")
    proxy.ask("GET", "/admin")
    proxy.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").close()
    text = wait_for(lambda: (t := metrics(proxy)) and value(t, "tb_audit_records_total") == 5 and t, what="five audit records")
    assert [value(text, f'tb_requests_total{{code="{c}"}}') for c in (200, 404, 499, 500)] == [3, 1, 1, None]
    assert value(text, 'tb_usage_total{dimension="requests"}') == 3 and value(text, 'tb_usage_total{dimension="bytes_in"}') == 12
    assert value(text, "tb_request_duration_seconds_count") == value(text, 'tb_request_duration_seconds_bucket{le="+Inf"}') == 5
    assert value(text, "tb_requests_in_flight") == 0 and value(text, "tb_audit_last_seq") == 5
    assert value(text, "tb_audit_queue_records") == 0 < value(text, "tb_audit_queue_limit_records")
    assert value(text, 'tb_state{state="Ready"}') == 1 and value(text, 'tb_state{state="Boot"}') == 0
    assert value(text, "process_start_time_seconds") > 1.7e9 and value(text, "process_peak_resident_memory_bytes") > 1e6
    wait_for(lambda: value(metrics(proxy), "tb_audit_unsynced_records") == 0, what="the records to be synced")


def test_audit_that_cannot_be_written_shows(make):  # noqa: F811
    p = make(TB_AUDIT_FILE="/dev/full").ready().start()
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 503, what="refusal")
    text = metrics(p)
    assert value(text, "tb_audit_broken") == 1 and value(text, "tb_audit_refused_total") >= 1
    assert value(text, "tb_audit_queue_records") >= 2
