# SPDX-License-Identifier: Apache-2.0
"""What a hostile customer sends to the control plane, and services of keys that hang."""

import json
import subprocess
import threading

import pytest

import tbsys
from controlplane_server import ASSET, BLOBS, KEY, Sealed, Server, signed_report
from key_services import Transit
from machine_identity import JSON, Machine
from test_controlplane_enrolment import issue, key_of, make_ca, reason


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("hostile") / "data") as s:
        assert s.register()[0] == 201
        yield s


def openssl(*args):
    return subprocess.run(["openssl", *args], capture_output=True, text=True, check=True).stdout


def enrol_raw(server, name, code, csr):
    return server.call("POST", "/api/v1/machines/enrol", {"contract_id": name, "code": code, "csr": csr}, JSON)[:2]


@pytest.mark.parametrize("form", ["explicit", "compressed", "big-rsa", "p521", "secp256k1"])
def test_keys_that_are_odd(server, tmp_path, form):
    """One key has one name: what could be written in another way is refused, and so is what costs much to check."""
    code = server.cli("contract", "add", form, "--asset", ASSET).strip()
    key = tmp_path / "key.pem"
    if form == "big-rsa":
        openssl("genrsa", "-out", key, "5120")
    else:
        curve = {"p521": "secp521r1", "secp256k1": "secp256k1"}.get(form, "prime256v1")
        openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", key)
        if form == "explicit":
            openssl("ec", "-in", key, "-param_enc", "explicit", "-out", key)
        if form == "compressed":
            openssl("ec", "-in", key, "-conv_form", "compressed", "-out", key)
    csr = openssl("req", "-new", "-key", key, "-subj", "/CN=x")
    status, body = enrol_raw(server, form, code, csr)
    assert status == 400 and "P-256" in body["message"], body


def test_a_machine_is_no_ca(server, tmp_path):
    """A certificate that an enrolled machine signs is worth nothing, with the whole chain sent or not."""
    code = server.cli("contract", "add", "no-ca", "--asset", ASSET).strip()
    m, fake = Machine(tmp_path), Machine(tmp_path, "fake")
    assert m.enrol(server, "no-ca", code)[0] == 200
    issue((m.certificate, m.key), fake, m.id)
    assert reason(fake.authorize(server, "no-ca")) == "client_certificate_untrusted"
    fake.cert_file.write_text(fake.cert_file.read_text() + m.cert_file.read_text() + (server.data / "ca.crt").read_text())
    assert reason(fake.authorize(server, "no-ca")) == "client_certificate_untrusted"
    assert reason(fake.renew(server)) == "client_certificate_untrusted"


def test_several_cas_of_a_customer(server, tmp_path):
    one, two = make_ca("One", tmp_path / "1.pem"), make_ca("Two", tmp_path / "2.pem")
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "1.pem").read_text() + (tmp_path / "2.pem").read_text())
    server.cli("contract", "add", "two-cas", "--asset", ASSET, "--mode", "certificate", "--client-ca", str(both))
    m = Machine(tmp_path)
    for ca in (one, two):
        issue(ca, m, "gpu")
        assert key_of(m.authorize(server, "two-cas")) == KEY
    both.write_text((tmp_path / "1.pem").read_text() + (tmp_path / "2.pem").read_text().replace("M", "!", 1))
    assert "not certificates of CAs" in server.cli("contract", "add", "broken-cas", "--asset", ASSET, "--mode", "certificate", "--client-ca",
                                                   str(both), rc=64)


def test_expulsion_ends_the_codes(server, tmp_path):
    """Who has the lost machine has its code too: what is left of it lets nobody in."""
    code = server.cli("contract", "add", "lost", "--asset", ASSET, "--code-uses", "9").strip()
    lost, thief = Machine(tmp_path, "lost"), Machine(tmp_path, "thief")
    assert lost.enrol(server, "lost", code)[0] == 200
    server.cli("machine", "expel", "lost", "--machine", lost.id)
    assert reason(thief.enrol(server, "lost", code)) == "enrolment_code_used"
    new = server.cli("contract", "code", "lost").strip()
    assert thief.enrol(server, "lost", new)[0] == 200


