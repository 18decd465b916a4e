# SPDX-License-Identifier: Apache-2.0
"""What both demos show, and how it is said: the provider's side, the way to Ready, inference, a revocation. `consumer` is what
serves: .url(path) on its public port, and .status()."""

import http.client
import json
import shlex
import sys
import threading
import time
import urllib.request

import model
import tbsys
from chain import Desk, http_json, tbpkg
from tbsys import repo, wait_for

RUN = repo / "e2e-vagrant" / "run" / "demo"
ASSET = "demo-model"
CONTRACT = "demo-contract"
LEASE_SECONDS = 10  # renewed at half of it, so that a revocation is seen within seconds
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


class Clock:
    """Seconds since it was made, as the head of a line."""

    def __init__(self):
        self.begin = time.monotonic()

    def __str__(self):
        return f"   {time.monotonic() - self.begin:5.1f} s "


class Waiting:
    """Says each few seconds what is waited for, until the block ends. detail: what is to be seen of it at the moment."""

    def __init__(self, what, detail=None, every=10):
        self.what, self.detail, self.every = what, detail or (lambda: ""), every
        self._done, self._clock = threading.Event(), Clock()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def _tell(self):
        while not self._done.wait(self.every):
            say(f"{self._clock} {self.what}: {self.detail()}"[:160].rstrip(": "))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._done.set()
        self._thread.join()


def run_tbpkg(provider, args):
    show_command("tbpkg", *args)
    r = tbpkg(*args, env=provider.env())
    show((r.stdout + r.stderr).strip() or "done")


def provider_side(provider, size):
    step(1, "A model directory, encrypted (tbenc/v1, AES-256-GCM in chunks)")
    source = model.make_model(RUN / "model", size=size)
    for f in sorted(p for p in source.rglob("*") if p.is_file()):
        show(f"{f.stat().st_size:>9}  {f.relative_to(source)}")
    run_tbpkg(provider, provider.encrypt_args(source, ASSET, "1MiB"))
    step(2, "Azurite and the control plane start on loopback, both with TLS; upload and register")
    provider.start()
    run_tbpkg(provider, provider.upload_args(ASSET))
    run_tbpkg(provider, provider.register_args(ASSET))
    return source


def run_desk(desk, *args, stdin=None, shown=None):
    """A command of somebody who has a URL and a token, and what it answers. shown: instead of that."""
    show_command("tbpkg", *args)
    r = desk.tbpkg(*args, stdin=stdin)
    show(shown or (r.stderr + r.stdout).strip() or "done")
    return r.stdout.strip()


def open_desk(provider, name, *scopes):
    cp = provider.controlplane
    add = ("token", "add", name, *(w for s in scopes for w in ("--scope", s)), "--expires-in", "24h")
    show_command("tb-controlplane", *add, "--data", cp.dir)
    token = cp.ctl(*add).strip()
    show(token[:8] + "... (shown once; the control plane keeps its hash)")
    desk = Desk(RUN / name, cp.url, provider.ca.cert)
    run_desk(desk, "login", stdin=token)
    return desk


def add_customer(provider):
    """The desk, and the one-time code for the customer's machine."""
    step(3, "A customer is added, by somebody who has the control plane's URL and a token, and none of its files")
    desk = open_desk(provider, "desk", "support")
    code = run_desk(desk, "contract", "add", CONTRACT, "--asset", ASSET, "--lease-seconds", LEASE_SECONDS, "--max-hw", 1)
    return desk, code


class Load:
    """Two clients who ask without a pause until the block ends, and count."""

    def __init__(self, consumer):
        self.url, self.sent, self.refused, self.slowest = consumer.url("/v1/chat/completions"), 0, [], 0.0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(2)]

    def _ask_on(self):
        while not self._done.wait(0.02):
            begin = time.monotonic()
            try:
                outcome = http_json(self.url, {**model.CHAT, "max_tokens": 4}, timeout=600)
            except (OSError, http.client.HTTPException) as e:
                outcome = 0, str(e)
            with self._lock:
                self.sent += 1
                self.refused += [outcome] if outcome[0] != 200 else []
                self.slowest = max(self.slowest, time.monotonic() - begin)

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self._done.set()
        for t in self._threads:
            t.join()


def publish_next(provider, size):
    """Version 2, which nobody is given yet. The directory it was made from, and the desk of who may promote it."""
    source = model.make_model(RUN / "model-2", seed=2, size=size)
    provider.next_version()
    run_tbpkg(provider, provider.encrypt_args(source, ASSET, "1MiB"))
    run_tbpkg(provider, provider.upload_args(ASSET))
    run_tbpkg(provider, [*provider.register_args(ASSET), "--no-promote"])
    return source, open_desk(provider, "releases", "publisher", "replace")


def promote(number, provider, consumer, size, operate, before):
    """operate: runs a command of the operator on the customer's machine. before: what version 1 answered."""
    step(number, "Another version is promoted, and replaces the one that serves while two clients ask without a pause")
    source, desk = publish_next(provider, size)
    with Load(consumer) as load:
        run_desk(desk, "asset", "promote", f"{ASSET}@2")
        with Waiting("a renewal tells it, and it is downloaded beside the one that serves"):
            wait_for(lambda: (consumer.status().get("asset_version") or {}).get("state") == "ready", 300, "version 2 on the disk", every=0.2)
        operate("tb-update")
        count = load.sent
        operate("tb-update switch")
        wait_for(lambda: load.sent > count + 4 or load.refused, 300, "requests after the switch")
    show(f"requests sent meanwhile: {load.sent}, refused: {len(load.refused)}; the slowest took {load.slowest:.1f} s")
    if load.refused:
        sys.exit(f"demo: refused: {load.refused[:3]}")
    show("(what came during the switch waited for version 2)")
    answer = ask(consumer)
    if answer == before:
        sys.exit("demo: version 2 answers as version 1 did")
    compare_with_plaintext(source, answer)


