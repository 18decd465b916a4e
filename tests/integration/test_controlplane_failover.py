# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's primary dies while machines renew, and its standby is promoted: real streaming replication, two servers of the control plane."""

import collections
import json
import time

import pytest

import postgresql
import tbsys
from controlplane_fleet import Fleet
from controlplane_server import ASSET, Server
from postgresql_standby import Standby

MACHINES, TOO_MANY = 500, 20
GRACE_S = 60  # what a machine has beyond its lease is a day


@pytest.mark.alone("how long 500 machines wait for a key is measured")
def test_a_standby_takes_over_and_no_machine_is_suspended(tmp_path):
    with postgresql.PostgreSQL() as primary, Standby(primary) as standby:
        url = f"postgresql://postgres@/postgres?host={primary.dir},{standby.dir}&target_session_attrs=read-write"
        one, two = (Server(tmp_path / "data", "--client-rate", "4294967295", "--contract-rate", "4294967295", tls=False, name=f"s{i}",
                           database=url) for i in range(2))
        one.cli("contract", "add", "fleet", "--asset", ASSET, "--mode", "open", "--max-hw", str(MACHINES))
        with one, two:
            assert one.register()[0] == 201
            fleet = Fleet([one, two], "fleet", MACHINES + TOO_MANY)
            try:
                tbsys.wait_for(lambda: len(fleet.keys) == MACHINES, 60, "every machine to have its first lease")
                primary.kill()
                standby.promote()
                when = time.monotonic()
                tbsys.wait_for(lambda: fleet.renewed_since(when) == MACHINES, GRACE_S, "every machine to renew by the promoted database")
            finally:
                fleet.stop()
            rows = json.loads(one.cli("log", "--json", "--limit", "1000000"))
            machines = {m["hw_id"] for m in json.loads(one.cli("machine", "list", "--json")) if m["contract_id"] == "fleet"}
        logged = collections.Counter(r["hw_id"] for r in rows if r["status"] == "authorized")
        assert max(fleet.gap.values()) < GRACE_S, fleet.gap
        assert all(n <= logged[hw] for hw, n in fleet.keys.items()), "a key without its row"
        assert machines == set(fleet.keys) and len(machines) == MACHINES, "slots over the limit"
        assert all(d.endswith(": hw_limit_reached") for d in fleet.denied) and len(fleet.denied) == TOO_MANY, fleet.denied