@pytest.mark.parametrize("option", ["--client-auth", "--client-ca"])
def test_an_enrolled_machine_is_not_every_customer(tmp_path, option):
    """The CA of enrolled machines may be the server's --client-ca: another customer's machine is none of its clients."""
    data = tmp_path / "data"
    with Server(data) as s:
        assert s.register()[0] == 201
        code = s.cli("contract", "add", "mine", "--asset", ASSET).strip()
        s.cli("contract", "add", "theirs", "--asset", ASSET, "--mode", "certificate")
        s.cli("issue-client", "their-gpu")
        m = Machine(tmp_path)
        assert m.enrol(s, "mine", code)[0] == 200
    with Server(data, *([option] if option == "--client-auth" else [option, str(data / "ca.crt")]), name="again") as s:
        assert key_of(m.authorize(s, "mine")) == KEY
        assert reason(m.authorize(s, "theirs")) == "client_certificate_untrusted"
        pair = str(data / "client-their-gpu.crt"), str(data / "client-their-gpu.key")
        for i in range(3):
            assert key_of(s.authorize("theirs", cert=pair, hw=f"claimed-{i}")) == KEY
        assert "their-gpu" in s.cli("machine", "list") and "claimed-" not in s.cli("machine", "list")


class Slow(Transit):
    """Answers when it is let go."""

    def __init__(self):
        super().__init__()
        self.go, self.waiting = threading.Event(), 0
        self.go.set()

    def handle(self, *args):
        if not self.go.is_set():
            self.waiting += 1
            self.go.wait(60)
        return super().handle(*args)


def test_health_while_the_key_service_hangs(tmp_path):
    """/health is anybody's: while the key service hangs it must not take all workers."""
    with Slow() as bao:
        (tmp_path / "token").write_text(bao.token)
        s = Server(tmp_path / "data", "--workers", "3")
        s.env = s.daemon.env = {"TBCP_KEK": bao.kek, "TBCP_KEK_TOKEN_FILE": str(tmp_path / "token")}
        with s:
            bao.go.clear()
            asking = [threading.Thread(target=s.call, args=("GET", "/health")) for _ in range(6)]
            [t.start() for t in asking]
            tbsys.wait_for(lambda: bao.waiting == 1, what="the check")
            # whoever needs no key is answered while the check still waits
            assert s.denied("contract-deny") == "contract_invalid"
            assert bao.waiting == 1
            bao.go.set()
            [t.join() for t in asking]
            assert s.call("GET", "/health")[0] == 200


def test_reports_of_who_gets_nothing_are_not_the_key_service_s_work(tmp_path):
    """A report may be signed with the key of any version: whoever sends it with requests that are refused must not have each unwrapped again."""
    with Transit() as bao:
        (tmp_path / "token").write_text(bao.token)
        s = Server(tmp_path / "data", "--seed")
        s.env = s.daemon.env = {"TBCP_KEK": bao.kek, "TBCP_KEK_TOKEN_FILE": str(tmp_path / "token")}
        with s:
            sealed = [Sealed(key=f"{n}{n}" * 32) for n in range(1, 5)]
            for n, one in enumerate(sealed):
                assert s.register(BLOBS.put(one, f"reported-{n}"), sealed=one, replace=True)[0] in (200, 201)
            s.cli("contract", "add", "refused", "--asset", ASSET, "--mode", "open")
            s.cli("contract", "revoke", "refused")
            forged, good = (signed_report(key, at="2026-01-01T00:00:00Z", used={"requests": 1}) for key in ("ee" * 32, "11" * 32))
            before = sum(c.endswith("/decrypt/kek") for c in bao.calls)
            for _ in range(20):
                assert s.authorize("refused", more=forged)[1]["reason"] == "contract_revoked"
            assert sum(c.endswith("/decrypt/kek") for c in bao.calls) - before <= 4
            # that of the first version is still known for what it is
            assert s.authorize("refused", more=good)[1]["reason"] == "contract_revoked"
            assert [(r["contract_id"], r["used"]["requests"]) for r in json.loads(s.cli("usage", "--json"))] == [("refused", 1)]
            # keys that are wrapped anew are the same
            bao.rotate()
            s.cli("kek", "rewrap")
            assert s.authorize("refused", more=signed_report("33" * 32, at="2026-01-02T00:00:00Z", used={"requests": 2}))[1]["reason"] == "contract_revoked"
            assert [r["used"]["requests"] for r in json.loads(s.cli("usage", "--json"))] == [2]
