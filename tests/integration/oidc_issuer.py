# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an OpenID provider: discovery, keys, and tokens signed by real keys."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(n, size=None):
    return b64(n.to_bytes(size or (n.bit_length() + 7) // 8, "big"))


class Key:
    def __init__(self, kid, kind="RS256", bits=2048, curve=ec.SECP256R1):
        self.kid, self.kind = kid, kind
        self.private = ec.generate_private_key(curve()) if kind == "ES256" else rsa.generate_private_key(65537, bits)

    @property
    def jwk(self):
        n = self.private.public_key().public_numbers()
        if self.kind == "ES256":
            return {"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256", "x": number(n.x, 32), "y": number(n.y, 32)}
        return {"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256", "n": number(n.n), "e": number(n.e)}

    @property
    def pem(self):
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data):
        if self.kind == "ES256":
            r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())


class Issuer:
    """status: what to answer instead of 200; asked: paths that were fetched; hanging: no answer while it is set."""

    def __init__(self, *keys):
        self.keys, self.status, self.asked, self.extra, self.document = list(keys), None, [], [], {}
        self.hanging = threading.Event()
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(self.path)
                while issuer.hanging.is_set():
                    time.sleep(0.02)
                answer = {"/tenant/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": issuer.url + "/keys", **issuer.document},
                          "/tenant/keys": {"keys": [*issuer.extra, *(k.jwk for k in issuer.keys)]}}.get(self.path)
                body = json.dumps(answer).encode()
                self.send_response(issuer.status or (200 if answer else 404))
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/tenant"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def claims(self, **change):
        now = int(time.time())
        claims = {"iss": self.url, "aud": "trustbridge", "sub": "alice", "iat": now, "nbf": now, "exp": now + 300, "roles": ["tb-admins"], **change}
        return {k: v for k, v in claims.items() if v is not None}

    def token(self, key=None, header=None, raw=None, **claims):
        key = key or self.keys[0]
        head = {k: v for k, v in {"alg": key.kind, "kid": key.kid, "typ": "JWT", **(header or {})}.items() if v is not None}
        signed = f"{b64(json.dumps(head).encode())}.{b64((raw or json.dumps(self.claims(**claims))).encode())}"
        if head.get("alg") == "none":
            return signed + "."
        if head.get("alg") == "HS256":  # the public key as a secret that everybody knows
            return f"{signed}.{b64(hmac.new(key.pem, signed.encode(), hashlib.sha256).digest())}"
        return f"{signed}.{b64(key.sign(signed.encode()))}"
