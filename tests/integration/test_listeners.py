# SPDX-License-Identifier: Apache-2.0
"""Inherited listeners count by name: one that is meant for another purpose is never served as ours."""

import http.client
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant/lib"))
from tbsys import Daemon, NetNamespace, free_port, program, tcp_listener, unix_listener  # noqa: E402


def settings(tmp, **more):
    return {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://localhost:1", "TB_RUN_DIR": tmp / "run",
            "TB_STATE_DIR": tmp / "state", "TB_TARGET_DIR": tmp, **more}


@pytest.mark.parametrize("name, sock, kind", [("tb-authorize", "tb-keys.sock", "stream"),
                                              ("tb-decrypt", "tb-decrypt.sock", "seqpacket")])
def test_a_listener_of_another_name_is_refused(tmp_path, name, sock, kind):
    (tmp_path / "run").mkdir()
    with unix_listener(tmp_path / "run" / sock, kind) as s:
        inode = os.stat(tmp_path / "run" / sock).st_ino
        d = Daemon([program(name)], env=settings(tmp_path), listen={"other": s}, log=tmp_path / "log").start()
        assert d.wait(15) == 78
        assert "FileDescriptorName=" in d.log_text()
        assert os.stat(tmp_path / "run" / sock).st_ino == inode, "the manager's socket was replaced"


def test_proxy_binds_the_port_it_did_not_inherit(tmp_path):
    port = free_port()
    with tcp_listener() as health:
        d = Daemon([program("tb-proxy")], env=settings(tmp_path, TB_PUBLIC_ADDR=f"127.0.0.1:{port}"),
                   listen={"health": health}, log=tmp_path / "log").start()
        d.wait_notify("READY", "1")
        for where, want in ((port, 503), (health.getsockname()[1], 404)):
            c = http.client.HTTPConnection("127.0.0.1", where, timeout=10)
            c.request("GET", "/v1/x")
            assert c.getresponse().status == want
            c.close()
        assert d.stop() == 0


def test_proxy_does_not_serve_where_nobody_comes(tmp_path):
    """In the network namespace of its unit a listener of its own would be deaf, and keep systemd from starting the real one."""
    with tcp_listener() as health:
        d = Daemon(["unshare", "-n", program("tb-proxy")], env={**settings(tmp_path), "PATH": "/usr/bin:/bin"},
                   listen={"health": health}, log=tmp_path / "log").start()
        assert d.wait(15) == 75
        assert "systemctl start tb-proxy.socket" in d.log_text()


def test_proxy_serves_inherited_listeners_of_two_networks(tmp_path):
    """Whoever passes both knows what they are for."""
    net = NetNamespace()
    with tcp_listener() as health, net.run(tcp_listener) as public:
        d = Daemon([program("tb-proxy")], env=settings(tmp_path), listen={"health": health, "http": public}, log=tmp_path / "log").start()
        d.wait_notify("READY", "1")
        assert d.stop() == 0
    net.close()


def test_a_single_listener_without_a_name_is_the_public_one(tmp_path):
    port = free_port()
    with tcp_listener() as public:
        d = Daemon([program("tb-proxy")], env=settings(tmp_path, TB_HEALTH_ADDR=f"127.0.0.1:{port}"),
                   listen={"unknown": public}, log=tmp_path / "log").start()  # the manager's word for "no name"
        d.wait_notify("READY", "1")
        for where, want in ((public.getsockname()[1], 503), (port, 404)):
            c = http.client.HTTPConnection("127.0.0.1", where, timeout=10)
            c.request("GET", "/v1/x")
            assert c.getresponse().status == want
            c.close()
        assert d.stop() == 0
