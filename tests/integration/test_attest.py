# SPDX-License-Identifier: Apache-2.0
"""tb-attest over a real TPM's commands (swtpm): evidence that another implementation checks, and what it says when it cannot make any."""

import base64
import hashlib
import socket
import struct
import threading

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from attest_rig import PCRS, Attest, extra, issuer, question, shared_tpm, tpm  # noqa: F401
from software_tpm import GOOD, Tpm
from tbsys import unix_listener


@pytest.fixture
def attest(tmp_path, tpm):
    return Attest(tmp_path, tpm.path)


def member(evidence, name):
    return base64.b64decode(evidence[name], validate=True)


def check_signature(ak, message, signature):
    scheme, algorithm, n = struct.unpack(">HHH", signature[:6])
    assert (scheme, algorithm, n) == (0x14, 0x0B, len(signature) - 6)
    ak.verify(signature[6:], message, padding.PKCS1v15(), hashes.SHA256())


def test_evidence_is_what_another_reads(attest, tpm):
    q = question()
    e, rc = attest.ask(q)
    assert rc == 0 and e["v"] == 1 and e["type"] == "tpm2" and e["challenge"] == q["challenge"] and e["key_pcrs"] == PCRS
    assert member(e, "ak") == tpm.ak_public
    assert {n: bytes.fromhex(v) for n, v in e["pcrs"].items()} == {str(n): tpm.pcr(n) for n in range(16)}
    for name, kind in (("quote", 0x8018), ("key_certify", 0x8017)):
        attested = member(e, name)
        check_signature(tpm.ak, attested, member(e, "quote_sig" if name == "quote" else "key_sig"))
        assert struct.unpack(">IH", attested[:6]) == (0xFF544347, kind)
        assert extra(q) in attested
    values = b"".join(bytes.fromhex(e["pcrs"][str(n)]) for n in range(16))
    assert member(e, "quote").endswith(struct.pack(">IHB", 1, 0x0B, 3) + b"\xff\xff\0" + struct.pack(">H", 32) + hashlib.sha256(values).digest())
    key = member(e, "key")
    assert b"\0\x0b" + hashlib.sha256(key).digest() in member(e, "key_certify")
    used = hashlib.sha256(b"".join(bytes.fromhex(e["pcrs"][str(n)]) for n in PCRS)).digest()
    mask = sum(1 << n for n in PCRS).to_bytes(3, "little")
    policy = hashlib.sha256(b"\0" * 32 + struct.pack(">IIHB", 0x17F, 1, 0x0B, 3) + mask + used).digest()
    assert key[8:42] == struct.pack(">H", 32) + policy


def test_one_boot_has_one_key_and_another_boot_another(attest, tpm):
    first, again = attest.ask(question())[0], attest.ask(question())[0]
    assert first["key"] == again["key"] and first["quote"] != again["quote"]
    assert attest.ask(question(challenge_pcrs=[4]))[0]["key"] != first["key"]
    tpm.extend(11, hashlib.sha256(b"later").digest())
    assert attest.ask(question())[0]["key"] != first["key"]
    tpm.reboot(GOOD)
    assert attest.ask(question())[0]["key"] != first["key"]


def test_nothing_is_left_in_the_tpm(attest, tpm):
    """More keys and sessions than it has room for."""
    for _ in range(8):
        assert "error" not in attest.ask(question())[0]


@pytest.mark.parametrize("q, why", [
    (b"{", "malformed"), (b"[]", "malformed"), (question(challenge="12"), "64 hex digits"), (question(challenge_pcrs=[16]), "PCRs from 0 to 15"),
    (question(challenge_pcrs=[23]), "PCRs from 0 to 15"), (question(challenge_pcrs=[]), "PCRs from 0 to 15"),
    (question(challenge_pcrs=[4, 4]), "PCRs from 0 to 15"), (question(challenge_pcrs=["4"]), "PCRs from 0 to 15"),
    (question(challenge_pcrs=[4.5]), "PCRs from 0 to 15"), (question(hw_id=7), "hw_id"), (question(contract_id="x" * 300), "contract_id")],
    ids=["half", "a list", "short challenge", "PCR 16", "PCR 23", "no PCR", "twice", "a string", "a fraction", "a number", "long"])
def test_what_is_no_question_is_refused(attest, q, why):
    answer, rc = attest.ask(q)
    assert why in answer["error"] and rc == 64


def test_no_tpm_says_what_to_choose(tmp_path):
    answer, rc = Attest(tmp_path, tmp_path / "none").ask(question())
    assert "not there; choose a machine with a virtual TPM" in answer["error"] and rc == 75


def test_no_attestation_key_is_said_and_no_certificate_is_no_fault(tmp_path, issuer):
    tpm = Tpm(tmp_path / "t", issuer)
    try:
        tpm.boot(GOOD)
        tpm.forget_certificate()
        attest = Attest(tmp_path, tpm.path)
        answer, rc = attest.ask(question())
        assert rc == 0 and "ak_cert" not in answer
        tpm.forget_key()
        answer, rc = attest.ask(question())
        assert "the attestation key at 0x81000003: there is no such object" in answer["error"] and rc == 75
    finally:
        tpm.off()


def test_a_tpm_that_goes_in_the_middle(tmp_path):
    device = unix_listener(tmp_path / "tpm.sock")
    attest = Attest(tmp_path, tmp_path / "tpm.sock")
    def half():
        s = device.accept()[0]
        s.recv(4096)
        s.sendall(b"\x80\x01\0\0")
        s.close()
    threading.Thread(target=half, daemon=True).start()
    answer, rc = attest.ask(question())
    assert "no answer" in answer["error"] and rc == 75


@pytest.mark.parametrize("times, ok", [(2, True), (9, False)], ids=["for a while", "for long"])
def test_a_busy_tpm_is_asked_again(tmp_path, tpm, times, ok):
    """In front of the real one stands somebody who says that it is busy."""
    device, left = unix_listener(tmp_path / "busy.sock"), [times]

    def busy():
        client = device.accept()[0]
        with socket.socket(socket.AF_UNIX) as real:
            real.connect(str(tpm.path))
            while message := client.recv(8192):
                if left[0] > 0:
                    left[0] -= 1
                    client.sendall(struct.pack(">HII", 0x8001, 10, 0x922))
                    continue
                real.sendall(message)
                client.sendall(real.recv(8192))
    threading.Thread(target=busy, daemon=True).start()
    answer, rc = Attest(tmp_path, tmp_path / "busy.sock").ask(question())
    assert (rc == 0) == ok and (ok or "the TPM is busy" in answer["error"])
