#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-endpoint`: the endpoint of TB_DELIVERY=s3 against nginx with sendfile from tmpfs, in bytes per second of the server's CPU. Each
round reads the same ranges of the same model, which fits tb-decrypt's cache, from both; then once more from an endpoint whose model
does not fit, so that blocks are decrypted for it. Medians over the rounds, and of the rounds' ratios. With many connections the kernel does more
of a server's work on the clients' account, the more the less the server copies; so the ratio of both accounts together is shown too.

Goal: cached >= 1.2 x nginx.

    endpoint.py [--mib 64] [--rounds 5] [--seconds 4] [--connections 1,4,16]"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Daemon, free_port, program, unix_listener, wait_for  # noqa: E402

RANGE = 8 << 20  # what Run:ai's client asks for at once

SAYS = 'printf "%s %s" "$AWS_ENDPOINT_URL" "$1" >"$2.tmp" && mv "$2.tmp" "$2" && exec sleep infinity'


def cpu_seconds(pids):
    """As the scheduler counts it, which is finer than ticks."""
    return sum(int(t.read_text().split()[0]) for pid in pids for t in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Endpoint:
    """tb-load and tb-decrypt as they run; .url is the model's."""

    def __init__(self, d, mib):
        self.d, self.bytes = pathlib.Path(d), mib << 20
        self.d.mkdir()
        with open(self.d / "plain", "wb") as f:
            for _ in range(mib):
                f.write(os.urandom(1 << 20))
        target, run = self.d / "target", self.d / "run"
        target.mkdir(), run.mkdir()
        subprocess.run([program("tbpkg"), "encrypt", "-q", "--asset-id", "bench", "--in", self.d / "plain", "--out", target / "model.tbenc",
                        "--manifest", target / "model.manifest.json", "--key-out", self.d / "key", "--chunk-bytes", "1MiB"], check=True)
        (self.d / "says").write_text(SAYS)
        env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "bench", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_DELIVERY": "s3",
               "TB_TARGET_DIR": target, "TB_RUN_DIR": run, "TB_READY_SIGNAL": self.d / "ready",
               "TB_RUNTIME_EXEC": f"/bin/sh {self.d}/says {{s3}} {self.d}/said"}
        self.sock = unix_listener(run / "tb-decrypt.sock", "seqpacket")
        self.decrypt = Daemon([program("tb-decrypt")], env=env, listen={"decrypt": self.sock}, log=self.d / "log",
                              credentials={"model-key": bytes.fromhex((self.d / "key").read_text().strip()), "manifest-sha256": b"none"})
        self.load = Daemon([program("tb-load")], env=env, log=self.d / "log")
        self.decrypt.start(), self.load.start()
        wait_for(lambda: (self.d / "said").exists() or self.load.rc is not None, what="the endpoint")
        base, address = (self.d / "said").read_text().split()
        self.url = f"{base}/{address.removeprefix('s3://')}"
        self.pids = [self.decrypt.pid]

    def close(self):
        self.load.stop()
        self.decrypt.wait()
        self.sock.close()


class Nginx:
    """One worker for each processor, sendfile, files of tmpfs that it keeps open."""

    def __init__(self, d, plain):
        self.d = pathlib.Path(d)
        self.d.mkdir()
        port = free_port()
        (self.d / "conf").write_text(f"""
            daemon off; worker_processes {os.cpu_count()}; pid {self.d}/pid; error_log {self.d}/error; user root;
            events {{ worker_connections 1024; }}
            http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; open_file_cache max=10;
                    client_body_temp_path {self.d}/t1; proxy_temp_path {self.d}/t2; fastcgi_temp_path {self.d}/t3; uwsgi_temp_path {self.d}/t4;
                    scgi_temp_path {self.d}/t5;
                    server {{ listen 127.0.0.1:{port}; root {plain.parent}; }} }}""")
        self.proc = subprocess.Popen(["nginx", "-c", self.d / "conf", "-p", self.d, "-e", self.d / "error"])
        wait_for(lambda: (self.d / "pid").exists(), what="nginx")
        time.sleep(0.3)  # for its workers
        self.url = f"http://127.0.0.1:{port}/{plain.name}"
        self.pids = [self.proc.pid, *map(int, pathlib.Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split())]

    def close(self):
        self.proc.terminate()
        self.proc.wait()


def read_ranges(url, size, end, first, out):
    """A client of one connection: the next range as soon as it has the last."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    buf, n, at = bytearray(1 << 20), 0, first * RANGE
    with socket.create_connection((name, int(port))) as s:
        while time.monotonic() < end:
            at %= size
            s.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={at}-{at + RANGE - 1}\r\n\r\n".encode())
            got, head = 0, b""
            while b"\r\n\r\n" not in head:
                head += s.recv(4096)
            assert head.startswith(b"HTTP/1.1 206"), head
            got = len(head) - head.index(b"\r\n\r\n") - 4
            while got < RANGE:
                got += s.recv_into(buf, min(len(buf), RANGE - got))
            n += got
            at += RANGE
    out.put(n)


def measure(server, mib, connections, seconds):
    """(GB/s, GB for each second of the server's CPU, and of the server's and the clients')."""
    def clients_cpu():
        u = resource.getrusage(resource.RUSAGE_CHILDREN)
        return u.ru_utime + u.ru_stime
    out, began, before, idle = multiprocessing.Queue(), time.monotonic(), cpu_seconds(server.pids), clients_cpu()
    clients = [multiprocessing.Process(target=read_ranges, args=(server.url, mib << 20, began + seconds, i * 3, out)) for i in range(connections)]
    for c in clients:
        c.start()
    n = sum(out.get() for _ in clients)
    took, used = time.monotonic() - began, cpu_seconds(server.pids) - before
    for c in clients:
        c.join()
    return n / took / 1e9, n / 1e9 / used, n / 1e9 / (used + clients_cpu() - idle)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--mib", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--seconds", type=int, default=4)
    ap.add_argument("--connections", default="1,4,16")
    a = ap.parse_args()
    d = pathlib.Path(tempfile.mkdtemp(prefix="tb-bench-", dir="/dev/shm"))
    servers = []
    try:
        cached, large = Endpoint(d / "cached", a.mib), Endpoint(d / "large", 8 * a.mib)
        nginx = Nginx(d / "nginx", cached.d / "plain")
        servers = [cached, large, nginx]
        measure(cached, a.mib, 4, 1)
        print(f"ranges of {RANGE >> 20} MiB, model of {a.mib} MiB ({8 * a.mib} where it is decrypted); GB/s, and GB for each second of the server's CPU")
        for c in map(int, a.connections.split(",")):
            rows = [(measure(cached, a.mib, c, a.seconds), measure(nginx, a.mib, c, a.seconds),
                     measure(large, 8 * a.mib, c, a.seconds)) for _ in range(a.rounds)]
            med = [[statistics.median(r[i][k] for r in rows) for k in (0, 1)] for i in range(3)]
            ratio, both = (statistics.median(r[0][k] / r[1][k] for r in rows) for k in (1, 2))
            print(f"{c:3} connections: cached {med[0][0]:.2f} {med[0][1]:.2f}, nginx {med[1][0]:.2f} {med[1][1]:.2f}, decrypted {med[2][0]:.2f} {med[2][1]:.2f}; "
                  f"cached / nginx per CPU second {ratio:.2f} (" + " ".join(f"{r[0][1] / r[1][1]:.2f}" for r in rows) +
                  f"), goal >= 1.20; with the clients' {both:.2f}", flush=True)
    finally:
        for s in servers:
            s.close()
        shutil.rmtree(d)


if __name__ == "__main__":
    main()
