# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboard: promtool finds nothing wrong with them, each metric they name is exported, and each condition, injected
into real daemons, fires its alerts and no others."""

import datetime
import email.utils
import hashlib
import http.client
import json
import os
import pathlib
import re
import ssl
import subprocess
import threading
import time

import pytest
import yaml

from authorize_world import Plane, denied, grant, sent
from fake_systemd import FakeSystemd
from proxy_daemon import Proxy, make  # noqa: F401
from tbsys import CA, BootClock, Daemon, program, unix_listener, wait_for
from test_green import fill, small_disk, tb_status  # noqa: F401

REPO = pathlib.Path(__file__).resolve().parents[2]
RULES = REPO / "units/monitoring/trustbridge.rules.yml"
DASHBOARD = json.loads((REPO / "units/monitoring/trustbridge.dashboard.json").read_text())
UNITS = ("tb-authorize.service", "tb-billing.service", "tb-proxy.service", "tb-keys.socket", "tb-proxy.socket", "tb-proxy-health.socket")


def promtool(*args, **kw):
    return subprocess.run(["promtool", *args], capture_output=True, text=True, **kw)


def test_the_rules_are_valid_and_their_own_tests_pass():
    r = promtool("check", "rules", RULES)
    assert r.returncode == 0, r.stdout + r.stderr
    r = promtool("test", "rules", REPO / "tests/integration/monitoring_rules.yml")
    assert r.returncode == 0, r.stdout + r.stderr
    tested = (REPO / "tests/integration/monitoring_rules.yml").read_text()
    for rule in rules():
        assert rule["alert"] in tested, f"{rule['alert']} has no test"
        assert rule["labels"]["severity"] in ("warning", "critical") and set(rule["annotations"]) == {"summary", "description"}


def rules():
    return yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


def names_in(expr):
    expr = re.sub(r'"[^"]*"', '""', expr)
    return {n for n in re.findall(r"\b(tb_[a-z_]+)\b", expr)}


def fetch(p):
    status, body, _ = p.ask_health("/metrics")
    assert status == 200
    return body.decode()


def samples(text):
    return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text, re.M)}


def firing(before, after=None, minutes=25):
    """The alerts that fire when a machine has had these metrics for so long, or has come from the first to the second."""
    now, first, last = time.time(), samples(before), samples(after or before)
    series = [{"series": 'up{job="trustbridge",instance="m"}', "values": f"1+0x{minutes * 2}"}]
    for name, value in last.items():
        start = first.get(name, value)
        shift = now if "_timestamp_seconds" in name else 0  # promtool's clock begins at 0
        label, _, rest = name.partition("{")
        series.append({"series": f'{label}{{job="trustbridge",instance="m"{"," + rest if rest else "}"}',
                       "values": f"{start - shift:.3f}{(value - start) / (minutes * 2):+.6f}x{minutes * 2}"})
    # promtool says what there is only by saying that it is not what was expected.
    doc = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [{
        "interval": "30s", "input_series": series, "promql_expr_test": [{
            "expr": 'group by (alertname) (ALERTS{alertstate="firing"})', "eval_time": f"{minutes}m",
            "exp_samples": [{"labels": '{alertname="none"}', "value": 1}]}]}]}
    path = pathlib.Path(os.environ.get("PYTEST_TMPDIR", "/tmp")) / f"tb-alerts-{os.getpid()}.yml"
    path.write_text(yaml.safe_dump(doc))
    try:
        r = promtool("test", "rules", path)
    finally:
        path.unlink()
    assert r.returncode == 1 and "got:" in r.stdout + r.stderr, r.stdout + r.stderr
    got = (r.stdout + r.stderr).split("got:")[1]
    return set(re.findall(r'alertname="(\w+)"', got))


class Machine:
    """tb-proxy with a runtime, tb-authorize with a control plane, and systemd's word about the units: real but for the three."""

    def __init__(self, tmp, **env):
        self.tmp = tmp
        self.systemd = FakeSystemd(tmp)
        self.systemd.units = {n: {} for n in UNITS}
        self.ca = CA(tmp / "ca")
        self.server = self.ca.issue("proxy", days="60")
        self.client = self.ca.issue("client", days="60")
        self.date_ahead = 0
        self.granted = {}
        self.plane = Plane(lambda n: self._grant, self.ca.issue("plane"), self.ca.cert).up()
        self.clock = BootClock(3600)
        self.proxy = Proxy(tmp, TB_TLS_CERT=self.server[0], TB_TLS_KEY=self.server[1], DBUS_SYSTEM_BUS_ADDRESS=self.systemd.address,
                           INVOCATION_ID="1", **env)
        self.proxy.daemon.inside = self.clock
        self.keys = unix_listener(tmp / "keys.sock")
        self.authorize = Daemon([program("tb-authorize")], inside=self.clock, listen={"keys": self.keys}, runtime_dir=tmp / "run/tb-authorize",
                                state_dir=tmp / "state/tb-authorize", log=tmp / "authorize.log", credentials={"product-uuid": b"4c4c4544-0000-2010-8020-80c04f202020"},
                                env={"TB_CONTRACT_ID": "contract-1", "TB_ASSET_ID": "asset-1", "TB_EDC_ENDPOINT": self.plane.url,
                                     "TB_CA_FILE": self.ca.cert, "TB_CLIENT_CERT_PATH": self.client[0], "TB_CLIENT_KEY_PATH": self.client[1],
                                     "TB_RUN_DIR": tmp / "run", "TB_STATE_DIR": tmp / "state"})

    def _grant(self, handler):
        status, _, body = sent(self.answer)
        handler.send_response_only(status)
        handler.send_header("Date", email.utils.formatdate(time.time() - self.date_ahead, usegmt=True))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    answer = grant()

    def start(self):
        self.answer = grant(lease=36000)
        (self.tmp / "run/tb-authorize").mkdir(parents=True)
        self.authorize.start().wait_notify("READY", "1")
        self.billed()
        self.model()
        self.proxy.start()
        wait_for(lambda: "tb_unit_active" in fetch(self.proxy), what="the units")
        return self

    def model(self, hydrate=None, decrypt=None, delivery=None):
        """A view of a model that came from a mirror, and what is another way."""
        for who, name, doc in (("tb-hydrate", "progress.json", {"state": "complete", "bytes_done": 10, "bytes_total": 10, "mirror": "used",
                                                                "mirror_bytes": 8, "storage_bytes": 2, **(hydrate or {})}),
                               ("tb-decrypt", "progress.json", {"state": "complete", "bytes_done": 9, "bytes_total": 9, "read_bytes": 9,
                                                                "served_bytes": 12, "cached_bytes": 4, "cache_bytes": 6,
                                                                "started_boottime_us": self.clock.now_us(), **(decrypt or {})}),
                               ("tb-runtime", "delivery.json", {"state": "streaming", "mode": "view", **(delivery or {})})):
            self.proxy.write(who, name, **doc)

    def billed(self, age_s=1, late_s=0):
        self.proxy.write("tb-billing", "report.json", at="2026-01-08T12:00:00Z", at_boottime_us=self.clock.now_us() - age_s * 10**6,
                         late_seconds=late_s, events={"open": 0, "frozen": 0, "sent": 0, "accepted": 0, "parked": 0})

    def ask_control_plane(self):
        self.authorize.kill(1)

    def stop(self):
        self.authorize.stop()
        self.proxy.stop()
        self.plane.down()
        self.keys.close()
        self.systemd.close()
        self.clock.close()

    def wait_value(self, name, want, timeout=60):
        return wait_for(lambda: want((t := samples(fetch(self.proxy))).get(name)) and t or None, timeout, name)


