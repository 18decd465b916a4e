# SPDX-License-Identifier: Apache-2.0
"""tb-authorize enrols at the real tb-controlplane, renews by itself, and never gives its key away."""

import datetime
import json
import os
import pathlib
import re
import time
import types

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authorize_world import World, ca, world  # noqa: F401
from controlplane_server import ASSET, KEY, Server
from key_services import Refusal, Service
from machine_identity import Machine
from tbsys import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("plane") / "data", "--certificate-seconds", "60") as s:
        assert s.register()[0] == 201
        yield s


_count = 0


@pytest.fixture
def machine(server, tmp_path):
    """Makes a machine of a new contract. code: what its credential holds; None: it has none."""
    worlds = []

    def make(*terms, code="right", name=None):
        global _count
        _count += 1
        contract = name or f"machines-{_count}"
        given = "" if name else server.cli("contract", "add", contract, "--asset", ASSET, "--lease-seconds", "3", *terms).strip()
        w = World(tmp_path / f"w{_count}", types.SimpleNamespace(cert=str(server.data / "ca.crt")),
                  types.SimpleNamespace(url=f"https://127.0.0.1:{server.port}", down=lambda: None),
                  env={"TB_CONTRACT_ID": contract, "TB_ASSET_ID": ASSET, "TB_INSECURE_HTTP": "true"},
                  credentials={} if code is None else {"enrolment-code": (given if code == "right" else code).encode() + b"\n"})
        w.contract, w.code, w.pem = contract, given, w.state / "machine.pem"
        worlds.append(w)
        return w
    yield make
    for w in worlds:
        w.stop()


def certificate(w):
    return x509.load_pem_x509_certificate(w.pem.read_bytes())


def test_enrols_once_and_serves(server, machine):
    w = machine().start().ready()
    assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
    assert w.pem.stat().st_mode & 0o777 == 0o600 and not (w.pem.parent / "machine.key").exists()
    name = certificate(w).subject.rfc4514_string().removeprefix("CN=")
    assert re.search(rf"{w.contract}\s.*{name}|{name}.*", server.cli("machine", "list"))
    assert w.code not in w.log() and "PRIVATE" not in w.log()
    w.daemon.stop()
    w.start().ready()  # by its certificate: the code is used up
    assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
    assert w.log().count("enrolled at the control plane") == 1


def test_renews_before_the_end(server, machine):
    w = machine().start().ready()
    first = certificate(w).serial_number
    # certificates last 60 s from an hour ago on: a third of their life is longer than that, so each renewal brings another
    wait_for(lambda: certificate(w).serial_number != first, 20, "another certificate")
    assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
    wait_for(lambda: "renewed the certificate" in w.log(), 20, "a word on it")


def test_without_a_code_it_is_said(server, machine):
    w = machine(code=None).start().ready()
    assert w.wait_state("denied")["reason"] == "enrolment_required"
    assert w.key() == b"" and not w.pem.exists()


@pytest.mark.parametrize("code", ["tbe-" + "0" * 26, "nonsense", ""])
def test_a_wrong_code(server, machine, code):
    w = machine(code=code).start().ready()
    assert w.wait_state("denied")["reason"] == ("enrolment_code_invalid" if code else "enrolment_required")
    assert w.key() == b"" and not w.pem.exists()


def test_a_code_that_was_used(server, machine):
    first = machine().start().ready()
    assert first.wait_state("authorized")
    second = machine(name=first.contract, code=first.code).start().ready()
    assert second.wait_state("denied")["reason"] == "enrolment_code_used"


