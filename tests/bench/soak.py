#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tb-proxy under many streams for long: its memory must stay flat, no event may be lost, and each token be counted once.

A runtime of our own streams chat answers of a few seconds, an event every 50 ms, and says the usage at the end to who asked. Clients
keep so many streams open at once; every tenth is broken off in mid-stream. Resident memory is read once a second; what it is after a
tenth of the time is compared with what it is at the end.

    soak.py [--seconds 600] [--streams 200] [--slack 5]     TB_BUILD=build/asan for the sanitizers' build"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Daemon, free_port, program, tcp_listener, wait_for  # noqa: E402
from chain import http_json  # noqa: E402

EVERY_S, EVENTS = 0.05, (20, 120)


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(doc):
    return chunk(b"data: " + (doc if isinstance(doc, bytes) else json.dumps(doc).encode()) + b"\n\n")


async def runtime(reader, writer):
    """Answers a request with as many events as it asks for."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            n = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(n[1])) if n else b""
            if b"/health" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            rq = json.loads(body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(rq["max_tokens"]):
                writer.write(event({"choices": [{"delta": {"content": f"w{i} "}}]}))
                await writer.drain()
                await asyncio.sleep(EVERY_S)
            if rq["stream_options"]["include_usage"]:
                writer.write(event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": rq["max_tokens"]}}))
            writer.write(event(b"[DONE]") + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


class Client:
    """Keeps one stream after the other."""

    def __init__(self, port, seed, end):
        self.port, self.random, self.end = port, random.Random(seed), end
        self.whole = self.broken = self.tokens = self.seen = 0

    async def run(self):
        while time.monotonic() < self.end:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for _ in range(self.random.randint(1, 4)):
                if not await self.one(reader, writer) or time.monotonic() > self.end:
                    break
            writer.close()

    async def one(self, reader, writer):
        n = self.random.randint(*EVENTS)
        stop = self.random.randint(1, n - 1) if self.random.random() < 0.1 else None
        body = json.dumps({"stream": True, "max_tokens": n, "messages": ["x" * self.random.randint(0, 3000)]}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        seen = 0
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            assert b"usage" not in data
            seen += data.count(b'"content"')
            if stop and seen >= stop:
                self.broken += 1
                self.seen += seen
                return False
        await reader.readexactly(2)
        assert seen == n, f"{seen} events of {n}"
        self.whole, self.tokens, self.seen = self.whole + 1, self.tokens + n, self.seen + seen
        return True


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def usage(port):
    import urllib.request
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
    return {m[1]: int(m[2]) for m in re.finditer(r'tb_usage_total\{dimension="(\w+)"\} (\d+)', text)}


def start(d, backend):
    run = d / "run"
    for name, doc in (("tb-authorize/lease.json", {"state": "authorized", "contract_id": "c", "asset_id": "a"}),
                      ("tb-hydrate/progress.json", {"state": "complete", "bytes_done": 1, "bytes_total": 1}),
                      ("tb-runtime/delivery.json", {"state": "delivered", "mode": "dir", "pid": os.getpid()})):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(doc))
    http, health = tcp_listener(), tcp_listener()
    env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_RUN_DIR": run, "TB_STATE_DIR": d / "state",
           "TB_RUNTIME_URL": f"http://127.0.0.1:{backend}", "TB_AUDIT_FILE": d / "audit.jsonl"}
    daemon = Daemon([program("tb-proxy")], env=env, listen={"http": http, "health": health}, log=d / "proxy.log").start()
    return daemon, http.getsockname()[1], health.getsockname()[1]


async def soak(a, d):
    backend = free_port()
    server = await asyncio.start_server(runtime, "127.0.0.1", backend, backlog=512)
    daemon, port, health = await asyncio.to_thread(start, d, backend)
    await asyncio.to_thread(wait_for, lambda: http_json(f"http://127.0.0.1:{port}/health")[0] == 200, 30, "tb-proxy to be Ready")
    begin = time.monotonic()
    clients = [Client(port, seed, begin + a.seconds) for seed in range(a.streams)]
    tasks = [asyncio.create_task(c.run()) for c in clients]
    samples = []
    while not all(t.done() for t in tasks):
        await asyncio.sleep(1)
        for t in tasks:
            if t.done():
                t.result()
        if time.monotonic() - begin < a.seconds:
            samples.append(rss(daemon.pid))
        if len(samples) % 60 == 0:
            print(f"  {len(samples):5} s  RSS {samples[-1] / 1024:.1f} MiB  {sum(c.whole for c in clients)} streams", flush=True)
    await asyncio.to_thread(wait_for, lambda: b"requests_in_flight 0\n" in metrics(health), 30, "the last requests to end")
    counted = await asyncio.to_thread(usage, health)
    rc = await asyncio.to_thread(daemon.stop)
    server.close()
    return judge(a, d, clients, samples, counted, rc, daemon)


def metrics(port):
    import urllib.request
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read()


def judge(a, d, clients, samples, counted, rc, daemon):
    whole, broken, tokens = (sum(getattr(c, k) for c in clients) for k in ("whole", "broken", "tokens"))
    records = [json.loads(line) for line in (d / "audit.jsonl").read_text().splitlines()]
    tenth = max(3, len(samples) // 10)
    early, late = statistics.median(samples[tenth:2 * tenth]), statistics.median(samples[-tenth:])
    growth = (late / early - 1) * 100
    print(f"{a.streams} streams for {a.seconds} s: {whole} whole, {broken} broken off, {sum(c.seen for c in clients)} events")
    print(f"RSS {early / 1024:.1f} -> {late / 1024:.1f} MiB ({growth:+.1f} %), peak {max(samples) / 1024:.1f} MiB")
    exact = [r for r in records if r["status"] == 200]
    problems = []
    if growth > a.slack:
        problems.append(f"memory grew by {growth:.1f} %, more than {a.slack} %")
    if len(records) != whole + broken:
        problems.append(f"{len(records)} audit records for {whole + broken} requests")
    if sum(r["completion_tokens"] for r in exact) != tokens or len(exact) != whole:
        problems.append(f"{sum(r['completion_tokens'] for r in exact)} tokens in the records of whole streams, {tokens} served")
    if counted["completion_tokens"] != sum(r.get("completion_tokens", 0) for r in records):
        problems.append("the counters differ from the records")
    if rc != 0 or "Sanitizer" in daemon.log_text():
        problems.append(f"tb-proxy ended with {rc}: {daemon.log_text()[-2000:]}")
    for p in problems:
        print(f"FAILED: {p}")
    return 1 if problems else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seconds", type=int, default=600)
    ap.add_argument("--streams", type=int, default=200)
    ap.add_argument("--slack", type=float, default=5)
    a = ap.parse_args()
    # The sanitizer keeps what was freed for a while, by default 256 MiB of it: that must not look like growth.
    os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=1:exitcode=99:quarantine_size_mb=4")
    with tempfile.TemporaryDirectory(prefix="tb-soak-") as tmp:
        return asyncio.run(soak(a, pathlib.Path(tmp)))


if __name__ == "__main__":
    sys.exit(main())
