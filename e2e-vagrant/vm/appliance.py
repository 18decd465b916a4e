# SPDX-License-Identifier: Apache-2.0
"""An appliance in QEMU beside a provider on this machine: what tests and demo share."""

import json
import pathlib
import re
import socket
import socketserver
import threading
import time

from chain import Provider, http_json
from runner import HOST, VM, write_seed
from tbsys import relay, repo, wait_for

KIT = "/opt/runtime-kit/llama-server"  # in the image, see build.py


def event(name):
    """The MESSAGE_ID of common/events.h."""
    return re.search(rf'TB_EVENT_{name} "(\w+)"', (repo / "common/events.h").read_text())[1]


class AsGuest(socketserver.ThreadingTCPServer):
    """A proxy by which a program of this machine reaches what a guest calls HOST: the control plane looks at the storage that it is told."""

    daemon_threads = True
    allow_reuse_address = True

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            target = self.rfile.readline().split(b" ")[1].decode().replace(HOST, "127.0.0.1")
            while self.rfile.readline().strip():
                pass
            host, _, port = target.rpartition(":")
            try:
                upstream = socket.create_connection((host, int(port)), 30)
            except OSError:
                self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                return
            with upstream:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                relay(self.connection, upstream)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class GuestProvider(Provider):
    """A provider whose endpoints are named as a guest reaches them, and who asks for a client certificate of its CA; or, without
    client_ca, for what the contract asks for."""

    def __init__(self, directory, client_ca=True, **kw):
        super().__init__(directory, **kw)
        self.controlplane.options = ["--client-ca", self.ca.cert] if client_ca else []
        self.controlplane.env = {"HTTPS_PROXY": AsGuest().url}

    def register_args(self, asset):
        return [str(a).replace("127.0.0.1", HOST) if "/" + self.container in str(a) else a for a in super().register_args(asset)]


class Looks:
    """A VM with TrustBridge, looked at from outside."""

    def status(self):
        try:
            return http_json(self.url("/status", 8001), timeout=10)[1]
        except (OSError, ValueError):
            return {}

    def state(self):
        status = self.status()
        return status.get("state") if isinstance(status, dict) else None

    def wait_state(self, state, timeout=400):
        try:
            wait_for(lambda: self.state() == state, timeout, f"state {state}", every=0.2)
        except AssertionError as e:
            raise AssertionError(f"{e}; now {self.status()}") from None
        return self

    def ask_now(self):
        """Has tb-authorize ask the control plane at once instead of at its next time; returns when (time.monotonic()) it was told."""
        self.sh("systemctl kill -s HUP tb-authorize.service")
        return time.monotonic()

    def fill(self, directory):
        """Takes all space of the file system of `directory`, the part for root included."""
        sizes = "256M 64M 16M 4M 1M 256K 64K 16K 4K"
        self.sh(f"cd {directory} && mkdir filler && cd filler && n=0; for s in {sizes}; do "
                "while fallocate -l $s $n 2>/dev/null; do n=$((n + 1)); done; rm -f $n; done; true")

    def unfill(self, directory):
        self.sh(f"rm -r {directory}/filler")


class Appliance(VM, Looks):
    """A machine with its seed, told the contract and the asset of `provider`. code: by which it enrols, instead of a client certificate."""

    AUDIT_FILE = "/var/log/trustbridge/audit.jsonl"  # for TB_AUDIT_FILE

    def __init__(self, image, directory, provider, contract, asset, gguf, env=None, code=None, **kw):
        d = pathlib.Path(directory)
        settings = {
            "TB_CONTRACT_ID": contract, "TB_ASSET_ID": asset, "TB_EDC_ENDPOINT": f"https://{HOST}:{provider.controlplane.port}",
            "TB_CA_FILE": "/etc/trustbridge/ca.pem", "TB_BILLING_INTERVAL": "1s",
            "TB_RUNTIME_EXEC": f"{KIT} -m {{model}}/{gguf} -c 1024 -t 1 --host 127.0.0.1 --port 8081 --parallel 2",
            **(env or {}),
        }
        files = {"CA": pathlib.Path(provider.ca.cert).read_bytes()}
        if code:
            files["ENROLMENT_CODE"] = code.encode()
        else:
            cert, key = provider.ca.issue(f"appliance-{contract}")
            files |= {"CLIENT_CERT": pathlib.Path(cert).read_bytes(), "CLIENT_KEY": pathlib.Path(key).read_bytes()}
        seed = write_seed(d / "seed", settings, files)
        super().__init__(image, d, seed, **kw)

    def chat(self, body, timeout=120):
        """(status, answer); 0 when the connection failed."""
        try:
            return http_json(self.url("/v1/chat/completions"), body, timeout=timeout)
        except OSError as e:
            return 0, str(e)

    def pid(self, unit):
        return int(self.show(f"{unit}.service", "MainPID"))

    def runs(self, unit):
        """Is it the program already, with its credentials, and not what systemd makes of it first?"""
        return self.run(f"readlink /proc/{self.pid(unit)}/exe")[1].strip().endswith("/" + unit)

    def journal(self, *match):
        """Records of the trustbridge journal of this boot, oldest first."""
        text = self.sh(f"journalctl --namespace=trustbridge -b -o json --no-pager {' '.join(match)}")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def audit_file(self, after=0):
        """The sequence numbers of the audit records in the file, in their order, from `after` on."""
        text = self.sh(f"sed -n 's/.*\"seq\":\\([0-9]*\\).*/\\1/p' {self.AUDIT_FILE}")
        return [int(n) for n in text.split() if int(n) > after]

    def audit_journal(self, after=0):
        """The same of those in the journal."""
        return [n for r in self.journal("_SYSTEMD_UNIT=tb-proxy.service", f"MESSAGE_ID={event('AUDIT')}", "--output-fields=TB_SEQ")
                if (n := int(r["TB_SEQ"])) > after]

    def key_releases(self):
        return len(self.journal("_SYSTEMD_UNIT=tb-authorize.service", "TB_CREDENTIAL=model-key", "TB_RELEASED=yes"))