def test_expelled_and_forgotten(server, machine):
    w = machine().start().ready()
    w.wait_state("authorized")
    name = certificate(w).subject.rfc4514_string().removeprefix("CN=")
    server.cli("machine", "remove", w.contract, "--machine", name)
    assert w.wait_state("denied", 20)["reason"] == "machine_unknown"
    # a new code, as the provider gives it, and a restart
    w.stop()
    again = machine(name=w.contract, code=server.cli("contract", "code", w.contract).strip())
    again.state.mkdir(exist_ok=True)
    os.rename(w.pem, again.pem)
    again.start().ready()
    again.wait_state("authorized")
    assert certificate(again).subject.rfc4514_string().removeprefix("CN=") != name
    name = certificate(again).subject.rfc4514_string().removeprefix("CN=")
    server.cli("machine", "expel", w.contract, "--machine", name)
    assert again.wait_state("denied", 20)["reason"] == "machine_expelled"


def test_killed_at_any_moment(server, machine):
    """However often it dies while it enrols, the code of one use gives one machine."""
    w = machine()
    for i in range(12):
        w.start()
        time.sleep(0.01 + 0.012 * i)
        w.daemon.kill()
    w.start().ready()
    w.wait_state("authorized")
    assert server.cli("machine", "list").count(w.contract) == 1


def test_a_bad_code_takes_nothing_away(server, machine):
    w = machine().start().ready()
    w.wait_state("authorized")
    w.stop()
    again = machine(name=w.contract, code="tbe-" + "1" * 26)
    again.state.mkdir(exist_ok=True)
    os.rename(w.pem, again.pem)
    again.start().ready()
    again.wait_state("authorized")
    assert "keeps the identity that it has" in again.log()


def test_a_damaged_identity(server, machine):
    w = machine().start().ready()
    w.wait_state("authorized")
    w.daemon.stop()
    pathlib.Path(w.pem).write_text("rubbish")
    w.start()  # the code is used up, and what identified the machine is gone
    assert w.wait_state("denied")["reason"] == "enrolment_code_used" and w.key() == b""
    w.stop()
    bare = machine(name=w.contract, code=None)
    bare.state.mkdir(exist_ok=True)
    bare.pem.write_text("rubbish")
    bare.start().wait_reason("machine.pem is damaged; give the machine a new enrolment code")


def of_the_same(w, machine, code):
    """A machine with what w has on its disk, and another code."""
    w.stop()
    again = machine(name=w.contract, code=code)
    again.state.mkdir(exist_ok=True)
    for f in w.pem.parent.glob("machine.*"):
        os.rename(f, again.state / f.name)
    return again


@pytest.mark.parametrize("form", ["\ufeff{}\r\n", "\n\n  {}", "{}" + " " * 300 + "\n", "\t{}"])
def test_a_code_as_editors_write_it(server, machine, form):
    name = machine(code=None).contract
    w = machine(name=name, code=form.format(server.cli("contract", "code", name).strip().upper())).start().ready()
    w.wait_state("authorized")


def test_a_code_that_cannot_be_read(server, machine):
    machine(code="x" * 5000).start().wait_reason("credential enrolment-code: File too large")


def test_expelled_machines_come_back_by_a_new_code(server, machine, tmp_path):
    """Whatever key was left on the disk: by the new code the machine is another one."""
    w = machine().start().ready()
    w.wait_state("authorized")
    name = certificate(w).subject.rfc4514_string().removeprefix("CN=")
    w.daemon.stop()
    (w.state / "machine.key").write_bytes(w.pem.read_bytes())  # it died between the certificate and the removal of the key
    server.cli("machine", "expel", w.contract, "--machine", name)
    w = of_the_same(w, machine, server.cli("contract", "code", w.contract).strip()).start().ready()
    w.wait_state("authorized")
    assert certificate(w).subject.rfc4514_string().removeprefix("CN=") != name

    # it was expelled before it heard that it had enrolled
    w = machine()
    m = Machine(tmp_path / "m")
    assert m.enrol(server, w.contract, w.code)[0] == 200
    server.cli("machine", "expel", w.contract, "--machine", m.id)
    w.state.mkdir(exist_ok=True)
    (w.state / "machine.key").write_bytes(m.key_file.read_bytes())
    w.start().ready()
    assert w.wait_state("denied")["reason"] == "machine_expelled"
    w = of_the_same(w, machine, server.cli("contract", "code", w.contract).strip()).start().ready()
    w.wait_state("authorized")


