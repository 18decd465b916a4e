# SPDX-License-Identifier: Apache-2.0
"""Tokens of an OpenID provider, which a stand-in signs with real keys."""

import json
import threading
import time

import pytest

import tbsys
from controlplane_admin import Caller
from controlplane_server import Server
from oidc_issuer import Issuer
from token_issuer import Key, b64

RSA, EC, OTHER = Key("rsa-1"), Key("ec-1", "ES256"), Key("rsa-1")  # OTHER says that it is the first
UNLIMITED = ("--client-rate", "4294967295")


def options(issuer, claim=None, scopes=("tb-admins=owner", "tb-sales=support", "a=b=auditor")):
    return ("--oidc-issuer", issuer.url, "--oidc-audience", "trustbridge", *(f"--oidc-scope={s}" for s in scopes),
            *(("--oidc-claim", claim) if claim else ()))


@pytest.fixture(scope="module")
def issuer():
    made = Issuer(RSA, EC)
    yield made
    made.close()


@pytest.fixture
def server(issuer, tmp_path):
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        yield s


def whoami(server, token):
    status, answer, _ = Caller(server, token).call("GET", "/whoami")
    return answer if status == 200 else (status, answer["error"], answer["message"])


def test_people_are_who_their_token_says(server, issuer):
    for key in (RSA, EC):
        me = whoami(server, issuer.token(key))
        assert (me["name"], me["kind"], me["scopes"]) == ("oidc:alice", "oidc", ["owner"])
    assert whoami(server, issuer.token(roles=["x", "tb-sales"], sub="bob@example"))["scopes"] == ["support"]
    assert whoami(server, issuer.token(roles="tb-sales tb-admins"))["scopes"] == ["owner", "support"]
    assert whoami(server, issuer.token(roles=["a=b"]))["scopes"] == ["auditor"]
    assert whoami(server, issuer.token(aud=["other", "trustbridge"]))["scopes"] == ["owner"]
    assert whoami(server, issuer.token(aud="trustbridge", nbf=None, iat=None))["scopes"] == ["owner"]
    assert whoami(server, issuer.token(exp=time.time() + 100.75))["scopes"] == ["owner"]
    for roles in (None, [], ["tb-admin"], "tb-adminsx", {"tb-admins": True}, [["tb-admins"]], 7):
        assert whoami(server, issuer.token(roles=roles))[:2] == (403, "scope_missing"), roles
    Caller(server, issuer.token(sub="carol")).do("POST", "/contracts", {"contract_id": "by-carol", "asset_id": "*", "mode": "open"}, 201)
    change = json.loads(server.cli("changes").splitlines()[-1])
    assert (change["actor"], change["scopes"], change["object"]) == ("oidc:carol", "owner", "by-carol")


def test_what_is_not_good_is_refused(issuer, tmp_path):
    """Each on a server of its own, which counts a guess."""
    now = int(time.time())
    good = issuer.token()
    head, body, sig = good.split(".")
    bad = {
        "another issuer": issuer.token(iss="https://evil.example"), "no issuer": issuer.token(iss=None), "issuer and more": issuer.token(iss=issuer.url + "/"),
        "another audience": issuer.token(aud="other"), "audiences": issuer.token(aud=["other", ["trustbridge"]]), "no audience": issuer.token(aud=None),
        "is over": issuer.token(exp=now - 61), "no end": issuer.token(exp=None), "end as text": issuer.token(exp=str(now + 300)), "endless": issuer.token(exp=1e300),
        "of the future": issuer.token(nbf=now + 100), "issued in the future": issuer.token(iat=now + 100), "nbf as text": issuer.token(nbf="now"),
        "no subject": issuer.token(sub=None), "empty subject": issuer.token(sub=""), "a subject with a line end": issuer.token(sub="a\nb"), "long": issuer.token(sub="s" * 151),
        "alg none": issuer.token(header={"alg": "none"}), "alg None": issuer.token(header={"alg": "None"}) , "no alg": issuer.token(header={"alg": None}),
        "HS256 with the public key": issuer.token(header={"alg": "HS256"}),
        "RS256 for the key of ES256": issuer.token(RSA, header={"kid": "ec-1"}), "ES256 for the key of RS256": issuer.token(EC, header={"kid": "rsa-1"}),
        "says ES256": issuer.token(RSA, header={"alg": "ES256"}), "RS512": issuer.token(header={"alg": "RS512"}), "PS256": issuer.token(header={"alg": "PS256"}),
        "another key of that name": issuer.token(OTHER), "no kid": issuer.token(header={"kid": None}), "kid of another type": issuer.token(header={"kid": 7}),
        "crit": issuer.token(header={"crit": ["b64"]}),
        "changed": f"{head}.{b64(json.dumps(issuer.claims(sub='mallory')).encode())}.{sig}", "cut": good[:-1], "no signature": f"{head}.{body}.",
        "padded": good + "=", "four parts": good + ".x", "two parts": f"{head}.{body}", "white space": f"{head}. {body}.{sig}",
        "claims twice": issuer.token(raw='{"iss":"x","iss":"y"}'), "no object": issuer.token(raw="[]"), "no JSON": issuer.token(raw="{"), "deep": issuer.token(raw='{"a":' + "[" * 100 + "]" * 100 + "}"),
        "long token": issuer.token(roles=["x" * 8000]),
    }
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        assert whoami(s, good)["kind"] == "oidc"
    servers = [Server(tmp_path / f"s{i}", *UNLIMITED, *options(issuer)) for i in range(2)]
    for part, s in zip((dict(list(bad.items())[:22]), dict(list(bad.items())[22:])), servers):
        with s:  # each has room for thirty guesses
            for what, token in part.items():
                got = whoami(s, token)
                assert not isinstance(got, dict) and got[:2] == (401, "unauthorized"), (what, got)
            assert whoami(s, good)["kind"] == "oidc"
            log = s.log.read_text()
            assert good not in log and sig not in log and "mallory" not in log


