# SPDX-License-Identifier: Apache-2.0
"""Contracts that ask for an image: measured by tbpkg, registered, booted in a TPM (swtpm), told from what is nearly it, and revoked."""

import json
import re

import pytest

import attest_rig
import uki_maker as um
from attest_rig import issuer  # noqa: F401
from controlplane_admin import Caller, add_token
from controlplane_desk import Desk
from controlplane_fixtures import postgres  # noqa: F401
from controlplane_server import ASSET, KEY, Server
from software_tpm import Tpm, pem
from test_controlplane_attest import Machine

SB = {7: [um.sha(b"secure boot")]}


class Image:
    """A file, and what a machine measures that boots it."""

    def __init__(self, place, name, version, cmdline=um.CLOSED, **parts):
        self.name, self.version, self.parts = name, version, um.parts(cmdline, **parts)
        self.file, self.doc = place / f"{name}-{version}.efi", place / f"{name}-{version}.json"
        self.file.write_bytes(um.uki(cmdline, **parts))

    def register(self, desk):
        desk.run("image", "measure", self.file, "--image", self.name, "--image-version", self.version, "--output", self.doc)
        desk.run("image", "register", self.doc)

    def events(self, secure=True, **more):
        programs = [um.authenticode(self.file.read_bytes())] + ([] if secure else [um.authenticode(self.parts[".linux"])])
        sections = [e for n, c in self.parts.items() for e in (um.sha(n.encode() + b"\0"), um.sha(c))]
        return {**SB, 4: [um.sha(um.ACTION), um.sha(bytes(4)), *programs], 11: [*sections, *(um.sha(p.encode()) for p in um.PHASES)], **more}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory, issuer):
    database = request.getfixturevalue("postgres").create("image") if request.param == "postgresql" else None
    directory = tmp_path_factory.mktemp("cp")
    (directory / "tpm-ca.pem").write_bytes(pem(issuer[0]))
    with Server(directory / "data", "--seed", "--attest-ca", directory / "tpm-ca.pem", database=database) as s:
        assert s.register()[0] == 201
        yield s


@pytest.fixture(scope="module")
def desk(tmp_path_factory, server):
    token = add_token(server, "publisher", "support").token
    return Desk(tmp_path_factory.mktemp("d") / "home", f"https://127.0.0.1:{server.port}", server.data / "ca.crt", token)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, desk):
    place = tmp_path_factory.mktemp("images")
    made = {"1.0": Image(place, "acme", "1.0"), "1.1": Image(place, "acme", "1.1", **{".osrel": b"ID=debian 1.1\n"}), "other": Image(place, "other", "1", um.CLOSED + " quiet"),
            "debug": Image(place, "acme-debug", "1", um.CLOSED + " systemd.debug_shell=1")}
    for i in made.values():
        i.register(desk)
    made["unregistered"] = Image(place, "acme", "9.9", um.CLOSED + " audit=0")
    return made


@pytest.fixture
def boot(tmp_path, shared_tpm, server):
    def boot(events, contract):
        return Machine(tmp_path, shared_tpm.reboot(events), server, contract)
    yield boot
    shared_tpm.off()


shared_tpm = attest_rig.shared_tpm


@pytest.fixture(scope="module")
def contract(desk, shelf):
    made = {}

    def contract(*options):
        if options not in made:
            made[options] = f"image-{len(made)}"
            desk.run("contract", "add", made[options], "--asset", ASSET, "--mode", "open", "--attest", "image", "--ak", "own", *options)
        return made[options]
    return contract


def said(m):
    return m.say(m.evidence(m.ask_challenge()))


@pytest.mark.parametrize("version, secure", [("1.0", True), ("1.0", False), ("1.1", True)])
def test_every_version_of_an_image_that_is_registered(boot, desk, contract, shelf, version, secure):
    m = boot(shelf[version].events(secure), contract("--image", "acme"))
    body = said(m)
    machines = {row["attested"]["version"]: row for row in desk.json("machine", "list", "--contract", m.contract)["machines"]}
    row = machines[version]["attested"]
    assert row == {"level": "image", "image": "acme", "version": version, "at": machines[version]["last_seen"]}
    assert re.search(rf"LEVEL +ATTESTED +IMAGE +VERSION\n(?:.*\n)*.* image +{row['at']} +acme +{version}$", desk.tbpkg("machine", "list", "--contract", m.contract), re.M)
    assert m.key(body) == KEY and body["attested"] == {"level": "image", "image": "acme", "version": version}
    again = m.say(m.evidence(body["challenge"]))
    assert m.key(again) == KEY