def plane_that_says(world, certificate_of):
    """A control plane whose answer to an enrolment has what certificate_of makes of the request."""
    def answer(n):
        def handle(h):
            body = json.dumps({"status": "enrolled", "certificate": certificate_of(h.server.plane.requests[n - 1][3].get("csr", ""))}).encode()
            h.send_response(200)
            h.send_header("Content-Length", str(len(body)))
            h.end_headers()
            h.wfile.write(body)
        return handle
    return world(answer, credentials={"enrolment-code": b"tbe-00000000000000000000000000\n"})


def signed(csr):
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "plane")])
    now = datetime.datetime.utcnow()
    return (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(x509.load_pem_x509_csr(csr.encode()).public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM).decode())


def test_an_answer_brings_certificates_only(world):
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    w = plane_that_says(world, lambda csr: "Enrolled-By: " + "0" * 64 + "\n" + signed(csr) + other if csr else "")
    text = wait_for(lambda: (w.state / "machine.pem").exists() and (w.state / "machine.pem").read_text(), what="the identity")
    assert text.count("PRIVATE KEY-----") == 2 and text.count("Enrolled-By") == 1 and other not in text


@pytest.mark.parametrize("wrong", ["", "x" * 100000, "-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\n"
                                   "DEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END CERTIFICATE-----\n"], ids=["empty", "long", "encrypted"])
def test_an_answer_with_no_certificate(world, wrong):
    w = plane_that_says(world, lambda csr: wrong)
    w.wait_reason("enrolment: ")
    assert not (w.state / "machine.pem").exists()


class Ahead(Service):
    """A control plane whose clock is ahead of the machine's: what the machine has is over until it renews."""

    def __init__(self):
        super().__init__()
        self.key, self.renewals, self.broken = ec.generate_private_key(ec.SECP256R1()), 0, False

    def certificate(self, csr):
        name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "m-1")]), datetime.datetime.utcnow()
        cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(x509.load_pem_x509_csr(csr.encode()).public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
                .sign(self.key, hashes.SHA256()))
        return cert.public_bytes(serialization.Encoding.PEM).decode()

    def handle(self, method, path, headers, body):
        rq = json.loads(body) if body else {}
        if path.endswith("/health"):
            return {"status": "ok"}
        if path.endswith("/renew"):
            self.renewals += 1
            if self.broken:
                raise Refusal(503, {"error": "unavailable"})
        if path.endswith(("/enrol", "/renew")):
            return {"status": "enrolled", "machine_id": "m-1", "certificate": self.certificate(rq["csr"]), "expires_at": "2099-01-01T00:00:00Z"}
        if not self.renewals or self.broken:
            return {"status": "denied", "reason": "client_certificate_expired"}
        return {"status": "authorized", "sas_url": "https://h/c/m", "manifest_url": "https://h/c/j", "decryption_key_hex": KEY,
                "expires_at": "2099-01-01T00:00:00Z"}


def test_a_machine_whose_clock_is_behind_renews_when_it_is_told(tmp_path):
    with Ahead() as plane:
        w = World(tmp_path / "w", types.SimpleNamespace(cert=""), types.SimpleNamespace(url=plane.url, down=lambda: None),
                  env={"TB_CONTRACT_ID": "c-1", "TB_ASSET_ID": ASSET, "TB_INSECURE_HTTP": "true", "TB_CA_FILE": ""},
                  credentials={"enrolment-code": b"tbe-" + b"0" * 26})
        try:
            w.start().ready()
            assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
            assert plane.renewals == 1 and "Let the machine keep time" in w.log()
            w.daemon.stop()
            plane.renewals, plane.broken = 0, True
            w.start().ready()  # once for each question, and then it is a denial
            assert w.wait_state("denied")["reason"] == "client_certificate_expired" and plane.renewals == 1
        finally:
            w.stop()
