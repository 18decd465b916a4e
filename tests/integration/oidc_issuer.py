# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an OpenID provider: discovery, keys, and tokens signed by real keys."""

import hashlib
import hmac
import threading
import time

from token_issuer import TokenIssuer, b64


class Issuer(TokenIssuer):
    """status: what to answer instead of 200; hanging: no answer while it is set."""

    def __init__(self, *keys):
        self.status, self.extra, self.document = None, [], {}
        self.hanging = threading.Event()
        super().__init__(*keys, path="/tenant")

    def answer(self, method, path, headers, body):
        while self.hanging.is_set():
            time.sleep(0.02)
        answer = {"/tenant/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": self.url + "/keys", **self.document},
                  "/tenant/keys": {"keys": [*self.extra, *(k.jwk for k in self.keys)]}}.get(path)
        return self.status or (200 if answer else 404), answer

    def claims(self, **change):
        now = int(time.time())
        claims = {"iss": self.url, "aud": "trustbridge", "sub": "alice", "iat": now, "nbf": now, "exp": now + 300, "roles": ["tb-admins"], **change}
        return {k: v for k, v in claims.items() if v is not None}

    def token(self, key=None, header=None, raw=None, **claims):
        key = key or self.keys[0]
        head, said = {"alg": key.kind, "kid": key.kid, "typ": "JWT", **(header or {})}, raw or self.claims(**claims)
        if head.get("alg") == "none":
            return self.unsigned(head, said) + "."
        if head.get("alg") == "HS256":  # the public key as a secret that everybody knows
            text = self.unsigned(head, said)
            return f"{text}.{b64(hmac.new(key.pem, text.encode(), hashlib.sha256).digest())}"
        return self.signed(head, said, key)
