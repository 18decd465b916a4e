# SPDX-License-Identifier: Apache-2.0
"""tb-authorize enrols at the real tb-controlplane, renews by itself, and never gives its key away."""

import os
import pathlib
import re
import time
import types

import pytest
from cryptography import x509

from authorize_world import World
from controlplane_server import ASSET, KEY, Server
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
