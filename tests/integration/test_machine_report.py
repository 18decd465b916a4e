# SPDX-License-Identifier: Apache-2.0
"""What tb-verify saw of a machine: signed by its TPM, in the audit chain, and at the control plane, which takes no other machine's, boot's or time's."""

import base64
import hashlib
import json
import os
import struct
import subprocess

import pytest

from attest_rig import issuer, shared_tpm  # noqa: F401
from controlplane_fixtures import postgres  # noqa: F401
from controlplane_server import ASSET, KEY
from proxy_daemon import make, proxy  # noqa: F401
from software_tpm import GOOD, Tpm
from tbsys import program, wait_for
from test_attest_chain import House, house  # noqa: F401
from test_controlplane_attest import Machine, server  # noqa: F401


def verify(tpm, directory, contract="acme"):
    """A report of this machine, as tb-verify writes it."""
    out = directory / "report.json"
    r = subprocess.run([program("tb-verify"), "--output", out], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "TB_TPM": str(tpm.path), "TB_CONTRACT_ID": contract})
    assert r.returncode in (0, 76), r.stderr
    return out.read_text()


def claims(report):
    results = [c["result"] for c in json.loads(json.loads(report)["report"])["claims"]]
    broken = [c["claim"] for c in json.loads(json.loads(report)["report"])["claims"] if c["result"] == "broken"]
    return {"holds": results.count("holds"), "broken": len(broken), "not_checked": results.count("not checked"), **({"first_broken": broken[0]} if broken else {})}


@pytest.fixture
def machine(tmp_path, server, shared_tpm):
    m = Machine(tmp_path, shared_tpm.reboot(GOOD), server)
    yield m
    if m.hw_id():
        server.cli("machine", "remove", "acme", "--machine", m.hw_id())
    shared_tpm.off()


def hw_id(self):
    machines = [m for m in json.loads(self.server.cli("machine", "list", "--json")) if m["contract_id"] == "acme"]
    return machines[0]["hw_id"] if machines else None


def proved(self):
    return [m for m in json.loads(self.server.cli("machine", "list", "--json")) if m["contract_id"] == "acme"][0].get("proved")


def said(self, report, evidence=None):
    """What becomes of it; the key is given all the same."""
    body = self.say(evidence or self.evidence(self.ask_challenge()), machine_report=report)
    assert self.key(body) == KEY
    return body["machine_report"]


Machine.hw_id, Machine.proved, Machine.said = hw_id, proved, said


def test_a_report_is_kept_and_shown(machine, server, tmp_path):
    report = verify(machine.tpm, tmp_path)
    assert machine.said(report) == "kept"
    shown = machine.proved()
    at = shown.pop("at")
    assert shown == claims(report) and abs(int(subprocess.run(["date", "-d", at, "+%s"], capture_output=True, text=True).stdout) - os.stat(tmp_path / "report.json").st_mtime) < 300
    table = server.cli("machine", "list")
    assert f" proved {at}: {shown['holds']} hold, {shown['broken']} broken" in table and f"{shown['not_checked']} not checked\n" in table
    assert server.cli("machine", "report", "acme", "--machine", machine.hw_id()) == report + "\n"
    token = server.cli("token", "add", f"r-{os.urandom(4).hex()}", "--scope", "owner").split()[-1]
    status, body, _ = server.call("GET", "/api/v1/admin/machines?contract_id=acme", None, {"Authorization": f"Bearer {token}"})
    assert status == 200 and body["machines"][0]["proved"] == {**shown, "at": at}
    # The same once more, and a later one.
    assert machine.said(report) == "known"
    later = verify(machine.tpm, tmp_path)
    assert machine.said(later) == "kept" and server.cli("machine", "report", "acme", "--machine", machine.hw_id()) == later + "\n"
    assert machine.said(report) == "machine_report_old: a later report of this boot is known"
    assert server.cli("machine", "report", "acme", "--machine", machine.hw_id()) == later + "\n"
    # The next boot has a report of its own; what is known of the last one stays until then.
    machine.tpm.reboot(GOOD)
    assert machine.said(later) == "machine_report_other_boot: the report is not of the boot that the machine is in" and machine.proved()
    assert machine.said(verify(machine.tpm, tmp_path)) == "kept"
    server.cli("machine", "remove", "acme", "--machine", machine.hw_id())
    assert machine.key(machine.authorize()) == KEY and machine.proved() is None, "a machine that was forgotten has reported nothing"
    assert "has reported nothing" in server.cli("machine", "report", "acme", "--machine", machine.hw_id(), rc=66)


