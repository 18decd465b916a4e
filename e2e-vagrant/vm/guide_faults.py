# SPDX-License-Identifier: Apache-2.0
"""What the rows of the operator guide's troubleshooting table are about, done to a machine that serves; and what their remedies leave to a person:
the lines to correct, the provider, the network. Names of rows are a part of their symptom that no other has."""

import pathlib
import re

from faultproxy import corrupt, status, swallow
from guide_machine import CONTRACT, ENV, TARGET
from tbsys import wait_for

BIG_BYTES = 256 << 20
NO_VIEW = "/run/systemd/system/tb-runtime.service.d"
FAULTS = {}


class Fault:
    """The machine meets it in tries: pairs of what is done and of what the symptom then has to have, all that is quoted unless it is said."""

    def __init__(self, tries, correct):
        self.tries, self.correct = tries, correct


def fault(row, *see, correct):
    """Registers a function that provokes the row. see: what it quotes, where not everything comes at once."""
    def register(provoke):
        found = FAULTS.setdefault(row, Fault([], correct))
        found.tries.append((provoke, see))
        return provoke
    return register


def key_of(row):
    keys = [key for key in FAULTS if key in row.symptom]
    assert len(keys) == 1, f"{row}: {keys or 'no fault provokes it'}"
    return keys[0]


def nobody(vm):
    """The remedy is all in what is typed."""


def settings(*names):
    return lambda vm: vm.correct(*names)


def fault_of_setting(row, name, value, *see):
    @fault(row, *see, correct=settings(name))
    def provoke(vm):
        vm.set(name, value)
        vm.apply()


# -- control plane --------------------------------------------------------------------------------------------------------

def allow(vm):
    vm.provider.controlplane.ctl("contract", "allow", CONTRACT)


def certificate_back(vm):
    for name, copy in (("client.crt", "client-cert"), ("client.key", "client-key")):
        vm.type(f"install -m 600 {name} /etc/credstore/trustbridge.{copy}")


def control_plane_back(vm):
    vm.provider.gateway.close()
    vm.provider.controlplane.start()


fault_of_setting("contract_invalid", "TB_CONTRACT_ID", "another")


@fault("contract_revoked", correct=allow)
def revoked(vm):
    vm.provider.controlplane.ctl("contract", "revoke", CONTRACT)
    vm.ask_now()
    vm.wait_state("Suspended")
    wait_for(lambda: not vm.sh("systemctl list-jobs --no-legend").strip(), 120, "the end of what the suspension stops", every=0.5)
    rc, said = vm.run("systemctl restart tb-runtime.service")
    assert rc != 0 and re.search("A dependency job for tb-runtime.service failed|Job for tb-runtime.service canceled", said), said
    assert "suspended by the control plane: nothing is to be started here, tb-status says why" in vm.sh("journalctl -b --no-pager -n 40")


@fault("client_certificate_required", correct=certificate_back)
def no_certificate(vm):
    vm.sh("rm /etc/credstore/trustbridge.client-*; systemctl restart tb-authorize.service")


@fault("Could not resolve host", "the control plane does not answer: …", "Failed to connect", correct=control_plane_back)
def control_plane_away(vm):
    vm.provider.controlplane.stop()
    vm.ask_now()


@fault("`no lease yet: …`, \"Failed to connect\"", "no lease yet: …", "Failed to connect", correct=control_plane_back)
def control_plane_away_at_first(vm):
    """As on a machine that is new to it."""
    vm.provider.controlplane.stop()
    vm.sh("systemctl stop trustbridge.target tb-authorize.service tb-keys.socket", 120)
    vm.sh("rm -rf /run/tb-authorize/* /var/lib/tb-authorize/*; systemctl start trustbridge.target", 120)


@fault("not an answer of the control plane", "HTTP …: redirected…", correct=control_plane_back)
def login_page(vm):
    vm.provider.gateway.open(302, ("Location", "https://login.example/"))
    vm.ask_now()


@fault("not an answer of the control plane", "HTTP …: not an answer of the control plane…", correct=control_plane_back)
def forbidding_gateway(vm):
    vm.provider.gateway.open(403)
    vm.ask_now()


@fault("SSL certificate problem", "the control plane does not answer: …", "SSL certificate problem", correct=settings("TB_CA_FILE"))
def unknown_authority(vm):
    vm.sh(f"sed -i '/^TB_CA_FILE=/d' {ENV}")
    vm.apply()


fault_of_setting("trustbridge.env has errors", "TB_LEASE_GRACE", "soon")


# -- download -------------------------------------------------------------------------------------------------------------

def download_again(vm):
    """As on a machine whose ciphertext is gone."""
    vm.sh(f"systemctl stop trustbridge.target; rm -f {TARGET}/*; systemctl start trustbridge.target", 120)


def storage_back(vm):
    vm.provider.blobs.clear()


