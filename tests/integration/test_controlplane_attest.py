# SPDX-License-Identifier: Apache-2.0
"""Contracts that bind their key to a machine's TPM and boot: who gets it, and everything that must not (swtpm, tb-attest, tb-controlplane)."""

import base64
import datetime
import hashlib
import hmac
import json
import secrets
import sqlite3
import struct
import time

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

import attest_rig
from attest_rig import PCRS, Attest, issuer  # noqa: F401
from controlplane_fixtures import postgres  # noqa: F401
from controlplane_server import ASSET, KEY, SEALED, Server, signed_report
from machine_identity import Machine as Identity
from software_tpm import AK, AK_ATTRIBUTES, EVIL, GOOD, NULL, Refused, Tpm, authority, digest, key_info, pem, two_b

NOW = datetime.datetime.utcnow()


class Machine:
    """One machine, in a boot, and its client."""

    def __init__(self, directory, tpm, server, contract="acme", hw="4c4c4544-0051"):
        self.tpm, self.server, self.contract, self.hw, self.attest = tpm, server, contract, hw, Attest(directory, tpm.path)
        self.challenge = None

    def evidence(self, challenge, pcrs=PCRS, contract=None, asset=ASSET, hw=None):
        answer, rc = self.attest.ask({"challenge": challenge, "challenge_pcrs": pcrs, "contract_id": contract or self.contract, "asset_id": asset,
                                      "hw_id": hw or self.hw})
        assert rc == 0, answer
        return answer

    def say(self, attestation, contract=None, **more):
        text = attestation if isinstance(attestation, str) else json.dumps(attestation)
        return self.server.authorize(contract or self.contract, hw=self.hw, more={"attestation": text, **more})[1]

    def ask_challenge(self):
        body = self.say({"v": 1, "offer": ["tpm2"]})
        assert body["status"] == "denied" and body["reason"] == "attestation_required" and body["challenge_pcrs"] == PCRS
        return body["challenge"]

    def authorize(self, **more):
        body = self.say(self.evidence(self.ask_challenge()), **more)
        return body

    def denied(self, attestation):
        body = self.say(attestation)
        assert body["status"] == "denied" and "wrapped_key" not in body and "decryption_key_hex" not in body, body
        return body["reason"]

    def key(self, body):
        assert body["status"] == "authorized" and "decryption_key_hex" not in body, body
        return self.tpm.unwrap(body["wrapped_key"], key_info(self.contract, ASSET, body.get("manifest_sha256"))).hex()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory, issuer):
    database = request.getfixturevalue("postgres").create(request.module.__name__) if request.param == "postgresql" else None
    directory = tmp_path_factory.mktemp("cp")
    (directory / "tpm-ca.pem").write_bytes(pem(issuer[0]))
    with Server(directory / "data", "--seed", "--attest-ca", directory / "tpm-ca.pem", database=database) as s:
        assert s.register()[0] == 201
        s.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own")
        yield s


@pytest.fixture(scope="module")
def tpms(tmp_path_factory, issuer):
    made = [Tpm(tmp_path_factory.mktemp("t"), issuer, name) for name in ("a", "b")]
    yield made
    for t in made:
        t.off()


@pytest.fixture
def tpm(tpms):
    yield tpms[0].reboot(GOOD)
    tpms[0].off()


@pytest.fixture
def machine(tmp_path, tpm, server):
    return Machine(tmp_path, tpm, server)


def flip(evidence, name):
    data = bytearray(base64.b64decode(evidence[name]))
    data[len(data) // 2] ^= 1
    return {**evidence, name: base64.b64encode(data).decode()}


def test_the_key_is_for_this_boot(machine, server):
    body = machine.authorize()
    assert machine.key(body) == KEY and body["attested"] == {"level": "tpm"}
    # The next request needs no further round trip; each challenge is good once.
    again = machine.say(machine.evidence(body["challenge"]))
    assert machine.key(again) == KEY and again["challenge"] != body["challenge"]
    assert machine.denied(machine.evidence(body["challenge"])) == "attestation_stale: the challenge was answered before"


def test_usage_is_signed_without_the_key(machine, server):
    body = machine.authorize()
    assert body["usage_key_hex"] == hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).hexdigest()
    body = machine.authorize(**signed_report(at="2026-01-02T00:00:00Z", used={"requests": 5}))
    assert body["status"] == "authorized"
    reported = [json.loads(line) for line in server.cli("usage").splitlines()] if server.cli("usage").startswith("{") else server.cli("usage")
    assert "acme" in str(reported) and "tpm-" in str(reported)


