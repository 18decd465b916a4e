# SPDX-License-Identifier: Apache-2.0
"""The URLs that the control plane signs, against a real Azurite: by the account's key, and by the managed identity."""

import base64
import contextlib
import email.utils
import http.client
import json
import os
import pathlib
import re
import secrets
import ssl
import time
import urllib.parse

import pytest

import postgresql
import tbsys
from azure_manager import Identity
from controlplane_admin import add_token
from controlplane_server import ASSET, BLOBS, KEY, SEALED, Sealed, Server
from key_services import Refusal, Service


@pytest.fixture(scope="module", params=["http", "https"])
def blobs(request, tmp_path_factory):
    d = tmp_path_factory.mktemp(f"azurite-{request.param}")
    sans = "DNS:localhost,DNS:*.blob.localhost,IP:127.0.0.1"
    tls = tbsys.CA(d / "ca").issue("azurite", sans=sans) if request.param == "https" else None
    a = tbsys.Azurite(d / "data", tls=tls)
    a.start()
    try:
        a.create_container("models")
        for name in ("asset/model.tbenc", "a%20b%2Bc/%C3%A4.tbenc"):
            a.put_blob(f"models/{name}", SEALED.ciphertext)
            a.put_blob(f"models/{name}.json", SEALED.text)
        a.put_blob("models/asset/other.tbenc", SEALED.text)
        (d / "key").write_text(a.key + "\n")
        os.chmod(d / "key", 0o600)
        yield a, d
    finally:
        a.stop()


def fetch(url, method="GET", host=None, body=None):
    """Status and body of an exact URL, without a normalising client in between. host: what to connect to."""
    u = urllib.parse.urlsplit(url)
    target = host or u.hostname
    c = (http.client.HTTPSConnection(target, u.port, context=ssl._create_unverified_context(), timeout=30)
         if u.scheme == "https" else http.client.HTTPConnection(target, u.port, timeout=30))
    try:
        c.request(method, u.path + (f"?{u.query}" if u.query else ""), body=body,
                  headers={"Host": u.netloc, "x-ms-version": "2024-11-04", "x-ms-blob-type": "BlockBlob"})
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


def sas_server(blobs, tmp_path, *options):
    a, d = blobs
    ca = ["--storage-ca", d / "ca" / "ca.crt"] if a.tls else []
    return a, Server(tmp_path / "data", "--storage-account", a.account, "--storage-key-file", d / "key", *ca, *options)


def test_sas_reads_this_blob_and_nothing_else(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path)
    url = f"{a.endpoint}/models/asset/model.tbenc"
    with server as s:
        assert s.register(url, f"{a.endpoint}/models/asset/other.tbenc")[0] == 201
        body = s.authorize()[1]
        sas = body["sas_url"]
        assert fetch(url)[0] in (401, 403, 404)  # the blob is not public
        assert fetch(sas) == (200, SEALED.ciphertext)
        assert fetch(body["manifest_url"]) == (200, SEALED.text)
        assert fetch(sas, "HEAD")[0] == 200
        assert fetch(sas, "PUT", body=b"overwritten")[0] == 403
        assert fetch(sas, "DELETE")[0] == 403
        assert fetch(sas.replace("asset/model.tbenc", "asset/other.tbenc"))[0] == 403
        assert fetch(sas.replace("sp=r", "sp=rw"))[0] == 403
        q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(sas).query))
        assert fetch(sas.replace(q["se"], "2099-01-01T00:00:00Z"))[0] == 403
        flipped = ("B" if q["sig"][0] == "A" else "A") + q["sig"][1:]
        assert fetch(sas.replace(urllib.parse.quote(q["sig"], safe=""), urllib.parse.quote(flipped, safe="")))[0] == 403
        assert q["spr"] == ("https" if a.tls else "https,http")
        st, se = (time.mktime(time.strptime(q[k], "%Y-%m-%dT%H:%M:%SZ")) for k in ("st", "se"))
        assert se - st == 3600 + 300


