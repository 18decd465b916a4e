# SPDX-License-Identifier: Apache-2.0
"""From the client to the marketplace: the real tb-proxy and tb-billing, both killed at random, an API that fails, hours that change. What
the marketplace accepted and what the ledger holds is what clients were served, to the token and byte."""

import json
import os
import random
import signal
import struct
import time

import pytest
from billing_daemon import COUNTERS, UNITS, Book, azure, billing, env, metered  # noqa: F401
from metering_standin import Standin
from proxy_backend import simple
from proxy_daemon import make  # noqa: F401
from tbsys import wait_for


class Served:
    """What clients were served, beside what tb-proxy's counter file says of it."""

    def __init__(self, path):
        self.path, self.total = path, dict.fromkeys(COUNTERS, 0)

    def counted(self):
        values = struct.unpack_from(f"={len(COUNTERS)}Q", self.path.read_bytes(), 24)
        return dict(zip(COUNTERS, values))

    def add(self, **more):
        for name, n in more.items():
            self.total[name] += n
        wait_for(lambda: self.counted() == self.total, 10, f"{self.total} to be counted", every=0.01)

    def dimension(self, name):
        t = self.total
        return {"requests": t["requests"], "tokens": t["prompt_tokens"] + t["completion_tokens"],
                "bytes": t["bytes_in"] + t["bytes_out"], "gb_transferred": t["bytes_in"] + t["bytes_out"]}[name]


def one_request(p, served, rng):
    prompt, completion = rng.randrange(1, 1000), rng.randrange(1, 1000)
    answer = json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}).encode()

    def route(conn, rq):
        rq.sha256()
        conn.sendall(simple(answer, extra="Content-Type: application/json\r\n"))
    p.backend.routes["/v1/chat/completions"] = route
    body = json.dumps({"messages": [], "pad": "x" * rng.randrange(2000)}).encode()
    status, text, _ = p.ask("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    assert (status, text) == (200, answer)
    served.add(requests=1, bytes_in=len(body), bytes_out=len(answer), prompt_tokens=prompt, completion_tokens=completion)


def killed_in_a_request(p, served, rng):
    """Nobody can say what of that one the client had; what was counted until then is what was served."""
    def route(conn, rq):
        rq.sha256()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"y" * rng.randrange(1, 100000))
        time.sleep(rng.random() * 0.05)
        os.kill(p.daemon.pid, signal.SIGKILL)
    p.backend.routes["/v1/cut"] = route
    with pytest.raises(Exception):
        p.ask("POST", "/v1/cut", b"z" * rng.randrange(1, 5000))
    p.daemon.wait()
    after = served.counted()
    assert all(after[name] >= served.total[name] for name in COUNTERS)
    served.total = after
    p.start()


@pytest.mark.parametrize("seed", range(3))
def test_what_clients_were_served_is_what_is_billed(make, env, tmp_path, azure, seed):
    rng = random.Random(seed)
    env = metered(env, azure, ",".join(UNITS), TB_STATE_DIR=tmp_path / "state")
    p, served = make().ready().start(), Served(tmp_path / "state/tb-proxy/usage")
    book, hours = Book(env, tmp_path), 23
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    for _ in range(40):
        azure.faults += rng.choices([*Standin.FAULTS, None], k=rng.randrange(2))
        match rng.randrange(8):
            case 0:
                p.daemon.kill()
                p.start()
            case 1:
                killed_in_a_request(p, served, rng)
            case 2 if hours > 2:
                d.kill()
                hours -= 1  # the next hour has come, again and again
                book.age(hours)
                d.start().wait_notify("READY", "1")
            case 3:
                d.kill()
                d.start().wait_notify("READY", "1")
            case _:
                one_request(p, served, rng)
                if rng.random() < 0.5:
                    d.kill(signal.SIGHUP)
    azure.faults.clear()
    d.kill(signal.SIGHUP)
    wait_for(lambda: book.states().keys() <= {"ACCEPTED", "OPEN"}, what="all hours to be accepted", every=0.2)
    assert d.stop() == 0
    assert served.total["requests"] > 10 and azure.accepted
    for dimension, unit in UNITS.items():
        held = sum(e["quantity"] for e in book.events() if e["dimension"] == dimension and e["state"] != "ACCEPTED")
        assert azure.quantity(dimension) * unit + held == served.dimension(dimension), dimension