def test_a_contract_of_one_version(boot, contract, shelf):
    m = boot(shelf["1.1"].events(), contract("--image", "acme@1.0"))
    assert m.denied(m.evidence(m.ask_challenge())) == "image_not_in_contract: acme@1.1"
    m = boot(shelf["other"].events(), contract("--image", "acme@1.0"))
    assert m.denied(m.evidence(m.ask_challenge())) == "image_not_in_contract: other@1"
    m = boot(shelf["other"].events(), contract("--image", "acme@1.0", "--image", "other"))
    assert said(m)["attested"]["image"] == "other"


@pytest.mark.parametrize("pcr, events", [
    (4, lambda i: {4: [um.sha(um.ACTION), um.sha(bytes(4)), um.sha(b"another program")]}), (4, lambda i: {4: i.events()[4] + [um.sha(b"an addon")]}),
    (11, lambda i: {11: i.events()[11][:-1]}), (11, lambda i: {11: i.events()[11] + [um.sha(b"shutdown")]}), (12, lambda i: {12: [um.sha(b"a credential")]}),
    (13, lambda i: {13: [um.sha(b"an extension")]}), (14, lambda i: {14: [um.sha(b"a key of the owner")]})],
    ids=["another program", "and an addon", "a phase early", "a phase late", "credential", "extension", "owner's key"])
def test_what_is_nearly_it(boot, contract, shelf, pcr, events):
    i = shelf["1.0"]
    m = boot(i.events() | events(i), contract("--image", "acme"))
    value = m.tpm.pcr(pcr).hex()
    reason = m.denied(m.evidence(m.ask_challenge()))
    assert reason.startswith(f"image_unknown: PCR {pcr} is {value[:12]}.., nearest image acme@1."), reason
    assert "1.0" in reason or pcr == 11


def test_drivers_of_the_firmware_where_the_document_names_their_register(boot, desk, contract, shelf, tmp_path):
    """PCR 2, as docs/attestation.md has it: a driver from a disk runs before the image, with all other registers as they are to be."""
    i = Image(tmp_path, "bare", "1", um.CLOSED + " net.ifnames=0")
    desk.run("image", "measure", i.file, "--image", "bare", "--image-version", "1", "--no-drivers", "--output", i.doc)
    assert json.loads(i.doc.read_text())["pcrs"]["2"] == ["3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"]
    desk.run("image", "register", i.doc)
    separator = um.sha(bytes(4))
    m = boot(i.events() | {2: [separator]}, contract("--image", "bare"))
    assert said(m)["attested"]["image"] == "bare"
    m = boot(i.events() | {2: [um.sha(b"a driver"), separator]}, contract("--image", "bare"))
    assert m.denied(m.evidence(m.ask_challenge())).startswith("image_unknown: PCR 2 is ")


def test_another_image_altogether(boot, contract, shelf):
    m = boot(shelf["unregistered"].events(), contract("--image", "acme@1.0"))
    assert m.denied(m.evidence(m.ask_challenge())).startswith("image_unknown: PCR 4 is")


def test_lies_about_registers(boot, contract, shelf):
    m = boot(shelf["unregistered"].events(), contract("--image", "acme"))
    e = m.evidence(m.ask_challenge())
    wanted = {"4": um.pcr4(um.authenticode(shelf["1.0"].file.read_bytes())), "11": um.pcr11(shelf["1.0"].parts)}
    assert m.denied({**e, "pcrs": {**e["pcrs"], **wanted}}) == "attestation_pcr_digest: the values of the PCRs are not those that were quoted"


def test_secure_boot(boot, contract, shelf):
    name = contract("--image", "acme", "--require-secure-boot")
    assert said(boot(shelf["1.0"].events(), name))["status"] == "authorized"
    m = boot(shelf["1.0"].events(secure=False), name)
    assert m.denied(m.evidence(m.ask_challenge())) == "secure_boot_required: acme@1.0"


def test_an_image_that_lets_others_in(boot, contract, shelf):
    m = boot(shelf["debug"].events(), contract("--image", "acme-debug"))
    assert m.denied(m.evidence(m.ask_challenge())) == "image_debug: acme-debug@1"
    m = boot(shelf["debug"].events(), contract("--image", "acme-debug", "--allow-debug"))
    assert said(m)["status"] == "authorized"