def test_somebody_elses_report(machine, tmp_path, issuer):
    other = Tpm(tmp_path / "other", issuer, "other")
    try:
        report = verify(other.reboot(GOOD), tmp_path)
    finally:
        other.off()
    assert machine.said(report) == "machine_report_other_machine: the report is signed by another TPM than the evidence"
    # With this machine's key named, and the other's signature.
    mine, theirs = json.loads(verify(machine.tpm, tmp_path)), json.loads(report)
    mixed = {"report": theirs["report"], "signature": {**theirs["signature"], "ak": mine["signature"]["ak"]}}
    assert machine.said(json.dumps(mixed)).startswith("machine_report_bad_signature: the TPM did not sign this report")
    assert machine.proved() is None


def test_a_report_that_was_altered(machine, tmp_path):
    good = json.loads(verify(machine.tpm, tmp_path))
    better = {**good, "report": good["report"].replace('"not checked"', '"holds"').replace('"broken"', '"holds"')}
    assert better != good and machine.said(json.dumps(better)).startswith("machine_report_bad_signature")
    for name in ("quote", "quote_sig"):
        for at in (6, 40, -1):
            data = bytearray(base64.b64decode(good["signature"][name]))
            data[at] ^= 1
            bad = {**good, "signature": {**good["signature"], name: base64.b64encode(data).decode()}}
            assert machine.said(json.dumps(bad)).startswith(("machine_report_bad_signature", "machine_report_malformed")), (name, at)
    # Registers that were not quoted: who reads the report would take it for one of another image.
    for pcr in ("4", "11", "15"):
        lie = {**good, "pcrs": {**good["pcrs"], pcr: "11" * 32}}
        assert machine.said(json.dumps(lie)).startswith("machine_report_bad_signature"), pcr
    for pcrs in ({}, [], None, "x", {"0": "00"}, {**good["pcrs"], "16": "00" * 32}):
        lie = {**good, "pcrs": pcrs}
        assert machine.said(json.dumps(lie)).startswith("machine_report_malformed"), pcrs
    # A quote that the TPM did make, for something else: the evidence's.
    evidence = machine.evidence(machine.ask_challenge())
    other = {**good, "signature": {**good["signature"], "quote": evidence["quote"], "quote_sig": evidence["quote_sig"]}}
    assert machine.said(json.dumps(other)).startswith("machine_report_bad_signature")
    assert machine.said(json.dumps({"report": good["report"], "unsigned": "no TPM"})) == "machine_report_unsigned: the report is not signed"
    assert machine.proved() is None


def test_a_report_of_another_time_or_contract(machine, tmp_path, server):
    evidence = machine.evidence(machine.ask_challenge())
    assert machine.said(verify(machine.tpm, tmp_path), evidence).startswith("machine_report_other_boot"), "made after what shows which boot this is"
    assert machine.said(verify(machine.tpm, tmp_path, "acme-2")) == "machine_report_other_contract: the report is for another contract"
    server.cli("contract", "add", "free", "--asset", ASSET, "--mode", "open", "--replace")
    body = server.authorize("free", more={"attestation": '{"v":1,"offer":["tpm2"]}', "machine_report": verify(machine.tpm, tmp_path, "free")})[1]
    assert body["status"] == "authorized" and "decryption_key_hex" in body and machine.proved() is None


def test_the_registers_are_said_and_are_those_that_were_quoted(machine, tmp_path):
    """By other code than the product's, as an auditor would: each value is the TPM's, and the quote signs the hash of them."""
    report = json.loads(verify(machine.tpm, tmp_path))
    pcrs = [bytes.fromhex(report["pcrs"][str(n)]) for n in range(16)]
    assert pcrs == [machine.tpm.pcr(n) for n in range(16)]
    selection, digest = b"\0\0\0\1\0\x0b\3\xff\xff\0", hashlib.sha256(b"".join(pcrs)).digest()
    assert base64.b64decode(report["signature"]["quote"]).endswith(selection + b"\0\x20" + digest)


def test_a_report_of_an_older_machine_says_no_registers(machine, tmp_path):
    old = json.loads(verify(machine.tpm, tmp_path))
    del old["pcrs"]
    assert machine.said(json.dumps(old)) == "kept"


GOOD_REPORT = {"v": 1, "contract_id": "acme", "boot_id": "b", "claims": [{"claim": "no-swap", "result": "holds", "detail": ""}]}


@pytest.mark.parametrize("report", [
    "", "x", "[]", "{}", 1, None, ["x"], {"report": 1}, {"report": "x"}, {"report": "{}"}, "x" * 13000, *({**GOOD_REPORT, **c} for c in (
        {"v": 2}, {"v": "1"}, {"claims": []}, {"claims": {}}, {"claims": [1]}, {"claims": [{"claim": "x", "result": "good"}]}, {"claims": GOOD_REPORT["claims"] * 65},
        {"contract_id": "a" * 300}, {"boot_id": "b" * 41}, {"boot_id": "b\n"}, {"claims": [{"claim": "x" * 49, "result": "holds"}]}))], ids=lambda r: str(r)[:40])