@pytest.fixture
def machine(tmp_path):
    made = []

    def build(**env):
        made.append(Machine(tmp_path, **env))
        return made[-1].start()
    yield build
    for m in made:
        m.stop()


MOVING = ("tb_step_left_seconds", "tb_mirror_used")  # exported while a download moves


def test_a_machine_that_is_well_raises_no_alert_and_exports_all(machine):
    m = machine()
    text = fetch(m.proxy)
    r = promtool("check", "metrics", input=text)
    assert r.returncode == 0 and not r.stdout + r.stderr, r.stdout + r.stderr
    described = set(re.findall(r"^# TYPE (\S+)", text, re.M)) & set(re.findall(r"^# HELP (\S+) \S", text, re.M))
    exported = {re.match(r"[a-z_]+", line)[0] for line in text.splitlines() if line[:1] != "#"}
    wanted = set().union(*(names_in(r["expr"]) for r in rules()))
    drawn = set().union(*(names_in(t["expr"]) for p in DASHBOARD["panels"] for t in p["targets"]))
    assert len(wanted) > 15 and len(drawn) > 15
    for name in wanted | drawn:
        assert name in exported or name in ("tb_requests_total", "tb_api_keys_usable", *MOVING), f"{name} is not exported"
        assert name in ("tb_api_keys_usable", *MOVING) or re.sub(r"_(bucket|sum|count)$", "", name) in described, f"{name} has no HELP and TYPE"
    for variable in DASHBOARD["templating"]["list"]:
        assert names_in(json.dumps(variable.get("definition", ""))) <= exported
    assert firing(text) == set()
    m.authorize.stop()  # a restart of tb-authorize is no reason for an alarm
    m.authorize.start().wait_notify("READY", "1")
    assert firing(fetch(m.proxy)) == set()


