# SPDX-License-Identifier: Apache-2.0
"""Green means served: /health, /readiness, /status, the page, the metrics and tb-status agree with what a client gets, whatever is
broken; the cause stands in the reason."""

import http.server
import json
import os
import re
import socket
import subprocess
import threading

import pytest

from proxy_daemon import boottime_us, error_of, make, proxy  # noqa: F401
from tbsys import CA, program, tcp_listener, wait_for


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MiB, that can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place):
    with open(place / "filler", "wb", buffering=0) as f:
        try:
            while f.write(b"x" * 4096):
                pass
        except OSError:
            pass


def look(p):
    """What each place says at this moment, and what a client gets: (client's status, everything else)."""
    client = p.ask("POST", "/v1/x", b"{}")[0]
    ports = (p.port, p.health.getsockname()[1])
    metrics = p.ask_health("/metrics")[1].decode()
    docs = [json.loads(p.ask("GET", "/status", port=port)[1]) for port in ports]
    return client, {"health": [p.ask("GET", "/health", port=port)[0] for port in ports],
                    "readiness": [p.ask("GET", "/readiness", port=port)[0] for port in ports],
                    "ready": [d["ready"] for d in docs], "state": {d["state"] for d in docs}, "reason": {d["reason"] for d in docs},
                    "page": p.ask_health("/")[1].decode(),
                    "served": 'tb_state{state="Ready"} 1' in metrics.splitlines()}


def tb_status(p, *args, **more):
    env = {"TB_RUN_DIR": str(p.run), "TB_HEALTH_ADDR": "127.0.0.1:%d" % p.health.getsockname()[1],
           "TB_PUBLIC_ADDR": "127.0.0.1:%d" % p.port, "PATH": "/usr/bin:/bin",
           **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}, **more}
    there = p.daemon.inside.enters() if p.daemon.inside else []
    return subprocess.run([*there, program("tb-status"), *args], capture_output=True, text=True, env=env, timeout=30)


def agree_on_refusal(p, reason):
    client, seen = look(p)
    assert client == 503, seen
    assert seen["health"] == [503, 503] and seen["readiness"] == [503, 503] and seen["ready"] == [False, False], seen
    assert seen["state"] == {"Down"} and not seen["served"]
    [said] = seen["reason"]
    assert reason in said and "Down" in seen["page"] and reason in seen["page"]
    doc = json.loads((r := tb_status(p, "--json")).stdout)
    assert r.returncode == 3 and doc["ready"] is False and reason in doc["reason"], r.stdout
    assert len(doc["problems"]) == 1 and doc["problems"][0]["level"] == "critical" and doc["problems"][0]["remedy"], doc["problems"]
    check = tb_status(p, "--check")
    assert check.returncode == 2 and check.stdout.startswith("TRUSTBRIDGE CRITICAL: Down, ") and check.stdout.count("\n") == 1


def agree_on_service(p):
    client, seen = look(p)
    assert client == 200 and seen["health"] == [200, 200] and seen["readiness"] == [200, 200], seen
    assert seen["ready"] == [True, True] and seen["state"] == {"Ready"} and seen["served"]
    assert tb_status(p, "--json").returncode == 0
    check = tb_status(p, "--check")
    assert check.returncode == 0 and re.match(r"TRUSTBRIDGE OK: Ready, .* \| requests=\d+c .*free_(audit|journal)=\d+B;", check.stdout), check.stdout


def test_a_full_disk_under_the_audit(make, small_disk):  # noqa: F811
    p = make(TB_AUDIT_FILE=small_disk / "audit.jsonl").ready().start()
    agree_on_service(p)
    fill(small_disk)
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 503, what="the refusal")
    assert error_of(p.ask("GET", "/v1/x")) == (503, "audit_unavailable")
    agree_on_refusal(p, f"{small_disk / 'audit.jsonl'} cannot be written: No space left on device")
    assert "state: Ready -> Down" in p.daemon.log_text()
    (small_disk / "filler").unlink()
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 200, what="service again")
    agree_on_service(p)


def test_a_disk_that_is_full_before_the_first_request(make, small_disk):  # noqa: F811
    """Nothing is served whose record would find no room, and nobody says that it would be."""
    fill(small_disk)
    p = make(TB_AUDIT_FILE=small_disk / "audit.jsonl").ready().start(wait="Down")
    assert "no space is left for records" in p.status()["reason"]
    assert p.ask("POST", "/v1/x", b"{}")[0] == 503 and not p.backend.requests
    wait_for(lambda: "cannot be written" in p.status()["reason"], what="the refusal's own record to fail")
    agree_on_refusal(p, "cannot be written: No space left on device")
    (small_disk / "filler").unlink()
    p.wait_state("Ready")
    agree_on_service(p)


