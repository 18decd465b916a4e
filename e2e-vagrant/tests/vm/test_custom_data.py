# SPDX-License-Identifier: Apache-2.0
"""The first boot with what bicep/mainTemplate.json gives an Azure machine as customData, instead of cloud-init/user-data.yaml."""

import base64
import http.client
import json
import socket
import ssl
import subprocess

import pytest
from chain import http_json
from runner import VM
from tbsys import repo, wait_for

NAME = "trustbridge-vm"  # of a machine with a private endpoint
PARAMETERS = {"contractId": "contract-123", "assetId": "my-model-v1", "edcEndpoint": "https://controlplane.invalid", "imageId": "/image",
              "publicEndpoint": False, "apiKeys": f"ci:{'0' * 64},app:{'f' * 64}"}


def custom_data():
    r = subprocess.run(["node", repo / "bicep/validate.js", repo / "bicep/mainTemplate.json", "-", "--print"], input=json.dumps(PARAMETERS),
                       capture_output=True, text=True, check=True)
    machine = next(r for r in json.loads(r.stdout)["resources"] if r["type"] == "Microsoft.Compute/virtualMachines")
    return base64.b64decode(machine["properties"]["osProfile"]["customData"])


@pytest.fixture
def vm(image, tmp_path):
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "user-data").write_bytes(custom_data())
    (seed / "meta-data").write_text(f"instance-id: custom-data\nlocal-hostname: {NAME}\n")
    machine = VM(image, tmp_path / "machine", seed)
    try:
        yield machine.start()
    finally:
        machine.discard()


def https_status(port, cert):
    """/status by TLS, the certificate checked by its name and nothing else trusted; None while nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
            c = http.client.HTTPConnection("127.0.0.1", timeout=30)
            c.sock = ssl.create_default_context(cadata=cert).wrap_socket(s, server_hostname=NAME)
            c.request("GET", "/status")
            return json.loads(c.getresponse().read())
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, http.client.HTTPException):
        return None


def test_first_boot(vm):
    wait_for(lambda: vm.run("test -s /etc/credstore/trustbridge.tls-cert")[0] == 0, 300, "the machine's certificate", every=1)
    cert = vm.get("/etc/credstore/trustbridge.tls-cert").decode()
    status = wait_for(lambda: https_status(vm.port[8000], cert), 300, "the endpoint by TLS", every=1)
    assert (status["ready"], "contract_id" in status, "asset_id" in status) == (False, False, False)  # no key was shown
    status = http_json(vm.url("/status", 8001))[1]
    assert (status["contract_id"], status["asset_id"], status["ready"]) == ("contract-123", "my-model-v1", False)
    assert http_json(vm.url("/health", 8001))[0] == 503  # the load balancer's probe speaks no TLS

    env = vm.get("/etc/trustbridge/trustbridge.env").decode()
    assert env.startswith("# Settings of TrustBridge") and env.endswith("TB_API_KEYS=/run/credentials/tb-proxy.service/api-keys\n")
    assert vm.sh("stat -c '%a %U' /etc/credstore /etc/credstore/trustbridge.*").split() == ["700", "root"] + ["600", "root"] * 4
    assert vm.get("/etc/credstore/trustbridge.api-keys").decode() == f"ci:{'0' * 64}\napp:{'f' * 64}\n"
    assert vm.sh("ls /run/credentials/tb-proxy.service").split() == ["api-keys", "tls-cert", "tls-key"]
    wait_for(lambda: "controlplane.invalid" in (http_json(vm.url("/status", 8001))[1]["reason"] or ""), 120,
             "a try to reach the control plane", every=1)
