# SPDX-License-Identifier: Apache-2.0
"""What tb-authorize makes of the control plane's answers and of none: the lease, its grace and its end, suspensions that survive
SIGKILL, and when it asks again."""

import concurrent.futures
import hashlib
import hmac
import json
import threading
import time

import pytest

from authorize_world import DECRYPT, HYDRATE, KEY, Plane, World, ca, denied, grant, slow_loris, world  # noqa: F401
from tbsys import read_json, wait_for

BESIDE = {
    "loris": lambda n: slow_loris,
    "denied, then allowed": lambda n: denied("subscription_inactive") if n == 1 else grant(),
    "two failures": lambda n: (500, {}, b"") if n < 3 else grant(),
    "retry-after": lambda n: (429, {"Retry-After": "4"}, b"") if n == 1 else grant(),
}


@pytest.fixture(scope="module", autouse=True)
def beside(tmp_path_factory, ca):
    """Worlds whose tests take time run beside all the others; they are looked at last."""
    worlds = {name: World(tmp_path_factory.mktemp("beside"), ca, Plane(answer, ca.server).up()).start()
              for name, answer in BESIDE.items()}
    yield worlds
    for w in worlds.values():
        w.stop()


def test_denied_at_boot_suspends(world):
    w = world(denied("subscription_inactive")).ready()
    assert w.wait_state("denied")["reason"] == "subscription_inactive"
    assert w.flags() == (True, True)
    assert read_json(w.run / "suspended")["reason"] == "subscription_inactive"
    assert w.key() == b"" and w.fetch(HYDRATE, "sas-url") == b""
    assert f"refused model-key to {DECRYPT}: subscription_inactive" in w.log()
    assert w.daemon.notified("STATUS").startswith("Suspended: subscription_inactive")


