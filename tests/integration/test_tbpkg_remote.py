# SPDX-License-Identifier: Apache-2.0
"""tbpkg's commands of remote administration against a control plane stand-in, whose answers and whose requests must be those of
docs/controlplane.openapi.yaml: tokens that are kept, answers that are lost, refusals in words, tables that fit."""

import fcntl
import http.server
import json
import os
import pty
import re
import ssl
import stat
import struct
import subprocess
import termios
import threading
import time

import pytest

import tbsys
from openapi import Spec

TOKEN = "tbt_" + "5e" * 32
WHO = {"name": "ops", "kind": "token", "scopes": ["support", "auditor"], "expires_at": "2027-01-01T00:00:00Z"}
CODE = {"code": "tbe-" + "a1" * 13, "code_id": "0123456789abcdef", "contract_id": "acme-1", "uses_left": 2,
        "created_at": "2026-11-26T00:00:00Z", "expires_at": "2026-12-03T00:00:00Z"}


def contract(name="acme-1", **more):
    return {"contract_id": name, "asset_id": "my-model", "mode": "enrolled", "state": "active", "reason": "", "lease_seconds": 3600,
            "slot_ttl_seconds": 86400, "machines": 1, "created_at": "2026-11-26T00:00:00Z", "updated_at": "2026-11-26T00:00:00Z", **more}


def error(word, message="it is so; do something else", **more):
    return {"error": word, "message": message, **more}


class Plane:
    """answers[(method, path)]: (status, body) or a function of the request that returns it; "hang up" instead: no answer. What has the
    idempotency key of something that was done is answered as then."""

    def __init__(self, tls):
        self.spec, self.answers, self.seen, self.done, self.hang_ups = Spec(), {("GET", "whoami"): (200, WHO)}, [], {}, 0
        plane = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.removeprefix("/api/v1/admin/")
                plane.seen.append((self.command, path, dict(self.headers.items()), json.loads(body) if body else None))
                key = self.headers.get("Idempotency-Key")
                answer = plane.done.get(key) or plane.answers.get((self.command, path.partition("?")[0]), (404, error("not_found")))
                answer = answer(path, body) if callable(answer) else answer
                if key and answer != "hang up" and answer[0] < 300:
                    plane.done[key] = answer
                if answer == "hang up" or plane.hang_ups:
                    plane.hang_ups -= answer != "hang up"
                    self.close_connection = True
                    return
                status, doc = answer
                text = doc if isinstance(doc, str) else json.dumps(doc)
                kind = "text/csv" if "format=csv" in path else "application/x-ndjson" if "export" in path else "application/json"
                headers = {"Content-Type": kind if status == 200 else "application/json", "ETag": '"1"', "Content-Length": str(len(text.encode()))}
                if status in (429, 503):
                    headers["Retry-After"] = "1"
                plane.spec.note(self.command, self.path, dict(self.headers.items()), body, status, headers, text.encode())
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.spec.finish()


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return tbsys.CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def plane(ca):
    p = Plane(ca.issue("cp"))
    yield p
    p.stop()


class Client:
    """tbpkg with a home of its own."""

    def __init__(self, plane, ca, home):
        self.home = home
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "TB_EDC_ENDPOINT": plane.url, "TB_CA_FILE": str(ca.cert),
                    **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}
        self.file = home / ".config/trustbridge/tokens" / plane.url.removeprefix("https://").replace(":", "%3A")
        self.file = self.file.with_name(self.file.name + ".token")

    def run(self, *args, rc=0, stdin="", **env):
        e = {k: v for k, v in {**self.env, **env}.items() if v is not None}
        p = subprocess.run([tbsys.program("tbpkg"), *map(str, args)], env=e, input=stdin, capture_output=True, text=True, timeout=60)
        assert TOKEN not in p.stderr + p.stdout and "Sanitizer" not in p.stderr
        assert p.returncode == rc, (args, p.returncode, p.stdout, p.stderr)
        if rc not in (0, 2):
            lines = [x for x in p.stderr.splitlines() if x.startswith("tbpkg: ") and "warning" not in x]
            assert len(lines) == 1 and p.stdout == "", (p.stdout, p.stderr)
        return p

    def login(self):
        self.run("login", stdin=TOKEN + "\n")
        return self


@pytest.fixture
def client(plane, ca, tmp_path):
    return Client(plane, ca, tmp_path).login()