def test_usage_that_comes_with_a_refusal_is_of_the_machine_whose_ledger_it_is(tmp_path, server, tpms):
    """Without evidence, or refused, it is not named by its TPM: no other machine with the same ledger, which would be a clone."""
    server.cli("contract", "add", "counted", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own", "--max-hw", "1")
    machine, other = (Machine(tmp_path, t.reboot(GOOD), server, "counted", name) for t, name in zip(tpms, ("first", "second")))

    def report(requests, ledger="of-the-first"):
        return signed_report(at=f"2026-01-02T00:00:{requests:02}Z", ledger=ledger, used={"requests": requests})

    def rows():
        return [(r["hw_id"][:4], r["ledger"], r["used"]["requests"], r["flagged"]) for r in json.loads(server.cli("usage", "--json")) if r["contract_id"] == "counted"]
    assert machine.authorize(**report(5))["status"] == "authorized"
    first = [("tpm-", "of-the-first", 5, 0)]
    assert rows() == first
    assert machine.say({"v": 1, "offer": ["tpm2"]}, **report(6))["reason"] == "attestation_required"
    assert machine.say("", **report(7))["status"] == "denied"
    assert machine.say(machine.evidence(secrets.token_hex(32)), **report(8))["status"] == "denied"
    assert rows() == [("tpm-", "of-the-first", 8, 0)]
    assert other.say(other.evidence(other.ask_challenge()), **report(3, "of-the-second"))["reason"] == "hw_limit_reached"
    assert sorted(r[1:] for r in rows()) == [("of-the-first", 8, 0), ("of-the-second", 3, 0)]
    assert machine.authorize(**report(9))["status"] == "authorized"
    assert ("tpm-", "of-the-first", 9, 0) in rows()


def test_a_machine_is_its_tpm_whatever_it_says(machine, tmp_path, server, tpms):
    server.cli("contract", "add", "one-slot", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own", "--max-hw", "1")
    machine.contract = "one-slot"
    for name in ("first", "second", "third"):
        machine.hw = name
        assert machine.authorize()["status"] == "authorized"
    other = Machine(tmp_path, tpms[1].reboot(GOOD), server, "one-slot", "first")
    assert other.denied(other.evidence(other.ask_challenge())) == "hw_limit_reached"


@pytest.mark.parametrize("said", ["", "{}", json.dumps({"v": 1, "offer": ["sgx"]}), json.dumps({"v": 1, "offer": [], "why": "no /dev/tpmrm0"})],
                         ids=["an old client", "nothing", "something else", "none"])
def test_without_evidence_nothing(machine, said):
    reason = machine.denied(said)
    assert reason.startswith("attestation_required") or (said == "{}" and reason.startswith("attestation_malformed"))
    assert "no /dev/tpmrm0" in reason or "why" not in said


def test_a_contract_that_asks_nothing_answers_as_ever(machine):
    for said in ("", {"v": 1, "offer": ["tpm2"]}, "nonsense", {"v": 9}):
        body = machine.say(said, contract="contract-allow")
        assert body["decryption_key_hex"] == KEY and "challenge" not in body


def test_what_is_of_somebody_else_is_stale(machine):
    challenge = machine.ask_challenge()
    for e in (machine.evidence(challenge, contract="other"), machine.evidence(challenge, asset="other"), machine.evidence(challenge, hw="other")):
        assert machine.denied(e).startswith("attestation_stale")
    assert machine.denied(machine.evidence(secrets.token_hex(32))) == "attestation_stale: the challenge is none of mine"
    good = machine.evidence(machine.ask_challenge())
    machine.hw = "another"
    assert machine.denied(good).startswith("attestation_stale")


def challenge_of(secret, machine, end):
    """As the server makes them."""
    head = struct.pack(">Q", int(end)) + secrets.token_bytes(8)
    text = b"trustbridge challenge v1\0" + head
    for name in (machine.contract, ASSET, machine.hw):
        text += struct.pack(">H", len(name)) + name.encode()
    return (head + hmac.new(secret, text, hashlib.sha256).digest()[:16]).hex()


def test_a_challenge_ends_and_outlives_a_restart(tmp_path, tpm, issuer):
    (tmp_path / "ca.pem").write_bytes(pem(issuer[0]))
    with Server(tmp_path / "data", "--seed", "--attest-ca", tmp_path / "ca.pem") as s:
        assert s.register()[0] == 201
        s.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own")
        m = Machine(tmp_path, tpm, s)
        with sqlite3.connect(s.data / "controlplane.db") as db:
            secret = bytes.fromhex(db.execute("SELECT secret FROM server_secrets WHERE name='challenge'").fetchone()[0])
        db.close()
        assert m.key(m.say(m.evidence(challenge_of(secret, m, time.time() + 60)))) == KEY
        for end in (time.time() - 1, time.time() + 90000, 0):
            body = m.say(m.evidence(challenge_of(secret, m, end)))
            assert body["reason"] == "attestation_stale: the challenge has ended" and m.key(m.say(m.evidence(body["challenge"]))) == KEY
        # Restarted between challenge and evidence: it is good once, as before, and what was used stays used.
        used = m.evidence(m.ask_challenge())
        assert m.key(m.say(used)) == KEY
        waiting = m.evidence(m.ask_challenge())
        s.daemon.stop()
        s.start()
        assert m.key(m.say(waiting)) == KEY
        for again in (waiting, used):
            assert m.denied(again) == "attestation_stale: the challenge was answered before"


@pytest.mark.parametrize("name", ["quote", "quote_sig", "key", "key_certify", "key_sig", "ak", "ak_cert"])
def test_one_bit(machine, name):
    e = machine.evidence(machine.ask_challenge())
    assert machine.denied(flip(e, name)).startswith("attestation_")


@pytest.mark.parametrize("change, reason", [
    (lambda e: {**e, "pcrs": {**e["pcrs"], "4": "11" * 32}}, "attestation_pcr_digest"),
    (lambda e: {**e, "key_pcrs": [7]}, "attestation_key_policy"),
    (lambda e: {**e, "key_pcrs": [16]}, "attestation_malformed"),
    (lambda e: {**e, "pcrs": {"4": e["pcrs"]["4"]}}, "attestation_malformed"),
    (lambda e: {**e, "type": "tdx"}, "attestation_malformed"),
    (lambda e: {**e, "v": 2}, "attestation_malformed"),
    (lambda e: {k: v for k, v in e.items() if k != "key"}, "attestation_malformed"),
    (lambda e: {**e, "quote": e["key_certify"], "quote_sig": e["key_sig"]}, "attestation_malformed"),
    (lambda e: {**e, "quote": ""}, "attestation_malformed"),
    (lambda e: {**e, "key": "A" * 3000}, "attestation_malformed"),
    (lambda e: {k: v for k, v in e.items() if k != "ak_cert"}, "attestation_untrusted_key"),
    (lambda e: {**e, "ak_cert": base64.b64encode(b"no certificate").decode()}, "attestation_untrusted_key")],
    ids=["a lied register", "fewer PCRs", "PCR 16", "one PCR", "another type", "a later version", "no key", "certificate as quote", "no quote", "a long key",
         "no certificate", "a false certificate"])
def test_lies(machine, change, reason):
    assert machine.denied(change(machine.evidence(machine.ask_challenge()))).startswith(reason)


def test_a_body_that_is_too_long(machine):
    assert machine.denied(json.dumps({"v": 1, "offer": ["x" * 17000]})).startswith("attestation_malformed")


def test_a_key_for_fewer_registers_is_not_what_was_asked_for(machine):
    challenge = machine.ask_challenge()
    e = machine.evidence(challenge, pcrs=[7])
    assert machine.denied(e).startswith("attestation_key_policy")
    challenge = machine.ask_challenge()
    assert machine.denied({**machine.evidence(challenge, pcrs=[7]), "key_pcrs": PCRS}).startswith("attestation_key_policy")


def test_another_boot_and_another_machine_do_not_open_it(machine, tpm, tpms, tmp_path, server):
    body = machine.authorize()
    info = key_info("acme", ASSET, body.get("manifest_sha256"))
    other = tpms[1].reboot(GOOD)
    with pytest.raises((Refused, InvalidTag)):
        other.unwrap(body["wrapped_key"], info)
    tpm.extend(11, digest("the next phase"))
    with pytest.raises((Refused, InvalidTag)):
        tpm.unwrap(body["wrapped_key"], info)
    for events in (EVIL, GOOD):
        tpm.reboot(events)
        with pytest.raises((Refused, InvalidTag)):
            tpm.unwrap(body["wrapped_key"], info)
    # for another contract, asset or manifest it was not sealed
    body = machine.authorize()
    for wrong in (key_info("acme-2", ASSET, SEALED.manifest_sha256), key_info("acme", "other", body.get("manifest_sha256")), key_info("acme", ASSET, "0" * 64)):
        with pytest.raises((Refused, InvalidTag)):
            tpm.unwrap(body["wrapped_key"], wrong)


def test_evidence_of_a_good_boot_with_the_key_of_a_bad_one(machine, tpm):
    good = machine.evidence(machine.ask_challenge())
    tpm.reboot(EVIL)
    evil = machine.evidence(machine.ask_challenge())
    for name in ("quote", "quote_sig", "pcrs"):
        evil[name] = good[name]
    assert machine.denied(evil).startswith("attestation_stale")
    evil = machine.evidence(machine.ask_challenge())
    assert machine.denied({**evil, "pcrs": good["pcrs"]}).startswith("attestation_pcr_digest")


def test_a_key_that_any_boot_may_use(machine, tpm):
    """The attacker's own template: certified by the TPM, and refused for its policy."""
    challenge = machine.ask_challenge()
    e = machine.evidence(challenge)
    extra = attest_rig.extra({"challenge": challenge, "contract_id": "acme", "asset_id": ASSET, "hw_id": machine.hw})
    for policy in (b"\0" * 32, hashlib.sha256(b"the good image").digest()):
        handle, area = tpm.boot_key(PCRS, policy)
        body = struct.pack(">II", handle, AK) + struct.pack(">I", 18) + struct.pack(">IHBH", 0x40000009, 0, 1, 0) * 2 + two_b(extra) + struct.pack(">H", NULL)
        answer = tpm.command(0x148, body)
        size, n = struct.unpack(">IH", answer[:6])
        attested, signature = answer[6:6 + n], answer[6 + n:4 + size]
        tpm.flush(handle)
        fake = {**e, "key": base64.b64encode(area).decode(), "key_certify": base64.b64encode(attested).decode(), "key_sig": base64.b64encode(signature).decode()}
        assert machine.denied(fake).startswith(("attestation_key_policy", "attestation_stale: the challenge was answered"))


@pytest.mark.parametrize("how", ["another CA", "expired", "another use", "no use"])
def test_certificates_that_show_nothing(tmp_path, server, issuer, how):
    made = {"another CA": {"issuer": authority("Test TPM CA")}, "expired": {"start": NOW - datetime.timedelta(9), "end": NOW - datetime.timedelta(2)},
            "another use": {"usage": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "no use": {"usage": ()}}[how]
    tpm = Tpm(tmp_path / "t", made.pop("issuer", issuer), **made)
    try:
        m = Machine(tmp_path, tpm.boot(GOOD), server)
        assert m.denied(m.evidence(m.ask_challenge())).startswith("attestation_untrusted_key")
    finally:
        tpm.off()


def test_one_machines_certificate_with_anothers_key(machine, tmp_path, server, tpms):
    other = Machine(tmp_path, tpms[1].reboot(GOOD), server)
    mine, its = machine.evidence(machine.ask_challenge()), other.evidence(other.ask_challenge())
    assert machine.denied({**mine, "ak_cert": its["ak_cert"]}) == "attestation_untrusted_key: the certificate is of another key"
    mine = machine.evidence(machine.ask_challenge())
    mixed = {**mine, **{n: its[n] for n in ("key", "key_certify", "key_sig")}}
    assert machine.denied(mixed).startswith("attestation_bad_signature")


def test_a_key_that_signs_anything_is_no_attestation_key(tmp_path, server, issuer):
    """Not restricted: its owner could have it sign a quote of his own making."""
    tpm = Tpm(tmp_path / "t", issuer, ak_attributes=AK_ATTRIBUTES & ~(1 << 16))
    try:
        m = Machine(tmp_path, tpm.boot(GOOD), server)
        assert m.denied(m.evidence(m.ask_challenge())).startswith("attestation_untrusted_key: the attestation key is not")
    finally:
        tpm.off()


def test_a_pinned_key_needs_no_certificate(tmp_path, server, issuer):
    tpm = Tpm(tmp_path / "t", issuer)
    try:
        tpm.boot(GOOD).forget_certificate()
        pin = hashlib.sha256(tpm.ak.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        server.cli("contract", "add", "pinned", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", f"pin:{pin}")
        m = Machine(tmp_path, tpm, server, "pinned")
        assert m.key(m.authorize()) == KEY
        server.cli("contract", "add", "pinned", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "pin:" + "0" * 64, "--replace")
        assert m.denied(m.evidence(m.ask_challenge())).startswith("attestation_untrusted_key: the key")
        server.cli("contract", "add", "pinned", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--replace")  # Azure's alone
        assert m.denied(m.evidence(m.ask_challenge())).startswith("attestation_untrusted_key")
    finally:
        tpm.off()


@pytest.mark.parametrize("options, what", [
    (["--attest", "sgx"], "no level"), (["--attest", "TPM"], "no level"), (["--attest", "image"], "images"), (["--attest", "tpm", "--image", "a"], "images"), (["--image", "a"], "--image with image"),
    (["--attest", "image", "--image", "a"], "no image a@*"), (["--ak", "azure"], "--attest tpm"), (["--attest", "tpm", "--ak", "amazon"], "azure, own"),
    (["--attest", "tpm", "--ak", "pin:12"], "64 hex digits")])
def test_a_policy_that_is_none_is_said(server, options, what):
    assert what in server.cli("contract", "add", "x", "--asset", ASSET, *options, rc=64)


def test_policies_over_the_api(server):
    def call(method, path, body):
        return server.call(method, "/api/v1/admin" + path, body, {"Authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(16)})
    token = server.cli("token", "add", "attest-owner", "--scope", "owner").split()[-1]
    policy = {"level": "tpm", "ak": ["own"], "pcrs": [4, 11]}
    status, body, _ = call("POST", "/contracts", {"contract_id": "by-api", "asset_id": ASSET, "mode": "open", "attest": policy})
    assert status == 201 and body["contract"]["attest"] == policy
    for bad in ({"level": "tpm", "images": ["x"]}, {"level": "image"}, {"level": "image", "images": ["no such"]}, {"level": "tpm", "ak": []}, {"level": "tpm", "pcrs": [23]}, {"ak": ["own"]}, [], "tpm", 3):
        status, body, _ = call("PATCH", "/contracts/by-api", {"attest": bad})
        assert status == 400, bad
    status, body, _ = call("PATCH", "/contracts/by-api", {"max_hw": 3})
    assert status == 200 and body["attest"] == policy
    status, body, _ = call("PATCH", "/contracts/by-api", {"attest": None})
    assert status == 200 and "attest" not in body


def test_another_tpm_under_the_same_certificate(tmp_path, server, tpms):
    """An enrolled machine's certificate that was copied to another machine is of no use there."""
    server.cli("contract", "add", "enrolled", "--asset", ASSET, "--attest", "tpm", "--ak", "own")
    code = server.cli("contract", "code", "enrolled").split()[-1]
    identity = Identity(tmp_path / "id")
    assert identity.enrol(server, "enrolled", code)[0] == 200

    def ask(tpm, said):
        return server.authorize("enrolled", hw="hw", more={"attestation": json.dumps(said)}, cert=identity.pair)[1]
    for tpm, ok in ((tpms[0], True), (tpms[1], False), (tpms[0], True)):
        m = Machine(tmp_path, tpm.reboot(GOOD), server, "enrolled", "hw")
        challenge = ask(tpm, {"v": 1, "offer": ["tpm2"]})["challenge"]
        body = ask(tpm, m.evidence(challenge))
        assert (m.key(body) == KEY) if ok else (body["reason"].startswith("attestation_key_changed")), body
        tpm.off()
    server.cli("machine", "remove", "enrolled", "--machine", identity.id)
