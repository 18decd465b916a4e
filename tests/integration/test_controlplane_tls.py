# SPDX-License-Identifier: Apache-2.0
"""TLS of the control plane: a session that is resumed brings the certificate of the client, and no more rights than it has now."""

import json
import socket
import ssl

import pytest

from controlplane_server import ASSET, Server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_is_judged_like_a_new_one(tmp_path, version):
    """By the client's certificate, which comes with the session: each request anew, so what was taken away is gone."""
    with Server(tmp_path / "data") as s:
        s.register()
        cert = s.cli("issue-client", "vm-1").split()
        s.cli("contract", "add", "by-cert", "--asset", ASSET, "--mode", "certificate", "--client-ca", str(s.data / "ca.crt"))
        context = ssl.create_default_context(cafile=str(s.data / "ca.crt"))
        context.load_cert_chain(*cert)
        context.minimum_version = context.maximum_version = version

        def ask(session=None):
            with socket.create_connection(("127.0.0.1", s.port), timeout=20) as tcp, \
                    context.wrap_socket(tcp, server_hostname="localhost", session=session) as tls:
                body = json.dumps({"contract_id": "by-cert", "asset_id": ASSET, "hw_id": "x", "client_version": "t"})
                tls.sendall(f"POST /api/v1/license/authorize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                            f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
                answer = b"".join(iter(lambda: tls.recv(65536), b""))
                return tls.session, tls.session_reused, json.loads(answer.split(b"\r\n\r\n", 1)[1])

        session, reused, body = ask()
        assert not reused and body["status"] == "authorized"
        session, reused, body = ask(session)
        assert reused and body["status"] == "authorized"
        machine = [m["hw_id"] for m in json.loads(s.cli("machine", "list", "--json")) if m["contract_id"] == "by-cert"]
        assert machine == ["vm-1"]
        s.cli("machine", "expel", "by-cert", "--machine", "vm-1")
        _, reused, body = ask(session)
        assert reused and body["reason"] == "machine_expelled"
