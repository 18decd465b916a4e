# SPDX-License-Identifier: Apache-2.0
"""A stand-in for three services of Azure, on one loopback port: the instance metadata service (a managed identity's tokens, where the
machine is), Resource Manager (who owns a resource group), and the marketplace metering API, version 2018-08-31, by the rules of its
public OpenAPI description and documentation: one event for each resource, dimension and hour, 24 hours late at most, at most 25 in
a batch, verdicts on each event, errors as {code, message, target, details}. Nothing here has been compared with the real service.

A fault is the name of what happens to the next metering request, see Standin.FAULTS, or the (status, body) that answers it. Standard library only."""

import datetime
import http.server
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid

AUDIENCE = "20e940b3-4c77-4b0b-9a53-9e16a1b010a7"
APPLICATION = "/subscriptions/sub-1/resourceGroups/rg-app/providers/Microsoft.Solutions/applications/app-1"
GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
DAY = 24 * 3600


def refusal(code, message, target, detail=None):
    return {"code": code, "message": "One or more errors have occurred.", "target": "usageEventRequest",
            "details": [{"code": detail or code, "message": message, "target": target}]}


class Standin:
    # before: nothing is entered. after: everything is, and the client is not told.
    FAULTS = {"429": "before", "500": "before", "503": "before", "401": "before", "403": "before", "cut": "before", "garbled": "after",
              "500-after": "after", "cut-after": "after"}

    def __init__(self, plan="plan-1", dimensions=("requests", "tokens", "bytes", "gb_transferred"), tls=None):
        self.plan, self.dimensions = plan, set(dimensions)
        self.accepted = {}  # (resource, dimension, hour) -> the event
        self.requests, self.problems = [], []
        self.faults = []  # taken from the front; afterwards all is well
        self.active, self.managed_by, self.token_seconds = True, APPLICATION, 3600
        self.tokens = {}  # text -> (audience, when it ends)
        self.lock = threading.RLock()
        standin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                standin._get(self)

            def do_POST(self):
                standin._post(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def quantity(self, dimension):
        with self.lock:
            return sum(e["quantity"] for (_, d, _), e in self.accepted.items() if d == dimension)

    # -- wire --

    @staticmethod
    def _answer(h, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        h.send_response(status)
        h.send_header("Content-Type", "application/json; charset=utf-8")
        h.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(data)

    def _get(self, h):
        url = urllib.parse.urlsplit(h.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with self.lock:
            if url.path.startswith("/metadata/"):
                self._answer(h, *self._imds(h, url.path, query))
            elif m := re.fullmatch(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)", url.path):
                self._answer(h, *self._group(h, m[1], m[2], query))
            else:
                self._answer(h, 404, {"code": "NotFound"})

    def _imds(self, h, path, query):
        if h.headers.get("Metadata") != "true" or "X-Forwarded-For" in h.headers:
            return 400, {"error": "Bad request: Metadata header is missing"}
        if path == "/metadata/instance/compute" and query.get("api-version"):
            return 200, {"subscriptionId": "sub-1", "resourceGroupName": "rg-managed", "azEnvironment": "AzurePublicCloud"}
        if path == "/metadata/identity/oauth2/token" and query.get("api-version") == "2018-02-01" and query.get("resource"):
            text = f"token.{uuid.uuid4().hex}"
            self.tokens[text] = (query["resource"], time.time() + self.token_seconds)
            return 200, {"access_token": text, "expires_in": str(self.token_seconds), "resource": query["resource"], "token_type": "Bearer"}
        return 404, {"error": "not found"}

    def _allowed(self, h, audience):
        kind, _, text = h.headers.get("Authorization", "").partition(" ")
        known = self.tokens.get(text)
        return kind == "Bearer" and known is not None and known[0] == audience and time.time() < known[1]

    def _group(self, h, subscription, group, query):
        if not self._allowed(h, self.url + "/"):
            return 401, {"error": {"code": "AuthenticationFailed"}}
        if (subscription, group) != ("sub-1", "rg-managed"):
            return 403, {"error": {"code": "AuthorizationFailed"}}
        body = {"id": f"/subscriptions/{subscription}/resourceGroups/{group}", "location": "westeurope"}
        return 200, body | ({"managedBy": self.managed_by} if self.managed_by else {})

    def _post(self, h):
        body = h.rfile.read(int(h.headers.get("Content-Length", 0)))
        url = urllib.parse.urlsplit(h.path)
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
            self.requests.append((url.path, h.headers.get("x-ms-requestid"), body))
            if fault == "cut":
                h.close_connection = True
                return
            if isinstance(fault, tuple):  # (status, body)
                self._answer(h, *fault)
                return
            if self.FAULTS.get(fault) == "before":
                headers = [("Retry-After", "1")] if fault == "429" else []
                self._answer(h, int(fault), {"code": "Fault", "message": "on purpose"}, headers)
                return
            status, answer = self._metering(h, url, body)
            if fault == "cut-after":
                h.close_connection = True
            elif fault == "500-after":
                self._answer(h, 500, {"code": "Fault"})
            elif fault == "garbled":
                self._answer(h, status, json.dumps(answer).encode()[:20])
            else:
                self._answer(h, status, answer)

    # -- the metering API --

    def _metering(self, h, url, body):
        if dict(urllib.parse.parse_qsl(url.query)).get("api-version") != "2018-08-31":
            return 400, refusal("BadArgument", "The api-version is required.", "api-version")
        for name in ("x-ms-requestid", "x-ms-correlationid"):
            if not GUID.fullmatch(h.headers.get(name, "")):
                self.problems.append(f"{name}: {h.headers.get(name)}")
        if not self._allowed(h, AUDIENCE):
            return 401, {"code": "Unauthorized", "message": "The token is not valid."}
        try:
            document = json.loads(body)
        except ValueError:
            return 400, refusal("BadArgument", "The body is not JSON.", "body")
        if url.path == "/api/usageEvent":
            return self._single(document)
        if url.path != "/api/batchUsageEvent":
            return 404, {"code": "NotFound"}
        events = document.get("request")
        if not isinstance(events, list) or not 1 <= len(events) <= 25:
            return 400, refusal("BadArgument", "1 to 25 events.", "request")
        results = [self._event(e) for e in events]
        return 200, {"count": len(results), "result": results}

    def _single(self, event):
        r = self._event(event)
        if r["status"] == "Accepted":
            return 200, r
        if r["status"] == "Duplicate":
            return 409, r["error"]
        if r["status"] in ("ResourceNotFound", "ResourceNotAuthorized", "ResourceNotActive"):
            return 403, {"code": "Forbidden", "message": r["status"]}
        return 400, refusal("BadArgument", r["status"], "usageEvent", r["status"])

    def _status(self, event, resource, start):
        if ("resourceUri" in event) == ("resourceId" in event) or event.get("planId") != self.plan or start is None:
            return "BadArgument"
        if not isinstance(event.get("quantity"), (int, float)) or event["quantity"] <= 0:
            return "InvalidQuantity"
        if resource != APPLICATION and not GUID.fullmatch(resource):
            return "ResourceNotFound"
        if not self.active:
            return "ResourceNotActive"
        if event.get("dimension") not in self.dimensions:
            return "InvalidDimension"
        if start < time.time() - DAY:
            return "Expired"
        if start > time.time():
            return "BadArgument"
        return "Duplicate" if (resource, event["dimension"], int(start // 3600)) in self.accepted else "Accepted"

    def _event(self, event):
        resource = event.get("resourceUri") or event.get("resourceId") or ""
        try:
            start = datetime.datetime.fromisoformat(event["effectiveStartTime"].replace("Z", "+00:00")).timestamp()
        except (KeyError, ValueError):
            start = None
        out = dict(event, status=self._status(event, resource, start), messageTime="0001-01-01T00:00:00")
        key = (resource, event.get("dimension"), int((start or 0) // 3600))
        if out["status"] == "Accepted":
            out |= {"usageEventId": str(uuid.uuid4()), "messageTime": datetime.datetime.now(datetime.timezone.utc).isoformat()}
            self.accepted[key] = out
        elif out["status"] == "Duplicate":
            out["error"] = {"code": "Conflict", "message": "This usage event already exist.",
                            "additionalInfo": {"acceptedMessage": dict(self.accepted[key], status="Duplicate")}}
        elif out["status"] != "Expired":
            out["error"] = {"code": "BadArgument", "message": out["status"]}
        return out
