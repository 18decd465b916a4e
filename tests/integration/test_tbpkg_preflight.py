# SPDX-License-Identifier: Apache-2.0
"""What tbpkg publish looks at before the first byte, and tbpkg doctor the same without a model: every typical mistake is said, all
of them together, each with what, why and what to do; and nothing is changed meanwhile."""

import datetime
import fcntl
import http.server
import json
import os
import re
import struct
import subprocess
import termios
import threading

import pytest

import tbsys
from faultproxy import status
from publish_place import place, provider  # noqa: F401


def checks(doc):
    return {c["check"]: c for c in doc["checks"]}


def doctor(place, *more, rc=0, env=None, asset=True):
    a = place.provider.azurite
    argv = [tbsys.program("tbpkg"), "doctor", "--storage-account", a.account, "--container", place.container, "--endpoint",
            f"{place.blob.url}/{a.account}", "--edc-endpoint", place.plane.url, "--ca-file", place.provider.ca.cert,
            *(["--asset-id", place.asset] if asset else []), *more]
    r = subprocess.run([str(w) for w in argv], env={**place.env(), **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60, check=False)
    assert r.returncode == rc, (r.returncode, r.stdout, r.stderr)
    place.no_secrets(r.stdout + r.stderr)
    return r


def credentials(place):
    return ["--account-key-file", place.key, "--token-file", place.token]


# -- publish -----------------------------------------------------------------------------------------------------------

def test_all_that_is_wrong_is_said_at_once(place):
    place.container = "nosuchcontainer"
    place.token.write_text("not-a-token-0123456789")
    r = place.publish("--set", "vmSize=Huge", "--sas-file", "/nonexistent/sas", rc=1)
    lines = [x for x in r.stderr.splitlines() if x.startswith("tbpkg: ") and "warning" not in x]
    for object_, reason, remedy in (("/nonexistent/sas", "No such file", "check the path"), ("mainTemplate.json", "vmSize", ""),
                                    (place.plane.url, "does not take the token", "tbpkg login")):
        assert any(x.startswith(f"tbpkg: {object_}: ") and reason in x and remedy in x for x in lines), (object_, r.stderr)
    place.container = "nosuchcontainer"
    (place.model / "config.json").unlink()
    for f in place.model.iterdir():
        f.unlink()
    r = place.publish(rc=1)  # an empty directory, no container, no valid token
    assert len([x for x in r.stderr.splitlines() if x.startswith("tbpkg: ") and "warning" not in x]) == 3, r.stderr
    assert "az storage container create" in r.stderr and "Nothing was done" in r.stderr
    assert place.looked_only() and not place.out.exists()


def test_missing_options_are_said_at_once(place):
    def run(*words):
        return subprocess.run([tbsys.program("tbpkg"), *words], env={"PATH": place.path}, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    for words, missing in ((["publish"], ["--asset-id", "no input", "--edc-endpoint", "storage-account", "--yes", "--vm-image"]),
                           (["register"], ["--edc-endpoint", "--asset-id", "--manifest", "no key", "--storage-account"]),
                           (["upload"], ["--encrypted-file", "--manifest", "--asset-id"]),
                           (["decrypt"], ["--out", "a key"]), (["encrypt"], ["--asset-id", "no input"]),
                           (["encrypt", "--out", "-"], ["--asset-id", "no input", "--manifest", "--key-out"]),
                           (["build"], ["--registry", "--deb-dir"]), (["package"], ["--asset-id", "--edc-endpoint", "--vm-image"]),
                           (["machine", "expel", "c"], ["--machine", "--edc-endpoint"]), (["token", "add", "t"], ["--scope", "--edc-endpoint"])):
        r = run(*words)
        assert r.returncode == 2 and r.stdout == ""
        lines = [x for x in r.stderr.splitlines() if x.startswith(f"tbpkg {' '.join(words[:2] if words[0] in ('machine', 'token') else words[:1])}: ")]
        assert len(lines) == len(missing) and all(any(m in x for x in lines) for m in missing), (words, r.stderr)
        assert r.stderr.count("--help'") == 1 and r.stderr.splitlines()[-1].startswith("Try 'tbpkg ")


def test_the_asset_id_comes_from_the_manifest(place):
    place.publish("--skip-register", "--skip-package")
    argv = place.argv("--json")
    at = argv.index("--asset-id")
    r = subprocess.run([str(w) for w in (*argv[:at], *argv[at + 2:], place.model)], env=place.env(), stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and json.loads(r.stdout)["asset_id"] == place.asset
    place.check_published()
    ct, mf = place.dir / "stored.tbenc", place.out / "encrypted/model.manifest.json"
    place.provider.azurite.create_container("second")
    a = place.provider.azurite
    r = subprocess.run([str(w) for w in (tbsys.program("tbpkg"), "upload", "-e", ct, "-m", mf, "-s", a.account, "-C", "second", "--endpoint",
                        f"{place.blob.url}/{a.account}", "--ca-file", place.provider.ca.cert, "--account-key-file", place.key)],
                       env=place.env(), capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert a.get_blob(f"second/{place.asset}/model.tbenc") == ct.read_bytes()
    (place.dir / "broken.json").write_text("{}")
    r = subprocess.run([tbsys.program("tbpkg"), "upload", "-e", ct, "-m", place.dir / "broken.json"], env=place.env(), capture_output=True, text=True)
    assert r.returncode == 1 and "broken.json" in r.stderr


def test_the_plan_tells_sizes_places_and_credentials(place):
    plan = place.publish("--dry-run", "--bandwidth", "1M", yes=False).stderr
    for word in (f"{place.asset} is new to it", "by --account-key-file", f"models/{place.asset}/model.tbenc is free", "about 3 s at 1.0 MiB/s",
                 f"of {place.token}", "publisher", f"{place.asset}-KEYID.key", "with the encryption"):
        assert word in plan, (word, plan)
    assert "1 Gbit/s" in place.publish("--dry-run", yes=False).stderr
    doc = json.loads(place.publish("--dry-run", "--json", yes=False).stdout)
    assert doc["ok"] and doc["files"] == 3 and doc["plaintext_bytes"] == 3_000_008 and doc["ciphertext_bytes"] > doc["plaintext_bytes"]
    assert doc["url"].endswith(f"/models/{place.asset}/model.tbenc") and set(checks(doc)) >= {
        "files", "model", "output", "disk", "package", "credential", "container", "asset id", "control plane", "token", "registration"}
    place.token.write_text("not-a-token-0123456789")
    doc = json.loads(place.publish("--dry-run", "--json", yes=False, rc=4).stdout)
    assert not doc["ok"] and checks(doc)["token"]["problems"][0]["remedy"] and checks(doc)["container"]["state"] == "ok"


def test_a_credential_of_the_environment_serves_the_plan_and_the_steps(place):
    """It is wiped there when it is first read."""
    key, place.key = place.key, place.dir / "none"
    argv = [str(w) for w in (*place.argv(), place.model)]
    at = argv.index("--account-key-file")
    for local in ([], ["--out", str(place.dir / "kept.tbenc"), "--output", str(place.dir / "out2"), "--asset-id", place.asset + "-b"]):
        r = subprocess.run([*argv[:at], *argv[at + 2:], *local], env={**place.env(), "AZURE_STORAGE_KEY": key.read_text()},
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert r.returncode == 0 and "by the environment variable AZURE_STORAGE_KEY" in r.stderr, r.stderr
    place.key = key
    place.check_published()


def test_live_contracts_are_seen_before_anything_is_sent(place):
    place.publish()
    place.provider.controlplane.ctl("contract", "add", f"c-{place.asset}", "--asset", place.asset, "--mode", "open")
    place.out, place.container = place.dir / "other", "third"
    place.provider.azurite.create_container("third")
    before = len(place.blob.requests)
    r = place.publish(rc=5)
    assert "live contract" in r.stderr and "--replace" in r.stderr and "--no-promote" in r.stderr and not place.out.exists()
    assert all(x.method != "PUT" or "write-check" in x.path for x in place.blob.requests[before:])
    place.publish("--replace")
    place.check_published()


# -- doctor ------------------------------------------------------------------------------------------------------------

def test_doctor_when_all_is_well(place):
    r = doctor(place, *credentials(place))
    rows = {line[:14].strip(): line[15:23].strip() for line in r.stdout.splitlines()}
    assert rows == {"credential": "ok", "container": "ok", "asset id": "ok", "control plane": "ok", "token": "ok", "registration": "ok"}, r.stdout
    assert r.stderr == "" and str(place.token) in r.stdout
    doc = json.loads(doctor(place, *credentials(place), "--json", asset=False).stdout)
    assert doc["ok"] and [c["check"] for c in doc["checks"]] == ["credential", "container", "control plane", "token"]
    assert place.looked_only() and doctor(place, *credentials(place), "-q").stdout == ""


def sas(**more):
    end = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sv": "2022-11-02", "sr": "c", "sp": "rcw", "se": end.replace(":", "%3A"), "sig": "c2lnbmF0dXJl%3D", **more}
    return "?" + "&".join(f"{k}={v}" for k, v in fields.items() if v is not None)


@pytest.mark.parametrize("fields,reason", [
    ({"se": "2024-01-01T00%3A00Z"}, "ended at 2024-01-01T00:00Z"), ({"se": "2024-01-01"}, "ended at 2024-01-01"),
    ({"st": "2099-01-01T00:00:00Z"}, "begins at 2099"), ({"sp": "r"}, "may not write"), ({"sp": "cw"}, "may not read"),
    ({"sr": "b"}, "for one blob"), ({"sr": None, "ss": "b", "srt": "c"}, "srt=c")], ids=["ended", "day", "early", "r", "cw", "blob", "srt"])
def test_a_sas_that_cannot_do_it(place, fields, reason):
    (place.dir / "sas").write_text(sas(**fields))
    r = doctor(place, "--sas-file", place.dir / "sas", "--token-file", place.token, rc=4)
    assert reason in r.stderr and "sp=rcw" in r.stderr and "c2lnbmF0dXJl" not in r.stdout + r.stderr
    assert place.blob.requests == []


def test_what_the_storage_refuses(place):
    good = credentials(place)
    place.blob.rule(status(403), method="PUT")  # may read and not write
    assert "403" in doctor(place, *good, rc=4).stderr
    place.blob.clear_rules()
    place.container = "nosuchcontainer"
    assert "az storage container create" in doctor(place, *good, rc=3).stderr
    place.container = "models"
    r = doctor(place, *good, "--endpoint", f"https://127.0.0.1:9/{place.provider.azurite.account}", rc=6)
    assert "127.0.0.1" in r.stderr
    r = doctor(place, *good, "--endpoint", "https://wrongaccount.blob.invalid", rc=6)
    assert "wrongaccount.blob.invalid" in r.stderr and "--storage-account" in r.stderr
    r = doctor(place, "--token-file", place.token, env={"PATH": "/nonexistent", "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"}, rc=6)
    assert "managed identity" in r.stderr and "127.0.0.1 port 9" in r.stderr


def test_a_proxy_that_is_not_there_is_named(place):
    r = doctor(place, *credentials(place), env={"https_proxy": "http://127.0.0.1:9"}, rc=6)
    lines = [x for x in r.stderr.splitlines() if x.startswith("tbpkg: ")]
    assert len(lines) == 2 and all("the proxy of https_proxy" in x for x in lines), r.stderr


def test_the_table_fits_the_terminal(place):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    (place.dir / "sas").write_text(sas(se="2024-01-01"))
    r = subprocess.run([tbsys.program("tbpkg"), "doctor", "--sas-file", place.dir / "sas"], env=place.env(), stdin=subprocess.DEVNULL,
                       stdout=slave, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(slave)
    lines = os.read(master, 65536).decode().splitlines()
    os.close(master)
    assert r.returncode == 4 and max(map(len, lines)) < 60 and lines[0].startswith("credential     failed   --sas-file: the shared"), lines
    assert lines[1].startswith(" " * 24) and [x[:14].strip() for x in lines if x[0] != " "] == ["credential", "container", "control plane"]


def test_what_the_control_plane_refuses(place):
    key = ["--account-key-file", place.key]
    assert "tbpkg login" in doctor(place, *key, rc=4).stderr
    place.token.write_text("not-a-token-0123456789")
    assert "does not take the token" in doctor(place, *credentials(place), rc=4).stderr
    ctl = place.provider.controlplane.ctl
    for scope, more, word in (("auditor", [], "publisher"), ("support", [], "publisher"), ("publisher", ["--replace"], "replace")):
        place.token.write_text(ctl("token", "add", f"t-{scope}-{place.asset}", "--scope", scope).split()[-1])
        r = doctor(place, *credentials(place), *more, rc=4)
        assert f"has not the scope {word}" in r.stderr and "tbpkg token add" in r.stderr, r.stderr
    doctor(place, *credentials(place))  # a publisher that replaces nothing
    place.token.write_text(ctl("token", "add", f"short-{place.asset}", "--scope", "publisher", "--expires-in", "5m").split()[-1])
    r = doctor(place, *credentials(place))
    assert "warning: token: " in r.stderr and "perhaps before" in r.stderr
    place.plane.rule(status(503), path="/health$")
    assert "503" in doctor(place, *credentials(place), rc=6).stderr
    place.plane.clear_rules()
    place.plane.rule(status(404), path="/health$")
    assert "without /api/v1" in doctor(place, *credentials(place), rc=3).stderr
    place.plane.clear_rules()
    place.plane.rule(status(404), path="/whoami$")  # somebody else's control plane
    doc = json.loads(doctor(place, *credentials(place), "--json").stdout)
    assert checks(doc)["token"]["state"] == "unknown" and doc["ok"]
    for url, rc in (("http://127.0.0.1:9", 2), ("https://127.0.0.1:9", 6)):
        assert doctor(place, *key, "--edc-endpoint", url, rc=rc).stderr


class Registry(http.server.BaseHTTPRequestHandler):
    answers = {}

    def do_GET(self):
        body = b"{}"
        self.send_response(self.answers.get(self.path, 404))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def registry():
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("R", (Registry,), {"answers": {}}))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()


def test_registry_base_image_and_tools(place, registry):
    host = f"127.0.0.1:{registry.server_port}"
    answers = registry.RequestHandlerClass.answers
    (place.dir / "bin").mkdir()
    (place.dir / "bin/buildah").write_text("#!/bin/sh\n")
    (place.dir / "bin/buildah").chmod(0o755)
    env = {"PATH": f"{place.dir}/bin:{os.environ['PATH']}", "REGISTRY_AUTH_FILE": str(place.dir / "auth.json"), "HOME": str(place.dir)}
    args = [*credentials(place), "--registry", f"{host}/acme", "--insecure-registry", "--base-image", f"{host}/base:1", "--json"]
    answers.update({"/v2/": 200, "/v2/base/manifests/1": 200})
    got = checks(json.loads(doctor(place, *args, env=env).stdout))
    assert (got["builder"]["state"], got["registry"]["state"], got["base image"]["state"]) == ("ok", "ok", "ok")
    answers.update({"/v2/": 401, "/v2/base/manifests/1": 404})
    got = checks(json.loads(doctor(place, *args, env=env, rc=4).stdout))
    assert got["registry"]["problems"][0]["remedy"] == f"buildah login {host}" and got["base image"]["state"] == "warning"
    (place.dir / "auth.json").write_text(json.dumps({"auths": {host: {"auth": "S3CRET"}}}))
    r = doctor(place, *args, env=env)
    assert "with the login" in checks(json.loads(r.stdout))["registry"]["detail"] and "S3CRET" not in r.stdout
    answers.update({"/v2/": 404})
    assert "no registry" in doctor(place, *args, env=env, rc=3).stdout
    env["PATH"] = str(place.dir / "nobin")
    got = checks(json.loads(doctor(place, *credentials(place), "--target", "vm-azure", "--json", env=env, rc=1).stdout))
    assert got["builder"]["problems"][0]["reason"] == "is not installed" and "packer" in got["builder"]["problems"][0]["remedy"]
    registry.shutdown()
    registry.server_close()
    r = doctor(place, *args, env={**env, "PATH": f"{place.dir}/bin:/usr/bin"}, rc=6)
    assert checks(json.loads(r.stdout))["registry"]["problems"][0]["object"] == host


def test_the_login_is_used_and_named(place):
    home = place.dir / "home"
    env = {"HOME": str(home)}
    subprocess.run([tbsys.program("tbpkg"), "login", "--edc-endpoint", place.plane.url, "--ca-file", place.provider.ca.cert, "-q"],
                   input=place.token.read_text(), env={**place.env(), **env}, check=True, text=True, capture_output=True)
    kept = next((home / ".config/trustbridge/tokens").iterdir())
    assert kept.stat().st_mode & 0o777 == 0o600
    r = doctor(place, "--account-key-file", place.key, env=env)
    assert str(kept) in r.stdout
    kept.chmod(0o644)
    r = doctor(place, "--account-key-file", place.key, env=env, rc=1)
    assert "can be read by others" in r.stderr and re.search("chmod 600", r.stderr)
