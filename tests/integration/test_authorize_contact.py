# SPDX-License-Identifier: Apache-2.0
"""tb-authorize leaves what it saw of the control plane for those who watch: reachable, clock, certificates, and which file is wrong."""

import datetime
import email.utils
import pathlib
import signal
import time

import pytest

from authorize_world import KEY, ca, grant, sent, utc, world  # noqa: F401
from tbsys import wait_for


def at(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_what_was_seen_is_left(world, ca):  # noqa: F811
    cert, key = ca.issue("watched", days="20")
    w = world(grant(), client_ca=ca.cert, env={"TB_CLIENT_CERT_PATH": cert, "TB_CLIENT_KEY_PATH": key}).ready()
    c = w.contact()
    assert c["reachable"] is True and c["failures"] == 0 and c["reason"] == ""
    assert abs(at(c["asked_at"]) - time.time()) < 60 and abs(at(c["date"]) - time.time()) < 60
    assert c["client_cert"]["path"] == cert and c["ca"]["path"] == ca.cert
    assert 19 < (at(c["client_cert"]["expires_at"]) - time.time()) / 86400 <= 20
    assert 89 < (at(c["ca"]["expires_at"]) - time.time()) / 86400 <= 90
    w.plane.down()
    w.ask_now()
    c = wait_for(lambda: (c := w.contact()).get("reachable") is False and c, what="the outage")
    assert "connect" in c["reason"] and c["failures"] >= 1 and c["date"]  # the clock is known on


def test_an_outage_is_seen_between_renewals(world):  # noqa: F811
    """The next renewal is minutes away: somebody looks before."""
    w = world(grant(lease=86400)).ready()
    renewed = w.lease()["renewed_at"]
    w.plane.down()
    wait_for(lambda: w.contact()["reachable"] is False, 60, "the outage")
    assert w.lease()["state"] == "authorized"  # a short one is no matter for the lease
    w.plane.up()
    wait_for(lambda: w.contact()["reachable"] is True, 60, "the return")
    wait_for(lambda: w.lease()["renewed_at"] > renewed, 20, "a renewal: it was asked for early")


def test_the_date_of_the_answer_tells_the_clock(world):  # noqa: F811
    def yesterday(handler):
        status, _, body = sent(grant())
        handler.send_response_only(status)
        handler.send_header("Date", email.utils.formatdate(time.time() - 86400, usegmt=True))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
    w = world(lambda n: yesterday).ready()
    c = w.contact()
    ahead = time.time() - (at(c["date"]) + boottime() - c["date_boottime_us"] / 1e6)
    assert 86398 < ahead < 86402


@pytest.mark.parametrize("what", ["garbage", "empty", "another's key"])
def test_a_client_certificate_that_does_not_do_names_its_file(world, ca, tmp_path, what):  # noqa: F811
    cert, key = ca.issue("good")
    bad = tmp_path / "client.pem"
    bad.write_text({"garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "empty": ""}.get(what, ""))
    _, other = ca.issue("other")
    env = {"TB_CLIENT_CERT_PATH": cert, "TB_CLIENT_KEY_PATH": other} if what == "another's key" else \
        {"TB_CLIENT_CERT_PATH": str(bad), "TB_CLIENT_KEY_PATH": key}
    w = world(grant(), client_ca=ca.cert, env=env)
    want = f"TB_CLIENT_KEY_PATH {other}: is not the key of the certificate in" if what == "another's key" else \
        f"TB_CLIENT_CERT_PATH {bad}: holds no certificate in PEM format"
    w.wait_reason(want)
    assert w.contact()["reachable"] is False and want in w.contact()["reason"] and not w.plane.requests
    good = pathlib.Path(key if what == "another's key" else cert).read_bytes()
    pathlib.Path(other if what == "another's key" else bad).write_bytes(good)
    w.ask_now()
    w.wait_state("authorized")  # nothing is restarted
    assert w.key() == bytes.fromhex(KEY)


def test_a_restart_raises_no_alarm(world):  # noqa: F811
    w = world(grant()).ready()
    for how in (signal.SIGTERM, signal.SIGKILL):
        w.daemon.kill(how)
        w.daemon.wait()
        for f in ("lease.json", "control-plane.json"):
            assert (w.run / f).exists()
        w.start().ready()
        assert w.lease()["state"] == "authorized" and w.contact()["reachable"] is True
