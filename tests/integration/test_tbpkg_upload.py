# SPDX-License-Identifier: Apache-2.0
"""tbpkg upload against a real Azurite, with faults on the way to it."""
import base64
import email.utils
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import urllib.parse

import pytest

import tbsys
from faultproxy import (FaultProxy, corrupt_upload, hold, lose_reply, reset, reset_upload, status, swallow)

ASSET, CONTAINER, BLOCK = "tb-asset-up-001", "models", 64 * 1024
ROLE = "Storage Blob Data Contributor"


def run(*args, env=None, timeout=60):
    e = {"PATH": os.environ["PATH"], "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"}
    e.update({k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")})
    e.update(env or {})
    return subprocess.run([tbsys.program("tbpkg"), *map(str, args)], env=e, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    """(directory, ciphertext path, manifest path) of about 3 MB: 47 blocks of 64 KiB."""
    d = tmp_path_factory.mktemp("asset")
    (d / "plain").write_bytes(os.urandom(3_000_000))
    r = run("encrypt", "--asset-id", ASSET, "--in", d / "plain", "--out", d / "model.tbenc", "--manifest",
            d / "model.manifest.json", "--key-out", d / "key", "--chunk-bytes", 65536, "-q")
    assert r.returncode == 0, r.stderr
    return d, d / "model.tbenc", d / "model.manifest.json"


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    a = tbsys.Azurite(tmp_path_factory.mktemp("azurite")).start()
    yield a
    a.stop()


_count = 0


@pytest.fixture
def place(azurite, tmp_path):
    """A fresh container behind a fault proxy, and the options that name it."""
    global _count
    _count += 1
    container = f"{CONTAINER}{_count}"
    azurite.create_container(container)
    key = tmp_path / "account.key"
    key.write_text(azurite.key + "\n")
    with FaultProxy(azurite.endpoint) as p:
        yield Place(azurite, p, container, key)


class Place:
    def __init__(self, azurite, proxy, container, key_file):
        self.azurite, self.proxy, self.container, self.key_file = azurite, proxy, container, key_file
        self.endpoint = f"{proxy.url}/{azurite.account}"

    def argv(self, asset, *more, key=True):
        a = ["upload", "--storage-account", self.azurite.account, "--container", self.container, "--asset-id", ASSET,
             "--encrypted-file", asset[1], "--manifest", asset[2], "--endpoint", self.endpoint, "--block-bytes", "64K",
             "--concurrency", 4]
        return [*a, *(["--account-key-file", self.key_file] if key else []), *more]

    def upload(self, asset, *more, key=True, env=None):
        return run(*self.argv(asset, *more, key=key), env=env)

    def blob(self, name):
        return self.azurite.get_blob(f"{self.container}/{ASSET}/{name}")

    def check(self, asset):
        assert self.blob("model.tbenc") == asset[1].read_bytes()
        assert self.blob("model.manifest.json") == asset[2].read_bytes()

    def puts(self, **more):
        return self.proxy.select(method="PUT", args={"comp": "block"}, **more)

    def commits(self):
        return self.proxy.select(method="PUT", args={"comp": "blocklist"})


def n_blocks(asset):
    return -(-asset[1].stat().st_size // BLOCK)


def fails(r, *words, rc=1):
    assert r.returncode == rc, (r.returncode, r.stderr)
    assert r.stdout == ""
    assert "Sanitizer" not in r.stderr
    for w in words:
        assert w in r.stderr, r.stderr


# -- the straight way --------------------------------------------------------------------------------------------------

def test_upload_then_nothing_to_do(place, asset):
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    place.check(asset)
    base = f"{place.endpoint}/{place.container}/{ASSET}"
    assert r.stdout.splitlines() == [f"{base}/model.tbenc", f"{base}/model.manifest.json"]
    puts = place.puts()
    assert len(puts) == n_blocks(asset)
    assert {p.headers["x-ms-version"] for p in place.proxy.requests} == {"2024-11-04"}
    ids = [p.args["blockid"] for p in puts]
    assert len(set(ids)) == len(ids) and len({len(i) for i in ids}) == 1
    assert all(len(base64.b64decode(p.headers["Content-MD5"])) == 16 for p in puts)
    # the manifest last
    assert place.proxy.select(method="PUT")[-1].path.endswith("/model.manifest.json")
    _, headers, _ = place.azurite.request("HEAD", f"{place.container}/{ASSET}/model.tbenc")
    assert headers["x-ms-meta-sha256"] == hashlib.sha256(asset[1].read_bytes()).hexdigest()

    place.proxy.clear()
    r = place.upload(asset, "--json")
    assert r.returncode == 0, r.stderr
    assert place.proxy.select(method="PUT") == []
    doc = json.loads(r.stdout)
    assert doc["asset_id"] == ASSET and doc["ciphertext"]["bytes_sent"] == 0
    assert doc["ciphertext"]["sha256"] == hashlib.sha256(asset[1].read_bytes()).hexdigest()


def test_one_block_and_verify(place, asset):
    r = place.upload(asset, "--block-bytes", "8M", "--verify")
    assert r.returncode == 0, r.stderr
    assert len(place.puts()) == 1
    place.check(asset)


def test_same_blob_of_another_program(place, asset):
    """A blob without our metadata but with its MD5 is recognised."""
    body = asset[1].read_bytes()
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    st, _, text = place.azurite.request("PUT", f"{place.container}/{ASSET}/model.tbenc", body,
                                        {"x-ms-blob-type": "BlockBlob", "content-md5": md5})
    assert st == 201, text
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    assert place.puts() == [] and place.commits() == []
    place.check(asset)


def test_tls(asset, azurite, tmp_path):
    """https with a private authority, and not without it."""
    ca = tbsys.CA(tmp_path / "ca")
    container = "tls-container"
    azurite.create_container(container)
    key = tmp_path / "key"
    key.write_text(azurite.key)
    with FaultProxy(azurite.endpoint, tls=ca.issue("blob")) as p:
        place = Place(azurite, p, container, key)
        fails(place.upload(asset, "--retries", 0), "certificate", "--ca-file", rc=6)
        r = place.upload(asset, env={"TB_CA_FILE": ca.cert})
        assert r.returncode == 0, r.stderr
        place.check(asset)


# -- resuming ----------------------------------------------------------------------------------------------------------

def test_resume_after_sigkill(place, asset):
    gate = threading.Event()
    place.proxy.rule(hold(gate), method="PUT", args={"comp": "block"}, nth=range(21, 1000))
    argv = [tbsys.program("tbpkg"), *map(str, place.argv(asset))]
    p = subprocess.Popen(argv, env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place.proxy.wait(24, method="PUT", args={"comp": "block"})  # 20 done, 4 held on their way
    assert place.blob("model.tbenc") is None and place.commits() == []
    p.send_signal(signal.SIGKILL)
    assert p.wait(10) == -signal.SIGKILL
    place.proxy.clear_rules()
    first = {r.args["blockid"] for r in place.puts() if r.status == 201}
    in_flight = {r.args["blockid"] for r in place.puts()} - first
    assert len(first) == 20 and 0 < len(in_flight) <= 4
    gate.set()
    tbsys.wait_for(lambda: all(r.done for r in place.proxy.requests), 20, "held requests to end")
    place.proxy.clear()

    r = place.upload(asset, "--json")
    assert r.returncode == 0, r.stderr
    again = [q.args["blockid"] for q in place.puts()]
    assert len(again) == len(set(again)), "a block was sent twice"
    assert not set(again) & first, "a finished block was sent again"
    assert n_blocks(asset) - 20 - len(in_flight) <= len(again) <= n_blocks(asset) - 20
    doc = json.loads(r.stdout)["ciphertext"]
    assert doc["bytes_resumed"] >= 20 * BLOCK and doc["bytes_sent"] + doc["bytes_resumed"] == doc["bytes"]
    place.check(asset)


def test_blocks_of_other_contents_are_not_taken(place, asset, tmp_path):
    """Another encryption of the same size left blocks: none of them ends in our blob."""
    other = bytearray(asset[1].read_bytes())
    other[100_000] ^= 1
    bad = tmp_path / "model.tbenc"
    bad.write_bytes(other)
    r = place.upload((None, bad, asset[2]))
    fails(r, "SHA-256", "nothing was committed")
    assert place.commits() == [] and place.blob("model.tbenc") is None
    place.proxy.clear()
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    assert len(place.puts()) == 1  # only the block that differed
    place.check(asset)


def test_interrupt_says_how_to_go_on(place, asset):
    place.proxy.rule(swallow(), method="PUT", args={"comp": "block"}, nth=range(5, 1000))
    argv = [tbsys.program("tbpkg"), *map(str, place.argv(asset))]
    p = subprocess.Popen(argv, env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    place.proxy.wait(6, method="PUT", args={"comp": "block"})
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=10)[1]
    assert p.returncode == 130 and "resume" in err


# -- faults ------------------------------------------------------------------------------------------------------------

def test_busy_with_retry_after(place, asset):
    place.proxy.rule(status(503, {"Retry-After": "2", "x-ms-error-code": "ServerBusy"}), method="PUT",
                     args={"comp": "block"}, nth=3)
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    hit = next(q for q in place.puts() if q.rule)
    again = [q for q in place.puts() if q.args["blockid"] == hit.args["blockid"] and not q.rule]
    assert len(again) == 1 and again[0].time - hit.time >= 1.9
    assert len(place.puts()) == n_blocks(asset) + 1
    place.check(asset)


@pytest.mark.parametrize("fault", [reset(after=None), reset_upload(1000), lose_reply(), status(500), status(429), status(408),
                                   corrupt_upload(5),
                                   status(400, {"x-ms-error-code": "Md5Mismatch"})], ids=lambda f: f.name)
def test_one_bad_block_is_repeated(place, asset, fault):
    place.proxy.rule(fault, method="PUT", args={"comp": "block"}, nth={2, 10})
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    assert len(place.puts()) == n_blocks(asset) + 2
    place.check(asset)


def test_stalled_transfer_is_repeated(place, asset):
    place.proxy.rule(swallow(), method="PUT", args={"comp": "block"}, nth=2)
    r = place.upload(asset, "--timeout", 2)
    assert r.returncode == 0, r.stderr
    assert len(place.puts()) == n_blocks(asset) + 1
    place.check(asset)


def test_md5_refused_for_good(place, asset):
    place.proxy.rule(corrupt_upload(5), method="PUT", args={"comp": "block"})
    r = place.upload(asset, "--retries", 1)
    fails(r, "model.tbenc", "damaged")
    assert place.commits() == []


@pytest.mark.parametrize("which", ["commit", "manifest"])
def test_lost_answer_of_the_commit(place, asset, which):
    """The service did it, we did not hear it: the repetition meets its own work and is content."""
    criteria = {"args": {"comp": "blocklist"}} if which == "commit" else {"path": "manifest.json$"}
    place.proxy.rule(lose_reply(), method="PUT", nth=1, **criteria)
    r = place.upload(asset)
    assert r.returncode == 0, r.stderr
    place.check(asset)


def test_somebody_else_commits_meanwhile(place, asset):
    gate = threading.Event()
    place.proxy.rule(hold(gate), method="PUT", args={"comp": "blocklist"}, nth=1)
    argv = [tbsys.program("tbpkg"), *map(str, place.argv(asset))]
    p = subprocess.Popen(argv, env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    place.proxy.wait(1, method="PUT", args={"comp": "blocklist"})
    place.azurite.put_blob(f"{place.container}/{ASSET}/model.tbenc", b"theirs")
    gate.set()
    err = p.communicate(timeout=30)[1]
    assert p.returncode == 1 and "model.tbenc" in err
    assert place.blob("model.tbenc") == b"theirs" and place.blob("model.manifest.json") is None


def test_service_away(place, asset):
    place.endpoint = f"http://127.0.0.1:{tbsys.free_port()}/{place.azurite.account}"
    fails(place.upload(asset), "127.0.0.1", "check the network", rc=6)


# -- refusals ----------------------------------------------------------------------------------------------------------

def test_missing_container(place, asset):
    place.container = "nosuchcontainer"
    r = place.upload(asset)
    fails(r, "container 'nosuchcontainer' does not exist", place.azurite.account,
          f"az storage container create --account-name {place.azurite.account} --name nosuchcontainer", rc=3)


def test_wrong_key(place, asset):
    place.key_file.write_text(base64.b64encode(b"x" * 64).decode())
    r = place.upload(asset)
    fails(r, "403", "account key", "clock", rc=4)
    assert base64.b64encode(b"x" * 64).decode() not in r.stderr


def test_account_without_keys(place, asset):
    place.proxy.rule(status(403, {"x-ms-error-code": "KeyBasedAuthenticationNotPermitted"}))
    fails(place.upload(asset), "does not allow account keys", "az login", ROLE, place.azurite.account, rc=4)


def test_another_file_is_not_replaced(place, asset):
    """As the version before is none: this one goes aside, under its key's id, and stays there."""
    path = f"{place.container}/{ASSET}/model.tbenc"
    place.azurite.put_blob(path, b"somebody's model")
    key_id = json.loads(asset[2].read_text())["key_id"]
    aside = f"{key_id}/model.tbenc"
    r = place.upload(asset)
    assert r.returncode == 0 and f"/{ASSET}/{aside}" in r.stdout and f" --blob-url {r.stdout.split()[0]}\n" in r.stderr, r
    assert place.blob("model.tbenc") == b"somebody's model" and place.blob("model.manifest.json") is None
    assert place.blob(aside) == asset[1].read_bytes() and place.blob(f"{key_id}/model.manifest.json") == asset[2].read_bytes()
    sent = len(place.puts())
    r = place.upload(asset)
    assert r.returncode == 0 and "Everything is there already" in r.stderr and len(place.puts()) == sent
    assert place.azurite.request("DELETE", path)[0] == 202
    r = place.upload(asset)
    assert r.returncode == 0 and "Everything is there already" in r.stderr and place.blob("model.tbenc") is None


def test_another_file_in_both_places_is_not_replaced(place, asset):
    key_id = json.loads(asset[2].read_text())["key_id"]
    for name in ("model.tbenc", f"{key_id}/model.tbenc"):
        place.azurite.put_blob(f"{place.container}/{ASSET}/{name}", b"somebody's model")
    r = place.upload(asset)
    fails(r, "another file", "--force", rc=5)
    assert place.proxy.select(method="PUT") == [] and place.blob("model.tbenc") == b"somebody's model"
    r = place.upload(asset, "--force")
    assert r.returncode == 0, r.stderr
    place.check(asset)


def test_asset_and_manifest_must_fit(place, asset, tmp_path):
    short = tmp_path / "model.tbenc"
    short.write_bytes(asset[1].read_bytes()[:-1])
    fails(place.upload((None, short, asset[2])), "bytes, its manifest says")
    doc = json.loads(asset[2].read_text())
    doc["asset_id"] = "other"
    m = tmp_path / "m.json"
    m.write_text(json.dumps(doc))
    fails(place.upload((None, asset[1], m)), "'other'", ASSET)
    bad = tmp_path / "bad.tbenc"
    data = bytearray(asset[1].read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    fails(place.upload((None, bad, asset[2]), "--verify"), "bad.tbenc")
    fails(place.upload((None, tmp_path / "absent", asset[2])), "absent")
    assert place.proxy.requests == []


@pytest.mark.parametrize("args,words", [
    (["--container", "Bad_Name"], "--container"),
    (["--asset-id", "a/b"], "--asset-id"),
    (["--block-bytes", "1"], "--block-bytes"),
    (["--concurrency", "0"], "--concurrency"),
    (["surplus"], "surplus"),
])
def test_usage(place, asset, args, words):
    r = place.upload(asset, *args)
    assert r.returncode == 2 and words in r.stderr and r.stdout == ""
    assert place.proxy.requests == []


@pytest.mark.parametrize("endpoint,words", [
    ("http://192.0.2.1/acct", "https://"),
    ("https://h/?sv=1&sig=SECRETSIG", "query"),
    ("https://u:SECRETSIG@h/", "user name"),
    ("ftp://h/", "https://"),
])
def test_bad_endpoint(place, asset, endpoint, words):
    place.endpoint = endpoint
    r = place.upload(asset)
    fails(r, words)
    assert "SECRETSIG" not in r.stderr


# -- credentials -------------------------------------------------------------------------------------------------------

def service_sas(azurite, container, permissions, seconds=600):
    """A service SAS for a container, version 2022-11-02."""
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    sv = "2022-11-02"
    fields = [permissions, "", expiry, f"/blob/{azurite.account}/{container}", "", "", "", sv, "c", "", "", "", "", "", "", ""]
    mac = hmac.new(base64.b64decode(azurite.key), "\n".join(fields).encode(), hashlib.sha256).digest()
    return urllib.parse.urlencode({"sv": sv, "se": expiry, "sr": "c", "sp": permissions,
                                   "sig": base64.b64encode(mac).decode()})


def test_sas(place, asset, tmp_path):
    sas = service_sas(place.azurite, place.container, "rcw")
    f = tmp_path / "sas"
    f.write_text("?" + sas + "\n")
    r = place.upload(asset, "--sas-file", f, "-v", key=False)
    assert r.returncode == 0, r.stderr
    assert "--sas-file" in r.stderr and "sig=" not in r.stderr + r.stdout
    assert all("Authorization" not in q.headers for q in place.proxy.requests)
    place.check(asset)


@pytest.mark.parametrize("permissions,seconds,of,why", [("r", 600, None, "may not write"), ("rcw", -600, None, "ended at"),
                                                        ("rcw", 600, "another", "403")], ids=["reads", "ended", "of another container"])
def test_sas_refused(place, asset, permissions, seconds, of, why):
    """By what it says itself; and what it does not say, by the service."""
    sas = service_sas(place.azurite, of or place.container, permissions, seconds)
    r = place.upload(asset, key=False, env={"AZURE_STORAGE_SAS_TOKEN": sas})
    fails(r, why, "sp=rcw", "AZURE_STORAGE_SAS_TOKEN", rc=4)
    assert urllib.parse.parse_qs(sas)["sig"][0] not in r.stderr and "sig=" not in r.stderr


def test_connection_string(place, asset, tmp_path):
    text = (f"DefaultEndpointsProtocol=http;AccountName={place.azurite.account};AccountKey={place.azurite.key};"
            f"BlobEndpoint={place.endpoint};")
    argv = place.argv(asset, key=False)
    for option in ("--storage-account", "--endpoint"):
        i = argv.index(option)
        del argv[i:i + 2]
    r = run(*argv, "-v", env={"AZURE_STORAGE_CONNECTION_STRING": text})
    assert r.returncode == 0, r.stderr
    assert "AZURE_STORAGE_CONNECTION_STRING" in r.stderr and place.azurite.key not in r.stderr
    place.check(asset)
    f = tmp_path / "cs"
    f.write_text(text)
    r = run(*argv, "--connection-string-file", f, "--storage-account", "otheraccount")
    fails(r, "otheraccount", place.azurite.account)


def test_files_win_over_the_environment(place, asset):
    r = place.upload(asset, "-v", env={"AZURE_STORAGE_KEY": base64.b64encode(b"y" * 64).decode()})
    assert r.returncode == 0 and "--account-key-file" in r.stderr
    place.check(asset)


def test_secret_leaves_the_environment(place, asset):
    """While it works, /proc/PID/environ shows no key any more."""
    gate = threading.Event()
    place.proxy.rule(hold(gate), method="HEAD", nth=1)
    env = {"PATH": os.environ["PATH"], "AZURE_STORAGE_KEY": place.azurite.key}
    p = subprocess.Popen([tbsys.program("tbpkg"), *map(str, place.argv(asset, key=False))], env=env,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place.proxy.wait(1, method="HEAD")
    seen = pathlib.Path(f"/proc/{p.pid}/environ").read_bytes() + pathlib.Path(f"/proc/{p.pid}/cmdline").read_bytes()
    gate.set()
    assert p.wait(30) == 0
    assert b"AZURE_STORAGE_KEY" in seen and place.azurite.key.encode() not in seen


class Issuer:
    """Entra and IMDS in one: answers any request with the next of `answers`, records them."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                issuer.seen.append((self.command, self.path, body, self.headers))
                code, doc = issuer.answers.pop(0) if len(issuer.answers) > 1 else issuer.answers[0]
                data = json.dumps(doc).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            do_POST = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_service_principal_without_role(place, asset):
    place.proxy.rule(status(403, {"x-ms-error-code": "AuthorizationPermissionMismatch"}))
    with Issuer((200, {"access_token": "TOKEN1", "expires_in": 3599})) as entra:
        r = place.upload(asset, key=False, env={
            "AZURE_TENANT_ID": "tenant.example", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": "s3cret&+/ x",
            "AZURE_AUTHORITY_HOST": entra.url + "/"})
    fails(r, ROLE, "AuthorizationPermissionMismatch", rc=4)
    method, path, body, _ = entra.seen[0]
    assert (method, path) == ("POST", "/tenant.example/oauth2/v2.0/token")
    form = {k: v[0] for k, v in urllib.parse.parse_qs(body, strict_parsing=True).items()}
    assert form == {"grant_type": "client_credentials", "client_id": "client-1", "client_secret": "s3cret&+/ x",
                    "scope": "https://storage.azure.com/.default"}
    assert place.proxy.requests[0].headers["Authorization"] == "Bearer TOKEN1"
    assert "TOKEN1" not in r.stderr and "s3cret" not in r.stderr


def test_managed_identity_and_renewal_on_401(place, asset):
    """A refused token is fetched anew once; IMDS that is busy is asked again."""
    place.proxy.rule(status(401, {"x-ms-error-code": "InvalidAuthenticationInfo"}), nth=1)
    place.proxy.rule(status(403))
    with Issuer((429, {}), (200, {"access_token": "OLD", "expires_on": str(int(time.time()) + 3600)}),
                (200, {"access_token": "NEW", "expires_in": "3600"})) as imds:
        r = place.upload(asset, "-v", key=False, env={"AZURE_POD_IDENTITY_AUTHORITY_HOST": imds.url})
    fails(r, "managed identity", ROLE, rc=4)
    assert len(imds.seen) == 3
    assert urllib.parse.urlsplit(imds.seen[0][1]).path == "/metadata/identity/oauth2/token"
    assert "resource=https%3A%2F%2Fstorage.azure.com%2F" in imds.seen[0][1]
    assert imds.seen[0][3]["Metadata"] == "true"
    assert [q.headers["Authorization"] for q in place.proxy.requests][:2] == ["Bearer OLD", "Bearer NEW"]


def test_entra_refuses(place, asset):
    with Issuer((401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret.\r\nTrace"})) as e:
        r = place.upload(asset, key=False, env={"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "zzz",
                                                "AZURE_AUTHORITY_HOST": e.url})
    fails(r, "AADSTS7000215", rc=4)
    assert "zzz" not in r.stderr and "Trace" not in r.stderr
    assert place.proxy.requests == []


@pytest.fixture
def fake_az(tmp_path):
    def make(script):
        d = tmp_path / "bin"
        d.mkdir(exist_ok=True)
        (d / "az").write_text("#!/bin/sh\n" + script)
        (d / "az").chmod(0o755)
        return f"{d}:{os.environ['PATH']}"
    return make


def test_azure_cli(place, asset, fake_az, tmp_path):
    path = fake_az(f"""echo "$@" > {tmp_path}/args\necho '{{"accessToken": "FROMAZ", "expires_on": {int(time.time()) + 3000}}}'\n""")
    place.proxy.rule(status(403))
    env = {"PATH": path, "AZURE_POD_IDENTITY_AUTHORITY_HOST": ""}
    r = place.upload(asset, "-v", key=False, env=env)
    fails(r, "the Azure CLI", ROLE, rc=4)
    assert place.proxy.requests[0].headers["Authorization"] == "Bearer FROMAZ"
    assert (tmp_path / "args").read_text().split() == ["account", "get-access-token", "--resource",
                                                       "https://storage.azure.com/", "-o", "json"]
    r = place.upload(asset, key=False, env=dict(env, PATH=fake_az("exit 1\n")))
    fails(r, "az login", rc=4)


def test_no_credential_lists_the_ways(place, asset, tmp_path):
    r = place.upload(asset, key=False, env={"PATH": str(tmp_path), "AZURE_POD_IDENTITY_AUTHORITY_HOST": ""})
    fails(r, "no credential", "--sas-file", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET", "az login", rc=4)
    assert place.proxy.requests == []


def test_unusable_secret_is_not_skipped(place, asset):
    r = place.upload(asset, key=False, env={"AZURE_STORAGE_KEY": "not base64!", "AZURE_ACCESS_TOKEN": "t"})
    fails(r, "AZURE_STORAGE_KEY", "account key")
    assert "not base64!" not in r.stderr


def test_date_header_is_now(place, asset):
    assert place.upload(asset).returncode == 0
    sent = email.utils.parsedate_to_datetime(place.proxy.requests[0].headers["x-ms-date"]).timestamp()
    assert abs(sent - time.time()) < 120
