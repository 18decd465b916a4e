# SPDX-License-Identifier: Apache-2.0
"""Level cvm: the key only for a machine whose memory is encrypted, shown by its processor's report in the vTPM (swtpm, tb-vcek, tb-attest,
tb-controlplane). Reports and certificates are made by snp_rig.py; AMD's own roots are checked in test_attest.c."""

import base64
import datetime
import hashlib
import json
import os
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attest_rig import issuer, question  # noqa: F401
from controlplane_server import ASSET, KEY, Server
from snp_rig import DEBUG, ID_KEY, MIGRATION, NV, POLICY, Amd, Metadata, Processor, certificates, jwk, shared_tpm  # noqa: F401
from software_tpm import GOOD, Tpm, pem
from tbsys import program
from test_controlplane_attest import Machine


@pytest.fixture(scope="module")
def amd():
    return Amd()


@pytest.fixture(scope="module")
def cpu(amd):
    return Processor(amd)


@pytest.fixture(scope="module")
def server(tmp_path_factory, issuer, amd):
    directory = tmp_path_factory.mktemp("cp")
    (directory / "tpm-ca.pem").write_bytes(pem(issuer[0]))
    (directory / "amd.pem").write_bytes(amd.pem())
    with Server(directory / "data", "--seed", "--attest-ca", directory / "tpm-ca.pem", "--snp-roots", directory / "amd.pem") as s:
        assert s.register()[0] == 201
        s.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "cvm", "--ak", "own")
        yield s


@pytest.fixture
def machine(tmp_path, shared_tpm, server, cpu):
    (tmp_path / "run/tb-vcek").mkdir(parents=True)
    (tmp_path / "run/tb-vcek/vcek.der").write_bytes(cpu.der)
    return Machine(tmp_path, shared_tpm, server)


def b64(data):
    return base64.b64encode(data).decode()


def test_a_confidential_machine_has_the_key(machine):
    body = machine.authorize()
    assert machine.key(body) == KEY and body["attested"] == {"level": "cvm"}
    again = machine.say(machine.evidence(body["challenge"]))
    assert machine.key(again) == KEY


