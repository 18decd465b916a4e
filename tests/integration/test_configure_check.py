# SPDX-License-Identifier: Apache-2.0
"""tb-configure --check: what it says of settings, right and wrong, and its command line."""

import json
import re
import socket
import subprocess

import pytest
from configure_place import GOOD, PORTS, base, run, settings  # noqa: F401
from tbsys import free_port, program


def test_good_settings_are_in_order(settings):
    assert settings.check("# TrustBridge\n\n" + "\n".join(base()) + "\n") == (0, [])
    r = run("--check", "--run-dir", settings.run_dir, settings.path)
    assert r.stdout == f"{settings.path}: the settings are in order\n"


@pytest.mark.parametrize("given", [
    'TB_ROUTES="/v1/*, /x"', "TB_ROUTES=/v1/*,/x", "  TB_LOG_LEVEL  =  debug  ", "TB_LOG_LEVEL='debug'\r", "TB_LEASE_GRACE=1h30m", "HF_HOME=/x", "TB_MAX_LORAS=4",
    "TB_CORS_ORIGINS=https://a.example, https://b.example", "TB_ROUTES=/v1/*,\\\n/x", "TB_LEASE_GRACE=", "TB_INSECURE_HTTP=YES",
    "TB_IMDS_ENDPOINT=http://127.0.0.1:1", "TB_TARGET_DIR=/srv/x/y", "TB_ROUTES=*,/a;b", 'HF_ARGS={"a": 1}',
])
def test_what_is_right_is_not_complained_about(settings, given):
    assert settings.one(given) == []


def test_signs_in_a_command_are_no_remark(settings):
    assert settings.one("""TB_RUNTIME_EXEC=/bin/sleep 1 '# 2' #fff "a # b" x#y""", TB_RUNTIME_EXEC=None) == []