def test_keys_are_rotated(tmp_path):
    first, second = Key("k1"), Key("k2", "ES256")
    issuer = Issuer(first)
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        assert whoami(s, issuer.token(first))["kind"] == "oidc"
        assert len(issuer.asked) == 2
        issuer.keys = [second]
        assert whoami(s, issuer.token(second))["kind"] == "oidc"
        assert len(issuer.asked) == 4
        assert whoami(s, issuer.token(first))[:2] == (401, "unauthorized")  # that key is gone
        for i in range(10):  # whoever makes names up does not make it ask for each
            assert whoami(s, issuer.token(Key(f"made-up-{i}", "ES256")))[:2] == (401, "unauthorized")
        assert len(issuer.asked) <= 2 * 6
        assert whoami(s, issuer.token(second))["kind"] == "oidc"
    issuer.close()


def test_a_provider_that_is_away(tmp_path):
    key = Key("k")
    issuer = Issuer(key)
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        issuer.status = 503
        status, error, message = whoami(s, issuer.token())
        assert (status, error) == (503, "identity_provider_unavailable") and "try again" in message
        issuer.status = None
        assert whoami(s, issuer.token())["kind"] == "oidc"
        issuer.close()
        assert whoami(s, issuer.token())["kind"] == "oidc"  # its keys are known
        assert "cannot be fetched" in s.log.read_text()
        # others go on meanwhile
        token = s.cli("token", "add", "t", "--scope", "auditor").strip()
        assert Caller(s, token).get("/whoami")["kind"] == "token"


def test_a_provider_that_hangs_holds_no_machine_up(tmp_path):
    """Strangers who name keys that there may be: most of them are told to come again, and machines are answered meanwhile."""
    known = Key("k")
    issuer = Issuer(known)
    with Server(tmp_path / "data", "--seed", *UNLIMITED, *options(issuer)) as s:
        assert s.register()[0] == 201
        assert whoami(s, issuer.token())["kind"] == "oidc"
        issuer.hanging.set()
        answers = []
        tokens = [issuer.token(known, header={"kid": f"made-up-{i}"}) for i in range(24)]
        strangers = [threading.Thread(target=lambda t=t: answers.append(whoami(s, t)[0])) for t in tokens]
        for t in strangers:
            t.start()
        tbsys.wait_for(lambda: answers or "cannot be fetched" in s.log.read_text(), 20, "a stranger to be sent away")
        assert answers[:1] == [503] and "cannot be fetched" not in s.log.read_text(), "every thread waits for the provider"
        for i in range(20):
            assert s.authorize(hw=f"m{i}")[1]["status"] == "authorized"
        assert whoami(s, issuer.token())["kind"] == "oidc"  # of a key that is known
        issuer.hanging.clear()
        for t in strangers:
            t.join()
        assert set(answers) <= {401, 503}
    issuer.close()