def test_revoked_while_it_serves(boot, tmp_path, desk, contract, shelf):
    i = Image(tmp_path, "short", "1")
    i.file.write_bytes(um.uki(um.CLOSED + " x=1"))
    i.parts = um.parts(um.CLOSED + " x=1")
    i.register(desk)
    m = boot(i.events(), contract("--image", "short"))
    body = said(m)
    assert body["status"] == "authorized"
    assert "next renewal" in desk.said("image", "revoke", "short@1")
    assert m.denied(m.evidence(body["challenge"])) == "image_revoked: short@1"
    assert "was revoked" in desk.tbpkg("image", "register", i.doc, rc=5)
    assert "no image short@* is registered" in desk.tbpkg("contract", "add", "late", "--asset", ASSET, "--attest", "image", "--image", "short", rc=5)


def test_registering(desk, shelf, tmp_path):
    rows = {(i["image"], i["version"]): i for i in desk.json("image", "list")["images"]}
    assert rows["acme", "1.0"]["state"] == "valid" and rows["acme-debug", "1"]["debug"] is True
    assert rows["acme", "1.0"]["measurements"] == json.loads(shelf["1.0"].doc.read_text())
    desk.run("image", "register", shelf["1.0"].doc)  # the same again
    doc = json.loads(shelf["1.1"].doc.read_text())
    for change, rc, what in (({"version": "1.0"}, 5, "another image acme@1.0"), ({"format": "v2"}, 1, "format"), ({"x": 1}, 1, "unknown"), ({"image": "a@b"}, 1, "letters"),
                             ({"pcrs": {"4": ["0" * 64]}}, 1, "lacks one of the PCRs"), ({"pcrs": {**doc["pcrs"], "16": ["0" * 64]}}, 1, "0 to 15"),
                             ({"pcrs": {**doc["pcrs"], "4": ["0" * 63]}}, 1, "64 hex"), ({"pcrs": {**doc["pcrs"], "4": []}}, 1, "1 to 8 values"), ({"debug": "no"}, 1, "debug"),
                             ({"roothash": 5}, 1, '"roothash" is not 64 hex'), ({"uki_sha256": "AB" * 32}, 1, '"uki_sha256" is not 64 hex'), ({"cmdline": {}}, 1, '"cmdline" is no text'),
                             ({"created": None}, 1, '"created" is no text')):
        (tmp_path / "m.json").write_text(json.dumps({**doc, **change}))
        assert what in desk.tbpkg("image", "register", tmp_path / "m.json", rc=rc), change
    (tmp_path / "m.json").write_text("{")
    assert "measurements.json" in desk.tbpkg("image", "register", tmp_path / "m.json", rc=1)
    assert "image nothing@1" in desk.tbpkg("image", "revoke", "nothing@1", rc=3)
    assert "IMAGE@VERSION" in desk.tbpkg("image", "revoke", "nothing", rc=2)


def test_who_may_and_what_is_written_of_it(server, desk, shelf):
    doc = json.loads(shelf["1.0"].doc.read_text())
    auditor = add_token(server, "auditor")
    assert {i["image"] for i in auditor.get("/images?limit=1")["images"]} == {"acme"}
    auditor.refused(403, "scope_missing", "POST", "/images", doc)
    add_token(server, "billing").refused(403, "scope_missing", "GET", "/images")
    add_token(server, "support").refused(403, "scope_missing", "POST", "/images/acme/versions/1.0/revoke")
    Caller(server, "tbt_" + "0" * 64).refused(401, "unauthorized", "POST", "/images", doc)
    names, after = [], ""
    while after is not None:
        page = auditor.get(f"/images?limit=1{after and '&after=' + after}")
        names += [f"{i['image']}@{i['version']}" for i in page["images"]]
        after = page.get("next")
    assert sorted(names) == sorted(set(names)) and "acme@1.1" in names and len(names) > 3
    changes = [json.loads(line) for line in server.cli("changes").splitlines()]
    assert [c["object"] for c in changes if c["action"] == "image.register"][:2] == ["acme", "acme"]


def test_a_contract_names_what_there_is(server, desk, contract, shelf):
    assert "needs --image" in desk.tbpkg("contract", "add", "x", "--asset", ASSET, "--attest", "image", rc=2)
    assert "go with --attest image" in desk.tbpkg("contract", "add", "x", "--asset", ASSET, "--attest", "tpm", "--image", "acme", rc=2)
    assert "no image acme@3 is registered" in desk.tbpkg("contract", "add", "x", "--asset", ASSET, "--attest", "image", "--image", "acme@3", rc=5)
    assert "no image acme@3 is registered" in server.cli("contract", "add", "x", "--asset", ASSET, "--attest", "image", "--image", "acme@3", rc=64)
    name = contract("--image", "acme")
    assert desk.json("contract", "show", name)["attest"]["images"] == ["acme"]
    assert desk.json("contract", "edit", name, "--max-hw", "5")["attest"]["level"] == "image"
