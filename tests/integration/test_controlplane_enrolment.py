# SPDX-License-Identifier: Apache-2.0
"""Machines with an identity of their own: codes, certificates, expulsion, a customer's CA."""

import datetime
import hashlib
import hmac
import json
import re
import subprocess
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import tbsys
from controlplane_server import ASSET, KEY, Server, until_limited
from machine_identity import JSON, Machine


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("enrol") / "data") as s:
        assert s.register()[0] == 201
        yield s


_count = 0


@pytest.fixture
def contract(server):
    """A contract of the default mode, and its code."""
    global _count
    _count += 1
    name = f"customer-{_count}"
    return name, server.cli("contract", "add", name, "--asset", ASSET).strip()


def key_of(answer):
    return answer[1].get("decryption_key_hex")


def reason(answer):
    assert answer[1]["status"] == "denied" and "decryption_key_hex" not in answer[1] and "certificate" not in answer[1], answer
    return answer[1]["reason"]


def test_the_id_alone_fetches_nothing(server, contract):
    assert reason(server.authorize(contract[0])) == "enrolment_required"
    assert reason(server.authorize(contract[0], hw="m-" + "0" * 32)) == "enrolment_required"


def test_enrolled_machine(server, contract, tmp_path):
    name, code = contract
    assert re.fullmatch(r"tbe-[0-9a-hjkmnp-tv-z]{26}", code)
    m = Machine(tmp_path)
    status, body = m.enrol(server, name, f" {code.upper()}\n")
    assert status == 200 and body["status"] == "enrolled" and re.fullmatch(r"m-[0-9a-f]{32}", m.id)
    assert key_of(m.authorize(server, name)) == KEY
    # nothing of the request but its key: no CA, no name of its own choice
    assert m.certificate.subject.rfc4514_string() == f"CN={m.id}"
    assert not m.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = m.certificate.not_valid_after - m.certificate.not_valid_before
    assert datetime.timedelta(days=7) <= life <= datetime.timedelta(days=7, hours=2)
    assert m.id in server.cli("machine", "list") and m.id in server.cli("log")
    assert code not in server.cli("changes") and code not in server.log.read_text()
    # it is what its certificate says, whatever it claims
    assert key_of(m.authorize(server, name, hw="another-machine")) == KEY
    assert "another-machine" not in server.cli("machine", "list")
    assert m.renew(server)[0] == 200 and key_of(m.authorize(server, name)) == KEY


