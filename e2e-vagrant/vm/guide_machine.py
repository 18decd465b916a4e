# SPDX-License-Identifier: Apache-2.0
"""A machine of Debian without TrustBridge, and beside it what the operator guide takes for granted: a provider with a published model, the files
that he hands over, a package, an inference server. What is typed is typed as root in one directory."""

import functools
import http.server
import os
import pathlib
import shlex
import ssl
import threading

import build
import debs
import model
from appliance import GuestProvider, Looks
from faultproxy import FaultProxy
from runner import HOST, VM

SUITE = os.environ.get("TB_VM_SUITE", "bookworm")
ENV = "/etc/trustbridge/trustbridge.env"
ASSET, CONTRACT = "guide-model", "guide"
TARGET = "/mnt/resource/trustbridge"
# /opt/runtime-kit is in the image. Options after the guide's: an emulated processor computes with it.
SERVER = b"#!/bin/sh\nexec /opt/runtime-kit/llama-server \"$@\" -c 1024 -t 1 --parallel 2\n"


class Gateway:
    """An HTTPS server at the control plane's port that is not it."""

    def __init__(self, ca, controlplane):
        self.controlplane, self.tls, self.server, self.answer = controlplane, ca.issue("gateway"), None, (403, ())

    def open(self, code, *fields):
        """Answers so from now on, instead of what was there."""
        self.answer, gateway = (code, fields), self
        if self.server:
            return

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code, fields = gateway.answer
                self.send_response(code)
                for name, value in (*fields, ("Content-Length", "0"), ("Connection", "close")):
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.controlplane.stop()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.controlplane.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.tls)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class FaultyProvider(GuestProvider):
    """Its storage can be made to answer wrongly: self.blobs.rule(...)."""

    def start(self):
        super().start()
        self.open_storage(0)
        self.gateway = Gateway(self.ca, self.controlplane)
        return self

    def open_storage(self, port=None):
        """At the port where it was."""
        port = self.blobs.port if port is None else port
        self.blobs = FaultProxy(f"https://127.0.0.1:{self.azurite.port}", tls=self.ca.issue("blobs"), port=port).start()

    def stop(self):
        self.gateway.close()
        self.blobs.stop()
        super().stop()

    def register_args(self, asset):
        return [str(a).replace(f":{self.azurite.port}/", f":{self.blobs.port}/") for a in super().register_args(asset)]


class FreshMachine(VM, Looks):
    def __init__(self, directory, applied):
        """applied: the commands by which the guide applies a change of the settings."""
        d = pathlib.Path(directory)
        self.applied = applied
        self.provider = FaultyProvider(d / "provider")
        super().__init__(build.build(SUITE, "bare"), d / "machine", append="cloud-init=disabled")

    def begin(self):
        self.start_provider()
        self.start()
        self.hand_over()
        return self

    def end(self):
        self.discard()
        self.provider.stop()

    def start_provider(self):
        p = self.provider.start()
        source = model.make_model(p.dir / "model") / model.GGUF  # one file, which {model} then is
        p.publish(source, ASSET, "64KiB")
        p.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
        self.right = {"TB_CONTRACT_ID": CONTRACT, "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": f"https://{HOST}:{p.controlplane.port}"}

    def hand_over(self):
        """What an operator has when he begins."""
        p = self.provider
        cert, key = p.ca.issue("appliance")
        for name, path in (("ca.pem", p.ca.cert), ("client.crt", cert), ("client.key", key)):
            self.put(f"/root/{name}", pathlib.Path(path).read_bytes())
        self.put("/usr/local/bin/llama-server", SERVER, "0755")
        packages = debs.build(SUITE)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=packages)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            name = next(packages.glob("trustbridge_*.deb")).name
            self.sh(f"cd /root && curl -fsS --retry 20 --retry-all-errors -O http://{HOST}:{server.server_port}/{name}", 120)
            server.shutdown()

    # -- an operator's hands ------------------------------------------------------------------------------------------
    def type(self, command, timeout=300):
        """As in a shell of root, who says yes when asked; returns its output."""
        return self.sh(f"cd /root && yes 2>/dev/null | bash -c {shlex.quote(command)}", timeout)

    def watch(self, command, seconds=5):
        """What does not end by itself: it must say something before Ctrl-C."""
        rc, out = self.run(f"cd /root && timeout -s INT {seconds} bash -c {shlex.quote('exec ' + command)}", seconds + 60)
        assert rc in (124, 130) and out.strip(), f"{command}: exit {rc}\n{out}"

    def set_lines(self, text):
        """Lines of trustbridge.env by an editor: each replaces the one of its name. What the guide leaves open is the provider's."""
        for line in text.splitlines():
            name, _, value = line.partition("=")
            value = self.right[name] if "..." in value else value
            self.right[name] = value
            self.set(name, value)

    def set(self, name, value):
        line = shlex.quote(f"{name}={value}")
        self.sh(f"sed -i '/^{name}=/d' {ENV} && printf '%s\\n' {line} >> {ENV}")

    def correct(self, *names):
        """The right values again; no line where the guide has none."""
        for name in names:
            if name in self.right:
                self.set(name, self.right[name])
            else:
                self.sh(f"sed -i '/^{name}=/d' {ENV}")

    def apply(self):
        """Whatever comes of it: settings may be wrong."""
        for command in self.applied:
            self.run(command, 300)

    def screen(self):
        return self.run("tb-status")[1]