def test_the_control_plane_is_away(machine):
    m = machine()
    m.plane.down()
    m.wait_value("tb_control_plane_reachable", lambda v: v == 0)
    assert firing(fetch(m.proxy)) == {"TrustBridgeControlPlaneUnreachable"}
    assert tb_status(m.proxy, "--check").returncode == 1


def test_a_suspension(machine):
    m = machine()
    m.answer = denied("contract_revoked")
    m.ask_control_plane()
    m.proxy.wait_state("Suspended")
    assert firing(fetch(m.proxy)) == {"TrustBridgeSuspended", "TrustBridgeNotServing"}
    r = tb_status(m.proxy, "--check")
    assert r.returncode == 2 and "contract_revoked" in r.stdout


@pytest.mark.parametrize("ahead", [86400, -3600])
def test_a_wrong_clock(machine, ahead):
    """As the control plane's Date tells it."""
    m = machine()
    m.date_ahead = ahead
    m.answer = grant(lease=86400 * 3)
    m.ask_control_plane()
    m.wait_value("tb_clock_offset_seconds", lambda v: v is not None and abs(v - ahead) < 60)
    assert firing(fetch(m.proxy)) == {"TrustBridgeClockWrong"}
    r = tb_status(m.proxy, "--check")
    assert r.returncode == 1 and "the clock of this machine is" in r.stdout and "date -u -s 20" in r.stdout


@pytest.mark.parametrize("which, days, alert, code", [("server", 3, "TrustBridgeCertificateExpires", 1),
                                                      ("client", 3, "TrustBridgeCertificateExpires", 1),
                                                      ("client", -1, "TrustBridgeCertificateInvalid", 2)])
def test_certificates(machine, which, days, alert, code):
    m = machine()
    files = m.server if which == "server" else m.client
    if days > 0:
        new = m.ca.issue(f"new-{which}", days=str(days))
    else:
        new = expired(m.ca)
    for src, dst in zip(new, files):
        os.replace(src, dst)
    if which == "client":
        m.ask_control_plane()
    end = time.time() + max(days, 0) * 86400
    m.wait_value(f'tb_certificate_expiry_timestamp_seconds{{certificate="{which}"}}', lambda v: v is not None and v <= end + 60)
    fired = firing(fetch(m.proxy))
    assert alert in fired and fired <= {alert, "TrustBridgeControlPlaneUnreachable"}
    r = tb_status(m.proxy, "--check")
    assert r.returncode == code and files[0] in r.stdout, r.stdout


