# SPDX-License-Identifier: Apache-2.0
"""tb-proxy's books: one audit record for each request, rotation, counts that survive SIGKILL, no service without a record."""

import hashlib
import http.client
import os
import signal
import threading

from proxy_daemon import error_of, make, proxy, read_all, usage  # noqa: F401
from tbsys import wait_for


def test_audit_that_cannot_be_written_refuses_requests(make):
    p = make(TB_AUDIT_FILE="/dev/full").ready().start()
    answer = wait_for(lambda: (a := p.ask("GET", "/v1/x"))[0] == 503 and a, what="refusal")
    assert error_of(answer) == (503, "audit_unavailable")
    wait_for(lambda: p.ask("GET", "/health")[0] == 503, what="a probe to see it too")
    assert "audit: cannot write" in p.daemon.log_text()
    assert p.daemon.stop(timeout=20) == 0


def test_audit_has_one_record_for_each_request(proxy):
    def work(k):
        c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        for i in range(50):
            c.request("POST", "/v1/x" if i % 5 else "/refused", b"%d" % (k * 1000 + i))
            c.getresponse().read()
        c.close()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    records = proxy.wait_records(400)
    assert {r["req_sha256"] for r in records} == {hashlib.sha256(b"%d" % (k * 1000 + i)).hexdigest()
                                                  for k in range(8) for i in range(50)}
    assert len({r["request_id"] for r in records}) == 400
    assert sum(r["status"] == 404 for r in records) == 80
    assert proxy.status()["requests_processed"] == 320
    assert (os.stat(proxy.audit_file).st_mode & 0o777) == 0o640


def test_malformed_head_is_audited(proxy):
    with proxy.raw(b"GET /v1/x HTTP/1.1\r\nno colon here\r\n\r\n") as s:
        assert read_all(s).startswith(b"HTTP/1.1 400")
    [record] = proxy.wait_records(1)
    assert record["status"] == 400


def test_rotation_on_hangup(proxy):
    proxy.ask("GET", "/v1/a")
    proxy.wait_records(1)
    old = proxy.audit_file.with_suffix(".1")
    proxy.audit_file.rename(old)
    os.kill(proxy.daemon.pid, signal.SIGHUP)
    wait_for(proxy.audit_file.exists, what="a new file")
    proxy.ask("GET", "/v1/b")
    wait_for(proxy.records, what="a record in the new file")
    assert proxy.records()[0]["seq"] == 2 and len(old.read_text().splitlines()) == 1


def test_sigkill_loses_no_count_and_no_sequence(proxy):
    for i in range(10):
        proxy.ask("POST", "/v1/x", b"abc")
    proxy.wait_records(10)
    before = usage(proxy)
    assert before["requests"] == 10 and before["bytes_in"] == 30 and before["bytes_out"] == 660
    proxy.daemon.kill()
    proxy.daemon.wait()
    proxy.start()
    assert usage(proxy) == before
    proxy.ask("POST", "/v1/x", b"abc")
    assert usage(proxy)["requests"] == 11
    assert proxy.wait_records(11)[-1]["seq"] == 11