def test_reports_that_are_none(machine, report):
    if isinstance(report, dict) and "report" not in report and report:
        report = json.dumps({"report": json.dumps(report)})
    elif isinstance(report, dict):
        report = json.dumps(report)
    assert machine.said(report).startswith("machine_report_malformed: ") and machine.proved() is None


def test_signatures_that_are_none(machine, tmp_path):
    good = json.loads(verify(machine.tpm, tmp_path))
    for name in ("ak", "quote", "quote_sig"):
        for value in (None, 1, "", "!", "AAAA", "A" * 8000):
            bad = {**good, "signature": {**good["signature"], name: value}}
            assert machine.said(json.dumps(bad)).startswith(("machine_report_malformed", "machine_report_bad_signature")), (name, value)
    assert machine.said(json.dumps({**good, "signature": []})).startswith("machine_report_malformed")


# -- the machine ---------------------------------------------------------------------------------
def test_tb_authorize_sends_it_with_its_evidence(house):
    h = house(lease="4")
    (h.run / "tb-verify").mkdir()
    report = verify(h.tpm, h.run / "tb-verify")
    h.start()
    h.wait("authorized")
    assert "the control plane has the report of this machine on itself" in h.authorize.log_text()
    machine, = h.machines()
    assert {k: v for k, v in machine["proved"].items() if k != "at"} == claims(report)
    first = h.lease()["renewed_at"]
    wait_for(lambda: h.lease()["renewed_at"] > first, 30, "a renewal")
    assert h.authorize.log_text().count("the control plane has the report") == 1, "it is told once"
    # On demand: the next one goes with the next renewal. One of another machine is refused, and that is all.
    later = verify(h.tpm, h.run / "tb-verify")
    wait_for(lambda: h.server.cli("machine", "report", "acme", "--machine", machine["hw_id"]) == later + "\n", 30, "the later report")
    (h.run / "tb-verify/report.json").write_text(json.dumps({**json.loads(later), "report": "{}"}))
    wait_for(lambda: "does not keep the report of this machine on itself: machine_report_malformed" in h.authorize.log_text(), 30, "the refusal to be said")
    assert h.lease()["state"] == "authorized"
    assert h.server.cli("machine", "report", "acme", "--machine", machine["hw_id"]) == later + "\n"


def test_a_report_that_is_none_of_a_size_stops_nothing(house):
    h = house()
    (h.run / "tb-verify").mkdir()
    (h.run / "tb-verify/report.json").write_bytes(b"x" * 100000)
    h.start()
    h.wait("authorized")
    assert "the report of this machine on itself is not sent" in h.authorize.log_text()


def reports(proxy):
    return [r for r in proxy.records() if "machine_report" in r] if proxy.audit_file.exists() else []


def test_the_audit_chain_has_it(proxy, tmp_path):
    proxy.ask("GET", "/v1/a")
    place = proxy.run / "tb-verify"
    place.mkdir()
    text = json.dumps({"report": json.dumps({"v": 1, "claims": [{"claim": "no-swap", "result": "holds"}]}, separators=(",", ":")), "unsigned": "no \"TPM\" \u00e4"})
    (place / "report.json").write_text(text)
    record, = wait_for(lambda: reports(proxy), what="the record")
    assert record["machine_report"] == text and record["method"] == "REPORT" and record["path"] == "/tb-verify" and "error" not in record
    assert record["req_sha256"] == hashlib.sha256(text.encode()).hexdigest() and record["bytes_in"] == len(text) and record["status"] == 200
    # Written anew as it is, it is no other one.
    (place / "report.json").write_text(text)
    broken = text.replace("holds", "broken")
    proxy.ask("GET", "/v1/b")
    (place / "tmp").write_text(broken)
    os.rename(place / "tmp", place / "report.json")
    wait_for(lambda: len(reports(proxy)) == 2, what="the second record")
    assert reports(proxy)[1]["error"] == "claims_broken" and reports(proxy)[1]["machine_report"] == broken
    (place / "report.json").write_bytes(b"x" * 100000)
    wait_for(lambda: "the report of this machine on itself is not recorded" in proxy.daemon.log_text(), what="the log to say so")
    proxy.ask("GET", "/v1/c")
    wait_for(lambda: len(proxy.records()) == 5, what="all records")
    audit = subprocess.run([program("tb-audit"), "verify", proxy.audit_file], capture_output=True, text=True, timeout=60)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_the_record_survives_many_others(proxy):
    """Its memory is its own, when the memory of records is used again."""
    place = proxy.run / "tb-verify"
    place.mkdir()
    for n in range(3):
        (place / "report.json").write_text(f"report {n} " + "x" * 9000)
        for _ in range(20):
            proxy.ask("GET", "/v1/a")
        wait_for(lambda: len(reports(proxy)) == n + 1, what="the record")
    wait_for(lambda: len(proxy.records()) == 63, what="all records")
    assert [r["machine_report"][:8] for r in reports(proxy)] == ["report 0", "report 1", "report 2"]