def test_level_tpm_takes_it_as_any_other(machine, server):
    server.cli("contract", "add", "tpm-only", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own")
    machine.contract = "tpm-only"
    assert machine.authorize()["attested"] == {"level": "tpm"}


def test_a_machine_that_is_none_is_told_so(machine, tmp_path, server, issuer):
    plain = Tpm(tmp_path / "t", issuer)
    try:
        m = Machine(tmp_path, plain.boot(GOOD), server)
        assert m.denied(m.evidence(m.ask_challenge())) == (
            "attestation_snp_required: this machine is no confidential VM with SEV-SNP; choose such a size")
    finally:
        plain.off()
    e = machine.evidence(machine.ask_challenge())
    del e["vcek"]
    assert machine.denied(e).startswith("attestation_snp_required: the processor's certificate")


# What each change makes of the report: each is one that the processor did sign.
SIGNED = {
    "debug": ({"policy": POLICY | DEBUG}, "attestation_snp_policy: the host may debug"),
    "migration": ({"policy": POLICY | MIGRATION}, "attestation_snp_policy: a migration agent"),
    "another level": ({"vmpl": 1}, "attestation_snp_policy: the report is of privilege level (VMPL) 1"),
    "another chip": ({"chip": b"\1" * 64}, "attestation_snp_other_chip"),
    "no chip": ({"chip": b"\0" * 64, "flags": 2}, "attestation_snp_other_chip"),
    "another kind of key": ({"flags": 1 << 2}, "attestation_snp_other_chip"),
    "other versions": ({"tcb": (3, 0, 20, 199)}, "attestation_snp_other_chip: the certificate (VCEK) is for other firmware versions"),
    "other data": ({"data": hashlib.sha256(b"").digest()}, "attestation_snp_unbound: the firmware's claims"),
    "more data": ({"data": None}, "attestation_snp_unbound: the firmware's claims"),
    "no JSON": ({"claims": b"keys"}, "attestation_snp_unbound: the firmware names no"),
    "no keys": ({"claims": b'{"keys":[]}'}, "attestation_snp_unbound: the firmware names no"),
    "keys of another kind": ({"claims": b'{"keys":{"kid":"HCLAkPub"}}'}, "attestation_snp_unbound"),
    "no number": ({"claims": b'{"keys":[{"kid":"HCLAkPub","kty":"RSA"}]}'}, "attestation_snp_unbound"),
    "an unknown version": ({"version": 1}, "attestation_malformed"),
    "another algorithm": ({"algorithm": 2}, "attestation_malformed"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_report_that_says_something_else(machine, cpu, shared_tpm, name):
    change, reason = SIGNED[name]
    if name == "more data":
        text = json.dumps({"keys": [jwk("HCLAkPub", shared_tpm.ak)]}).encode()
        change = {"claims": text, "data": hashlib.sha256(text).digest() + b"\1"}
    e = machine.evidence(machine.ask_challenge())
    assert machine.denied({**e, "snp": b64(cpu.hcl(shared_tpm.ak, **change))}).startswith(reason)


def test_the_report_of_another_machine(machine, cpu, shared_tpm):
    """Its firmware names another TPM: somebody else's confidential VM vouches for nobody here."""
    other = rsa.generate_private_key(65537, 2048).public_key()
    e = machine.evidence(machine.ask_challenge())
    assert machine.denied({**e, "snp": b64(cpu.hcl(other))}) == "attestation_snp_unbound: the report is of another machine: its TPM has another key"
    e = machine.evidence(machine.ask_challenge())
    for keys in ((other, shared_tpm.ak), (shared_tpm.ak, other)):
        two = json.dumps({"keys": [jwk("HCLAkPub", k) for k in keys]}).encode()
        assert machine.denied({**e, "snp": b64(cpu.hcl(None, claims=two))}).startswith("attestation_snp_unbound")
        e = machine.evidence(machine.ask_challenge())
    ek = json.dumps({"keys": [jwk("HCLEkPub", shared_tpm.ak)]}).encode()
    assert machine.denied({**e, "snp": b64(cpu.hcl(None, claims=ek))}).startswith("attestation_snp_unbound")


@pytest.mark.parametrize("how", ["another AMD", "expired", "another curve", "another processor", "no certificate", "the intermediate"])
def test_certificates_of_processors(machine, amd, cpu, shared_tpm, how):
    e = machine.evidence(machine.ask_challenge())
    made = {"another AMD": lambda: Processor(Amd()), "expired": lambda: Processor(amd, end=datetime.datetime.utcnow() - datetime.timedelta(1)),
            "another curve": lambda: Processor(amd, curve=ec.SECP256R1)}.get(how, lambda: Processor(amd, chip=cpu.chip))()
    e["vcek"] = b64({"no certificate": b"none", "the intermediate": amd.ask[0].public_bytes(serialization.Encoding.DER)}
                    .get(how, made.der))
    if how in ("another AMD", "expired", "another curve"):
        e["snp"] = b64(made.hcl(shared_tpm.ak))
    reason = machine.denied(e)
    if how in ("another AMD", "expired", "no certificate"):
        assert reason.startswith("attestation_snp_untrusted: the processor's certificate (VCEK): ")
    else:
        assert reason == "attestation_snp_bad_signature: the processor did not sign this report"


def test_one_bit_of_the_report(machine, cpu, shared_tpm):
    good = cpu.hcl(shared_tpm.ak)
    claims = 32 + 1184 + 20
    for at in (0, 12, 32, 32 + 0x30, 32 + 0x50, 32 + 0x1A0, 32 + 0x2A0, 32 + 0x2A0 + 71, 32 + 0x2A0 + 72, claims - 20 + 8, claims - 8, claims - 4, claims + 3):
        bad = bytearray(good)
        bad[at] ^= 1
        e = machine.evidence(machine.ask_challenge())
        assert machine.denied({**e, "snp": b64(bytes(bad))}).startswith("attestation_"), at
    for n in (1, 32, 32 + 1184, claims, claims + 100):
        e = machine.evidence(machine.ask_challenge())
        assert machine.denied({**e, "snp": b64(good[:n])}).startswith("attestation_malformed"), n
    e = machine.evidence(machine.ask_challenge())
    assert machine.denied({**e, "snp": b64(good.ljust(4097, b"\0"))}).startswith("attestation_malformed")


def test_terms_of_a_contract(machine, server):
    def ask(*options):
        server.cli("contract", "add", "terms", "--asset", ASSET, "--mode", "open", "--attest", "cvm", "--ak", "own", "--replace", *options)
        machine.contract = "terms"
        return machine.authorize()
    assert machine.key(ask("--min-tcb", "3.0.20.200", "--id-key", ID_KEY.hex())) == KEY
    assert machine.key(ask("--id-key", "00" * 48, "--id-key", ID_KEY.hex().upper())) == KEY
    assert ask("--id-key", "00" * 48)["reason"] == f"attestation_snp_policy: the firmware is signed by {ID_KEY.hex()}, which the contract does not name"
    for low in ("4.0.20.200", "3.1.20.200", "3.0.21.200", "3.0.20.201"):
        assert ask("--min-tcb", low)["reason"] == f"attestation_snp_old_tcb: the processor's firmware is 3.0.20.200, the contract wants at least {low}"


@pytest.mark.parametrize("options, what", [(["--attest", "cvm", "--min-tcb", "3.0"], "four numbers"), (["--attest", "tpm", "--min-tcb", "1.1.1.1"], "level cvm alone"),
                                           (["--attest", "cvm", "--id-key", "12"], "96 hex digits"), (["--min-tcb", "1.1.1.1"], "goes with")])
def test_terms_that_are_none(server, options, what):
    assert what in server.cli("contract", "add", "x", "--asset", ASSET, *options, rc=64)


def test_terms_that_leave_the_firmware_open_are_said(server):
    for options, said in (((), True), (("--id-key", ID_KEY.hex()), False)):
        p = subprocess.run([program("tb-controlplane"), "contract", "add", "wide", "--asset", ASSET, "--attest", "cvm", "--replace", *options,
                            "--data", server.data], env={**os.environ, **server.env}, capture_output=True, text=True, timeout=60, check=True)
        assert ("warning: without --id-key" in p.stderr) is said, p.stderr


def test_without_the_processors_certificate_no_evidence(machine, tmp_path):
    """Not a refusal, which would suspend: tb-authorize asks again."""
    (tmp_path / "run/tb-vcek/vcek.der").unlink()
    answer, rc = machine.attest.ask(question())
    assert rc == 75 and "processor: not there yet (tb-vcek.service fetches it)" in answer["error"]


@pytest.mark.parametrize("kind", [b"\4\0\0\0", b"\5\0\0\0", None], ids=["TDX", "Trusted Launch", "not written"])
def test_the_report_of_another_kind_of_machine_needs_no_certificate(tmp_path, issuer, server, cpu, kind):  # noqa: F811
    """It is no confidential VM with SEV-SNP, and has its key of level tpm as before."""
    server.cli("contract", "add", "tpm-only", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own", "--replace")
    tpm = Tpm(tmp_path / "t", issuer)
    try:
        tpm.boot(GOOD)
        report = bytearray(cpu.hcl(tpm.ak))
        at = 32 + 1184 + 8
        report[at:at + 4] = kind or report[at:at + 4]
        tpm.write_nv(NV, bytes(report) if kind else bytes(1500))
        m = Machine(tmp_path, tpm, server)
        assert m.denied(m.evidence(m.ask_challenge())) == (
            "attestation_snp_required: this machine is no confidential VM with SEV-SNP; choose such a size")
        m.contract = "tpm-only"
        assert m.authorize()["attested"] == {"level": "tpm"}
    finally:
        tpm.off()


def vcek(tmp_path, url):
    env = {"TB_CONTRACT_ID": "acme-1", "TB_ASSET_ID": "my-model", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_RUN_DIR": tmp_path, "TB_IMDS_ENDPOINT": url}
    return subprocess.run([program("tb-vcek")], env=env, capture_output=True, text=True, timeout=60)


def test_tb_vcek_fetches_it(tmp_path, cpu):
    with Metadata(cpu.metadata()) as imds:
        r = vcek(tmp_path, imds.url)
    assert (r.returncode, (tmp_path / "tb-vcek/vcek.der").read_bytes()) == (0, cpu.der), r.stderr
    assert imds.seen == [("/metadata/THIM/amd/certification", "true")]
    chain = certificates((tmp_path / "tb-vcek/chain.pem").read_bytes())
    assert chain == [cpu.certificate, cpu.amd.ask[0], cpu.amd.ark[0]]


@pytest.mark.parametrize("status, body, rc, said", [
    (404, "", 0, "no confidential VM"), (400, "", 0, "no confidential VM"), (503, "", 75, "answers 503; trying again"), (200, "[]", 75, "no certificate"),
    (200, '{"vcekCert":"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----"}', 75, "no certificate"), (200, "x" * 70000, 75, "trying again")])
def test_tb_vcek_without_one(tmp_path, status, body, rc, said):
    with Metadata(body, status) as imds:
        r = vcek(tmp_path, imds.url)
    assert r.returncode == rc and said in r.stderr and not (tmp_path / "tb-vcek/vcek.der").exists()


def test_tb_vcek_without_the_service(tmp_path):
    r = vcek(tmp_path, "http://127.0.0.1:1")
    assert r.returncode == 75 and "trying again" in r.stderr
