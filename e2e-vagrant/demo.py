#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From a model directory to an audited answer, on one machine: what `make demo` runs. With --keep everything stays up
until `demo.py --stop`."""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))

import model  # noqa: E402
from chain import Chain, Provider, http_json, tbpkg  # noqa: E402
from tbsys import program, repo, wait_for  # noqa: E402

RUN = HERE / "run" / "demo"
PID = HERE / "run" / "demo.pid"
ASSET = "demo-model"
CONTRACT = "demo-contract"
LEASE_SECONDS = 10  # renewed at half of it, so that a revocation is seen within seconds
MODEL_SIZE = ("--layers", 4, "--embd", 1024, "--ff", 2816, "--heads", 16)  # 100 MB: long enough to watch
BOLD, DIM, END = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text=""):
    print(text, flush=True)


def step(number, text):
    say(f"\n{BOLD}{number}. {text}{END}")


def short(arg):
    return str(arg).replace(str(RUN), "$RUN").replace(str(repo) + "/", "")


def show_command(*argv):
    say(f"{DIM}$ {' '.join(shlex.quote(short(a)) if '$RUN' not in short(a) else short(a) for a in argv)}{END}")


def show(text, indent="   "):
    for line in str(text).rstrip().splitlines():
        say(indent + line)


def run_tbpkg(provider, args):
    show_command("tbpkg", *args)
    r = tbpkg(*args, env=provider.env())
    show((r.stdout + r.stderr).strip() or "done")


def provider_side(provider):
    step(1, "A model directory, encrypted (tbenc/v1, AES-256-GCM in chunks)")
    source = model.make_model(RUN / "model", size=MODEL_SIZE)
    for f in sorted(p for p in source.rglob("*") if p.is_file()):
        show(f"{f.stat().st_size:>9}  {f.relative_to(source)}")
    run_tbpkg(provider, provider.encrypt_args(source, ASSET, "1MiB"))
    step(2, "Azurite and the control plane start on loopback, both with TLS; upload and register")
    provider.start()
    run_tbpkg(provider, provider.upload_args(ASSET))
    run_tbpkg(provider, provider.register_args(ASSET))
    cp = provider.controlplane
    add = ("contract", "add", CONTRACT, "--asset", ASSET, "--lease-seconds", LEASE_SECONDS)
    show_command("tb-controlplane", *add, "--data", cp.dir)
    show(cp.ctl(*add) or "done")
    return source


def describe(s):
    h, d = s.get("hydrate") or {}, s.get("decrypt") or {}
    return (f"{s.get('state', 'Boot'):<10} downloaded {h.get('bytes_done', 0)}/{h.get('bytes_total', 0)} bytes, "
            f"decrypted {d.get('bytes_done', 0)}/{d.get('bytes_total', 0)} bytes")


def watch_until_ready(chain):
    step(3, "The consumer's chain: authorize, hydrate, decrypt in memory, llama-server in its own network namespace")
    begin, last = time.monotonic(), [None, 0.0]

    def ready():
        if chain.error:
            raise chain.error
        s, now = chain.status(), time.monotonic()
        if s and (s.get("state") != last[0] or now - last[1] > 0.25):
            last[:] = s.get("state"), now
            say(f"   {now - begin:5.1f} s  {describe(s)}")
        return s.get("state") == "Ready"
    try:
        wait_for(ready, 90, "Ready", every=0.02)
    except AssertionError:
        sys.exit(f"demo: the chain did not become Ready; its logs:\n{chain.logs()}")


def ask(chain):
    step(4, "Inference through port %d" % chain.public_port)
    url = chain.url("/v1/chat/completions")
    status, answer = http_json(url, model.CHAT)
    show(f"POST /v1/chat/completions -> {status}")
    show("answer (random weights, so noise): " + json.dumps(answer["choices"][0]["message"]["content"]))
    show("usage: " + json.dumps(answer["usage"]))
    request = urllib.request.Request(url, json.dumps({**model.CHAT, "stream": True}).encode(), {"Content-Type": "application/json"})
    events, text = 0, ""
    with urllib.request.urlopen(request, timeout=30) as r:
        for line in r:
            if line.startswith(b"data: {"):
                events += 1
                choices = json.loads(line[6:]).get("choices") or [{}]
                text += (choices[0].get("delta") or {}).get("content") or ""
    show(f"the same streamed: {events} events, equal text: {text == answer['choices'][0]['message']['content']}")
    return answer["choices"][0]["message"]["content"]


def compare_with_plaintext(source, expected):
    """The answer is a function of the weights: served from the plaintext directly it must be the same."""
    import tbsys
    port = tbsys.free_port()
    d = tbsys.Daemon(shlex.split(model.llama_command(source / model.GGUF, port)), log=RUN / "plain-llama.log").start()
    try:
        wait_for(lambda: healthy(port), 30, "llama-server on the plaintext")
        direct = http_json(f"http://127.0.0.1:{port}/v1/chat/completions", model.CHAT)[1]["choices"][0]["message"]["content"]
    finally:
        d.stop()
    show(f"llama-server on the plaintext gives the same answer: {direct == expected}")
    if direct != expected:
        sys.exit("demo: the answers differ")


def healthy(port):
    try:
        return http_json(f"http://127.0.0.1:{port}/health", timeout=2)[0] == 200
    except OSError:
        return False


def evidence(chain):
    step(5, "What the operator and the auditor see")
    show("/status: " + json.dumps(chain.status()))
    show("audit record: " + json.dumps(chain.audit()[-1]))
    files = [p for p in chain.target.rglob("*") if p.is_file()]
    found = [str(p) for p in files for m in model.MARKERS if m in p.read_bytes()]
    show("ciphertext directory: " + ", ".join(sorted(p.name for p in files)))
    show(f"plaintext markers found in it: {len(found)}")
    show(f"port {chain.runtime_port} answers on this machine: {healthy(chain.runtime_port)}; inside the runtime's namespace: "
         f"{chain.reachable_inside(chain.runtime_port)}")
    if found:
        sys.exit(f"demo: plaintext on disk: {found}")


def revoke(provider, chain):
    step(6, "The contract is revoked while the model serves")
    show_command("tb-controlplane", "contract", "revoke", CONTRACT, "--data", provider.controlplane.dir)
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    show(f"the lease of {LEASE_SECONDS} s is renewed at half its time; the next renewal is refused")
    begin = time.monotonic()
    wait_for(lambda: http_json(chain.url("/v1/models"))[0] == 403, 30, "403")
    status, body = http_json(chain.url("/v1/chat/completions"), model.CHAT)
    show(f"after {time.monotonic() - begin:.1f} s: POST /v1/chat/completions -> {status} {json.dumps(body)}")
    wait_for(lambda: not chain.units["tb-runtime"].daemon.running(), 20, "the runtime to stop")
    show("llama-server is gone, and the weights with its memory file system")


def hints(provider, chain):
    say(f"\n{BOLD}Left running.{END} Try:")
    for line in (f"curl -s {chain.url('/status')} | jq .", f"curl -s {chain.url('/metrics', health=True)}",
                 f"curl -sN {chain.url('/v1/chat/completions')} -H 'Content-Type: application/json' -d "
                 "'{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":32,\"stream\":true}'",
                 f"tail -f {chain.audit_file}", f"tail {chain.log_dir}/*.log",
                 f"{program('tb-controlplane')} contract revoke {CONTRACT} --data {provider.controlplane.dir}",
                 f"{program('tb-controlplane')} contract allow {CONTRACT} --data {provider.controlplane.dir}",
                 "make demo-stop"):
        say("   " + line)


def check_ports():
    """KEEP=1 uses the ports of the guide."""
    for port in (8000, 8001):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError as e:
                sys.exit(f"demo: port {port} on 127.0.0.1: {e.strerror}; stop what listens there (`make demo-stop`?) and try again")


def demo(keep, announce):
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    begin = time.monotonic()
    provider, chain = Provider(RUN / "provider"), None
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1) or sys.exit(143))
    try:
        source = provider_side(provider)
        chain = Chain(RUN / "consumer", provider.ca, provider.controlplane.url, CONTRACT, ASSET,
                      runtime_exec=model.llama_command(), env={"TB_BILLING_INTERVAL": "1s"},
                      public_port=8000 if keep else 0, health_port=8001 if keep else 0).start()
        watch_until_ready(chain)
        compare_with_plaintext(source, ask(chain))
        evidence(chain)
        if keep:
            hints(provider, chain)
            announce()
            while True:
                signal.pause()
        revoke(provider, chain)
        say(f"\n{BOLD}Done in {time.monotonic() - begin:.0f} s.{END} Everything of this run is in {RUN.relative_to(repo)}/; "
            "`make demo KEEP=1` leaves it running.")
    finally:
        if chain:
            chain.stop()
        provider.stop()


def keep_running():
    """The demo goes on in a session of its own; this process shows its output until all stands, then returns."""
    PID.parent.mkdir(parents=True, exist_ok=True)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(read_fd)
        PID.write_text(str(os.getpid()))

        def announce():
            log = os.open(RUN / "demo.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(write_fd, b"1")
            for fd in (1, 2):
                os.dup2(log, fd)
        try:
            demo(True, announce)
        finally:
            PID.unlink(missing_ok=True)
        return 0
    os.close(write_fd)
    return 0 if os.read(read_fd, 1) == b"1" else 1


def stop():
    try:
        pid = int(PID.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        sys.exit("demo: not running")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60, "the demo to stop")
    print("stopped")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--keep", action="store_true", help="leave everything running on ports 8000 and 8001")
    ap.add_argument("--stop", action="store_true", help="stop what --keep left")
    args = ap.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: needs root, for mounts and network namespaces of its own")
    if args.stop:
        return stop()
    if args.keep:
        check_ports()
    return keep_running() if args.keep else demo(False, None)


if __name__ == "__main__":
    sys.exit(main())
