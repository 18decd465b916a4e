# SPDX-License-Identifier: Apache-2.0
"""The administration API of tb-controlplane, as its callers use it."""

import json
import uuid

ADMIN = "/api/v1/admin"
SCOPES = ("owner", "publisher", "support", "auditor", "replace", "billing", "keys")


class Caller:
    """Somebody with a token."""

    def __init__(self, server, token):
        self.server, self.token = server, token

    def raw(self, method, path, body=None, headers=None):
        """Status, text, headers of an answer of whatever type."""
        c = self.server.connection()
        try:
            c.request(method, path if path.startswith("/api/") else ADMIN + path, body=json.dumps(body) if isinstance(body, (dict, list)) else body,
                      headers={"Authorization": f"Bearer {self.token}", **(headers or {})} if self.token else headers or {})
            r = c.getresponse()
            return r.status, r.read().decode(), r.headers
        finally:
            c.close()

    def call(self, method, path, body=None, **headers):
        status, text, head = self.raw(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return status, json.loads(text), head

    def do(self, method, path, body=None, status=200, **headers):
        got, answer, _ = self.call(method, path, body, **headers)
        assert got == status, (method, path, got, answer)
        return answer

    def get(self, path, **kw):
        return self.do("GET", path, **kw)

    def refused(self, status, error, method, path, body=None, **headers):
        got, answer, head = self.call(method, path, body, **headers)
        assert (got, answer.get("error")) == (status, error), (method, path, got, answer)
        assert answer["message"]
        return answer, head


def key():
    return str(uuid.uuid4())


def add_token(server, *scopes, name=None, options=()):
    name = name or f"{'-'.join(scopes)}-{uuid.uuid4().hex[:8]}"
    return Caller(server, server.cli("token", "add", name, *(f"--scope={s}" for s in scopes), *options).strip())
