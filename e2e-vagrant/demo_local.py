# SPDX-License-Identifier: Apache-2.0
"""The chain as processes of this machine: what `make demo-local` shows."""

import json
import os
import shlex
import subprocess
import sys

import model
from chain import Chain, Provider
from demo_common import (ASSET, CONTRACT, RUN, Clock, add_customer, ask, bill, compare_with_plaintext, done, healthy, hints, promote,
                         provider_side, revoke, say, show, step, watch_until_ready)
from tbsys import program, wait_for

MODEL_SIZE = ("--layers", 4, "--embd", 1024, "--ff", 2816, "--heads", 16)  # 100 MB: long enough to watch


def start(chain):
    step(4, "The consumer's chain enrols by the code, and gets a certificate and the key: authorize, hydrate, decrypt in memory, llama-server in its own network namespace")

    def check():
        if chain.error:
            raise chain.error
    try:
        watch_until_ready(chain, 300, check)
    except AssertionError:
        sys.exit(f"demo: the chain did not become Ready; its logs:\n{chain.logs()}")


def evidence(chain):
    step(6, "What the operator and the auditor see")
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


def operate(chain, command):
    say(f"customer# {command}")
    words = shlex.split(command)
    r = subprocess.run([program(words[0]), *words[1:]], env={**os.environ, "TB_RUN_DIR": str(chain.run)}, capture_output=True, text=True, timeout=300)
    show(r.stdout + r.stderr)
    if r.returncode != 0:
        sys.exit(f"demo: {command}: exit {r.returncode}; the logs:\n{chain.logs()}")


def demo(keep):
    """keep: None, or what is called when all stands; it returns when all shall go."""
    clock, provider, chain = Clock(), Provider(RUN / "provider"), None
    try:
        source = provider_side(provider, MODEL_SIZE)
        desk, code = add_customer(provider)
        chain = Chain(RUN / "consumer", provider.ca, provider.controlplane.url, CONTRACT, ASSET, enrolment_code=code,
                      runtime_exec=model.llama_command(), env={"TB_BILLING_INTERVAL": "1s", "TB_UPDATE": "manual"}, updates=True,
                      public_port=8000 if keep else 0, health_port=8001 if keep else 0).start()
        start(chain)
        step(5, "Inference through port %d" % chain.public_port)
        answer = ask(chain)
        compare_with_plaintext(source, answer)
        evidence(chain)
        if keep:
            hints(chain, desk, f"curl -s {chain.url('/metrics', health=True)}", f"tail -f {chain.audit_file}",
                  f"tail {chain.log_dir}/*.log", f"TB_RUN_DIR={chain.run} build/tb-status")
            return keep()
        promote(7, provider, chain, MODEL_SIZE, lambda command: operate(chain, command), answer)
        bill(desk, 8, chain)
        step(9, "The contract is revoked while the model serves, from the same desk")
        revoke(desk, chain)
        wait_for(lambda: not chain.units["tb-runtime"].daemon.running(), 20, "the runtime to stop")
        show("llama-server is gone, and the weights with its memory file system")
        return done(clock, "make demo-local")
    finally:
        if chain:
            chain.stop()
        provider.stop()