def test_a_code_is_for_so_many_machines(server, tmp_path):
    code = server.cli("contract", "add", "three", "--asset", ASSET, "--code-uses", "3").strip()
    machines = [Machine(tmp_path, f"m{i}") for i in range(8)]
    got = [None] * 8

    def enrol(i):
        got[i] = machines[i].enrol(server, "three", code)
    threads = [threading.Thread(target=enrol, args=(i,)) for i in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert sorted(s for s, _ in got) == [200] * 3 + [403] * 5
    assert {b["reason"] for s, b in got if s != 200} == {"enrolment_code_used"}
    # who had no answer asks again with the same key: no second use
    one = next(m for m, g in zip(machines, got) if g[0] == 200)
    assert one.enrol(server, "three", code)[0] == 200
    more = server.cli("contract", "code", "three").strip()
    late = next(m for m, g in zip(machines, got) if g[0] != 200)
    assert late.enrol(server, "three", more)[0] == 200 and key_of(late.authorize(server, "three")) == KEY


def test_codes_that_are_none(server, contract, tmp_path):
    name, code = contract
    other = server.cli("contract", "add", "other-customer", "--asset", ASSET, "--replace") or server.cli("contract", "code", "other-customer")
    m = Machine(tmp_path)
    for wrong in (other.strip(), "tbe-" + "0" * 26, code[:-1], code + "0", "x", code.replace("tbe-", "tbe_"), code[:10] + " " + code[10:]):
        assert reason(m.enrol(server, name, wrong)) == "enrolment_code_invalid", wrong
    assert reason(m.enrol(server, "nobody", code)) == "contract_invalid"
    server.cli("contract", "add", "anybody", "--asset", ASSET, "--mode", "open")
    assert reason(m.enrol(server, "anybody", code)) == "enrolment_not_used"
    assert "mode open" in server.cli("contract", "code", "anybody", rc=64)
    short = server.cli("contract", "code", name, "--code-expires-in", "1s").strip()
    tbsys.wait_for(lambda: m.enrol(server, name, short)[1].get("reason") == "enrolment_code_expired" or
                   Machine(tmp_path, "again").enrol(server, name, short)[1].get("reason") == "enrolment_code_expired", what="the end of the code")


def test_requests_that_are_none(server, contract, tmp_path):
    name, code = contract
    m = Machine(tmp_path)
    weak = Machine(tmp_path, "weak", rsa.generate_private_key(public_exponent=65537, key_size=1024))
    lines = m.csr().splitlines()
    broken = "\n".join([*lines[:-2], "A" * len(lines[-2]), lines[-1]])
    foreign = Machine(tmp_path, "foreign").csr()
    for csr in ("", "x", m.csr()[:200], weak.csr(), broken, m.key_file.read_text(), "x" * 9000):
        status, body, _ = server.call("POST", "/api/v1/machines/enrol", {"contract_id": name, "code": code, "csr": csr}, JSON)
        assert status == 400 and body["reason"] == "invalid_request" and "PRIVATE" not in json.dumps(body), csr
    assert m.enrol(server, name, code)[0] == 200  # none of them used it
    assert reason(m.renew(server, csr=foreign)) == "client_certificate_untrusted"
    assert reason(m.renew(server, cert=False)) == "client_certificate_untrusted"


def certificate_of(server, key, name, path):
    """A client certificate of the server's CA, as issue-client makes them, for this key and name."""
    ca = x509.load_pem_x509_certificate((server.data / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((server.data / "ca.key").read_bytes(), None)
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])).issuer_name(ca.subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(signer, hashes.SHA256()))
    path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


def test_a_certificate_renews_its_own_key_under_its_own_name(server, contract, tmp_path):
    """Of the same CA, with the machine's name but another key; or with its key but another name."""
    name, code = contract
    m, other = Machine(tmp_path), Machine(tmp_path, "other")
    assert m.enrol(server, name, code)[0] == 200 and m.renew(server)[0] == 200
    certificate_of(server, other.key, m.id, other.cert_file)
    assert reason(other.renew(server, csr=m.csr())) == "client_certificate_untrusted"
    certificate_of(server, m.key, "m-" + "0" * 32, m.cert_file)
    assert reason(m.renew(server)) == "client_certificate_untrusted"
    certificate_of(server, m.key, m.id, m.cert_file)
    assert m.renew(server)[0] == 200  # nothing else was wrong with them


def test_expulsion(server, tmp_path):
    code = server.cli("contract", "add", "fleet", "--asset", ASSET, "--code-uses", "9").strip()
    good, lost = Machine(tmp_path, "good"), Machine(tmp_path, "lost")
    assert good.enrol(server, "fleet", code)[0] == lost.enrol(server, "fleet", code)[0] == 200
    server.cli("machine", "expel", "fleet", "--machine", lost.id)
    assert reason(lost.authorize(server, "fleet")) == "machine_expelled"
    assert reason(lost.renew(server)) == "machine_expelled"
    assert reason(lost.enrol(server, "fleet", code)) == "machine_expelled"
    server.cli("contract", "unbind", "fleet")  # slots, not identities
    assert key_of(good.authorize(server, "fleet")) == KEY and reason(lost.authorize(server, "fleet")) == "machine_expelled"
    server.cli("machine", "remove", "fleet", "--machine", good.id)
    assert reason(good.authorize(server, "fleet")) == "machine_unknown" and reason(good.renew(server)) == "machine_unknown"
    # the lost machine has the code too: it is over
    assert reason(good.enrol(server, "fleet", code)) == "enrolment_code_used"
    code = server.cli("contract", "code", "fleet").strip()
    assert good.enrol(server, "fleet", code)[0] == 200 and key_of(good.authorize(server, "fleet")) == KEY
    assert "no machine" in server.cli("machine", "expel", "fleet", "--machine", "m-none", rc=66)