def test_revoked_while_serving_then_allowed_again(world):
    w = world(grant(lease=3)).ready()
    assert w.key() == bytes.fromhex(KEY)
    w.plane.answer = 403, {}, b'{"status":"denied","reason":"contract_inactive"}'
    w.wait_state("denied", 5)
    assert w.flags() == (True, True) and w.key() == b""
    w.plane.answer = grant()
    w.ask_now()
    w.wait_state("authorized")
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_the_end_of_the_marketplace_subscription_denies_whatever_the_control_plane_says(world):
    w = world(grant(lease=3)).ready()
    assert w.key() == bytes.fromhex(KEY)
    ended = w.dir / "s/tb-billing/ended"
    ended.parent.mkdir(parents=True)
    ended.write_text('{"reason": "ResourceNotActive"}')
    reason = w.wait_state("denied", 10)["reason"]
    assert reason == "the marketplace says that the subscription has ended: ResourceNotActive"
    assert w.flags() == (True, True) and w.key() == b""
    w.daemon.kill()
    w.plane.down()
    (w.run / "lease.json").unlink()
    w.start()
    w.wait_state("denied")
    w.plane.up()
    ended.unlink()
    w.ask_now()
    w.ready().wait_state("authorized", 120)  # past the pause behind a try that failed while the machine was busy
    wait_for(lambda: w.flags() == (False, False), 20, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_whoever_sees_the_lease_may_send_a_signal(world):
    """The file is there before the answer; SIGHUP at that moment asks again, and ends nothing."""
    w = world(denied("subscription_inactive"), start=False)
    lease = w.run / "lease.json"
    for _ in range(20):
        lease.unlink(missing_ok=True)
        w.start()
        while w.daemon.running() and not lease.exists():
            pass
        w.ask_now()
        wait_for(lambda: w.daemon.rc is not None or "SIGHUP: asking" in w.log(), 20, "the signal to be taken")
        assert w.daemon.rc is None
        w.daemon.kill()
        (w.dir / "log").unlink()


def test_renewals_carry_the_usage_report(world):
    w = world(lambda n: grant(lease=3))
    report = w.dir / "r/tb-billing/report.json"
    report.parent.mkdir(parents=True)
    report.write_text('{"at": "2026-01-02T00:00:00Z",\n "used": {"requests": 5}}\n')
    w.ready()
    wait_for(lambda: len(w.plane.requests) > 1, 10, "a renewal")
    first, second = (body for _, _, _, body in w.plane.requests[:2])
    assert "usage_report" not in first  # no key to sign it with yet
    assert second["usage_report"] == report.read_text()
    key = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
    assert second["usage_hmac"] == hmac.new(key, report.read_bytes(), hashlib.sha256).hexdigest()
    report.write_text("x" * 9000)
    n = len(w.plane.requests)
    wait_for(lambda: len(w.plane.requests) > n + 1, 10, "renewals without one")
    assert "usage_report" not in w.plane.requests[-1][3] and w.lease()["state"] == "authorized"


def test_what_was_served_before_a_refusal_is_told_after_it(world):
    """The last lease of a contract is paid, too: reports go on when the key is gone."""
    answers = [grant(lease=3600), denied("contract_revoked")]
    w = world(lambda n: answers[0])
    report = w.dir / "r/tb-billing/report.json"
    report.parent.mkdir(parents=True)
    w.ready()
    report.write_text('{"at": "2026-01-02T00:00:00Z", "used": {"requests": 7}}')
    answers.pop(0)
    n = len(w.plane.requests)
    w.ask_now()
    w.wait_state("denied")
    report.write_text('{"at": "2026-01-02T00:01:00Z", "used": {"requests": 9}}')
    w.ask_now()
    wait_for(lambda: len(w.plane.requests) > n + 1, 10, "another request")
    key = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
    for (_, _, _, body), requests in zip(w.plane.requests[n:n + 2], (7, 9)):
        assert json.loads(body["usage_report"])["used"]["requests"] == requests
        assert body["usage_hmac"] == hmac.new(key, body["usage_report"].encode(), hashlib.sha256).hexdigest()
    assert w.key() == b""


def test_a_refusal_in_the_words_of_the_protocol_suspends(world):
    w = world(grant()).ready()
    for status, body, reason in ((403, {"status": "denied", "reason": "subscription_inactive"}, "subscription_inactive"),
                                 (401, {"reason": "contract_inactive"}, "contract_inactive"),
                                 (400, {"status": "denied", "reason": "invalid_request"}, "invalid_request")):
        w.plane.answer = status, {}, json.dumps(body).encode()
        w.ask_now()
        w.wait_reason(reason)
        assert w.lease()["state"] == "denied" and w.flags() == (True, True) and w.key() == b""
        w.plane.answer = grant()
        w.ask_now()
        w.wait_state("authorized")
    w.plane.answer = 403, {}, json.dumps({"reason": f"bad\x1b[2J key={KEY} \u202e\u009b" * 20}).encode()
    w.ask_now()
    reason = w.wait_state("denied")["reason"]
    assert reason.startswith("bad [2J [redacted]") and len(reason) <= 200 and reason.isascii() and KEY not in w.log()


@pytest.mark.parametrize("status, headers, body, reason", [
    (302, {"Location": "https://login.example/tenant?client=SECRET"}, b"<html>", "HTTP 302: redirected to https://login.example instead"),
    (307, {"Location": "/elsewhere"}, b"", "HTTP 307: redirected instead"),
    (400, {}, b"<html>Bad Request</html>", "HTTP 400: not an answer of the control plane: <html>Bad Request</html>"),
    (401, {"WWW-Authenticate": "Basic"}, b"", "HTTP 401: not an answer of the control plane"),
    (403, {}, b'{"message":"Forbidden"}', "HTTP 403: not an answer of the control plane"),
    (404, {}, f"key={KEY}".encode(), "HTTP 404: not an answer of the control plane: [redacted]"),
    (407, {}, b"", "HTTP 407: a proxy on the way wants a login"),
    (429, {"Retry-After": "1"}, b"", "HTTP 429"),
    (451, {}, b"blocked", "HTTP 451: not an answer of the control plane: blocked")])
def test_whoever_stands_before_the_control_plane_suspends_nobody(world, status, headers, body, reason):
    w = world(grant(lease=1.5), env={"TB_LEASE_GRACE": "60s"}).ready()
    w.plane.answer = status, headers, body
    w.wait_state("unreachable", 20)
    w.wait_reason(reason)
    assert w.flags() == (False, False) and w.key() == bytes.fromhex(KEY)
    assert "SECRET" not in w.log() and KEY not in w.log()
    wait_for(lambda: "cannot be reached" in w.daemon.notified("STATUS"), what="systemd to be told")


def test_whoever_asks_during_a_question_gets_another(world):
    """The answer under way may be older than what SIGHUP is about."""
    asked, go = threading.Event(), threading.Event()

    def answer(n):
        if n == 2:
            asked.set()
            assert go.wait(30)
        return grant()
    w = world(answer).ready()
    w.ask_now()
    assert asked.wait(30)
    w.ask_now()
    wait_for(lambda: w.log().count("SIGHUP") == 2, what="the signal to be taken")
    go.set()
    wait_for(lambda: len(w.plane.requests) == 3, what="another question")


def test_a_lease_until_the_year_9999_is_not_over(world):
    w = world(grant(expires_at="9999-12-31T23:59:59Z")).ready()
    lease = w.wait_state("authorized")
    assert lease["deadline_boottime_us"] / 1e6 - time.clock_gettime(time.CLOCK_BOOTTIME) > 99 * 365 * 86400
    assert lease["deadline_boottime_us"] < 2**53 and lease["expires_at"][:4].isdigit()
    assert w.flags() == (False, False) and w.key() == bytes.fromhex(KEY)


def test_answers_that_are_no_verdict_are_retried(world):
    w = world((503, {}, b""))
    w.wait_reason("HTTP 503")
    for answer, reason in (
            ((429, {}, b""), "HTTP 429"),
            ((200, {}, b"{"), "not valid JSON"),
            ((200, {}, b'{"status":"maybe"}'), "unknown status"),
            ((200, {}, b" " * (65 * 1024)), "larger than"),
            (grant(lease=-10), "in the past"),
            (grant(sas_url="http://blob.example/x"), '"sas_url"'),
            ((200, {"Content-Length": "500"}, b'{"status":'), "127.0.0.1")):
        w.plane.answer = answer
        w.ask_now()
        w.wait_reason(reason)
        assert w.lease()["state"] == "pending" and w.flags() == (False, False) and w.daemon.notified("READY") is None
    w.plane.answer = grant()
    w.ask_now()
    w.ready()
    assert KEY not in w.log()


def test_unreachable_serves_through_the_grace_then_suspends(world):
    w = world(grant(lease=2), env={"TB_LEASE_GRACE": "4s"}).ready()
    deadline = w.lease()["deadline_boottime_us"] / 1e6
    w.plane.down()
    w.wait_state("unreachable", 6)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) < deadline
    assert w.key() == bytes.fromhex(KEY) and w.flags() == (False, False)
    wait_for(lambda: "cannot be reached" in w.daemon.notified("STATUS"), 3, "the word to systemd, behind the file")
    w.wait_state("expired", 10)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline
    assert w.flags() == (True, True) and w.key() == b""
    assert "expired" in w.lease()["reason"]
    w.plane.answer = grant()
    w.plane.up()
    w.ask_now()
    w.wait_state("authorized")
    assert w.key() == bytes.fromhex(KEY)


