# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of tb-controlplane: `from controlplane_fixtures import plain, postgres`."""

import pytest

import postgresql
from controlplane_server import ASSET, Server


@pytest.fixture(scope="module")
def postgres():
    with postgresql.PostgreSQL() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def plain(request, tmp_path_factory):
    """One server for the tests that only ask; the registered URLs are of a blob server without authentication."""
    database = request.getfixturevalue("postgres").create("plain") if request.param == "postgresql" else None
    with Server(tmp_path_factory.mktemp("cp") / "data", "--seed", database=database) as s:
        status, body, _ = s.register()
        assert (status, body["status"], body["asset_id"]) == (201, "registered", ASSET)
        yield s
