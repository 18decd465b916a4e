# SPDX-License-Identifier: Apache-2.0
"""Level cvm by tokens of Azure Attestation: who signs them, for what, and everything that must not do (swtpm, tb-attest, tb-controlplane, and a stand-in for
the instance: maa_standin.py); and tb-authorize, which fetches them."""

import base64
import datetime
import hashlib
import json
import secrets
import signal
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from attest_rig import extra, issuer  # noqa: F401
from controlplane_server import ASSET, KEY, Server
from maa_standin import Maa, certified
from snp_rig import DEBUG, ID_KEY, MIGRATION, POLICY, Amd, Processor, jwk, shared_tpm  # noqa: F401
from software_tpm import authority, pem
from tbsys import wait_for
from test_attest_chain import House
from test_authorize_secrets import memory_holds
from test_controlplane_attest import Machine
from token_issuer import Key


@pytest.fixture(scope="module")
def cpu():
    return Processor(Amd())


@pytest.fixture(scope="module")
def server(tmp_path_factory, issuer):
    """It knows no processor's root: by this way none is needed."""
    directory = tmp_path_factory.mktemp("cp")
    (directory / "tpm-ca.pem").write_bytes(pem(issuer[0]))
    with Server(directory / "data", "--seed", "--attest-ca", directory / "tpm-ca.pem") as s:
        assert s.register()[0] == 201
        yield s


@pytest.fixture(scope="module")
def shared_maa(server, cpu):
    maa = Maa(cpu.amd)
    server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "cvm", "--ak", "own", "--maa", maa.url)
    yield maa
    maa.close()


@pytest.fixture
def maa(shared_maa):
    yield shared_maa
    shared_maa.change, shared_maa.header, shared_maa.shape = {}, {}, None


class Confidential(Machine):
    """One that has its tokens from an instance."""

    def __init__(self, directory, tpm, server, maa, cpu, contract="acme"):
        super().__init__(directory, tpm, server, contract)
        self.maa, self.cpu = maa, cpu
        (directory / "run/tb-vcek").mkdir(parents=True, exist_ok=True)
        (directory / "run/tb-vcek/vcek.der").write_bytes(cpu.der)

    def contract_for(self, maa, name, *options):
        self.server.cli("contract", "add", name, "--asset", ASSET, "--mode", "open", "--attest", "cvm", "--ak", "own", "--maa", maa.url, "--replace", *options)
        self.maa, self.contract = maa, name
        return self

    def token(self, challenge, key=None, report=None, ak=None, **change):
        runtime = {"keys": [jwk("HCLAkPub", ak or self.tpm.ak)]}
        text = json.dumps(runtime).encode()
        nonce = extra({"challenge": challenge, "contract_id": self.contract, "asset_id": ASSET, "hw_id": self.hw}).hex()
        claims = self.maa.claims(report or self.cpu.report(hashlib.sha256(text).digest()), runtime, nonce)
        return self.maa.token({k: v for k, v in {**claims, **change}.items() if v is not None}, key)

    def shown(self, token=None, **change):
        challenge = self.ask_challenge()
        return {**self.evidence(challenge), "maa": token or self.token(challenge, **change)}

    def ask_challenge(self):
        body = self.say({"v": 1, "offer": ["tpm2"]})
        assert body["reason"] == "attestation_required" and body["maa"] == self.maa.url, body
        return body["challenge"]


@pytest.fixture
def machine(tmp_path, shared_tpm, server, maa, cpu):
    return Confidential(tmp_path, shared_tpm, server, maa, cpu)


@pytest.mark.parametrize("shape", [None, "guest"])
def test_a_token_stands_for_the_report(machine, maa, shape):
    maa.shape = shape
    evidence = machine.shown()
    del evidence["snp"], evidence["vcek"]
    body = machine.say(evidence)
    assert machine.key(body) == KEY and body["attested"] == {"level": "cvm"} and body["maa"] == maa.url
    again = body["challenge"]
    assert machine.key(machine.say({**machine.evidence(again), "maa": machine.token(again)})) == KEY
    assert maa.asked.count(("GET", "/certs")) <= 1, "the keys are kept"


def test_without_a_token_it_is_told_where_to_get_one(machine, maa):
    body = machine.say(machine.evidence(machine.ask_challenge()))
    assert body["reason"] == f"attestation_maa_required: the contract asks for a token of {maa.url} (Azure Attestation)"
    assert body["challenge"] and body["maa"] == maa.url
    evidence = machine.evidence(body["challenge"])
    del evidence["snp"]
    assert machine.denied(evidence) == "attestation_snp_required: this machine is no confidential VM with SEV-SNP; choose such a size"


