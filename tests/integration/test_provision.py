# SPDX-License-Identifier: Apache-2.0
"""tb-provision: what the deployment of a closed image may say, from instance metadata and from a disk, and everything that it may not."""

import base64
import http.server
import json
import os
import re
import stat
import subprocess
import threading

import pytest

from tbsys import program, repo

IMAGE = """# the image's own
TB_RUNTIME_EXEC='llama-server -m {model}'
TB_EDC_ENDPOINT=https://cp.example
TB_ROUTES=/v1/*
TB_PUBLIC_ADDR=0.0.0.0:8000
"""
GOOD = {"trustbridge": 1, "settings": {"TB_CONTRACT_ID": "acme-1", "TB_ASSET_ID": "my-model", "TB_PUBLIC_ADDR": "0.0.0.0:443"},
        "credentials": {"enrolment-code": "tbe-0123", "tls-cert": "-----BEGIN CERTIFICATE-----\nx\n", "tls-key": "KEY-S3CRET\n", "api-keys": "a:b\n"}}
GOAL = ("<?xml version='1.0'?><GoalState><Version>2012-11-30</Version><Incarnation>7</Incarnation><Machine><ExpectedState>Started</ExpectedState></Machine>"
        "<Container><ContainerId>c-1</ContainerId><RoleInstanceList><RoleInstance><InstanceId>i-2._vm</InstanceId></RoleInstance></RoleInstanceList>"
        "</Container></GoalState>")


class Azure:
    """Metadata service and wire server of one machine."""

    def __init__(self, document):
        self.user_data = base64.b64encode(document if isinstance(document, bytes) else json.dumps(document).encode())
        self.goal, self.status, self.reports, self.asked = GOAL, 200, [], []
        azure = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                azure.asked.append((self.path, self.headers.get("Metadata"), self.headers.get("x-ms-version")))
                self.answer(azure.status, azure.goal.encode() if "goalstate" in self.path else azure.user_data)

            def do_POST(self):
                azure.reports.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
                self.answer(200, b"")

            def log_message(self, *args):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Place:
    def __init__(self, directory, azure=None, image=IMAGE):
        self.dir, self.azure = directory, azure
        self.image, self.env, self.store, self.media = (directory / n for n in ("image.env", "trustbridge.env", "store", "disk"))
        self.store.mkdir()
        self.image.write_text(image + (f"TB_IMDS_ENDPOINT={azure.url}\n" if azure else ""))

    def run(self, *args, rc=0):
        p = subprocess.run([program("tb-provision"), f"--image={self.image}", f"--media={self.media}", f"--settings={self.env}", f"--credentials={self.store}",
                            f"--wire-server={self.azure.url if self.azure else 'http://127.0.0.1:1'}", *args], capture_output=True, text=True, timeout=60)
        assert p.returncode == rc and "S3CRET" not in p.stderr, (p.returncode, p.stderr)
        return p.stderr

    def nothing_is_written(self):
        return not self.env.exists() and not list(self.store.iterdir()) and not (self.dir / "provisioned-credentials").exists()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(document, **kw):
        started.append(Azure(document))
        return Place(tmp_path, started[-1], **kw)
    yield start
    for a in started:
        a.stop()


def settings(path):
    """As systemd reads the file, says the product's own reader of it: the last line of a name counts."""
    out = {}
    for line in path.read_text().splitlines():
        m = re.fullmatch(r"(TB_\w+)=(?:'(.*)'|(.*))", line)
        if m:
            out[m[1]] = m[2] if m[2] is not None else m[3]
    return out


def check(place):
    s = settings(place.env)
    assert s["TB_RUNTIME_EXEC"] == "llama-server -m {model}" and s["TB_EDC_ENDPOINT"] == "https://cp.example" and s["TB_ROUTES"] == "/v1/*"
    assert s["TB_CONTRACT_ID"] == "acme-1" and s["TB_PUBLIC_ADDR"] == "0.0.0.0:443" and s["TB_TLS_KEY"] == "/run/credentials/tb-proxy.service/tls-key"
    assert stat.S_IMODE(place.env.stat().st_mode) == 0o640 and "S3CRET" not in place.env.read_text()
    files = {p.name: p for p in place.store.iterdir()}
    assert set(files) == {f"trustbridge.{n}" for n in GOOD["credentials"]} and files["trustbridge.tls-key"].read_text() == "KEY-S3CRET\n"
    assert {stat.S_IMODE(p.stat().st_mode) for p in files.values()} == {0o600}


