# SPDX-License-Identifier: Apache-2.0
"""Whom tb-authorize gives its credentials: which unit gets which, when they are ready, renewed and refused, and many at once."""

import concurrent.futures
import json
import os
import secrets
import socket
import time

import pytest

from authorize_world import (DECRYPT, HYDRATE, KEY, UUID, as_nobody, ca, connect_from, denied, grant, slow_loris,  # noqa: F401
                             world)
from tbsys import fetch_credential, wait_for


def read_all(s):
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    s.close()
    return data


def test_authorized_machine_gets_each_credential_once_per_unit(world):
    sha = secrets.token_hex(32)
    w = world(grant(manifest_sha256=sha)).ready()
    assert w.key() == bytes.fromhex(KEY)
    assert w.fetch(HYDRATE, "sas-url").startswith(b"https://blob.example/models/a/model.tbenc?n=0&se=")
    assert w.fetch(HYDRATE, "manifest-url").startswith(b"https://blob.example/models/a/model.manifest.json?")
    assert w.fetch(HYDRATE, "manifest-sha256") == sha.encode() == w.fetch(DECRYPT, "manifest-sha256")
    lease = w.lease()
    assert lease["state"] == "authorized" and lease["contract_id"] == "contract-1" and lease["asset_id"] == "asset-1"
    boot_us = time.clock_gettime(time.CLOCK_BOOTTIME) * 1e6
    assert abs(lease["deadline_boottime_us"] - boot_us - (3600 + 86400) * 1e6) < 30e6
    assert w.flags() == (False, False)
    _, path, headers, body = w.plane.requests[0]
    assert path == "/api/v1/license/authorize" and headers["Content-Type"] == "application/json"
    assert body == {"contract_id": "contract-1", "asset_id": "asset-1", "hw_id": UUID,
                    "client_version": body["client_version"], "attestation": body["attestation"]}
    assert body["client_version"].startswith("trustbridge/") and json.loads(body["attestation"])["offer"] == []
    assert f"released model-key to {DECRYPT}" in w.log() and f"released sas-url to {HYDRATE}" in w.log()
    assert w.daemon.notified("STATUS").startswith("Authorized until 2")
    assert len(w.plane.requests) == 1
    assert w.daemon.stop() == 0


def test_no_manifest_digest_is_none_and_no_expiry_no_deadline(world):
    w = world(grant(lease=None)).ready()
    assert w.fetch(DECRYPT, "manifest-sha256") == b"none"
    assert "deadline_boottime_us" not in w.lease() and "expires_at" not in w.lease()


def test_own_socket_is_for_root_only(world):
    w = world(grant(), listen=False).ready()
    path = w.dir / "r/tb-keys.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert fetch_credential(path, DECRYPT, "model-key") == bytes.fromhex(KEY)


def test_others_get_nothing(world):
    w = world(grant()).ready()
    for unit, name in ((HYDRATE, "model-key"), (DECRYPT, "sas-url"), ("tb-proxy.service", "model-key"),
                       ("tb-decrypt.servic", "model-key"), (DECRYPT, "model-key2")):
        assert w.fetch(unit, name) == b"", (unit, name)
        assert f"refused {name} to {unit}: this unit may not have it" in w.log()
    for name in (None, "\0garbage", "\0" + "f" * 40 + f"/unit/{DECRYPT}/model-key", f"\0ab/unit/{DECRYPT}/model-key/x",
                 f"\0AB/unit/{DECRYPT}/model-key", f"\0ab/unit/{DECRYPT}\0/model-key", str(w.dir / "client.sock"),
                 "\0" + "f" * 107):
        assert read_all(connect_from(w.sock_path, name)) == b"", name
    assert w.key() == bytes.fromhex(KEY)


