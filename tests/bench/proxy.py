#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tb-proxy against nginx as a reverse proxy, before the same nginx backend: a 300-byte POST answered by 293 bytes of JSON,
driven by wrk with one thread. tb-proxy hashes each body and writes an audit record for each request; nginx does neither.

Expected: about half of nginx's requests a second at 16 connections. What libcurl's multi interface costs over a client of
one's own is known; a faster upstream client is later work.

    proxy.py [--rounds 5] [--seconds 3]"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Daemon, free_port, program, tcp_listener, wait_for  # noqa: E402
from chain import http_json  # noqa: E402

NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {dir}/body; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; default_type application/json;
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000; }}
    server {{ listen 127.0.0.1:{backend};
        location / {{ return 200 '{body}'; }} }}
    server {{ listen 127.0.0.1:{front};
        location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                      proxy_request_buffering off; }} }}
}}
"""
WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = string.rep("x", 300)
"""


def nginx(d, name, **ports):
    home = d / name
    home.mkdir()
    conf = home / "nginx.conf"
    conf.write_text(NGINX.format(dir=home, body=json.dumps({"text": "y" * 281}), **ports))
    return subprocess.Popen(["nginx", "-p", home, "-c", conf], stderr=subprocess.DEVNULL)


def proxy(d, backend):
    """tb-proxy in state Ready: the domain files say what the other programs would."""
    run = d / "run"
    for name, doc in (("tb-authorize/lease.json", {"state": "authorized", "contract_id": "c", "asset_id": "a"}),
                      ("tb-hydrate/progress.json", {"state": "complete", "bytes_done": 1, "bytes_total": 1}),
                      ("tb-runtime/delivery.json", {"state": "delivered", "mode": "dir", "pid": os.getpid()})):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(doc))
    http, health = tcp_listener(), tcp_listener()
    env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_RUN_DIR": run, "TB_STATE_DIR": d / "state",
           "TB_RUNTIME_URL": f"http://127.0.0.1:{backend}", "TB_AUDIT_FILE": d / "audit.jsonl", "TB_ROUTES": "/v1/*"}
    daemon = Daemon([program("tb-proxy")], env=env, listen={"http": http, "health": health}, runtime_dir=run / "tb-proxy",
                    state_dir=d / "state/tb-proxy", log=d / "proxy.log").start()
    port = http.getsockname()[1]
    wait_for(lambda: http_json(f"http://127.0.0.1:{port}/health")[0] == 200, 20, "tb-proxy to be Ready")
    return daemon, port


def wrk(d, port, connections, seconds):
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", d / "post.lua",
                          f"http://127.0.0.1:{port}/v1/x"], check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in out, out
    unit = {"us": 1, "ms": 1e3, "s": 1e6}
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), float(p99[1]) * unit[p99[2]]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--seconds", type=int, default=3)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory(prefix="tb-bench-proxy-") as tmp:
        d = pathlib.Path(tmp)
        (d / "post.lua").write_text(WRK)
        backend, front = free_port(), free_port()
        server = nginx(d, "nginx", backend=backend, front=front)
        wait_for(lambda: subprocess.run(["curl", "-sf", f"http://127.0.0.1:{front}/v1/x"], capture_output=True).returncode == 0, 20, "nginx")
        daemon, port = proxy(d, backend)
        try:
            for c in (1, 16, 128):
                ours, theirs = [], []
                for _ in range(a.rounds):
                    theirs.append(wrk(d, front, c, a.seconds))
                    ours.append(wrk(d, port, c, a.seconds))
                for name, values in (("nginx", theirs), ("tb-proxy", ours)):
                    print(f"  c={c:<4} {name:<10} {statistics.median(v[0] for v in values):9.0f} requests/s   p99 "
                          f"{statistics.median(v[1] for v in values):8.0f} us"
                          + (f"   {statistics.median(o[0] / t[0] for o, t in zip(ours, theirs)):.2f} x nginx" if values is ours else ""),
                          flush=True)
        finally:
            daemon.stop()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