@fault("not enough disk space in …", correct=lambda vm: room(vm))
def small_disk(vm):
    vm.sh(f"systemctl stop trustbridge.target; rm -f {TARGET}/*", 120)
    leave(vm, 40960)
    vm.sh("systemctl start trustbridge.target", 120)


def memory_back(vm):
    vm.sh("rm -f /dev/shm/filler")
    vm.correct("TB_ASSET_ID", "TB_CONTRACT_ID")
    vm.apply()


@fault("not enough memory for the weights", correct=memory_back)
def little_memory(vm):
    """A model of 256 MiB, and three quarters of that left for it: too little for files in memory."""
    p = vm.provider
    big = p.dir / "big"
    with open(big, "wb") as f:
        f.truncate(BIG_BYTES)
    for kept in p.dir.glob("model.*"):  # of the first one, which is published
        kept.unlink()
    p.publish(big, "big", "4MiB")
    p.controlplane.ctl("contract", "add", "big", "--asset", "big", "--mode", "open")
    vm.sh("systemctl stop trustbridge.target", 120)
    vm.sh("mount -o remount,size=100% /dev/shm")
    vm.sh(f"fallocate -l $(($(awk '/^MemAvailable/ {{ print $2 }}' /proc/meminfo) * 1024 - {BIG_BYTES} * 3 / 4)) /dev/shm/filler")
    vm.set("TB_ASSET_ID", "big")
    vm.set("TB_CONTRACT_ID", "big")
    vm.set("TB_DELIVERY", "dir")
    vm.apply()


def storage_fault(row, action, *see, correct=storage_back):
    @fault(row, *see, correct=correct)
    def provoke(vm):
        vm.provider.blobs.rule(action, path=r"\.tbenc$", method="GET")
        download_again(vm)


storage_fault("status 403", status(403, {"x-ms-error-code": "AuthenticationFailed"}))
storage_fault("status 307", status(307, {"Location": "https://elsewhere.example/"}))
storage_fault("status 404", status(404, {"x-ms-error-code": "BlobNotFound"}))


@fault("`tb-hydrate.service: …`", "tb-hydrate.service: …", "Failed to connect",
       correct=lambda vm: vm.provider.open_storage())
def storage_away(vm):
    vm.provider.blobs.stop()
    download_again(vm)


# -- decryption and runtime -----------------------------------------------------------------------------------------------

@fault("not authentic", correct=nobody)
def rotten(vm):
    """One byte of the ciphertext, its time kept."""
    vm.sh(f"cd {TARGET} && touch -r model.tbenc /root/time && printf X | dd of=model.tbenc bs=1 seek=100000 conv=notrunc status=none && "
          "touch -r /root/time model.tbenc && systemctl restart --no-block tb-runtime.service")


@fault("is damaged at its source", correct=storage_back)
def damaged_source(vm):
    vm.provider.blobs.rule(corrupt(at=100000), path=r"\.tbenc$", method="GET", range="^bytes=0-")
    download_again(vm)


def views_back(vm):
    vm.sh(f"rm -r {NO_VIEW}; swapoff /root/swap; rm /root/swap; systemctl daemon-reload")


@fault("finds no way to deliver the model", correct=views_back)
def no_way_to_deliver(vm):
    """No view, as user namespaces are forbidden; no files in memory, as swap is on; and llama-server reads no S3."""
    vm.sh("fallocate -l 16M /root/swap && chmod 600 /root/swap && mkswap /root/swap && swapon /root/swap")
    vm.sh(f"mkdir {NO_VIEW} && printf '[Service]\\nRestrictNamespaces=yes\\n' >{NO_VIEW}/no-view.conf")
    vm.sh("systemctl daemon-reload && systemctl restart --no-block tb-runtime.service")


@fault("is not an executable file", correct=lambda vm: vm.sh("mv /root/llama-server /usr/local/bin/"))
def no_server(vm):
    vm.sh("mv /usr/local/bin/llama-server /root/ && systemctl restart --no-block tb-runtime.service")


fault_of_setting("does not answer 200 to TB_RUNTIME_HEALTH", "TB_RUNTIME_HEALTH", "/nowhere")
fault_of_setting("has been restarted", "TB_RUNTIME_EXEC", "/bin/false {model}")


def server_on_a_fifo(script, see):
    """One that takes the model for a file: it opens it again, or has seen enough of it."""
    @fault("two readers opened", see, correct=settings("TB_DELIVERY", "TB_RUNTIME_EXEC"))
    def provoke(vm):
        vm.put("/usr/local/bin/reader", b"#!/bin/sh\n" + script + b"\nexec sleep 600\n", "0755")
        vm.set("TB_RUNTIME_EXEC", "/usr/local/bin/reader {model}")
        vm.set("TB_DELIVERY", "fifo")
        vm.apply()


server_on_a_fifo(b'exec 3<"$1" 4<"$1"', "two readers opened …")
server_on_a_fifo(b'exec 3<"$1"; head -c 1000 <&3 >/dev/null; exec 3<&-', "the reader closed the FIFO after …")