def test_a_user_who_forges_the_name_gets_nothing(world, tmp_path):
    w = world(grant()).ready()

    def forge():
        return read_all(connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key"))

    for d in [w.dir, *w.dir.parents]:
        if d.stat().st_mode & 0o005 != 0o005 and "pytest" in str(d):
            d.chmod(0o755)
    assert as_nobody(forge) == b"error:PermissionError"  # the mode of the socket
    w.sock_path.chmod(0o666)
    assert as_nobody(forge) == b"ok:"  # and the check of the peer's uid
    assert "of user 65534 claims to be systemd" in w.log()
    assert f"refused model-key to {DECRYPT}: the peer is not root" in w.log()
    assert w.key() == bytes.fromhex(KEY)


def test_down_at_boot_waits_and_goes_on_trying(world):
    w = world(grant(), up=False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        s = connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key")
        s.shutdown(socket.SHUT_WR)  # as systemd does before it reads
        waiting = pool.submit(read_all, s)
        w.wait_state("pending")
        wait_for(lambda: (w.daemon.notified("STATUS") or "").startswith("Waiting for the control plane (try"), 20, "STATUS")
        assert w.daemon.notified("READY") is None and int(w.daemon.notified("EXTEND_TIMEOUT_USEC")) >= 20e6
        assert not waiting.done() and w.daemon.running() and w.flags() == (False, False)
        w.plane.up()
        w.ready()
        assert waiting.result(20) == bytes.fromhex(KEY)
    w.wait_state("authorized")


def test_a_waiting_client_survives_a_restart(world):
    w = world(grant(), up=False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(w.key)
        wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
        w.daemon.kill()
        w.plane.up()
        w.start().ready()
        assert waiting.result(20) == bytes.fromhex(KEY)


def test_clients_that_leave_do_no_harm(world):
    w = world(grant(), up=False)
    wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
    for _ in range(100):
        connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key").close()
    w.plane.up()
    w.ask_now()
    w.ready()
    assert w.key() == bytes.fromhex(KEY)


def test_many_at_once(world):
    w = world(grant(), up=False)
    wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        before = [pool.submit(w.key) for _ in range(100)]
        w.plane.up()
        w.ask_now()
        w.ready()
        after = [pool.submit(w.key) for _ in range(100)]
        assert all(f.result(30) == bytes.fromhex(KEY) for f in before + after)
    fds = len(os.listdir(f"/proc/{w.daemon.pid}/fd"))
    assert fds < 20, "descriptors leak"


def test_sas_urls_are_renewed_when_handed_out_before(world):
    w = world(lambda n: grant(n=n)).ready()
    assert b"?n=1&" in w.fetch(HYDRATE, "sas-url") and b"?n=1&" in w.fetch(HYDRATE, "sas-url")
    assert len(w.plane.requests) == 1
    time.sleep(5.2)  # the age that makes a URL stale
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")
    assert b"?n=2&" in w.fetch(HYDRATE, "manifest-url")
    assert w.key() == bytes.fromhex(KEY) and len(w.plane.requests) == 2
    time.sleep(5.2)
    w.plane.answer = 503, {}, b""
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")  # better than none
    assert len(w.plane.requests) == 3 and w.lease()["state"] == "authorized"
    w.plane.answer = denied("contract_inactive")
    # The renewal finds the contract gone; for a while none is waited for when the 503 was long in coming.
    wait_for(lambda: w.fetch(HYDRATE, "sas-url") == b"", what="the denial")
    assert w.flags() == (True, True)


def test_a_sas_that_ends_soon_is_renewed(world):
    w = world(lambda n: grant(n=n, sas_seconds=62)).ready()
    gone = world(lambda n: grant(sas_seconds=62) if n == 1 else denied("contract_inactive")).ready()
    time.sleep(5.2)  # now they have less than a minute left
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")
    assert gone.fetch(HYDRATE, "sas-url") == b"" and gone.flags() == (True, True)  # the renewal found the contract gone


def test_a_silent_control_plane_is_waited_for_once(world):
    """systemd asks for one credential of a unit after another: a start is late by one wait, not by one for each."""
    w = world(lambda n: grant() if n == 1 else slow_loris).ready()
    names = ("sas-url", "manifest-url", "manifest-sha256")
    first = [w.fetch(HYDRATE, name) for name in names]
    time.sleep(5.2)
    began = time.monotonic()
    assert [w.fetch(HYDRATE, name) for name in names] == first
    assert 15 < time.monotonic() - began < 35


def test_a_url_that_has_ended_is_waited_for_all_the_same(world):
    """By whoever asks: the one there is is of no use."""
    w = world(lambda n: grant(sas_seconds=3) if n == 1 else (503, {}, b"") if n < 4 else grant(n=n)).ready()
    w.fetch(HYDRATE, "sas-url")
    time.sleep(5.2)
    got = [w.fetch(HYDRATE, "sas-url") for _ in range(3)]
    assert b"?n=" in got[-1] and len(w.plane.requests) >= 4, got


@pytest.mark.alone
def test_a_slow_control_plane_delays_no_release_and_no_stop(world):
    w = world(lambda n: grant(lease=1) if n == 1 else slow_loris).ready()
    wait_for(lambda: len(w.plane.requests) >= 2, 10, "the renewal")
    began = time.monotonic()
    for _ in range(20):
        assert w.key() == bytes.fromhex(KEY)
    assert time.monotonic() - began < 5
    began = time.monotonic()
    assert w.daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert w.lease()["state"] in ("authorized", "unreachable")
