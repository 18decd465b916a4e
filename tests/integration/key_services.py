# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the key services that cannot run here: Azure Key Vault with the machine's identity endpoint (REST API 7.4, as
published), and the transit engine of OpenBao. Strict: what the real ones refuse is refused."""

import base64
import http.server
import json
import re
import secrets
import ssl
import threading

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class Refusal(Exception):
    def __init__(self, status, body):
        self.status, self.body = status, body


class Service:
    """An HTTP server on loopback; `down` answers 503, `calls` counts what was asked."""

    def __init__(self, tls=None):
        self.down, self.calls, self.lock = False, [], threading.Lock()
        self.gate = threading.Event()  # cleared: a call is taken and never answered, until it is set
        self.gate.set()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, method):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with service.lock:
                    service.calls.append(self.path)
                service.gate.wait()
                try:
                    status, out = (503, {"errors": ["sealed"]}) if service.down else (200, service.handle(method, self.path, self.headers, body))
                except Refusal as e:
                    status, out = e.status, e.body
                data = out.encode() if isinstance(out, str) else json.dumps(out).encode()
                self.send_response_only(status)
                self.send_header("Date", service.date() if hasattr(service, "date") else self.date_time_string())
                self.send_header("Content-Type", "application/xml" if isinstance(out, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.answer("GET")

            def do_POST(self):
                self.answer("POST")

            def do_PUT(self):
                self.answer("PUT")

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64url(text):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise Refusal(400, {"error": {"code": "BadParameter", "message": "value is not base64url"}})
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class KeyVault(Service):
    """Key Vault and IMDS in one. kek: its setting."""

    def __init__(self, name="kek"):
        super().__init__()
        self.name, self.versions, self.tokens, self.denied = name, {}, set(), False
        self.rotate()
        self.kek = f"keyvault:{self.url}/keys/{name}"

    def rotate(self):
        self.current = secrets.token_hex(16)
        self.versions[self.current] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def handle(self, method, path, headers, body):
        if path.startswith("/metadata/"):
            return self.token(path, headers)
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refusal(401, {"error": {"code": "Unauthorized", "message": "[TokenExpired] the token is no longer valid"}})
        if self.denied:
            raise Refusal(403, {"error": {"code": "Forbidden", "message": "Caller is not authorized to perform action on resource"}})
        m = re.fullmatch(rf"/keys/{self.name}(?:/([0-9a-f]{{32}}))?/(wrapkey|unwrapkey)\?api-version=7\.4", path)
        if method != "POST" or not m or headers.get("Content-Type") != "application/json":
            raise Refusal(400, {"error": {"code": "BadParameter", "message": f"no such operation: {path}"}})
        version = m[1] or self.current
        if version not in self.versions:
            raise Refusal(404, {"error": {"code": "KeyNotFound", "message": "A key with this name and version was not found"}})
        rq = json.loads(body)
        if set(rq) != {"alg", "value"} or rq["alg"] != "RSA-OAEP-256":
            raise Refusal(400, {"error": {"code": "BadParameter", "message": "alg"}})
        key, value = self.versions[version], from_b64url(rq["value"])
        try:
            out = key.public_key().encrypt(value, OAEP) if m[2] == "wrapkey" else key.decrypt(value, OAEP)
        except ValueError:
            raise Refusal(400, {"error": {"code": "BadParameter", "message": "The value could not be unwrapped"}}) from None
        return {"kid": f"{self.url}/keys/{self.name}/{version}", "value": b64url(out)}

    def token(self, path, headers):
        if headers.get("Metadata") != "true" or "resource=https%3A%2F%2Fvault.azure.net%2F" not in path:
            raise Refusal(400, {"error": "invalid_request", "error_description": "Required metadata header or resource missing"})
        self.tokens.add(t := secrets.token_urlsafe(32))
        return {"access_token": t, "expires_in": "86399", "resource": "https://vault.azure.net", "token_type": "Bearer"}


class SecretVault(KeyVault):
    """Secrets of Key Vault: Set Secret and Get Secret. secrets: name -> versions in order, each (version, value, attributes). busy: so
    many calls are answered 503."""

    def __init__(self):
        super().__init__()
        self.secrets, self.busy = {}, 0

    def handle(self, method, path, headers, body):
        if path.startswith("/metadata/"):
            return self.token(path, headers)
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refusal(401, {"error": {"code": "Unauthorized", "message": "[TokenExpired] the token is no longer valid"}})
        if self.denied:
            raise Refusal(403, {"error": {"code": "Forbidden", "message": "Caller is not authorized to perform action on resource"}})
        if self.busy:
            self.busy -= 1
            raise Refusal(503, {"error": {"code": "ServiceUnavailable", "message": "try again"}})
        m = re.fullmatch(r"/secrets/([0-9a-zA-Z-]{1,127})(?:/([0-9a-f]{32}))?\?api-version=7\.4", path)
        if not m or (method == "PUT" and (m[2] or headers.get("Content-Type") != "application/json")):
            raise Refusal(400, {"error": {"code": "BadParameter", "message": f"no such operation: {method} {path}"}})
        if method == "PUT":
            rq = json.loads(body)
            if not isinstance(rq.pop("value", None), str) or not set(rq) <= {"contentType", "tags", "attributes"}:
                raise Refusal(400, {"error": {"code": "BadParameter", "message": "the secret set parameters are malformed"}})
            self.secrets.setdefault(m[1], []).append((secrets.token_hex(16), json.loads(body)["value"], rq))
        elif method != "GET" or not any(not m[2] or v[0] == m[2] for v in self.secrets.get(m[1], [])):
            raise Refusal(404, {"error": {"code": "SecretNotFound", "message": "A secret with this name was not found in this key vault"}})
        version, value, more = [v for v in self.secrets[m[1]] if not m[2] or v[0] == m[2]][-1]
        return {"value": value, "id": f"{self.url}/secrets/{m[1]}/{version}", **more}


class Transit(Service):
    """kek: its setting; token: what clients must present."""

    def __init__(self, mount="transit", name="kek"):
        super().__init__()
        self.mount, self.name, self.keys, self.token = mount, name, [AESGCM.generate_key(256)], "s." + secrets.token_urlsafe(18)
        self.oldest = 1
        self.kek = f"transit:{self.url}/{mount}/{name}"

    def rotate(self):
        self.keys.append(AESGCM.generate_key(256))

    def handle(self, method, path, headers, body):
        if headers.get("X-Vault-Token") != self.token:
            raise Refusal(403, {"errors": ["permission denied"]})
        m = re.fullmatch(rf"/v1/{self.mount}/(encrypt|decrypt)/([a-z-]+)", path)
        if method != "POST" or not m:
            raise Refusal(404, {"errors": []})
        if m[2] != self.name:
            raise Refusal(400, {"errors": ["encryption key not found"]})
        rq = json.loads(body)
        if m[1] == "encrypt":
            nonce = secrets.token_bytes(12)
            sealed = nonce + AESGCM(self.keys[-1]).encrypt(nonce, base64.b64decode(rq["plaintext"], validate=True), None)
            return {"data": {"ciphertext": f"vault:v{len(self.keys)}:{base64.b64encode(sealed).decode()}", "key_version": len(self.keys)}}
        c = re.fullmatch(r"vault:v([0-9]+):([A-Za-z0-9+/=]+)", rq["ciphertext"])
        if not c or not self.oldest <= int(c[1]) <= len(self.keys):
            raise Refusal(400, {"errors": ["ciphertext or signature version is disallowed by policy (too old)"]})
        data = base64.b64decode(c[2], validate=True)
        try:
            plain = AESGCM(self.keys[int(c[1]) - 1]).decrypt(data[:12], data[12:], None)
        except InvalidTag:
            raise Refusal(400, {"errors": ["cipher: message authentication failed"]}) from None
        return {"data": {"plaintext": base64.b64encode(plain).decode()}}