# A server that is well, and never answers.
HANGING = b"""#!/usr/bin/python3
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        time.sleep(86400)
http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
"""


@fault("has said nothing for", correct=lambda vm: vm.run("systemctl stop client.service"))
def hanging_server(vm):
    server = "/usr/local/bin/llama-server"
    vm.sh(f"mv {server} /root/")
    vm.put(server, HANGING, "0755")
    vm.sh("systemctl restart tb-runtime.service", 180)
    vm.wait_state("Ready")
    vm.sh(f"mv /root/llama-server {server}")  # its next start is a good one
    vm.sh("systemd-run -q --collect --unit=client curl -s http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' "
          "-H \"Authorization: Bearer $(cat /root/team-b.key 2>/dev/null)\" "
          "-d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'")
    wait_for(lambda: vm.status().get("runtime_silent_seconds", 0) >= 300, 400, "five minutes of silence", every=2)


# -- anything else --------------------------------------------------------------------------------------------------------

fault_of_setting("no contract is configured", "TB_CONTRACT_ID", "")


@fault("tb-proxy.socket is stopped", correct=nobody)
def closed(vm):
    vm.sh("systemctl stop tb-proxy.socket tb-proxy-health.socket", 120)


@fault("tb-proxy.socket has failed", correct=lambda vm: vm.sh("systemctl stop squatter.service"))
def port_taken(vm):
    vm.sh("systemctl stop tb-proxy.socket && systemd-run -q --unit=squatter python3 -m http.server 8000")
    wait_for(lambda: "python3" in vm.run("ss -ltnp")[1], 60, "a squatter", every=0.3)
    vm.run("systemctl start tb-proxy.socket")


@fault("tb-proxy does not answer", correct=nobody)
def hanging(vm):
    vm.sh("systemctl kill -s STOP tb-proxy.service")


@fault("trustbridge.target is not started", correct=nobody)
def stopped(vm):
    vm.sh("systemctl stop trustbridge.target", 120)


HYDRATE_STOPPED = "tb-hydrate.service is stopped…, and without it there is no model to serve"


@fault("tb-hydrate.service is stopped", HYDRATE_STOPPED, correct=storage_back)
def download_stopped(vm):
    """When it had finished."""
    vm.sh("systemctl stop tb-hydrate.service", 60)


@fault("tb-hydrate.service is stopped", "tb-runtime.service is stopped", correct=storage_back)
def runtime_stopped(vm):
    vm.sh("systemctl start tb-hydrate.service", 60)
    vm.wait_state("Ready")
    vm.sh("systemctl stop tb-runtime.service", 60)


@fault("tb-hydrate.service is stopped", HYDRATE_STOPPED, correct=storage_back)
def download_stopped_in_its_work(vm):
    vm.provider.blobs.clear()  # what was asked before
    vm.provider.blobs.rule(swallow(), path=r"\.tbenc$", method="GET")
    download_again(vm)
    wait_for(lambda: vm.provider.blobs.count(path=r"\.tbenc$"), 180, "a download", every=0.3)
    vm.sh("systemctl stop tb-hydrate.service", 60)


@fault("was removed while", correct=nobody)
def delivery_removed(vm):
    vm.sh("rm /run/tb-runtime/delivery.json")


@fault("the client certificate … has expired", correct=certificate_back)
def expired(vm):
    cert, key = vm.provider.ca.issue("expired", days="0")
    for path, copy in ((cert, "client-cert"), (key, "client-key")):
        vm.put(f"/etc/credstore/trustbridge.{copy}", pathlib.Path(path).read_bytes(), "0600")
    vm.sh("systemctl restart tb-authorize.service")


def clock_back(vm):
    """By the command that is on the screen."""
    vm.type(re.search(r"date -u -s \S+", re.sub(r"\s+", " ", vm.screen()))[0].rstrip(";"))


@fault("the clock of this machine is", correct=clock_back)
def clock_ahead(vm):
    vm.sh("date -s @$(($(date +%s) + 7200))")
    vm.ask_now()


def leave(vm, kilobytes):
    """So much is free on the disk."""
    vm.sh(f"fallocate -l $(($(df --output=avail / | tail -n 1) - {kilobytes}))K /var/filler")


def room(vm):
    vm.sh("rm -f /var/filler")


@fault("is getting full", correct=room)
def filling(vm):
    leave(vm, 102400)


@fault("is full (…)", correct=lambda vm: vm.unfill("/var"))
def full(vm):
    vm.fill("/var")


def audit_writable(vm):
    vm.sh("chattr -i /var/log/trustbridge/audit.jsonl")


@fault("no request is served", correct=audit_writable)
def audit_locked(vm):
    vm.sh("chattr +i /var/log/trustbridge/audit.jsonl")
    wait_for(lambda: vm.run("curl -s http://127.0.0.1:8000/v1/models")[1] and vm.state() == "Down", 120, "a refusal", every=0.5)
