# SPDX-License-Identifier: Apache-2.0
"""Who signs tokens (JWT) by real keys and gives the keys by HTTP: what stand-ins for OpenID providers and for Azure Attestation have in common."""

import base64
import http.server
import json
import ssl
import threading

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


class TokenIssuer:
    """answer(method, path, headers, body): (status, what becomes JSON). asked: (method, path) of each request; url: of this server, with `path`."""

    def __init__(self, *keys, path="", tls=None):
        self.keys, self.asked = list(keys), []
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = issuer.answer(self.command, self.path, self.headers, body)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:  # certificate and key, files
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{self.server.server_port}{path}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def unsigned(self, head, claims):
        """Members that are None are left out of the head; claims: text, or what becomes JSON."""
        head = json.dumps({k: v for k, v in head.items() if v is not None})
        return f"{b64(head.encode())}.{b64((claims if isinstance(claims, str) else json.dumps(claims)).encode())}"

    def signed(self, head, claims, key):
        text = self.unsigned(head, claims)
        return f"{text}.{b64(key.sign(text.encode()))}"