def test_a_contract_that_is_refused_knows_its_machines(server, contract, tmp_path):
    """The last report of a revoked contract is that of the machine, and so is the verdict in the log; not of what it says of itself."""
    name, code = contract
    m = Machine(tmp_path)
    assert m.enrol(server, name, code)[0] == 200 and key_of(m.authorize(server, name)) == KEY
    server.cli("contract", "revoke", name)
    text = json.dumps({"at": "2026-01-02T00:00:00Z", "ledger": "l1", "used": {"requests": 5}})
    derived = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
    more = {"usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()}
    assert reason(m.authorize(server, name, hw="another-name", more=more)) == "contract_revoked"
    assert [(u["hw_id"], u["used"]["requests"]) for u in json.loads(server.cli("usage", "--json")) if u["contract_id"] == name] == [(m.id, 5)]
    entry = json.loads(server.cli("log", "--json"))[-1]
    assert (entry["hw_id"], entry["reason"]) == (m.id, "contract_revoked")
    assert reason(server.authorize(name, hw="another-name")) == "contract_revoked"  # without its certificate, too


def test_a_certificate_is_for_its_contract(server, tmp_path):
    """A customer's machine gets nothing of another customer's contract, nor a client certificate of the same CA anything."""
    mine, theirs = (server.cli("contract", "add", n, "--asset", ASSET).strip() for n in ("mine-1", "theirs-1"))
    m = Machine(tmp_path)
    assert m.enrol(server, "mine-1", mine)[0] == 200
    assert reason(m.authorize(server, "theirs-1")) == "machine_unknown"
    server.cli("issue-client", m.id)  # the same name, another key
    pair = str(server.data / f"client-{m.id}.crt"), str(server.data / f"client-{m.id}.key")
    assert reason(server.authorize("mine-1", cert=pair)) == "machine_unknown"
    del theirs


def make_ca(name, path, *, days=30):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days)).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256()))
    path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    return cert, key


def issue(ca, m, name, *, since=-1, until=10, usage=x509.ExtendedKeyUsageOID.CLIENT_AUTH):
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])).issuer_name(ca[0].subject)
            .public_key(m.key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(now + datetime.timedelta(days=since))
            .not_valid_after(now + datetime.timedelta(days=until)).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(ca[1], hashes.SHA256()))
    m.cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


def test_a_ca_of_the_customer(server, tmp_path):
    ca, other = make_ca("Customer CA", tmp_path / "ca.pem"), make_ca("Other CA", tmp_path / "other.pem")
    server.cli("contract", "add", "own-ca", "--asset", ASSET, "--mode", "certificate", "--client-ca", str(tmp_path / "ca.pem"), "--max-hw", "2")
    m = Machine(tmp_path)
    issue(ca, m, "gpu-07.customer.example")
    assert key_of(m.authorize(server, "own-ca")) == KEY and "gpu-07.customer.example" in server.cli("machine", "list")
    for _ in range(3):
        assert key_of(m.authorize(server, "own-ca", hw=f"claimed-{_}")) == KEY  # one machine, one slot
    for change, why in ((dict(since=-9, until=-1), "client_certificate_expired"), (dict(since=1), "client_certificate_expired"),
                        (dict(usage=x509.ExtendedKeyUsageOID.SERVER_AUTH), "client_certificate_untrusted")):
        issue(ca, m, "gpu-07.customer.example", **change)
        assert reason(m.authorize(server, "own-ca")) == why
    issue(other, m, "gpu-07.customer.example")
    assert reason(m.authorize(server, "own-ca")) == "client_certificate_untrusted"
    assert reason(server.authorize("own-ca")) == "client_certificate_required"
    (tmp_path / "none.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "not certificates of CAs" in server.cli("contract", "add", "x", "--asset", ASSET, "--mode", "certificate", "--client-ca",
                                                   str(tmp_path / "none.pem"), rc=64)


