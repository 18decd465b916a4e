# SPDX-License-Identifier: Apache-2.0
"""A machine of a purchase, without contract id and code: tb-authorize names the contract by its application and enrols by its managed
identity, at the real tb-controlplane."""

import types

import pytest

from authorize_world import World
from azure_manager import Application, Identity
from controlplane_server import ASSET, KEY
from machine_identity import Machine  # noqa: F401
from test_controlplane_purchase import Seller, contract_of


@pytest.fixture
def seller(tmp_path):
    with Seller(tmp_path / "seller") as s:
        yield s


def machine(seller, tmp_path, app, identity):
    env = {"TB_CONTRACT_ID": "application", "TB_BILLING_RESOURCE_ID": app.id.replace("resourceGroups", "resourcegroups"), "TB_ASSET_ID": ASSET,
           "TB_INSECURE_HTTP": "true", "AZURE_POD_IDENTITY_AUTHORITY_HOST": identity.url if identity else "http://127.0.0.1:9"}
    return World(tmp_path / "machine", types.SimpleNamespace(cert=str(seller.server.data / "ca.crt")),
                 types.SimpleNamespace(url=f"https://127.0.0.1:{seller.server.port}", down=lambda: None), env=env, credentials={})


def bought(seller, mode):
    seller.sell("--mode", mode, "--lease-seconds", "3")
    app = Application(seller.manager, "llama")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    return app


def test_a_purchase_serves_without_a_code(seller, tmp_path):
    app = bought(seller, "enrolled")
    vm = f"{app.managed}/providers/Microsoft.Compute/virtualMachines/tb-vm"
    with Identity(lambda service: seller.manager.machine_token(vm)) as identity:
        w = machine(seller, tmp_path, app, identity)
        try:
            w.start().ready()
            assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
            assert (w.state / "machine.pem").exists() and contract_of(app.id) in w.log() and len(identity.calls) == 1
            w.daemon.stop()
            w.start().ready()  # by its certificate
            assert w.wait_state("authorized") and len(identity.calls) == 1
            seller.told(app.deleted())
            assert w.wait_state("denied")["reason"] == "application_deleted"
        finally:
            w.stop()


def test_a_machine_of_elsewhere_gets_nothing(seller, tmp_path):
    app = bought(seller, "enrolled")
    with Identity(lambda service: seller.manager.machine_token(app.managed + "-2/providers/Microsoft.Compute/virtualMachines/x")) as identity:
        w = machine(seller, tmp_path, app, identity)
        try:
            w.start().ready()
            assert w.wait_state("denied")["reason"] == "enrolment_required" and w.key() == b""
            assert "identity_not_of_purchase" in w.log() and not (w.state / "machine.pem").exists()
        finally:
            w.stop()


def test_an_open_contract_needs_no_identity(seller, tmp_path):
    app = bought(seller, "open")
    w = machine(seller, tmp_path, app, None)
    try:
        w.start().ready()
        assert w.wait_state("authorized") and w.key() == bytes.fromhex(KEY)
    finally:
        w.stop()
