# SPDX-License-Identifier: Apache-2.0
"""Versions of assets: kept beside the current one, promoted, rolled back."""

import json

import pytest

from controlplane_fixtures import postgres
from controlplane_server import KEY, Sealed, Server

OTHER = Sealed("55" * 32)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def plain(request, tmp_path_factory):
    database = request.getfixturevalue("postgres").create("assets") if request.param == "postgresql" else None
    with Server(tmp_path_factory.mktemp("cp") / "data", "--seed", database=database) as s:
        yield s


def test_a_version_waits_beside_the_current_one_until_it_is_promoted(plain):
    def served(contract):
        return plain.authorize(contract, asset="model")[1]["decryption_key_hex"]

    assert plain.register(asset="model", promote=False)[:2] == (
        201, {"status": "registered", "asset_id": "model", "version": 1, "message": "the asset is registered"})
    plain.cli("contract", "add", "follows", "--asset", "model", "--mode", "open")
    plain.cli("contract", "add", "fixed", "--asset", "model", "--mode", "open", "--version", "1")
    status, body, _ = plain.register(asset="model", sealed=OTHER, promote=False)
    assert (status, body["version"]) == (200, 2) and "until it is promoted" in body["message"]
    assert served("follows") == served("fixed") == KEY
    assert plain.register(asset="model", sealed=OTHER)[1]["error"] == "asset_in_use"
    assert served("follows") == KEY
    plain.cli("asset", "promote", "model", "--version", "2")
    assert (served("follows"), served("fixed")) == (OTHER.key, KEY)
    plain.cli("asset", "promote", "model", "--version", "1")
    assert served("follows") == KEY
    changes = [json.loads(line) for line in plain.cli("changes").splitlines()]
    assert [(c["action"], c["version"]) for c in changes if c["object"] == "model"] == [
        ("asset.register", "1"), ("asset.add", "2"), ("asset.promote", "2"), ("asset.promote", "1")]


def test_what_is_not_there_is_not_promoted(plain):
    assert plain.register(asset="alone")[0] == 201
    for asset, version in (("alone", "2"), ("nobody", "1")):
        assert f"no asset {asset} with a version {version}" in plain.cli("asset", "promote", asset, "--version", version, rc=66)
    assert "--version N is missing" in plain.cli("asset", "promote", "alone", rc=64)