def test_user_data(start):
    place = start(GOOD)
    place.run()
    check(place)
    assert place.azure.asked == [("/metadata/instance/compute/userData?api-version=2021-01-01&format=text", "true", None)] and not place.azure.reports


def test_a_disk(tmp_path):
    place = Place(tmp_path)
    place.media.write_bytes(json.dumps(GOOD).encode().ljust(1 << 20, b"\0"))
    place.run()
    check(place)
    place.run("--ready")  # nobody is to be told


def stored(place):
    return {p.name.removeprefix("trustbridge.") for p in place.store.iterdir()}


def test_what_a_later_document_no_longer_has_goes(start):
    place = start(GOOD)
    (place.store / "trustbridge.client-cert").write_text("the image's own\n")
    (place.store / "other").write_text("somebody else's\n")
    place.run()
    images = {"client-cert", "other"}
    assert stored(place) == set(GOOD["credentials"]) | images
    later = {**GOOD, "credentials": {"api-keys": "c:d\n", "client-key": "KEY-S3CRET\n"}}
    place.azure.user_data = base64.b64encode(json.dumps(later).encode())
    place.run()
    assert stored(place) == {"api-keys", "client-key"} | images and (place.store / "trustbridge.api-keys").read_text() == "c:d\n"
    assert "TB_TLS_CERT" not in settings(place.env) and "TB_API_KEYS" in settings(place.env)
    # One that is refused changes nothing; one without any takes all that came this way.
    place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1, "settings": {"TB_ROUTES": "/*"}}).encode())
    place.run(rc=77)
    assert stored(place) == {"api-keys", "client-key"} | images
    place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1}).encode())
    place.run()
    assert stored(place) == images and "TB_API_KEYS" not in settings(place.env)


def test_the_images_own_credential_comes_back(start):
    """A document may take its place, and the next one gives it back: what the deployment did not write it cannot remove."""
    place = start(GOOD)
    own = place.store / "trustbridge.api-keys"
    own.write_text("image:key\n")
    place.run()
    place.run()
    assert own.read_text() == GOOD["credentials"]["api-keys"]
    place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1}).encode())
    place.run()
    assert own.read_text() == "image:key\n" and stored(place) == {"api-keys"}
    # Stopped when it was back and the list still had it.
    place.azure.user_data = base64.b64encode(json.dumps(GOOD).encode())
    place.run()
    (place.store / "trustbridge.api-keys").unlink()
    os.link(place.store / "trustbridge.api-keys.image", own)
    place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1}).encode())
    place.run()
    assert own.read_text() == "image:key\n" and stored(place) == {"api-keys"}
    place.run()
    assert own.read_text() == "image:key\n" and stored(place) == {"api-keys"}


def test_what_was_cut_short_is_finished(start):
    """Stopped where the settings cannot be written: the credentials are there, and are known to be the deployment's."""
    place = start(GOOD)
    place.env.mkdir()
    assert str(place.env) in place.run(rc=74)
    assert stored(place) == set(GOOD["credentials"])
    place.env.rmdir()
    place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1}).encode())
    place.run()
    assert stored(place) == set()
    # Removed, and the list not yet written: what is not there is gone already.
    (place.dir / "provisioned-credentials").write_text("# by tb-provision\ntls-key\n../../evil\nof a later version\n")
    place.run()
    assert (place.dir / "provisioned-credentials").read_text().splitlines()[1:] == []


def test_a_credential_that_cannot_be_removed(start):
    place = start({"trustbridge": 1})
    place.run()
    (place.dir / "provisioned-credentials").write_text("tls-key\n")
    (place.store / "trustbridge.tls-key").mkdir()
    assert "trustbridge.tls-key" in place.run(rc=74)
    (place.store / "trustbridge.tls-key").rmdir()
    place.run()


def test_ready(start):
    place = start(GOOD)
    place.run("--ready")
    assert place.azure.asked == [("/machine/?comp=goalstate", None, "2012-11-30")] and place.nothing_is_written()
    (path, body), = place.azure.reports
    assert path == "/machine/?comp=health" and "<State>Ready</State>" in body and "<GoalStateIncarnation>7<" in body
    assert "<ContainerId>c-1<" in body and "<InstanceId>i-2._vm<" in body