def test_open_is_warned_about(server):
    r = subprocess.run([tbsys.program("tb-controlplane"), "contract", "add", "opened", "--asset", ASSET, "--mode", "open", "--data", server.data],
                       capture_output=True, text=True, check=True)
    assert "whoever knows the id" in r.stderr and r.stdout == ""


def test_short_certificates_and_a_machine_that_was_off(tmp_path):
    with Server(tmp_path / "data", "--certificate-seconds", "60") as s:
        assert s.register()[0] == 201
        code = s.cli("contract", "add", "c", "--asset", ASSET).strip()
        m = Machine(tmp_path)
        assert m.enrol(s, "c", code)[0] == 200
        ca = (x509.load_pem_x509_certificate((s.data / "ca.crt").read_bytes()),
              serialization.load_pem_private_key((s.data / "ca.key").read_bytes(), None))
        issue(ca, m, m.id, since=-40, until=-30)
        assert reason(m.authorize(s, "c")) == "client_certificate_expired"
        assert m.renew(s)[0] == 200 and key_of(m.authorize(s, "c")) == KEY
        issue(ca, m, m.id, since=-400, until=-91)
        assert reason(m.renew(s)) == "client_certificate_untrusted"


def test_machines_that_enrolled_pass_a_global_client_ca(tmp_path):
    """--client-ca is for contracts that name no other: neither the machines of an enrolled one nor those of a customer's CA are refused for it."""
    customer = make_ca("Customer CA", tmp_path / "customer.pem")
    foreign = make_ca("Global CA", tmp_path / "global.pem")
    with Server(tmp_path / "data", "--client-ca", tmp_path / "global.pem") as s:
        assert s.register()[0] == 201
        code = s.cli("contract", "add", "fleet", "--asset", ASSET).strip()
        s.cli("contract", "add", "own-ca", "--asset", ASSET, "--mode", "certificate", "--client-ca", str(tmp_path / "customer.pem"))
        s.cli("contract", "add", "anybody", "--asset", ASSET, "--mode", "open")
        m, theirs, ours = (Machine(tmp_path, n) for n in ("m", "theirs", "ours"))
        assert m.enrol(s, "fleet", code)[0] == 200
        issue(customer, theirs, "gpu.customer.example")
        issue(foreign, ours, "gpu.provider.example")
        assert key_of(m.authorize(s, "fleet")) == key_of(theirs.authorize(s, "own-ca")) == key_of(ours.authorize(s, "anybody")) == KEY
        for machine, contract in ((m, "own-ca"), (theirs, "fleet"), (m, "anybody"), (theirs, "anybody")):
            status, body = machine.authorize(s, contract)
            assert status in (200, 403) and body["reason"] == "client_certificate_untrusted", (contract, body)
        status, body = s.authorize("anybody")
        assert (status, body["reason"]) == (401, "client_certificate_required")


def test_guessing_contracts_and_codes_is_slowed(tmp_path):
    """As it is where a key is asked for: which contracts there are is not found out here either."""
    for n, guess in enumerate((lambda i: (f"guess-{i}", "tbe-" + "0" * 26), lambda i: ("acme-1", f"tbe-{i:026d}"))):
        with Server(tmp_path / f"s{n}" / "data", "--metrics-listen", "127.0.0.1:0") as s:
            assert s.register()[0] == 201
            s.cli("contract", "add", "acme-1", "--asset", ASSET)
            m = Machine(tmp_path, f"guesser-{n}")
            assert until_limited(lambda i, m=m, s=s, guess=guess: m.enrol(s, *guess(i))[0]) == {403}
            assert "too many requests" in s.log.read_text()
