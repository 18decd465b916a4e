# SPDX-License-Identifier: Apache-2.0
"""A model that tbpkg encrypt --upload seals into a real Azurite behind a fault proxy. Whatever the history, no
two ciphertexts under one key differ in a byte that both have sent, and what is stored can be opened."""

import base64
import collections
import json
import os
import re
import subprocess
import threading

import pytest

import tbsys
from faultproxy import FaultProxy, swallow
from tbpkg_local import open_by_hand

BLOCK, CHUNK = 64 * 1024, 50 * 1024  # records lie across the ends of blocks
PUT_BLOCK = {"method": "PUT", "args": {"comp": "block"}}
COMMIT = {"method": "PUT", "args": {"comp": "blocklist"}}
MANIFEST = {"method": "PUT", "path": "manifest.json$"}


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    a = tbsys.Azurite(tmp_path_factory.mktemp("azurite")).start()
    a.create_container("models")
    yield a
    a.stop()


_count = 0


class Place:
    def __init__(self, azurite, proxy, directory, size=700_000):
        global _count
        _count += 1
        self.azurite, self.proxy, self.dir, self.asset = azurite, proxy, directory, f"stream-{_count}"
        self.model, self.keys, self.manifest = directory / "model", directory / "keys", directory / "m.manifest.json"
        self.journal = directory / "m.manifest.json.upload"
        self.model.mkdir()
        self.keys.mkdir()
        for name, n in (("a.bin", size // 3), ("b.bin", size - size // 3), ("config.json", 2)):
            (self.model / name).write_bytes(bytes(n))  # of zeros: two ciphertexts under one key would be alike in most bytes

    def argv(self, *more, key_out=None):
        return [tbsys.program("tbpkg"), *map(str, (
            "encrypt", "--upload", "-a", self.asset, "-s", self.azurite.account, "--endpoint",
            f"{self.proxy.url}/{self.azurite.account}", "-k", key_out or f"{self.keys}/", "-m", self.manifest, "--block-bytes", "64K",
            "-c", CHUNK, "--concurrency", 3, "--retries", 1, *more, self.model))]

    def env(self):
        return {"PATH": os.environ["PATH"], "AZURE_STORAGE_KEY": self.azurite.key, "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
                **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def run(self, *more, rc=0, **kw):
        r = subprocess.run(self.argv(*more, **kw), env=self.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert rc is None or r.returncode == rc, (r.returncode, r.stderr)
        assert "Sanitizer" not in r.stderr
        return r

    def report(self, *more, **kw):
        return json.loads(self.run("--json", *more, **kw).stdout)

    def killed(self, n, criteria, action=None, more=(), and_until=lambda: True):
        """Runs until the n-th such request has arrived, which is not answered; or to the end, when there are fewer. Requests are sent side by side,
        and whose is the first to arrive is not said."""
        gate = threading.Event()
        self.proxy.rule(action or swallow(), nth=range(n, 10000), **criteria)
        before = self.proxy.count(**criteria)
        p = subprocess.Popen(self.argv("-q", *more), env=self.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        arrived = lambda: self.proxy.count(**criteria) >= before + n and and_until()  # noqa: E731
        tbsys.wait_for(lambda: p.poll() is not None or arrived(), 30, "the request", every=0.001)
        p.kill()
        gate.set()
        self.proxy.clear_rules()
        return p.wait()

    def blob(self, name="model.tbenc", aside=None):
        return self.azurite.get_blob(f"models/{self.asset}/{aside}/{name}" if aside else f"models/{self.asset}/{name}")

    def key_files(self):
        return {f.name.rsplit("-", 1)[1].removesuffix(".key"): bytes.fromhex(f.read_text()) for f in self.keys.glob("*.key")}

    def plain(self):
        return b"".join(f.read_bytes() for f in sorted(self.model.iterdir()))

    def flip(self, name, offset, keep_time=True):
        """Another byte, and nothing that stat(2) tells."""
        path = self.model / name
        st, data = path.stat(), bytearray(path.read_bytes())
        data[offset % len(data)] ^= 1
        path.write_bytes(data)
        if keep_time:
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def check_stored(self, model=True):
        """What is stored opens with a key that is still there, and is the model. Where another one has the first place it is aside."""
        manifest = json.loads(self.manifest.read_text())
        aside = manifest["key_id"] if self.blob(aside=manifest["key_id"]) else None
        data = self.blob(aside=aside)
        assert self.manifest.read_bytes() == self.blob("model.manifest.json", aside=aside)
        plain = open_by_hand(data, manifest, self.key_files()[manifest["key_id"]])
        assert not model or plain == self.plain()
        return manifest["key_id"]

    def check_sent(self):
        """Of all that ever left, by key and block: each byte has one value. And blocks of different keys have nothing in common:
        an id that says it is of another key when it is not would show."""
        bodies = collections.defaultdict(lambda: collections.defaultdict(list))
        for rq in self.proxy.select(**PUT_BLOCK):
            index, session = re.fullmatch(r"tb2-(\d{5})-([0-9a-f]{9})-.{22}", base64.b64decode(rq.args["blockid"]).decode()).groups()
            bodies[int(index)][session].append(rq.body)
        for index, sessions in bodies.items():
            longest = []
            for session, sent in sessions.items():
                longest.append(max(sent, key=len))
                assert all(longest[-1].startswith(b) for b in sent), (index, session)
            for i, a in enumerate(longest):
                for b in longest[:i]:
                    n = min(len(a), len(b))
                    same = sum(x == y for x, y in zip(a[64:n], b[64:n]))
                    assert n < 4096 or same < n / 20, (index, same, n)
        return bodies


@pytest.fixture
def place(azurite, tmp_path):
    with FaultProxy(azurite.endpoint, keep_bodies=True) as p:
        yield Place(azurite, p, tmp_path)


N_BLOCKS = -(-700_100 // BLOCK)