def test_a_token_is_for_one_request(machine, server, tmp_path, issuer, maa, cpu):
    old = machine.shown()
    assert machine.key(machine.say(old)) == KEY
    assert machine.denied({**machine.shown(), "maa": old["maa"]}).startswith("attestation_maa_unbound: the token is for another challenge")
    # Of another machine: its TPM is named, not this one's; and with this one's nonce.
    other = rsa.generate_private_key(65537, 2048).public_key()
    assert machine.denied(machine.shown(ak=other)) == "attestation_maa_unbound: the report is of another machine: its TPM has another key"
    for runtime in ({}, {"keys": []}, {"keys": [jwk("HCLEkPub", machine.tpm.ak)]}, {"keys": [jwk("HCLAkPub", machine.tpm.ak)] * 2}, "keys", None):
        assert machine.denied(machine.shown(**{"x-ms-runtime": runtime})).startswith("attestation_maa_unbound: the firmware names no"), runtime


# What each change makes of a token that the instance did sign.
CLAIMS = {
    "no nonce": ({"nonce": None}, "attestation_maa_unbound"),
    "another nonce": ({"nonce": "0" * 64}, "attestation_maa_unbound"),
    "a number for a nonce": ({"nonce": 1}, "attestation_maa_unbound"),
    "another issuer": ({"iss": "https://sharedeus2.eus2.attest.azure.net"}, "attestation_maa_untrusted: the token is not of http://127.0.0.1"),
    "no issuer": ({"iss": None}, "attestation_maa_untrusted"),
    "another kind": ({"x-ms-attestation-type": "tdxvm"}, "attestation_maa_policy: the token is not of a machine with SEV-SNP"),
    "no kind": ({"x-ms-attestation-type": None}, "attestation_maa_policy"),
    "a container": ({"x-ms-compliance-status": "azure-compliant-uvm"}, 'attestation_maa_policy: the token does not say azure-compliant-cvm, but "azure-compliant-uvm"'),
    "not compliant": ({"x-ms-compliance-status": None}, "attestation_maa_policy"),
    "a list": ({"x-ms-compliance-status": ["azure-compliant-cvm"]}, "attestation_maa_policy"),
    "debug": ({"x-ms-sevsnpvm-is-debuggable": True}, "attestation_snp_policy: the host may debug"),
    "debug is not said": ({"x-ms-sevsnpvm-is-debuggable": None}, "attestation_snp_policy: the host may debug"),
    "debug as a word": ({"x-ms-sevsnpvm-is-debuggable": "false"}, "attestation_snp_policy: the host may debug"),
    "migration": ({"x-ms-sevsnpvm-migration-allowed": True}, "attestation_snp_policy: a migration agent"),
    "another level": ({"x-ms-sevsnpvm-vmpl": 2}, "attestation_snp_policy: the report is of privilege level (VMPL) 2"),
    "no level": ({"x-ms-sevsnpvm-vmpl": None}, "attestation_maa_policy: the token does not say which privilege level"),
    "a level below": ({"x-ms-sevsnpvm-vmpl": -1}, "attestation_maa_policy"),
    "over": ({"exp": int(time.time()) - 3600}, "attestation_maa_expired: the token has ended"),
    "no end": ({"exp": None}, "attestation_maa_expired"),
    "an end that is none": ({"exp": "never"}, "attestation_maa_expired"),
    "of the future": ({"nbf": int(time.time()) + 86400}, "attestation_maa_expired: the token has no end, or begins in the future"),
    "made in the future": ({"iat": int(time.time()) + 86400}, "attestation_maa_expired"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_token_that_says_something_else(machine, name):
    change, reason = CLAIMS[name]
    assert machine.denied(machine.shown(**change)).startswith(reason)


@pytest.mark.parametrize("change, reason", [({"x-ms-compliance-status": "azure-compliant-uvm"}, "attestation_maa_policy"), ({"x-ms-attestation-type": "x"}, "attestation_maa_policy"),
                                            ({"x-ms-sevsnpvm-is-debuggable": True}, "attestation_snp_policy"), ({"x-ms-sevsnpvm-vmpl": 1}, "attestation_snp_policy")])
def test_the_inner_claims_count(machine, maa, change, reason):
    """What stands outside of x-ms-isolation-tee is of Azure's guest attestation, and what its client says there is the client's."""
    maa.shape, maa.change = "guest", change
    good = {"x-ms-compliance-status": "azure-compliant-cvm", "x-ms-sevsnpvm-is-debuggable": False, "x-ms-sevsnpvm-vmpl": 0, "x-ms-attestation-type": "sevsnpvm"}
    assert machine.denied(machine.shown(**good)).startswith(reason)
    assert machine.denied(machine.shown(**{"x-ms-runtime": {"keys": [jwk("HCLAkPub", machine.tpm.ak)], "client-payload": {"nonce": "AAAA"}}})).startswith("attestation_maa_unbound")


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS384"}, {"alg": "PS256"}, {"alg": "rs256"}, {"alg": None}, {"kid": None}, {"crit": ["b64"]}])
def test_algorithms(machine, maa, header):
    maa.header = header
    assert machine.denied(machine.shown()).startswith("attestation_malformed: \"maa\" is no token")


def test_one_of_another_algorithm_that_is_good_elsewhere(machine, maa):
    """ES256 is for people, whose provider may have such keys."""
    maa.header = {"alg": "ES256"}
    assert machine.denied(machine.shown(key=Key(maa.keys[0].kid, "ES256"))) == "attestation_maa_untrusted: the token is not signed by RS256"


def test_signatures(machine, maa):
    assert machine.denied(machine.shown(key=Key(maa.keys[0].kid))) == "attestation_maa_bad_signature: the issuer did not sign this token"
    good = machine.shown()
    head, claims, signature = good["maa"].split(".")
    for token in (f"{head}.{claims}.{signature[:-4]}AAAA", f"{head}.{claims[:-2]}{'AA' if claims[-2:] != 'AA' else 'BB'}.{signature}"):
        reason = machine.denied({**machine.shown(), "maa": token})
        assert reason.startswith(("attestation_maa_bad_signature", "attestation_malformed")), reason
    for token in (f"{head}.{claims}", f"{head}.{claims}.", "x", ".", "..", f"{head}.{claims}.{signature}.", "a" * 8193, 1, None, {"token": good["maa"]}):
        assert machine.denied({**machine.shown(), "maa": token}).startswith("attestation_malformed"), token


def test_terms_are_the_same_on_both_ways(machine, maa):
    def ask(*options, **change):
        return machine.contract_for(maa, "terms", *options).say(machine.shown(**change))
    assert machine.key(ask("--min-tcb", "3.0.20.200", "--id-key", ID_KEY.hex())) == KEY
    assert ask("--id-key", "00" * 48)["reason"] == f"attestation_snp_policy: the firmware is signed by {ID_KEY.hex()}, which the contract does not name"
    assert ask("--id-key", "11" * 48, **{"x-ms-sevsnpvm-idkeydigest": None})["reason"].startswith("attestation_snp_policy")
    for low in ("4.0.20.200", "3.1.20.200", "3.0.21.200", "3.0.20.201"):
        assert ask("--min-tcb", low)["reason"] == f"attestation_snp_old_tcb: the processor's firmware is 3.0.20.200, the contract wants at least {low}"
    assert ask("--min-tcb", "1.0.0.0", **{"x-ms-sevsnpvm-bootloader-svn": None})["reason"].startswith("attestation_snp_old_tcb")
    for policy in (POLICY | DEBUG, POLICY | MIGRATION):
        report = machine.cpu.report(b"", policy=policy)
        assert ask(report=report)["reason"].startswith("attestation_snp_policy")


@pytest.mark.parametrize("options, what", [
    (["--attest", "cvm", "--maa", "http://sharedeus2.eus2.attest.azure.net"], "is not the URL"), (["--attest", "cvm", "--maa", "https://x/"], "slash"),
    (["--attest", "cvm", "--maa", "https://x?y"], "is not the URL"), (["--attest", "cvm", "--maa", "https://" + "x" * 200], "is not the URL"),
    (["--attest", "cvm", "--maa", ""], "is not the URL"), (["--attest", "tpm", "--maa", "https://x"], "level cvm alone"), (["--maa", "https://x"], "--maa with cvm")])
def test_instances_that_are_none(server, options, what):
    assert what in server.cli("contract", "add", "x", "--asset", ASSET, *options, rc=64)


def test_the_api_has_it(server):
    token = server.cli("token", "add", "maa-owner", "--scope", "owner").split()[-1]

    def add(name, maa):
        return server.call("POST", "/api/v1/admin/contracts", {"contract_id": name, "asset_id": ASSET, "mode": "open", "attest": {"level": "cvm", "maa": maa}},
                           {"Authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(16)})[:2]
    status, body = add("by-api", "https://sharedeus2.eus2.attest.azure.net")
    assert status == 201 and body["contract"]["attest"]["maa"] == "https://sharedeus2.eus2.attest.azure.net"
    for bad in (["https://x"], "https://x/", ""):
        status, body = add("by-api-2", bad)
        assert status == 400 and '"maa" is not the URL' in body["message"]


# -- keys of the instance ---------------------------------------------------------------------
@pytest.fixture
def instance(cpu):
    made = []

    def make(*keys, **kw):
        made.append(Maa(cpu.amd, *keys, **kw))
        return made[-1]
    yield make
    for m in made:
        m.close()


def later(machine, evidence):
    """Not a refusal, which would stop the machine."""
    status, body = machine.server.authorize(machine.contract, hw=machine.hw, more={"attestation": json.dumps(evidence)})
    assert status == 503 and body["reason"] == "attestation_service_unavailable" and "wrapped_key" not in body, body
    return body["message"]


def test_keys_that_cannot_be_fetched(machine, instance):
    maa = instance()
    maa.certs_status = 500
    machine.contract_for(maa, "down")
    assert "cannot have the keys of Azure Attestation now" in later(machine, machine.shown())
    later(machine, machine.shown())
    assert maa.asked == [("GET", "/certs")], "once a minute"
    log = machine.server.log.read_text()
    assert f"the keys of {maa.url} cannot be fetched: {maa.url}/certs: status 500" in log and "serve --maa-jwks" in log


def test_a_name_that_the_instance_does_not_have_yet(machine, instance):
    """The keys are fetched for it, once. That they lack it is no refusal: the next front end of the instance may have it. (Nor is it one for the rest of an hour:
    tests/unit/controlplane/test_issuer.c, with shorter times.)"""
    maa = instance(Key("first"))
    machine.contract_for(maa, "names")
    new = Key("second")
    later(machine, machine.shown(key=new))
    assert f"a token names a key that {maa.url} does not have (yet)" in machine.server.log.read_text()
    maa.keys.append(new)
    later(machine, machine.shown(key=new))
    assert machine.key(machine.say(machine.shown())) == KEY and maa.asked == [("GET", "/certs")], "keys that are known are good meanwhile"


def test_a_token_of_somebody_else_fetches_nothing(machine, instance):
    maa = instance()
    machine.contract_for(maa, "quiet")
    for change in ({"iss": "https://evil.example"}, {"exp": 1}):
        machine.denied(machine.shown(**change))
    assert maa.asked == []


@pytest.mark.parametrize("certs", [b"[]", b"{}", b'{"keys":[]}', b'{"keys":[{"kty":"RSA","kid":"k","x5c":["AAAA"]}]}', b"no JSON"])
def test_pinned_keys_that_are_none(tmp_path, certs):
    (tmp_path / "jwks").write_bytes(certs)
    s = Server(tmp_path / "cp", "--seed", "--maa-jwks", tmp_path / "jwks")
    s.daemon.start()
    assert s.daemon.wait() == 78 and f"--maa-jwks {tmp_path}/jwks: " in s.log.read_text()


def served(tmp_path, issuer, *options):
    (tmp_path / "tpm-ca.pem").write_bytes(pem(issuer[0]))
    return Server(tmp_path / "cp", "--seed", "--attest-ca", tmp_path / "tpm-ca.pem", *options)


def test_pinned_keys(tmp_path, shared_tpm, issuer, cpu, instance):
    maa = instance()
    maa.certs_status = 500
    short = {**certified(Key("short", bits=1024)), "kid": "short"}
    (tmp_path / "jwks").write_text(json.dumps({"keys": [short, certified(maa.keys[0])]}))
    with served(tmp_path, issuer, "--maa-jwks", tmp_path / "jwks") as s:
        assert s.register()[0] == 201
        m = Confidential(tmp_path, shared_tpm, s, maa, cpu).contract_for(maa, "acme")
        assert m.key(m.say(m.shown())) == KEY
        assert m.denied(m.shown(key=Key("other"))).startswith("attestation_maa_untrusted: the issuer has no key of the name")
        assert m.denied(m.shown(key=Key(maa.keys[0].kid))).startswith("attestation_maa_bad_signature")
    assert maa.asked == []


@pytest.mark.parametrize("trusted", [True, False])
def test_the_keys_come_over_tls(tmp_path, shared_tpm, issuer, cpu, instance, trusted):
    ca, key = authority("Test CA"), rsa.generate_private_key(65537, 2048)
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])).issuer_name(ca[0].subject)
            .public_key(key.public_key()).serial_number(7).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(ca[1], hashes.SHA256()))
    (tmp_path / "c.pem").write_bytes(pem(cert))
    (tmp_path / "k.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (tmp_path / "ca.pem").write_bytes(pem(ca[0] if trusted else authority("Other CA")[0]))
    maa = instance(tls=(tmp_path / "c.pem", tmp_path / "k.pem"))
    with served(tmp_path, issuer, "--maa-ca", tmp_path / "ca.pem") as s:
        assert s.register()[0] == 201
        m = Confidential(tmp_path, shared_tpm, s, maa, cpu).contract_for(maa, "acme")
        if trusted:
            assert m.key(m.say(m.shown())) == KEY
        else:
            later(m, m.shown())
            assert maa.asked == []


# -- the machine ---------------------------------------------------------------------------------
@pytest.fixture
def house(tmp_path, shared_tpm, issuer, cpu, instance):
    made = []

    def make(confidential=True, **kw):
        maa = instance()
        made.append(h := House(tmp_path, shared_tpm, issuer, attest=("--attest", "cvm", "--ak", "own", "--maa", maa.url), **kw))
        (h.run / "tb-vcek").mkdir()
        (h.run / "tb-vcek/vcek.der").write_bytes(cpu.der)
        if confidential:
            (h.run / "tb-vcek/chain.pem").write_bytes(pem(cpu.certificate, cpu.amd.ask[0], cpu.amd.ark[0]))
        h.maa = maa
        return h
    yield make
    for h in made:
        h.stop()


def posts(maa):
    return sum(m == "POST" for m, _ in maa.asked)


def test_tb_authorize_gets_the_token(house):
    h = house(lease="4").start()
    h.wait("authorized")
    assert h.open(h.key()) == KEY and not memory_holds(h.authorize.pid, bytes.fromhex(KEY))
    first = h.lease()["renewed_at"]
    wait_for(lambda: h.lease()["renewed_at"] > first, 30, "a renewal")
    assert h.machines()[0]["attested"]["level"] == "cvm" and posts(h.maa) >= 2, "each request has its own"
    assert [e for e in h.server.cli("log").splitlines() if "attestation_maa" in e] == []


def test_an_instance_that_is_away_is_no_refusal(house):
    h = house(lease="4").start()
    h.wait("authorized")
    h.maa.attest_status, h.maa.reply = 503, {"error": {"code": "Busy", "message": "come again"}}
    said = f"no token of Azure Attestation ({h.maa.url}): HTTP 503: come again"
    wait_for(lambda: said in h.authorize.log_text(), 30, "the log to say so")
    seen = wait_for(lambda: (a := h.shown("--json")["attestation"]).get("refused") and a, what="tb-status to say so")
    assert seen["refused"] == said and "let this machine reach the Azure Attestation" in seen["remedy"]
    assert h.lease()["state"] in ("authorized", "unreachable") and not (h.run / "tb-authorize/suspended").exists()
    h.maa.attest_status = h.maa.reply = None
    h.authorize.kill(signal.SIGHUP)
    wait_for(lambda: h.lease()["state"] == "authorized" and h.open(h.key()) == KEY, 60, "the return")


@pytest.mark.parametrize("answer", [{}, {"x": "y" * 70000}], ids=["none", "long"])
def test_answers_that_are_no_token(house, answer):
    h = house()
    h.maa.reply = answer
    h.start()
    wait_for(lambda: "no token of Azure Attestation" in h.authorize.log_text(), 30, h.authorize.log_text)
    assert "authorized" not in h.server.cli("log") and h.machines() == []


def test_without_the_processors_chain(house):
    h = house(confidential=False).start()
    wait_for(lambda: "certificates are not there yet (tb-vcek.service fetches them)" in h.authorize.log_text(), 30, h.authorize.log_text)
    assert posts(h.maa) == 0 and "denied" in h.server.cli("log"), "the first question is an offer"


def test_a_contract_that_begins_to_ask_for_it(house):
    """The evidence on its way has no token: one question more, no refusal that stops the machine."""
    h = house(lease="600")
    h.server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own", "--replace")
    h.start()
    h.wait("authorized")
    before = h.lease()["renewed_at"]
    h.server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "cvm", "--ak", "own", "--maa", h.maa.url, "--replace")
    h.authorize.kill(signal.SIGHUP)
    wait_for(lambda: h.lease()["renewed_at"] > before, 30, "a renewal")
    assert h.lease()["attested"]["level"] == "cvm" and "denied: attestation_maa_required" not in h.authorize.log_text()
    assert "attestation_maa_required" in h.server.cli("log")