# -- who we are --------------------------------------------------------------------------------------------------------

def test_a_token_is_kept_for_its_control_plane_alone_and_for_nobody_else(plane, ca, tmp_path):
    c = Client(plane, ca, tmp_path)
    e = c.run("whoami", rc=4)
    assert "there is no token for it" in e.stderr and "tbpkg login" in e.stderr and not plane.seen
    assert json.loads(c.run("login", "--json", stdin=TOKEN + "\n").stdout) == {**WHO, "endpoint": plane.url, "token_file": str(c.file)}
    assert c.file.read_text() == TOKEN + "\n" and stat.S_IMODE(c.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(c.file.parent.stat().st_mode) == 0o700
    out = c.run("whoami", TB_EDC_ENDPOINT=plane.url.upper().replace("HTTPS", "https") + "/").stdout
    assert re.search(r"^Name: +ops$", out, re.M) and re.search(r"^Scopes: +support auditor$", out, re.M) and str(c.file) in out
    assert {h["Authorization"] for _, _, h, _ in plane.seen} == {f"Bearer {TOKEN}"}
    # another control plane has another file; XDG_CONFIG_HOME is where it is, too
    c.run("whoami", rc=4, TB_EDC_ENDPOINT=plane.url.replace("127.0.0.1", "localhost"))
    c.run("login", stdin=TOKEN, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert (tmp_path / "xdg/trustbridge/tokens" / c.file.name).exists()
    # one that others can read is not used
    c.file.chmod(0o640)
    assert "can be read by others; run chmod 600" in c.run("whoami", rc=1).stderr
    c.run("login", stdin=TOKEN)
    assert stat.S_IMODE(c.file.stat().st_mode) == 0o600
    c.run("whoami")
    assert "is removed" in c.run("logout").stderr and not c.file.exists()
    assert "No token" in c.run("logout").stderr
    c.run("whoami", rc=4)


def test_a_token_that_the_control_plane_does_not_take_is_not_kept(plane, ca, tmp_path):
    c = Client(plane, ca, tmp_path)
    plane.answers["GET", "whoami"] = 401, error("unauthorized", "send a token", details="the token ended at 2026-11-01T00:00:00Z")
    e = c.run("login", stdin=TOKEN, rc=4).stderr
    assert "the token ended at 2026-11-01T00:00:00Z" in e and "tbpkg token add" in e and not c.file.exists()
    for text, words in (("", "holds no bearer token"), ("a b", "more than one"), ("a\nb", "more than one")):
        assert words in c.run("login", stdin=text, rc=1).stderr
    (tmp_path / "t").write_text(TOKEN)
    plane.answers["GET", "whoami"] = 200, WHO
    c.run("login", "--token-file", tmp_path / "t")
    assert c.file.read_text() == TOKEN + "\n"
    p = c.run("login", stdin=TOKEN, TB_EDC_TOKEN_FILE=str(tmp_path / "t"))
    assert "TB_EDC_TOKEN_FILE names a token, which is used instead" in p.stderr


def test_a_token_typed_on_a_terminal_is_not_shown(plane, ca, tmp_path):
    c = Client(plane, ca, tmp_path)
    master, slave = pty.openpty()
    p = subprocess.Popen([tbsys.program("tbpkg"), "login"], env=c.env, stdin=slave, stdout=slave, stderr=slave)
    text = b""
    while b"Token: " not in text:
        text += os.read(master, 1000)
    tbsys.wait_for(lambda: not termios.tcgetattr(slave)[3] & termios.ECHO, what="no echo")
    os.write(master, TOKEN.encode() + b"\n")
    while b"Scopes:" not in text:
        text += os.read(master, 1000)
    assert p.wait(20) == 0 and TOKEN.encode() not in text and termios.tcgetattr(slave)[3] & termios.ECHO
    p = subprocess.Popen([tbsys.program("tbpkg"), "login"], env=c.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    tbsys.wait_for(lambda: not termios.tcgetattr(slave)[3] & termios.ECHO, what="no echo")
    os.write(master, b"half\x03")
    assert p.wait(20) == 130 and termios.tcgetattr(slave)[3] & termios.ECHO
    os.close(master)
    os.close(slave)


def test_register_uses_the_token_that_is_kept(plane, client, tmp_path):
    (tmp_path / "plain").write_bytes(b"model" * 1000)
    client.run("encrypt", "--asset-id", "my-model", "--in", tmp_path / "plain", "--out", tmp_path / "m.tbenc", "--key-out", tmp_path / "k")
    registered = {"status": "registered", "asset_id": "my-model", "version": 2, "message": "it is there"}
    plane.answers["POST", "/api/v1/assets/register"] = 200, registered
    p = client.run("register", "-a", "my-model", "-m", tmp_path / "m.manifest.json", "-k", tmp_path / "k", "-s", "acct1", "--no-promote")
    assert json.loads(p.stdout) == registered
    _, _, headers, body = plane.seen[-1]
    assert headers["Authorization"] == f"Bearer {TOKEN}" and body["promote"] is False and "replace" not in body


# -- what is asked -----------------------------------------------------------------------------------------------------

def test_a_contract_is_added_with_what_was_said(plane, client, tmp_path):
    plane.answers["POST", "contracts"] = 201, {"contract": contract(), "enrolment": CODE}
    p = client.run("contract", "add", "acme-1", "--asset", "my-model@2", "--max-hw", "3", "--expires", "2027-01-01", "--lease-seconds", "600",
                   "--slot-ttl", "60", "--code-uses", "2")
    assert p.stdout == CODE["code"] + "\n" and "shown this once" in p.stderr
    assert plane.seen[-1][3] == {"contract_id": "acme-1", "asset_id": "my-model", "version": 2, "max_hw": 3, "lease_seconds": 600,
                                 "expires_at": "2027-01-01T00:00:00Z", "slot_ttl_seconds": 60, "code": {"uses": 2}}
    assert json.loads(client.run("contract", "add", "acme-1", "--asset", "*", "--json").stdout)["enrolment"] == CODE
    (tmp_path / "ca.pem").write_text("PEM")
    plane.answers["POST", "contracts"] = 201, {"contract": contract(mode="certificate")}
    p = client.run("contract", "add", "c-2", "--asset", "Llama-3.1-8B", "--mode", "certificate", "--client-ca", tmp_path / "ca.pem")
    assert p.stdout == "" and plane.seen[-1][3] == {"contract_id": "c-2", "asset_id": "Llama-3.1-8B", "mode": "certificate", "client_ca": "PEM"}
    client.run("contract", "add", "c-4", "--asset", "a", "--attest", "tpm", "--ak", "own", "--ak", "azure")
    assert plane.seen[-1][3] == {"contract_id": "c-4", "asset_id": "a", "attest": {"level": "tpm", "ak": ["own", "azure"]}}
    client.run("contract", "add", "c-4", "--asset", "a", "--attest", "tpm")
    assert plane.seen[-1][3]["attest"] == {"level": "tpm"}
    assert "--attest tpm" in client.run("contract", "add", "c-4", "--asset", "a", "--ak", "own", rc=2).stderr
    plane.answers["PATCH", "contracts/c-4"] = 200, contract()
    client.run("contract", "edit", "c-4", "--attest", "none")
    assert plane.seen[-1][3] == {"attest": None}
    p = client.run("contract", "add", "c-3", "--asset", "a", "--mode", "open")
    assert "whoever knows the id c-3 gets the key" in p.stderr
    plane.answers["PATCH", "contracts/acme-1"] = 200, contract(version=3)
    assert "my-model@3" in client.run("contract", "edit", "acme-1", "--asset", "my-model", "--expires", "never", "--max-hw", "any").stdout
    assert plane.seen[-1][3] == {"asset_id": "my-model", "version": None, "expires_at": None, "max_hw": None}
    before = time.time()
    client.run("contract", "edit", "acme-1", "--expires-in", "720h")
    end = time.strptime(plane.seen[-1][3]["expires_at"], "%Y-%m-%dT%H:%M:%SZ")
    assert before + 719 * 3600 < time.mktime(end) - time.timezone < before + 721 * 3600
    assert len({h["Idempotency-Key"] for m, _, h, _ in plane.seen if m != "GET"}) == 9  # a random one each


def test_the_other_changes(plane, client):
    plane.answers.update({
        ("POST", "contracts/acme-1/revoke"): (200, contract(state="revoked", reason="contract_revoked")),
        ("POST", "contracts/acme-1/allow"): (200, contract()),
        ("POST", "contracts/acme-1/codes"): (201, CODE),
        ("DELETE", "codes/0123456789abcdef"): (200, {k: v for k, v in CODE.items() if k != "code"}),
        ("POST", "machines/remove"): (200, machine("m/1")), ("POST", "machines/expel"): (200, machine("m/1", state="expelled")),
        ("POST", "assets/my-model/promote"): (200, asset()), ("DELETE", "assets/my-model"): (200, asset()),
        ("DELETE", "assets/my-model/versions/1"): (200, asset()),
        ("POST", "tokens"): (201, {"token": "tbt_" + "0" * 64, "name": "ci", "scopes": ["publisher", "replace"], "expires_at": "2027-01-01T00:00:00Z"}),
        ("DELETE", "tokens/ci"): (200, token("ci", state="revoked"))})
    assert "within 3600 s" in client.run("contract", "revoke", "acme-1", "--reason", "unpaid").stderr
    assert plane.seen[-1][3] == {"reason": "unpaid"}
    assert json.loads(client.run("contract", "revoke", "acme-1", "--json").stdout)["state"] == "revoked" and plane.seen[-1][3] is None
    client.run("contract", "allow", "acme-1")
    for words in (["enrol", "acme-1"], ["enrol", "code", "acme-1", "--code-uses", "2", "--code-expires-in", "24h"]):
        assert client.run(*words).stdout == CODE["code"] + "\n"
    assert plane.seen[-1][3]["uses"] == 2 and plane.seen[-1][3]["expires_at"]
    client.run("enrol", "revoke", CODE["code_id"])
    assert client.run("enrol", "revoke", CODE["code"], rc=2).stdout == ""
    client.run("machine", "remove", "acme-1", "--machine", "m/1")
    assert plane.seen[-1][3] == {"contract_id": "acme-1", "hw_id": "m/1"}
    assert "codes of acme-1 are over" in client.run("machine", "expel", "acme-1", "--machine", "m/1").stderr
    client.run("machine", "expel", "acme-1", rc=2)
    assert "yes" in client.run("asset", "promote", "my-model@2").stdout and plane.seen[-1][3] == {"version": 2}
    client.run("asset", "promote", "my-model", rc=2)
    assert "--yes" in client.run("asset", "delete", "my-model", rc=2).stderr
    client.run("asset", "delete", "my-model", "-y")
    client.run("asset", "delete", "my-model@1", "--yes")
    assert client.run("token", "add", "ci", "--scope", "publisher", "--scope", "replace").stdout == "tbt_" + "0" * 64 + "\n"
    assert plane.seen[-1][3] == {"name": "ci", "scopes": ["publisher", "replace"]}
    client.run("token", "add", "ci", "--scope", "admin", rc=2)
    client.run("token", "revoke", "ci")
    assert "nonsense" in client.run("contract", "list", "--nonsense", rc=2).stderr
    assert "not by version: my-model" in client.run("contract", "list", "--asset", "my-model@2", rc=2).stderr


def machine(name="m-1", **more):
    return {"contract_id": "acme-1", "hw_id": name, "state": "active", "enrolled": True, "first_seen": "2026-11-01T00:00:00Z",
            "last_seen": "2026-11-26T00:00:00Z", **more}


def version(number, current=False):
    return {"asset_id": "my-model", "version": number, "current": current, "ciphertext_url": "https://a/c", "manifest_url": "https://a/m",
            "chunk_bytes": 4194304, "plaintext_bytes": 3 << 30, "sha256_ciphertext": "0" * 64, "key_id": "6bbb9c993b5456dd",
            "registered_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-02T00:00:00Z"}


def asset():
    return {"asset_id": "my-model", "current_version": 2, "live_contracts": 4, "versions": [version(2, True), version(1)]}


def token(name, **more):
    return {"name": name, "scopes": ["owner"], "state": "active", "created_at": "2026-11-01T00:00:00Z", "created_by": "cli:root",
            "expires_at": "2027-01-01T00:00:00Z", **more}


# -- what is shown -----------------------------------------------------------------------------------------------------

def test_all_pages_of_a_listing_are_one(plane, client):
    names = [f"c-{i}" for i in range(5)]

    def page(path, body):
        at = int(re.search(r"after=(\d)", path)[1]) if "after" in path else 0
        return 200, {"contracts": [contract(n) for n in names[at:at + 2]], **({"next": str(at + 2)} if at + 2 < len(names) else {})}
    plane.answers["GET", "contracts"] = page
    doc = json.loads(client.run("contract", "list", "--json", "--asset", "my-model", "--state", "active").stdout)
    assert [c["contract_id"] for c in doc["contracts"]] == names and doc["contracts"][0] == contract("c-0")
    assert all("asset_id=my-model" in p and "state=active" in p for m, p, _, _ in plane.seen if p.startswith("contracts"))
    lines = client.run("contract", "list").stdout.splitlines()
    assert lines[0].split() == ["CONTRACT", "STATE", "ASSET", "MODE", "MACHINES", "EXPIRES"]
    assert [x.split() for x in lines[1:]] == [[n, "active", "my-model", "enrolled", "1/any", "never"] for n in names]
    assert not any(x.endswith(" ") for x in lines)


def in_terminal(client, columns, *args):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    p = subprocess.Popen([tbsys.program("tbpkg"), *args], env=client.env, stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.DEVNULL)
    os.close(slave)
    text = b""
    while True:
        try:
            text += os.read(master, 65536)
        except OSError:  # all that wrote are gone
            break
    os.close(master)
    assert p.wait(20) == 0
    return text.decode().replace("\r\n", "\n").splitlines()


def test_a_table_fits_the_terminal_and_cuts_no_name(plane, client):
    long = "a-contract-with-a-name-that-is-longer-than-most-of-them-are-but-right"
    plane.answers["GET", "contracts"] = 200, {"contracts": [contract(), contract(long, max_hw=3, version=2)]}
    wide = in_terminal(client, 200, "contract", "list")
    assert len(wide) == 3 and wide[2].startswith(long)
    narrow = in_terminal(client, 80, "contract", "list")
    assert max(map(len, narrow)) <= 80 and f"Contract: {long}" in narrow and "Machines: 1/3" in narrow and "" in narrow
    assert "Asset:    my-model@2" in narrow
    assert len(client.run("contract", "list").stdout.splitlines()) == 3  # a pipe has no width


def test_listings_of_every_kind(plane, client):
    log = {"at": "2026-11-26T00:00:00.123Z", "status": "denied", "reason": "contract_revoked", "contract_id": "acme-1", "asset_id": "my-model",
           "hw_id": "m\x1b[31m", "peer": "192.0.2.1", "client_name": ""}
    used = {"requests": 12, "prompt_tokens": 3400, "completion_tokens": 560}
    plane.answers.update({
        ("GET", "contracts/acme-1"): (200, contract(max_hw=2, expires_at="2027-01-01T00:00:00Z")),
        ("GET", "machines"): (200, {"machines": [machine()]}), ("GET", "codes"): (200, {"codes": []}),
        ("GET", "assets"): (200, {"assets": [version(2, True)]}), ("GET", "assets/my-model"): (200, asset()),
        ("GET", "tokens"): (200, {"tokens": [token("ops"), token("old", state="expired", last_used_at="2026-11-20T00:00:00Z")]}),
        ("GET", "log"): (200, {"log": [log, {**log, "status": "authorized", "reason": "", "version": 2}]}),
        ("GET", "usage"): lambda path, body: (200, "contract_id,hw_id,asset_id,counter,used\nacme-1,,,requests,12\n" if "csv" in path else
                                              {"usage": [{"contract_id": "acme-1", "hw_id": "m-1", "used": used}]})})
    assert re.search(r"^Machines: +1/2$", client.run("contract", "show", "acme-1").stdout, re.M)
    assert client.run("machine", "list", "--contract", "acme-1", "--state", "active").stdout.splitlines()[1].split() == \
        ["acme-1", "m-1", "active", "2026-11-26T00:00:00Z"]
    assert client.run("enrol", "list").stdout.split() == ["CODE", "CONTRACT", "USES", "LEFT", "EXPIRES", "CREATED"]
    assert "3.0 GiB" in client.run("asset", "list").stdout
    p = client.run("asset", "show", "my-model")
    assert "4 live contracts" in p.stderr and [x.split()[:2] for x in p.stdout.splitlines()[1:]] == [["2", "yes"], ["1", "no"]]
    assert "never" in client.run("token", "list").stdout
    text = client.run("log", "--limit", "2").stdout
    assert "\x1b" not in text and text.index("authorized") < text.index("denied") and "limit=2" in plane.seen[-1][1]
    assert [e["status"] for e in json.loads(client.run("log", "--json").stdout)["log"]] == ["denied", "authorized"]
    out = client.run("usage", "--from", "2026-11-01", "--to", "2026-12-01T00:00:00Z", "--by", "machine").stdout.splitlines()
    assert out[0].split() == ["CONTRACT", "MACHINE", "REQUESTS", "PROMPT", "TOKENS", "COMPLETION", "TOKENS"]
    assert out[1].split() == ["acme-1", "m-1", "12", "3400", "560"]
    assert "from=2026-11-01T00%3A00%3A00Z" in plane.seen[-1][1] and "to=2026-12-01" in plane.seen[-1][1]
    assert client.run("usage", "--csv").stdout == "contract_id,hw_id,asset_id,counter,used\nacme-1,,,requests,12\n"
    for wrong in (["--from", "2026-12-01", "--to", "2026-11-01"], ["--by", "month"], ["--by", "or"], ["--by", ""], ["--from", "yesterday"], ["--csv", "--json"]):
        client.run("usage", *wrong, rc=2)


def test_changes_are_fetched_to_the_last_and_to_the_byte(plane, client):
    lines = [json.dumps({"seq": n, "prev": "0" * 64, "ts": "2026-11-26T00:00:00Z", "actor": "cli:root", "action": "contract.add",
                         "object": "acme"}) + "\n" for n in range(1, 6)]
    plane.answers["GET", "changes/export"] = lambda path, body: (200, "".join(lines[int(path.rpartition("=")[2]) - 1:][:2]))
    assert client.run("changes").stdout == "".join(lines)
    assert client.run("changes", "--from", "4").stdout == "".join(lines[3:])
    plane.answers["GET", "changes/export"] = lambda path, body: (200, lines[0])  # a server that always says the same
    p = subprocess.run([tbsys.program("tbpkg"), "changes"], env=client.env, capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "no change from number 2 on" in p.stderr


# -- servers that mean no good ------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\u009b31m\u202e"


def on_terminal(client, *args):
    """What tbpkg writes to a terminal."""
    master, slave = pty.openpty()
    p = subprocess.Popen([tbsys.program("tbpkg"), *args], env=client.env, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    text = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        text += part
    os.close(master)
    p.wait(20)
    return text.decode()


def test_nothing_that_a_server_says_acts_on_a_terminal(plane, client, monkeypatch):
    monkeypatch.setattr(plane.spec, "note", lambda *args: None)  # what it says is none of the description
    csv, change = f"contract_id{EVIL}\r\nacme,é\r\n", json.dumps({"seq": 1, "object": EVIL}, ensure_ascii=False) + "\n"
    plane.answers.update({
        ("GET", "usage"): (200, csv), ("GET", "changes/export"): lambda path, body: (200, change if path.endswith("=1") else ""),
        ("GET", "whoami"): (200, {"name": EVIL, "kind": EVIL, "scopes": [EVIL], "expires_at": EVIL}),
        ("GET", "contracts/acme-1"): (422, error(EVIL, EVIL, details=EVIL)),
        ("POST", "tokens"): (201, {"token": "tbt_" + EVIL, "name": EVIL, "expires_at": EVIL, "scopes": [EVIL]}),
        ("POST", "contracts/acme-1/codes"): (201, {**CODE, "code": EVIL})})
    for args in (["usage", "--csv"], ["changes"], ["whoami"], ["whoami", "--json"], ["contract", "show", "acme-1"],
                 ["token", "add", "x", "--scope", "owner"], ["token", "add", "x", "--scope", "owner", "--json"], ["enrol", "acme-1"]):
        text = on_terminal(client, *args)
        assert text and not any(c in text for c in "\x1b\x07\u009b\u202e"), (args, text)
    assert "acme,é\r\n" in on_terminal(client, "usage", "--csv")
    # for a file it is what was sent
    raw = {a: subprocess.run([tbsys.program("tbpkg"), *a.split()], env=client.env, capture_output=True, timeout=60).stdout.decode()
           for a in ("usage --csv", "changes")}
    assert raw == {"usage --csv": csv, "changes": change}
    assert "without a token or code" in client.run("token", "add", "x", "--scope", "owner", rc=1).stderr
    plane.answers["POST", "contracts/acme-1/codes"] = (201, {"uses_left": 1})
    client.run("enrol", "acme-1", rc=1)


@pytest.fixture
def plain(tmp_path):
    """Two control planes without TLS, and tbpkg with a token for the first. answers[who]: what it adds to its answers."""
    class Plain:
        def __init__(self):
            self.asked, self.answers = {"plane": [], "other": []}, {"plane": (200, {}), "other": (200, {})}
            self.servers = {who: self.serve(who) for who in self.asked}
            self.url = {who: f"http://127.0.0.1:{s.server_port}" for who, s in self.servers.items()}
            (tmp_path / "token").write_text(TOKEN + "\n")

        def serve(self, who):
            plain = self

            class Handler(http.server.BaseHTTPRequestHandler):
                def handle_any(self):
                    plain.asked[who].append(self.path)
                    status, headers = plain.answers[who]
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(json.dumps(WHO).encode())
                do_GET = do_POST = handle_any

                def log_message(self, *args):
                    pass

            s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True).start()
            return s

        def run(self, *args, **env):
            return subprocess.run([tbsys.program("tbpkg"), *args, "--insecure-http", "--token-file", tmp_path / "token", "--edc-endpoint", self.url["plane"]],
                                  timeout=60, check=False, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env}, capture_output=True, text=True)

    p = Plain()
    yield p
    for s in p.servers.values():
        s.shutdown()
        s.server_close()


def test_no_proxy_reads_the_token_on_its_way_to_this_machine(plain):
    assert plain.run("whoami", http_proxy=plain.url["other"], ALL_PROXY=plain.url["other"]).returncode == 0
    assert plain.asked == {"plane": ["/api/v1/admin/whoami"], "other": []}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("args", [["whoami"], ["contract", "allow", "acme-1"]], ids=["read", "change"])
def test_a_token_goes_where_it_was_sent_and_no_further(plain, args, status):
    for where in (plain.url["other"] + "/elsewhere", "/elsewhere"):
        plain.answers["plane"] = (status, {"Location": where})
        plain.asked["plane"].clear()
        r = plain.run(*args)
        assert r.returncode == 1 and f"answered {status}; check --edc-endpoint" in r.stderr, r.stderr
        assert len(plain.asked["plane"]) == 1 and plain.asked["other"] == []


# -- what goes wrong ---------------------------------------------------------------------------------------------------

def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_is_done_twice(plane, client):
    made = []

    def make(path, body):
        made.append(1)
        return 201, {**CODE, "code": f"tbe-{len(made):026d}"}
    plane.answers["POST", "contracts/acme-1/codes"] = make
    plane.hang_ups = 2
    p = client.run("enrol", "acme-1")
    asked = [h["Idempotency-Key"] for m, _, h, _ in plane.seen if m == "POST"]
    assert len(made) == 1 and len(asked) == 3 and len(set(asked)) == 1 and p.stdout == f"tbe-{1:026d}\n"
    assert p.stderr.count("trying again") == 2


def test_a_change_without_any_answer_can_be_said_again_safely(plane, client):
    plane.answers["POST", "contracts/acme-1/codes"] = 201, CODE
    plane.hang_ups = 3
    e = client.run("enrol", "acme-1", rc=6).stderr
    key = re.search(r"--idempotency-key=(\w{32})", e)[1]
    assert "it may be done all the same" in e
    assert client.run("enrol", "acme-1", "--idempotency-key", key).stdout == CODE["code"] + "\n"
    assert {h["Idempotency-Key"] for m, _, h, _ in plane.seen if m == "POST"} == {key}
    for wrong in ("short", "with white space in it", "x" * 101):
        client.run("enrol", "acme-1", "--idempotency-key", wrong, rc=2)


def test_a_server_that_cannot_answer_now_is_asked_again(plane, client):
    answers = [(503, error("busy")), (429, error("too_often")), (200, contract())]
    plane.answers["GET", "contracts/acme-1"] = lambda path, body: answers.pop(0)
    assert "acme-1" in client.run("contract", "show", "acme-1").stdout
    plane.answers["GET", "contracts/acme-1"] = 503, error("unavailable", "the database does not answer")
    assert "the database does not answer; run the command again later" in client.run("contract", "show", "acme-1", rc=6).stderr


@pytest.mark.parametrize("args, status, body, rc, words", [
    (["contract", "show", "acme-q"], 404, error("contract_unknown", "there is no contract acme-q; list them"), 3,
     ["contract acme-q: there is no contract acme-q; did you mean 'acme-1'?"]),
    (["contract", "show", "globex"], 404, error("contract_unknown"), 3, ["contract globex", "tbpkg contract list names"]),
    (["token", "revoke", "opps"], 404, error("token_unknown"), 3, ["did you mean 'ops'?"]),
    (["machine", "expel", "acme-1", "--machine", "m-2"], 404, error("machine_unknown"), 3, ["did you mean 'm-1'?"]),
    (["asset", "show", "my-modle"], 404, error("asset_unknown"), 3, ["did you mean 'my-model'?"]),
    (["asset", "delete", "my-model@7", "-y"], 404, error("asset_unknown", "asset my-model has no version 7; show it"), 3,
     ["asset my-model has no version 7; tbpkg asset show my-model tells what it has"]),
    (["contract", "list"], 404, error("not_found"), 3, ["no control plane, or an older one", "--edc-endpoint"]),
    (["contract", "revoke", "acme-1"], 403, error("scope_missing", details="owner support"), 4,
     ["contract acme-1: the token in", "it needs one of the scopes owner support; an owner makes", "--scope support;"]),
    (["token", "list"], 403, error("scope_missing", details="owner"), 4, ["one of the scopes owner; ", "--scope owner;"]),
    (["contract", "list"], 401, error("unauthorized", "the token ops was revoked; send another"), 4,
     ["does not take the token in", ": the token ops was revoked; if it", "tbpkg token add"]),
    (["contract", "add", "acme-1", "--asset", "a"], 409, error("contract_exists", "contract acme-1 exists; PATCH it"), 5,
     ["contract acme-1 exists; tbpkg contract edit changes it"]),
    (["contract", "add", "acme-1", "--asset", "a"], 422, error("asset_unknown", "there is no asset a; register it first"), 5,
     ["there is no asset a; register it first"]),
    (["asset", "delete", "my-model", "-y"], 409, error("asset_in_use", "contracts name it"), 5,
     ["asset my-model: contracts name it; tbpkg contract list --asset"]),
    (["token", "add", "x", "--scope", "owner"], 400, error("invalid_request", "expires_at is in the past"), 1, ["expires_at is in the past"]),
])
def test_refusals_in_words(plane, client, args, status, body, rc, words):
    path = {"contract add": "contracts", "contract list": "contracts", "token add": "tokens"}.get(" ".join(args[:2]))
    path = path or ("tokens" if args == ["token", "list"] else "assets/my-model/versions/7" if "my-model@7" in args else "machines/expel" if args[0] == "machine" else f"{args[0]}s/{args[2]}" + ("/revoke" if args[:2] == ["contract", "revoke"] else ""))
    method = {"add": "POST", "expel": "POST", "delete": "DELETE"}.get(args[1], "POST" if "/revoke" in path else "DELETE" if args[1] == "revoke" else "GET")
    plane.answers.update({("GET", "contracts"): (200, {"contracts": [contract()]}), ("GET", "machines"): (200, {"machines": [machine()]}),
                          ("GET", "tokens"): (200, {"tokens": [token("ops")]}), ("GET", "assets"): (200, {"assets": [version(1, True)]})})
    plane.answers[method, path] = status, body
    e = client.run(*args, rc=rc).stderr
    for w in words:
        assert w in e, e


def test_transport_failures_in_words(plane, client, tmp_path):
    other = tbsys.CA(tmp_path / "other")
    e = client.run("contract", "list", rc=6, TB_CA_FILE=str(other.cert)).stderr
    assert "--ca-file or TB_CA_FILE" in e and "127.0.0.1" in e
    port = tbsys.free_port()
    e = client.run("contract", "list", "--token-file", client.file, rc=6, TB_EDC_ENDPOINT=f"https://127.0.0.1:{port}").stderr
    assert "check --edc-endpoint and the network" in e and "--idempotency-key" not in e  # it changes nothing
    e = client.run("contract", "list", "--token-file", client.file, rc=6, TB_EDC_ENDPOINT="https://no-such-host.invalid").stderr
    assert "no-such-host.invalid" in e
    for wrong in ("http://cp.example", "cp.example", "https://u:p@cp.example", "https://cp.example/?x=1", None):
        client.run("contract", "list", rc=2, TB_EDC_ENDPOINT=wrong)
    plane.answers["GET", "contracts"] = 200, {"contract": []}
    with pytest.raises(AssertionError):  # the stand-in knows that it is wrong
        assert "answered without 'contracts'" in client.run("contract", "list", rc=1).stderr
        plane.spec.finish()
