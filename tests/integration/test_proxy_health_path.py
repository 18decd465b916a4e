# SPDX-License-Identifier: Apache-2.0
"""A runtime that says elsewhere than at /health that it is well, as Triton does."""

from proxy_backend import simple
from proxy_daemon import make  # noqa: F401


def test_the_runtime_is_asked_where_its_health_is(make):  # noqa: F811
    p = make(TB_RUNTIME_HEALTH="/v2/health/ready", TB_ROUTES="/v2/*").ready()
    p.backend.healthy = False  # at /health, of which it knows nothing
    well = [False]
    p.backend.routes["/v2/health/ready"] = lambda conn, rq: conn.sendall(simple(b"") if well[0] else simple(b"", "400 Bad Request"))
    p.start(wait="Decrypt")
    assert p.status()["reason"] == "runtime_not_answering"
    well[0] = True
    p.wait_state("Ready")
    assert p.ask("POST", "/v2/models/m/infer", b"{}")[0] == 200
    assert not [rq for rq in p.backend.requests if rq.path == "/health"]