@pytest.mark.parametrize("damage", ["issuer", "http", "keys", "nothing", "weak"])
def test_a_provider_that_is_wrong(tmp_path, damage):
    key = Key("k", bits=1024) if damage == "weak" else Key("k")
    issuer = Issuer(key)
    issuer.document = {"issuer": {"issuer": "https://other.example"}, "http": {"jwks_uri": "http://198.51.100.1/keys"}, "keys": {"jwks_uri": f"{issuer.url}/none"}}.get(damage, {})
    if damage == "nothing":
        issuer.keys = []
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        assert whoami(s, issuer.token(key))[:2] == (503, "identity_provider_unavailable")
    issuer.close()


def test_keys_for_other_purposes_are_left_out(tmp_path):
    key = Key("k")
    issuer = Issuer(key)
    issuer.extra = [7, {}, {"kty": "oct", "kid": "k", "k": "AAAA"}, {**key.jwk, "use": "enc", "kid": "enc"}, {**key.jwk, "alg": "PS256", "kid": "ps"},
                    {"kty": "EC", "crv": "P-384", "kid": "p384", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "P-256", "kid": "off", "x": b64(b"\1" * 32), "y": b64(b"\2" * 32)},
                    {**key.jwk, "n": "!", "kid": "bad"}, {**key.jwk, "e": "AQ", "kid": "e1"}]
    with Server(tmp_path / "data", *UNLIMITED, *options(issuer)) as s:
        assert whoami(s, issuer.token(key))["kind"] == "oidc"
        for kid in ("enc", "ps", "e1"):
            assert whoami(s, issuer.token(key, header={"kid": kid}))[:2] == (401, "unauthorized")
    issuer.close()


def test_claims_within_claims_and_scopes(tmp_path, issuer):
    with Server(tmp_path / "a", *UNLIMITED, *options(issuer, "realm_access.roles")) as s:
        assert whoami(s, issuer.token(realm_access={"roles": ["tb-admins"]}))["scopes"] == ["owner"]
        assert whoami(s, issuer.token(**{"realm_access.roles": ["tb-sales"]}))["scopes"] == ["support"]
        assert whoami(s, issuer.token(realm_access="tb-admins"))[:2] == (403, "scope_missing")
    with Server(tmp_path / "b", *UNLIMITED, *options(issuer, "scope", ("tb:owner=owner", "tb:owner=auditor"))) as s:
        assert whoami(s, issuer.token(scope="openid tb:owner"))["scopes"] == ["owner", "auditor"]


def test_settings_that_make_no_sense(tmp_path, issuer):
    (tmp_path / "data").mkdir()
    s = Server(tmp_path / "data")
    for bad, says in ((("--oidc-issuer", issuer.url), "go together"), (("--oidc-audience", "x"), "go together"),
                      (options(issuer, scopes=("x",)), "VALUE=SCOPE"), (options(issuer, scopes=("x=root",)), "VALUE=SCOPE"),
                      (("--oidc-issuer", "http://idp.example", "--oidc-audience", "x", "--oidc-scope", "a=owner"), "https://"),
                      (("--oidc-issuer", "http://127.0.0.1@idp.example", "--oidc-audience", "x", "--oidc-scope", "a=owner"), "https://"),
                      (("--oidc-issuer", "ftp://x", "--oidc-audience", "x", "--oidc-scope", "a=owner"), "https://")):
        assert says in s.cli("serve", "--listen", "127.0.0.1:0", *bad, rc=64), bad
    assert "cannot read" in s.cli("serve", "--listen", "127.0.0.1:0", *options(issuer), "--oidc-ca", "/nowhere", rc=78)


def test_a_provider_behind_tls(tmp_path):
    """Its certificate is checked, against the CAs of --oidc-ca."""
    import ssl
    ca = tbsys.CA(tmp_path / "ca")
    cert, key = ca.issue("idp")
    issuer = Issuer(RSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    issuer.server.socket = context.wrap_socket(issuer.server.socket, server_side=True)
    issuer.url = issuer.url.replace("http:", "https:")
    with Server(tmp_path / "a", *UNLIMITED, *options(issuer), "--oidc-ca", str(ca.cert)) as s:
        assert whoami(s, issuer.token())["kind"] == "oidc"
    with Server(tmp_path / "b", *UNLIMITED, *options(issuer)) as s:
        assert whoami(s, issuer.token())[:2] == (503, "identity_provider_unavailable")
    issuer.close()