@pytest.mark.parametrize("goal", ["", "<GoalState/>", GOAL.replace("c-1", "c&1"), GOAL.replace("c-1", "c" * 200), GOAL[:GOAL.index("</InstanceId>")],
                                  GOAL.replace("<Incarnation>7", "<Incarnation>")])
def test_a_goal_state_that_is_none(start, goal):
    place = start(GOOD)
    place.azure.goal = goal
    assert "goal state" in place.run("--ready", rc=75) and not place.azure.reports


FORBIDDEN = ["TB_RUNTIME_EXEC", "TB_ROUTES", "TB_DELIVERY", "TB_MODEL_DIR", "TB_RUN_DIR", "TB_EDC_ENDPOINT", "TB_CA_FILE", "TB_LEASE_GRACE", "TB_PROVIDER_KEY", "TB_TPM",
             "TB_RUNTIME_URL", "TB_RUNTIME_ENGINE", "TB_IMDS_ENDPOINT", "TB_METERING_ENDPOINT", "TB_TLS_KEY", "TB_API_KEYS", "TB_AUDIT_FILE", "TB_INSECURE_HTTP", "TB_TARGET_DIR",
             "LD_PRELOAD", "tb_contract_id", "TB_CONTRACT_ID ", "TB_CONTRACT_ID=x\nTB_RUNTIME_EXEC", ""]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_the_image_decides(start, name):
    place = start({**GOOD, "settings": {**GOOD["settings"], name: "sh -c 'cat {model}'"}})
    said = place.run(rc=77)
    assert "comes from the image" in said and "cat {model}" not in said and place.nothing_is_written()
    assert said.count("\n") == 1, "a name of theirs makes no line of its own in the journal"
    (_, body), = place.azure.reports
    assert "<State>NotReady</State>" in body and "ProvisioningFailed" in body and "comes from the image" in body


def table():
    """Settings of docs/closed-image.md and who says each."""
    text = (repo / "docs/closed-image.md").read_text()
    rows = re.findall(r"^\| (`TB_[^|]*) \| ([^|]*) \| ([^|]+) \|$", text[text.index("## What the deployment may say"):text.index("## What else there is")], re.M)
    return {name: who.split(",")[0] for names, who, why in rows for name in re.findall(r"TB_\w+", names)}


def test_each_setting_is_said_by_whom_the_page_says(start):
    """All of docs/configuration.md, one by one."""
    rows, place = table(), start(GOOD)
    names = {n for cell in re.findall(r"^\| (`TB_[^|]*) \|", (repo / "docs/configuration.md").read_text(), re.M) for n in re.findall(r"TB_\w+", cell)}
    assert set(rows) == names and set(rows.values()) == {"the deployment", "the image"}
    assert {n for n, who in rows.items() if who == "the deployment"} == {"TB_CONTRACT_ID", "TB_ASSET_ID", "TB_PUBLIC_ADDR", "TB_HEALTH_ADDR", "TB_LOG_LEVEL",
                                                                         "TB_BILLING_RESOURCE_ID"}
    for name, who in rows.items():
        place.azure.user_data = base64.b64encode(json.dumps({"trustbridge": 1, "settings": {name: "x"}}).encode())
        if who == "the deployment":
            place.run()
            assert settings(place.env)[name] == "x"
            place.env.unlink()
        else:
            assert f'"{name}" is not for instance metadata to say: it comes from the image' in place.run(rc=77) and not place.env.exists()


APPLICATION = f"/subscriptions/{'0' * 8}-0000-0000-0000-{'0' * 12}/resourceGroups/theirs/providers/Microsoft.Solutions/applications/another"


@pytest.mark.parametrize("billing", ["true", "TRUE", "1", "'yes'", "on", "maybe", "false\nTB_BILLING_ENABLED=true"])
def test_usage_goes_where_the_image_says(start, billing):
    """Where it bills by itself, nobody names another application, by whatever word the image says so."""
    place = start({**GOOD, "settings": {**GOOD["settings"], "TB_BILLING_RESOURCE_ID": APPLICATION}}, image=IMAGE + f"TB_BILLING_ENABLED={billing}\nTB_BILLING_PLAN_ID=gold\n")
    said = place.run(rc=77)
    assert '"TB_BILLING_RESOURCE_ID" is not for instance metadata to say where the image bills by itself' in said and "leave it out" in said and place.nothing_is_written()
    assert "theirs" not in said and "NotReady" in place.azure.reports[0][1]
    place.azure.user_data = base64.b64encode(json.dumps(GOOD).encode())
    place.run()
    assert settings(place.env)["TB_BILLING_PLAN_ID"] == "gold"