def test_sas_of_a_host_style_url(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path)
    base = f"{'https' if a.tls else 'http'}://{a.account}.blob.localhost:{a.port}"
    with server as s:
        assert s.register(f"{base}/models/asset/model.tbenc")[0] == 201
        sas = s.authorize()[1]["sas_url"]
        assert sas.startswith(base)
        assert fetch(sas, host="127.0.0.1") == (200, SEALED.ciphertext)
        assert fetch(sas.replace("model.tbenc", "other.tbenc"), host="127.0.0.1")[0] == 403


def test_sas_of_an_odd_name(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path)
    with server as s:
        assert s.register(f"{a.endpoint}/models/a%20b%2Bc/%C3%A4.tbenc")[0] == 201
        assert fetch(s.authorize()[1]["sas_url"]) == (200, SEALED.ciphertext)


def test_sas_expires(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path, "--sas-seconds", "2")
    with server as s:
        s.register(f"{a.endpoint}/models/asset/model.tbenc")
        assert tbsys.wait_for(lambda: fetch(s.authorize()[1]["sas_url"])[0] == 200, 10, "a SAS that is fresh")
        sas = s.authorize()[1]["sas_url"]
        tbsys.wait_for(lambda: fetch(sas)[0] == 403, 15, "the SAS to expire")


def test_blobs_of_other_servers_stay_unsigned_and_are_warned_about(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path)
    with server as s:
        assert s.register()[0] == 201
        assert s.authorize()[1]["sas_url"] == f"{BLOBS.url}/artifacts/{ASSET}.tbenc"
        assert "without a SAS" in s.daemon.log_text()


def test_secrets_are_nowhere(blobs, tmp_path):
    a, server = sas_server(blobs, tmp_path, "--log-level", "debug")
    with server as s:
        assert s.register(f"{a.endpoint}/models/asset/model.tbenc")[0] == 201
        sas = s.authorize()[1]["sas_url"]
        s.register(f"{a.endpoint}/models/asset/model.tbenc", token="f" * 64)
        proc = pathlib.Path(f"/proc/{s.daemon.pid}")
        seen = {n: (proc / n).read_bytes() for n in ("cmdline", "environ")}
        seen["log"] = s.daemon.log_text().encode()
        seen["listings"] = "".join(s.cli(*c, "--json") for c in (("log",), ("asset", "list"), ("contract", "list"))).encode()
        secret = {"key": KEY.encode(), "key bytes": bytes.fromhex(KEY), "token": s.token.encode(), "wrong token": b"f" * 64,
                  "storage key": a.key.encode(), "signature": urllib.parse.urlsplit(sas).query.rpartition("sig=")[2].encode()}
        for f in s.data.iterdir():
            seen[f.name] = f.read_bytes()
        for where, data in seen.items():
            for what, value in secret.items():
                if (where, what) != ("provider.token", "token"):
                    assert value not in data, f"{what} in {where}"
        limits = (proc / "limits").read_text()
        assert re.search(r"Max core file size\s+[01]\s", limits)


# -- by the managed identity: user delegation SAS ----------------------------------------------------------------------

OID, TID = "5c1c1a1b-7a1e-4f0e-9d5e-000000000001", "5c1c1a1b-7a1e-4f0e-9d5e-000000000002"


def jwt(service):
    """As Entra ID makes one; Azurite reads it and does not look at its signature."""
    now = int(time.time())
    claims = {"aud": f"https://{service}", "iss": f"https://sts.windows.net/{TID}/", "iat": now, "nbf": now - 60, "exp": now + 86399,
              "oid": OID, "tid": TID, "ver": "1.0"}
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({"alg": "none", "typ": "JWT"}, claims)) + ".x"


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    """An Azurite of two accounts over TLS that takes Entra's tokens."""
    d = tmp_path_factory.mktemp("azurite-oauth")
    a = tbsys.Azurite(d / "data", tls=tbsys.CA(d / "ca").issue("azurite", sans="DNS:localhost,IP:127.0.0.1"), oauth=True, others=("second",))
    a.start()
    try:
        for name in (a.account, "second"):
            with a.of(name):
                a.create_container("models")
                a.put_blob("models/model.tbenc", SEALED.ciphertext)
                a.put_blob("models/model.tbenc.json", SEALED.text)
                a.put_blob("models/other.tbenc", SEALED.text)
        yield a, d
    finally:
        a.stop()


