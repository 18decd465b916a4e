# SPDX-License-Identifier: Apache-2.0
"""The development control plane as its clients and its operator see it."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import time
import urllib.request

import pytest

import tbsys
from controlplane_fixtures import plain, postgres
from controlplane_server import ASSET, BLOBS, KEY, SEALED, Server, until_limited


# -- the server ------------------------------------------------------------------------------------------------------

def test_first_start_makes_private_files_and_the_next_keeps_them(tmp_path):
    s = Server(tmp_path / "deep" / "data")
    with s:
        pass
    assert s.daemon.rc == 0
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in s.data.iterdir()}
    for name in ("provider.token", "master.key", "ca.key", "server.key", "controlplane.db"):
        assert modes[name] == 0o600, (name, modes)
    assert re.fullmatch("[0-9a-f]{64}", s.token)
    keep = {n: (s.data / n).read_bytes() for n in ("provider.token", "master.key", "ca.crt", "server.crt", "server.key")}
    with s:
        assert s.call("GET", "/api/v1/health")[1] == {"status": "ok"}
    assert keep == {n: (s.data / n).read_bytes() for n in keep}


def test_survives_sigkill(tmp_path):
    s = Server(tmp_path / "data").start()
    assert s.register()[0] == 201
    s.daemon.kill(signal.SIGKILL)
    with s:
        assert s.authorize()[1]["decryption_key_hex"] == KEY


def test_inherited_listener(tmp_path):
    with tbsys.tcp_listener() as sock:
        s = Server(tmp_path / "data", listen={"http": sock})
        with s:
            assert s.port == sock.getsockname()[1]
            assert s.call("GET", "/health")[1] == {"status": "healthy"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_foreign_ca_and_old_tls_are_refused(plain, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        plain.call("GET", "/health", ca=tbsys.CA(tmp_path).cert)
    context = ssl.create_default_context(cafile=str(plain.data / "ca.crt"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else OpenSSL refuses before the server can
    with socket.create_connection(("127.0.0.1", plain.port)) as raw, pytest.raises(ssl.SSLError, match="ALERT|EOF"):
        context.wrap_socket(raw, server_hostname="localhost")


def test_given_certificate_and_further_names(tmp_path):
    ca = tbsys.CA(tmp_path / "ca")
    cert, key = ca.issue("cp")
    with Server(tmp_path / "a", "--tls-cert", cert, "--tls-key", key) as s:
        assert s.call("GET", "/health", ca=ca.cert)[0] == 200
        assert not (s.data / "server.crt").exists()  # the CA is there for the machines that enrol
    with Server(tmp_path / "b", "--name", "cp.example") as s:
        context = ssl.create_default_context(cafile=str(s.data / "ca.crt"))
        with socket.create_connection(("127.0.0.1", s.port)) as raw:
            context.wrap_socket(raw, server_hostname="cp.example").close()


def test_client_certificates(tmp_path):
    with Server(tmp_path / "data", "--client-auth") as s:
        assert s.register()[0] == 201  # the token is enough here
        assert s.call("GET", "/api/v1/health")[0] == 200
        status, body = s.authorize()
        assert (status, body["reason"]) == (401, "client_certificate_required")
        cert, key = s.cli("issue-client", "gpu-1").split()
        status, body = s.authorize(cert=(cert, key))
        assert (status, body["status"]) == (200, "authorized")
        assert json.loads(s.cli("log", "--json"))[-1]["client_name"] == "gpu-1"
        foreign = tbsys.CA(tmp_path / "foreign").issue("gpu-1")
        server = (s.data / "server.crt", s.data / "server.key")  # of the right CA, for the wrong purpose
        for cert in (foreign, server):
            status, body = s.authorize(cert=cert)
            assert (status, body["reason"]) == (403, "client_certificate_untrusted")
    ca = tbsys.CA(tmp_path / "clients")
    with Server(tmp_path / "data", "--client-ca", ca.cert) as s:
        assert s.authorize(cert=ca.issue("n"))[1]["status"] == "authorized"
        assert s.authorize(cert=(s.data / "client-gpu-1.crt", s.data / "client-gpu-1.key"))[0] == 403


# -- the API ---------------------------------------------------------------------------------------------------------

def test_authorized_and_denied_shapes(plain):
    before = time.time()
    status, body = plain.authorize()
    assert status == 200
    assert set(body) == {"status", "sas_url", "manifest_url", "decryption_key_hex", "expires_at", "asset_version"}
    assert body["status"] == "authorized" and body["decryption_key_hex"] == KEY
    assert body["sas_url"] == f"{BLOBS.url}/artifacts/{ASSET}.tbenc"
    assert body["manifest_url"] == f"{BLOBS.url}/artifacts/{ASSET}.tbenc.json"
    end = time.mktime(time.strptime(body["expires_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert before + 3590 < end < time.time() + 3610
    assert plain.denied("contract-deny") == "contract_invalid"
    assert plain.denied("contract-unknown") == "contract_invalid"
    assert plain.denied("contract-allow", asset="never-registered") == "asset_unknown"


def test_registration_needs_the_token_and_replaces(plain):
    url, again = BLOBS.put(SEALED, "other"), BLOBS.put(SEALED, "other2")
    status, body, headers = plain.register(url, asset="other", token="0" * 64)
    assert (status, body["error"]) == (401, "unauthorized") and headers["WWW-Authenticate"].startswith("Bearer")
    assert plain.denied("contract-allow", asset="other") == "asset_unknown"
    assert plain.register(url, asset="other")[0] == 201
    assert plain.register(again, asset="other", manifest_sha256=SEALED.manifest_sha256)[0] == 200
    body = plain.authorize(asset="other")[1]
    assert body["sas_url"] == again and body["manifest_sha256"] == SEALED.manifest_sha256
    status, body, _ = plain.register(url + "?sv=1&sig=abc", asset="other")
    assert (status, body["error"]) == (400, "invalid_request") and "blob_urls.ciphertext" in body["details"]
    assert "abc" not in json.dumps(body)
    assert plain.authorize(asset="other")[1]["sas_url"] == again


def test_asset_ids_with_dots(plain):
    assert plain.register(asset="Llama-3.1-8B")[0] == 201
    plain.cli("contract", "add", "llama", "--asset", "Llama-3.1-8B", "--mode", "open")
    assert plain.authorize("llama", asset="Llama-3.1-8B")[1]["status"] == "authorized"
    for bad in ("..", ".a", "a.", "a..b"):
        assert plain.register(BLOBS.put(SEALED, "dots"), asset=bad)[1]["details"].startswith("asset_id is not 1 to 100")
        assert plain.authorize("llama", asset=bad)[0] == 400


def test_bad_bodies_paths_and_methods(plain):
    for body in (None, b"", b"{", b"[]", b"null", b"\0", b"[" * 5000, b'{"contract_id":"a","contract_id":"a"}'):
        status, answer, _ = plain.call("POST", "/api/v1/license/authorize", body)
        assert (status, answer["status"], answer["reason"]) == (400, "denied", "invalid_request"), body
    assert plain.call("GET", "/nothing")[0] == 404
    status, _, headers = plain.call("GET", "/api/v1/license/authorize")
    assert status == 405 and headers["Allow"] == "POST"
    assert plain.call("PUT", "/api/v1/health", b"x")[0] == 405
    status, _, headers = plain.call("HEAD", "/api/v1/health")
    assert status == 200 and headers["Cache-Control"] == "no-store"


def test_bodies_are_capped(plain):
    exact = b'{"x":"' + b"a" * (65536 - 8) + b'"}'
    assert len(exact) == 65536
    assert plain.call("POST", "/api/v1/license/authorize", exact)[0] == 400
    status, body, _ = plain.call("POST", "/api/v1/license/authorize", exact + b" ")
    assert (status, body["error"]) == (413, "payload_too_large")
    c = plain.connection()
    c.request("POST", "/api/v1/license/authorize", body=iter([exact] * 4), encode_chunked=True,
              headers={"Transfer-Encoding": "chunked"})
    assert c.getresponse().status == 413
    c.close()
    # a client that sends all before it reads sees the refusal, too
    assert plain.call("POST", "/api/v1/assets/register", b"x" * 2000000)[0] == 401
    # one that waits for a sign need not send at all
    for length, status in ((200000, b"413"), (10**12, b"413")):
        expect = b"Expect: 100-continue\r\n" if length == 200000 else b""
        with plain.raw() as raw:
            raw.sendall(b"POST /api/v1/license/authorize HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (expect, length))
            assert raw.recv(100).startswith(b"HTTP/1.1 " + status)


def test_stalled_clients_hold_nobody_up(plain):
    stalled = []
    for i in range(40):
        c = plain.connection()
        c.connect()
        c.sock.sendall(b"POST /api/v1/license/authorize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"[:40 + i])
        stalled.append(c)
    assert plain.authorize()[1]["status"] == "authorized"
    for c in stalled:
        c.close()


# -- limits and metrics -----------------------------------------------------------------------------------------------

def metrics(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
    return {m[1]: float(m[2]) for m in re.finditer(r"^trustbridge_controlplane_(\S+) (\S+)$", text, re.M)}, text


def test_guessing_is_slowed_and_told(tmp_path):
    port = tbsys.free_port()
    with Server(tmp_path / "data", "--metrics-listen", f"127.0.0.1:{port}") as s:
        assert s.register()[0] == 201
        assert until_limited(lambda i: s.authorize(f"guess-{i}")[0]) == {200}

        def right():  # as many seconds later there is room for another guess
            s.authorize("guess")
            return s.call("POST", "/api/v1/license/authorize", {"contract_id": "contract-allow", "asset_id": ASSET, "hw_id": "h"})

        _, body, headers = tbsys.wait_for(lambda: (answer := right())[0] == 429 and answer, what="a right contract that is limited, too")
        assert body["reason"] == "too_many_requests" and 1 <= int(headers["Retry-After"]) <= 6
        tbsys.wait_for(lambda: right() and s.register()[0] == 429, what="a registration that is limited, too")
        assert s.call("GET", "/api/v1/health")[0] == 200  # a probe may share the address
        assert "guesses contracts or tokens" in s.daemon.log_text()
        values, text = metrics(port)
        assert values['guesses_total{of="contract"}'] >= 30 and values['limited_total{limit="guess"}'] >= 2
        assert values['verdicts_total{verdict="denied"}'] >= 30 and values['registrations_total{result="kept"}'] >= 1
        assert values["answer_seconds_count"] >= 31 and KEY not in text and "guess-" not in text
        promtool = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert promtool.returncode == 0, promtool.stdout + promtool.stderr


def test_a_flood_of_one_client_is_limited(tmp_path):
    with Server(tmp_path / "data", "--client-rate", "1", tls=False) as s:
        c = s.connection()

        def status(_):
            c.request("GET", "/api/v1/nothing")
            r = c.getresponse()
            r.read()
            return r.status

        assert until_limited(status, 400, 1) == {404}


# -- contracts, by the command line while serving ---------------------------------------------------------------------

def test_contract_life(plain):
    plain.cli("contract", "add", "life", "--asset", ASSET, "--mode", "open", "--lease-seconds", "600", "--expires-in", "1h")
    assert plain.authorize("life")[1]["status"] == "authorized"
    assert "exists" in plain.cli("contract", "add", "life", "--asset", ASSET, "--mode", "open", rc=64)
    plain.cli("contract", "deny", "life", "--reason", "subscription_inactive")
    assert plain.denied("life") == "subscription_inactive"
    plain.cli("contract", "allow", "life")
    assert plain.authorize("life")[1]["status"] == "authorized"
    plain.cli("contract", "revoke", "life")
    assert plain.denied("life") == "contract_revoked"
    plain.cli("contract", "allow", "life")
    plain.cli("contract", "shorten", "life", "--lease-seconds", "5")
    end = time.strptime(plain.authorize("life")[1]["expires_at"], "%Y-%m-%dT%H:%M:%SZ")
    assert time.mktime(end) - time.timezone <= time.time() + 5
    assert "600" not in plain.cli("contract", "shorten", "life", "--lease-seconds", "600", rc=64)
    plain.cli("contract", "shorten", "life", "--expires-in", "1ms")
    tbsys.wait_for(lambda: plain.authorize("life")[1]["status"] == "denied", what="the contract to end")
    assert plain.denied("life") == "contract_expired"

    def listed():
        return next(c for c in json.loads(plain.cli("contract", "list", "--json")) if c["contract_id"] == "life")

    assert listed()["state"] == "expired" and re.search(r"^life +expired ", plain.cli("contract", "list"), re.M)
    plain.cli("contract", "add", "life", "--asset", "another", "--mode", "open", "--replace")
    assert plain.denied("life") == "asset_mismatch"
    row = listed()
    assert row["state"] == "active" and row["asset_id"] == "another" and row["lease_seconds"] == 3600
    assert "contract-deny" in plain.cli("contract", "list")


def test_machines_per_contract(plain):
    plain.cli("contract", "add", "two", "--asset", ASSET, "--mode", "open", "--max-hw", "2")
    assert [plain.authorize("two", hw=h)[1]["status"] for h in ("h1", "h2", "h1")] == ["authorized"] * 3
    assert plain.denied("two", hw="h3") == "hw_limit_reached"
    plain.cli("contract", "unbind", "two")
    assert plain.authorize("two", hw="h3")[1]["status"] == "authorized"


def test_log_says_who_asked(plain):
    plain.authorize("contract-allow", hw="machine-a")
    plain.authorize("contract-deny", hw="machine-b")
    a, b = json.loads(plain.cli("log", "--json", "--limit", "2"))
    assert (a["status"], a["hw_id"], a["contract_id"], a["peer"]) == ("authorized", "machine-a", "contract-allow", "127.0.0.1")
    assert (b["status"], b["hw_id"], b["reason"]) == ("denied", "machine-b", "contract_invalid")
    assert ASSET in plain.cli("asset", "list")
    assert KEY not in plain.cli("asset", "list", "--json")


def test_many_clients_and_the_command_line_at_once(plain):
    plain.cli("contract", "add", "busy", "--asset", ASSET, "--mode", "open")

    def ask(i):
        return plain.authorize("busy", hw=f"h{i % 5}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, i) for i in range(60)]
        for _ in range(6):
            plain.cli("contract", "deny", "busy")
            plain.cli("contract", "allow", "busy")
        for a in answers:
            status, body = a.result()
            assert status == 200 and body["status"] in ("authorized", "denied"), body
    assert plain.authorize("busy")[1]["status"] == "authorized"


def test_a_locked_database_is_a_503(tmp_path):
    """What holds the lock longer than the server waits is another process, as an operator's sqlite3 would be."""
    import sqlite3
    with Server(tmp_path / "data") as s:
        assert s.register()[0] == 201
        db = sqlite3.connect(s.data / "controlplane.db", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        status, body, headers = s.call("POST", "/api/v1/license/authorize",
                                       {"contract_id": "contract-allow", "asset_id": ASSET, "hw_id": "h"})
        assert (status, body["reason"], headers["Retry-After"]) == (503, "busy", "1")
        db.execute("ROLLBACK")
        db.close()
        assert s.authorize()[1]["status"] == "authorized"


def test_seed_resets_only_its_own(tmp_path):
    s = Server(tmp_path / "data", "--seed")
    s.cli("contract", "add", "mine", "--asset", "*", "--mode", "open")
    s.cli("contract", "deny", "contract-allow")
    with s:
        states = {c["contract_id"]: c["state"] for c in json.loads(s.cli("contract", "list", "--json"))}
    assert states == {"contract-allow": "active", "contract-deny": "denied", "mine": "active"}


# -- secrets -----------------------------------------------------------------------------------------------------------

def test_a_lost_master_key_is_said(tmp_path):
    s = Server(tmp_path / "data")
    with s:
        assert s.register()[0] == 201
    (s.data / "master.key").unlink()
    with s:
        status, body = s.authorize()
        assert (status, body["reason"]) == (500, "server_configuration_error") and "decryption_key_hex" not in body
        assert "master.key" in s.daemon.log_text() and ASSET in s.daemon.log_text()


# -- mistakes on the command line --------------------------------------------------------------------------------------

def run(*args):
    p = subprocess.run([tbsys.program("tb-controlplane"), *map(str, args)], capture_output=True, text=True, timeout=30)
    return p.returncode, p.stdout, p.stderr


@pytest.mark.parametrize("args, says", [
    ([], "Usage"), (["nonsense"], "unknown command"), (["contract", "nonsense"], "unknown command \"contract nonsense\""),
    (["contract", "list"], "--data DIR is missing"),
    (["contract", "deny", "--data", "D"], "CONTRACT is missing"),
    (["contract", "deny", "a b", "--data", "D"], "does not match"),
    (["contract", "add", "c", "--data", "D"], "--asset ID is missing"),
    (["contract", "add", "c", "--asset", "../x", "--data", "D"], "does not match"),
    (["contract", "add", "c", "--asset", "a", "--expires", "tomorrow", "--data", "D"], "2026-12-31"),
    (["contract", "add", "c", "--asset", "a", "--lease-seconds", "0", "--data", "D"], "number from 1"),
    (["contract", "shorten", "contract-allow", "--data", "D"], "give --lease-seconds"),
    (["contract", "list", "extra", "--data", "D"], "unexpected argument"),
    (["serve", "--data", "D", "--listen", "8080"], "HOST:PORT"),
    (["serve", "--data", "D", "--http", "--tls-auto"], "exclude each other"),
    (["serve", "--data", "D", "--tls-cert", "x"], "go together"),
    (["serve", "--data", "D", "--storage-account", "x"], "go together"),
    (["serve", "--data", "D", "--storage-account", "UPPER", "--storage-key-file", "k"], "lower-case"),
    (["serve", "--data", "D", "--sas-seconds", "5"], "need --storage-account"),
    (["serve", "--data", "D", "--name", "x,IP:1.2.3.4"], "neither a host name nor an address"),
    (["serve", "--data", "D", "--client-ca", "x", "--http"], "need TLS"),
    (["serve", "--data", "D", "--nonsense"], "--nonsense"),
    (["serve", "--data"], "'--data' needs a value"),
    (["issue-client", "../x", "--data", "D"], "does not match"),
])
def test_usage_errors(tmp_path, args, says):
    rc, out, err = run(*[tmp_path / "d" if a == "D" else a for a in args])
    assert rc == 64 and says in err and out == "", (rc, out, err)


def test_configuration_errors(tmp_path):
    d = tmp_path / "d"
    assert run("contract", "list", "--data", d)[0] == 0
    assert run("contract", "revoke", "nobody", "--data", d)[0] == 66
    (tmp_path / "key").write_text("not base64 !")
    for args, says in ((["--storage-account", "acct", "--storage-key-file", tmp_path / "key"], "base64"),
                       (["--storage-account", "acct", "--storage-key-file", tmp_path / "none"], "No such file"),
                       (["--tls-cert", tmp_path / "key", "--tls-key", tmp_path / "key"], "PEM")):
        rc, out, err = run("serve", "--data", d, "--listen", "127.0.0.1:0", *args)
        assert rc == 78 and says in err and "ready" not in out, (args, rc, err)
    with tbsys.tcp_listener() as busy:
        rc, _, err = run("serve", "--data", d, "--listen", f"127.0.0.1:{busy.getsockname()[1]}")
        assert rc == 78 and "Address already in use" in err
    os.chmod(d / "master.key", 0o644)
    rc, _, err = run("serve", "--data", d, "--listen", "127.0.0.1:0")
    assert rc == 78 and "chmod 600" in err
    (tmp_path / "file").write_text("")
    rc, _, err = run("contract", "list", "--data", tmp_path / "file")
    assert rc == 74 and str(tmp_path / "file") in err


def test_help_of_every_command():
    rc, out, _ = run("--help")
    assert rc == 0
    for words in re.findall(r"^  ([a-z-]+(?: [a-z]+)?)(?: [A-Z]+)?  ", out, re.M):
        rc, text, err = run(*words.split(), "--help")
        assert rc == 0 and text.startswith(f"Usage: tb-controlplane {words}") and err == "", words