@pytest.mark.parametrize("image", ["", "TB_BILLING_ENABLED=\n", "TB_BILLING_ENABLED=false\n", "TB_BILLING_ENABLED='No'\n", "TB_BILLING_ENABLED=true\nTB_BILLING_ENABLED=0\n"])
def test_the_contract_of_a_purchase(start, image):
    place = start({"trustbridge": 1, "settings": {"TB_CONTRACT_ID": "application", "TB_BILLING_RESOURCE_ID": APPLICATION}}, image=IMAGE + image)
    place.run()
    assert settings(place.env)["TB_BILLING_RESOURCE_ID"] == APPLICATION


@pytest.mark.parametrize("name", ["model-key", "../x", "tls-key/../../etc/x", "", "trustbridge.tls-key", "product-uuid"])
def test_credentials_that_are_none(start, name):
    place = start({**GOOD, "credentials": {name: "x"}})
    assert "no credential" in place.run(rc=77) and place.nothing_is_written()


@pytest.mark.parametrize("value", ["a\nTB_RUNTIME_EXEC=sh", "a'\nTB_ROUTES=/*", "a'", "a\\", "\x1b[1m", "\u00e9", "x" * 1025, 3, None, ["a"], {"a": 1}, True])
def test_values_that_would_be_more_than_a_value(start, value):
    place = start({**GOOD, "settings": {"TB_CONTRACT_ID": value}})
    assert "TB_CONTRACT_ID is not a string" in place.run(rc=78) and place.nothing_is_written()


@pytest.mark.parametrize("value", ["", "a\0b", "\x7f", "x" * 32769, 3, None])
def test_credentials_that_are_no_text(start, value):
    place = start({**GOOD, "credentials": {"tls-key": value}})
    place.run(rc=78)
    assert place.nothing_is_written()


@pytest.mark.parametrize("document", [
    b"", b"{", b"[]", b"#cloud-config\nruncmd: [id]", b"#!/bin/sh\nid", b"{}", b'{"trustbridge":2}', b'{"trustbridge":"1"}', b'{"trustbridge":1,"x":1}',
    b'{"trustbridge":1,"settings":[]}', b'{"trustbridge":1,"credentials":"x"}', b'{"trustbridge":1,"settings":{"TB_ASSET_ID":"a","TB_ASSET_ID":"b"}}',
    b'{"trustbridge":1} x', b'{"trustbridge":1,"settings":' + b"[" * 100, b'{"trustbridge":1,"x":"' + b"y" * 70000 + b'"}'])
def test_documents_that_are_none(start, document):
    place = start(document)
    place.run(rc=78)
    assert place.nothing_is_written() and len(place.azure.reports) == 1


def test_user_data_that_is_not_base64(start):
    place = start(GOOD)
    place.azure.user_data = b"{}"
    assert "not base64" in place.run(rc=78)


@pytest.mark.parametrize("status", [404, 410, 429, 500])
def test_metadata_that_is_late(start, status):
    place = start(GOOD)
    place.azure.status = status
    assert f"status {status}" in place.run(rc=75) and place.nothing_is_written()


def test_nobody_answers(tmp_path):
    place = Place(tmp_path, image=IMAGE + "TB_IMDS_ENDPOINT=http://127.0.0.1:1\n")
    assert "does not answer" in place.run(rc=75)
    assert "cannot be told" in place.run("--ready", rc=75)


def test_an_image_that_is_not_closed(tmp_path):
    place = Place(tmp_path)
    place.image.unlink()
    assert "image.env" in place.run(rc=66)


@pytest.mark.parametrize("end", ["TB_X='open", 'TB_X="open', "no setting\n", "TB_X=a\0b\n"])
def test_an_images_file_that_would_swallow_what_follows(start, end):
    place = start(GOOD, image=IMAGE)
    place.image.write_text(place.image.read_text() + end)
    assert "quote that stays open" in place.run(rc=78) and not place.env.exists()


def test_where_nothing_can_be_written(start):
    place = start(GOOD)
    place.store.rmdir()
    assert "trustbridge." in place.run(rc=74) and not place.env.exists()