def delegated(accounts, tmp_path, identity, *options):
    a, d = accounts
    base = a.endpoint.rsplit("/", 1)[0]
    s = Server(tmp_path / "data", "--storage-account", a.account, "--storage-account", "second", "--storage-identity", "--storage-endpoint",
               f"{base}/{a.account}", "--storage-endpoint", f"{base}/second", "--storage-ca", d / "ca/ca.crt", *options)
    s.daemon.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = identity.url
    return s, base


def test_a_url_that_the_identity_signs_opens_the_blob(accounts, tmp_path):
    with Identity(jwt) as identity:
        server, base = delegated(accounts, tmp_path, identity)
        with server as s:
            for name in (accounts[0].account, "second"):
                url = f"{base}/{name}/models/model.tbenc"
                assert s.register(url, asset=f"of-{name}")[0] == 201
                body = s.authorize(asset=f"of-{name}")[1]
                sas = body["sas_url"]
                q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(sas).query))
                assert (q["skoid"], q["sktid"], q["sks"], q["sr"], q["sp"], q["spr"]) == (OID, TID, "b", "b", "r", "https")
                assert fetch(url)[0] in (401, 403, 404) and fetch(sas) == (200, SEALED.ciphertext)
                assert fetch(body["manifest_url"]) == (200, SEALED.text)
                assert fetch(sas, "PUT", body=b"overwritten")[0] == 403 and fetch(sas, "DELETE")[0] == 403
                for old, new in (("model.tbenc", "other.tbenc"), ("sp=r", "sp=rw"), (q["se"], "2099-01-01T00:00:00Z"), (OID, TID),
                                 (urllib.parse.quote(q["ske"], safe=""), "2099-01-01T00%3A00%3A00Z")):
                    assert fetch(sas.replace(old, new))[0] == 403, old
            asked = len(identity.calls)
            for _ in range(5):
                s.authorize(asset="of-second")
            assert len(identity.calls) == asked  # the keys are kept
            secret = urllib.parse.quote(q["sig"], safe="")
            assert secret not in s.daemon.log_text()
        assert not list(tmp_path.glob("**/*storage*key*"))


class Delegator(Service):
    """Get User Delegation Key alone, strict, over TLS: what Azurite does not do. clock: what its clock is ahead by."""

    def __init__(self, directory):
        self.clock, self.denied, self.asked, self.key = 0, False, [], base64.b64encode(secrets.token_bytes(32)).decode()
        super().__init__(tls=tbsys.CA(directory / "ca").issue("blob", sans="DNS:localhost,IP:127.0.0.1"))

    def date(self):
        return email.utils.formatdate(time.time() + self.clock, usegmt=True)

    def handle(self, method, path, headers, body):
        if (method, path) != ("POST", "/acct/?restype=service&comp=userdelegationkey") or headers.get("x-ms-version", "") < "2018-11-09":
            raise Refusal(400, "<Error><Code>InvalidQueryParameterValue</Code></Error>")
        if not headers.get("Authorization", "").startswith("Bearer "):
            raise Refusal(401, "<Error><Code>NoAuthenticationInformation</Code></Error>")
        if self.denied:
            raise Refusal(403, "<Error><Code>AuthorizationPermissionMismatch</Code></Error>")
        m = re.fullmatch(rb'<\?xml version="1.0" encoding="utf-8"\?><KeyInfo><Start>(.*)</Start><Expiry>(.*)</Expiry></KeyInfo>', body)
        start, end = (time.mktime(time.strptime(t.decode(), "%Y-%m-%dT%H:%M:%SZ")) - time.timezone for t in m.groups())
        now = time.time() + self.clock
        self.asked.append((start, end))
        if not start < end or end <= now or end > now + 7 * 86400 or end - start > 7 * 86400:
            raise Refusal(400, "<Error><Code>InvalidXmlNodeValue</Code></Error>")
        return ("\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey>"
                f"<SignedOid>{OID}</SignedOid><SignedTid>{TID}</SignedTid><SignedStart>{m[1].decode()}</SignedStart>"
                f"<SignedExpiry>{m[2].decode()}</SignedExpiry><SignedService>b</SignedService><SignedVersion>2020-12-06</SignedVersion>"
                f"<Value>{self.key}</Value></UserDelegationKey>")