# line, name, what is wrong, what to do
WRONG = [
    ("TB_PUBLC_ADDR=:80", "TB_PUBLC_ADDR", "unknown setting", "did you mean TB_PUBLIC_ADDR"),
    ("TB_API_KEY=x", "TB_API_KEY", "unknown setting", "did you mean TB_API_KEYS"),
    ("TB_RUNTME_EXEC=x", "TB_RUNTME_EXEC", "unknown setting", "did you mean TB_RUNTIME_EXEC"),
    ("TB_TLS_CRET=/x", "TB_TLS_CRET", "unknown setting", "did you mean TB_TLS_CERT"),
    ("tb_log_level=info", "tb_log_level", "unknown setting", "did you mean TB_LOG_LEVEL"),
    ("LOG_LEVEL=info", "LOG_LEVEL", "unknown setting", "did you mean TB_LOG_LEVEL"),
    ("T_ROUTES=/v1/*", "T_ROUTES", "unknown setting", "did you mean TB_ROUTES"),
    ("TB_SOMETHING_ELSE=1", "TB_SOMETHING_ELSE", "unknown setting", r"trustbridge.env\(5\)"),
    ("TB-ROUTES=/v1/*", "", "not the name of a setting", "letters, digits"),
    ("export TB_ROUTES=/v1/*", "TB_ROUTES", '"export"', "write NAME=value"),
    ("TB_ROUTES: /v1/*", "", "begins with TB_ROUTES has no '='", "write TB_ROUTES=value"),
    ("some words", "", "not NAME=value", "put # before"),
    ('TB_ROUTES="/v1/*', "TB_ROUTES", "a quote is not closed", "close it"),
    ('TB_ROUTES="/v1/*" /x', "TB_ROUTES", "behind the closing quote", "quotes around the whole value"),
    ("TB_LOG_LEVEL=\u201cdebug\u201d", "TB_LOG_LEVEL", "typographic quotes", "write"),
    ("TB_LOG_LEVEL=debug\u00a0", "TB_LOG_LEVEL", "no-break space", "remove"),
    ('TB_LOG_LEVEL=" debug"', "TB_LOG_LEVEL", "a blank within its quotes", "remove"),
    ("TB_LOG_LEVEL=verbose", "TB_LOG_LEVEL", '"verbose"', "debug, info, warn or error"),
    ("TB_PUBLIC_ADDR=0.0.0.0:80000", "TB_PUBLIC_ADDR", '"0.0.0.0:80000"', "0 to 65535; choose a smaller port"),
    ("TB_PUBLIC_ADDR=8000", "TB_PUBLIC_ADDR", '"8000"', "as :8000"),
    ("TB_PUBLIC_ADDR=:8000,", "TB_PUBLIC_ADDR", '":8000,"', "host:port"),
    ("TB_PUBLIC_ADDR=0.0.0.0", "TB_PUBLIC_ADDR", '"0.0.0.0"', "the port is missing"),
    ("TB_PUBLIC_ADDR=0.0.0.0:", "TB_PUBLIC_ADDR", '"0.0.0.0:"', "host:port"),
    ("TB_PUBLIC_ADDR=::1:8000", "TB_PUBLIC_ADDR", '"::1:8000"', r"brackets .* \[::1\]:8000"),
    ("TB_PUBLIC_ADDR=[::1:8000", "TB_PUBLIC_ADDR", '"\\[::1:8000"', r"\[v6\]:port"),
    ("TB_PUBLIC_ADDR=[::g]:8000", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=http://0.0.0.0:8000", "TB_PUBLIC_ADDR", "must be host:port", "without http://"),
    ("TB_PUBLIC_ADDR=0.0.0.0:http", "TB_PUBLIC_ADDR", '"0.0.0.0:http"', "0 to 65535"),
    ("TB_PUBLIC_ADDR=-1:80", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=api.example:8000", "TB_PUBLIC_ADDR", "not on names", "ip -brief address"),
    ("TB_PUBLIC_ADDR=1.2.3.400:80", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=:0", "TB_PUBLIC_ADDR", "systemd needs a port", "1 to 65535"),
    ("TB_PUBLIC_ADDR=203.0.113.77:8000", "TB_PUBLIC_ADDR", "does not have the address", "ip -brief address"),
    ("TB_HEALTH_ADDR=[2001:db8::77]:8001", "TB_HEALTH_ADDR", "does not have the address", "ip -brief address"),
    ("TB_EDC_ENDPOINT=http://cp.example", "TB_EDC_ENDPOINT", "must be https://", "TB_INSECURE_HTTP"),
    ("TB_EDC_ENDPOINT=cp.example", "TB_EDC_ENDPOINT", '"cp.example"', "has no https://"),
    ("TB_EDC_ENDPOINT=https://", "TB_EDC_ENDPOINT", '"https://"', "with a host"),
    ("TB_EDC_ENDPOINT=https://cp.example:99999", "TB_EDC_ENDPOINT", "must be an https:// URL", "with a host"),
    ("TB_EDC_ENDPOINT=https://cp example", "TB_EDC_ENDPOINT", "must be an https:// URL", "with a host"),
    ("TB_METERING_ENDPOINT=http://m.example", "TB_METERING_ENDPOINT", "must be https://", "TB_INSECURE_HTTP"),
    ("TB_RUNTIME_URL=http://10.0.0.1:8081", "TB_RUNTIME_URL", '"http://10.0.0.1:8081"', "127.0.0.0/8"),
    ("TB_RUNTIME_URL=127.0.0.1:8081", "TB_RUNTIME_URL", '"127.0.0.1:8081"', "must be http://"),
    ("TB_RUNTIME_HEALTH=health", "TB_RUNTIME_HEALTH", '"health"', "as /health"),
    ("TB_CONTRACT_ID=a b", "TB_CONTRACT_ID", '"a b"', "1 to 100 of"),
    ("TB_ASSET_ID=a/b", "TB_ASSET_ID", '"a/b"', "1 to 100 of"),
    ("TB_INSECURE_HTTP=ja", "TB_INSECURE_HTTP", '"ja"', "true or false"),
    ("TB_LEASE_GRACE=24", "TB_LEASE_GRACE", '"24"', "the unit is missing"),
    ("TB_LEASE_GRACE=1 day", "TB_LEASE_GRACE", '"1 day"', "90s, 10m or 24h"),
    ("TB_LEASE_GRACE=-1h", "TB_LEASE_GRACE", '"-1h"', "90s, 10m or 24h"),
    ("TB_BILLING_INTERVAL=10ms", "TB_BILLING_INTERVAL", "too short", "at least 1s"),
    ("TB_MAX_BODY_BYTES=4G", "TB_MAX_BODY_BYTES", '"4G"', "without a unit: 4294967296"),
    ("TB_MAX_BODY_BYTES=4GiB", "TB_MAX_BODY_BYTES", '"4GiB"', "without a unit: 4294967296"),
    ("TB_MAX_BODY_BYTES=50%", "TB_MAX_BODY_BYTES", '"50%"', "a whole number"),
    ("TB_DOWNLOAD_CONCURRENCY=0", "TB_DOWNLOAD_CONCURRENCY", '"0"', "from 1 to 32"),
    ("TB_DOWNLOAD_CONCURRENCY=-4", "TB_DOWNLOAD_CONCURRENCY", '"-4"', "from 1 to 32"),
    ("TB_DOWNLOAD_CHUNK_BYTES=1e6", "TB_DOWNLOAD_CHUNK_BYTES", '"1e6"', "a whole number"),
    ("TB_ROUTES=v1/*", "TB_ROUTES", "starts with a slash", "as in /v1/"),
    ("TB_CORS_ORIGINS=app.example", "TB_CORS_ORIGINS", "scheme://host", "as in https://app.example.com"),
    ("TB_DELIVERY=fuse", "TB_DELIVERY", '"fuse"', "auto, dir, view, s3 or fifo"),
    ("TB_TARGET_DIR=models", "TB_TARGET_DIR", '"models"', "absolute path"),
    ("TB_TARGET_DIR=/a b", "TB_TARGET_DIR", '"/a b"', "letters, digits"),
    ("TB_TARGET_DIR=/a/../b", "TB_TARGET_DIR", '"/a/../b"', "without .."),
    ("TB_PROVIDER_KEY=RWQ", "TB_PROVIDER_KEY", '"RWQ"', "as tbpkg keygen prints them"),
    ("TB_PROVIDER_KEY=RWQAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "TB_PROVIDER_KEY", "must be public keys", "as tbpkg keygen prints them"),
    ("TB_PROVIDER_KEY=provider.pub", "TB_PROVIDER_KEY", '"provider.pub"', "the absolute path"),
    ("TB_PROVIDER_KEY=/nowhere/at/all.pub", "TB_PROVIDER_KEY", "/nowhere/at/all.pub does not exist: there is only /", "correct the path"),
    ("TB_PROVIDER_KEY=/etc/hostname", "TB_PROVIDER_KEY", "/etc/hostname: ", "give what tbpkg keygen made"),
    ("TB_CA_FILE=ca.pem", "TB_CA_FILE", '"ca.pem"', "absolute path"),
    ("TB_CA_FILE=/nowhere/at/all.pem", "TB_CA_FILE", "/nowhere/at/all.pem does not exist: there is only /", "correct the path"),
    ("TB_CA_FILE=/etc", "TB_CA_FILE", "/etc is a directory", "name a file"),
    ("TB_CA_FILE=/dev/null", "TB_CA_FILE", "/dev/null is no regular file", "name a file"),
    ("TB_CA_FILE=/etc/hostname", "TB_CA_FILE", "holds no certificate in PEM format", "openssl x509"),
    ("TB_RUNTIME_EXEC=/opt/nowhere/server -m {model}", "TB_RUNTIME_EXEC", "/opt/nowhere/server is not an executable file", "install"),
    ("TB_RUNTIME_EXEC=no-such-server", "TB_RUNTIME_EXEC", "no-such-server is not an executable file in PATH", "install"),
    ("TB_RUNTIME_EXEC=/etc/passwd", "TB_RUNTIME_EXEC", "/etc/passwd is not an executable file", "install"),
    ("TB_RUNTIME_EXEC=/bin/sleep 'x", "TB_RUNTIME_EXEC", "a ' quote is not closed", "correct the command line"),
    ("TB_AUDIT_FILE=/nowhere/audit.jsonl", "TB_AUDIT_FILE", "the directory /nowhere does not exist", "make it"),
    ("TB_AUDIT_FILE=/etc", "TB_AUDIT_FILE", "/etc is a directory", "name a file"),
    ("TB_BILLING_DIMENSION=requests,secs", "TB_BILLING_DIMENSION", '"requests,secs"', "prompt_tokens"),
    ("TB_BILLING_RESOURCE_ID=x", "TB_BILLING_RESOURCE_ID", '"x"', "/subscriptions/"),
    ("TB_TARGET_DIR=/etc/hostname", "TB_TARGET_DIR", "/etc/hostname is no directory", "another path"),
    ("TB_TARGET_DIR=/etc/hostname/x/y", "TB_TARGET_DIR", "/etc/hostname is no directory", "another path"),
    ("TB_TARGET_DIR=//", "TB_TARGET_DIR", "root directory", "as /srv/trustbridge"),
    ("TB_STATE_DIR=/etc/hostname", "TB_STATE_DIR", "is no directory", "make it"),
    ("TB_RUN_DIR=/nowhere", "TB_RUN_DIR", "is no directory", "make it"),
    ("NOTIFY_SOCKET=/x", "NOTIFY_SOCKET", "systemd sets this itself", "remove the line"),
    ("TB_CONTRACT_ID=c # ours", "TB_CONTRACT_ID", "a remark behind it", "line of its own"),
    ("TB_LEASE_GRACE=12h\t#half a day", "TB_LEASE_GRACE", "a remark behind it", "line of its own"),
    ("TB_AUDIT_FILE=/var/log/audit.jsonl # kept", "TB_AUDIT_FILE", "a remark behind it", "line of its own"),
    ("TB_RUNTIME_EXEC=/bin/sleep 1 # the server", "TB_RUNTIME_EXEC", "a remark behind it", "line of its own"),
    ("TB_ROUTES=/v1/.*", "TB_ROUTES", "no regular expression", r"as in /v1/\*"),
    ("TB_ROUTES=/v1/*;/x", "TB_ROUTES", "separated by commas", "as in"),
    ("TB_ROUTES=/v1/models?a=*", "TB_ROUTES", r"without \? and #", "any query"),
    ("TB_TLS_KEY=-----BEGIN", "TB_TLS_KEY", "which is not shown", "absolute path"),
]


@pytest.mark.parametrize("line,name,reason,remedy", WRONG, ids=[w[0][:40] for w in WRONG])
def test_what_is_wrong_has_place_reason_and_remedy(settings, line, name, reason, remedy):
    setting = line.split("=")[0] if line.split("=")[0] in {**GOOD, **PORTS} else None
    n = len(base(**({setting: None} if setting else {}))) + 1
    found = [x for x in settings.one(line, **({setting: None} if setting else {})) if "must be set too" not in x[3] and "required" not in x[3]]
    assert len(found) == 1, found
    where, level, who, text = found[0]
    assert (where, level, who) == (n, "error", name), found
    assert re.search(reason, text) and re.search(remedy, text), text


def test_everything_is_said_at_once_in_the_order_of_the_file(settings):
    lines = [w[0] for w in WRONG if "\n" not in w[0] and '="' not in w[0]]
    _, found = settings.check("\n".join(lines) + "\n")
    with_line = [x[0] for x in found if x[0]]
    assert with_line == sorted(with_line)
    said = {x[2] for x in found}
    assert {"TB_PUBLC_ADDR", "TB_LEASE_GRACE", "TB_CA_FILE", "TB_RUNTIME_EXEC", "TB_TLS_KEY", "TB_AUDIT_FILE"} <= said
    assert len(found) == len(set(found)), "said once"


def test_missing_settings(settings):
    assert [(x[1], x[2]) for x in settings.check("")[1] if "required" in x[3]] == [("error", n) for n in ("TB_CONTRACT_ID", "TB_ASSET_ID", "TB_EDC_ENDPOINT")]
    found = settings.one("TB_BILLING_ENABLED=true")
    assert [x[1:3] for x in found] == [("error", "TB_BILLING_PLAN_ID")]
    assert [x[1:3] for x in settings.one("TB_CLIENT_CERT_PATH=/bin/sh") if "must be set too" in x[3]] == [("error", "TB_CLIENT_KEY_PATH")]
    assert settings.one("TB_LOG_LEVEL=info", TB_RUNTIME_EXEC=None)[0][1:3] == ("warning", "TB_RUNTIME_EXEC")


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfTB_ROUTES=/v1/*\n", b"TB_ROUTES=/v1/\xe4\n", "TB_ROUTES=/v1/*\n".encode("utf-16")])
def test_files_that_are_not_utf_8(settings, text):
    code, found = settings.check(text)
    assert code == 78 and any("UTF-8" in x[3] for x in found)


def test_windows_line_ends_are_fine(settings):
    assert settings.check("\r\n".join(base()) + "\r\n") == (0, [])


def test_a_name_given_twice(settings):
    first, *rest = settings.one("TB_LOG_LEVEL=debug\nTB_LOG_LEVEL=info")
    assert first[1:3] == ("warning", "TB_LOG_LEVEL") and f"line {first[0] + 1} sets it again" in first[3] and not rest


def test_ports(settings):
    port = free_port()
    found = settings.one(f"TB_PUBLIC_ADDR=127.0.0.1:{port}\nTB_HEALTH_ADDR=:{port}", TB_PUBLIC_ADDR=None, TB_HEALTH_ADDR=None)
    assert [x[1:3] for x in found] == [("error", "TB_HEALTH_ADDR")] and f"both want port {port}" in found[0][3]
    with socket.create_server(("127.0.0.1", port)):
        for addr in (f"127.0.0.1:{port}", f":{port}", f"0.0.0.0:{port}", f"[::]:{port}"):
            found = settings.one(f"TB_PUBLIC_ADDR={addr}", TB_PUBLIC_ADDR=None)
            assert [x[1:3] for x in found] == [("error", "TB_PUBLIC_ADDR")] and f"another program listens on port {port}" in found[0][3], addr
        assert settings.one(f"TB_PUBLIC_ADDR=127.0.0.2:{port}", TB_PUBLIC_ADDR=None) == []
        # What is in force is not in its own way.
        (settings.run_dir / "listeners.env").write_text(f"TB_PUBLIC_ADDR=:{port}\n")
        assert settings.one(f"TB_PUBLIC_ADDR=0.0.0.0:{port}", TB_PUBLIC_ADDR=None) == []


def test_directories_that_units_do_not_share(settings):
    """tb-hydrate's file must be where tb-decrypt looks; --accept is what the units ask."""
    for where in ("/tmp", "/home/joe/models", "/run/models", "/dev/shm/x", "/root/x"):
        found = settings.one(f"TB_TARGET_DIR={where}")
        assert [x[1:3] for x in found] == [("warning", "TB_TARGET_DIR")] and "do not share" in found[0][3], found
    settings.path.write_text("\n".join(base(TB_TARGET_DIR="/tmp/x", TB_STATE_DIR="/srv", TB_MODEL_DIR="/srv/model")) + "\n")
    r = run("--accept", "--run-dir", settings.run_dir, settings.path)
    said = (settings.run_dir / "report").read_text()
    assert r.returncode == 78 and "do not share /tmp" in said and "TB_STATE_DIR: the units have their directories in /var/lib" in said, said
    assert "TB_MODEL_DIR: tb-runtime.service may not write" in said, said


# -- the command line ---------------------------------------------------------------------------------------------------

def test_json(settings):
    settings.path.write_text("\n".join(base(TB_LOG_LEVEL="loud")) + "\n")
    r = run("--check", "--json", "--run-dir", settings.run_dir, settings.path)
    doc = json.loads(r.stdout)
    assert r.returncode == 78 and (doc["file"], doc["ok"], doc["errors"]) == (str(settings.path), False, 1)
    one, = doc["findings"]
    assert (one["level"], one["name"], one["value"], one["file"]) == ("error", "TB_LOG_LEVEL", "loud", str(settings.path)) and one["line"] == len(base()) + 1


@pytest.mark.parametrize("argv,code", [([], 64), (["--nonsense"], 64), (["--check", "a", "b"], 64), (["--check", "/nowhere.env"], 66), (["--check", "/etc"], 74),
                                       (["--run", "tb-proxy", "/nowhere.env"], 66), (["--accept"], 64), (["--apply", "x"], 64)])
def test_command_lines(argv, code):
    r = run(*argv)
    assert r.returncode == code and r.stdout == "" and r.stderr.startswith("tb-configure: "), r


def test_standard_input():
    r = run("--check", "-", input="TB_LOG_LEVEL=loud\n")
    assert r.returncode == 78 and "-:1: error: TB_LOG_LEVEL" in r.stdout


def test_help_and_version():
    assert run("--help").stdout.startswith("Usage: tb-configure") and run("--version").stdout.startswith("tb-configure ")


def test_a_program_by_hand_gets_the_file(settings):
    settings.path.write_text("A=1\nB=\"2 3\"\nA=4\nexport C=1\n")
    out = run("--run", "/usr/bin/env", settings.path, env={"PATH": "/bin"}).stdout.splitlines()
    assert {"A=4", "B=2 3"} <= set(out) and not any(x.startswith(("C=", "export")) for x in out)


@pytest.mark.parametrize("name", ["tb-authorize", "tb-billing", "tb-decrypt", "tb-hydrate", "tb-load", "tb-proxy"])
def test_each_program_judges_its_settings(name):
    """--check of the daemons themselves: the same rules, in a form that can be read back."""
    r = subprocess.run([program(name), "--check"], capture_output=True, text=True, env={"TB_LOG_LEVEL": "loud"})
    assert r.returncode == 78 and "error: TB_CONTRACT_ID: required, not set\n" in r.stdout and "error: TB_LOG_LEVEL: " in r.stdout and r.stderr == ""
    r = subprocess.run([program(name), "--check"], capture_output=True, text=True, env={**GOOD, "PATH": "/bin"})
    assert (r.returncode, r.stdout) == (0, "")