def expired(ca):
    cert, key = ca.issue("old")
    start, end = (datetime.datetime.utcnow() - datetime.timedelta(days=d) for d in (9, 1))
    (ca.dir / "index").write_text("")
    (ca.dir / "serial").write_text("7001\n")
    (ca.dir / "conf").write_text(f"[ca]\ndefault_ca=d\n[d]\ndatabase={ca.dir}/index\nserial={ca.dir}/serial\nnew_certs_dir={ca.dir}\n"
                                 "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
    ca._openssl("ca", "-batch", "-config", ca.dir / "conf", "-cert", ca.cert, "-keyfile", ca.key, "-in", ca.dir / "old.csr", "-out", cert,
                "-notext", "-startdate", start.strftime("%Y%m%d%H%M%SZ"), "-enddate", end.strftime("%Y%m%d%H%M%SZ"))
    return cert, key


def test_a_client_certificate_that_does_not_parse(machine):
    m = machine()
    pathlib.Path(m.client[0]).write_text("nonsense")
    m.ask_control_plane()
    m.wait_value('tb_certificate_usable{certificate="client"}', lambda v: v == 0)
    assert firing(fetch(m.proxy)) == {"TrustBridgeCertificateInvalid", "TrustBridgeControlPlaneUnreachable"}
    r = tb_status(m.proxy, "--json")
    [problem] = json.loads(r.stdout)["problems"]
    assert m.client[0] in problem["what"] and "systemctl restart tb-authorize.service" in problem["remedy"]


def test_disks(machine, small_disk):  # noqa: F811
    m = machine(TB_AUDIT_FILE=small_disk / "audit.jsonl")
    assert firing(fetch(m.proxy)) == set()
    (small_disk / "filler").write_bytes(b"x" * 950000)
    m.wait_value('tb_disk_free_bytes{place="audit"}', lambda v: v < 100000)
    assert firing(fetch(m.proxy)) == {"TrustBridgeDiskLow"}
    fill(small_disk)
    m.proxy.wait_state("Down")
    m.wait_value('tb_disk_free_bytes{place="audit"}', lambda v: v < 65536)
    assert firing(fetch(m.proxy)) == {"TrustBridgeDiskLow", "TrustBridgeDiskFull", "TrustBridgeDown", "TrustBridgeAuditBroken",
                                      "TrustBridgeNotServing"}
    [problem] = json.loads(tb_status(m.proxy, "--json").stdout)["problems"]
    assert f"the disk of {small_disk} is full" in problem["what"]


def test_the_runtime_is_down_and_decryption_fails(machine):
    m = machine()
    m.proxy.backend.healthy = False
    m.proxy.wait_state("Decrypt")
    assert firing(fetch(m.proxy)) == {"TrustBridgeNotServing"}
    m.proxy.write("tb-decrypt", "progress.json", state="failed", bytes_done=3, bytes_total=9, reason="record 7: not authentic")
    m.proxy.write("tb-runtime", "delivery.json", state="failed", mode="dir", reason="tb-decrypt: not authentic")
    m.wait_value("tb_step_failed", lambda v: v == 1)
    assert firing(fetch(m.proxy)) == {"TrustBridgeNotServing", "TrustBridgeStepFailed"}
    [problem] = json.loads(tb_status(m.proxy, "--json").stdout)["problems"]
    assert problem["what"] == "tb-decrypt.service: record 7: not authentic"


def downloading(clock, mirror, rate=3):
    return {"state": "downloading", "bytes_done": 4, "bytes_total": 1000, "bytes_per_second": rate, "mirror": mirror, "mirror_bytes": 3,
            "storage_bytes": 1, "started_boottime_us": clock.now_us(), "written_boottime_us": clock.now_us() + 10**12}


def test_a_download_by_a_mirror(machine):
    m = machine()
    for mirror, rate, alerts in (("used", 3, set()), ("fails", 3, {"TrustBridgeMirrorUnused"}), ("distrusted", 3, {"TrustBridgeMirrorUnused"}),
                                 ("used", 0, {"TrustBridgeDownloadStands"})):
        m.model(hydrate=downloading(m.clock, mirror, rate), decrypt={"state": "serving", "bytes_done": 2, "bytes_total": 900})
        m.proxy.wait_state("Hydrate")
        seen = m.wait_value('tb_step_bytes_per_second{step="hydrate"}', lambda v: v == rate)
        seen = m.wait_value("tb_mirror_used", lambda v: v == (mirror == "used"))
        text = fetch(m.proxy)
        assert ('tb_step_left_seconds{step="hydrate"}' in seen) == (rate > 0)
        assert (seen['tb_download_source_bytes{source="mirror"}'], seen['tb_download_source_bytes{source="storage"}']) == (3, 1)
        r = promtool("check", "metrics", input=text)
        assert r.returncode == 0 and not r.stdout + r.stderr, r.stdout + r.stderr
        assert firing(text) == alerts | {"TrustBridgeNotServing"}


def test_damaged_records_and_a_runtime_that_reads_over_and_over(machine):
    m = machine()
    before = fetch(m.proxy)
    repairs = {"waiting": 1, "fetched": 20, "records": [{"file": "model", "chunk": 3, "tries": 1, "state": "waiting"}]}
    m.model(decrypt={"repairs": repairs})
    m.wait_value("tb_records_waiting", lambda v: v == 1)
    assert firing(before, fetch(m.proxy)) == {"TrustBridgeRecordsWaiting", "TrustBridgeRecordsDamaged"}
    m.model(decrypt={"served_bytes": 9 * 200})
    m.wait_value("tb_model_served_bytes_total", lambda v: v == 9 * 200)
    assert firing(before, fetch(m.proxy), minutes=40) == {"TrustBridgeModelReadAgain"}


def test_a_runtime_that_hangs_with_a_healthy_face(machine):
    m = machine()
    over = threading.Event()

    def hang(conn, rq):
        over.wait(60)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    m.proxy.backend.routes["/v1/hang"] = hang
    client = threading.Thread(target=ask_tls, args=(m.proxy, "/v1/hang"))
    client.start()
    m.wait_value("tb_runtime_silent_seconds", lambda v: v >= 2)
    assert m.proxy.status()["runtime_silent_seconds"] >= 2
    over.set()
    client.join()
    m.wait_value("tb_runtime_silent_seconds", lambda v: v == 0)


def test_a_pair_of_the_public_port_that_does_not_fit(machine):
    """The old one serves on, but the next start would fail: said before that."""
    m = machine()
    good = pathlib.Path(m.server[1]).read_bytes()
    pathlib.Path(m.server[1]).write_bytes(pathlib.Path(m.client[1]).read_bytes())
    m.wait_value('tb_certificate_usable{certificate="server"}', lambda v: v == 0)
    assert firing(fetch(m.proxy)) == {"TrustBridgeCertificateInvalid"} and ask_tls(m.proxy, "/v1/x") == 200
    [problem] = json.loads(tb_status(m.proxy, "--json").stdout)["problems"]
    assert f"does not go with the key in {m.server[1]}"[:60] in problem["what"] and "cannot start again" in problem["what"], problem
    for path, text in ((m.server[1], "has no key: "), (m.server[0], "holds no certificate")):  # what does not parse
        kept = good if path == m.server[1] else pathlib.Path(path).read_bytes()
        pathlib.Path(path).write_text("junk\n")
        wait_for(lambda: text in (r := tb_status(m.proxy, "--check")).stdout and r.returncode == 2, 60, f"junk in {path}")
        assert samples(fetch(m.proxy))['tb_certificate_usable{certificate="server"}'] == 0
        pathlib.Path(path).write_bytes(kept)
        m.wait_value('tb_certificate_usable{certificate="server"}', lambda v: v == 1)
    assert tb_status(m.proxy, "--check").returncode == 0


def test_a_state_on_a_read_only_disk(machine):
    """Over it, as what is open for writing cannot be made so from outside."""
    m = machine()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", m.tmp / "state"], check=True)
    try:
        m.wait_value('tb_disk_read_only{place="state"}', lambda v: v == 1)
        assert "TrustBridgeDiskReadOnly" in firing(fetch(m.proxy))
        r = tb_status(m.proxy, "--check")
        assert r.returncode == 2 and f"the file system of {m.tmp / 'state'} is read-only" in r.stdout and "remount,rw" in r.stdout, r.stdout
    finally:
        subprocess.run(["umount", "-l", m.tmp / "state"], check=True)
    m.wait_value('tb_disk_read_only{place="state"}', lambda v: v == 0)
    wait_for(lambda: tb_status(m.proxy, "--check").returncode == 0, 60, "all well")


def test_api_keys_that_cannot_be_used(machine, tmp_path):
    """Those of before let their clients in, also over a restart; the file that is right again comes into force by itself."""
    keys, right = tmp_path / "api-keys", f"team:{hashlib.sha256(b'of the team').hexdigest()}\n"
    keys.write_text(right)
    m = machine(TB_API_KEYS=keys)
    assert samples(fetch(m.proxy))["tb_api_keys_usable"] == 1
    for restart in (False, True):
        keys.write_text(right + "no key at all\n")
        if restart:
            assert m.proxy.daemon.stop() == 0
            m.proxy.start()
            assert "the keys of before this restart stay in force" in m.proxy.daemon.log_text()
        m.wait_value("tb_api_keys_usable", lambda v: v == 0)
        assert "TrustBridgeApiKeysInvalid" in firing(fetch(m.proxy))
        r = tb_status(m.proxy, "--check")
        assert r.returncode == 2 and "the API keys (TB_API_KEYS) cannot be used: line 2" in r.stdout, r.stdout
        assert ask_tls(m.proxy, "/v1/x", "of the team") == 200 and ask_tls(m.proxy, "/v1/x", "of another") == 401
        keys.write_text(right)
        m.wait_value("tb_api_keys_usable", lambda v: v == 1)


def test_usage_that_is_not_booked_or_not_accepted(machine):
    m = machine()
    m.billed(age_s=1200, late_s=7 * 3600)
    assert firing(fetch(m.proxy)) == {"TrustBridgeLedgerOld", "TrustBridgeBillingLate"}
    r = tb_status(m.proxy, "--check")
    assert r.returncode == 1 and "usage has not been booked for 20 min" in r.stdout


def ask_tls(p, path, key=None):
    c = http.client.HTTPSConnection("127.0.0.1", p.port, timeout=20, context=ssl._create_unverified_context())
    c.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
    status = c.getresponse().status
    c.close()
    return status


def test_units_that_die_and_requests_that_fail(machine):
    m = machine()
    m.proxy.backend.routes["/v1/bad"] = lambda conn, rq: conn.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    m.systemd.units["tb-runtime.service"] = {"restarts": 9}
    m.systemd.units["tb-proxy.socket"] = {"active": "inactive", "sub": "dead"}
    m.wait_value('tb_unit_active{unit="tb-proxy.socket"}', lambda v: v == 0)
    assert firing('tb_unit_restarts_total{unit="tb-runtime.service"} 0\n', fetch(m.proxy), 20) == {"TrustBridgeUnitDown", "TrustBridgeUnitRestarts"}
    m.systemd.units["tb-proxy.socket"] = {}
    for _ in range(20):
        ask_tls(m.proxy, "/v1/bad")
    m.wait_value('tb_requests_total{code="500"}', lambda v: v == 20)
    m.wait_value('tb_unit_active{unit="tb-proxy.socket"}', lambda v: v == 1)
    assert firing('tb_requests_total{code="500"} 0\n', fetch(m.proxy)) == {"TrustBridgeRequestsFail"}
