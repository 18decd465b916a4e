# SPDX-License-Identifier: Apache-2.0
"""debian/tests/smoke, the packages' own test, in a virtual machine made of these packages. TB_VM_SUITE names another Debian."""

import functools
import http.server
import os
import threading

import build
import debs
import pytest
from runner import HOST, VM

SUITE = os.environ.get("TB_VM_SUITE", "bookworm")


@pytest.fixture
def packages():
    """The .debs by HTTP, as the machine reaches them."""
    directory = debs.build(SUITE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = [p.name for n in ("libtbenc1", "tbpkg", "trustbridge") for p in directory.glob(f"{n}_*.deb")]
    yield [f"http://{HOST}:{server.server_port}/{n}" for n in names]
    server.shutdown()


def test_smoke(packages, tmp_path):
    vm = VM(build.build(SUITE, "debs"), tmp_path / "vm", forward=(), append="cloud-init=disabled")  # it is told by the test itself
    try:
        vm.start()
        vm.put("/root/smoke", (debs.REPO / "debian/tests/smoke").read_bytes(), "0755")
        fetch = "".join(f" -O {url}" for url in packages)
        vm.sh(f"mkdir /root/debs && cd /root/debs && curl -fsS --retry 20 --retry-all-errors {fetch} && dpkg -i libtbenc1_* tbpkg_*", 300)
        rc, out = vm.run("/root/smoke /root/debs", 1500)
        assert rc == 0, f"{out}\n{vm.report()}"
        assert out.count("ok: ") >= 8, out
        print(out)
    finally:
        vm.discard()