def test_a_full_disk_under_the_journal(make, small_disk, tmp_path):  # noqa: F811
    """Where records go to the journal alone: journald drops what it cannot store and tells nobody."""
    (tmp_path / "journal").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal/socket"))
        p = make(TB_AUDIT_FILE=None, JOURNAL_STREAM="1:1")
        p.daemon.argv = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /run && mkdir -p /run/systemd/journal /var/log/journal && "
                         f"mount --bind {tmp_path}/journal /run/systemd/journal && mount --bind {small_disk} /var/log/journal && "
                         f"exec {program('tb-proxy')}"]
        p.ready().start()
        agree_on_service(p)
        fill(small_disk)
        p.wait_state("Down")
        agree_on_refusal(p, "no space is left for the journal in /var/log/journal")
        (small_disk / "filler").unlink()
        p.wait_state("Ready")
        agree_on_service(p)


def test_an_audit_that_takes_nothing(make):  # noqa: F811
    p = make(TB_AUDIT_FILE="/dev/full").ready().start()
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 503, what="the refusal")
    agree_on_refusal(p, "/dev/full cannot be written: No space left on device")


def test_a_door_that_nobody_opens(proxy):  # noqa: F811
    """tb-proxy is well, but clients cannot connect: tb-status comes as one of them."""
    with tcp_listener() as s:
        closed = "127.0.0.1:%d" % s.getsockname()[1]
    agree_on_service(proxy)
    doc = json.loads((r := tb_status(proxy, "--json", TB_PUBLIC_ADDR=closed)).stdout)
    assert r.returncode == 3 and doc["state"] == "Down" and f"clients cannot connect to {closed}" in doc["reason"]
    assert len(doc["problems"]) == 1 and "systemctl start tb-proxy.socket" in doc["problems"][0]["remedy"]
    check = tb_status(proxy, "--check", TB_PUBLIC_ADDR=closed)
    assert check.returncode == 2 and f"clients cannot connect to {closed}" in check.stdout
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        r = tb_status(proxy, "--json", TB_PUBLIC_ADDR="127.0.0.1:%d" % other.server_port)
        other.shutdown()
    assert r.returncode == 3 and "is not tb-proxy" in json.loads(r.stdout)["reason"]


def test_a_door_with_tls(make, tmp_path):  # noqa: F811
    cert, key = CA(tmp_path / "ca").issue("proxy", days="20")
    p = make(TB_TLS_CERT=cert, TB_TLS_KEY=key).ready().start()
    r = tb_status(p, "--check")
    assert r.returncode == 0 and "cert_server=17" in r.stdout, r.stdout  # 1.7 million seconds
    r = tb_status(p, "--json", TB_HEALTH_ADDR="127.0.0.1:9")  # clients get in by TLS, those who watch do not at all
    assert r.returncode == 0 and json.loads(r.stdout)["state"] == "Ready"
    assert "the health port does not answer" in json.loads(r.stdout)["problems"][0]["what"]
    cert2, key2 = CA(tmp_path / "ca2").issue("proxy", days="3")
    for new, old in ((cert2, cert), (key2, key)):
        os.replace(new, old)
    r = wait_for(lambda: (r := tb_status(p, "--check")).returncode == 1 and r, what="the warning")
    assert f"the certificate of the public port {cert} expires in 2 d" in r.stdout


def test_low_disk_is_told_before_the_audit_stops(make, small_disk):  # noqa: F811
    p = make(TB_AUDIT_FILE=small_disk / "audit.jsonl").ready().start()
    agree_on_service(p)
    (small_disk / "filler").write_bytes(b"x" * 950000)  # of 1 MiB; a tenth of it is the least that is not low
    r = wait_for(lambda: (r := tb_status(p, "--check")).returncode == 1 and r, what="the warning")
    assert f"the disk of {small_disk} is getting full (" in r.stdout and "no request can be recorded" in r.stdout
    assert p.ask("POST", "/v1/x", b"{}")[0] == 200
    assert "is getting full" in " ".join(tb_status(p).stdout.split())


def test_readiness_and_the_page_say_what_goes_on(make):  # noqa: F811
    """Readiness means on the way: not when the way has come to an end."""
    p = make().ready()
    p.write("tb-runtime", "delivery.json", state="waiting", mode="dir")
    p.start(wait="Decrypt")
    status, body, _ = p.ask_health("/readiness")
    assert (status, body) == (200, b"Not ready: Decrypt: waiting")
    p.write("tb-decrypt", "progress.json", state="failed", bytes_done=3, bytes_total=9, reason="model.tbenc, record 7: not authentic")
    p.write("tb-runtime", "delivery.json", state="failed", mode="dir", reason="tb-decrypt: record 7: not authentic")
    status, body, _ = wait_for(lambda: (a := p.ask_health("/readiness"))[0] == 503 and a, what="the failure")
    assert body.startswith(b"Not ready: Decrypt: model.tbenc, record 7: not authentic")
    page = p.ask_health("/")[1].decode()
    assert "could not be decrypted or handed to the runtime" in page and "record 7: not authentic" in page
    assert p.status()["state"] == "Decrypt"
