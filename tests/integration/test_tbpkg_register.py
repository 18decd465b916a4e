# SPDX-License-Identifier: Apache-2.0
"""tbpkg register against a small HTTPS control plane that records what it gets and answers what it is told."""
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import ssl
import subprocess
import termios
import threading
import time

import pytest

import tbsys

ASSET = "tb-asset-reg-001"
KEY = "00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0"


class ControlPlane:
    """answers: list of (status, body bytes or object, headers), the last one repeats; or "hang up"."""

    def __init__(self, tls=None, client_ca=None):
        self.answers, self.seen = [(201, {"status": "registered"}, {})], []
        plane = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                plane.seen.append((time.monotonic(), self.path, self.headers, body))
                answer = plane.answers.pop(0) if len(plane.answers) > 1 else plane.answers[0]
                if answer == "hang up":
                    self.close_connection = True
                    return
                code, doc, headers = answer
                data = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
                self.send_response(code)
                for k, v in headers.items():
                    self.send_header(k, v)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            if client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def run(*args, env=None, stdin=None):
    e = {"PATH": os.environ["PATH"]}
    e.update({k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")})
    e.update(env or {})
    r = subprocess.run([tbsys.program("tbpkg"), *map(str, args)], env=e, input=stdin, capture_output=True, text=True,
                       timeout=60, check=False)
    assert KEY not in (r.stdout + r.stderr).lower(), "the key was printed"
    assert KEY[:16] not in (r.stdout + r.stderr).lower() and "Sanitizer" not in r.stderr
    return r


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with model.tbenc, its manifest m.json, key (hex), key.raw, token."""
    d = tmp_path_factory.mktemp("asset")
    (d / "plain").write_bytes(b"model" * 1000)
    r = run("encrypt", "--asset-id", ASSET, "--in", d / "plain", "--out", d / "model.tbenc", "--manifest", d / "m.json",
            "--key-out", d / "unused", "-q")
    assert r.returncode == 0, r.stderr
    manifest = json.loads((d / "m.json").read_text())
    manifest["key_id"] = hashlib.sha256(b"tbenc key id v1\0" + bytes.fromhex(KEY)).hexdigest()[:16]
    (d / "m.json").write_text(json.dumps(manifest))
    (d / "key").write_text(KEY + "\n")
    (d / "key.raw").write_bytes(bytes.fromhex(KEY))
    (d / "token").write_text("provider-token-1\n")
    return d


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return tbsys.CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def plane(ca):
    p = ControlPlane(tls=ca.issue("cp"))
    yield p
    p.stop()


def argv(plane, files, *more, key=True, place=True, ca=None):
    a = ["register", "--edc-endpoint", plane.url, "--asset-id", ASSET, "--manifest", files / "m.json"]
    if key:
        a += ["--key-file", files / "key"]
    if place:
        a += ["--storage-account", "acct1", "--container", "models"]
    return [*a, *(["--ca-file", ca.cert] if ca else []), *more]


def fails(r, *words, rc=1):
    assert r.returncode == rc, (r.returncode, r.stdout, r.stderr)
    assert r.stdout == ""
    for w in words:
        assert w in r.stderr, r.stderr


def test_a_version_that_lies_aside_is_found(plane, files, ca):
    """Another one has the first name, which only the control plane can see. The key may come from where it is read once."""
    key_id = json.loads((files / "m.json").read_text())["key_id"]
    base = f"https://acct1.blob.core.windows.net/models/{ASSET}"
    for error in ("wrong_blob", "wrong_manifest", "blob_missing"):
        del plane.seen[:]
        plane.answers = [(422, {"error": error, "message": "not that"}, {}), (201, {"status": "registered"}, {})]
        r = run(*argv(plane, files, "--key-file", "-", ca=ca, key=False), stdin=KEY)
        assert r.returncode == 0 and json.loads(r.stdout) == {"status": "registered"}, r.stderr
        first, second = (json.loads(s[3])["blob_urls"] for s in plane.seen)
        assert first == {"ciphertext": f"{base}/model.tbenc", "manifest": f"{base}/model.manifest.json"}
        assert second == {"ciphertext": f"{base}/{key_id}/model.tbenc", "manifest": f"{base}/{key_id}/model.manifest.json"}
    plane.answers = [(422, {"error": "wrong_blob", "message": "not that"}, {}), (422, {"error": "blob_missing", "message": "nor there"}, {})]
    fails(run(*argv(plane, files, ca=ca)), "answered 422", "not that", rc=5)
    del plane.seen[:]
    plane.answers = [(422, {"error": "wrong_key", "message": "no"}, {})]
    fails(run(*argv(plane, files, ca=ca)), "answered 422", rc=5)
    assert len(plane.seen) == 1, "a key is no question of the place"


def test_the_ciphertext_itself_is_named(plane, files, ca):
    url = f"https://acct1.blob.core.windows.net/models/{ASSET}/0011223344556677/model.tbenc"
    plane.answers = [(422, {"error": "wrong_blob", "message": "not that"}, {})]
    fails(run(*argv(plane, files, "--blob-url", url, place=False, ca=ca)), "not that", rc=5)
    (_, _, _, body), = plane.seen
    assert json.loads(body)["blob_urls"] == {"ciphertext": url, "manifest": url.replace("model.tbenc", "model.manifest.json")}


def test_exact_request(plane, files, ca):
    plane.answers = [(201, {"asset_id": ASSET, "status": "registered"}, {})]
    r = run(*argv(plane, files, "--token-file", files / "token", ca=ca))
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout) == {"asset_id": ASSET, "status": "registered"}
    (_, path, headers, body), = plane.seen
    assert path == "/api/v1/assets/register"
    assert headers["Content-Type"] == "application/json" and headers["Authorization"] == "Bearer provider-token-1"
    assert "Expect" not in headers and headers["User-Agent"].startswith("trustbridge/")
    m = json.loads((files / "m.json").read_text())
    base = f"https://acct1.blob.core.windows.net/models/{ASSET}"
    doc = json.loads(body)
    assert list(doc) == ["asset_id", "blob_urls", "metadata", "decryption_key_hex"]
    assert doc == {
        "asset_id": ASSET,
        "blob_urls": {"ciphertext": base + "/model.tbenc", "manifest": base + "/model.manifest.json"},
        "metadata": {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": m["chunk_bytes"],
                     "plaintext_bytes": m["plaintext_bytes"], "sha256_ciphertext": m["sha256_ciphertext"],
                     "manifest_sha256": hashlib.sha256((files / "m.json").read_bytes()).hexdigest(),
                     "tags_sha256": m["tags_sha256"]},
        "decryption_key_hex": KEY,
    }


@pytest.mark.parametrize("base", ["https://priv.example/c1", "https://priv.example/c1/"])
def test_blob_url_and_other_key_sources(plane, files, ca, base):
    r = run(*argv(plane, files, "--blob-url", base, key=False, place=False, ca=ca), env={"TBPKG_KEY_FILE": str(files / "key.raw")})
    assert r.returncode == 0, r.stderr
    doc = json.loads(plane.seen[-1][3])
    assert doc["blob_urls"] == {"ciphertext": f"https://priv.example/c1/{ASSET}/model.tbenc",
                                "manifest": f"https://priv.example/c1/{ASSET}/model.manifest.json"}
    assert doc["decryption_key_hex"] == KEY and "Authorization" not in plane.seen[-1][2]
    r = run(*argv(plane, files, "--key-file", "-", key=False, ca=ca), stdin=KEY.upper() + "\n")
    assert r.returncode == 0 and json.loads(plane.seen[-1][3])["decryption_key_hex"] == KEY


def test_several_places(plane, files, ca):
    urls = ["https://priv.example/c1/", "https://acct2.blob.core.windows.net/c2", "https://acct3.blob.core.windows.net/c3"]
    r = run(*argv(plane, files, *(w for u in urls for w in ("--blob-url", u)), place=False, ca=ca))
    assert r.returncode == 0, r.stderr
    of = [{"ciphertext": f"{u.rstrip('/')}/{ASSET}/model.tbenc", "manifest": f"{u.rstrip('/')}/{ASSET}/model.manifest.json"} for u in urls]
    assert json.loads(plane.seen[-1][3])["blob_urls"] == {**of[0], "further": of[1:]}
    r = run(*argv(plane, files, *(w for n in range(17) for w in ("--blob-url", f"https://h/c{n}")), place=False, ca=ca))
    assert r.returncode != 0 and "more than 16" in r.stderr


def test_key_hex_is_warned_about_and_wiped(plane, files, ca):
    gate = threading.Event()
    seen = []
    args = [tbsys.program("tbpkg"), *map(str, argv(plane, files, "--key-hex", KEY, key=False, ca=ca))]
    plane.answers = [(503, {}, {"Retry-After": "2"}), (200, {}, {})]
    p = subprocess.Popen(args, env={"PATH": os.environ["PATH"], "TB_EDC_TOKEN_FILE": str(files / "token")},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    tbsys.wait_for(lambda: plane.seen, 20, "the first request")
    seen.append(pathlib.Path(f"/proc/{p.pid}/cmdline").read_bytes())
    gate.set()
    out, err = p.communicate(timeout=30)
    assert p.returncode == 0, err
    assert b"--key-hex" in seen[0] and KEY.encode() not in seen[0]
    assert "warning" in err and KEY not in out + err
    assert json.loads(plane.seen[-1][3])["decryption_key_hex"] == KEY
    assert plane.seen[-1][2]["Authorization"] == "Bearer provider-token-1"


def test_retries_with_2_and_4_seconds(plane, files, ca):
    plane.answers = [(500, {}, {}), "hang up", (200, {"ok": True}, {})]
    r = run(*argv(plane, files, ca=ca))
    assert r.returncode == 0 and json.loads(r.stdout) == {"ok": True}, r.stderr
    t = [s[0] for s in plane.seen]
    assert len(t) == 3 and 1.7 < t[1] - t[0] < 3.5 and 3.5 < t[2] - t[1] < 7
    assert plane.seen[0][3] == plane.seen[2][3]


def test_gives_up_after_three(plane, files, ca):
    plane.answers = [(503, {"message": "down for repair"}, {})]
    fails(run(*argv(plane, files, ca=ca)), "503", "down for repair", "later", rc=6)
    assert len(plane.seen) == 3


def test_nobody_listens(files):
    class Nobody:
        url = f"https://127.0.0.1:{tbsys.free_port()}"
    fails(run(*argv(Nobody, files)), "127.0.0.1", "check --edc-endpoint", rc=6)


@pytest.mark.parametrize("answer,words", [
    ((400, {"message": "bad metadata", "details": "chunk_bytes"}, {}), ["400", "bad metadata: chunk_bytes"]),
    ((401, {}, {}), ["401", "--token-file"]),
    ((403, {"message": "not yours"}, {}), ["403", "not yours", "operator"]),
    ((404, b"<html>", {}), ["404", "--edc-endpoint"]),
    ((301, {}, {"Location": "https://elsewhere.example/"}), ["301", "--edc-endpoint"]),
    ((200, b"<html>login</html>", {}), ["not with JSON"]),
    ((400, {"message": "key was " + KEY.upper()}, {}), ["400", "*" * 64]),
    ((200, b"x" * 200_000, {}), ["larger"]),
], ids=lambda v: str(v[0]) if isinstance(v, tuple) else "")
def test_refusals_are_not_repeated(plane, files, ca, answer, words):
    plane.answers = [answer]
    fails(run(*argv(plane, files, ca=ca)), *words, rc={401: 4, 403: 4, 404: 3}.get(answer[0], 1))
    assert len(plane.seen) == 1


def test_answer_that_repeats_the_key(plane, files, ca):
    plane.answers = [(200, {"decryption_key_hex": KEY}, {})]
    r = run(*argv(plane, files, ca=ca))
    assert r.returncode == 0 and json.loads(r.stdout) == {"decryption_key_hex": "*" * 64}


def test_untrusted_control_plane_gets_nothing(plane, files, tmp_path):
    fails(run(*argv(plane, files)), "certificate", "--ca-file", rc=6)
    other = tbsys.CA(tmp_path / "other", "Another CA")
    fails(run(*argv(plane, files), env={"TB_CA_FILE": other.cert}), "certificate", rc=6)
    assert plane.seen == []


def test_wrong_name_in_the_certificate(files, ca):
    p = ControlPlane(tls=ca.issue("elsewhere", sans="DNS:elsewhere.example"))
    try:
        fails(run(*argv(p, files, ca=ca)), "127.0.0.1", rc=6)
        assert p.seen == []
    finally:
        p.stop()


def test_mutual_tls(files, ca):
    p = ControlPlane(tls=ca.issue("cp2"), client_ca=ca.cert)
    try:
        cert, key = ca.issue("provider")
        r = run(*argv(p, files, "--client-cert", cert, "--client-key", key, ca=ca))
        assert r.returncode == 0, r.stderr
        assert run(*argv(p, files, ca=ca)).returncode == 6
        assert len(p.seen) == 1
    finally:
        p.stop()


def test_encrypted_client_key_is_refused_without_a_question(files, ca, tmp_path):
    """On a terminal, where OpenSSL could ask for the passphrase."""
    p = ControlPlane(tls=ca.issue("cp3"), client_ca=ca.cert)
    cert, key = ca.issue("provider2")
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked], check=True)
    words = [tbsys.program("tbpkg"), *map(str, argv(p, files, "--client-cert", cert, "--client-key", locked, ca=ca))]
    main, sub = pty.openpty()
    try:
        def on_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        r = subprocess.run(words, stdin=sub, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20, check=False,
                           preexec_fn=on_terminal)
        fails(r, "locked.key: the private key is encrypted", "openssl pkey")
        os.set_blocking(main, False)
        with pytest.raises(BlockingIOError):
            os.read(main, 100)
        (tmp_path / "no.key").write_text("nothing")
        fails(run(*argv(p, files, "--client-cert", cert, "--client-key", tmp_path / "no.key", ca=ca)), "no.key: is not a private key")
        assert p.seen == []
    finally:
        os.close(main)
        os.close(sub)
        p.stop()


# A C1 control (U+009B, as UTF-8 and as a byte), an escape, a reversal of the line.
HOSTILE = "a\x1b[31m\u009b2J\u202eb"


@pytest.mark.parametrize("answer", [
    (201, {"status": HOSTILE, HOSTILE: [HOSTILE]}, {}),
    (400, {"message": HOSTILE, "details": HOSTILE}, {}),
    (403, {"reason": HOSTILE}, {}),
    (400, b'{"message":"\x9b31m\xff"}', {}),
    (200, b'{"status":"\x9b31m\xff"}', {}),
    (200, b'\x9b31m\xc2\x9b', {}),
])
def test_controls_of_the_answer_do_not_reach_the_terminal(plane, files, ca, answer):
    plane.answers = [answer]
    words = [tbsys.program("tbpkg"), *map(str, argv(plane, files, ca=ca))]
    r = subprocess.run(words, env={"PATH": os.environ["PATH"]}, capture_output=True, timeout=60, check=False)
    for stream in (r.stdout, r.stderr):
        text = stream.decode()  # valid UTF-8
        assert not [c for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7f <= ord(c) < 0xa0 or c == "\u202e"], text
    if answer[0] == 201:
        assert json.loads(r.stdout)["status"] == HOSTILE


def test_plain_http_only_on_request_and_loopback(files):
    p = ControlPlane()
    try:
        fails(run(*argv(p, files)), "https://", rc=2)
        r = run(*argv(p, files, "--insecure-http"))
        assert r.returncode == 0, r.stderr
        assert len(p.seen) == 1
        p.url = "http://control.example"
        fails(run(*argv(p, files, "--insecure-http")), "https://", rc=2)
    finally:
        p.stop()


@pytest.mark.parametrize("args,words", [
    (["--blob-url", "https://h/c?sv=1&sig=SECRETSIG"], "query"),
    (["--blob-url", "https://u:SECRETSIG@h/c"], "user name"),
    (["--blob-url", "http://h.example/c"], "https://"),
    ([], "--blob-url or --storage-account"),
    (["--storage-account", "A"], "--storage-account"),
    (["--storage-account", "acct1", "--container", "x"], "--container"),
    (["--storage-account", "acct1", "--blob-url", "https://h/c"], "exclude"),
    (["--storage-account", "acct1", "--client-cert", "x"], "--client-key"),
    (["--storage-account", "acct1", "surplus"], "surplus"),
])
def test_usage(plane, files, args, words):
    r = run(*argv(plane, files, *args, place=False))
    fails(r, words, rc=2)
    assert "SECRETSIG" not in r.stderr and plane.seen == []


def test_another_key_than_the_manifest_names(plane, files, ca, tmp_path):
    """The control plane would give its consumers a key that opens nothing, perhaps in place of the right one."""
    (tmp_path / "other.key").write_text("ab" * 32)
    right = json.loads((files / "m.json").read_text())["key_id"]
    fails(run(*argv(plane, files, "--key-file", tmp_path / "other.key", ca=ca)), "other.key: holds key", f"with key {right}")
    assert plane.seen == []


def test_bad_inputs(plane, files, ca, tmp_path):
    doc = json.loads((files / "m.json").read_text())
    doc["asset_id"] = "other"
    (tmp_path / "m.json").write_text(json.dumps(doc))
    fails(run(*argv(plane, files, "--manifest", tmp_path / "m.json", ca=ca)), "'other'", ASSET)
    (tmp_path / "m.json").write_text("{}")
    fails(run(*argv(plane, files, "--manifest", tmp_path / "m.json", ca=ca)), "m.json")
    (tmp_path / "k").write_text(KEY[:-1])
    fails(run(*argv(plane, files, "--key-file", tmp_path / "k", ca=ca)), "k")
    (tmp_path / "t").write_text("two words")
    fails(run(*argv(plane, files, "--token-file", tmp_path / "t", ca=ca)), "bearer token")
    (tmp_path / "t").write_text("a\nX-Evil: 1")
    fails(run(*argv(plane, files, "--token-file", tmp_path / "t", ca=ca)), "bearer token")
    fails(run(*argv(plane, files, key=False, ca=ca)), "TBPKG_KEY_FILE", rc=2)
    assert plane.seen == []