def bill(desk, number, consumer):
    """What the machine reported with a renewal."""
    step(number, "What was used, as the provider bills it")
    served = consumer.status()["requests_processed"]

    def reported():
        return sum(u["used"].get("requests", 0) for u in json.loads(desk.tbpkg("usage", "--json").stdout)["usage"]) >= served
    with Waiting("a renewal brings the report"):
        wait_for(reported, 120, "usage", every=0.5)
    run_desk(desk, "machine", "list")
    run_desk(desk, "usage", "--by", "machine")


def describe(s):
    h, d = s.get("hydrate") or {}, s.get("decrypt") or {}
    return (f"{s['state']:<10} downloaded {h.get('bytes_done', 0)}/{h.get('bytes_total', 0)} bytes, "
            f"decrypted {d.get('bytes_done', 0)}/{d.get('bytes_total', 0)} bytes")


def watch_until_ready(consumer, timeout, check=lambda: None, detail=lambda: "no answer yet"):
    """check: raises when it cannot become Ready any more. detail: what is to be seen before /status answers."""
    clock, last = Clock(), ["", 0.0]

    def ready():
        check()
        s = consumer.status()
        text, state = (describe(s), s["state"]) if s.get("state") else (detail(), "")
        age = time.monotonic() - last[1]
        if state != last[0] or age > 10 or (state and age > 0.25 and text != last[2]):
            last[:] = state, time.monotonic(), text
            say(f"{clock} {text}"[:160])
        return state == "Ready"
    wait_for(ready, timeout, "Ready", every=0.02)


def ask(consumer):
    url = consumer.url("/v1/chat/completions")
    status, answer = http_json(url, model.CHAT, timeout=300)
    if status != 200:
        sys.exit(f"demo: POST /v1/chat/completions answered {status}: {answer}")
    text = answer["choices"][0]["message"]["content"]
    show(f"POST /v1/chat/completions -> {status}")
    show("answer (random weights, so noise): " + json.dumps(text))
    show("usage: " + json.dumps(answer["usage"]))
    events, streamed = ask_streamed(url)
    show(f"the same streamed: {events} events, equal text: {streamed == text}")
    if streamed != text:
        sys.exit("demo: the streamed answer differs")
    return text


def ask_streamed(url):
    body = json.dumps({**model.CHAT, "stream": True}).encode()
    events, text = 0, ""
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=300) as r:
        for line in r:
            if line.startswith(b"data: {"):
                events += 1
                choices = json.loads(line[6:]).get("choices") or [{}]
                text += (choices[0].get("delta") or {}).get("content") or ""
    return events, text


def healthy(port):
    """Does a runtime answer on this machine's loopback?"""
    try:
        return http_json(f"http://127.0.0.1:{port}/health", timeout=5)[0] == 200
    except OSError:
        return False


def compare_with_plaintext(source, expected):
    """The answer is a function of the weights: served from the plaintext directly it must be the same."""
    port = tbsys.free_port()
    d = tbsys.Daemon(shlex.split(model.llama_command(source / model.GGUF, port)), log=RUN / "plain-llama.log").start()
    try:
        wait_for(lambda: healthy(port), 60, "llama-server on the plaintext")
        direct = http_json(f"http://127.0.0.1:{port}/v1/chat/completions", model.CHAT, timeout=120)[1]["choices"][0]["message"]["content"]
    finally:
        d.stop()
    show(f"llama-server on the plaintext gives the same answer: {direct == expected}")
    if direct != expected:
        sys.exit("demo: the answers differ")


def revoke(desk, consumer):
    """Until requests are refused."""
    run_desk(desk, "contract", "revoke", CONTRACT)
    show(f"the lease of {LEASE_SECONDS} s is renewed at half its time; the next renewal is refused")
    clock = Clock()
    wait_for(lambda: http_json(consumer.url("/v1/models"))[0] == 403, 60, "403")
    status, body = http_json(consumer.url("/v1/chat/completions"), model.CHAT)
    show(f"after {str(clock).strip()}: POST /v1/chat/completions -> {status} {json.dumps(body)}")


def hints(consumer, desk, *more):
    say(f"\n{BOLD}Left running.{END} Try:")
    environment = " ".join(f"{k}={shlex.quote(v)}" for k, v in desk.env.items())
    controlplane = f"{environment} {tbsys.program('tbpkg')} contract %s {CONTRACT}"
    for line in (f"curl -s {consumer.url('/status')} | jq .",
                 f"curl -sN {consumer.url('/v1/chat/completions')} -H 'Content-Type: application/json' -d "
                 "'{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":32,\"stream\":true}'",
                 *more, controlplane % "revoke", controlplane % "allow", "make demo-stop"):
        say("   " + line)


def done(clock, again):
    say(f"\n{BOLD}Done in {str(clock).strip()}.{END} Everything of this run is in {RUN.relative_to(repo)}/; `{again} KEEP=1` leaves it running.")
