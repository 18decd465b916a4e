# SPDX-License-Identifier: Apache-2.0
"""An endpoint of TB_DELIVERY=s3 with a runtime that leaves the reading to the test: what the tests of it share."""

import http.client
import random
import socket
import sys
import urllib.parse
import xml.etree.ElementTree as ET

import boto3
import botocore.config

from delivery_asset import Asset
from delivery_rig import both

MIB = 1 << 20
NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"

# As the runtime: says what it was given, then stays while ARGV[3] exists.
SAYS = r'''
import json, os, pathlib, sys, time
out, stay = sys.argv[2], pathlib.Path(sys.argv[3])
fds = sorted(int(f) for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}"))
pathlib.Path(out + ".tmp").write_text(json.dumps({"address": sys.argv[1], "environ": dict(os.environ), "fds": fds, "pid": os.getpid()}))
os.rename(out + ".tmp", out)
while stay.exists():
    time.sleep(0.02)
sys.exit(7)
'''


def model_of(n, seed=7, **kw):
    rng = random.Random(seed)
    return Asset(b"".join(rng.randbytes(min(MIB, n - at)) for at in range(0, n, MIB)), chunk_bytes=kw.pop("chunk_bytes", MIB), **kw)


class Place:
    """A runtime that stays, and the endpoint it was given, for the test to read from in its place."""

    def __init__(self, rig, asset, decrypt_env=None, mode="s3", **kw):
        self.rig, self.asset = rig, asset
        rig.stay.write_text("")
        self.load = rig.load(mode, f"{sys.executable} {rig.script('says.py', SAYS)} {{s3}} {rig.out} {rig.stay}", **kw)
        self.decrypt = both(rig, asset, self.load, **(decrypt_env or {}))
        self.facts = rig.facts()
        self.env, self.address = self.facts["environ"], self.facts["address"]
        url = urllib.parse.urlsplit(self.env["AWS_ENDPOINT_URL"])
        self.url, self.host, self.port = self.env["AWS_ENDPOINT_URL"], url.hostname, url.port
        self.bucket, self.key = self.address.removeprefix("s3://").split("/", 1)

    def client(self, **config):
        return boto3.client("s3", endpoint_url=self.url, aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
                            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"], region_name=self.env["AWS_DEFAULT_REGION"],
                            config=botocore.config.Config(retries={"max_attempts": 0}, read_timeout=30, **config))

    def ask(self, path, method="GET", conn=None, **headers):
        """(status, headers, body) of one request; path as it goes out."""
        c = conn or http.client.HTTPConnection(self.host, self.port, timeout=30)
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        r = c.getresponse()
        return r.status, r.headers, r.read()

    def object(self, key=None, **kw):
        return self.ask(f"/{self.bucket}/{urllib.parse.quote(self.key if key is None else key)}", **kw)

    def list(self, **args):
        status, _, body = self.ask(f"/{self.bucket}?{urllib.parse.urlencode(args)}")
        assert status == 200, body
        root = ET.fromstring(body)
        return root, [e.text for e in root.iter(f"{NS}Key")], [e.find(f"{NS}Prefix").text for e in root.iter(f"{NS}CommonPrefixes")]

    def raw(self, data, shut=False):
        """All that comes back for these bytes until the other side closes."""
        with socket.create_connection((self.host, self.port), timeout=30) as s:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            got = b""
            try:
                while d := s.recv(65536):
                    got += d
            except ConnectionResetError:
                got += b"<reset>"
            return got

    def end(self):
        self.rig.stay.unlink()
        assert self.load.wait() == 7
        assert self.decrypt.wait() == 0


def half_read(place):
    """A client in the middle of the model."""
    s = socket.create_connection((place.host, place.port), timeout=30)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.sendall(f"GET /{place.bucket}/{place.key} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert s.recv(4096)
    return s


def rest(s):
    """Bytes until the end, and how that came."""
    n = 0
    try:
        while d := s.recv(65536):
            n += len(d)
    except ConnectionResetError:
        return n, "reset"
    return n, "end"