@pytest.fixture()
def delegator(tmp_path):
    with Delegator(tmp_path) as d:
        yield d


def place(delegator, tmp_path, identity, *options):
    """A server whose blobs are public where they lie, and are signed all the same: host-style URLs of the account."""
    s = Server(tmp_path / "data", "--storage-account", "acct", "--storage-identity", "--storage-endpoint", delegator.url + "/acct", "--storage-ca",
               tmp_path / "ca/ca.crt", *options)
    s.daemon.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = identity.url
    return s


def put_of_account():
    """A blob whose URL is one of the account `acct`: path style; its server looks at no signature."""
    plain = BLOBS.put(SEALED, "signed")
    path = urllib.parse.urlsplit(plain).path
    for suffix in ("", ".json"):
        BLOBS.files["/acct" + path + suffix] = BLOBS.files[path + suffix]
    return f"{BLOBS.url}/acct{path}"


def test_the_storages_clock_is_heeded(delegator, tmp_path):
    """An hour before or behind: the URLs have the storage's times."""
    url = put_of_account()
    for n, clock in enumerate((3600, -3600, 9 * 86400, 0)):
        delegator.clock = clock
        with Identity(jwt) as identity, place(delegator, tmp_path / str(n), identity, "--storage-ca", tmp_path / "ca/ca.crt") as s:
            assert s.register(url)[0] == 201
            q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(s.authorize()[1]["sas_url"]).query))
            st, se = (time.mktime(time.strptime(q[k], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone for k in ("st", "se"))
            assert st < time.time() + clock < se and se - st == 3900, clock
            assert ("clock is" in s.daemon.log_text()) == (clock != 0)


def test_a_storage_that_gives_no_key_is_said_and_asked_again(delegator, tmp_path):
    url = put_of_account()
    with Identity(jwt) as identity, place(delegator, tmp_path, identity) as s:
        delegator.denied = True
        status, body, _ = s.register(url)
        assert (status, body["error"]) == (503, "storage_unavailable")
        assert "Storage Blob Delegator" in s.daemon.log_text()
        delegator.denied = False
        tbsys.wait_for(lambda: s.register(url)[0] == 201, what="the key")
        identity.down = delegator.denied = True
        assert s.authorize()[1]["status"] == "authorized"  # by the key that is there
    with Identity(jwt) as identity, place(delegator, tmp_path, identity) as s:
        before = s.cli("log", "--json")
        status, body = s.authorize()
        assert (status, body["reason"]) == (503, "storage_unavailable") and "decryption_key_hex" not in body
        assert s.cli("log", "--json") == before  # no verdict
        delegator.denied = False
        tbsys.wait_for(lambda: s.authorize()[0] == 200, what="the key")


def test_settings_of_accounts(tmp_path):
    key = tmp_path / "key"
    key.write_text("AAEC")
    for options, words in ((["--storage-account", "acct", "--storage-identity", "--storage-key-file", key], "exclude each other"),
                           (["--storage-identity"], "go together"),
                           (["--storage-account", "acct", "--storage-account", "second", "--storage-key-file", key], "one for each"),
                           (["--storage-account", "acct", "--storage-identity", "--storage-endpoint", "http://127.0.0.1/acct"], "--storage-endpoint"),
                           (["--storage-account", "acct", "--storage-key-file", key, "--storage-endpoint", "https://x"], "--storage-endpoint")):
        s = Server(tmp_path / "data")
        assert words in s.cli("serve", "--listen", "127.0.0.1:0", *map(str, options), rc=64), options


# -- several places of one asset ---------------------------------------------------------------------------------------

def places(*names, sealed=SEALED):
    urls = [BLOBS.put(sealed, n) for n in names]
    return {"blob_urls": {"ciphertext": urls[0], "manifest": urls[0] + ".json",
                          "further": [{"ciphertext": u, "manifest": u + ".json"} for u in urls[1:]]}}, urls


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_places_are_dealt_by_machine(tmp_path, database):
    server = postgresql.PostgreSQL() if database == "postgresql" else contextlib.nullcontext()
    with server as postgres, Server(tmp_path / "data", database=postgres.create("places") if postgres else None) as s:
        if postgres:
            s.cli("contract", "add", "contract-allow", "--asset", "*", "--mode", "open")
        more, urls = places("p0", "p1", "p2", "p3")
        assert s.register(**more)[0] == 201
        first = {}
        for n in range(80):
            body = s.authorize(hw=f"machine-{n}")[1]
            order = [body["sas_url"], *(f["sas_url"] for f in body["fallbacks"])]
            assert len(set(order)) == 3 and set(order) < set(urls)
            assert [body["manifest_url"], *(f["manifest_url"] for f in body["fallbacks"])] == [u + ".json" for u in order]
            assert s.authorize(hw=f"machine-{n}")[1]["sas_url"] == order[0]
            first.setdefault(order[0], []).append(n)
        shown = add_token(s, "auditor").get(f"/assets/{ASSET}")["versions"][0]
        assert [shown["ciphertext_url"], *shown["copies"]] == urls
        assert set(first) == set(urls) and max(map(len, first.values())) < 40
        # registered again without one of them: its machines move, the others stay
        gone = urls[3]
        more["blob_urls"]["further"] = more["blob_urls"]["further"][:2]
        assert s.register(**more)[0] == 200
        for url, machines in first.items():
            for n in machines:
                assert (s.authorize(hw=f"machine-{n}")[1]["sas_url"] == url) == (url != gone)
        assert '"places":"4"' in s.cli("changes") and '"places":"3"' in s.cli("changes")
        del more["blob_urls"]["further"]
        assert s.register(**more)[0] == 200
        assert "fallbacks" not in s.authorize()[1]


def test_each_place_is_proved(tmp_path):
    with Server(tmp_path / "data") as s:
        more, urls = places("q0", "q1", "q2")
        other = Sealed(key="11" * 32, plaintext=b"others " * 300)
        for damage, status, error in ((lambda: BLOBS.put(other, "q2"), 422, "wrong_manifest"),
                                      (lambda: BLOBS.files.update({"/artifacts/q2.tbenc": SEALED.ciphertext[:-9]}), 422, "wrong_blob"),
                                      (lambda: BLOBS.files.pop("/artifacts/q2.tbenc"), 422, "blob_missing"),
                                      (lambda: BLOBS.faults.update({"/artifacts/q2.tbenc": 503}), 503, "storage_unavailable")):
            BLOBS.put(SEALED, "q2")
            damage()
            got, body, _ = s.register(**more)
            assert (got, body["error"]) == (status, error) and body["details"].startswith(f"at {BLOBS.url}: "), body
        BLOBS.faults.clear()
        assert s.authorize()[1]["reason"] == "asset_unknown"
        for further, words in (({}, "not an array"), ([7], "not an object"), ([{"ciphertext": urls[1]}], "manifest"),
                               ([{"ciphertext": urls[0], "manifest": urls[0]}], "twice"),
                               ([{"ciphertext": "https://h/c?sig=SECRET", "manifest": urls[1]}], "query"),
                               ([{"ciphertext": f"{BLOBS.url}/artifacts/{n}", "manifest": urls[0]} for n in range(16)], "15 places")):
            more["blob_urls"]["further"] = further
            got, body, _ = s.register(**more)
            assert got == 400 and words in body["details"] and "SECRET" not in json.dumps(body), body
