#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guide's end-to-end environment on one machine: Azurite, the development control plane and the whole chain with the small
runtime stand-in over the FIFO, left running in the background.

usage: stack.py generate-plain | encrypt | up [CONTRACT] | down | status

Ports: blob 9000, control plane 8080, API 8000, health 8001, runtime 8081 (inside the runtime's own network namespace).
Everything lives in e2e-vagrant/run/."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))

from chain import Chain, Provider, tbpkg  # noqa: E402
from tbsys import read_json, wait_for  # noqa: E402

RUN = HERE / "run"
PLAIN = RUN / "plain.bin"
STACK = RUN / "stack.json"
ASSET = "tb-asset-e2e-001"
PLAIN_BYTES = 16 * 1024 * 1024
PLAIN_SHA256 = "fba96a988489e8901e0a2c0c4d81653120d07936a8fe9251ca85c34d8ef76043"
STANDIN = HERE / "runtime-standin.py"


def generate_plain(path=PLAIN):
    """The deterministic 16 MiB file of the guide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"TRUSTBRIDGE_E2E_" * (PLAIN_BYTES // 16))
    return path


def encrypt():
    if not PLAIN.exists():
        generate_plain()
    provider = RUN / "provider"
    provider.mkdir(parents=True, exist_ok=True)
    for name in ("model.tbenc", "model.manifest.json", "model.key"):
        (provider / name).unlink(missing_ok=True)
    tbpkg("encrypt", "--asset-id", ASSET, "--in", PLAIN, "--out", provider / "model.tbenc", "--manifest",
          provider / "model.manifest.json", "--key-out", provider / "model.key")
    print(f"{provider}/model.tbenc, model.manifest.json and model.key (0600) are there")


class E2E:
    """The running environment. Ports 0 are picked free; the defaults are the guide's."""

    def __init__(self, directory, contract="contract-allow", blob=9000, controlplane=8080, api=8000, health=8001, runtime=8081,
                 sas_seconds=3600):
        self.dir = pathlib.Path(directory)
        self.provider = Provider(self.dir / "provider", blob or None, controlplane or None, sas_seconds=sas_seconds)
        self.contract, self.api, self.health, self.runtime = contract, api, health, runtime
        self.chain = None

    def start(self):
        p = self.provider.start()
        if not (p.dir / "model.tbenc").exists():
            tbpkg(*p.encrypt_args(generate_plain(self.dir / "plain.bin"), ASSET), env=p.env())
        tbpkg(*p.upload_args(ASSET), env=p.env())
        tbpkg(*p.register_args(ASSET), env=p.env())
        self.start_chain()
        return self

    def start_chain(self):
        self.chain = Chain(self.dir / "consumer", self.provider.ca, self.provider.controlplane.url, self.contract, ASSET,
                           env={"TB_DELIVERY": "fifo", "TB_ROUTES": "/v1/*,/plaintext-hash", "TB_BILLING_INTERVAL": "1s"},
                           runtime_exec=f"/usr/bin/env TB_RUNTIME_PORT={self.runtime} {sys.executable} {STANDIN}",
                           public_port=self.api, health_port=self.health, runtime_port=self.runtime).start()

    def stop(self):
        if self.chain:
            self.chain.stop()
        self.provider.stop()

    def describe(self):
        return {"pid": os.getpid(), "contract": self.contract, "api": self.chain.url(""), "health": self.chain.url("", health=True),
                "controlplane": self.provider.controlplane.url, "blob": self.provider.azurite.endpoint,
                "ca": self.provider.ca.cert, "dir": str(self.dir)}


def serve(contract):
    """Runs until SIGTERM. The parent learns from stack.json that all is up."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    e2e = E2E(RUN, contract)
    try:
        e2e.start()
        STACK.write_text(json.dumps(e2e.describe(), indent=2))
        while not stop:
            time.sleep(0.2)
    finally:
        STACK.unlink(missing_ok=True)
        e2e.stop()


def up(contract):
    if running():
        sys.exit("stack.py: already up; `make e2e-down` first")
    RUN.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(RUN / "consumer", ignore_errors=True)
    log = open(RUN / "stack.log", "wb")
    child = subprocess.Popen([sys.executable, __file__, "serve", contract], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             start_new_session=True)

    def started():
        if child.poll() is not None:
            sys.exit(f"stack.py: could not start:\n{(RUN / 'stack.log').read_text()}")
        return STACK.exists()
    wait_for(started, 120, "the environment")
    print(STACK.read_text())
    print("It starts in the background; `stack.py status` shows the state, logs are in e2e-vagrant/run/consumer/log/.")


def running():
    pid = read_json(STACK).get("pid")
    return pid if pid and os.path.exists(f"/proc/{pid}") else None


def down():
    pid = running()
    if not pid:
        print("not running")
        return
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60, "the environment to stop")
    print("stopped")


def status():
    info = read_json(STACK)
    if not running():
        sys.exit("not running")
    import urllib.request
    with urllib.request.urlopen(info["health"] + "/status", timeout=5) as r:
        print(json.dumps(json.load(r), indent=2))


def main():
    commands = {"generate-plain": lambda a: print(generate_plain()), "encrypt": lambda a: encrypt(),
                "up": lambda a: up(a[0] if a else "contract-allow"), "down": lambda a: down(), "status": lambda a: status(),
                "serve": lambda a: serve(*a)}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
