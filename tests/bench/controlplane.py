#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tb-controlplane: authorize requests a second and their latency, layer by layer, and a failover of PostgreSQL under 500 machines.

Load comes from wrk, or, with client certificates, which wrk has none of, from ab, one process with one connection for each machine, as a machine
asks one thing at a time: --connections is the number of machines, each of which asks again as soon as it is answered. Both share the
cores with server and database. Layers: a path that does not exist (TLS and HTTP alone), a denial (and one transaction with its log row: the
database), a grant (and slot, key unsealed, URLs). Alone: handshakes by client certificate, whole and resumed (openssl s_time), transactions of the
database (pgbench), the seal (openssl speed: AES-256-GCM of 64 bytes, which unwraps a key of file:). Goals set before measuring, for two cores of
their own: 1000 grants a second by mTLS, p99 below 50 ms. --realtime (root) measures that row once more with client, server and database
before everything else that runs on the machine (SCHED_RR), which stands still for these seconds: as on cores of their own.

    controlplane.py [--seconds 5] [--connections 16] [--realtime]"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e-vagrant" / "lib"), str(ROOT / "tests" / "integration")]
import postgresql  # noqa: E402  pylint: disable=wrong-import-position
from postgresql_standby import Standby  # noqa: E402  pylint: disable=wrong-import-position
from controlplane_fleet import Fleet  # noqa: E402  pylint: disable=wrong-import-position
from controlplane_server import ASSET, Server  # noqa: E402  pylint: disable=wrong-import-position

NO_LIMIT = "4294967295"
LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local n = 0
request = function()
  n = (n + 1) %% 400
  return wrk.format(nil, "%s", nil, '{"contract_id":"%s","asset_id":"%s","hw_id":"bench-' .. n .. '","client_version":"bench"}')
end
"""
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def by_wrk(server, path, contract, o, close=False):
    """Requests a second, p50 and p99 in ms."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % (path, contract, ASSET))
        script.flush()
        scheme = "https" if server.tls else "http"
        r = subprocess.run(["wrk", "-t2", f"-c{o.connections}", f"-d{o.seconds}s", "--latency", "-s", script.name,
                            *(["-H", "Connection: close"] if close else []), f"{scheme}://localhost:{server.port}"],
                           capture_output=True, text=True, check=True)
    errors = int((re.search(r"Non-2xx or 3xx responses: (\d+)", r.stdout) or [0, 0])[1])
    assert path == "/none" or errors < o.seconds, r.stdout  # some may be told to come again
    per = {p: float(v) * UNITS[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", r.stdout)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", r.stdout)[1]), per["50"], per["99"]


def certificates(server, directory, machines):
    """Certificate and key in one file, as ab wants them, for each machine."""
    for n in range(machines):
        pair = server.cli("issue-client", f"bench-{n}").split()
        path = pathlib.Path(directory) / f"bench-{n}.pem"
        path.write_text("".join(pathlib.Path(p).read_text() for p in pair))
        yield path


def by_ab(server, pems, contract, o, keep=True):
    """Of all machines together."""
    body = pems[0].with_suffix(".json")
    body.write_text(json.dumps({"contract_id": contract, "asset_id": ASSET, "hw_id": "none", "client_version": "bench"}))
    clients = [subprocess.Popen(["ab", "-q", "-t", str(o.seconds), "-n", "10000000", "-c", "1", *(["-k"] if keep else []), "-g", pem.with_suffix(".times"),
                                 "-E", pem, "-p", body, "-T", "application/json", f"https://localhost:{server.port}/api/v1/license/authorize"],
                                stdout=subprocess.PIPE, text=True) for pem in pems]
    texts = [c.communicate()[0] for c in clients]
    assert not any(c.returncode for c in clients), texts
    assert not any(int(n) for t in texts for n in re.findall(r"Non-2xx responses:\s+(\d+)", t)), texts
    rate = sum(float(re.search(r"Requests per second:\s+([\d.]+)", t)[1]) for t in texts)
    times = sorted(float(line.split("\t")[4]) for pem in pems for line in pem.with_suffix(".times").read_text().splitlines()[1:])
    return rate, *(times[int(len(times) * p)] for p in (0.5, 0.99))


@contextlib.contextmanager
def realtime(pids):
    """What is started meanwhile inherits it from this process."""
    def rule(policy, priority):
        os.sched_setscheduler(0, policy, os.sched_param(priority))
        for task in (t for p in pids for t in os.listdir(f"/proc/{p}/task")):
            os.sched_setscheduler(int(task), policy, os.sched_param(priority))
    rule(os.SCHED_RR, 1)
    try:
        yield
    finally:
        rule(os.SCHED_OTHER, 0)


def handshakes(server, pem, o):
    """A second, whole and resumed; each with the client's certificate."""
    for what in ("new", "reuse"):
        r = subprocess.run(["openssl", "s_time", "-connect", f"localhost:{server.port}", f"-{what}", "-time", str(o.seconds), "-cert", pem],
                           capture_output=True, text=True, check=False)
        n, seconds = re.findall(r"(\d+) connections in (\d+) real seconds", r.stdout)[-1]
        print(f"  {'handshakes alone, ' + {'new': 'whole', 'reuse': 'resumed'}[what]:<52} {int(n) / int(seconds):>8.0f} /s", flush=True)