def test_a_suspension_survives_sigkill_and_a_dead_control_plane(world):
    w = world(denied("contract_invalid")).ready()
    w.wait_state("denied")
    w.daemon.kill()
    w.plane.down()
    (w.run / "suspended").unlink()  # the runtime directory is gone after a reboot
    (w.run / "lease.json").unlink()
    w.start()
    wait_for(lambda: "contract_invalid" in (w.daemon.notified("STATUS") or ""), 20, "the restored suspension")
    assert w.flags() == (True, True)
    assert read_json(w.run / "suspended")["reason"] == "contract_invalid"
    assert w.key() == b""
    wait_for(lambda: "try" in w.log() or "asking again" in w.log(), 20, "a try")
    assert w.flags() == (True, True) and w.lease()["state"] == "pending"
    w.plane.answer = grant()
    w.plane.up()
    w.ask_now()
    w.ready().wait_state("authorized")
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_the_right_to_serve_survives_sigkill(world):
    w = world(grant()).ready()
    deadline = w.lease()["deadline_boottime_us"]
    w.daemon.kill()
    w.plane.down()
    w.start().ready()  # no answer needed: the lease is known to run on
    lease = w.lease()
    assert lease["state"] == "authorized" and lease["reason"] == ""  # and a restart alone is no reason for an alarm
    assert lease["deadline_boottime_us"] == deadline and w.flags() == (False, False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(w.key)  # the key is gone with the process
        wait_for(lambda: "connect" in w.contact().get("reason", ""), what="the control plane to be missed")
        assert w.contact()["reachable"] is False and not waiting.done()
        w.plane.up()
        assert waiting.result(20) == bytes.fromhex(KEY)


def test_a_flag_that_cannot_be_written_is_written_later(world):
    w = world(grant()).ready()
    (w.state / "suspended").mkdir()  # in the way of the durable twin
    w.plane.answer = denied("contract_invalid")
    w.ask_now()
    wait_for(lambda: "cannot write the state of the lease" in w.log(), 20, "the complaint")
    assert (w.run / "suspended").is_file() and w.key() == b""
    (w.state / "suspended").rmdir()
    wait_for(lambda: (w.state / "suspended").is_file(), 10, "the twin")


def test_first_retries_come_after_2_and_4_seconds(beside):
    w = beside["two failures"].ready()
    t = [r[0] for r in w.plane.requests]
    assert 1.7 < t[1] - t[0] < 4 and 3.5 < t[2] - t[1] < 7


def test_retry_after_is_honoured(beside):
    w = beside["retry-after"].ready()
    t = [r[0] for r in w.plane.requests]
    assert len(t) == 2 and t[1] - t[0] >= 3.9


def test_a_denied_machine_asks_again_by_itself_and_resumes(beside):
    w = beside["denied, then allowed"]
    w.wait_state("authorized", 15)  # no signal, no restart
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    t = [r[0] for r in w.plane.requests]
    assert t[1] - t[0] > 8 and w.key() == bytes.fromhex(KEY)
    assert "Suspended: subscription_inactive" in w.log()


def test_an_exchange_that_never_ends_is_ended(beside):
    w = beside["loris"]
    wait_for(lambda: w.lease().get("reason"), 45, "the time limit of 30 s")
    assert w.lease()["state"] == "pending" and w.daemon.running() and "READY" not in w.daemon._notified
    assert len(w.daemon.notify_values("EXTEND_TIMEOUT_USEC")) >= 3
