# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Azure Resource Manager (Microsoft.Solutions 2021-07-01, as published) with the machine's identity endpoint. Strict:
what the real one refuses is refused. And what Azure sends to a publisher when a managed application is bought."""

import base64
import copy
import json
import re
import secrets
import urllib.parse
import uuid

from key_services import Refusal, Service

SUBSCRIPTION = "0a1b2c3d-0000-4000-8000-00000000000a"
STATES = {"NotSpecified", "Accepted", "Running", "Creating", "Created", "Deleting", "Deleted", "Canceled", "Failed", "Succeeded", "Updating"}


def error(status, code, message="as documented"):
    return Refusal(status, {"error": {"code": code, "message": message}})


class Identity(Service):
    """The machine's identity endpoint (IMDS). token: a function of the service that makes one."""

    def __init__(self, token):
        super().__init__()
        self.make = token

    def handle(self, method, path, headers, body):
        m = re.fullmatch(r"/metadata/identity/oauth2/token\?api-version=2018-02-01&resource=https%3A%2F%2F([a-z.]+)%2F", path)
        if method != "GET" or headers.get("Metadata") != "true" or not m:
            raise Refusal(400, {"error": "invalid_request", "error_description": "Required metadata header or resource missing"})
        return {"access_token": self.make(m[1]), "expires_in": "86399", "resource": f"https://{m[1]}/", "token_type": "Bearer"}


class Manager(Service):
    """applications: by lower-case id, as Resource Manager has them."""

    def __init__(self):
        super().__init__()
        self.applications, self.tokens, self.denied, self.fault = {}, set(), False, None

    def handle(self, method, path, headers, body):
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query, strict_parsing=True)
        if url.path == "/metadata/identity/oauth2/token":
            return self.token(query, headers)
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise error(401, "InvalidAuthenticationToken")
        if (method, url.path) == ("GET", "/subscriptions") and query == {"api-version": ["2022-12-01"]}:
            return {"value": []}
        if query != {"api-version": ["2021-07-01"]}:
            raise error(400, "NoRegisteredProviderFound" if "api-version" in query else "MissingApiVersionParameter")
        if method != "GET":
            raise error(405, "MethodNotAllowed")
        if self.denied:
            raise error(403, "AuthorizationFailed")
        if self.fault:
            raise self.fault
        app = self.applications.get(urllib.parse.unquote(url.path).lower())
        if not app:
            raise error(404, "ResourceNotFound")
        return app

    def machine_token(self, resource, good=True):
        """What Entra ID gives the managed identity of a machine."""
        claims = {"aud": "https://management.azure.com/", "oid": secrets.token_hex(16)} | ({"xms_mirid": resource} if resource else {})
        t = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({"alg": "RS256"}, claims)) + "." + secrets.token_urlsafe(40)
        if good:
            self.tokens.add(t)
        return t

    def token(self, query, headers):
        if headers.get("Metadata") != "true" or query.get("resource") != ["https://management.azure.com/"] or query.get("api-version") != ["2018-02-01"]:
            raise Refusal(400, {"error": "invalid_request", "error_description": "Required metadata header or resource missing"})
        self.tokens.add(t := secrets.token_urlsafe(32))
        return {"access_token": t, "expires_in": "86399", "resource": "https://management.azure.com/", "token_type": "Bearer"}


class Application:
    """One that a customer deploys; each step changes what Resource Manager says and returns the notification of it."""

    def __init__(self, manager, name, plan=("acme", "models", "standard"), definition=None, contract="", group="customer-rg",
                 subscription=SUBSCRIPTION):
        self.manager, self.plan, self.definition, self.contract = manager, plan, definition, contract
        self.id = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Solutions/applications/{name}"
        self.managed = f"/subscriptions/{subscription}/resourceGroups/mrg-{name}"
        self.usage_id, self.second = str(uuid.uuid4()), 0

    def event(self, kind, state, failure=None, second=None):
        self.second = self.second + 1 if second is None else second
        n = {"eventType": kind, "applicationId": self.id, "eventTime": f"2026-01-08T12:{self.second // 60:02}:{self.second % 60:02}.1707163Z",
             "provisioningState": state}
        if self.definition:
            n["applicationDefinitionId"] = self.definition
        else:
            publisher, product, name = self.plan
            n["billingDetails"] = {"resourceUsageId": self.usage_id}
            n["plan"] = {"publisher": publisher, "product": product, "name": name, "version": "1.0.1"}
        if failure:
            n["error"] = {"code": failure, "message": "it went wrong\x1b[31m", "details": [{"code": "Detailed", "message": "so"}]}
            n["applicationId"] = self.id.lstrip("/")  # as the documented sample of a failure has it
        return n

    def be(self, state):
        """What Resource Manager says from now on; None: there is no such application."""
        assert state is None or state in STATES
        if state is None:
            self.manager.applications.pop(self.id.lower(), None)
            return
        properties = {"managedResourceGroupId": self.managed, "provisioningState": state, "publisherTenantId": str(uuid.uuid4()),
                      "parameters": {"contractId": {"type": "String", "value": self.contract}, "enrolmentCode": {"type": "SecureString"},
                                     "instanceCount": {"type": "Int", "value": 1}}}
        app = {"id": self.id, "name": self.id.rsplit("/", 1)[1], "type": "Microsoft.Solutions/applications", "location": "westeurope",
               "kind": "ServiceCatalog" if self.definition else "MarketPlace", "properties": properties}
        if self.definition:
            properties["applicationDefinitionId"] = self.definition
        else:
            properties["billingDetails"] = {"resourceUsageId": self.usage_id}
            app["plan"] = dict(zip(("publisher", "product", "name"), self.plan), version="1.0.1")
        self.manager.applications[self.id.lower()] = copy.deepcopy(app)

    def accepted(self):
        self.be("Accepted")
        return self.event("PUT", "Accepted")

    def succeeded(self):
        self.be("Succeeded")
        return self.event("PUT", "Succeeded")

    def failed(self):
        self.be("Failed")
        return self.event("PUT", "Failed", "DeploymentFailed")

    def deleting(self):
        self.be("Deleting")
        return self.event("DELETE", "Deleting")

    def deleted(self):
        self.be(None)
        return self.event("DELETE", "Deleted")

    def bought_again(self):
        self.usage_id = str(uuid.uuid4())
        return self.accepted()


def contract_of(application_id):
    """As docs/contracts.md has it."""
    import hashlib
    text = re.sub("^/?", "/", application_id.lower())
    return "app-" + hashlib.sha256(text.encode()).hexdigest()[:32]