def alone(o):
    """What a grant is made of, by the tools that come with each part."""
    r = subprocess.run(["openssl", "speed", "-seconds", "2", "-bytes", "64", "-evp", "aes-256-gcm"], capture_output=True, text=True, check=True)
    kib = float(re.search(r"^AES-256-GCM\s+([\d.]+)k", r.stdout, re.M | re.I)[1])
    print(f"seal alone (openssl speed): {kib * 1000 / 64:,.0f} keys/s of one core")
    with postgresql.PostgreSQL() as db:
        url = db.create("alone")
        db.sql("CREATE TABLE log(id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at BIGINT, what TEXT)", "alone")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("BEGIN ISOLATION LEVEL SERIALIZABLE;\nINSERT INTO log(at, what) VALUES(1, 'authorized');\nCOMMIT;\n")
            script.flush()
            r = subprocess.run([postgresql.programs() / "pgbench", "-n", "-M", "prepared", "-c", str(o.connections), "-j", "2", "-T", str(o.seconds),
                                "-f", script.name, url], capture_output=True, text=True, check=True)
    print(f"database alone (pgbench: a serializable transaction with one row): {float(re.search(r'tps = ([0-9.]+)', r.stdout)[1]):,.0f} /s")


def row(name, figures):
    rate, p50, p99 = figures
    print(f"  {name:<52} {rate:>8.0f} /s   p50 {p50:>7.2f} ms   p99 {p99:>8.2f} ms", flush=True)
    return rate


def measure(o, place, database, tls, processes=lambda: []):
    s = Server(place / "data", "--client-rate", NO_LIMIT, "--contract-rate", NO_LIMIT, tls=tls, database=database)
    with s:
        assert s.register()[0] in (200, 201)
        s.cli("contract", "add", "bench", "--asset", ASSET, "--mode", "open", "--replace")
        alone = row("a path that does not exist", by_wrk(s, "/none", "bench", o))
        s.cli("contract", "add", "over", "--asset", ASSET, "--mode", "open", "--replace")
        s.cli("contract", "revoke", "over")
        denied = row("denied (and a transaction with its log row)", by_wrk(s, "/api/v1/license/authorize", "over", o))
        granted = row("granted (and slot, key, URLs)", by_wrk(s, "/api/v1/license/authorize", "bench", o))
        print(f"  {'ratios':<52} denied {denied / alone:.2f}, granted {granted / alone:.2f} of HTTP alone")
        if tls:
            row("granted, a handshake each", by_wrk(s, "/api/v1/license/authorize", "bench", o, close=True))
            s.cli("contract", "add", "mtls", "--asset", ASSET, "--mode", "certificate", "--client-ca", str(s.data / "ca.crt"), "--replace")
            with tempfile.TemporaryDirectory() as d:
                pems = list(certificates(s, d, o.connections))
                row("granted, client certificates", by_ab(s, pems, "mtls", o))
                if o.realtime:
                    with realtime([s.daemon.proc.pid, *processes()]):
                        figures = by_ab(s, pems, "mtls", o)
                    row("the same, before all else on the machine", figures)
                row("granted, client certificates, a whole handshake each", by_ab(s, pems, "mtls", o, keep=False))
                handshakes(s, pems[0], o)


def failover():
    with postgresql.PostgreSQL() as primary, Standby(primary) as standby, tempfile.TemporaryDirectory() as d:
        url = f"postgresql://postgres@/postgres?host={primary.dir},{standby.dir}&target_session_attrs=read-write"
        one, two = (Server(pathlib.Path(d) / "data", "--client-rate", NO_LIMIT, "--contract-rate", NO_LIMIT, tls=False, name=f"s{i}",
                           database=url) for i in range(2))
        one.cli("contract", "add", "fleet", "--asset", ASSET, "--mode", "open", "--max-hw", "500")
        with one, two:
            assert one.register()[0] == 201
            fleet = Fleet([one, two], "fleet", 520)
            while len(fleet.keys) < 500:
                time.sleep(0.1)
            primary.kill()
            standby.promote()
            when = time.monotonic()
            while not fleet.renewed_since(when):
                time.sleep(0.01)
            first = time.monotonic() - when
            while fleet.renewed_since(when) < 500:
                time.sleep(0.05)
            last = time.monotonic() - when
            fleet.stop()
            rows = json.loads(one.cli("log", "--json", "--limit", "1000000"))
            slots = sum(m["contract_id"] == "fleet" for m in json.loads(one.cli("machine", "list", "--json")))
    keys, logged = sum(fleet.keys.values()), sum(r["status"] == "authorized" for r in rows)
    print(f"500 machines (and 20 too many), the primary killed, its standby promoted:\n"
          f"  first lease after {first:.1f} s, all after {last:.1f} s; longest without one {max(fleet.gap.values()):.1f} s\n"
          f"  {keys} keys, {logged} rows of grants, {slots} slots taken; not granted of the 500: "
          f"{sum(not d.endswith('hw_limit_reached') for d in fleet.denied)}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--seconds", type=int, default=5)
    p.add_argument("--connections", type=int, default=16)
    p.add_argument("--realtime", action="store_true")
    o = p.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    alone(o)
    for name, tls, pg in (("SQLite, HTTP", False, False), ("PostgreSQL, HTTP", False, True), ("PostgreSQL, TLS", True, True)):
        print(f"{name}:")
        with tempfile.TemporaryDirectory() as d:
            if pg:
                with postgresql.PostgreSQL() as db:
                    measure(o, pathlib.Path(d), db.create("bench"), tls, db.processes)
            else:
                measure(o, pathlib.Path(d), None, tls)
    failover()
    print(f"load of the machine behind: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
