# SPDX-License-Identifier: Apache-2.0
"""The endpoint of TB_DELIVERY=s3 read by clients as people have them, s3cmd and rclone; by one that says no more once it has asked; and names
of files that XML can hardly carry."""

import hashlib
import json
import socket
import subprocess
import urllib.parse
import xml.etree.ElementTree as ET

import pytest

from delivery_asset import Asset
from delivery_rig import FILES, rig  # noqa: F401 (a fixture)
from endpoint_place import MIB, NS, Place, model_of

ODD = {p: p.encode() for p in ("a b", "a+b", "a%2Fb", "a&b<c>\"'", "d/ü/ø", "d/€", "d/~!$(),;=@")}
# U+FFFE and U+FFFF are in no XML 1.0, whichever way they are written; U+1FFFE is.
UNFIT = {"p/\ufffe": b"1", "p/q\uffff/x": b"2", "p/\U0001fffe": b"3", "plain": b"4"}


@pytest.fixture
def place_of(rig):  # noqa: F811
    places = []

    def make(files, **kw):
        places.append(Place(rig, (files if isinstance(files, Asset) else Asset(files, chunk_bytes=4096)).write(rig.target), **kw))
        return places[-1]
    yield make
    for p in places:
        p.end()


def tree_of(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# -- s3cmd -----------------------------------------------------------------------------------------------------
def s3cmd(place, *argv, rc=0):
    config = place.rig.tmp / "s3cfg"
    config.write_text(f"[default]\naccess_key = {place.env['AWS_ACCESS_KEY_ID']}\nsecret_key = {place.env['AWS_SECRET_ACCESS_KEY']}\n"
                      f"host_base = {place.host}:{place.port}\nhost_bucket = {place.host}:{place.port}\nuse_https = False\n"
                      f"bucket_location = {place.env['AWS_REGION']}\n")
    r = subprocess.run(["s3cmd", "-c", config, "--no-progress", *argv], capture_output=True, text=True, timeout=120,
                       env={"PATH": "/usr/bin:/bin", "HOME": str(place.rig.tmp), "LC_ALL": "C.UTF-8"})
    assert r.returncode == rc, r.stdout + r.stderr
    return r.stdout + r.stderr


@pytest.mark.parametrize("files", [FILES, ODD], ids=["plain", "odd"])
def test_s3cmd_lists_and_fetches_a_directory(place_of, tmp_path, files):
    place = place_of(files)
    listed = s3cmd(place, "ls", "--recursive", place.address).splitlines()
    assert {line.split(f"{place.address}", 1)[1]: int(line.split()[2]) for line in listed} == {k: len(v) for k, v in files.items()}
    to = tmp_path / "got"
    to.mkdir()
    s3cmd(place, "sync", place.address, f"{to}/")
    assert tree_of(to) == files
    assert "WARNING" not in s3cmd(place, "sync", place.address, f"{to}/")
    assert "DIR" in s3cmd(place, "ls", place.address)
    assert "Location:" in s3cmd(place, "info", f"s3://{place.bucket}")


def test_s3cmd_fetches_a_file_goes_on_with_it_and_is_told_no(place_of, tmp_path):
    place = place_of(model_of(5 * MIB + 77))
    to = tmp_path / "model"
    s3cmd(place, "get", place.address, to)
    assert to.read_bytes() == place.asset.plain
    with open(to, "r+b") as f:
        f.truncate(3 * MIB + 1)
    s3cmd(place, "get", "--continue", place.address, to)
    assert to.read_bytes() == place.asset.plain
    assert str(len(place.asset.plain)) in s3cmd(place, "info", place.address)
    assert "does not exist" in s3cmd(place, "get", place.address + "x", tmp_path / "other", rc=64)
    assert "Access Denied" in s3cmd(place, "ls", f"s3://{'0' * 32}/", rc=77)
    assert "The model can only be read" in s3cmd(place, "put", to, f"s3://{place.bucket}/new", rc=11)
    assert place.object()[2] == place.asset.plain


# -- rclone ----------------------------------------------------------------------------------------------------
def rclone(place, *argv, rc=0, **options):
    env = {"PATH": "/usr/bin:/bin", "HOME": str(place.rig.tmp), "RCLONE_CONFIG": str(place.rig.tmp / "rclone.conf"), "RCLONE_CONFIG_TB_TYPE": "s3",
           "RCLONE_CONFIG_TB_PROVIDER": "Other", "RCLONE_CONFIG_TB_ENDPOINT": place.url, "RCLONE_CONFIG_TB_ENV_AUTH": "true",
           **{k: v for k, v in place.env.items() if k.startswith("AWS_")}, **{f"RCLONE_CONFIG_TB_{k}": v for k, v in options.items()}}
    r = subprocess.run(["rclone", "--retries=1", "--low-level-retries=1", *argv], capture_output=True, timeout=120, env=env)
    assert r.returncode in (rc if isinstance(rc, tuple) else (rc,)), r.stderr.decode()
    return r.stdout if rc == 0 else r.stderr.decode()


@pytest.mark.parametrize("files", [FILES, ODD], ids=["plain", "odd"])
def test_rclone_lists_and_copies_a_directory(place_of, tmp_path, files):
    place = place_of(files)
    listed = json.loads(rclone(place, "lsjson", "--recursive", "--files-only", f"tb:{place.bucket}"))
    assert {o["Path"]: o["Size"] for o in listed} == {k: len(v) for k, v in files.items()}
    to = tmp_path / "got"
    rclone(place, "copy", f"tb:{place.bucket}", to)
    assert tree_of(to) == files
    rclone(place, "check", "--download", f"tb:{place.bucket}", to)


def test_rclone_copies_a_large_file_by_many_streams_and_reads_a_piece(place_of, tmp_path):
    place = place_of(model_of(33 * MIB + 17))
    rclone(place, "copyto", "--multi-thread-cutoff=1M", "--multi-thread-streams=4", f"tb:{place.bucket}/model", tmp_path / "model")
    assert hashlib.sha256((tmp_path / "model").read_bytes()).digest() == hashlib.sha256(place.asset.plain).digest()
    assert rclone(place, "cat", "--offset=1048570", "--count=20", f"tb:{place.bucket}/model") == place.asset.plain[1048570:1048590]
    assert "AccessDenied" in rclone(place, "lsf", f"tb:{'0' * 32}", rc=(1, 3))  # it counts one error or two
    assert "MethodNotAllowed" in rclone(place, "copyto", tmp_path / "model", f"tb:{place.bucket}/new", rc=1)


# -- who says no more ------------------------------------------------------------------------------------------
def half_closed(place, data):
    """All that comes for these bytes of a client that shuts its side down behind them."""
    with socket.create_connection((place.host, place.port), timeout=60) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while d := s.recv(1 << 20):
            got += d
        return got


def request(place, key=None, more="", method="GET"):
    return f"{method} /{place.bucket}/{place.key if key is None else key} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def test_who_says_no_more_is_answered(place_of):
    """At once, and where the answer is long; one request or several; what it left half said is no request."""
    place = place_of(model_of(24 * MIB + 5))
    plain = place.asset.plain
    assert half_closed(place, request(place)).split(b"\r\n\r\n", 1)[1] == plain
    two = half_closed(place, request(place, more="Range: bytes=0-9\r\n") + request(place, more=f"Range: bytes={20 * MIB}-\r\n"))
    first, second = two.split(b"HTTP/1.1 206 Partial Content\r\n")[1:]
    assert first.split(b"\r\n\r\n", 1)[1] == plain[:10] and second.split(b"\r\n\r\n", 1)[1] == plain[20 * MIB:]
    assert half_closed(place, request(place, more="Range: bytes=5-5\r\n") + request(place)[:-2]).split(b"\r\n\r\n", 1)[1] == plain[5:6]
    assert half_closed(place, request(place, "nothing")).startswith(b"HTTP/1.1 404 ")
    assert half_closed(place, b"GET / nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert half_closed(place, b"") == b"" == half_closed(place, request(place)[:20])


# -- what XML can carry ----------------------------------------------------------------------------------------
def test_names_that_xml_cannot_carry_are_listed_encoded_and_never_as_broken_xml(place_of):
    place = place_of(UNFIT)
    names = sorted(UNFIT, key=str.encode)
    _, keys, _ = place.list(**{"list-type": 2, "encoding-type": "url"})
    assert [urllib.parse.unquote(k) for k in keys] == names
    _, keys, prefixes = place.list(**{"list-type": 2, "encoding-type": "url", "delimiter": "/", "prefix": "p/"})
    assert [urllib.parse.unquote(k) for k in keys + prefixes] == ["p/\ufffe", "p/\U0001fffe", "p/q\uffff/"]
    for args in ({"list-type": 2}, {"list-type": 2, "prefix": "p/"}, {"prefix": "p/q", "delimiter": "/x"}, {"list-type": 2, "start-after": "o\ufffe"},
                 {"prefix": "\ufffe"}, {"list-type": 2, "delimiter": "\uffff"}, {"marker": "\uffff"}):
        status, _, body = place.ask(f"/{place.bucket}?{urllib.parse.urlencode(args)}")
        assert status == 400, args
        root = ET.fromstring(body)
        assert root.find("Code").text == "InvalidArgument" and "encoding-type=url" in root.find("Message").text
    for args in ({"list-type": 2, "delimiter": "/"}, {"list-type": 2, "prefix": "plain"}):
        assert place.list(**args)[1] == ["plain"], args
    seen, token = [], {}
    while True:
        root, keys, _ = place.list(**{"list-type": 2, "encoding-type": "url", "max-keys": 1, **token})
        seen += map(urllib.parse.unquote, keys)
        if root.find(f"{NS}IsTruncated").text == "false":
            break
        token = {"continuation-token": root.find(f"{NS}NextContinuationToken").text}
    assert seen == names
    for name, data in UNFIT.items():
        assert place.object(name)[2] == data
    page = place.client().get_paginator("list_objects_v2").paginate(Bucket=place.bucket, PaginationConfig={"PageSize": 2})
    assert [o["Key"] for p in page for o in p["Contents"]] == names
    assert "ask with encoding-type=url" in rclone(place, "copy", f"tb:{place.bucket}", place.rig.tmp / "got", rc=1)
    rclone(place, "copy", f"tb:{place.bucket}", place.rig.tmp / "got", LIST_URL_ENCODE="true")
    assert tree_of(place.rig.tmp / "got") == UNFIT
